"""Protects `evaluate`: every measure on images of known relation, and one sentence for what cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import data
from bench.cli import USAGE, main
from bench.evaluate import evaluate, names
from bench.evaluate.evaluation import real_images, save_features
from bench.images.arrays import ArrayImages
from bench.metrics.features import feature_network
from bench.records import Record
from tests.conftest import ROOT

DIGITS = data.load("digits")


def _by_metric(records: list[Record]) -> dict[str, Record]:
    return {record.metric: record for record in records}


def test_real_test_images_are_close_and_noise_is_far() -> None:
    """Distances, precision and recall tell real digits from noise, and every number has its interval."""
    noise = np.random.default_rng(0).integers(0, 17, (300, 1, 8, 8), dtype=np.uint8)
    wanted = ["fid", "fid-debiased", "kid", "prdc", "is", "sw"]
    near = _by_metric(evaluate(DIGITS.test, DIGITS.train, "digits-features", wanted).records)
    far = _by_metric(evaluate(noise, DIGITS.train, "digits-features", wanted).records)
    assert set(near) == set(far)
    for metric in ("FD-digits", "FD-digits debiased", "KD-digits", "sliced Wasserstein²"):
        assert near[metric].high < far[metric].low, metric  # type: ignore[operator]
    for metric in ("precision", "recall", "coverage"):
        assert near[metric].low > far[metric].high, metric  # type: ignore[operator]
    for record in near.values():
        assert record.low is not None
        assert record.low <= record.value <= record.high  # type: ignore[operator]
        assert "digits-features" in record.protocol
        assert record.n in (360, 300, 1437)


def test_copies_of_the_training_images_are_told_from_new_ones() -> None:
    """Copies of training images are not authentic; held-out ones are the measure of what is."""
    copies = DIGITS.train[:200]
    found = _by_metric(
        evaluate(copies, DIGITS.train, "digits-features", ["memorisation"], held_out=DIGITS.test).records
    )
    assert found["authenticity"].value == 0.0
    assert found["authenticity of held-out images"].low > 0.2  # type: ignore[operator]
    assert found["C_T"].value < -3.0  # type: ignore[operator]


def test_the_same_images_from_disk_and_memory_give_the_same_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", DIGITS.test)
    first, second = (
        [
            (r.metric, r.value, r.low)
            for r in evaluate(images, DIGITS.train, "digits-features", ["fid", "kid"]).records
        ]
        for images in (DIGITS.test, real_images(str(tmp_path / "a.npz")))
    )
    assert first == second


def test_saved_statistics_stand_for_the_real_images(tmp_path: Path) -> None:
    """The distance is that of the images; what needs them is refused, and so is another network's."""
    from bench.evaluate.evaluation import statistics
    from bench.metrics.features import feature_network

    network = feature_network("digits-features")
    found = evaluate(DIGITS.train, DIGITS.train, network, ["fid"]).generated
    statistics(found, network).save(tmp_path / "digits.safetensors")
    saved = real_images(str(tmp_path / "digits.safetensors"))
    by_file, by_images = (
        evaluate(DIGITS.test, against, network, ["fid"]).records[0] for against in (saved, DIGITS.train)
    )
    assert by_file.value == pytest.approx(by_images.value, rel=1e-9)
    assert "reference fixed" in by_file.protocol
    assert "statistics of 1437 images" in by_file.protocol
    with pytest.raises(ValueError, match="kid needs the real images themselves"):
        evaluate(DIGITS.test, saved, network, ["kid"])
    with pytest.raises(ValueError, match="feature network"):
        evaluate(DIGITS.test, saved, "pooled-pixels", ["fid"])


def test_what_is_missing_is_said_before_anything_is_extracted() -> None:
    silent = ArrayImages(DIGITS.test, "never read")
    silent.images = None  # type: ignore[assignment, method-assign]
    for metrics, features, words in (
        (["fd"], "digits-features", "Did you mean 'fid'"),
        (["memorisation"], "digits-features", "name them with --held-out"),
        (["is"], "pooled-pixels", "pooled-pixels does not: take --features"),
        (["cmmd"], "digits-features", "digits-features is none: take --features clip"),
        (["fid"], "digit-features", "Did you mean 'digits-features'"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(silent, silent, features, metrics)


def test_the_readme_names_every_measure() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in names())


def test_real_images_are_named_by_data_set_and_split() -> None:
    assert len(real_images("digits")) == 1437
    assert len(real_images("digits:test")) == 360
    raw, scaled = (next(iter(real_images("digits", levels=n).batches(9))).pixels for n in (17, 256))  # type: ignore[union-attr]
    assert scaled.max() == 255
    assert np.array_equal(scaled, np.rint(raw * 255.0 / 16))
    with pytest.raises(ValueError, match="splits train and test, and no 'tset'"):
        real_images("digits:tset")


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["noisebench", "evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", DIGITS.test)
    common = [str(tmp_path / "a.npz"), "--against", "digits", "--features", "digits-features"]
    assert _run(monkeypatch, *common, "--metrics", "fid,kid", "--output", str(tmp_path / "out.csv")) == 0
    text = capsys.readouterr().out
    assert "FD-digits" in text
    assert "95 % interval" in text
    assert (tmp_path / "out.csv").read_text().count("\n") == 3
    assert _run(monkeypatch, *common, "--metrics", "kid", "--n", "100", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["metric"], row["n"]) for row in found["records"]] == [("KD-digits", 100)]
    assert found["damaged"] == {}


def test_nearest_pairs_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of copies beside what they copy; without held-out images it is refused."""
    from PIL import Image

    np.savez(tmp_path / "a.npz", DIGITS.train[:300])
    common = [str(tmp_path / "a.npz"), "--against", "digits", "--features", "digits-features"]
    picture = tmp_path / "pairs.png"
    how = ["--metrics", "memorisation", "--pairs", str(picture)]
    assert _run(monkeypatch, *common, *how, "--held-out", "digits:test") == 0
    image = np.asarray(Image.open(picture))
    assert image.std() > 0
    assert _run(monkeypatch, *common, "--metrics", "kid", "--pairs", str(picture)) == USAGE
    assert "held-out split" in capsys.readouterr().err


def test_damaged_images_are_listed_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for index, image in enumerate(DIGITS.test[:60]):
        Image.fromarray(image[0]).save(tmp_path / f"{index:03d}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    common = [str(tmp_path), "--against", "digits", "--features", "digits-features", "--metrics", "kid"]
    assert _run(monkeypatch, *common) == USAGE
    said = capsys.readouterr().err
    assert "1 of 61 images cannot be used: bad.png is no image" in said
    assert "Traceback" not in said
    assert _run(monkeypatch, *common, "--skip-damaged") == 0
    assert "1 generated images were left out:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--against", "digits"], "There are no images at nowhere"),
        (["digits", "--against", "digits"], "There are no images at digits"),
        (["nowhere", "--against", "digits", "--output", "x.txt"], "ends in .csv or .json"),
        (["nowhere", "--against", "digits", "--n", "0"], "greater than or equal to 1"),
    ],
)
def test_bad_usage_is_one_sentence(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, *arguments, "--features", "digits-features") == USAGE
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_the_features_of_every_image_are_written_as_parquet(tmp_path: Path) -> None:
    """A row an image, in order, with the label and the network they are of."""
    import pyarrow.parquet as pq

    found = evaluate(real_images("digits:test", levels=17), DIGITS.train, "digits-features", ["fid"])
    path = tmp_path / "features.parquet"
    save_features(found.generated, feature_network("digits-features"), path)
    table = pq.read_table(path)
    assert table.column("image").to_pylist() == list(range(360))
    assert table.column("label").to_pylist() == [str(label) for label in DIGITS.test_labels]
    rows = np.asarray(table.column("features").to_pylist(), np.float32)
    assert np.array_equal(rows, found.generated.rows)
    assert table.schema.metadata[b"network"].decode() == feature_network("digits-features").identity
