"""Protects DINOv2 and CLIP features: of made weights of the true classes, whatever the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.metrics.features import feature_network

IMAGES = torch.randint(0, 256, (3, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small networks of the true classes with random weights, saved."""
    transformers = pytest.importorskip("transformers")
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dino = transformers.Dinov2Config(**small, image_size=224, patch_size=56)
        clip = transformers.CLIPVisionConfig(
            **small, intermediate_size=32, projection_dim=16, image_size=32, patch_size=16
        )
        made = {
            "dinov2-vits14": transformers.Dinov2Model(dino),
            "clip-vit-b32": transformers.CLIPVisionModelWithProjection(clip),
        }
    path = tmp_path_factory.mktemp("networks")
    for name, network in made.items():
        network.save_pretrained(path / name)
    return {name: path / name for name in made}


@pytest.mark.parametrize(("name", "dims"), [("dinov2-vits14", 32), ("clip-vit-b32", 16)])
def test_features_of_made_weights(folders: dict[str, Path], name: str, dims: int) -> None:
    network = feature_network(name, folders[name])
    found = network.extract(IMAGES)
    assert found.shape == (3, dims)
    assert network.dims == dims
    assert torch.equal(network.extract(IMAGES[1:2])[0], found[1])
    # Not FD-DINOv2: nobody knows these weights.
    assert network.metric.startswith(f"FD-{name.partition('-')[0]}-")
    assert network.identity == feature_network(name, folders[name]).identity
    with pytest.raises(ValueError, match="takes uint8"):
        network.extract(IMAGES.float())


def test_pixels_reach_the_network_normalised(folders: dict[str, Path]) -> None:
    """A grey of ImageNet's mean is near zero for DINOv2: what its first layer sees is the bias alone."""
    network: Any = feature_network("dinov2-vits14", folders["dinov2-vits14"])
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 30, 30)
    seen: list[torch.Tensor] = []
    handle = network.network.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(named["pixel_values"]), with_kwargs=True
    )
    network.extract(mean)
    handle.remove()
    assert seen[0].shape[1:] == (3, 224, 224)
    assert float(seen[0][0].abs().max()) < 0.02


def test_what_is_not_there_gets_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="fetch facebook/dinov2-small with --weights download"):
        feature_network("dinov2-vits14")
    with pytest.raises(ValueError, match="cannot be opened from"):
        feature_network("dinov2-vits14", tmp_path)


def test_a_folder_that_is_called_like_the_download_is_no_download(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else weights from anywhere would be called FD-DINOv2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facebook").mkdir()
    (tmp_path / "facebook" / "dinov2-small").symlink_to(folders["dinov2-vits14"])
    with pytest.raises(ValueError, match="would be taken for the download"):
        feature_network("dinov2-vits14", "download")
    named = feature_network("dinov2-vits14", "facebook/dinov2-small")
    assert named.metric.startswith("FD-dinov2-")
