"""TarFlow: an autoregressive flow of causal transformers, with the exact density of each image.

Shapes: B batch, C channels, H height, W width, L tokens, P values of a token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.conditioning import check_share, labels
from models.dequantised_flow import DequantisedFlow
from models.guidance import guide
from models.networks.tarflow import Place, TarFlowBlocks
from models.unconditional import at_least_one


class TarFlow(DequantisedFlow):
    """z_i = (x_i − μ_i(x_<i))·exp(−α_i(x_<i)) on a sequence of patches (Zhai et al. 2024, 2412.06329).

    Every block reads the sequence in the reverse of the order of the one before, and leaves its first
    token as it is. All tokens are transformed at once, so a density is one evaluation of the network. The
    inverse is sequential, with a key-value cache: blocks·(L − 1) evaluations an image, each of one block
    on one token, and twice as many where it is guided.

    Trained with uniform noise of a level's width, on which the paper reports its likelihoods; for its
    samples it trains on wider Gaussian noise and takes it off with a step along the score, which is left
    out here: one set of weights has one density.

    shape    (C, H, W)                           levels   K
    patch    size of a token's square, divides H and W; its P = C·patch² values see the same past
    blocks   of the flow                         width    embedding of each block's transformer
    depth    layers of each transformer          heads    of attention, divide the width
    dropout  while training                      backend  attention backend, see `kernels.attention`
    classes  labels it is told, 0 for none
    condition_dropout  share of the labels withheld in training, which guidance needs
    dequantisation  `uniform` or `variational`  dequantiser  options of the latter: see `Dequantiser`
    """

    network: TarFlowBlocks

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        patch: int = 2,
        blocks: int = 6,
        width: int = 64,
        depth: int = 1,
        heads: int = 4,
        dropout: float = 0.03,
        backend: str = "auto",
        classes: int = 0,
        condition_dropout: float = 0.1,
        dequantisation: str = "uniform",
        dequantiser: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(patch=patch, blocks=blocks, width=width, depth=depth, heads=heads)
        _check_patch(shape, patch)
        check_share(condition_dropout)
        self.conditioning, self.condition_dropout = labels(classes), condition_dropout
        self.network = TarFlowBlocks(
            shape, patch, blocks, width, depth, heads, classes=classes, dropout=dropout, backend=backend
        )
        self.dequantise_by(dequantisation, dequantiser)

    def invert(self, z_BCHW: Tensor, given: tuple[Tensor, ...], guidance: float) -> Tensor:
        """x of z, token after token in each block: x_i = z_i·exp(α_i(x_<i)) + μ_i(x_<i).

        Guided, μ and α are both u + w·(c − u), u with the null label and c with the given one.
        """
        network = self.network
        if guidance != 1.0 and not given:
            raise ValueError("an unconditional TarFlow cannot be guided: leave guidance at 1")
        if guidance == 0.0:
            given, guidance = (self.conditioning.null(len(z_BCHW), z_BCHW.device),), 1.0
        x_BLP = network.to_tokens(z_BCHW)
        for block in reversed(range(len(network.blocks))):
            ordered_BLP = network.order(x_BLP, block)
            x_BLP = network.order(self._invert_block(ordered_BLP, block, given, guidance), block)
        return network.elementwise.inverse(network.to_image(x_BLP))[0]

    def _invert_block(self, z_BLP: Tensor, block: int, given: tuple[Tensor, ...], guidance: float) -> Tensor:
        x_BLP, place = z_BLP.clone(), Place(block)
        for i in range(1, z_BLP.shape[1]):
            place.token = i - 1
            mu_B1P, alpha_B1P = self._next(x_BLP[:, i - 1 : i], given, place, guidance)
            x_BLP[:, i : i + 1] = z_BLP[:, i : i + 1] * alpha_B1P.exp() + mu_B1P
        return x_BLP

    def _next(
        self, x_B1P: Tensor, given: tuple[Tensor, ...], place: Place, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """μ and α of the token after the one at `place`; both labels in one batch where guided."""
        if guidance == 1.0:
            return self.network(x_B1P, *given, place=place)
        label_2B = torch.cat([self.conditioning.null(len(x_B1P), x_B1P.device), *given])
        both = self.network(torch.cat([x_B1P, x_B1P]), label_2B, place=place)
        (mu_u, mu_c), (alpha_u, alpha_c) = (part.chunk(2) for part in both)
        return guide(mu_u, mu_c, guidance), guide(alpha_u, alpha_c, guidance)


def _check_patch(shape: tuple[int, int, int], patch: int) -> None:
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch {patch} does not divide images of {shape[1]}×{shape[2]}: choose a divisor")
    if shape[1] * shape[2] == patch**2:
        raise ValueError(f"TarFlow needs two tokens or more: patch {patch} makes one of a whole image")
