"""Protects the checks over all images of a small space: they hold, and they cover every family.

Shapes: K levels.
"""

from __future__ import annotations

import inspect

from bench import registry
from bench.verify import bounds, latents, normalisation, units
from tests.bench.verify.test_checks import failing

ELSEWHERE = {
    "rectified-flow": bounds._flow_mass,
    "flow-matching": units._normal_flow,
    "latent-diffusion": latents._scaled,
}
"""Estimates that are not summed over all images, and what checks them."""

SAME_NLL = {"reflow": "rectified-flow", "mm-dit": "rectified-flow"}


def test_every_check_of_exact_families_holds() -> None:
    assert failing("normalisation") == []


def test_every_family_with_a_likelihood_is_checked() -> None:
    """A family that is added to the registry must be added to the checks."""
    options = [*normalisation.DISCRETE.values(), *normalisation.FLOWS.values(), *bounds.DIFFUSION.values()]
    checked = {name for name, _ in options} | set(bounds.LATENT) | set(ELSEWHERE) | set(SAME_NLL)
    assert checked == {name for name, model in registry.BUILTIN.items() if model.likelihood != "n/a"}
    for name, same in SAME_NLL.items():
        one, other = (registry.model_class(registry.import_path(each)).nll for each in (name, same))
        assert inspect.unwrap(one) is inspect.unwrap(other), name
