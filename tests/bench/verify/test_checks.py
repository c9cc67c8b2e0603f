"""Protects the installation: every check of `noisebench verify` holds, here the quick ones."""

from __future__ import annotations

import importlib

import pytest

from bench.verify import Row, run


def failing(module: str) -> list[Row]:
    """The checks of a module that do not hold."""
    return [row for row in run(importlib.import_module(f"bench.verify.{module}").checks()) if not row.ok]


@pytest.mark.parametrize("module", ["units", "variational", "flow", "divergence", "latents"])
def test_every_check_holds(module: str) -> None:
    assert failing(module) == []
