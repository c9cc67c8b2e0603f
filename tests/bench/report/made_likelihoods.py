"""Synthetic likelihoods of a run: several estimates of a network, image by image, step by step. Invented."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.records import Record, to_frame
from bench.report import LADDERS, NATS, TERMS, tables

DIMS, IMAGES = 64, 360
UNIT = DIMS * math.log(2.0)
VARIATIONAL = "variational bound, T=192, optimal variances, discretised Gaussian decoder, digits test n=360"
SMALL = "variational bound, T=192, small variances, discretised Gaussian decoder, digits test n=360"
CONTINUOUS = "continuous bound, 4 draws, digits test n=360"
ODE = "ode rk4 25 steps, rademacher×1, uniform dequantisation×1, s=2/17, digits test n=360"
FAMILIES = {"ddpm": "diffusion", "rectified-flow": "flow matching", "transformer": "autoregressive"}
SAID: dict[str, list[tuple[str, str, float, float]]] = {
    "ddpm": [
        ("bound", VARIATIONAL, 192.0, 2.12),
        ("bound", SMALL, 192.0, 2.31),
        ("bound", CONTINUOUS, 4.0, 2.16),
        ("estimate", ODE, 100.0, 2.07),
    ],
    "rectified-flow": [
        ("estimate", ODE, 100.0, 2.05),
        ("bound", VARIATIONAL, 192.0, 2.02),
    ],
    "transformer": [("exact", "softmax over 17 levels, digits test n=360", 1.0, 1.934)],
}
"""Kind, protocol, evaluations and bits of the estimates of each model, in the order of its suite."""
PARTS = {"diffusion": 0.78, "prior": 1e-5, "reconstruction": 0.22}


def key_of(model: str, place: int) -> str:
    """The key of an estimate's cell."""
    return f"{100 * list(SAID).index(model) + place:064x}"


def images(model: str, place: int) -> np.ndarray:
    """Bits of every image: shared between models, little of their own, of exactly the mean that is said."""
    shared = 0.25 * np.random.default_rng(3).standard_normal(IMAGES)
    own = 0.05 * np.random.default_rng([ord(model[0]), place]).standard_normal(IMAGES)
    bits = shared + own
    return np.asarray(bits - bits.mean() + SAID[model][place][3])


def likelihood_records(names: tuple[str, ...] = tuple(SAID)) -> list[Record]:
    """A record an estimate, and the parts of the variational ones."""
    records = []
    for model in names:
        for place, (kind, protocol, nfe, value) in enumerate(SAID[model]):
            end = 1.96 * float(images(model, place).std(ddof=1)) / math.sqrt(IMAGES)
            row = Record(
                run="digits-0123456789ab", cell_key=key_of(model, place), suite="digits", dataset="digits",
                split="test", model=model, family=FAMILIES[model], kind=kind, protocol=protocol, nfe=nfe,
                metric="bits/dim", unit="bits/dim", value=value, low=value - end, high=value + end, n=IMAGES,
            )  # fmt: skip
            records.append(row)
            for part, share in PARTS.items() if protocol in (VARIATIONAL, SMALL) else ():
                records.append(row.replace(metric=f"bits/dim ({part})", value=share * value))
    return records


def tidied(records: list[Record] | None = None) -> pd.DataFrame:
    """Records as the report tables them; without any, all of the invented ones."""
    return tables.tidy(to_frame(likelihood_records() if records is None else records))


def record(model: str, key: str, value: float, **columns: Any) -> Record:
    """An estimate of no particular model."""
    columns = {"protocol": f"one way, {key}", "kind": "bound", **columns}
    return Record(model=model, cell_key=key, metric="bits/dim", value=value, dataset="d", **columns)


def frames() -> dict[str, pd.DataFrame]:
    """What a report knows beside its records: nats of all images, terms, and ladders."""
    every = [(model, place) for model in SAID for place in range(len(SAID[model]))]
    nats = [
        {"model": model, "cell_key": key_of(model, place), "image": image, "nats": value * UNIT}
        for model, place in every
        for image, value in enumerate(images(model, place))
    ]
    sums = [(m, place) for m, place in every if SAID[m][place][1] in (VARIATIONAL, SMALL)]
    ladders = [rung for m, place in every if SAID[m][place][1] == ODE for rung in _ladder(m, place)]
    return {
        "nats": pd.DataFrame(nats, columns=list(NATS)),
        "terms": pd.DataFrame([row for m, p in sums for row in _terms(m, p)], columns=list(TERMS)),
        "ladders": pd.DataFrame(ladders, columns=list(LADDERS)),
    }


def _terms(model: str, place: int) -> list[dict[str, Any]]:
    """Steps from data (log-SNR 6) to noise (−10), with most bits at log-SNR 2."""
    edges = np.linspace(6.0, -10.0, 49)
    middles = (edges[1:] + edges[:-1]) / 2
    shape = np.exp(-0.5 * ((middles - 2.0 - 0.7 * place) / (2.0 if model == "ddpm" else 2.6)) ** 2)
    bits = shape / shape.sum() * PARTS["diffusion"] * SAID[model][place][3]
    key = {"model": model, "cell_key": key_of(model, place)}
    return [
        {**key, "log_snr_from": a, "log_snr_to": b, "bits": v, "low": 0.93 * v, "high": 1.07 * v}
        for a, b, v in zip(edges[:-1], edges[1:], bits, strict=True)
    ]


def _ladder(model: str, place: int) -> list[dict[str, Any]]:
    """rk4 at 6, 12, 25 and 50 steps."""
    size = 0.03 if model == "ddpm" else -0.012
    return [
        {
            "model": model, "cell_key": key_of(model, place), "setting": f"rk4 {steps} steps",
            "nfe": 4.0 * steps, "difference": value, "low": value - 0.15 * abs(value),
            "high": value + 0.15 * abs(value), "own": steps == 25,
        }
        for steps, value in ((6, size), (12, size / 6), (25, size / 60), (50, 0.0))
    ]  # fmt: skip
