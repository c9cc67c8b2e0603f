"""The likelihood of images alone under a model that is told labels: the labels summed out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.metrics.nll import NATS, Evaluation, evaluate_nll
from models.base import ImageModel


def evaluate_marginal_nll(
    model: ImageModel, pixels: Tensor, prior: Tensor | None = None, **how: Any
) -> Evaluation:
    """−ln Σ_c P(c) P(pixels | c) of a model that is told labels, each label with the same noise.

    prior  P(c), (classes,); None: uniform

    Exact where the model is; else an estimate, also where P(x | c) is bounded: noise within the logarithm of
    a sum flatters. Costs as many evaluations as there are labels. ValueError for a model without labels.
    """
    if model.conditioning.kind != "label":
        raise ValueError(f"{type(model).__name__} is told no label that could be summed out.")
    classes = model.conditioning.size
    weights = torch.full((classes,), 1.0 / classes) if prior is None else prior.double()
    if weights.shape != (classes,) or bool((weights < 0).any()) or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise ValueError(f"The prior of {classes} labels is as many shares that add up to 1.")
    given = [
        evaluate_nll(model, pixels, torch.full((len(pixels),), c, device=pixels.device), **how)
        for c in range(classes)
    ]
    logs_CB = torch.stack([torch.from_numpy(one.nats) for one in given])
    nats = -(weights.double().log()[:, None] - logs_CB).logsumexp(0).numpy()
    first = given[0]
    return replace(
        first,
        arrays={NATS: nats},
        kind="exact" if first.kind == "exact" else "estimate",
        how=f"{first.how}, summed over {classes} labels",
        nfe=sum(one.nfe for one in given),
        nfe_max=sum(one.nfe_max for one in given),
        terms=None,
    )
