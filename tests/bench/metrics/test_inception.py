"""Protects Inception features: torch-fidelity's numbers, honest names, batches that do not matter."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.metrics import inception, weights_store
from bench.metrics.feature_names import NAMES
from bench.metrics.features import FeatureNetwork, feature_network
from bench.metrics.inception import InceptionFeatures
from tests.bench.metrics import made_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_inception.safetensors(tmp_path_factory.mktemp("weights") / "made.safetensors")


@pytest.fixture(scope="module")
def network(weights: Path) -> FeatureNetwork:
    return feature_network("inception-v3-tf", weights)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def _theirs(weights: Path, layers: list[str]) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = made_inception.state_dict(weights.with_suffix(".pth"))
    return FeatureExtractorInceptionV3("theirs", layers, feature_extractor_weights_path=str(path))


def test_features_and_logits_are_those_of_torch_fidelity(
    network: FeatureNetwork, weights: Path, images: torch.Tensor
) -> None:
    """All four layers and the logits, on images that are enlarged as the graph of 2015 does it."""
    layers = ["64", "192", "768", "2048", "logits_unbiased"]
    theirs = dict(zip(layers, _theirs(weights, layers)(images), strict=True))
    for layer in layers[:3]:
        mine = feature_network(f"inception-v3-tf-{layer}", weights)
        assert mine.dims == int(layer)
        assert torch.allclose(mine.extract(images), theirs[layer], rtol=1e-5, atol=1e-5)
    assert torch.allclose(network.extract(images), theirs["2048"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(network.classify(images), theirs["logits_unbiased"], rtol=1e-4, atol=1e-4)


def test_a_feature_does_not_depend_on_its_batch(network: FeatureNetwork, images: torch.Tensor) -> None:
    whole = network.extract(images)
    assert torch.equal(network.extract(images[3:4])[0], whole[3])
    assert torch.equal(network.extract(images.flip(0)).flip(0), whole)
    assert network.extract(images[:0]).shape == (0, 2048)


def test_grey_images_are_repeated(network: FeatureNetwork, images: torch.Tensor) -> None:
    grey = images[:1, :1]
    assert torch.equal(network.extract(grey), network.extract(grey.expand(-1, 3, -1, -1)))


def test_the_resize_is_part_of_the_network(
    weights: Path, images: torch.Tensor, network: FeatureNetwork
) -> None:
    clean = feature_network("inception-v3-clean", weights)
    third = feature_network("inception-v3-pytorch", weights)
    policies = [found.resize for found in (clean, network, third)]
    assert policies == ["clean-bicubic", "tf-bilinear", "pytorch-bilinear"]
    rows = [found.extract(images) for found in (clean, network, third)]
    for a, b in itertools.combinations(rows, 2):
        assert not torch.allclose(a, b, rtol=1e-3)


def test_nothing_with_other_weights_is_called_fid(network: FeatureNetwork, weights: Path) -> None:
    """Only the published file, by its hash, gives FID; the identity has the hash of any."""
    assert network.metric.startswith("FD-inception-")
    assert network.identity == f"inception-v3-tf {weights_store.file_sha256(weights)[:12]}"
    assert inception.published().file.endswith(f"-{inception.SHA256[:8]}.pth")
    assert inception.published().is_it(inception.SHA256)
    assert not inception.published().is_it(inception.SHA256[:8] + "0" * 56)
    assert NAMES["inception-v3-tf"].metric == "FID"


def test_other_weights_are_another_identity_and_other_features(
    weights: Path, tmp_path: Path, images: torch.Tensor, network: FeatureNetwork
) -> None:
    """Nothing is cached by name: a second file is read, and tells itself apart."""
    made = made_inception.tensors().items()
    changed = {name: 1.1 * value if value.is_floating_point() else value for name, value in made}
    torch.save(changed, tmp_path / "other.pth")
    other = feature_network("inception-v3-tf", tmp_path / "other.pth")
    assert other.identity != network.identity
    assert other.metric != network.metric
    assert not torch.allclose(other.extract(images[:1]), network.extract(images[:1]))


def test_other_arithmetic_is_another_identity(
    weights: Path, images: torch.Tensor, network: FeatureNetwork
) -> None:
    """bfloat16 changes features in their third digit and says so."""
    half = feature_network("inception-v3-tf", weights, dtype="bfloat16")
    assert half.identity == f"{network.identity} bfloat16"
    assert (half.dtype, network.dtype) == ("bfloat16", "float32")
    found, exact = half.extract(images), network.extract(images)
    assert found.dtype == torch.float32
    assert 1e-5 < float((found - exact).norm() / exact.norm()) < 0.05
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        feature_network("inception-v3-tf", weights, dtype="bfloat61")
    with pytest.raises(ValueError, match="computes in float32, eagerly"):
        feature_network("digits-features", dtype="bfloat16")


@pytest.mark.campaign
def test_a_compiled_network_gives_the_same_features(
    weights: Path, images: torch.Tensor, network: FeatureNetwork
) -> None:
    compiled = feature_network("inception-v3-tf", weights, compiled=True)
    assert compiled.identity == f"{network.identity} compiled"
    assert torch.allclose(compiled.extract(images), network.extract(images), rtol=1e-3, atol=1e-4)


def test_without_weights_a_sentence_says_file_hash_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISEBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs the file weights-inception-2015-12-05-6726825d.pth") as told:
        feature_network("inception-v3-tf")
    assert str(tmp_path) in str(told.value)
    assert f"95.6 MB, SHA-256 {inception.SHA256}" in str(told.value)
    assert "--weights download" in str(told.value)
    (tmp_path / inception.published().file).write_bytes(b"another file")
    with pytest.raises(ValueError, match="instead of 6726825d0af5…: remove it"):
        feature_network("inception-v3-tf")


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched"),)


def test_files_that_hold_anything_but_tensors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"a": Evil()}, tmp_path / "evil2.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 7)
    for name, words in (
        ("evil.pth", "holds no plain tensors"),
        ("evil2.pth", "holds no plain tensors"),
        ("list.pth", "is no state dict"),
        ("wrong.pth", "holds no weights of this Inception-v3"),
        ("bad.safetensors", "is no safetensors file"),
        ("nothing.pth", "There is no file"),
    ):
        with pytest.raises(ValueError, match=words):
            InceptionFeatures(NAMES["inception-v3-tf"], tmp_path / name)
    assert not (tmp_path / "touched").exists()


def test_pixels_that_are_none_are_refused(network: FeatureNetwork) -> None:
    for pixels in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="takes uint8"):
            network.extract(pixels)
    digits = torch.full((16, 1, 8, 8), 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"the brightest of 16 images is 16.*scaled first"):
        network.extract(digits)
