"""Optimal transport within a batch: which noise goes with which image, at the least total squared distance.

    π = argmin over permutations Σ_i ‖x_i − ε_π(i)‖²

Pooladian et al. 2023 (2304.14772), Tong et al. 2023 (2302.00482). The noise is only permuted, so that pairs
of a batch still have the data and N(0, I) as their marginals, whatever the size of the batch; paths of
fewer crossings are the gain.

Shapes: B batch, D numbers of an item; items of any shape (B, …).
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assignment(x: Tensor, epsilon: Tensor) -> Tensor:
    """π, (B,) int64 on the device of x: exact, by the Hungarian method on the host, O(B³)."""
    if x.shape != epsilon.shape:
        raise ValueError(
            f"Transport pairs equal batches, and these are {(*x.shape,)} and {(*epsilon.shape,)}."
        )
    # ‖x − ε‖² = ‖x‖² + ‖ε‖² − 2⟨x, ε⟩, and sums of the first two are the same for every permutation.
    cost_BB = -(x.detach().cpu().double().flatten(1) @ epsilon.detach().cpu().double().flatten(1).T)
    if not bool(torch.isfinite(cost_BB).all()):
        return torch.arange(len(x), device=x.device)  # the loss will not be finite either, and is reported
    _, columns = linear_sum_assignment(cost_BB.numpy())
    return torch.as_tensor(columns, dtype=torch.int64, device=x.device)


def coupled(x: Tensor, epsilon: Tensor, condition: Tensor | None = None) -> Tensor:
    """ε permuted so that row i goes with x_i; rows of different conditions never change places.

    Over all of a batch, noise near the images of a class would be given to that class, and p(ε | c) would
    no longer be N(0, I), which is what sampling with c starts from (Cheng & Schwing 2025, 2503.10636).
    Within a class it is; few images of each class in a batch then leave little to gain.

    condition  (B,) or (B, L) integers; None: one condition for all
    """
    if condition is None:
        return epsilon[assignment(x, epsilon)]
    found = torch.empty_like(epsilon)
    _, group_B = torch.unique(condition, dim=0, return_inverse=True)
    for group in range(int(group_B.max()) + 1 if len(x) else 0):
        rows = (group_B == group).nonzero().squeeze(1)
        found[rows] = epsilon[rows][assignment(x[rows], epsilon[rows])]
    return found
