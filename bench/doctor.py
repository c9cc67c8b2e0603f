"""Examines the installation and the store: damaged cells, left-over files, cells that no run shows."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from bench import files, provenance
from bench.present import run_folders
from bench.runtime import resolve
from bench.store import DONE, Store


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and whether it was put right."""

    what: str
    fixed: bool


@dataclass(frozen=True)
class Examination:
    """What was looked at and what was found."""

    environment: dict[str, str]
    cells: int
    unfinished: int
    bytes: int
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Nothing found, or everything found was put right."""
        return all(finding.fixed for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "healthy": self.healthy}


def examine(results: Path, *, fix: bool = False, prune: bool = False) -> Examination:
    """Check every file of every finished cell against its hash; `fix` removes what is bad."""
    store = Store(results / "store")
    keys = list(store)
    findings = [*_leftovers(results, fix), *_damage(store, keys, fix)]
    if prune:
        findings += _prune(store, keys, results)
    remaining = list(store)
    sealed = sum(1 for key in remaining if (store.folder(key) / DONE).is_file())
    runtime = resolve()
    environment = {**provenance.versions(), "device": str(provenance.hardware(runtime)["device"])}
    size = sum(store.size(key) for key in remaining)
    return Examination(environment, sealed, len(remaining) - sealed, size, findings)


def _leftovers(results: Path, fix: bool) -> list[Finding]:
    """Temporary files whose process was killed."""
    findings = []
    for path in files.stale_temporaries(results) if results.is_dir() else []:
        if fix:
            path.unlink(missing_ok=True)
        findings.append(Finding(f"unfinished file {path}, left by a process that is gone", fix))
    return findings


def _damage(store: Store, keys: list[str], fix: bool) -> list[Finding]:
    """Sealed cells whose files differ from what was sealed."""
    findings = []
    for key in keys:
        bad = store.damage(key)
        if bad:
            if fix:
                store.discard_damage(key)
            remedy = "it will be made again" if fix else "the next run will make it again"
            findings.append(Finding(f"cell {key[:12]}: {', '.join(bad)} missing or altered; {remedy}", fix))
    return findings


def _prune(store: Store, keys: list[str], results: Path) -> list[Finding]:
    """Cells that no run's results name, unless another process is at work on them."""
    shown: set[str] = set()
    for folder in run_folders(results):
        rows = json.loads((folder / "results.json").read_text())
        shown |= {row["cell_key"] for row in rows}
    findings = []
    for key in keys:
        if key not in shown:
            try:
                with store.lock(key).acquire(timeout=0):
                    store.remove(key)
            except filelock.Timeout:
                continue
            findings.append(Finding(f"cell {key[:12]} removed: no run shows it", True))
    return findings
