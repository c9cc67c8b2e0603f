"""Protects the suite file: every key and name is checked, and a mistake gets one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.run import make_planner
from bench.runtime import Runtime
from bench.suite import load_suite, select
from bench.suite_text import builtin_names


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_suite_is_valid(name: str) -> None:
    assert load_suite(name).name == name


def _load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_suite(str(path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("extends: digits\nsampler: {}", r"Did you mean 'sampling'"),
        ("extends: digits\nsampling: {image: 360}", r"Did you mean 'sampling.images'"),
        ("extends: digits\nmodels: {vae: {trainig: {}}}", r"Did you mean 'models.vae.training'"),
        (
            "extends: digits\nmodels: {vae: {training: {step: 3}}}",
            r"Did you mean 'models.vae.training.steps'",
        ),
        ("extends: digits\nsampling: {batch: 60}", r"must divide the shard of 256"),
        ("extends: digits\nsampling: {images: 500}", r"multiple of quality.group"),
        ("extends: digits\ntraining: {learning_rate: -1}", r"learning_rate"),
        ("extends: digit", r"Did you mean 'digits'"),
        ("extends: [", r"not valid YAML"),
        ("- a", r"must be a mapping"),
        ("name: x", r"dataset: Field required"),
    ],
)
def test_a_mistake_gets_one_sentence_with_the_remedy(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as error:
        _load(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_suite_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {path}\n")
    with pytest.raises(UsageError, match="extends itself"):
        load_suite(str(path))


def test_a_missing_file_and_a_wrong_name_are_told_apart() -> None:
    with pytest.raises(UsageError, match="no suite file"):
        load_suite("nowhere.yaml")
    with pytest.raises(UsageError, match="Did you mean 'digits'"):
        load_suite("digit")


def test_extending_changes_only_what_is_stated(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\nname: mine\nmodels: {ddpm: {training: {steps: 7}}}\n")
    mine, digits = load_suite(str(path)), load_suite("digits")
    assert mine.models["ddpm"].training.steps == 7
    assert mine.models["vae"] == digits.models["vae"]
    assert mine.digest != digits.digest


def test_a_models_training_starts_from_the_suites(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ndataset: digits\ntraining: {steps: 5, batch_size: 3}\n"
        "quality: {features: f, group: 20}\nsampling: {images: 20}\n"
        "models: {a: vae, b: {model: vae, training: {steps: 6}}}\n"
    )
    suite = load_suite(str(path))
    assert (suite.models["a"].training.steps, suite.models["b"].training.steps) == (5, 6)
    assert suite.models["b"].training.batch_size == 3


def test_the_digest_ignores_prose_and_sees_every_setting() -> None:
    digits = load_suite("digits")
    assert load_suite("digits", {"description": "other words"}).digest == digits.digest
    assert load_suite("digits", {"seed": 1}).digest != digits.digest


def test_selection_keeps_what_is_named_and_refuses_what_is_not_there() -> None:
    digits = load_suite("digits")
    cut = select(digits, ["vae", "ddpm"], ["heun"], ["quality"])
    assert list(cut.models) == ["vae", "ddpm"]
    assert [choice.name for choice in cut.sampling.samplers] == ["heun"]
    assert cut.metrics == ["quality"]
    for arguments in (["ddmp"], [], []), ([], ["huen"], []), ([], [], ["qualty"]):
        with pytest.raises(UsageError, match="Did you mean"):
            select(digits, *arguments)


def test_a_model_of_ones_own_joins_by_import_path() -> None:
    cut = select(load_suite("digits"), ["my_model:Mine", "vae"], [], [])
    assert cut.models["my_model:Mine"].model == "my_model:Mine"


def test_a_network_whose_weights_are_elsewhere_is_not_for_a_suite(tmp_path: Path) -> None:
    """A cell's key holds the hash of the network's weights, which is not known before they are."""
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\nquality: {features: inception-v3-tf}")
    with pytest.raises(UsageError, match="Measure images with it by `noisebench evaluate`"):
        make_planner(load_suite(str(path)), Runtime("cpu", 1))
