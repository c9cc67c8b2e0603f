"""Images of any origin measured against real ones, without a suite: what `noisebench evaluate` calls.

from bench.evaluate import evaluate
from bench.images import open_images

rows = evaluate(open_images("samples/"), open_images("photos.zip"), "inception-v3-tf", ["fid", "kid"])
"""

from __future__ import annotations

from bench.evaluate.evaluation import Evaluated, evaluate
from bench.evaluate.measures import MEASURES, names

__all__ = ["MEASURES", "Evaluated", "evaluate", "names"]
