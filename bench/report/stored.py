"""What the shards of a likelihood cell hold beyond its records, as the tables of `ReportData`.

Shapes: n images, T steps of a variational sum, G groups of neighbouring steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.report import LADDERS, NATS, TERMS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from bench.records import Record
    from bench.store import Part

NORMAL = 1.96
GROUPS = 96
"""Steps closer together than this part of the axis are drawn as one."""


def nats_frame(record: Record, parts: Sequence[Part]) -> pd.DataFrame | None:
    """Columns `NATS` of a cell whose shards are all there, images numbered through; None without nats."""
    import numpy as np
    import pandas as pd

    if not parts or any("nats" not in part.arrays for part in parts):
        return None
    nats = np.concatenate([np.asarray(part.arrays["nats"], np.float64) for part in parts])
    key = {"model": record.model, "cell_key": record.cell_key}
    return pd.DataFrame({**key, "image": np.arange(len(nats)), "nats": nats})[list(NATS)]


def terms_frame(record: Record, parts: Sequence[Part]) -> pd.DataFrame | None:
    """Columns `TERMS` of a variational sum; None where a shard has no terms.

    bits = mean over images of a group's nats / (D ln 2); the record's value is that of all nats, which
    gives D ln 2. A group is summed image by image before its interval is taken.
    """
    import numpy as np
    import pandas as pd

    nats = nats_frame(record, parts)
    if nats is None or any("terms" not in p.arrays or "terms.log_snr" not in p.arrays for p in parts):
        return None
    if not record.value or not float(nats["nats"].mean()):
        return None
    edges = np.asarray(parts[0].arrays["terms.log_snr"], np.float64)
    groups = grouped(edges)
    firsts = [start for start, _ in groups]
    sums_nG = np.concatenate(
        [np.add.reduceat(p.arrays["terms"].astype(np.float64), firsts, axis=1) for p in parts]
    )
    bits_nG = sums_nG * (record.value / float(nats["nats"].mean()))
    n = len(bits_nG)
    mean = bits_nG.mean(0)
    error = NORMAL * bits_nG.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.full(len(mean), np.nan)
    columns: dict[str, Any] = {"model": record.model, "cell_key": record.cell_key}
    columns |= {"log_snr_from": edges[firsts], "log_snr_to": edges[[stop for _, stop in groups]]}
    columns |= {"bits": mean, "low": mean - error, "high": mean + error}
    return pd.DataFrame(columns)[list(TERMS)]


def grouped(edges: np.ndarray, most: int = GROUPS) -> list[tuple[int, int]]:
    """Runs [start, stop) of neighbouring steps, closed at a width of 1/`most` of the finite axis.

    A step as wide as that, or one that reaches to infinity, is a run of its own.

    >>> import numpy as np
    >>> grouped(np.array([8.0, 7.9, 7.8, 4.0, 0.0, -np.inf]), most=8)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    import numpy as np

    finite = edges[np.isfinite(edges)]
    least = float(np.ptp(finite)) / most if len(finite) else 0.0
    least *= 1 - 1e-9
    runs, start = [], 0
    for stop in range(1, len(edges)):
        following = abs(edges[stop + 1] - edges[stop]) if stop + 1 < len(edges) else math.inf
        if not (abs(edges[stop] - edges[start]) < least and following < least):
            runs.append((start, stop))
            start = stop
    return runs


def ladder_frame(record: Record, parts: Sequence[Part]) -> pd.DataFrame | None:
    """Columns `LADDERS` of a cell that was also taken at other settings; None where it was not."""
    import pandas as pd

    ladder = parts[0].info.get("ladder") if parts else None
    if not ladder:
        return None
    key = {"model": record.model, "cell_key": record.cell_key}
    return pd.DataFrame([{**key, **rung} for rung in ladder])[list(LADDERS)]
