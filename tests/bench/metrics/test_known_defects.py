"""Defects found in released metric packages, one by one: what happens there, and that it does not here.

torch-fidelity 0.4.0, clean-fid 0.1.35, pytorch-fid 0.3.0, torchmetrics 1.9.0, dgm-eval 74c79f7.
"""

from __future__ import annotations

import http.server
import io
import socketserver
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench.evaluate import evaluate
from bench.images import open_images
from bench.images.arrays import ArrayImages
from bench.images.decode import Unreadable, decode
from bench.images.function import FunctionImages, quantised
from bench.metrics.by_class import by_class
from bench.metrics.features import feature_network
from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_debiased import frechet_infinity
from bench.metrics.inception_score import inception_score
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.manifolds import precision_recall
from bench.metrics.mmd import kid
from bench.metrics.moments import Moments
from bench.metrics.own_features import OwnFeatures
from bench.metrics.provenance_of_features import FeatureProvenance
from bench.metrics.resize import policy
from bench.metrics.statistics_file import Statistics
from bench.metrics.weights_store import Published, find
from tests.bench.metrics import made_inception
from tests.conftest import ROOT, environment


class Scaled(nn.Module):
    """Means of channels times a weight, and as many classes as channels."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)) * self.scale


def _images(n: int = 12, low: int = 0, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (n, 3, 24, 24), dtype=np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def _statistics(**changes: str) -> Statistics:
    made = FeatureProvenance("net", "last", "0123", "none", "round", "float32")
    return Statistics.of(
        IndexedMoments.of(iter([np.random.default_rng(0).normal(size=(50, 3))])), replace(made, **changes)
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_inception.safetensors(tmp_path_factory.mktemp("weights") / "made.safetensors")


def test_1_values_with_other_weights_do_not_come_from_a_cache() -> None:
    """torch-fidelity's cache knows neither weights nor resize: a second network gets the first's value."""
    a, b = ArrayImages(_images()), ArrayImages(_images(low=60, high=200, seed=1))
    first, second = (evaluate(a, b, OwnFeatures(Scaled(s), "net"), ["fid"]).records[0] for s in (1.0, 10.0))
    assert first.value is not None
    assert second.value == pytest.approx(100 * first.value, rel=1e-4)
    assert first.protocol != second.protocol or first.weights_sha256 != second.weights_sha256


def test_2_a_dtype_that_is_asked_for_is_the_one_that_computes(weights: Path) -> None:
    """torch-fidelity takes float64 and computes in float32."""
    with pytest.raises(ValueError, match="float64"):
        feature_network("inception-v3-tf", weights, dtype="float64")
    half: Any = feature_network("inception-v3-tf", weights, dtype="bfloat16")
    seen: list[torch.dtype] = []
    half.network.Mixed_7c.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    half.extract(torch.from_numpy(_images(1)))
    assert seen == [torch.bfloat16]


def test_3_a_class_conditional_generator_is_measured_class_by_class() -> None:
    """torch-fidelity's crashes: it draws classes with np.int, which numpy no longer has."""
    labels = np.repeat([0, 1], 20)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(40, 3)) + 5.0 * labels[:, None] for _ in range(2))
    right = by_class(kid, x, labels, y, labels).value
    assert by_class(kid, x, 1 - labels, y, labels).value > right + 100


def test_4_one_file_of_weights_goes_to_one_network(weights: Path) -> None:
    """torch-fidelity hands Inception's file to the VGG of precision and recall, which cannot load it."""
    network = feature_network("inception-v3-tf", weights)
    found = evaluate(ArrayImages(_images(10)), ArrayImages(_images(10, seed=1)), network, ["fid", "prdc"])
    assert {"precision", "recall"} <= {record.metric for record in found.records}
    assert {record.weights_sha256 for record in found.records} == {found.records[0].weights_sha256}


def test_5_dinov2_opens_from_a_folder(tmp_path: Path) -> None:
    """torch-fidelity raises a bare NotImplementedError."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=56
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    assert feature_network("dinov2-vits14", tmp_path).extract(torch.from_numpy(_images(2))).shape == (2, 16)


def test_6_precision_is_of_generated_images_and_recall_of_real_ones() -> None:
    """torch-fidelity before 0.4.0 had them swapped. A model of one mode is precise and recalls little."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2))
    one_mode = 0.1 * rng.normal(size=(400, 2))
    found = precision_recall(one_mode, real)
    assert found.precision.value > 0.95
    assert found.recall.value < 0.2


def test_7_a_file_of_the_right_name_and_wrong_hash_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """clean-fid loads whatever lies under its file name in the temporary folder."""
    monkeypatch.setenv("NOISEBENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "net.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match="remove it and put the published file there"):
        find("net", Published("net.pth", "http://127.0.0.1:9/net.pth", "0" * 64, 14))


class _Cut(http.server.BaseHTTPRequestHandler):
    """Promises a million bytes and sends five thousand."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"\0" * 5000)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def cut() -> Iterator[str]:
    with socketserver.TCPServer(("127.0.0.1", 0), _Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/net.pth"
        server.shutdown()


def test_8_a_truncated_download_leaves_nothing(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """clean-fid keeps it, and fails at every later load until it is deleted by hand."""
    monkeypatch.setenv("NOISEBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"broke off after 5000 of 1000000 bytes|cannot be fetched"):
        find("net", Published("net.pth", cut, "0" * 64, 10**6), "download")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["extractor", "layer", "weights_sha256", "resize", "dtype", "quantiser"])
def test_9_statistics_of_another_network_are_refused_by_the_field_that_differs(field: str) -> None:
    """clean-fid mixes any two of equal width."""
    with pytest.raises(ValueError, match=field):
        _statistics().distance(_statistics(**{field: "another"}))


def test_10_names_of_statistics_keep_their_case(tmp_path: Path) -> None:
    """clean-fid writes mydata for MyData, and then does not find it."""
    _statistics().save(tmp_path / "MyData.safetensors")
    assert Statistics.load(tmp_path / "MyData.safetensors").count == _statistics().count
    assert [path.name for path in tmp_path.iterdir()] == ["MyData.safetensors"]


def test_11_every_metric_takes_a_network_of_ones_own_and_a_seed_and_knows_its_modes() -> None:
    """clean-fid: KID and statistics without; the seed is global; an unknown mode is an UnboundLocalError."""
    a, b = ArrayImages(_images()), ArrayImages(_images(low=60, high=200, seed=1))
    torch.manual_seed(5)
    runs = [evaluate(a, b, Scaled(), ["fid", "kid", "sw"], seed=3).records for _ in range(2)]
    assert [r.value for r in runs[0]] == [r.value for r in runs[1]]
    assert len(runs[0]) == 3
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    with pytest.raises(ValueError, match="Did you mean 'tf-bilinear'"):
        policy("tf-bilinar")
    with pytest.raises(ValueError, match="Did you mean 'kid'"):
        evaluate(a, b, Scaled(), ["kdi"])


def test_12_images_of_a_zip_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    """clean-fid lists a set, whose order is another in every process; a folder *.zip breaks it."""
    (tmp_path / "folder.zip").mkdir()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for index in (3, 1, 2, 0):
            data = _png(np.full((8, 8, 3), index, np.uint8))
            archive.writestr(f"{index}.png", data)
            (tmp_path / "folder.zip" / f"{index}.png").write_bytes(data)
    script = (
        "from bench.images import open_images; import sys\n"
        "print([int(b.pixels[0, 0, 0, 0]) for b in open_images(sys.argv[1], n=3).batches(1)])"
    )
    for name, seed in (("images.zip", "1"), ("images.zip", "2"), ("folder.zip", "1")):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / name)],
            cwd=ROOT,
            env={**environment(), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "[0, 1, 2]"


def test_13_floats_are_rounded_and_those_out_of_range_refused() -> None:
    """torchmetrics cuts off and wraps: 0.999 to 254, 1.01 to 1, −0.01 to 254."""
    assert quantised(np.array([0.999, 0.5 / 255, 1.0]), "x").tolist() == [255, 0, 255]
    for value in (1.01, -0.01):
        with pytest.raises(ValueError, match="floats lie in"):
            quantised(np.array([value]), "x")


def test_14_the_resize_of_the_graph_of_2015_is_the_default_of_its_name(weights: Path) -> None:
    """torchmetrics antialiases since 1.8 under the old name, and differs where it enlarges too."""
    pixels = torch.from_numpy(_images(1)).float()
    network = feature_network("inception-v3-tf", weights)
    assert network.resize == "tf-bilinear"
    found = policy(network.resize)(pixels, 299)
    # Corner to corner without half-pixel centres: the first source row is met at 0, every 299/24 rows.
    assert torch.allclose(found[..., 0, 0], pixels[..., 0, 0])
    other = nn.functional.interpolate(pixels, (299, 299), mode="bilinear", antialias=True)
    assert float((found - other).abs().max()) > 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_15_features_that_are_no_numbers_are_an_error(value: float) -> None:
    """torchmetrics returns nan, others an internal error of LAPACK."""
    rows = np.random.default_rng(0).normal(size=(20, 3))
    rows[4, 1] = value
    with pytest.raises(ValueError, match=r"finite|NaN"):
        Moments.of(rows)
    with pytest.raises(ValueError, match=r"finite|NaN"):
        kid(rows, np.zeros((20, 3)))


def test_16_no_distance_needs_the_matrix_root_that_scipy_took_away() -> None:
    """pytorch-fid, clean-fid and dgm-eval call sqrtm(disp=…), gone with SciPy 1.18."""
    script = (
        "import sys; sys.modules['scipy'] = None\n"
        "import numpy as np\n"
        "from bench.metrics.frechet_error import frechet_with_error\n"
        "x = np.random.default_rng(0).normal(size=(50, 3))\n"
        "print(round(frechet_with_error(x, x + 1.0).value, 6))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "3.0"


def test_17_a_score_is_of_the_set_that_it_is_printed_for() -> None:
    """dgm-eval scores the folder before: the first one's score is that of the real images."""
    rng = np.random.default_rng(0)
    sure, unsure = 20 * np.eye(3)[rng.integers(0, 3, 60)], np.zeros((60, 3))
    assert inception_score(logits=sure).value == pytest.approx(3.0, rel=0.02)
    assert inception_score(logits=unsure).value == pytest.approx(1.0)
    a, b = ArrayImages(np.zeros((20, 1, 8, 8), np.uint8)), ArrayImages(_digits())
    network = feature_network("digits-features")
    of_one, of_other = (evaluate(x, y, network, ["is"]).records[0].value for x, y in ((a, b), (b, a)))
    assert of_one == pytest.approx(1.0)
    assert of_other is not None
    assert of_other > 2.0


def _digits() -> np.ndarray:
    from bench import data

    return np.asarray(data.load("digits").test[:100])


def test_18_extrapolation_has_a_seed_and_nothing_needs_a_gpu_or_a_test_set() -> None:
    """dgm-eval draws its subsets unseeded, calls .cuda(), and its default metrics ask for a test path."""
    rows = np.random.default_rng(0).normal(size=(400, 4))
    reference = Moments.of(np.random.default_rng(1).normal(size=(400, 4)))
    assert frechet_infinity(rows, reference, seed=1) == frechet_infinity(rows, reference, seed=1)
    assert frechet_infinity(rows, reference, seed=1) != frechet_infinity(rows, reference, seed=2)
    assert frechet_distance(Moments.of(rows), reference).value > 0
    found = evaluate(
        ArrayImages(_images()), ArrayImages(_images(seed=1)), Scaled(), ["fid", "kid", "prdc", "sw"]
    )
    assert all(record.value is not None for record in found.records)


def test_19_sixteen_bits_are_refused_and_not_saturated(tmp_path: Path) -> None:
    """Every reader that calls convert("RGB") makes a full ramp of 16 bits nearly white."""
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    with pytest.raises(Unreadable, match="has 16 or more bits a channel"):
        decode(_png(ramp))
    (tmp_path / "ramp.png").write_bytes(_png(ramp))
    with pytest.raises(ValueError, match=r"ramp\.png"):
        list(open_images(tmp_path).batches(1))


def test_an_image_depends_on_its_index_and_not_on_how_many_were_asked_for() -> None:
    """A generator in torch-fidelity is seeded by position in one stream: n and batch change every image."""

    def sample(seeds: Sequence[int]) -> np.ndarray:
        return np.stack([np.random.default_rng(s).integers(0, 256, (3, 8, 8), dtype=np.uint8) for s in seeds])

    few, many = (list(FunctionImages(sample, n).images()) for n in (5, 130))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
