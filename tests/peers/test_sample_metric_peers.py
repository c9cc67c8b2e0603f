"""KID, precision, recall and the Inception score beside public packages, on the same features.

Where a package is right ours is equal; where it is known to be wrong, the test shows what is wrong with it
and that ours is not.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from bench import data
from bench.metrics.data_copying import data_copying
from bench.metrics.features import feature_network
from bench.metrics.inception_score import inception_score, split_inception_score
from bench.metrics.manifolds import density_coverage, precision_recall
from bench.metrics.memorisation import authenticity
from bench.metrics.mmd import cmmd, kid
from bench.metrics.neighbours import nearest


@functools.cache
def features() -> tuple[np.ndarray, np.ndarray]:
    """Real digits as float64 features: 360 test images in place of generated ones, 500 training images."""
    digits, network = data.load("digits"), feature_network("digits-features")
    test, train = (network.extract(torch.from_numpy(x)).double().numpy() for x in (digits.test, digits.train))
    return test[:360] + 0.05, train[:500]


def theirs_kid(x: np.ndarray, y: np.ndarray, subsets: int, size: int, **options: object) -> dict[str, float]:
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    return metric.kid_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=2020,
        verbose=False,
        **options,
    )


def test_kid_is_that_of_torch_fidelity_with_one_subset_of_all_images() -> None:
    x, y = features()
    y = y[: len(x)]
    theirs = theirs_kid(x, y, 1, len(x))["kernel_inception_distance_mean"]
    assert kid(x, y).value == pytest.approx(theirs, rel=1e-9)


def test_kid_is_what_many_subsets_of_torch_fidelity_estimate() -> None:
    x, y = features()
    theirs = theirs_kid(x, y, 400, 100)
    error = theirs["kernel_inception_distance_std"] / np.sqrt(400)
    assert abs(kid(x, y).value - theirs["kernel_inception_distance_mean"]) < 4 * error


def test_sets_smaller_than_a_subset_have_a_kid_too() -> None:
    x, y = features()
    with pytest.raises(ValueError, match="subset size 1000 cannot be smaller"):
        theirs_kid(x, y, 1, 1000)
    assert kid(x[:50], y[:40]).standard_error > 0


def test_a_spread_of_subsets_is_not_the_error_of_a_mean_and_ours_is() -> None:
    """Twenty-five times the images: our error falls as √n; the printed deviation is that of its subsets."""
    rng = np.random.default_rng(0)

    def both(n: int) -> tuple[float, float]:
        x, y = rng.normal(size=(n, 16)) + 0.3, rng.normal(size=(n, 16))
        return kid(x, y).standard_error, theirs_kid(x, y, 60, 90)["kernel_inception_distance_std"]

    (ours_few, _), (ours_many, theirs_many) = both(100), both(2500)
    assert ours_few / ours_many == pytest.approx(5, rel=0.25)
    assert theirs_many > 2 * ours_many
    assert theirs_many > 0.5 * ours_few


def test_the_gaussian_kernel_is_that_of_torch_fidelity_on_directions() -> None:
    x, y = features()
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y[: len(x)]))
    options = {"kid_kernel": "rbf", "kid_kernel_rbf_sigma": 10.0}
    theirs = theirs_kid(x, y, 1, len(x), **options)["kernel_inception_distance_mean"]
    assert cmmd(x, y).value == pytest.approx(1000 * theirs, rel=1e-8)


@pytest.mark.parametrize("saving", [False, True])
@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_are_those_of_torch_fidelity(k: int, saving: bool) -> None:
    """Generated first, as its 0.4.0 has it; builds before that had the two exchanged."""
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    x, y = features()
    x = x * 0.97
    theirs = metric.prc_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        prc_neighborhood=k,
        prc_batch_size=128,
        save_cpu_ram=saving,
        verbose=False,
    )
    found = precision_recall(x, y, k)
    # Its mean over float32 ones and zeros.
    assert found.precision.value == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.recall.value == pytest.approx(theirs["recall"], abs=1e-6)
    assert found.precision.value != pytest.approx(found.recall.value, abs=1e-3)


@pytest.mark.parametrize("splits", [1, 10])
def test_the_inception_score_is_that_of_torch_fidelity_in_the_same_order(splits: int) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    digits, network = data.load("digits"), feature_network("digits-features")
    logits = network.classify(torch.from_numpy(digits.test))
    theirs = metric.isc_features_to_metric(logits, splits=splits, shuffle=False)
    if splits == 1:
        assert inception_score(logits=logits).value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    else:
        found = split_inception_score(splits, logits=logits)
        assert found.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
        assert found.spread == pytest.approx(theirs["inception_score_std"], rel=1e-7)


def test_torchmetrics_agrees_on_kid() -> None:
    module = pytest.importorskip("torchmetrics.image.kid")
    x, y = features()
    y = y[: len(x)]
    theirs = float(module.poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert kid(x, y).value == pytest.approx(theirs, rel=1e-6)


def test_density_and_coverage_are_those_of_whole_distance_matrices() -> None:
    """The definitions once more, by scipy's distances instead of ours."""
    x, y = features()
    radii = np.sort(cdist(y, y), axis=1)[:, 5]
    inside = cdist(x, y) <= radii
    found = density_coverage(x, y, 5)
    assert found.density.value == pytest.approx(inside.sum() / (5 * len(x)))
    assert found.coverage.value == pytest.approx(inside.any(0).mean())


def test_authenticity_and_copying_are_those_of_whole_distance_matrices() -> None:
    x, y = features()
    training, held_out = y[:300], y[300:]
    spacing, reach = cdist(training, training), cdist(x, training)
    np.fill_diagonal(spacing, np.inf)
    true = (reach.min(1) > spacing.min(1)[reach.argmin(1)]).mean()
    assert authenticity(x, training, held_out).value == pytest.approx(true)
    n, h = len(x), len(held_out)
    ranks = rankdata(np.concatenate([reach.min(1), cdist(held_out, training).min(1)]))
    u = ranks[:n].sum() - n * (n + 1) / 2
    z = (u - n * h / 2) / np.sqrt(n * h * (n + h + 1) / 12)
    assert data_copying(x, training, held_out, cells=1).value == pytest.approx(z, rel=1e-6)


def test_float32_products_lose_exact_copies_and_ours_do_not() -> None:
    x = (np.random.default_rng(0).normal(size=(200, 1024)) + 5).astype(np.float32)
    tensor = torch.from_numpy(x)
    rough = torch.cdist(tensor, tensor, compute_mode="use_mm_for_euclid_dist").diagonal()
    assert float(rough.max()) > 1e-3
    assert float(nearest(x, x).distances.max()) == 0.0
