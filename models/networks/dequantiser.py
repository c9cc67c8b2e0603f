"""The dequantiser of variational dequantisation: a flow q(u|k) from noise to the place of y within its bin.

Shapes: B batch, C channels, H height, W width, D = C·H·W, K levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from models.networks.couplings import CouplingNetwork, Shape, bounded, channelwise, checkerboard

EDGE = 2.0**-25
"""u keeps this far from 0 and 1, where k + u would round to a level and the logit of y be infinite."""


class Dequantiser(nn.Module):
    """u = δ + (1 − 2δ)·s(v), s the logistic function, v the couplings of v_0 = logit(u_0), u_0 uniform.

        ln q(u|k) = −Σ ln|∂v/∂v_0| + Σ ln s(v_0)s(−v_0) − Σ ln s(v)s(−v) − D ln(1 − 2δ)

    Ho et al. 2019 ("Flow++", 1902.00275), section 3.1, with affine couplings whose networks also see the
    levels as x(k) in [−1, 1]. The noise v_0 = logit Φ(ε), ε ~ N(0, I), is logistic in place of normal, and
    the couplings start as the identity: q starts uniform, and the tails of q at 0 and 1 fall as powers of u
    and not faster, or the weights p/q would have no variance at any width. Noise and sums are float64; the
    networks compute in the precision of their weights.

    shape      (C, H, W)                          couplings  half of u a coupling, in turn
    features   of a coupling network              depth      residual blocks of a coupling network
    """

    def __init__(self, shape: Shape, *, couplings: int = 4, features: int = 16, depth: int = 1) -> None:
        super().__init__()
        masks = (_mask(shape, i) for i in range(couplings))
        self.layers = nn.ModuleList(ToldCoupling(mask_CHW, features, depth) for mask_CHW in masks)

    def forward(self, x_BCHW: Tensor, noise_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """u in (0, 1)^D and ln q(u|k), (B,), of uniform noise u_0 in (0, 1)^D; both float64.

        x  the levels as a signed image x(k), in the precision of the weights
        """
        v_BCHW = torch.logit(noise_BCHW.double())
        log_q_B = _slope(v_BCHW) - self._constant(v_BCHW)
        for layer in self.layers:
            v_BCHW, log_det_B = layer(v_BCHW, x_BCHW)
            log_q_B = log_q_B - log_det_B
        return EDGE + (1 - 2 * EDGE) * torch.sigmoid(v_BCHW), log_q_B - _slope(v_BCHW)

    def log_density(self, x_BCHW: Tensor, u_BCHW: Tensor) -> Tensor:
        """ln q(u|k), (B,) float64, of any u in (δ, 1 − δ)^D: `forward` in reverse."""
        v_BCHW = torch.logit((u_BCHW.double() - EDGE) / (1 - 2 * EDGE))
        log_q_B = -_slope(v_BCHW) - self._constant(v_BCHW)
        for layer in reversed(self.layers):
            v_BCHW, log_det_B = layer(v_BCHW, x_BCHW, inverse=True)
            log_q_B = log_q_B + log_det_B
        return log_q_B + _slope(v_BCHW)

    def _constant(self, v_BCHW: Tensor) -> float:
        """D ln(1 − 2δ)."""
        return math.prod(v_BCHW.shape[1:]) * math.log1p(-2 * EDGE)


class ToldCoupling(nn.Module):
    """v ↦ m·v + (1 − m)·(v·e^s + t), s and t from the kept part m·v and from x(k); ln|det| = Σ (1 − m)·s.

    mask  (C, H, W) of ones (kept) and zeros (transformed)
    """

    def __init__(self, mask_CHW: Tensor, features: int, depth: int) -> None:
        super().__init__()
        self.mask_CHW: Tensor
        self.register_buffer("mask_CHW", mask_CHW.float(), persistent=False)
        C, H, W = mask_CHW.shape
        self.network = CouplingNetwork((2 * C, H, W), 2 * C, features, depth, dropout=0.0)

    def forward(self, v_BCHW: Tensor, x_BCHW: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The image of v and ln|det|, (B,); with `inverse` what v is the image of, and that one's."""
        kept_BCHW = v_BCHW.to(x_BCHW.dtype) * self.mask_CHW
        raw_BCHW, t_BCHW = self.network(torch.cat([kept_BCHW, x_BCHW], 1)).double().chunk(2, 1)
        changed_CHW = 1 - self.mask_CHW.double()
        s_BCHW, t_BCHW = bounded(raw_BCHW) * changed_CHW, t_BCHW * changed_CHW
        if inverse:
            return (v_BCHW - t_BCHW) * (-s_BCHW).exp(), -s_BCHW.flatten(1).sum(1)
        return v_BCHW * s_BCHW.exp() + t_BCHW, s_BCHW.flatten(1).sum(1)


def _mask(shape: Shape, index: int) -> Tensor:
    """Checkerboards, and where there are colours every other pair by channel; all of a single number."""
    C, H, W = shape
    if H * W == 1 and C == 1:
        return torch.zeros(shape)
    by_channel = H * W == 1 or (C > 1 and index % 4 > 1)
    return channelwise(shape, index) if by_channel else checkerboard(shape, index)


def _slope(v_BCHW: Tensor) -> Tensor:
    """Σ ln s(v)s(−v), (B,): the slope of s, which is the density of logistic noise."""
    return (logsigmoid(v_BCHW) + logsigmoid(-v_BCHW)).flatten(1).sum(1)
