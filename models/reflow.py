"""Reflow: a rectified flow on the couples (z, x_0) of another one's ODE (Liu et al. 2022, 2209.03003, §2.1).

    loss  E ‖v(x_t, t) − (z − x_0)‖²/D,  x_t = (1 − t) x_0 + t z,  x_0 = teacher's flow of z from t = 1 to 0

The teacher's trajectories do not cross, so lines between their ends cross less than lines between images and
independent noise: the new flow is straighter, of no larger transport cost, and has the same marginals.

Shapes: n couples, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from models.flow_matching import RectifiedFlow, check_straight
from models.names import unknown
from models.samplers import sampler
from models.unconditional import at_least_one

if TYPE_CHECKING:
    from models.base import ImageModel
    from models.gaussian import GaussianPathModel

SOLVERS = ("euler", "heun")
"""What couples may be made with: a stochastic sampler would tear z and x_0 apart."""

BATCH = 256
"""Couples made at once; part of what they are, as sums of floats depend on it."""


class ReflowedFlow(RectifiedFlow):
    """2-rectified flow: starts from its teacher's weights and straightens its teacher's couples.

    couples        n, made once, before training
    solver         `euler` or `heun` along the teacher's flow
    solver_steps   equal steps from t = 1 to 0; heun takes 2·steps − 1 evaluations
    others         of the network they must be the teacher's; see `models.flow_matching.FlowMatching`

    Couples are kept beside the weights, not in them: the same teacher and generator make the same ones.
    x_0 is the teacher's continuous sample, never rounded to levels, so likelihoods are RectifiedFlow's. The
    labels of a conditional model are drawn uniformly, a share of them being the null. As z is not
    independent of x_0, ε̂ is no score, and stochastic samplers are refused.
    """

    family: ClassVar[str] = "rectified flow"
    builds_on: ClassVar[str] = "rectified flow"
    z: Tensor
    x_0: Tensor
    told: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        couples: int = 4096,
        solver: str = "heun",
        solver_steps: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(shape, levels, **options)
        self.independent_noise = False
        at_least_one(couples=couples, solver_steps=solver_steps)
        if solver not in SOLVERS:
            raise ValueError(unknown("solver of couples", solver, SOLVERS))
        self.couples, self.solver = couples, sampler(solver, solver_steps)
        for name in ("z", "x_0"):
            self.register_buffer(name, torch.zeros(0, *shape), persistent=False)
        self.register_buffer("told", torch.zeros(0, dtype=torch.int64), persistent=False)

    def learn_from(
        self, teacher: ImageModel, pixels: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """The teacher's weights, and couples of its flow; a teacher of another kind or size is refused."""
        check_straight(self, teacher)
        self.network.load_state_dict(teacher.network.state_dict())
        shape = (self.couples, *self.shape)
        self.z = torch.randn(shape, generator=generator, device=self.device)
        self.told = self._draw_labels(generator)
        self.x_0 = self._ends(teacher.eval())  # type: ignore[arg-type]

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of the velocity a dimension, on as many couples as there are images."""
        self.check_pixels(pixels)
        z, x_0, told = self.draw_couples(len(pixels), generator)
        return self.regression(x_0, z, self.draw_times(len(z), generator), told)

    def draw_couples(
        self, n: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """n of the couples with replacement, and their embedded labels."""
        if not len(self.z):
            raise ValueError(f"{type(self).__name__} has no couples: call learn_from with its teacher first.")
        index = torch.randint(len(self.z), (n,), generator=generator, device=self.z.device)
        return self.z[index], self.x_0[index], self.embed(self.told[index])

    def _draw_labels(self, generator: torch.Generator | None) -> Tensor:
        """Uniform labels, null for a share `condition_dropout`: couples of the flows given each and none."""
        if self.conditioning.kind == "none":
            return self.conditioning.null(self.couples, self.device)
        size = self.conditioning.size
        drawn = torch.randint(size, (self.couples,), generator=generator, device=self.device)
        return self.conditioning.dropped(drawn, self.condition_dropout, generator)

    @torch.no_grad()
    def _ends(self, teacher: GaussianPathModel) -> Tensor:
        """The teacher's x_0 of each z, where its ODE ends."""
        steps = self.solver.steps
        times = tuple((steps - i) / steps for i in range(steps + 1))
        conditional = self.conditioning.kind != "none"
        return torch.cat(
            [
                self.solver(teacher.denoiser(told if conditional else None), z, times)
                for z, told in zip(self.z.split(BATCH), self.told.split(BATCH), strict=True)
            ]
        )
