"""How grids lie: functions of a path and N that give the N + 1 times, on the host in float64.

λ = 2 ln(α/σ) is the log-SNR, σ̃ = σ/α = e^{−λ/2} the noise of Karras et al. 2022 (2206.00364), and
u = σ̃/(1 + σ̃) the time of the straight path α = 1 − u, σ = u of flow matching. i and k count from the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.paths import GaussianPath

GridTimes = tuple[float, ...]
"""N + 1 strictly falling times, the last 0."""

START_LOG_SNR = -10.0
"""Where grids start; just inside the linear-β path, whose noisiest log-SNR is −10.05."""

START_NOISE = math.exp(-0.5 * START_LOG_SNR)
"""σ̃ of the start, e⁵ = 148.4."""

TIMESTEPS = 1000
"""Training times of a discrete chain, which `leading`, `trailing` and `linspace` choose from."""


def shared(path: GaussianPath, steps: int) -> GridTimes:
    """The same noise levels on every path: those of equal steps on the straight path.

    λ_i = 2 ln((1 − u_i)/u_i), u_i = u_0 (1 − i/N), u_0 = 1/(1 + e⁻⁵); then t_i = t(λ_i), t_N = 0.
    """
    start = 1.0 / (1.0 + math.exp(0.5 * START_LOG_SNR))
    return _straight(path, (start * (steps - i) / steps for i in range(steps)))


def uniform(path: GaussianPath, steps: int) -> GridTimes:
    """Equal steps in the path's own time: t_i = t_0 (1 − i/N)."""
    start = path.t_of_log_snr(START_LOG_SNR)
    return tuple(start * (steps - i) / steps for i in range(steps + 1))


def leading(path: GaussianPath, steps: int) -> GridTimes:
    """Every ⌊1000/N⌋-th timestep from the data on: index (N − 1 − k)⌊1000/N⌋, for N = 1 the last.

    This and the next two are the spacings of diffusers and name the same timesteps; index i stands for the
    time t_0 (i + 1)/1000, where a path has the ᾱ_i of a chain. Here the formulas are of whole numbers, so N
    steps are N for every N; the last step jumps to 0, where diffusers' may end at index 0; and a single step
    starts in the noise, where diffusers' leading and linspace have index 0.
    """
    return _chosen(path, ((steps - 1 - k) * (TIMESTEPS // steps) for k in range(steps)), steps)


def trailing(path: GaussianPath, steps: int) -> GridTimes:
    """Equal spacing from the noise on: index round(1000 (N − k)/N) − 1, halves to even. See `leading`."""
    return _chosen(path, (_nearest(TIMESTEPS * (steps - k), steps) - 1 for k in range(steps)), steps)


def linspace(path: GaussianPath, steps: int) -> GridTimes:
    """Both ends included: index round(999 (N − 1 − k)/(N − 1)), for N = 1 the last. See `leading`."""
    last = TIMESTEPS - 1
    return _chosen(path, (_nearest(last * (steps - 1 - k), max(1, steps - 1)) for k in range(steps)), steps)


def log_snr(path: GaussianPath, steps: int, end: float) -> GridTimes:
    """Equal steps of λ from −10 to `end`, then 0 (Lu et al. 2022, 2206.00927)."""
    width = end - START_LOG_SNR
    return (*(path.t_of_log_snr(START_LOG_SNR + width * s) for s in _shares(steps)), 0.0)


def karras(
    path: GaussianPath, steps: int, rho: float, sigma_min: float, sigma_max: float = START_NOISE
) -> GridTimes:
    """Equal steps of σ̃^{1/ρ} from `sigma_max` to `sigma_min`, then 0 (Karras et al. 2022, eq. 5).

    σ̃_i = (σ_max^{1/ρ} + i/(N − 1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ
    """
    first, last = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    noise = ((first + s * (last - first)) ** rho for s in _shares(steps))
    return (*(path.t_of_log_snr(max(START_LOG_SNR, -2.0 * math.log(level))) for level in noise), 0.0)


def shifted(path: GaussianPath, steps: int, shift: float) -> GridTimes:
    """More steps in the noise, for larger images: u_i = u_0 k w/(1 + (k − 1) w), w = 1 − i/N, k the shift.

    k w/(1 + (k − 1) w) keeps 0 and 1, so w counts from u_0 and the start stays that of `shared`; further down
    the shift divides the SNR by k². It is applied once; diffusers' flow-matching schedulers shift their
    lowest level a second time unless they are handed sigmas (Esser et al. 2024, 2403.03206, §5.3.2).
    """
    start = 1.0 / (1.0 + math.exp(0.5 * START_LOG_SNR))
    noise = (shift * (steps - i) for i in range(steps))
    return _straight(path, (start * n / (n + i) for i, n in enumerate(noise)))


def resolution_shifted(path: GaussianPath, steps: int, base: float, shape: Sequence[int]) -> GridTimes:
    """`shifted` with k = √(H·W/base), for noise averages away over H·W entries like 1/√(H·W).

    base  H·W at which the steps are those of `shared`; 1024 is a latent of 32 × 32
    """
    return shifted(path, steps, math.sqrt(shape[-2] * shape[-1] / base))


def native(path: GaussianPath, steps: int) -> GridTimes:
    """Only a name, for the grid that a sampler's authors use it on: see `Grid.resolved`."""
    raise ValueError("Grid native stands for that of a sampler: without one, name the grid itself.")


def _straight(path: GaussianPath, levels: Iterable[float]) -> GridTimes:
    """Times of levels of noise given as u, and 0."""
    return (*(path.t_of_log_snr(2.0 * math.log((1.0 - u) / u)) for u in levels), 0.0)


def _chosen(path: GaussianPath, indices: Iterable[int], steps: int) -> GridTimes:
    """Times of some of the 1000 timesteps, and 0; a single step is the last timestep."""
    start = path.t_of_log_snr(START_LOG_SNR)
    found = (TIMESTEPS - 1,) if steps == 1 else indices
    return (*(start * ((index + 1) / TIMESTEPS) for index in found), 0.0)


def _nearest(numerator: int, denominator: int) -> int:
    """The whole number nearest to a fraction, halves to even, without a float."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def _shares(steps: int) -> list[float]:
    """0 to 1 in N equal steps, the first alone where N is 1."""
    return [i / max(1, steps - 1) for i in range(steps)]
