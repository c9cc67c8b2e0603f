"""Synthetic records, curves and sheets: invented numbers of the form that a run produces, for tests only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.records import Record, to_frame
from bench.report import ReportData
from bench.report.sheets import contact_sheet
from bench.report.tables import cell_label

FEATURES = "[digits-cnn 64-d, digits train n=1437, groups of 360, t interval over 4 groups]"
QUALITY = f"FD-digits@360 {FEATURES}"
SPEED = "images/s [cpu, 2 threads, batch 64, warm-up 1, median of 10]"
NATIVE = {
    "transformer": ("autoregressive", "ancestral", 64, 3.1, 210.0, 1.934, "exact"),
    "vae": ("latent variable", "prior", 1, 9.6, 61000.0, 2.31, "bound"),
    "realnvp": ("normalizing flow", "inverse", 1, 14.2, 9400.0, 2.18, "exact"),
}
PATHS = {"ddpm": ("diffusion", 2.12, "bound"), "rectified-flow": ("flow matching", 2.05, "estimate")}
FLOORS = {"ddpm": 2.3, "rectified-flow": 1.86}
SAMPLERS = {"ddpm": (260.0, 0.9), "ddim": (60.0, 1.0), "euler": (42.0, 1.05), "heun": (95.0, 1.75)}
STEPS = (5, 10, 20, 50)


def _quality(cell: dict[str, Any], value: float, spread: float = 0.07) -> list[Record]:
    rows = [Record(metric="FD-digits@360", value=value, low=value * (1 - spread), high=value * (1 + spread))]
    rows.append(Record(metric="FD-digits debiased", value=value - 1.4))
    protocols = (QUALITY, f"FD-digits debiased {FEATURES}; no interval: linear extrapolation in 1/n")
    return [
        row.replace(**cell, protocol=text, n=1440, seconds=2.5)
        for row, text in zip(rows, protocols, strict=True)
    ]


def _speed(cell: dict[str, Any], value: float) -> list[Record]:
    fast = Record(metric="throughput", unit="images/s", value=value, low=value * 0.96, high=value * 1.03)
    memory = Record(metric="peak memory", unit="MB", value=412.0)
    return [row.replace(**cell, protocol=SPEED, n=640, seconds=4.0) for row in (fast, memory)]


def _model_rows(model: str, family: str, bits: float, kind: str, params: int) -> list[Record]:
    base = {"model": model, "family": family, "params": params, "status": "ok"}
    protocol = f"bits/dim [{kind}, digits test n=360, normal interval over images; {model}]"
    likelihood = Record(metric="bits/dim", unit="bits/dim", value=bits, low=bits - 0.021, high=bits + 0.021)
    training = Record(
        metric="training time", unit="s", value=71.5, protocol="wall clock, one run: no interval"
    )
    return [
        likelihood.replace(**base, kind=kind, protocol=protocol, n=360, seconds=8.0),
        training.replace(**base),
    ]


def _reference_rows() -> list[Record]:
    floor = Record(model="real test images", family="reference", metric="FD-digits@360", value=1.71, n=360)
    uniform = Record(model="uniform", family="anchor", metric="bits/dim", value=math.log2(17), kind="exact")
    histogram = Record(model="per-pixel histogram", family="anchor", metric="bits/dim", value=2.4312)
    return [
        floor.replace(low=1.52, high=1.93, protocol=QUALITY),
        uniform.replace(unit="bits/dim", protocol="log2(17), no interval: closed form"),
        histogram.replace(unit="bits/dim", kind="exact", low=2.401, high=2.461, protocol="add-one smoothing"),
    ]


def synthetic_records() -> list[Record]:
    """Five models, three with a native sampler, two with four samplers at four numbers of steps."""
    rows = _reference_rows()
    for model, (family, sampler, nfe, quality, speed, bits, kind) in NATIVE.items():
        cell = {"model": model, "family": family, "sampler": sampler, "nfe": nfe, "params": 240_000}
        rows += (
            _quality(cell, quality) + _speed(cell, speed) + _model_rows(model, family, bits, kind, 240_000)
        )
    for model, (family, bits, kind) in PATHS.items():
        rows += _model_rows(model, family, bits, kind, 244_129)
        for sampler, (scale, power) in SAMPLERS.items():
            for steps in STEPS:
                nfe = 2 * steps - 1 if sampler == "heun" else steps
                cell = {"model": model, "family": family, "sampler": sampler, "steps": steps, "nfe": nfe}
                cell |= {"grid": "shared", "params": 244_129, "guidance": 1.0}
                quality = FLOORS[model] + scale * (1.3 if model == "ddpm" else 0.8) / steps ** (power + 0.7)
                rows += _quality(cell, quality) + _speed(cell, 11000.0 / nfe)
    return [_common(row, index) for index, row in enumerate(rows)]


SWEEP = (
    ("ddpm", "", "shared", 1, 210.0), ("ddim", "", "shared", 1, 70.0), ("ddim", "eta=1", "shared", 1, 150.0),
    ("euler", "", "shared", 1, 66.0), ("euler-ancestral", "eta=0.5", "shared", 1, 99.0),
    ("heun", "", "shared", 2, 80.0), ("heun", "", "karras", 2, 61.0), ("dpmpp-2m", "", "shared", 1, 30.0),
    ("dpmpp-2m", "", "karras rho=5", 1, 26.0), ("dpmpp-2m-sde", "eta=1, solver=heun", "karras", 1, 40.0),
    ("unipc", "order=3", "log-snr", 1, 28.0), ("edm", "churn=40, churn_noise=1.007", "edm", 2, 55.0),
)  # fmt: skip
"""Sampler, options, grid, evaluations a step and how far off it is: the ways of a sweep."""
WEIGHTS = (1.0, 1.5, 4.0)
SWEEP_STEPS = (5, 10, 25, 50)


def sweep_records(model: str = "dit", weights: tuple[float, ...] = WEIGHTS) -> list[Record]:
    """Twelve ways of sampling at four numbers of steps and three weights, one way also compiled."""
    rows = _model_rows(model, "diffusion transformer", 2.2, "bound", 1_200_000)
    for index, (sampler, options, grid, each, scale) in enumerate(SWEEP):
        for steps in SWEEP_STEPS:
            for w in weights:
                nfe = (each * steps - (each - 1)) * (1 if w == 1.0 else 2)
                cell: dict[str, Any] = {
                    "model": model,
                    "family": "diffusion transformer",
                    "sampler": sampler,
                    "grid": grid,
                }
                cell |= {"steps": steps, "nfe": float(nfe), "guidance": w, "options": options}
                quality = 1.9 + 0.15 * abs(w - 1.5) + 0.01 * index + scale / steps**1.9
                rows += _quality(cell, quality, 0.03) + _speed(cell, 8000.0 / (nfe + 0.3 * index))
                share = Record(metric="class accuracy", value=min(0.99, 0.7 + 0.1 * w - 0.3 / steps))
                rows.append(share.replace(**cell, protocol="accuracy [p]", n=720))
    compiled = {**cell, "options": "compiled", "sampler": "heun", "grid": "shared"}
    once = Record(metric="compile time", unit="s", value=17.3, protocol="once, no interval")
    rows += [*_speed(compiled, 900.0), once.replace(**compiled)]
    return [_common(row, 1000 + index) for index, row in enumerate(rows)]


def certificate_records() -> list[Record]:
    """What samplers do on a distribution whose answer is known: numbers that are no model's."""
    base = Record(model="mixture", family="certificate", protocol="exact end point, n=4096")
    rows = []
    for sampler, order in (("euler", 1), ("heun", 2), ("dpmpp-2m", 2)):
        rows.append(base.replace(sampler=sampler, grid="log-snr", metric="order", value=order - 0.02))
        for steps in (8, 16, 32):
            cell = {"sampler": sampler, "grid": "log-snr", "steps": steps, "nfe": float(order * steps)}
            error = 0.5 * steps**-order
            row = base.replace(**cell, metric="sampler error", value=error, low=0.9 * error, high=1.1 * error)
            rows.append(row)
    return [_common(row, 5000 + index) for index, row in enumerate(rows)]


def _common(row: Record, index: int) -> Record:
    return row.replace(
        run="digits-0123456789ab", cell_key=f"{index:064x}", suite="digits", dataset="digits", split="test",
        dtype="float32", device="cpu", weights_sha256="ab" * 32,
    )  # fmt: skip


def failed_record(model: str = "ddpm", sampler: str = "heun", steps: int = 100) -> Record:
    sentence = (
        "shard 3, image 17, step 31 of 100, sampler heun: the sampler produced a value that is not finite"
    )
    row = Record(
        model=model, family="diffusion", sampler=sampler, steps=steps, grid="shared", status="failed"
    )
    return _common(row.replace(metric="FD-digits@360", error=sentence, guidance=1.0), 999)


def synthetic_curves() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for index, model in enumerate([*NATIVE, *PATHS]):
        offset = -120.0 if model == "realnvp" else 0.3 * index
        for step in range(0, 2000, 10):
            loss = offset + (2.0 + index) * math.exp(-step / 300) + 0.05 * rng.standard_normal()
            rows.append({"model": model, "step": step, "loss": loss, "seconds": step * 0.035})
    return pd.DataFrame(rows)


def synthetic_sheets(records: list[Record]) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    names = dict.fromkeys(
        cell_label(r.model, r.sampler, r.steps, r.guidance, r.options, r.grid)
        for r in records
        if r.sampler and r.family != "certificate"
    )
    return {
        name: contact_sheet(rng.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8), 17, 8, 4)
        for name in ["real", *names]
    }


RUN = {
    "schema": 1,
    "created": "2026-01-02T03:04:05+00:00",
    "spec": {"suite": "digits", "models": {"ddpm": {"steps": 2000}}, "seed": 0},
    "provenance": [
        {
            "command": "noisebench run digits",
            "git": {"commit": "0" * 40, "dirty": False},
            "versions": {"torch": "2"},
        }
    ],
}


def make_report(records: list[Record], **changes: Any) -> ReportData:
    """A report of these records; keywords replace parts of it."""
    parts: dict[str, Any] = {
        "records": to_frame(records),
        "run": RUN,
        "curves": synthetic_curves(),
        "sheets": synthetic_sheets(records),
        "suite": "digits",
    }
    return ReportData(**(parts | changes))


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return [*synthetic_records(), failed_record()]


@pytest.fixture(scope="session")
def report(records: list[Record]) -> ReportData:
    return make_report(records)


@pytest.fixture(scope="session")
def swept_records() -> list[Record]:
    """Everything a run can hold: models, a sweep of samplers, certificates, a failure."""
    return [*synthetic_records(), *sweep_records(), *certificate_records(), failed_record()]


@pytest.fixture(scope="session")
def swept_page(swept_records: list[Record]) -> str:
    from bench.report.page import render_html
    from tests.bench.report.made_likelihoods import frames, likelihood_records

    told = [*likelihood_records(), *swept_records]
    return render_html(make_report(told, sheets={}, **frames()))


@pytest.fixture(scope="session")
def page(report: ReportData) -> str:
    from bench.report.page import render_html

    return render_html(report)
