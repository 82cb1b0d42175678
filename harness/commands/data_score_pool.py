"""CLIP scores of a pool's instances, as X-Paste filters by them: the work of `harness data score-pool`."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from harness.commands.data_pools import located, written
from harness.data.lvis.annotations import Annotations
from harness.data.paste.cutout import ALPHA_THRESHOLD, FaultyInstance, read_rgba
from harness.data.pool.checked import CATEGORY, ISOLATED, MASK_PATH, PATH
from harness.data.pool.numbering import Numbering
from harness.data.pool.sources import FileSource
from harness.errors import UserError, nearest

BATCH = 32
PROMPT = "a photo of {}"
SCORE = "clip_score"


class Encoder(Protocol):
    """What turns pictures and text into vectors of one space."""

    def images(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(n, D) of n (H, W, 3) uint8 RGB pictures."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, D) of n texts."""


def score_pool(source: Path, out: Path, known: Annotations, encoder: Encoder) -> str:
    """Writes the pool with the column clip_score: 100 times the cosine between an instance and its category's name.

    The picture is white outside of the mask; categories beyond the dataset's, and pictures that cannot be read, have no
    score. Raises UserError. Source: X-Paste (2212.03863), which asks for "a photo of NAME".
    """
    table = located(source, Numbering(known))
    names = [str(name).replace("_", " ") for name in known.category_names]
    categories = table.column(CATEGORY).to_numpy()
    if SCORE in table.column_names:
        table = table.drop_columns(SCORE)
    asked = np.unique(categories[categories < len(names)])
    texts = dict(zip(asked.tolist(), _unit(encoder.texts([PROMPT.format(names[c]) for c in asked])), strict=True))
    scores = np.full(len(table), np.nan)
    with tqdm(total=len(table), desc="score pool", unit="instance", disable=None) as bar:
        for start in range(0, len(table), BATCH):
            rows = [row for row in range(start, min(start + BATCH, len(table))) if int(categories[row]) in texts]
            pictures = {row: picture for row in rows if (picture := _on_white(table, row)) is not None}
            if pictures:
                found = _unit(encoder.images(list(pictures.values())))
                wanted = torch.stack([texts[int(categories[row])] for row in pictures])
                scores[list(pictures)] = (100 * (found * wanted).sum(1)).double().cpu().numpy()
            bar.update(min(BATCH, len(table) - start))
    table = table.append_column(SCORE, pa.array(scores, from_pandas=True))
    return f"{written(table, out)}, {np.isfinite(scores).sum()} with a score"


def open_clip_encoder(model: str, weights: Path, device: str) -> Encoder:
    """CLIP by open_clip, with weights from a local file of any format that it reads, OpenAI's TorchScript too.

    Raises UserError when open_clip is not installed, knows no such model, or the weights are not there or not its own.
    """
    try:
        import open_clip
    except ImportError as error:
        raise UserError("scoring needs open_clip: pip install 'bsgal-bench[clip]'") from error
    if model not in (known := open_clip.list_models()):
        raise UserError(f"--model {model}: open_clip has no such model; {nearest(model, known)}")
    if not weights.is_file():
        raise UserError(f"{weights} does not exist; download the weights of {model} first")
    with TemporaryDirectory() as folder:
        try:
            file = _without_program(weights, Path(folder))
            built, _, transform = open_clip.create_model_and_transforms(model, pretrained=str(file), device=device)
        except (RuntimeError, pickle.UnpicklingError, ValueError, KeyError) as error:
            raise UserError(f"{weights} holds no weights of {model}; name its model with --model") from error
    return _OpenClip(built.eval(), transform, open_clip.get_tokenizer(model), device)


def _without_program(weights: Path, folder: Path) -> Path:
    """The file itself, or, of a TorchScript archive, which torch's safe reader refuses, its tensors in `folder`."""
    if not (zipfile.is_zipfile(weights) and any(name.endswith("constants.pkl") for name in _names(weights))):
        return weights
    tensors = torch.jit.load(str(weights), map_location="cpu").state_dict()
    for key in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's settings, among the tensors
        tensors.pop(key, None)
    file = folder / "weights.pt"
    torch.save(dict(tensors), file)
    return file


def _names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


@dataclass
class _OpenClip:
    model: Any
    transform: Any
    tokenizer: Any
    device: str

    @torch.no_grad()
    def images(self, pictures: Sequence[np.ndarray]) -> Tensor:
        from PIL import Image

        batch = torch.stack([self.transform(Image.fromarray(picture)) for picture in pictures])
        encoded: Tensor = self.model.encode_image(batch.to(self.device))
        return encoded

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        encoded: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(self.device))
        return encoded


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _on_white(table: pa.Table, row: int) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, white where alpha is at most 128; None for a picture that cannot be read."""
    entry = table.slice(row, 1).to_pylist()[0]
    try:
        rgba = read_rgba(FileSource(entry[PATH], entry.get(MASK_PATH), bool(entry.get(ISOLATED))))
    except FaultyInstance:
        return None
    opaque = cv2.extractChannel(rgba, 3) > ALPHA_THRESHOLD
    return np.where(opaque[..., None], rgba[..., :3], np.uint8(255))
