"""DiT as a model (Peebles & Xie 2023, 2212.09748): diffusion whose network is a transformer over patches.

The recipe is that of `models.diffusion`, with the source's choices: a variance learned beside the prediction
under the hybrid objective, and class labels with classifier-free guidance where there are classes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from models.diffusion import DDPM
from models.networks.dit import preset as published


class DiffusionTransformer(DDPM):
    """DDPM with a DiT.

    preset     a published size with its patch, as `S/2`; options given beside it win
    objective  hybrid: the transformer says its reverse variance too; `variance`: learned
    others     patch, width, depth, heads … of `models.networks.dit.DiT`, and those of `models.diffusion.DDPM`
    """

    family: ClassVar[str] = "diffusion transformer"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        preset: str | None = None,
        objective: str = "hybrid",
        variance: str = "learned",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        if "network" in options:
            raise ValueError("A diffusion transformer's network is dit: use the model ddpm for another one.")
        size = published(preset) if preset else {}
        super().__init__(
            shape,
            levels,
            objective=objective,
            variance=variance,
            network="dit",
            dropout=dropout,
            **{**size, **options},
        )
