"""Weights of a detector of fewer classes in one of more: DiverGen's extra categories come behind the dataset's own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

CLASSIFIER = "cls_score"  # the layers with a row per class, and a last one for the background


def extend_classifier(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """`tensors` with the classifiers of a detector whose weights are `own`, and a sentence on what was done.

    Rows of known classes and of the background are taken over, those of new classes keep their initialisation. The
    sentence is empty, and the tensors are as they were, where there is no new class.
    """
    fitted = dict(tensors)
    sentence = ""
    for name, theirs in tensors.items():
        mine = own.get(name)
        if CLASSIFIER not in name or mine is None or theirs.shape[1:] != mine.shape[1:] or len(theirs) >= len(mine):
            continue
        known = len(theirs) - 1
        whole = mine.detach().clone()
        whole[:known], whole[-1] = theirs[:known], theirs[-1]
        fitted[name] = whole
        sentence = f"{known} classes are kept, {len(mine) - 1 - known} new ones are initialised"
    return fitted, sentence
