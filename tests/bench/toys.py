"""Models that misbehave on purpose, and a fast one that does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import ImageModel, Likelihood, LikelihoodUnavailable, NonFiniteSamples
from models.conditioning import labels
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
        return Likelihood(self._nats(pixels).double(), "exact", "independent pixels", floor=0.0)

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


class Labelled(Histogram):
    """A histogram a class, and one of nothing known; guidance is written into the corner pixel."""

    def __init__(self, shape: tuple[int, int, int], levels: int, *, classes: int = 10) -> None:
        super().__init__(shape, levels)
        self.conditioning = labels(classes)
        self.network = _Choice(nn.ModuleList(Logits(self.shape, levels) for _ in range(classes + 1)))

    def _by_label(self, pixels: Tensor, condition: Tensor | None) -> Tensor:
        label = self.conditioning.given(condition, len(pixels), pixels.device)
        log_p = self.network(label).gather(1, pixels.unsqueeze(1).long())
        return -log_p.flatten(1).sum(1)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        assert condition is not None
        label = self.conditioning.dropped(condition, 0.2, generator)
        return self._by_label(pixels, label).mean() / self.dims

    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        return Likelihood(
            self._by_label(pixels, condition).double(), "exact", "pixels given the label", floor=0.0
        )

    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        u = seeds.per_image(self.shape, "uniform")
        label = self.conditioning.given(condition, n)
        below = self.network(label).exp().cumsum(1) < u.unsqueeze(1)
        pixels = below.sum(1).clamp_max(self.levels - 1).to(torch.uint8)
        pixels[:, 0, 0, 0] = int(guidance)
        return pixels


class _Choice(nn.Module):
    """The module of each label."""

    def __init__(self, choices: nn.ModuleList) -> None:
        super().__init__()
        self.choices = choices

    def forward(self, label: Tensor) -> Tensor:
        return torch.stack([self.choices[int(k)](label[:1])[0] for k in label])


class Student(Histogram):
    """Starts from another histogram's weights and remembers a draw of its teacher's samples."""

    builds_on = "histogram"

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.taught: Tensor
        self.register_buffer("taught", torch.zeros(4, *shape, dtype=torch.uint8))

    def learn_from(
        self, teacher: ImageModel, pixels: Tensor, generator: torch.Generator | None = None
    ) -> None:
        self.network.load_state_dict(teacher.network.state_dict())
        seed = int(torch.randint(1000, (1,), generator=generator))
        self.taught = teacher.sample(4, None, Seeds(seed, range(4)))
