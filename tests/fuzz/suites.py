"""What is asked of any suite file: one clear error, or a valid plan; never a traceback, never a hang."""

from __future__ import annotations

import os
from pathlib import Path

from bench.cells import Planner
from bench.errors import UsageError
from bench.run import Run, cell_states, make_planner
from bench.runtime import Runtime
from bench.suite import load_suite, select
from bench.workbench import check_models

RUNTIME = Runtime("cpu", 1)


def plan(path: Path) -> Planner:
    """All that happens before a run computes anything."""
    suite = select(load_suite(str(path)), [], [], [])
    planner = make_planner(suite, RUNTIME)
    list(cell_states(Run(suite, str(path), path.parent / "results"), planner))
    check_models(planner)
    return planner


def verdict(data: bytes, folder: Path) -> str:
    """`plan`, or the sentence that refuses these bytes; anything else is raised."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(data)
    os.environ |= {"NOISEBENCH_DATA": str(folder), "NOISEBENCH_CACHE": str(folder)}  # nothing is downloaded
    try:
        plan(path)
    except UsageError as error:
        sentence = str(error)
        assert sentence.strip(), data
        assert len(sentence) < 2000, (len(sentence), data)
        assert "\n" not in sentence, sentence
        assert "Traceback" not in sentence, sentence
        return sentence
    return "plan"
