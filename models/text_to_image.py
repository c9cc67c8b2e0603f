"""Text to image: an MM-DiT on straight lines, Stable Diffusion 3 (Esser et al. 2024, 2403.03206) on pixels.

Trained on uniformly dequantised levels with logit-normal times, so that it has the likelihood of
`models.flow_matching.RectifiedFlow`, here given the caption.

Shapes: B batch, C channels, H height, W width, L words of a caption, E size of a text token.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from models import paths
from models.conditioning import text
from models.flow_matching import RectifiedFlow
from models.gaussian import GaussianPathModel
from models.names import unknown
from models.networks.mmdit import MMDiT
from models.networks.text_encoders import SmallTextEncoder
from models.times import Times

PREDICTIONS = ("velocity", "x0")

FINEST = 0.05
"""Time below which a prediction of x_0 is turned into a velocity as if it were this time."""


class VelocityOfImage(nn.Module):
    """v = (x_t − x̂)/max(t, 0.05), where the network says x̂: the velocity of a network that predicts x_0.

    The squared error of v weighs that of x̂ by 1/t², capped (Li & He 2025, 2511.13720). Being a velocity at
    every t, it stays finite at t = 0, where likelihoods begin.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor, t_B: Tensor, *condition: Tensor) -> Tensor:
        """Arguments of the network."""
        image = self.network(x_BCHW, t_B, *condition)
        return (x_BCHW - image) / t_B.clamp(min=FINEST).view(-1, 1, 1, 1)


class TextToImage(RectifiedFlow):
    """An MM-DiT that predicts the velocity ε − x_0, told a caption by an encoder trained with it.

    vocabulary, length       words (word 0 is the padding) and most words of a caption
    patch, width, depth      of the MM-DiT                  heads  attention heads, divide both widths
    text_width, text_depth   of the text encoder
    dropout                  in both, while training
    condition_dropout        share of captions left out in training
    prediction               what the MM-DiT says: `velocity`, or `x0`, which needs less width for large
                             patches; the loss is that of the velocity either way
    times, time_location, time_scale, time_shift  law of the training times, see `models.times.Times`;
                             `models.networks.mmdit.resolution_shift` says the shift of a larger image
    qk_norm, backend         of the MM-DiT
    """

    family: ClassVar[str] = "multi-modal diffusion transformer"

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        levels: int = 256,
        *,
        vocabulary: int = 64,
        length: int = 24,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        text_width: int = 64,
        text_depth: int = 2,
        dropout: float = 0.0,
        condition_dropout: float = 0.1,
        prediction: str = "velocity",
        times: str = "logit-normal",
        time_location: float = 0.0,
        time_scale: float = 1.0,
        time_shift: float = 1.0,
        qk_norm: str | None = "rms",
        backend: str = "auto",
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ValueError(unknown("prediction of text to image", prediction, PREDICTIONS))
        mmdit = MMDiT(
            shape,
            patch,
            width,
            depth,
            heads,
            context_width=text_width,
            pooled_width=text_width,
            qk_norm=qk_norm,
            dropout=dropout,
            backend=backend,
        )
        # Past the constructor of RectifiedFlow, which is that of a network chosen by name and told labels.
        GaussianPathModel.__init__(
            self,
            shape,
            levels,
            mmdit if prediction == "velocity" else VelocityOfImage(mmdit),
            paths.path("rectified-flow"),
            "velocity",
            Times(times, time_location, time_scale, time_shift),
            conditioning=text(vocabulary, length),
            condition_dropout=condition_dropout,
        )
        self.encoder = SmallTextEncoder(
            vocabulary, length, text_width, text_depth, heads, dropout=dropout, backend=backend
        )

    def embed(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Captions (B, L) as context (B, L, E) and pooled vector (B, E); once a trajectory."""
        return self.encoder(condition)
