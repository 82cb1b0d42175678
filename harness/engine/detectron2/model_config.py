"""From a detectron2 configuration, by name or path, to a model with our classes, classes' frequencies and backbone."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from harness.engine.detectron2.backbones import Trunk, fit, pyramid
from harness.engine.detectron2.catalogs import class_image_count, describe_classes
from harness.errors import UserError, first_line, nearest

ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"
# Without `engine.config`: this one, on the backbone of the configuration group.
DEFAULT = "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


@dataclass(frozen=True)
class Built:
    """A model, the channel order it takes (RGB or BGR), and the weights that its configuration names."""

    model: nn.Module
    channels: str
    weights: str


def build_from(
    name: str, overrides: Sequence[str], trunk: Trunk | None, dataset: str, image_counts: np.ndarray, num_classes: int
) -> Built:
    """Builds on the CPU, on `trunk` in place of the configuration's own backbone where one is given.

    `overrides` are KEY=VALUE in the configuration's own names; `dataset` is the name in the catalogs, without `_train`.
    Raises UserError for a configuration or override that cannot be read or built.
    """
    path = find_config(name)
    describe_classes(dataset, num_classes, image_counts)
    if path.suffix == ".py":
        return _build_lazy(path, overrides, num_classes)
    return _build_yaml(path, overrides, trunk, dataset, image_counts, num_classes)


def find_config(name: str) -> Path:
    """The path of a configuration: a file, or one of detectron2's model zoo by its name there. Raises UserError."""
    for path in (Path(name).expanduser(), ZOO / name):
        if path.is_file() and path.suffix in (".yaml", ".yml", ".py"):
            return path
    known = [str(path.relative_to(ZOO)) for path in ZOO.rglob("*") if path.suffix in (".yaml", ".py")]
    raise UserError(
        f"engine.config={name}: neither a .yaml or .py file nor a configuration of detectron2's model zoo; "
        f"{nearest(name, known)}"
    )


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    for text in overrides:
        if "=" not in text:
            raise UserError(f"engine.overrides: '{text}' is not KEY=VALUE, such as MODEL.RESNETS.DEPTH=18")
    return [(key.strip(), value.strip()) for key, _, value in (text.partition("=") for text in overrides)]


# ------------------------------------------------------------------------------------------------ yaml


def _build_yaml(
    path: Path, overrides: Sequence[str], trunk: Trunk | None, dataset: str, image_counts: np.ndarray, num_classes: int
) -> Built:
    cfg = get_cfg()
    _add_projects(cfg, path)
    try:
        cfg.merge_from_file(str(path))
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"engine.config={path}: {first_line(error)}") from error
    if trunk is not None:
        fit(cfg)
    for key, value in _pairs(overrides):
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, ValueError, AssertionError) as error:
            known = _keys(cfg)
            why = first_line(error) if key in known else nearest(key, known)
            raise UserError(f"engine.overrides: {key}={value}: {why}") from error
    cfg.MODEL.DEVICE = "cpu"  # moved by the harness
    cfg.DATASETS.TRAIN = (f"{dataset}_train",)
    for head in ("ROI_HEADS", "RETINANET", "CENTERNET"):
        if head in cfg.MODEL:
            cfg.MODEL[head].NUM_CLASSES = num_classes
    with _frequencies_file(cfg, num_classes, image_counts):
        model = _checked(lambda: build_model(cfg), path)
    if trunk is not None:
        model.backbone = pyramid(cfg, trunk)
    return Built(model, cfg.INPUT.FORMAT, cfg.MODEL.WEIGHTS)


def _keys(tree: CfgNode, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]
    return keys


def _add_projects(cfg: CfgNode, path: Path) -> None:
    """CenterNet2 registers its modules and keys when it is imported; detectron2 itself ships it no longer."""
    base = path.read_text()
    if importlib.util.find_spec("centernet") is not None:
        importlib.import_module("centernet.config").add_centernet_config(cfg)
        importlib.import_module("centernet")
    elif "CENTERNET" in base or "CenterNet" in base:
        raise UserError(
            f"engine.config={path} needs the project CenterNet2 (github.com/xingyizhou/CenterNet2): put its folder, "
            "which holds the package `centernet`, on PYTHONPATH"
        )


@contextlib.contextmanager
def _frequencies_file(cfg: CfgNode, num_classes: int, image_counts: np.ndarray) -> Iterator[None]:
    """CenterNet2 reads the training images per class from a file while it is built."""
    if "CAT_FREQ_PATH" not in cfg.MODEL.ROI_BOX_HEAD:
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(class_image_count(num_classes, image_counts), file)
        file.flush()
        cfg.MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH = file.name
        yield


# ------------------------------------------------------------------------------------------------ lazy


def _build_lazy(path: Path, overrides: Sequence[str], num_classes: int) -> Built:
    cfg = _checked(lambda: LazyConfig.load(str(path)), path)
    if not isinstance(cfg, DictConfig) or "model" not in cfg:
        raise UserError(f"engine.config={path}: expected a LazyConfig with `model`")
    place = cfg.model.roi_heads if "roi_heads" in cfg.model else cfg.model
    place.num_classes = num_classes
    for key, value in _pairs(overrides):
        try:
            cfg = LazyConfig.apply_overrides(cfg, [f"{key}={value}"])
        except Exception as error:  # Hydra's parser, OmegaConf and detectron2 raise classes of their own
            raise UserError(f"engine.overrides: {key}={value}: {first_line(error)}") from error
    model = _checked(lambda: instantiate(cfg.model), path)
    weights = cfg.train.get("init_checkpoint", "") if "train" in cfg else ""
    return Built(model, getattr(model, "input_format", None) or "BGR", weights or "")


def _checked(make: Any, path: Path) -> Any:
    try:
        return make()
    except UserError:
        raise
    except Exception as error:  # a configuration is the user's code as well as data, and may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]  # many of detectron2's assertions say nothing else
        where = f"{Path(place.filename).name}, line {place.lineno}: {place.line}"
        message = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"engine.config={path}: {message} ({where})") from error
