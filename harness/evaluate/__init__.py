"""Exact and fast LVIS average precision.

`evaluate` does everything in one process. With several ranks, each calls `match` on its own images, and one gathers the
parts and calls `merge` and `accumulate`.
"""

from harness.evaluate.detections import Detections
from harness.evaluate.lvis_ap import Evaluation, accumulate, evaluate
from harness.evaluate.matching import IouType, Matches, match, merge

__all__ = ["Detections", "Evaluation", "IouType", "Matches", "accumulate", "evaluate", "match", "merge"]
