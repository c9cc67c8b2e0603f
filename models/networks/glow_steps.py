"""The layers of a Glow beside its couplings: actnorm, the invertible 1×1 convolution, factoring out.

Shapes: B batch, C channels, H height, W width. Every layer maps x (B, C, H, W) to y of the same shape
and ln|det ∂y/∂x| (B,); `inverse` maps y to x and ln|det ∂x/∂y|. Kingma and Dhariwal 2018 (1807.03039).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.couplings import Chain, CouplingNetwork, Shape, bounded

SMALLEST_DEVIATION = 1e-3
"""Actnorm takes no standard deviation to be less: what never varies would be scaled without limit."""


class ActNorm(nn.Module):
    """y = x·e^s + t, s and t such that the first training batch gets mean 0 and variance 1 (section 3.1).

    s and t have `shape`: (C, 1, 1) is one of each a channel, (C, H, W) one an element. The first forward
    pass in training mode sets them; from then on they are parameters like any other, and `initialised`,
    saved with them, says so.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.s_CHW = nn.Parameter(torch.zeros(shape))
        self.t_CHW = nn.Parameter(torch.zeros(shape))
        self.initialised: Tensor
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not bool(self.initialised):
            self._initialise(x_BCHW)
        return x_BCHW * self.s_CHW.exp() + self.t_CHW, self._log_det(x_BCHW)

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return (y_BCHW - self.t_CHW) * (-self.s_CHW).exp(), -self._log_det(y_BCHW)

    def _log_det(self, x_BCHW: Tensor) -> Tensor:
        return (self.s_CHW.sum() * (x_BCHW.shape[1:].numel() // self.s_CHW.numel())).expand(len(x_BCHW))

    @torch.no_grad()
    def _initialise(self, x_BCHW: Tensor) -> None:
        shared = [0, *(axis + 1 for axis in range(3) if self.s_CHW.shape[axis] == 1)]
        variance, mean = torch.var_mean(x_BCHW.double(), shared, correction=0, keepdim=True)
        log_deviation = variance.sqrt().clamp_min(SMALLEST_DEVIATION).log()
        self.s_CHW.copy_(-log_deviation[0])
        self.t_CHW.copy_((-mean * (-log_deviation).exp())[0])
        self.initialised.fill_(True)


class InvertibleConvolution(nn.Module):
    """y = W·x at every position, W = P·L·(U + diag(σ·e^s)); ln|det| = H·W·Σ s (section 3.2).

    P is a fixed permutation, L lower triangular with a unit diagonal, U strictly upper triangular, σ
    fixed signs. W starts as a random rotation, from the global seed of torch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        permutation_CC, lower_CC, upper_CC = torch.linalg.lu(random_rotation(channels))
        self.order_C: Tensor
        self.sign_C: Tensor
        self.register_buffer("order_C", permutation_CC.argmax(1))
        self.register_buffer("sign_C", upper_CC.diagonal().sign())
        self.s_C = nn.Parameter(upper_CC.diagonal().abs().log())
        self.lower_CC = nn.Parameter(lower_CC.tril(-1))
        self.upper_CC = nn.Parameter(upper_CC.triu(1))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        lower_CC, upper_CC = self._factors()
        return _mix((lower_CC @ upper_CC)[self.order_C], x_BCHW), self._log_det(x_BCHW)

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        # float64: the matrix is small, and its inverse multiplies every position of every image.
        lower_CC, upper_CC = (factor.double() for factor in self._factors())
        eye_CC = torch.eye(len(lower_CC), dtype=torch.float64, device=y_BCHW.device)
        unpermute_CC = eye_CC[self.order_C].T
        half_CC = torch.linalg.solve_triangular(lower_CC, unpermute_CC, upper=False, unitriangular=True)
        weight_CC = torch.linalg.solve_triangular(upper_CC, half_CC, upper=True)
        return _mix(weight_CC.to(y_BCHW.dtype), y_BCHW), -self._log_det(y_BCHW)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(σ·e^s), each (C, C)."""
        lower_CC = self.lower_CC.tril(-1) + torch.eye(len(self.s_C)).to(self.lower_CC)
        return lower_CC, self.upper_CC.triu(1) + torch.diag(self.sign_C * self.s_C.exp())

    def _log_det(self, x_BCHW: Tensor) -> Tensor:
        return (self.s_C.sum() * (x_BCHW.shape[2] * x_BCHW.shape[3])).expand(len(x_BCHW))


class FactorOut(nn.Module):
    """The second half of the channels ends here: z = (x₂ − μ(x₁))·e^−s(x₁); x₁ goes on through `rest`.

    This is the learned conditional Gaussian prior N(μ(x₁), e^2s(x₁)) of a multi-scale flow (Dinh et al.
    2017, section 3.6; Kingma and Dhariwal 2018, figure 2b), written as a bijection to N(0, I).

    rest  a bijection of (C/2, H, W)
    """

    def __init__(self, shape: Shape, rest: Chain, features: int, depth: int, dropout: float) -> None:
        super().__init__()
        C, H, W = shape
        self.rest = rest
        self.prior = CouplingNetwork((C // 2, H, W), C, features, depth, dropout)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        kept_BCHW, x_BCHW = x_BCHW.chunk(2, 1)
        mean_BCHW, s_BCHW = self._prior(kept_BCHW)
        z_BCHW, log_det_B = self.rest(kept_BCHW)
        out_BCHW = (x_BCHW - mean_BCHW) * (-s_BCHW).exp()
        return torch.cat([z_BCHW, out_BCHW], 1), log_det_B - s_BCHW.flatten(1).sum(1)

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        z_BCHW, out_BCHW = y_BCHW.chunk(2, 1)
        kept_BCHW, log_det_B = self.rest(z_BCHW, inverse=True)
        mean_BCHW, s_BCHW = self._prior(kept_BCHW)
        x_BCHW = out_BCHW * s_BCHW.exp() + mean_BCHW
        return torch.cat([kept_BCHW, x_BCHW], 1), log_det_B + s_BCHW.flatten(1).sum(1)

    def _prior(self, kept_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """μ and s, the logarithm of the standard deviation, of the half that is factored out."""
        mean_BCHW, raw_BCHW = self.prior(kept_BCHW).chunk(2, 1)
        return mean_BCHW, bounded(raw_BCHW)


def random_rotation(size: int) -> Tensor:
    """A uniformly random rotation (size, size), float32, from the global seed of torch."""
    q, r = torch.linalg.qr(torch.randn(size, size))
    q = q * r.diagonal().sign()
    return torch.cat([q[:, :1] * torch.linalg.det(q).sign(), q[:, 1:]], 1)


def _mix(weight_CC: Tensor, x_BCHW: Tensor) -> Tensor:
    return F.conv2d(x_BCHW, weight_CC[:, :, None, None])
