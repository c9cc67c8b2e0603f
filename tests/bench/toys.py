"""Models that misbehave on purpose, and a fast one that does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import ImageModel, Likelihood, LikelihoodUnavailable, NonFiniteSamples
from models.samplers import Sampler
from models.seeds import Seeds


class Logits(nn.Module):
    """One histogram a pixel, with dropout so that training draws from every source of randomness."""

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(levels, *shape))
        self.dropout = nn.Dropout(0.1)

    def forward(self, batch: Tensor) -> Tensor:
        return self.dropout(self.values).log_softmax(0).expand(len(batch), *self.values.shape)


class Histogram(ImageModel):
    """Independent pixels."""

    family = "toy"
    native_sampler = "independent"

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.network: nn.Module = Logits(self.shape, levels)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        jitter = torch.rand((), generator=generator, device=pixels.device)
        return self._nats(pixels).mean() / self.dims * (0.9 + 0.2 * jitter)

    def _nats(self, pixels: Tensor) -> Tensor:
        log_p = self.network(pixels).gather(1, pixels.unsqueeze(1).long())
        return -log_p.flatten(1).sum(1)

    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        return Likelihood(self._nats(pixels).double(), "exact", "independent pixels")

    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        u = seeds.per_image(self.shape, "uniform")
        below = self.network(u).exp().cumsum(1) < u.unsqueeze(1)
        return below.sum(1).clamp_max(self.levels - 1).to(torch.uint8)


class Diverging(Histogram):
    """Its loss becomes NaN at the sixth step."""

    calls = 0

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        self.calls += 1
        return super().loss(pixels, condition, generator) * (float("nan") if self.calls == 6 else 1.0)


class Silent(Histogram):
    """Has no likelihood."""

    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        raise LikelihoodUnavailable("a one-step map has no density")


class Faulty(Histogram):
    """Samples that are not finite, and a likelihood with a defect."""

    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        if 261 in seeds.images:
            raise NonFiniteSamples(seeds.images.index(261), 3)
        return super().sample(n, sampler, seeds, condition)

    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        raise ZeroDivisionError("a defect in the model")
