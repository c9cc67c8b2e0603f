"""Protects how models are found: built in, offered by packages, or by import path."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import registry
from bench.errors import UsageError


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_what_planning_knows_of_a_built_in_model_is_what_its_class_says(name: str) -> None:
    builtin = registry.BUILTIN[name]
    found = registry.model_class(builtin.path)
    assert (found.family, found.native_sampler) == (builtin.family, builtin.native_sampler)


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_every_built_in_model_counts_its_network(name: str) -> None:
    model = registry.build(registry.import_path(name), {}, (1, 8, 8), 17)
    assert model.network in set(model.modules())


def test_unknown_names_options_and_classes_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ddpm'"):
        registry.import_path("ddmp")
    with pytest.raises(UsageError, match="Unknown model class"):
        registry.model_class("models.vae:VEA")
    with pytest.raises(UsageError, match=r"Unknown option of models\.vae:VAE"):
        registry.build("models.vae:VAE", {"no_such": 1}, (1, 8, 8), 17)


def test_a_module_that_is_not_there_is_told_so() -> None:
    with pytest.raises(UsageError, match="no module 'no_such_module_here'"):
        registry.import_path("no_such_module_here:Model")


def test_a_class_that_is_no_image_model_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown model class in pathlib"):
        registry.model_class("pathlib:Path")


def test_a_module_that_fails_to_import_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="cannot be imported: No module named 'no_such_dependency'"):
        registry.model_class("half_written:Model")
