"""Atheris on suite files: python -m tests.fuzz.guided_suites -runs=100000 CORPUS."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bench", "yaml", "models.grids", "models.samplers.catalogue"]):
    from tests.fuzz.suites import verdict


def main() -> None:
    """Raises on the first input that is neither a plan nor one sentence; atheris keeps it."""
    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup(sys.argv, lambda data: verdict(data, Path(folder)) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
