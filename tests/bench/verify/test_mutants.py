"""Protects the checks themselves: each formula of a likelihood, once broken, turns at least one check red.

A mutant is a function of the project with one piece of its source replaced, put in the place of its code, so
that it is broken wherever it is used. That nothing is red without a mutant is tested beside this.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.metrics import bits
from bench.verify import Row, run, solver
from models import dequantised_flow, discretised_logistic, ladder_vae, latent, vae
from models.autoregressive import AutoregressiveModel
from models.continuous_flow import FFJORD
from models.likelihood import (
    continuous_bound,
    dequantisation,
    discretised_gaussian,
    divergence,
    flow,
    later,
    probability_flow,
    variational_bound,
)
from models.networks import dequantiser, transformer


@dataclass(frozen=True)
class Mutant:
    """`old` in the source of a function becomes `new`; the checks of `module` must notice.

    within  only those with this in group or name are run, to save time
    """

    name: str
    function: Callable[..., Any]
    old: str
    new: str
    module: str
    within: str = ""


Flow = dequantised_flow.DequantisedFlow

MUTANTS = (
    Mutant(
        "offset of K − 1",
        flow.FlowEstimate.__call__,
        "math.log(alpha * half)",
        "math.log(alpha / (model.levels - 1))",
        "units",
        "density by",
    ),
    Mutant(
        "offset without α",
        flow.FlowEstimate.__call__,
        "math.log(alpha * half)",
        "math.log(half)",
        "units",
        "truncated",
    ),
    Mutant(
        "noise without its entropy",
        flow.FlowEstimate.__call__,
        "log_q_B - log_p_PB",
        "0 * log_q_B - log_p_PB",
        "units",
        "truncated",
    ),
    Mutant(
        "noise cut, mass not",
        dequantisation.truncated_normal,
        "2.0 * math.pi) * mass",
        "2.0 * math.pi)",
        "units",
        "truncated",
    ),
    Mutant(
        "no log K of draws",
        dequantisation.importance_weighted,
        "math.log(len(nats_KB)) - ",
        "-",
        "units",
        "four draws",
    ),
    Mutant("offset of [0, 1]", Flow._nats, "2.0 / self.levels", "1.0 / self.levels", "units"),
    Mutant(
        "no ln q of a dequantiser",
        Flow._nats,
        "log_q_B - self.log_density",
        "-self.log_density",
        "bounds",
        "variational dequantisation",
    ),
    Mutant(
        "ln q without its couplings",
        dequantiser.Dequantiser.forward,
        "log_q_B - log_det_B",
        "log_q_B",
        "bounds",
        "variational dequantisation",
    ),
    Mutant(
        "ln q without the slope of its last layer",
        dequantiser.Dequantiser.forward,
        "log_q_B - _slope(v_BCHW)\n",
        "log_q_B\n",
        "bounds",
        "variational dequantisation",
    ),
    Mutant("no log M", Flow.nll, "math.log(M) - ", "-", "units"),
    Mutant("logit slope without 2", Flow.to_logit, "-(2 * p_BCHW", "-(p_BCHW", "units"),
    Mutant("logit slope reversed", Flow.to_logit, "logit_B = -(", "logit_B = (", "units"),
    Mutant("bits in nats", bits.bits_per_dimension, "(dims * math.log(2.0))", "dims", "units"),
    Mutant(
        "half-bin 1/K",
        discretised_gaussian.discretised_gaussian_nats,
        "(2.0 * k + side) / (levels - 1) - 1.0",
        "2.0 * k / (levels - 1) - 1.0 + side / levels",
        "units",
        "discretised",
    ),
    Mutant(
        "closed last bin",
        discretised_gaussian.discretised_gaussian_nats,
        "torch.where(k == levels - 1, math.inf, high)",
        "high",
        "units",
        "discretised",
    ),
    Mutant(
        "logistic bin of half its width",
        discretised_logistic.DiscretisedLogistic.log_prob,
        "-2 * half",
        "-half",
        "units",
        "discretised",
    ),
    Mutant("no prior", variational_bound.prior_nats, "return ratio", "return 0 * ratio", "variational"),
    Mutant(
        "small and large swapped",
        variational_bound.reverse_variances,
        'small if kind == "small" else large',
        'large if kind == "small" else small',
        "variational",
    ),
    Mutant(
        "optimal without the posterior's",
        variational_bound.reverse_variances,
        "c.small + c.of_x0**2 * m",
        "c.of_x0**2 * m",
        "variational",
    ),
    Mutant(
        "KL of a step without its logarithm",
        variational_bound.step_nats,
        "spread - 1.0 - spread.log()",
        "spread - 1.0",
        "variational",
    ),
    Mutant(
        "KL of a step in the other direction",
        variational_bound.step_nats,
        "spread = c.small / variance",
        "spread = variance / c.small",
        "variational",
    ),
    Mutant(
        "decoder's variance of 0 not replaced",
        variational_bound.variance_limits,
        "small[-1] = steps[-2].small",
        "small[-1] = steps[-1].large",
        "variational",
    ),
    Mutant(
        "VDM without prior",
        continuous_bound.prior_nats,
        "each = 0.5 *",
        "each = 0.0 *",
        "variational",
        "continuous-time",
    ),
    Mutant(
        "VDM without ½",
        continuous_bound.diffusion_nats,
        "return 0.5 *",
        "return 1.0 *",
        "variational",
        "continuous-time",
    ),
    Mutant(
        "VDM without decoder",
        continuous_bound.reconstruction_nats,
        "return -chosen",
        "return 0 * chosen",
        "units",
        "softmax",
    ),
    Mutant(
        "divergence reversed",
        probability_flow.flow_log_density,
        "+ integral.double()",
        "- integral.double()",
        "flow",
    ),
    Mutant(
        "no σ(1)", probability_flow._prior_log_density, "math.log(sigma * ", "math.log(1.0 * ", "flow", "edm"
    ),
    Mutant(
        "later start, not rescaled",
        later.Later.forward,
        "span * self.network",
        "self.network",
        "flow",
        "from t=",
    ),
    Mutant("probes without sign", divergence.rademacher, "2 * bits - 1", "bits", "divergence"),
    Mutant("probes of one sign", divergence.rademacher, "2 * bits - 1", "0 * bits + 1", "divergence"),
    Mutant(
        "uniform probes of variance 1",
        divergence.gaussian,
        "torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)",
        "12**0.5 * (torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 0.5)",
        "divergence",
    ),
    Mutant("sum over probes", divergence.hutchinson, ".mean(0)", ".sum(0)", "divergence"),
    Mutant("trace without a dimension", divergence.exact, "range(flat", "range(1, flat", "divergence"),
    Mutant("KL reversed", vae.divergence, "- log_std", "+ log_std", "latents"),
    Mutant(
        "KL in the wrong direction",
        vae.divergence,
        "0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std",
        "0.5 * ((mean**2 + 1) * (-2 * log_std).exp() - 1) + log_std",
        "latents",
    ),
    Mutant("q without its width", vae.log_ratio, " - log_std.double()", "", "latents"),
    Mutant("weights without the prior", vae.log_ratio, "z.double() ** 2 - noise", "-noise", "latents"),
    Mutant("no log K", vae.importance_weighted, "math.log(K) - ", "-", "latents"),
    Mutant(
        "latents without their scale",
        latent.LatentDiffusion._draw,
        " - below.latent_dims * below.scale.double().log()",
        "",
        "latents",
        "latent diffusion",
    ),
    Mutant(
        "a ladder without its lowest KL",
        ladder_vae.LadderVAE._draw,
        "reversed(steps)",
        "reversed(steps[:-1])",
        "bounds",
        "ladder",
    ),
    Mutant(
        "the future seen",
        transformer.CausalBlock._attend,
        "causal=cache is None",
        "causal=False",
        "normalisation",
        "transformer",
    ),
    Mutant("mean over pixels", AutoregressiveModel.nll, ".sum(1)", ".mean(1)", "normalisation"),
    Mutant(
        "scale of the data forgotten",
        FFJORD._to_start,
        "logit_B + scale_B.double()",
        "logit_B",
        "normalisation",
        "ffjord, nll",
    ),
)


def broken(monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """The function with the piece replaced, until the test ends."""
    function = inspect.unwrap(mutant.function)
    source = textwrap.dedent(inspect.getsource(function))
    assert mutant.old in source, f"{mutant.name}: the source no longer has {mutant.old!r}"
    made: dict[str, Any] = {}
    text = "from __future__ import annotations\n" + source.replace(mutant.old, mutant.new)
    exec(compile(text, "mutant", "exec"), function.__globals__, made)
    monkeypatch.setattr(function, "__code__", inspect.unwrap(made[function.__name__]).__code__)


def red(module: str, within: str = "") -> Iterator[Row]:
    """The checks of a module that do not hold, as they are found."""
    checks = importlib.import_module(f"bench.verify.{module}").checks()
    return (row for row in run(c for c in checks if within in f"{c.group} {c.name}") if not row.ok)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_formula_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, mutant)
    caught = next(red(mutant.module, mutant.within), None)
    assert caught is not None
    assert caught.got is not None, caught.note  # by its number, not because it could not be computed


def test_gaussian_probes_under_the_name_of_signs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both laws have the right mean: only the variance tells."""
    monkeypatch.setitem(divergence.PROBES, "rademacher", divergence.gaussian)
    caught = next(red("divergence"), None)
    assert caught is not None
    assert "rademacher, variance" in caught.check


def test_a_suite_with_too_few_steps_is_noticed(tmp_path: Path) -> None:
    """Three steps of rk4 flatter by more than the tolerance on data like the digits; 25 do not."""
    suite = tmp_path / "coarse.yaml"
    suite.write_text(
        "extends: digits\nname: coarse\nmodels:\n  rectified-flow:\n    likelihood: {solver: rk4, steps: 3}\n"
    )
    chosen = [c for c in solver.checks_of(str(suite)) if c.name.startswith(("rectified-flow", "reflow"))]
    assert {row.check.split(":")[0] for row in run(chosen) if not row.ok} == {"rectified-flow"}
