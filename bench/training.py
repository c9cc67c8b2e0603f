"""Training that can be killed at any moment and ends with the same bits.

Everything random at a step is a function of (seed, step): the batch, the noise of the loss, dropout. A
checkpoint therefore holds only weights, their moving average, the optimiser's moments and the curve, as
safetensors, replaced whole; a run that goes on from it does what an uninterrupted run does.

Where a batch is cut into micro-batches, each has randomness of its own, a function of (seed, step, part), and
their gradients are added in a fixed tree. So one process or several that share them end with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from bench import files
from bench.drivers.group import Group, GroupBroken, TreeSum
from bench.errors import CellFailed
from bench.suite import Training
from models.base import ImageModel
from models.seeds import derive_seed

CURVE_POINTS = 200


@dataclass(frozen=True)
class Progress:
    """Where training stands: `loss` is the mean since the last report."""

    step: int
    steps: int
    loss: float


@dataclass
class Curve:
    """Mean loss of successive stretches of steps, and the seconds spent until their ends."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """For storing."""
        return {
            "curve.step": np.asarray(self.step, np.int64),
            "curve.loss": np.asarray(self.loss, np.float64),
            "curve.seconds": np.asarray(self.seconds, np.float64),
        }

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Curve:
        """From `arrays()`."""
        return cls(*(arrays[f"curve.{name}"].tolist() for name in ("step", "loss", "seconds")))


def learning_rate(config: Training, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then half a cosine from the full rate to 0 at `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - config.warmup_steps) / span))


def ema_decay(config: Training, step: int) -> float:
    """min(decay, (1 + step) / (10 + step)): early weights are forgotten fast."""
    return min(config.ema_decay, (1 + step) / (10 + step))


def batch_indices(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Indices of the batch of a step: epochs are permutations seeded by (seed, epoch), remainders dropped."""
    batch = min(batch, n)
    epoch, position = divmod(step, n // batch)
    generator = torch.Generator().manual_seed(derive_seed("epoch", seed, epoch))
    return torch.randperm(n, generator=generator)[position * batch : (position + 1) * batch]


class Trainer:
    """Trains one model; after `run` it holds the averaged weights.

    pixels     uint8, or what the model prepared of them
    condition  what a conditional model is told of each image, a row an image; None for the others
    group      processes that share the micro-batches, at most as many as there are; all of them do the same
               steps, and process 0 keeps the checkpoint
    """

    def __init__(
        self,
        model: ImageModel,
        pixels: Tensor,
        config: Training,
        seed: int,
        device: str,
        checkpoint: Path,
        condition: Tensor | None = None,
        group: Group | None = None,
    ) -> None:
        self.config, self.seed, self.checkpoint, self.group = config, seed, checkpoint, group
        self.parts = config.micro_batches
        if min(config.batch_size, len(pixels)) % self.parts:
            raise CellFailed(
                f"there are {len(pixels)} images, and a batch of them cannot be cut into "
                f"training.micro_batches = {self.parts}: lower training.batch_size"
            )
        AcceleratorState._reset_state()  # one for the process, with the precision of the model before
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision=config.precision)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.pixels = _near(pixels, self.accelerator.device)
        self.condition = None if condition is None else condition.to(self.accelerator.device)
        self.average = {name: value.detach().clone() for name, value in self._trained()}
        self.curve, self.step, self.seconds = Curve(), 0, 0.0
        self._restore()
        if group is not None:
            self._agree(group)

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The parameters that training moves; what another model left frozen stays as it is."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def run(self) -> Iterator[Progress]:
        """Train to the last step, saving a checkpoint as often as configured."""
        self.model.train()
        stretch = max(1, self.config.steps // CURVE_POINTS)
        losses: list[Tensor] = []
        started = time.perf_counter() - self.seconds
        while self.step < self.config.steps:
            losses.append(self._advance())
            self.step += 1
            if self.step % stretch == 0 or self.step == self.config.steps:
                mean = self._checked_mean(losses)
                losses.clear()
                self.seconds = time.perf_counter() - started
                self.curve.step.append(self.step)
                self.curve.loss.append(mean)
                self.curve.seconds.append(self.seconds)
                if self._due(stretch) and (self.group is None or self.group.rank == 0):
                    self._save()
                yield Progress(self.step, self.config.steps, mean)
        self._adopt_average()

    def _due(self, stretch: int) -> bool:
        """Checkpoints fall on ends of stretches, so that no running mean has to be saved."""
        every = max(self.config.checkpoint_every, stretch) // stretch * stretch
        return self.step % every == 0 or self.step == self.config.steps

    def _agree(self, group: Group) -> None:
        """Start where process 0 starts, whatever another may have read or computed a little differently."""
        step = torch.tensor(self.step, device=self.accelerator.device)
        group.spread_([step, *self.model.state_dict().values(), *self.average.values()])
        if int(step) != self.step:
            raise GroupBroken(f"process {group.rank} read a checkpoint of step {self.step}, not {int(step)}")

    def _advance(self) -> Tensor:
        """One optimiser step; the loss stays on the device."""
        step, config = self.step, self.config
        index = batch_indices(len(self.pixels), config.batch_size, self.seed, step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimizer.zero_grad(set_to_none=True)
        if self.parts == 1:
            loss = self._loss(index, step)
            self.accelerator.backward(loss)
        else:
            loss = self._in_parts(index.view(self.parts, -1), step)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self._update_average(step)
        return loss.detach()

    def _loss(self, index: Tensor, *when: int) -> Tensor:
        """The loss of some images with the randomness of (step) or (step, part)."""
        device = self.accelerator.device
        torch.manual_seed(derive_seed("dropout", self.seed, *when))
        generator = torch.Generator(device).manual_seed(derive_seed("loss", self.seed, *when))
        pixels = self.pixels[index.to(self.pixels.device)].to(device)
        with self.accelerator.autocast():
            told = None if self.condition is None else self.condition[index.to(device)]
            loss: Tensor = self.model.loss(pixels, told, generator)
        return loss

    def _in_parts(self, index_MB: Tensor, step: int) -> Tensor:
        """Leave the mean gradient of all micro-batches in place, and return their mean loss."""
        rank, size = (0, 1) if self.group is None else (self.group.rank, self.group.size)
        share = self.parts // size
        if step == 0 and rank > 0:
            with torch.no_grad():  # what a layer takes from the first images it sees, it takes from the same
                self._loss(index_MB[0], step, 0)
        trained, tree = [parameter for _, parameter in self._trained()], TreeSum()
        for part in range(rank * share, (rank + 1) * share):
            loss = self._loss(index_MB[part], step, part)
            self.accelerator.backward(loss)
            zero = torch.zeros(1, device=loss.device)
            grads = [(zero.expand(p.numel()) if p.grad is None else p.grad.flatten()) for p in trained]
            tree.add(torch.cat([*grads, loss.detach().float().reshape(1)]))
            self.optimizer.zero_grad(set_to_none=True)
        total = tree.total()
        if self.group is not None:
            self.group.sum_(total)
        total /= self.parts
        for parameter, grad in zip(trained, total[:-1].split([p.numel() for p in trained]), strict=True):
            parameter.grad = grad.view_as(parameter)
        return total[-1]

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        current: list[Tensor] = [value for _, value in self._trained()]
        torch._foreach_lerp_(list(self.average.values()), current, 1.0 - ema_decay(self.config, step))

    def _checked_mean(self, losses: list[Tensor]) -> float:
        values = torch.stack(losses).double().cpu()
        if not bool(torch.isfinite(values).all()):
            first = self.step - len(losses) + int((~torch.isfinite(values)).nonzero()[0]) + 1
            raise CellFailed(
                f"training diverged: the loss of step {first} of {self.config.steps} is not finite; "
                "lower training.learning_rate"
            )
        return float(values.mean())

    @torch.no_grad()
    def _adopt_average(self) -> None:
        for name, value in self._trained():
            value.copy_(self.average[name])
        self.model.eval()

    def _save(self) -> None:
        arrays = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        arrays |= {f"average.{name}": value for name, value in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        plain = {name: torch.as_tensor(value).cpu().numpy() for name, value in arrays.items()}
        files.write_arrays(
            self.checkpoint, plain | self.curve.arrays(), {"step": self.step, "seconds": self.seconds}
        )

    def _restore(self) -> None:
        """Go on from the checkpoint; a damaged one is as good as none."""
        if not self.checkpoint.is_file():
            return
        try:
            arrays, info = files.read_arrays(self.checkpoint)
        except Exception:  # whatever a damaged file raises, the remedy is to start again
            return
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        self.model.load_state_dict(_under("model.", tensors))
        for name, value in _under("average.", tensors).items():
            self.average[name].copy_(value)
        self.optimizer.load_state_dict(
            {**self.optimizer.state_dict(), "state": _optimizer_state(_under("optimizer.", tensors))}
        )
        self.curve = Curve.of(arrays)
        self.step, self.seconds = int(info["step"]), float(info["seconds"])


def _near(pixels: Tensor, device: torch.device) -> Tensor:
    """On the device, but for what would fill more than a quarter of a GPU: batches of that are moved."""
    if device.type == "cuda" and 4 * pixels.nbytes > torch.cuda.get_device_properties(device).total_memory:
        return pixels
    return pixels.to(device)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return state
