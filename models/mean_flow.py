"""MeanFlow: the average velocity between two times, learned without a teacher (Geng et al. 2025, 2505.13447).

    u(x_t, r, t) = 1/(t − r) ∫_r^t v(x_s, s) ds,        x_r = x_t − (t − r) u(x_t, r, t)

so one evaluation goes from noise to an image. Differentiating (t − r) u along the flow gives the identity

    u = v − (t − r) (v·∂u/∂x + ∂u/∂t)

whose right side, v being the velocity ε − x_0 of one line and nothing behind it being differentiated, is the
target: its expectation is the right side at the flow's own velocity, which stands there linearly.

Shapes: n images, B batch, C channels, H height, W width, K levels, M of the batch's B rows with r < t.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import jvp

from kernels.attention import using_backend
from models import paths
from models.base import Likelihood, LikelihoodUnavailable
from models.conditioning import labels
from models.flow_matching import FlowMatching
from models.gaussian import GaussianPathModel
from models.guidance import NONE, Guidance, guide
from models.networks.backbone import backbone
from models.times import Times, draw_times
from models.unconditional import at_least_one

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

STEADY = 1e-3
"""c of the adaptive weight."""

# The first jvp of a process loads parts of PyTorch that PyTorch itself warns of.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)


class TwoTimes(nn.Module):
    """`network(x_BCHW, t_B, r_B, label_B)`: a network of one time, told t − r by constant channels beside x.

    network     takes (B, C + channels, H, W) and a time
    channels    of the code of t − r: a small MLP of it, the same at every position
    time_scale  what t is multiplied by before the network sees it. A network's sinusoids turn up to 1000
                times t; the derivative by t of such a code is too large to learn from (Lu & Song 2024,
                2410.11081, §4.1)
    """

    def __init__(self, network: nn.Module, channels: int, time_scale: float) -> None:
        super().__init__()
        self.network, self.time_scale = network, time_scale
        self.span = nn.Sequential(nn.Linear(1, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))

    def forward(self, x_BCHW: Tensor, t_B: Tensor, r_B: Tensor, *condition: Tensor) -> Tensor:
        """u(x, r, t), (B, C, H, W)."""
        code = self.span((t_B - r_B)[:, None])[:, :, None, None].expand(-1, -1, *x_BCHW.shape[2:])
        return self.network(torch.cat([x_BCHW, code], 1), self.time_scale * t_B, *condition)


class MeanFlow(FlowMatching):
    """A network that predicts the average velocity u(x_t, r, t) on straight lines.

    evaluations    of one trajectory, in equal steps from t = 1 to 0: 1, or more for more quality
    apart          share of a batch with r < t; the rest, r = t, is flow matching
    power          p of the weight (‖error‖² + c)^−p, not differentiated; 0: plain squared error
    times, time_location, time_scale, time_shift  law that r and t are both drawn from, t being the later
    code, code_scale  channels for t − r, and the scale of t, see `TwoTimes`
    network, …     `unet` or `dit` and its options; dropout draws one mask for the target, another for u
    classes, condition_dropout  labels it is conditioned on, 0 for none; share of them left out in training

    With guidance w, u is guided: u_∅ + w·(u_c − u_∅), an average of the velocities and no average velocity
    of their mixture.
    """

    native_sampler: ClassVar[str | None] = "mean-flow"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        evaluations: int = 1,
        apart: float = 0.25,
        power: float = 1.0,
        times: str = "logit-normal",
        time_location: float = -0.4,
        time_scale: float = 1.0,
        time_shift: float = 1.0,
        code: int = 8,
        code_scale: float = 0.02,
        classes: int = 0,
        condition_dropout: float = 0.1,
        network: str = "unet",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        at_least_one(evaluations=evaluations, code=code)
        if not 0 <= apart <= 1 or power < 0 or code_scale <= 0:
            raise ValueError(
                "MeanFlow needs a share apart from 0 to 1, a power from 0 and a code_scale above 0."
            )
        wide = (shape[0] + code, *shape[1:])
        inner = backbone(
            network, wide, {"dropout": dropout, **options}, channels_out=shape[0], classes=classes
        )
        # Past the constructor of FlowMatching, whose network knows one time.
        GaussianPathModel.__init__(
            self,
            shape,
            levels,
            TwoTimes(inner, code, code_scale),
            paths.path("rectified-flow"),
            "velocity",
            Times(times, time_location, time_scale, time_shift),
            conditioning=labels(classes),
            condition_dropout=condition_dropout,
        )
        self.evaluations, self.apart, self.power = evaluations, apart, power

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Σ_B w ‖u − target‖²/B with w of `power`, no unit; a value near 1 says only that ‖error‖² ≫ c."""
        self.check_pixels(pixels)
        x_0 = self.encode(pixels, generator)
        r_B, t_B = self.draw_spans(len(x_0), generator)
        epsilon = self.draw_noise(x_0, generator)
        told = self.training_condition(condition, len(x_0), generator)
        t = t_B.view(-1, 1, 1, 1)
        x_t, v = (1.0 - t) * x_0 + t * epsilon, epsilon - x_0
        wanted = self.target(x_t, r_B, t_B, v, told)
        error_B = (self.network(x_t, t_B, r_B, *told) - wanted).square().flatten(1).sum(1)
        return (error_B / (error_B.detach() + STEADY) ** self.power).mean()

    def draw_spans(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """r ≤ t, (n,) each; r < t in the first rows, a share `apart` of them."""
        first, second = (
            draw_times(n, self.times, generator, self.device)[self._order(n, generator)] for _ in range(2)
        )
        late_B, early_B = torch.maximum(first, second), torch.minimum(first, second)
        together = torch.arange(n, device=self.device) >= round(self.apart * n)
        return torch.where(together, late_B, early_B), late_B

    def _order(self, n: int, generator: torch.Generator | None) -> Tensor:
        """A random order: the evenly spread times of a batch come sorted."""
        return torch.randperm(n, generator=generator, device=self.device)

    @torch.no_grad()
    def target(
        self, x_t: Tensor, r_B: Tensor, t_B: Tensor, v: Tensor, told: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """v − (t − r) (v·∂u/∂x + ∂u/∂t), v where r = t; the derivative is taken of the other rows alone."""
        M = round(self.apart * len(x_t))
        if not M:
            return v
        x_M, r_M, t_M, v_M, told_M = x_t[:M], r_B[:M], t_B[:M], v[:M], [row[:M] for row in told]

        def u(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
            return self.network(x, t, r, *told_M)

        directions = (v_M, torch.zeros_like(r_M), torch.ones_like(t_M))
        # Of the attention kernels only the plain one can be differentiated forwards.
        with using_backend("math"):
            slope = jvp(u, (x_M, r_M, t_M), directions)[1]
        return torch.cat([v_M - (t_M - r_M).view(-1, 1, 1, 1) * slope, v[M:]])

    def nll(  # type: ignore[override]
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Raises `LikelihoodUnavailable`."""
        raise LikelihoodUnavailable(
            "MeanFlow jumps from noise to images by a map whose Jacobian is not tractable; the flow that "
            "u(x, t, t) describes has another density than its samples"
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float | Guidance = NONE,
    ) -> Tensor:
        """n images as uint8 pixels, from `evaluations` evaluations, twice as many where they are guided."""
        self.check_native(n, len(seeds.images), sampler)
        given = self.conditioning.given(condition, n, self.device, type(self).__name__)
        x, weight = (
            seeds.per_image(self.shape, device=self.device),
            Guidance.of(guidance).plain("A mean flow"),
        )
        for i in range(self.evaluations):
            t, r = (1.0 - (i + k) / self.evaluations for k in (0, 1))
            x = x - (t - r) * self._average_velocity(x, r, t, given, weight)
        return self.decode(x)

    def _average_velocity(self, x: Tensor, r: float, t: float, given: Tensor, guidance: float) -> Tensor:
        """u(x, r, t), guided in one batch of twice the size."""
        if guidance == 1.0:
            return self.network(x, *self._times(t, r, x), *self.embed(given))
        if self.conditioning.kind == "none":
            raise ValueError(f"{type(self).__name__} is unconditional: leave guidance out.")
        both = torch.cat([given, self.conditioning.null(len(given), self.device)])
        twice = torch.cat([x, x])
        conditional, unconditional = self.network(twice, *self._times(t, r, twice), *self.embed(both)).chunk(
            2
        )
        return guide(unconditional, conditional, guidance)

    @staticmethod
    def _times(t: float, r: float, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_full((len(x),), t), x.new_full((len(x),), r)
