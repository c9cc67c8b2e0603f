"""Models by name: built in, offered by other packages, or given as `package.module:Class`.

Another package offers a model through the entry-point group `noisebench.models`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown

if TYPE_CHECKING:
    from models.base import ImageModel

GROUP = "noisebench.models"


@dataclass(frozen=True)
class Builtin:
    """A model that comes with the package; what planning needs of its class, without importing torch.

    likelihood  the kind of number its likelihood is: exact, bound, estimate or n/a
    """

    path: str
    family: str
    likelihood: str
    native_sampler: str | None = None


_AR, _VAE, _FLOW, _DIFFUSION = "autoregressive", "latent variable", "normalizing flow", "diffusion"
_MATCHING = "flow matching"

BUILTIN = {
    "transformer": Builtin("models.autoregressive:AutoregressiveTransformer", _AR, "exact", "ancestral"),
    "pixelcnn": Builtin("models.pixelcnn:PixelCNN", _AR, "exact", "ancestral"),
    "vae": Builtin("models.vae:VAE", _VAE, "bound", "prior"),
    "ladder-vae": Builtin("models.ladder_vae:LadderVAE", _VAE, "bound", "prior"),
    "autoencoder": Builtin("models.autoencoder:Autoencoder", _VAE, "bound", "prior"),
    "realnvp": Builtin("models.normalizing_flow:RealNVP", _FLOW, "exact", "inverse"),
    "glow": Builtin("models.glow:Glow", _FLOW, "exact", "inverse"),
    "spline-flow": Builtin("models.spline_flow:SplineFlow", _FLOW, "exact", "inverse"),
    "tarflow": Builtin("models.tarflow:TarFlow", _FLOW, "exact", "inverse"),
    "ffjord": Builtin("models.continuous_flow:FFJORD", "continuous flow", "estimate", "ode"),
    "ddpm": Builtin("models.diffusion:DDPM", _DIFFUSION, "bound"),
    "vdm": Builtin("models.vdm:VDM", _DIFFUSION, "bound"),
    "edm": Builtin("models.edm:EDM", _DIFFUSION, "bound"),
    "rectified-flow": Builtin("models.flow_matching:RectifiedFlow", _MATCHING, "estimate"),
    "flow-matching": Builtin("models.flow_matching:FlowMatching", _MATCHING, "estimate"),
    "reflow": Builtin("models.reflow:ReflowedFlow", "rectified flow", "estimate"),
    "distilled-flow": Builtin("models.distillation:DistilledFlow", "rectified flow", "n/a", "one-step"),
    "mean-flow": Builtin("models.mean_flow:MeanFlow", _MATCHING, "n/a", "mean-flow"),
    "dit": Builtin("models.diffusion_transformer:DiffusionTransformer", "diffusion transformer", "bound"),
    "latent-diffusion": Builtin("models.latent:LatentDiffusion", "latent diffusion", "estimate"),
    "mm-dit": Builtin("models.text_to_image:TextToImage", "multi-modal diffusion transformer", "estimate"),
}


@functools.cache
def names() -> dict[str, str]:
    """Every registered name with its import path; a package cannot shadow a built-in name."""
    offered = {entry.name: entry.value for entry in metadata.entry_points(group=GROUP)}
    return {**offered, **{name: builtin.path for name, builtin in BUILTIN.items()}}


def import_path(name: str) -> str:
    """`package.module:Class` of a registered name or of an import path, whose module must exist."""
    path = name if ":" in name else names().get(name)
    if path is None:
        raise unknown("model", name, names(), "A model of your own is named package.module:Class.")
    module = path.partition(":")[0]
    _see_working_folder()
    try:
        found = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"Model {name}: no module '{module}' here; run in the folder that holds it.")
    return path


def _see_working_folder() -> None:
    """A model may live in a file beside the suite, as with `python -m`."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def traits(path: str) -> tuple[str, str | None]:
    """Family and native sampler of a model; torch is imported only for a model that is not built in."""
    for builtin in BUILTIN.values():
        if builtin.path == path:
            return builtin.family, builtin.native_sampler
    found = model_class(path)
    return found.family, found.native_sampler


def model_class(path: str) -> type[ImageModel]:
    """The class at an import path; refuses what is not an image model."""
    from models.base import ImageModel

    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"Model {path} cannot be imported: {error}.") from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, ImageModel)):
        valid = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, ImageModel)]
        raise unknown(f"model class in {module_name}", attribute, valid)
    return found


def check_options(path: str, options: dict[str, Any], method: str, what: str) -> None:
    """Every option is a keyword of the model's `method`; else the nearest valid one is named."""
    function = getattr(model_class(path), method)
    reserved = {"self", "shape", "levels", "pixels", "condition", "generator"}
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # the rest belongs to the model's network, which names the nearest itself
    valid = set(parameters) - reserved
    for name in options:
        if name not in valid:
            raise unknown(f"{what} of {path}", name, valid)


def nll_options(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a model's `nll` as given, and its defaults for the others."""
    found: Any = model_class(path)
    if hasattr(found, "likelihood_options"):
        return {**found.likelihood_options(options.get("estimator", "")), **options}
    parameters = inspect.signature(found.nll).parameters.values()
    return {**{one.name: one.default for one in parameters if one.default is not one.empty}, **options}


def build(path: str, options: dict[str, Any], shape: tuple[int, int, int], levels: int) -> ImageModel:
    """A model with fresh weights; a refused option becomes one sentence."""
    check_options(path, options, "__init__", "option")
    try:
        return model_class(path)(shape, levels, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Model {path}: {error}") from error
