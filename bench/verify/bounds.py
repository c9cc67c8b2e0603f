"""Checks that bounds bound: S = Σ_k exp(−E[bound]) ≤ 1 over all images of 2×2 pixels and four levels.

Importance weights are unbiased, E[w] = P(k), so for them S scatters about one itself, with one weight or
many; left out, ln K multiplies S by K. So do those of a flow whose dequantiser is random, p/q, which a part
of ln q that is missing moves away from one. Diffusion with the exact network of independent, equally likely
levels must come close to D ln K from above: that is where a part of the bound that is missing shows. The
density of a probability flow leaves S ≤ 1, for some of it lies outside the range of the levels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from bench.verify import Check, Finding
from bench.verify.networks import UniformLevels, every_image
from bench.verify.normalisation import FLOWS, LEVELS, SHAPE, scattered, small
from models import edm
from models.diffusion import DDPM
from models.gaussian import GaussianPathModel
from models.likelihood import probability_flow
from models.likelihood.probability_flow import Flow
from models.vdm import VDM

WEIGHTS, BOUNDS = "Σ P over all images, importance weights", "Σ exp(−bound) over all images"
ELBO = "evidence lower bound"
TIGHT, FLOW = "diffusion with the exact network of uniform levels", "probability flow of a random network"

LATENT: dict[str, dict[str, Any]] = {
    "vae": {"latent": 2, "width": 6, "depth": 1},
    "ladder-vae": {"latents": (1, 1), "width": 6, "depth": 1},
    "autoencoder": {"latent": 1, "channels": 4},
}
"""Families of the evidence lower bound, with small options."""

DEQUANTISER: dict[str, Any] = {
    "dequantisation": "variational",
    "dequantiser": {"couplings": 2, "features": 4},
}
"""Of the flows, which are those of exact densities."""
DEQUANTISED = "variational dequantisation"

TINY: dict[str, Any] = {"patch": 1, "width": 8, "depth": 1, "heads": 1}
NETWORK: dict[str, Any] = {"network": "dit", **TINY}
DIFFUSION: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("ddpm", {"timesteps": 8, **NETWORK}),
    "ddpm, learned variances": (
        "ddpm",
        {"timesteps": 8, "objective": "hybrid", "variance": "learned", **NETWORK},
    ),
    "edm": ("edm", {"timesteps": 8, **NETWORK}),
    "vdm": ("vdm", NETWORK),
    "dit": ("dit", {"timesteps": 8, **TINY}),
}
"""Families of the variational sum or its limit in continuous time."""

ROUNDS, SAMPLES, STEPS, DRAWS = 32, 8, 64, 32
CLOSE = 0.05
"""Nats a dimension that finitely many Gaussian steps and the decoder may cost."""


def checks() -> Iterator[Check]:
    """Importance weights and bounds of random networks; diffusion with an exact one; densities of flows."""
    for name, K in itertools.product(LATENT, (1, SAMPLES)):
        yield Check(WEIGHTS, f"{name}, K={K}", functools.partial(_weights, name, K))
    for name in LATENT:
        case = f"{name}, −ELBO by draws and by divergences in closed form, nats"
        yield Check(ELBO, case, functools.partial(_objective, name))
    for name in LATENT:
        yield Check(BOUNDS, name, functools.partial(_evidence, name))
    for K in (1, SAMPLES):
        yield Check(WEIGHTS, f"realnvp, {DEQUANTISED}, K={K}", functools.partial(_dequantised_weights, K))
    for name in FLOWS:
        yield Check(BOUNDS, f"{name}, {DEQUANTISED}", functools.partial(_dequantised, name))
    for label, (name, options) in DIFFUSION.items():
        yield Check(BOUNDS, label, functools.partial(_diffusion, name, options))
    for name in ("ddpm", "edm", "vdm"):
        for above in (True, False):
            case = f"{name}, {'not below' if above else f'{CLOSE:g} at most above'} ln K, nats/dim"
            yield Check(TIGHT, case, functools.partial(_uniform, name, above))
    yield Check(FLOW, "Σ P of its nll over all images", _flow_levels)
    yield Check(FLOW, "∫ p of two pixels over the plane", _flow_mass)


def _weights(name: str, K: int) -> Finding:
    pixels = every_image(SHAPE, LEVELS).repeat(ROUNDS, 1, 1, 1)
    model = small(name, LATENT[name]).double()
    found = model.nll(pixels, None, torch.Generator().manual_seed(K), importance_samples=K)
    return scattered(found.nats.view(ROUNDS, -1))


@torch.no_grad()
def _objective(name: str) -> Finding:
    """nll draws ln q − ln p where the training objective integrates it; the same generator gives both one z.

    Only a posterior that depends on the image shows a part left out, so the weights are larger here.
    """
    options = LATENT[name] | {"autoencoder": {"beta": 1.0}, "ladder-vae": {"free_bits": 0.0}}.get(name, {})
    model = small(name, options, std=0.5).double()
    pixels = every_image(SHAPE, LEVELS).repeat(ROUNDS, 1, 1, 1)
    drawn = model.nll(pixels, None, torch.Generator().manual_seed(5))
    wanted = float(model.loss(pixels, None, torch.Generator().manual_seed(5))) * model.dims
    scatter = float((drawn.nats - drawn.breakdown["reconstruction"]).std()) / math.sqrt(len(pixels))
    return Finding(wanted, float(drawn.nats.mean()), 4.5 * scatter + 1e-4)


def _evidence(name: str) -> Finding:
    pixels = every_image(SHAPE, LEVELS).repeat(ROUNDS, 1, 1, 1)
    model = small(name, LATENT[name]).double()
    return _bounded(model.nll(pixels, None, torch.Generator().manual_seed(1)).nats)


def _dequantised_weights(K: int) -> Finding:
    return scattered(_dequantised_nats("realnvp", K))


def _dequantised(name: str) -> Finding:
    return _bounded(_dequantised_nats(name, 1))


def _dequantised_nats(name: str, K: int) -> torch.Tensor:
    """−ln (1/K) Σ p/q of every image, ROUNDS times, with random weights of the flow and of q."""
    model = small(name, FLOWS[name][1] | DEQUANTISER).double()
    pixels, generator = every_image(SHAPE, LEVELS).repeat(ROUNDS, 1, 1, 1), torch.Generator().manual_seed(K)
    how = {"solver": "rk4", "steps": 2, "divergence": "exact"} if name == "ffjord" else {}
    found: torch.Tensor = model.nll(pixels, None, generator, dequantisation_samples=K, **how).nats
    return found.view(ROUNDS, -1)


def _bounded(nats: torch.Tensor) -> Finding:
    """S of the mean over rounds; by Jensen's inequality the noise of the mean only raises it."""
    return Finding(1.0, float((-nats.view(-1, LEVELS**4).mean(0)).exp().sum()), 1e-6, "≤")


def _diffusion(name: str, options: dict[str, Any]) -> Finding:
    """The bound of a network that knows nothing, its variances fitted where they can be."""
    images, generator = every_image(SHAPE, LEVELS), torch.Generator().manual_seed(0)
    model = small(name, options)
    model.calibrate(images, generator)
    how: dict[str, Any] = {"draws": 16} if name == "vdm" else {}
    return _bounded(model.nll(images.repeat(ROUNDS, 1, 1, 1), None, generator, **how).nats)


def _exact(name: str) -> GaussianPathModel:
    if name == "vdm":
        learned = VDM(SHAPE, LEVELS, finest=1.0, **NETWORK)
        learned.network.backbone = _Told(learned)
        return learned
    kind: type[DDPM] | type[edm.EDM] = DDPM if name == "ddpm" else edm.EDM
    model = kind(SHAPE, LEVELS, timesteps=STEPS, **NETWORK)
    law = UniformLevels(lambda: model.path, model.prediction, LEVELS)
    law.register_parameter("nothing", torch.nn.Parameter(torch.zeros(())))
    model.network = law
    model.calibrate(every_image(SHAPE, LEVELS), torch.Generator().manual_seed(0))
    return model


class _Told(torch.nn.Module):
    """The exact network of a VDM, from the noise level that it is told."""

    def __init__(self, model: VDM) -> None:
        super().__init__()
        self.limits = model.schedule.limits
        self.law = UniformLevels(lambda: model.path, model.prediction, LEVELS)
        self.of_time = model.path.t_of_log_snr

    def forward(self, x: torch.Tensor, level_B: torch.Tensor) -> torch.Tensor:
        """The prediction in the shape of x."""
        start, end = self.limits()
        return self.law(x, self.of_time(-(start + (end - start) * level_B)))


def _uniform(name: str, above: bool) -> Finding:
    """−ln P = D ln K exactly; the bound lies above, by what finitely many steps and the decoder cost."""
    images, generator = every_image(SHAPE, LEVELS), torch.Generator().manual_seed(1)
    model = _exact(name)
    how: dict[str, Any] = {"draws": DRAWS} if name == "vdm" else {}
    rounds = 8 if name == "vdm" else 32
    nats = model.nll(images.repeat(rounds, 1, 1, 1), None, generator, **how).nats / model.dims
    error = float(nats.std()) / math.sqrt(len(nats))
    if above:
        return Finding(math.log(LEVELS), float(nats.mean()), 4.5 * error, "≥")
    return Finding(math.log(LEVELS), float(nats.mean()), CLOSE, "≤")


def _flow_levels() -> Finding:
    """The mass in the range of the levels, which is less than one."""
    pixels = every_image(SHAPE, LEVELS).repeat(8, 1, 1, 1)
    model, generator = small("rectified-flow", NETWORK), torch.Generator().manual_seed(0)
    found = model.nll(pixels, None, generator, solver="rk4", steps=4, divergence="exact")
    return scattered(found.nats.view(8, -1), "≤")


def _flow_mass() -> Finding:
    """∫ p̂ by the trapezium rule: what the solver adds up as ln p is a density where the steps are fine."""
    model = small("rectified-flow", NETWORK, (1, 1, 2)).double()
    step = 0.5
    axis = torch.arange(-8.0, 8.0 + step, step, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    flow = Flow("rk4", steps=16, divergence="exact")
    found = probability_flow.flow_log_density(model.denoiser(), x, flow)
    return Finding(1.0, float(found.exp().sum()) * step**2, 1e-4)
