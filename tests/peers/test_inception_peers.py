"""Our Inception, distances and folders against torch-fidelity's, pytorch-fid's and clean-fid's.

All with the same made weights; each package from its own reading of the files to its own number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.evaluate import evaluate
from bench.images import open_images
from bench.metrics.features import FeatureNetwork, feature_network
from tests.bench.metrics import made_inception

N = 6


def _folders(path: Path, size: int) -> dict[str, Path]:
    """Two sets of PNGs of different brightness."""
    rng = np.random.default_rng(0)
    for name, low, high in (("a", 0, 256), ("b", 60, 200)):
        (path / name).mkdir()
        for index in range(N):
            image = rng.integers(low, high, (size, size, 3), dtype=np.uint8)
            Image.fromarray(image).save(path / name / f"{index}.png")
    return {name: path / name for name in ("a", "b")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_inception.safetensors(tmp_path_factory.mktemp("weights") / "made.safetensors")


def _ours(folders: dict[str, Path], network: FeatureNetwork) -> float:
    found = evaluate(open_images(folders["a"]), open_images(folders["b"]), network, ["fid"]).records[0]
    assert found.value is not None
    return found.value


def test_pytorch_fid_scales_pixels_differently_and_is_equal_otherwise(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 2x/255 − 1 where the graph of 2015, torch-fidelity and we take (x − 128)/128.

    At 299×299 its resize, which is not the graph's either, has nothing to do: what is left is the scale.
    """
    inception = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: made_inception.tensors())
    theirs = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 299, 299), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        rows = theirs(pixels.float() / 255.0)[0].flatten(1)
    like, graph = (feature_network(f"inception-v3-{name}", weights) for name in ("pytorch", "tf"))
    assert torch.allclose(like.extract(pixels), rows, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(graph.extract(pixels), rows, rtol=1e-3, atol=1e-3)


def test_fid_of_folders_equals_that_of_pytorch_fid(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inception = pytest.importorskip("pytorch_fid.inception")
    score = pytest.importorskip("pytorch_fid.fid_score")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: made_inception.tensors())
    folders = _folders(tmp_path, 40)
    paths = [str(folders["a"]), str(folders["b"])]
    theirs = score.calculate_fid_given_paths(paths, 3, torch.device("cpu"), 2048, num_workers=0)
    assert _ours(folders, feature_network("inception-v3-pytorch", weights)) == pytest.approx(theirs, rel=1e-6)


def test_fid_and_kid_of_folders_equal_those_of_torch_fidelity(weights: Path, tmp_path: Path) -> None:
    """KID with one subset of all images, which is the only one without a draw."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    folders, network = _folders(tmp_path, 24), feature_network("inception-v3-tf", weights)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders["a"]),
        input2=str(folders["b"]),
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=N,
        cuda=False,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(made_inception.state_dict(weights.with_suffix(".pth"))),
    )
    both = evaluate(open_images(folders["a"]), open_images(folders["b"]), network, ["fid", "kid"]).records
    fid, kid = (record.value for record in both)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


def test_fid_of_folders_equals_that_of_clean_fid(tmp_path: Path, weights: Path) -> None:
    """Its files, its resize, its distance; the network between them is ours."""
    fid = pytest.importorskip("cleanfid.fid")
    folders, network = _folders(tmp_path, 40), feature_network("inception-v3-clean", weights)
    body: Any = network

    def features(resized: torch.Tensor) -> Any:
        with torch.inference_mode():
            return body._up_to("2048", (resized.float() - 128.0) / 128.0)

    rows = {
        name: fid.get_folder_features(
            str(folder),
            features,
            num_workers=0,
            batch_size=3,
            device=torch.device("cpu"),
            mode="clean",
            verbose=False,
        )
        for name, folder in folders.items()
    }
    for name, folder in folders.items():
        pixels = torch.from_numpy(np.concatenate([b.pixels for b in open_images(folder).batches(N)]))
        assert np.allclose(network.extract(pixels).numpy(), rows[name], rtol=1e-5, atol=1e-5)
    theirs = fid.fid_from_feats(rows["a"], rows["b"])
    assert _ours(folders, network) == pytest.approx(theirs, rel=1e-6)
