"""Protects that bounds bound: every check of them holds over all images of a small space."""

from __future__ import annotations

from tests.bench.verify.test_checks import failing


def test_every_check_of_bounds_holds() -> None:
    assert failing("bounds") == []
