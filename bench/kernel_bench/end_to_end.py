"""Images a second of a whole DiT: ours by several ways beside diffusers' DiTPipeline, on the same weights.

Guided DDIM on random weights, latents as images. Ways of ours: the plain network; the fused kernels; the same
with each step compiled; the same with the whole loop as one CUDA graph. Their autoencoder is as small as one
can be, so that what is timed is the transformer, its scheduler and guidance. All ways take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.kernel_bench.timing import Times, interleaved
from bench.peers.dit_weights import published_names
from kernels.launch import runs_triton
from models.diffusion_transformer import DiffusionTransformer
from models.networks.dit import SIZES
from models.published_weights import load_dit
from models.samplers import sampler
from models.seeds import Seeds

WEIGHT = 4.0
"""Of guidance, as the published images have it."""
CLASSES = 1000


@dataclass(frozen=True)
class Setting:
    """A DiT and how it is sampled: width, depth, heads; side of the latents; images and steps."""

    width: int = SIZES["XL"].width
    depth: int = SIZES["XL"].depth
    heads: int = SIZES["XL"].heads
    side: int = 32
    images: int = 16
    steps: int = 50
    repeats: int = 3
    dtype: str = "bfloat16"


SMOKE = Setting(width=32, depth=2, heads=2, side=8, images=2, steps=3, dtype="float32")


@dataclass(frozen=True)
class Way:
    """One way: median images a second with the range of all repeats; or why there is none.

    shares  of the time of one run, by what the kernels do, where a GPU tells
    """

    name: str
    images_per_second: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    shares: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return asdict(self)


class InDtype(nn.Module):
    """A network computed in a dtype of its own, between states of the sampler's."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x: Tensor, t_B: Tensor, *told: Tensor) -> Tensor:
        """As the network's own."""
        said: Tensor = self.network(x.to(self.dtype), t_B, *told)
        return said.to(x.dtype)


def ways(setting: Setting, device: torch.device) -> list[Way]:
    """All of them, timed in turn."""
    theirs = _transformer(setting)
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "diffusers": lambda: _diffusers(setting, device, theirs),
        "ours, PyTorch's attention": lambda: _ours(setting, device, theirs, "auto", "eager"),
        "ours, fused": lambda: _ours(setting, device, theirs, "triton", "eager"),
        "ours, fused, compiled": lambda: _ours(setting, device, theirs, "triton", "compiled"),
        "ours, fused, CUDA graph": lambda: _ours(setting, device, theirs, "triton", "cuda-graph"),
    }
    calls: dict[str, Callable[[], object]] = {}
    missing: dict[str, str] = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
        except Exception as error:  # a missing package, GPU or somebody's compiler: the others go on
            missing[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            calls[name] = call
    times = interleaved(calls, device, setting.repeats, warmup=1)
    found = [_way(name, times[name], calls[name], setting, device) for name in calls]
    return found + [Way(name, None, note=why) for name, why in missing.items()]


def _way(name: str, times: Times, call: Callable[[], object], setting: Setting, device: torch.device) -> Way:
    rates = sorted(setting.images / seconds for seconds in times.samples)
    spent = shares(call) if device.type == "cuda" else None
    return Way(name, setting.images / times.median, rates[0], rates[-1], shares=spent)


def _ours(
    setting: Setting, device: torch.device, theirs: Any, backend: str, execution: str
) -> Callable[[], object]:
    if backend == "triton" and not runs_triton(device):
        raise ValueError("the fused kernels need an NVIDIA GPU of compute capability 8.0 or newer")
    torch.manual_seed(0)
    model = DiffusionTransformer(
        (4, setting.side, setting.side),
        256,
        width=setting.width,
        depth=setting.depth,
        heads=setting.heads,
        patch=2,
        classes=CLASSES,
        backend=backend,
    )
    network: Any = model.network
    if theirs is not None:
        state = published_names(theirs.state_dict(), setting.depth)
        load_dit(network, state | {"pos_embed": network.pos_embed})
    model.network = InDtype(network, getattr(torch, setting.dtype))
    model.to(device).eval()
    chosen = sampler("ddim", setting.steps, execution=execution)
    seeds = list(range(setting.images))
    labels = torch.arange(setting.images) % CLASSES
    return lambda: model.sample(setting.images, chosen, Seeds(0, seeds), labels, guidance=WEIGHT)


def _transformer(setting: Setting) -> Any:
    """diffusers' network with random weights, which all ways share; None where it is not installed."""
    try:
        import diffusers
    except ImportError:
        return None
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=setting.heads,
        attention_head_dim=setting.width // setting.heads,
        in_channels=4,
        out_channels=8,
        num_layers=setting.depth,
        sample_size=setting.side,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )


def _diffusers(setting: Setting, device: torch.device, transformer: Any) -> Callable[[], object]:
    if transformer is None:
        raise ValueError("diffusers is not installed: pip install diffusers")
    import diffusers

    channels = 32
    vae = diffusers.AutoencoderKL(
        block_out_channels=(channels,), latent_channels=4, norm_num_groups=channels, sample_size=setting.side
    )
    whole: Any = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler())
    whole.to(device, getattr(torch, setting.dtype)).set_progress_bar_config(disable=True)
    labels = [index % CLASSES for index in range(setting.images)]
    return lambda: whole(
        class_labels=labels, guidance_scale=WEIGHT, num_inference_steps=setting.steps, output_type="np"
    )


KINDS = {
    "attention": ("flash", "fmha", "sdpa", "hopper_kernel", "forward_kernel", "attention"),
    "matrix products": ("gemm", "cutlass", "cublas", "nvjet", "matmul", "ampere_", "sm90_xmma"),
    "norms and modulation": ("norm", "modulate", "gate_kernel", "triton_red", "triton_per"),
}
"""Parts of kernel names, looked for in this order."""


def shares(call: Callable[[], object]) -> dict[str, float]:
    """Shares of GPU time of one call by kind of kernel, and `idle`: the part of the wall time without any."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    events = [
        event for event in profiler.events() or [] if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    if not events:
        return {}
    span = max(e.time_range.end for e in events) - min(e.time_range.start for e in events)
    found: dict[str, float] = {}
    for event in events:
        kind = kind_of(event.name)
        found[kind] = found.get(kind, 0.0) + event.time_range.elapsed_us() / span
    return found | {"idle": max(0.0, 1.0 - sum(found.values()))}


def kind_of(name: str) -> str:
    """What a kernel of that name does."""
    lowered = name.lower()
    for kind, words in KINDS.items():
        if any(word in lowered for word in words):
            return kind
    return "other"
