"""Diversity within prompts where it is known, and that its error is the spread over prompts."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.diversity import mean_distance, prompt_diversity, vendi_score


def test_copies_are_one_image_and_orthogonal_rows_as_many_as_there_are() -> None:
    one = np.tile(np.random.default_rng(0).normal(size=5), (6, 1))
    assert mean_distance(one) == 0.0
    assert vendi_score(one) == pytest.approx(1.0)
    assert vendi_score(np.eye(6)) == pytest.approx(6.0)
    assert mean_distance(np.eye(6)) == pytest.approx(np.sqrt(2))
    assert vendi_score(np.repeat(np.eye(3), [4, 4, 4], axis=0)) == pytest.approx(3.0)


def test_the_score_is_the_same_from_either_matrix() -> None:
    """More rows than dimensions: the smaller matrix has the same eigenvalues."""
    x = np.random.default_rng(0).normal(size=(20, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(unit @ unit.T / 20)
    shares = shares[shares > 1e-14]
    assert vendi_score(x) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-10)
    assert vendi_score(7 * x) == pytest.approx(vendi_score(x), rel=1e-12)


def test_mean_distance_is_that_of_all_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(9, 3))
    pairs = [np.linalg.norm(x[i] - x[j]) for i in range(9) for j in range(i)]
    assert mean_distance(x) == pytest.approx(np.mean(pairs))


def test_prompts_are_what_varies() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(["a cat", "a dog", "two cups"], 4)
    x = rng.normal(size=(12, 5)) * np.repeat([0.0, 1.0, 2.0], 4)[:, None] + 10
    found = prompt_diversity(x, prompts)
    each = [mean_distance(x[prompts == name]) for name in found.prompts]
    assert found.distance.value == pytest.approx(np.mean(each))
    assert found.distance.standard_error == pytest.approx(np.std(each, ddof=1) / np.sqrt(3))
    np.testing.assert_allclose(found.per_prompt[:, 0], each)
    assert found.per_prompt[0].tolist() == pytest.approx([0.0, 1.0])
    assert (found.images, found.prompts) == (4, ("a cat", "a dog", "two cups"))


def test_order_does_not_matter_and_variety_between_prompts_does_not_count() -> None:
    rng = np.random.default_rng(0)
    prompts, x = np.repeat(np.arange(5), 3), rng.normal(size=(15, 4))
    order = rng.permutation(15)
    first, second = prompt_diversity(x, prompts), prompt_diversity(x[order], prompts[order])
    assert first.vendi.value == pytest.approx(second.vendi.value)
    apart = prompt_diversity(x + 100 * prompts[:, None], prompts)
    assert apart.distance.value == pytest.approx(first.distance.value, rel=1e-9)


def test_the_interval_covers_over_prompts() -> None:
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(40), 3)

    def draw(p: np.ndarray) -> np.ndarray:
        scales = rng.gamma(4, size=p.max() + 1)
        return rng.normal(size=(len(p), 4)) * scales[p][:, None] + 1

    true = prompt_diversity(draw(np.repeat(np.arange(8000), 3)), np.repeat(np.arange(8000), 3)).distance.value
    found = [prompt_diversity(draw(prompts), prompts).distance for _ in range(150)]
    assert 0.89 <= np.mean([each.low <= true <= each.high for each in found]) <= 0.99


def test_bad_input_gets_a_sentence() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(ValueError, match="6 rows need one prompt each"):
        prompt_diversity(x, [0, 1])
    with pytest.raises(ValueError, match="only one prompt"):
        prompt_diversity(x, [0] * 6)
    with pytest.raises(ValueError, match="from 2 to 4 images: generate equally many"):
        prompt_diversity(x, [0, 0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="has no direction"):
        prompt_diversity(0 * x, [0, 0, 0, 1, 1, 1])
