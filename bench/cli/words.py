"""What verbs share in their help and at the shell: examples under the options, names that complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def examples(*lines: str) -> str:
    """The end of a verb's help: commands that can be run as they stand."""
    return "\b\nExamples:\n" + "\n".join(f"  noisebench {line}" for line in lines)


def completed(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completion of one name, or of the last one of several that commas separate."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in names() if name.startswith(last)]

    return complete


def suites() -> Iterable[str]:
    """Built-in suites."""
    from bench.suite_text import builtin_names

    return builtin_names()


def models() -> Iterable[str]:
    """Models that come with the package or were registered."""
    from bench import registry

    return sorted(registry.BUILTIN)


def samplers() -> Iterable[str]:
    """All samplers."""
    from models.samplers import catalogue

    return catalogue.names()


def features() -> Iterable[str]:
    """All feature networks."""
    from bench.metrics.feature_names import NAMES

    return NAMES


def measures() -> Iterable[str]:
    """What `evaluate` measures."""
    from bench.evaluate.measures import names

    return names()


def runs() -> Iterable[str]:
    """Runs in the results folder that is meant without --results."""
    from pathlib import Path

    from bench.present import run_folders

    return [folder.name for folder in run_folders(Path("results"))]
