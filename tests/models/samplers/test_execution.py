"""Protects compiled and captured samplers: the same numbers, one graph a kind of step, compiled once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.denoiser import Denoiser
from models.grids import grid
from models.guidance import Guidance
from models.paths import path
from models.samplers import execution, plan, sampler
from tests.models.oracles import normal_like
from tests.models.samplers.test_contract import ALL, NOISY


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As images are sampled: with gradients, the first step would differ from the second."""
    with torch.inference_mode():
        yield


class Small(nn.Module):
    """A network that a compiler likes; says a variance too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0.0 if label is None else label.to(x.dtype).view(-1, 1)
        h = self.first(torch.cat([x.flatten(1), t.view(-1, 1)], 1)) + shift
        return self.second(torch.tanh(h)).view(len(x), 2, 1, 4)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the graphs that are made, and runs them as they are: no compiler is needed."""
    made: list[int] = []
    original = torch.compile

    def counting(function: Any, **options: Any) -> Any:
        def backend(module: Any, _inputs: Any) -> Any:
            made.append(1)
            return module.forward

        return original(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", counting)
    return made


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_compiled_step_is_one_graph_and_the_same_numbers(
    name: str, options: dict[str, Any], graphs: list[int]
) -> None:
    """Ten steps make as many graphs as there are kinds of steps; `fullgraph` refuses a break."""
    p, network = path("cosine"), Small()
    times = grid("shared", p, 10)
    x = torch.randn(3, 1, 1, 4, generator=torch.Generator().manual_seed(1))
    chain = Denoiser(network, p, "v")
    eager, compiled = (
        sampler(name, 10, execution=way, **options)(chain, x, times, noise=normal_like(2))
        for way in ("eager", "compiled")
    )
    assert torch.allclose(eager, compiled, atol=2e-5)
    kinds = {step.code for step in execution.steps(plan(sampler(name, 10, **options), chain, times))}
    assert len(graphs) == len(kinds) <= 6
    for _ in range(2):
        sampler(name, 10, execution="compiled", **options)(chain, x, times, noise=normal_like(2))
    assert len(graphs) == len(kinds), "another run compiles nothing"


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "dpmpp-2m"])
def test_steps_in_the_middle_share_one_graph(name: str) -> None:
    p = path("cosine")
    chain = Denoiser(Small(), p, "v")
    steps = execution.steps(plan(sampler(name, 20), chain, grid("shared", p, 20)))
    assert len({step.code for step in steps[1:-2]}) == 1


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(2.0),
        Guidance(2.0, low=0.5, high=2.0, batched=False),
        Guidance(2.0, "apg", parallel=0.2, bound=1.0, momentum=-0.5),
        Guidance(0.5, "cfg++", rescale=0.5),
    ],
    ids=str,
)
def test_guidance_is_compiled_with_the_step(guidance: Guidance, graphs: list[int]) -> None:
    p, network, label = path("cosine"), Small(), torch.tensor([0, 1, 2])
    chain = Denoiser(network, p, "v", (label,), null=(torch.full((3,), 3),), guidance=guidance)
    x, times = torch.randn(3, 1, 1, 4, generator=torch.Generator().manual_seed(1)), grid("shared", p, 6)
    eager, compiled = (
        sampler("dpmpp-2m", 6, execution=way)(chain, x, times) for way in ("eager", "compiled")
    )
    assert torch.allclose(eager, compiled, atol=2e-5)
    assert graphs


@pytest.mark.campaign
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a processor")
def test_a_step_goes_through_the_compiler_of_torch() -> None:
    p, network = path("cosine"), Small()
    x, times = torch.randn(3, 1, 1, 4, generator=torch.Generator().manual_seed(1)), grid("shared", p, 5)
    chain = Denoiser(network, p, "v")
    eager, compiled = (sampler("euler", 5, execution=way)(chain, x, times) for way in ("eager", "compiled"))
    assert torch.allclose(eager, compiled, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), NOISY)
def test_callbacks_of_a_compiled_sampler_see_every_state(
    name: str, options: dict[str, Any], graphs: list[int]
) -> None:
    p, seen = path("cosine"), []
    times, chain = grid("shared", p, 4), Denoiser(Small(), p, "v")
    found = sampler(name, 4, execution="compiled", **options)(
        chain,
        torch.randn(2, 1, 1, 4),
        times,
        noise=normal_like(2),
        callback=lambda step, t, x: seen.append((step, t, x)),
    )
    assert [(step, t) for step, t, _ in seen] == list(enumerate(times[1:]))
    assert torch.equal(seen[-1][2], found)


def test_executions_that_cannot_be_are_refused() -> None:
    p = path("cosine")
    with pytest.raises(ValueError, match="Did you mean 'compiled'"):
        sampler("euler", 2, execution="compile")
    with pytest.raises(ValueError, match="only be run eagerly"):
        sampler("dopri5", execution="compiled")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        sampler("euler", 2, execution="cuda-graph")(
            Denoiser(Small(), p, "v"), torch.randn(2, 1, 1, 4), grid("shared", p, 2)
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_captured_loop_gives_the_numbers_of_the_eager_one(name: str, options: dict[str, Any]) -> None:
    """Twice, from different noise: what was captured first is not what comes out later."""
    p, network = path("cosine"), Small().cuda()
    times, chain = grid("shared", p, 6), Denoiser(network, p, "v")
    for seed in (1, 2):
        x = torch.randn(3, 1, 1, 4, generator=torch.Generator().manual_seed(seed)).cuda()
        ends = []
        for way in ("eager", "cuda-graph"):
            generator = torch.Generator("cuda").manual_seed(seed)

            def noise(y: Tensor, source: torch.Generator = generator) -> Tensor:
                return torch.randn(y.shape, generator=source, device=y.device, dtype=y.dtype)

            ends.append(sampler(name, 6, execution=way, **options)(chain, x, times, noise=noise))
        assert torch.allclose(*ends, atol=1e-5)
