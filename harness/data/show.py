"""A sheet of training views as a method makes them, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from harness.config import RunConfig
from harness.data import sources
from harness.data.contact_sheet import contact_sheet, draw_targets
from harness.data.facts import TrainingFacts
from harness.data.lvis import load_annotations
from harness.data.sample import Sample, View
from harness.data.training import TrainingData, cache_folder, prepare_pool
from methods.contract import Method

SIDE = 400  # pixels that the longer side of a view is enlarged to, about


def show_method(config: RunConfig, method: Method, n: int, out: Path) -> None:
    """Writes a PNG of the first `n` training images as `method` augments them.

    Every instance is outlined and named, pasted ones with a white rim. Raises UserError as training would.
    """
    annotations = load_annotations(sources.train_annotations(config.data), cache_folder(config.data))
    facts = TrainingFacts(annotations)
    pool = prepare_pool(config, method, facts)
    data = TrainingData(config.data, config.seed, annotations, method, pool, facts)
    names = annotations.category_names.tolist()
    samples = [data[position] for position in range(n)]
    pictures = [_picture(sample.augmented or sample.original, names) for sample in samples]
    captions = [_caption(sample, str(annotations.file_names[sample.image_index])) for sample in samples]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(pictures, captions, columns=4)).save(out, format="PNG")


def _picture(view: View, names: list[str]) -> np.ndarray:
    targets = view.targets
    labels = [names[label] if label < len(names) else f"extra category {label}" for label in targets.labels.tolist()]
    return draw_targets(
        view.image.permute(1, 2, 0).numpy().copy(),
        masks=targets.masks.full().numpy(),
        labels=labels,
        highlight=targets.pasted.tolist(),
        zoom=max(1, round(SIDE / max(view.size))),
    )


def _caption(sample: Sample, file_name: str) -> str:
    pasted = 0 if sample.augmented is None else int(sample.augmented.targets.pasted.sum())
    skipped = f", {sum(sample.skipped.values())} unreadable" if sample.skipped else ""
    return f"{file_name}\n{len(sample.drawn_rows)} drawn, {pasted} pasted{skipped}"
