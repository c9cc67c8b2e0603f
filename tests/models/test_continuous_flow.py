"""FFJORD: the density of the map that its solver makes, regularisers as defined, and a way back.

Shapes: B batch, D dimensions.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.continuous_flow import FFJORD, regularised
from models.likelihood.divergence import PROBES
from models.likelihood.probability_flow import Flow, solve, transport
from models.seeds import Seeds
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, randomise, split, train

SHAPE = (1, 2, 3)


def _flow(shape: tuple[int, int, int] = SHAPE, levels: int = 4, std: float = 0.3) -> FFJORD:
    model = randomise(FFJORD(shape, levels, features=6, blocks=1), std)
    assert isinstance(model, FFJORD)
    return model


def _matrix() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.7 * torch.randn(4, 4, generator=generator, dtype=torch.float64)


def _linear(x: Tensor, t_B: Tensor) -> Tensor:
    """f = Ax."""
    return (x.flatten(1) @ _matrix().T).view(x.shape)


def _solved_map(model: FFJORD, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, x_1 of it and ln|det| of the map of rk4 with so many steps, by its whole Jacobian."""
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def to_end(v: Tensor) -> Tensor:
        def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (model.network(state[0], t.expand(1)),)

        return solve(field, (v,), Flow("rk4", steps=steps))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(to_end, x).reshape(6, 6)  # type: ignore[union-attr]
    return x, to_end(x).detach(), torch.linalg.slogdet(jacobian)[1]


def test_integral_is_the_log_determinant_of_the_solved_map() -> None:
    """∫∇·f by the solver against slogdet of the Jacobian of its own map: 1e-6, and of order four."""
    model, errors = _flow(), []
    for steps in (4, 8, 16, 32):
        x, x_1, expected = _solved_map(model, steps)
        found_1, found = transport(model.network, x, Flow("rk4", steps=steps, divergence="exact"))
        assert torch.allclose(found_1.flatten(), x_1, atol=1e-12)
        errors.append(abs(float(found[0] - expected)))
    assert abs(float(expected)) > 0.05
    assert errors[-1] < 1e-6
    assert math.log2(errors[0] / errors[2]) / 2 > 3.5


def test_log_density_is_that_of_the_jacobian_from_the_cube() -> None:
    """Logit, scale and flow together: ln N(x_1) + slogdet of the whole map from y."""
    model = _flow()
    y = 1.8 * torch.rand(1, *SHAPE, dtype=torch.float64) - 0.9
    flow = Flow("rk4", steps=32, divergence="exact")

    def to_noise(v: Tensor) -> Tensor:
        def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (model.network(state[0], t.expand(1)),)

        x_0, _ = model.elementwise(torch.logit((v + 1) / 2))
        return solve(field, (x_0,), flow)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(to_noise, y).reshape(6, 6)  # type: ignore[union-attr]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(y)).sum()
    expected = normal + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(model.log_density(y, (), flow)[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.log_density(y)[0], expected, atol=1e-4, rtol=0)


def test_regularisers_of_a_linear_field_in_closed_form() -> None:
    """f = Ax: x_1 = e^A x, ∫zᵀAz = zᵀAz, ∫‖f‖² by quadrature of ‖A e^{At} x‖², ∫‖zᵀA‖² = ‖Aᵀz‖²."""
    A = _matrix()
    x, z = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    x_1, divergence, kinetic, jacobian = regularised(_linear, x, z, Flow("rk4", steps=40))
    flat, probe = x.flatten(1), z.flatten(1)
    assert torch.allclose(x_1.flatten(1), flat @ torch.linalg.matrix_exp(A).T, atol=1e-6)
    assert torch.allclose(divergence, ((probe @ A) * probe).sum(1), atol=1e-9)
    assert torch.allclose(jacobian, (probe @ A).square().sum(1), atol=1e-9)
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)
    speed = torch.stack([(flat @ torch.linalg.matrix_exp(A * t).T @ A.T).square().sum(1) for t in times])
    assert torch.allclose(kinetic, torch.trapezoid(speed, times, dim=0), rtol=1e-5)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_give_trace_and_frobenius_norm_on_average(law: str) -> None:
    """E zᵀAz = tr A and E‖zᵀA‖² = ‖A‖²_F, within 5 standard errors of 20 000 probes."""
    A, x = _matrix(), torch.zeros(20_000, 1, 2, 2, dtype=torch.float64)
    z = PROBES[law](x, torch.Generator().manual_seed(0))
    _, divergence, _, jacobian = regularised(_linear, x, z, Flow("euler", steps=1))
    for part, expected in ((divergence, A.trace()), (jacobian, A.square().sum())):
        found = part.detach()
        assert float(found.mean()) == pytest.approx(float(expected), abs=5 * float(found.std()) / 20_000**0.5)


def test_loss_is_nats_and_regularisers_of_its_own_steps() -> None:
    """Without regularisers the loss is what nll says of the same solver, u and z; with them it is more."""
    model, pixels = _flow((1, 4, 4)), torch.randint(4, (6, 1, 4, 4), dtype=torch.uint8)

    def loss(kinetic: float, jacobian: float) -> float:
        model.kinetic, model.jacobian = kinetic, jacobian
        return float(model.loss(pixels, None, torch.Generator().manual_seed(3)).detach())

    nats = model.nll(pixels, None, torch.Generator().manual_seed(3), solver="rk4", steps=2).nats
    plain = loss(0, 0)
    assert plain == pytest.approx(float(nats.mean()) / 16, rel=1e-6)
    assert loss(1, 0) > plain + 1e-3
    assert loss(0, 1) > plain + 1e-3


def test_gradient_passes_through_the_steps() -> None:
    """d loss/dθ against a central difference, along a random direction of all the weights."""
    model, pixels = _flow(), torch.randint(4, (4, *SHAPE), dtype=torch.uint8)
    weights = list(model.parameters())
    direction = [torch.randn_like(w) for w in weights]

    def loss(shift: float) -> Tensor:
        # Float64 all the way: the public loss rounds to float32 at its end.
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w.add_(shift * d)
        x, logit = model._to_start(model.dequantised(pixels, torch.Generator().manual_seed(0))[0])
        parts = regularised(model.network, x, torch.ones_like(x), model.solver)
        return (parts[0].square().flatten(1).sum(1) / 2 - logit - parts[1] + parts[2] + parts[3]).mean()

    slopes = torch.autograd.grad(loss(0.0), weights)
    along = sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True))
    up, down = loss(1e-5).detach(), loss(-2e-5).detach()
    assert along == pytest.approx(float(up - down) / 2e-5, rel=1e-5)


@torch.no_grad()
def test_flow_runs_back_to_where_it_came_from() -> None:
    """Noise of data, integrated from t = 1 to 0, is the data: with error of order four in the step."""
    model, errors = _flow(), []
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    for steps in (8, 16, 32):
        model.solver = Flow("rk4", steps=steps)
        start, _ = model.elementwise(x)
        end, _ = transport(model.network, start, model.solver)
        errors.append(float((model.invert(end, (), 1.0) - x).abs().max()))
        assert not torch.allclose(end, start, atol=0.1)
    assert errors[-1] < 1e-5
    assert errors[0] / errors[1] > 8


def test_samples_cost_what_is_said_and_do_not_depend_on_their_batch() -> None:
    """4·steps evaluations an image, whoever else is in the batch."""
    model, rows = _flow((1, 4, 4), levels=256).float(), []
    model.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    pixels = model.sample(6, None, Seeds(0, range(6)))
    assert rows == [6] * 8
    assert torch.equal(pixels[3:4], model.sample(1, None, Seeds(0, [3])))
    assert len(pixels.unique()) > 4


def test_likelihood_says_that_it_is_an_estimate_and_how_it_was_made() -> None:
    model, pixels = _flow((1, 4, 4)), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    found = model.nll(pixels, solver="rk4", steps=3, probes=2, law="gaussian", dequantisation_samples=2)
    assert found.kind == "estimate"
    assert found.protocol == "ode rk4 3 steps, gaussian×2, uniform dequantisation×2, s=2/4"
    assert found.nats.dtype == torch.float64


@pytest.mark.parametrize("levels", [2, 17])
def test_field_of_zero_gives_the_closed_form_bits(levels: int) -> None:
    """x = logit(v), v uniform: ½ln 2π + π²/6 − 2 nats above log K a dimension; the offset is of s = 2/K."""
    model, generator = FFJORD((1, 4, 4), levels, features=4, blocks=1), torch.Generator().manual_seed(0)
    torch.nn.init.zeros_(model.elementwise.s_CHW)
    pixels = torch.randint(levels, (4000, 1, 4, 4), generator=generator, dtype=torch.uint8)
    nats = model.nll(pixels, None, generator, solver="euler", steps=1).nats / 16
    expected = 0.5 * math.log(2 * math.pi) + math.pi**2 / 6 - 2 + math.log(levels)
    assert float(nats.mean()) == pytest.approx(expected, abs=5 * float(nats.std()) / 4000**0.5)


def test_learns_digits_better_than_histograms_without_a_coarse_solver() -> None:
    """A few seconds of training beat 64 separate histograms, also where the solver is twice as fine."""
    torch.manual_seed(0)
    model = train(FFJORD(features=24, blocks=1, steps=1), steps=100, learning_rate=1.5e-2)
    nats = model.nll(split()[1], None, torch.Generator().manual_seed(0), solver="rk4", steps=4).nats
    assert bits(nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.05


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="weights of regularisers must be 0 or more"):
        FFJORD(kinetic=-1.0)
    with pytest.raises(ValueError, match="Unknown law of probes 'gausian'"):
        FFJORD(law="gausian")
    model = _flow()
    with pytest.raises(ValueError, match="takes steps"):
        model.nll(torch.zeros(1, *SHAPE, dtype=torch.uint8), solver="rk4")
    with pytest.raises(ValueError, match="cannot be guided: leave guidance at 1"):
        model.sample(1, None, Seeds(0, [0]), guidance=2.0)
    with pytest.raises(ValueError, match="FFJORD samples by ode only: leave sampler out"):
        model.sample(1, object(), Seeds(0, [0]))  # type: ignore[arg-type]
