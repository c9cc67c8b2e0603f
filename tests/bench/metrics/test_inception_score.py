"""The Inception score where it is known, its bias and error by simulation, and whose images are scored."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.inception_score import inception_score, split_inception_score


def logits(n: int, rng: np.random.Generator) -> np.ndarray:
    return 2 * rng.normal(size=(n, 10)) + np.linspace(0, 2, 10)


def test_images_that_say_nothing_score_one() -> None:
    found = inception_score(probabilities=np.full((50, 7), 1 / 7))
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_sure_and_even_classes_score_their_number() -> None:
    found = inception_score(probabilities=np.tile(np.eye(10), (5, 1)))
    assert found.value == pytest.approx(10.0, rel=1e-12)
    assert inception_score(probabilities=np.tile(np.eye(10)[:4], (5, 1))).value == pytest.approx(4.0)
    # Extreme logits give exact zeros and ones, not NaN.
    assert inception_score(logits=1e4 * np.tile(np.eye(10), (5, 1))).value == pytest.approx(10.0)


def test_one_sure_class_alone_scores_one() -> None:
    found = inception_score(probabilities=np.tile(np.eye(10)[:1], (5, 1)))
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_logits_and_their_softmax_score_alike_and_a_constant_does_not_matter() -> None:
    given = logits(80, np.random.default_rng(0))
    p = np.exp(given) / np.exp(given).sum(1, keepdims=True)
    value = inception_score(logits=given).value
    assert inception_score(probabilities=p).value == pytest.approx(value, rel=1e-12)
    assert inception_score(logits=given + 1000).value == pytest.approx(value, rel=1e-9)


def test_each_set_gets_its_own_score() -> None:
    """Several sets in a row: nothing is kept from the one before, and real images are not scored instead."""
    sets = {
        "real": np.tile(np.eye(6), (4, 1)),
        "a": np.tile(np.eye(6)[:2], (12, 1)),
        "b": np.full((24, 6), 1 / 6),
    }
    scores = {name: inception_score(probabilities=p).value for name, p in sets.items()}
    assert scores == pytest.approx({"real": 6.0, "a": 2.0, "b": 1.0})


def truth() -> float:
    return inception_score(logits=logits(400_000, np.random.default_rng(9))).value


def test_the_bias_is_what_is_stated_and_ten_times_that_in_ten_splits() -> None:
    rng, true = np.random.default_rng(0), truth()
    found = [
        (inception_score(logits=x), split_inception_score(10, logits=x))
        for x in (logits(200, rng) for _ in range(150))
    ]
    whole, split = (np.mean([pair[i].value for pair in found]) for i in (0, 1))
    stated = np.mean([pair[0].log_bias for pair in found])
    debiased = np.mean([pair[0].debiased for pair in found])
    noise = np.std([pair[0].value for pair in found]) / np.sqrt(len(found))
    assert stated < 0
    assert abs(debiased - true) < 3 * noise < 0.05 * true
    assert (np.log(split) - np.log(true)) / stated == pytest.approx(10, rel=0.25)
    assert abs(split - true) > 5 * abs(whole - true)


def covered(draws: int, n: int) -> tuple[float, float]:
    rng, true = np.random.default_rng(1), truth()
    found = [inception_score(logits=logits(n, rng)) for _ in range(draws)]
    expected = true * np.exp(np.mean([each.log_bias for each in found]))  # that of the score at this n
    inside = np.mean([each.low <= expected <= each.high for each in found])
    errors = np.mean([each.standard_error for each in found])
    return float(inside), float(errors / np.std([each.value for each in found]))


def test_the_interval_covers_the_score_at_this_n() -> None:
    inside, ratio = covered(200, 400)
    assert 0.90 <= inside <= 0.99
    assert 0.85 < ratio < 1.15


@pytest.mark.campaign
def test_the_interval_covers_in_full() -> None:
    inside, ratio = covered(4000, 1000)
    print(f"{inside:.4f} covered, error over spread {ratio:.3f}")
    assert 0.935 <= inside <= 0.965


def test_bad_input_gets_a_sentence() -> None:
    p = np.full((20, 4), 0.25)
    for both in ({}, {"logits": p, "probabilities": p}):
        with pytest.raises(ValueError, match="one of the two"):
            inception_score(**both)
    with pytest.raises(ValueError, match="pass logits="):
        inception_score(probabilities=logits(20, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="first in row 2"):
        inception_score(logits=np.where(np.arange(20)[:, None] == 2, np.nan, p))
    for splits in (1, 11):
        with pytest.raises(ValueError, match="20 images cannot be split"):
            split_inception_score(splits, probabilities=p)
