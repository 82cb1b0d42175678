"""How well scores and decisions tell a pool's clean instances from its faulty ones, by kind of fault."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.data.mini.truth import CLEAN
from harness.record.decisions import Roc, roc

ANY_FAULT = "rest"


def rocs_by_kind(scores: np.ndarray, kinds: np.ndarray) -> dict[str, Roc]:
    """Of clean instances against all others (`rest`) and against each kind of fault, where both have scores.

    scores (N,) float, NaN where unknown; kinds (N,) text, what each instance really is.
    """
    clean = kinds == CLEAN
    faulty = {ANY_FAULT: ~clean} | {kind: kinds == kind for kind in sorted(set(kinds.tolist()) - {CLEAN})}
    curves = {name: roc(scores, clean, bad) for name, bad in faulty.items()}
    return {name: curve for name, curve in curves.items() if curve is not None}


def agreement_by_kind(pasted: pd.DataFrame, kinds: np.ndarray) -> pd.DataFrame:
    """How decisions agree with the truth, a row for each kind of pasted instances.

    pasted: as `read_pasted` gives it; kinds: text by pool row. Columns: kind, instances, accepted, contribution, auroc
    (chance that a clean instance's contribution is above that of one of this kind; for `clean`, of any other).
    """
    kind = kinds[pasted["pool_row"]]
    curves = rocs_by_kind(pasted["contribution"].to_numpy(), kind)
    areas = {CLEAN if name == ANY_FAULT else name: curve.auroc for name, curve in curves.items()}
    frame = pasted.groupby(kind).agg(
        instances=("accepted", "size"), accepted=("accepted", "mean"), contribution=("contribution", "mean")
    )
    frame = frame.loc[sorted(frame.index, key=lambda name: (name != CLEAN, name))]
    return frame.assign(auroc=frame.index.map(areas)).rename_axis("kind").reset_index()
