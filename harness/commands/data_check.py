"""`harness data check`: whether a dataset's files are there and whole, and what to download where."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.config import DataConfig
from harness.data.dataset import Dataset
from harness.data.images import TrainingImages
from harness.data.lvis.annotations import Annotations
from harness.data.paste.cutout import FaultyInstance, read_rgba
from harness.data.pool.sources import FileSource
from harness.errors import UserError

OPENED = 32  # images of a split, or of a pool, that are decoded
# LVIS v1's own counts: images, annotations, categories.
LVIS_V1 = {"train": (100_170, 1_270_141, 1203), "val": (19_809, 244_707, 1203)}
DOWNLOADS = {
    "lvis_v1_train.json": "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_train.json.zip (unzip: 1.1 GB)",
    "lvis_v1_val.json": "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip (unzip: 190 MB)",
    "train2017": "http://images.cocodataset.org/zips/train2017.zip (18 GB; 118,287 images)",
    "val2017": "http://images.cocodataset.org/zips/val2017.zip (1 GB; 5,000 images)",
}


@dataclass
class Findings:
    """What a check found, line by line; `complete` is False when something is missing, wrong or damaged."""

    lines: list[str] = field(default_factory=list)
    complete: bool = True

    def good(self, text: str) -> None:
        self.lines.append(f"ok       {text}")

    def bad(self, text: str, remedy: str | None = None) -> None:
        self.complete = False
        self.lines.append(f"MISSING  {text}" if remedy else f"WRONG    {text}")
        if remedy:
            self.lines.append(f"         get it: {remedy}")

    def __str__(self) -> str:
        end = "complete" if self.complete else "not complete"
        return "\n".join([*self.lines, end])


def check_dataset(data: DataConfig) -> Findings:
    """Checks annotations and their counts, that every image is there, a sample of images, and the pool.

    Counts are compared with the published ones where `data.name` is lvis_v1. Raises nothing for what is missing: the
    findings say it.
    """
    findings, dataset = Findings(), Dataset(data)
    folder = Path(data.root).expanduser()
    if data.name != "mini" and not folder.is_dir():
        findings.bad(f"{folder}, the dataset's folder", "create it, or name yours with data.root=FOLDER")
    splits = {"train": data.train_annotations, "val": data.val_annotations}
    read = {split: _check_annotations(dataset, split, name, findings) for split, name in splits.items()}
    found = {split: annotations for split, annotations in read.items() if annotations is not None}
    if not found:
        for name in ("train2017", "val2017"):
            if not (folder / data.images / name).is_dir():
                findings.bad(f"{folder / data.images / name}", DOWNLOADS[name])
    for split, known in found.items():
        _check_images(split, known, folder / data.images, findings)
    train = found.get("train")
    if data.pool is not None and train is not None:
        _check_pool(dataset, findings)
    return findings


def _check_annotations(dataset: Dataset, split: str, name: str, findings: Findings) -> Annotations | None:
    data = dataset.config
    path = Path(data.root).expanduser() / name
    try:
        if data.name == "mini":
            _ = dataset.root  # made there
        if not path.is_file():
            findings.bad(f"{path}, the {split} annotations", DOWNLOADS.get(path.name, "put it there, or set its path"))
            return None
        annotations = dataset.train if split == "train" else dataset.val
    except UserError as error:
        findings.bad(str(error))
        return None
    counts = len(annotations.image_ids), len(annotations.annotation_ids), len(annotations.category_ids)
    text = f"{path}: {_counted(counts)}"
    if data.name == "lvis_v1" and counts != LVIS_V1[split]:
        findings.bad(f"{text}; LVIS v1 has {_counted(LVIS_V1[split])}: is it another file, or only part of it?")
    else:
        findings.good(text)
    return annotations


def _counted(counts: tuple[int, int, int]) -> str:
    images, annotations, categories = counts
    return f"{images:,} images, {annotations:,} annotations, {categories:,} categories"


def _check_images(split: str, annotations: Annotations, root: Path, findings: Findings) -> None:
    wanted: dict[Path, set[str]] = defaultdict(set)
    for name in annotations.file_names.tolist():
        folder, _, file = name.rpartition("/")
        wanted[root / folder].add(file)
    whole = True
    for folder, files in sorted(wanted.items()):
        missing = files - ({entry.name for entry in os.scandir(folder)} if folder.is_dir() else set())
        if missing:
            whole = False
            some = f", {min(missing)} for one" if folder.is_dir() else ""
            remedy = DOWNLOADS.get(folder.name, f"{folder} from the source of the annotations")
            findings.bad(f"{folder}: {len(missing):,} of the {split} split's {len(files):,} images{some}", remedy)
        else:
            findings.good(f"{folder}: all of the {split} split's {len(files):,} images")
    if whole:
        _open_sample(split, annotations, root, findings)


def _open_sample(split: str, annotations: Annotations, root: Path, findings: Findings) -> None:
    images = TrainingImages(annotations, root)
    sample = _spread(len(annotations.image_ids))
    for index in sample:
        try:
            images.read(index)
        except UserError as error:
            findings.bad(str(error))
            return
    findings.good(f"{len(sample)} images of the {split} split opened, with the sizes that the annotations give")


def _check_pool(dataset: Dataset, findings: Findings) -> None:
    try:
        pool, path = dataset.pool, dataset.pool_file
    except UserError as error:
        findings.bad(str(error))
        return
    text = f"{path}: {len(pool):,} instances of {len(pool.present_categories):,} categories"
    faulty = 0
    sample = _spread(len(pool))
    for row in sample:
        source = pool.source(row)
        try:
            if isinstance(source, FileSource):
                read_rgba(source)
        except FaultyInstance as fault:
            faulty += 1
            last = fault
    if faulty:
        findings.bad(f"{text}; {faulty} of {len(sample)} opened ones cannot be used, such as {last}")
    else:
        findings.good(f"{text}; {len(sample)} opened")


def _spread(count: int) -> list[int]:
    """A few indices below `count`, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, OPENED)).astype(int)).tolist() if count else []
