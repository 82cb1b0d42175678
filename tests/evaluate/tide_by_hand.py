"""TIDE's decomposition in loops over images and detections, and in the `tidecv` package's words where that is there."""

from __future__ import annotations

from typing import Any

import numpy as np

RECALLS = np.linspace(0, 1, 101)
Box = tuple[float, float, float, float]


def iou(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def gains(truths: list[dict], detections: list[dict]) -> dict[str, float]:
    """Points of AP50 by kind of fault; entries have image_id, category_id, bbox and, of detections, score."""
    found = {truth["id"]: None for truth in truths}
    verdicts: list[tuple[str, int | None]] = []
    detections = sorted(detections, key=lambda d: -d["score"])
    for detection in detections:
        free = [t for t in _of(truths, detection, True) if found[t["id"]] is None]
        best = max(free, key=lambda t: iou(t["bbox"], detection["bbox"]), default=None)
        if best is not None and iou(best["bbox"], detection["bbox"]) >= 0.5:
            found[best["id"]] = detection
    for detection in detections:
        hit = next((i for i, by in found.items() if by is detection), None)
        verdicts.append(("hit", hit) if hit is not None else _fault(truths, detection))
    fixable: dict[int, int] = {}
    for place, (kind, truth) in enumerate(verdicts):
        if kind in ("class", "localisation") and found[truth] is None:
            fixable.setdefault(truth, place)  # the surest comes first
    category = {truth["id"]: truth["category_id"] for truth in truths}
    before = _ap50([(d, d["category_id"], v[0] == "hit") for d, v in zip(detections, verdicts, strict=True)], truths)
    result = {}
    for kind in ("class", "localisation", "both", "duplicate", "background"):
        rows = []
        for place, (detection, (what, truth)) in enumerate(zip(detections, verdicts, strict=True)):
            if what != kind:
                rows.append((detection, detection["category_id"], what == "hit"))
            elif fixable.get(truth) == place:
                rows.append((detection, category[truth], True))
        result[kind] = max(_ap50(rows, truths) - before, 0)
    asked = [truth for truth in truths if found[truth["id"]] is not None or truth["id"] in fixable]
    rows = [(d, d["category_id"], v[0] == "hit") for d, v in zip(detections, verdicts, strict=True)]
    result["missed"] = max(_ap50(rows, asked, truths) - before, 0)
    return result


def _of(truths: list[dict], detection: dict, same: bool) -> list[dict]:
    image = [t for t in truths if t["image_id"] == detection["image_id"]]
    return [t for t in image if (t["category_id"] == detection["category_id"]) == same]


def _fault(truths: list[dict], detection: dict) -> tuple[str, int | None]:
    best = {}
    for same in (True, False):
        pairs = [(iou(t["bbox"], detection["bbox"]), -t["id"]) for t in _of(truths, detection, same)]
        best[same] = max(pairs, default=(0.0, 0))
    if 0.1 <= best[True][0] <= 0.5:
        return "localisation", -best[True][1]
    if best[False][0] >= 0.5:
        return "class", -best[False][1]
    if best[True][0] >= 0.5:
        return "duplicate", None
    return ("background" if max(best.values())[0] <= 0.1 else "both"), None


def _ap50(rows: list[tuple[dict, int, bool]], truths: list[dict], before: list[dict] | None = None) -> float:
    values = []
    for category in {truth["category_id"] for truth in before or truths}:
        count = sum(truth["category_id"] == category for truth in truths)
        hits = [hit for _, c, hit in rows if c == category]
        if count and hits:
            true = np.cumsum(hits)
            precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1))[::-1])[::-1]
            at = np.searchsorted(true / count, RECALLS)
            values.append(100 * np.append(precision, 0)[at].mean())
        elif count or hits:
            values.append(0.0)
    return float(np.mean(values))


def package_gains(truths: list[dict], detections: list[dict]) -> dict[str, float]:
    """What `tidecv` says."""
    from tidecv import TIDE, Data

    truth, found = Data("truth"), Data("found")
    for category in {each["category_id"] for each in truths}:
        truth.add_class(category, str(category))
    for image in {each["image_id"] for each in truths + detections}:
        truth.add_image(image, str(image))
    for each in truths:
        truth.add_ground_truth(each["image_id"], each["category_id"], list(each["bbox"]))
    for each in detections:
        found.add_detection(each["image_id"], each["category_id"], each["score"], list(each["bbox"]))
    tide = TIDE()
    run: Any = tide.evaluate(truth, found, mode=TIDE.BOX)
    names = {"Cls": "class", "Loc": "localisation", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
    names["Miss"] = "missed"
    return {names[kind.short_name]: gain for kind, gain in run.fix_main_errors().items()}
