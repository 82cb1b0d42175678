"""A report's specification: what its YAML may say, read and checked.

    title, description   shown at the head of the page; heading: what the rows are
    filters              settings that every record of the report has
    group                {setting: {value: heading}}: one table for each heading, whose first value names it
    rows                 key -> label, about, where (the key as the record's name without), each, published
    columns              of `COLUMNS`, in the order of the table
    baseline             row key, or several: the first is what rows are tested against
    primary              the one column whose differences earn stars (AP_r of masks without)
    gain                 {of: ROW, over: ROW}: what the first, an oracle, has over the second, of which rows recover a
                         share
    level                of intervals
    published            the table of published results that rows are set beside: a name, or one for each group's value
    decimals             of the displayed metrics
    figures              each {kind: one of FIGURES, title, ...}

Every name is checked; a misspelt one raises ValueError that names the file and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.record.names import nearest
from harness.record.reading import MOST_LABEL, is_name, read_yaml

FOLDER = Path(__file__).parent
MOST_DECIMALS = 6
IOU_TYPES = {"box": "bbox", "mask": "segm"}
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    base and superscript and subscript make its heading. metric: in percent of AP, compared with baselines and papers.
    scale turns the record's figure into the displayed one.
    """

    key: str
    base: str
    superscript: str = ""
    subscript: str = ""
    metric: bool = False
    scale: float = 1.0
    decimals: int | None = None  # the spec's own number where None
    unit: str = ""
    about: str = ""

    @property
    def plain(self) -> str:
        """The heading as one line of text."""
        parts = [self.base, f"_{self.subscript}" if self.subscript else ""]
        return "".join(parts) + (f"^{self.superscript}" if self.superscript else "") + self.suffix

    @property
    def spoken(self) -> str:
        """The heading in words: rare AP, box."""
        words = (
            f"{FREQUENCIES[self.subscript]} {self.base}"
            if self.subscript in FREQUENCIES
            else self.base + self.subscript
        )
        return f"{words}, {self.superscript}" if self.superscript else words

    @property
    def suffix(self) -> str:
        """The unit in brackets, to follow the heading; empty without a unit."""
        return f" ({self.unit})" if self.unit else ""


def _metric_column(metric: str, kind: str) -> Column:
    return Column(f"{metric}_{kind}", "AP", kind, metric[2:], metric=True)


COLUMNS: dict[str, Column] = {
    column.key: column
    for column in [
        *(_metric_column(metric, kind) for metric in METRICS for kind in IOU_TYPES),
        Column(
            "acceptance_rate",
            "accepted",
            scale=100,
            decimals=0,
            unit="%",
            about="what the method kept of what it judged: batches, images or instances",
        ),
        Column("time_ratio", "time ×", decimals=2, about="seconds a training step over the first baseline row's"),
        Column("train_minutes", "training", decimals=1, unit="min"),
        Column("peak_gpu_gb", "GPU memory", decimals=1, unit="GB"),
        Column("peak_host_gb", "host memory", decimals=1, unit="GB"),
    ]
}
PRIMARY = "APr_mask"
PAPER_COLUMNS = ("AP_box", "AP_mask", "APr_box", "APr_mask")
FIGURES: dict[str, tuple[str, ...]] = {
    "rows": ("columns",),
    "curve": ("x", "x_label", "numbers", "lines", "labels", "columns"),
    "training": (),
    "categories": ("iou", "rows"),
    "cost": ("column",),
    "roc": (),
}


@dataclass(frozen=True)
class Row:
    """A row, or, with `each`, one row for every combination of those settings' values among the runs."""

    key: str
    label: str
    about: str
    where: Mapping[str, Any]
    each: tuple[str, ...] = ()
    published: Mapping[str, Any] | None = None

    @property
    def short(self) -> str:
        """The label without what `each` adds to it."""
        return self.label.split("{")[0].rstrip(" ,") if self.each else self.label


@dataclass(frozen=True)
class Figure:
    """A figure to draw: one of the kinds in `FIGURES`, its title, and the kind's own options."""

    kind: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gain:
    """The keys of the rows between which others are placed: of an oracle, over a reference."""

    of: str
    over: str


@dataclass(frozen=True)
class Spec:
    """A checked specification; the module's docstring describes the fields."""

    name: str
    title: str
    description: str
    heading: str
    filters: Mapping[str, Any]
    group: str | None
    group_values: Mapping[str, str]  # those that name a table, with its heading
    group_of: Mapping[str, str]  # every value, with the one that names its table
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    baselines: tuple[str, ...]
    primary: Column | None
    gain: Gain | None
    level: float
    published: Mapping[str | None, str]
    decimals: int
    figures: tuple[Figure, ...]

    @cached_property
    def settings(self) -> list[str]:
        """Every setting that the report looks at."""
        named = [*self.filters, *([self.group] if self.group else [])]
        for row in self.rows:
            named += [*row.where, *row.each]
        for figure in self.figures:
            named += [figure.options[key] for key in ("x", "lines") if key in figure.options]
        return [key for key in dict.fromkeys(named) if key not in COLUMNS]

    def label_in_group(self, label: str, group: str | None) -> str:
        """A row's label where rows of several groups are shown together."""
        return label if group is None else f"{label}, {self.group_values[group]}"

    def label_of(self, key: str) -> str:
        """A row's label, by its key."""
        return next(row.short for row in self.rows if row.key == key)


def spec_names() -> list[str]:
    """The reports that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_spec(name: str) -> Spec:
    """A shipped report's spec by its name, or a YAML file's by its path. Raises ValueError naming file and field."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = nearest(name, spec_names())
            raise ValueError(f"no report '{name[:100]}' comes with the package, and your own end in .yaml; {known}")
    elif not path.is_file():
        raise ValueError(f"report spec {path} does not exist")
    elif not is_name(path.stem):
        raise ValueError(f"{path}: a report is called as its file, by letters, digits, '_-.+'; rename it")
    return _spec(path, read_yaml(path))


def _spec(path: Path, content: Any) -> Spec:
    keys = (
        "title",
        "description",
        "heading",
        "filters",
        "group",
        "rows",
        "columns",
        "baseline",
        "primary",
        "gain",
        "level",
        "published",
        "decimals",
        "figures",
    )
    content = _mapping(path, "the report", content, keys)
    if not content.get("rows"):
        raise ValueError(f"{path}: a report needs rows")
    rows = tuple(_row(path, key, row or {}) for key, row in _mapping(path, "rows", content["rows"]).items())
    group, values = _group(path, content.get("group"))
    first: dict[str, str] = {}
    group_of = {value: first.setdefault(heading, value) for value, heading in values.items()}
    group_values = {value: heading for heading, value in first.items()}
    baselines = _names(path, "baseline", content.get("baseline", []))
    for key in baselines:
        _known(path, "baseline", key, [row.key for row in rows])
    columns = _names(path, "columns", content.get("columns", list(PAPER_COLUMNS)))
    for key in columns:
        _known(path, "column", key, COLUMNS)
    level = content.get("level", 0.95)
    if not (isinstance(level, float) and 0 < level < 1):
        raise ValueError(f"{path}: level is {level!r}; expected a share such as 0.95")
    decimals, figures = content.get("decimals", 1), content.get("figures", [])
    if type(decimals) is not int or not 0 <= decimals <= MOST_DECIMALS:
        raise ValueError(f"{path}: decimals is {str(decimals)[:40]!r}; expected a number from 0 to {MOST_DECIMALS}")
    if not isinstance(figures, list):
        raise ValueError(f"{path}: figures is {str(figures)[:40]!r}; expected a list of them")
    return Spec(
        name=path.stem,
        title=_text(path, "title", content.get("title", path.stem)),
        description=" ".join(str(content.get("description", "")).split()),
        heading=_text(path, "heading", content.get("heading", "method")),
        filters=_mapping(path, "filters", content.get("filters", {})),
        group=group,
        group_values=group_values,
        group_of=group_of,
        rows=rows,
        columns=tuple(COLUMNS[key] for key in columns),
        baselines=baselines,
        primary=_primary(path, content.get("primary"), columns),
        gain=_gain(path, content.get("gain"), rows),
        level=level,
        published=_tables(path, content.get("published"), group_values),
        decimals=decimals,
        figures=tuple(_figure(path, figure, rows) for figure in figures),
    )


def _primary(path: Path, key: Any, columns: tuple[str, ...]) -> Column | None:
    """The column named, else AP_r of masks, else the first metric; None for a report without metrics."""
    metrics = [each for each in columns if COLUMNS[each].metric]
    if key is None:
        return COLUMNS[PRIMARY if PRIMARY in metrics else metrics[0]] if metrics else None
    _known(path, "metric among the columns", key, metrics)
    return COLUMNS[key]


def _gain(path: Path, content: Any, rows: tuple[Row, ...]) -> Gain | None:
    if content is None:
        return None
    content = _mapping(path, "gain", content, ("of", "over"))
    if set(content) != {"of", "over"}:
        raise ValueError(f"{path}: gain names two rows, such as {{of: oracle, over: xpaste}}")
    for key in content.values():
        _known(path, "row", key, [row.key for row in rows])
    return Gain(**content)


def _tables(path: Path, content: Any, groups: Mapping[str, str]) -> dict[str | None, str]:
    """The table of published results by the group's value; one name serves all."""
    if content is None or isinstance(content, str):
        return {} if content is None else dict.fromkeys(groups or [None], content)
    content = {str(key): str(value) for key, value in _mapping(path, "published", content).items()}
    for key in content:
        _known(path, "value of the group", key, groups)
    return dict(content)


def _row(path: Path, key: str, content: Any) -> Row:
    content = _mapping(path, f"rows.{key}", content, ("label", "about", "where", "each", "published"))
    published = content.get("published")
    return Row(
        key=_text(path, "a row's key", key),
        label=_text(path, f"rows.{key}.label", content.get("label", key)),
        about=" ".join(str(content.get("about", "")).split()),
        where=_mapping(path, f"rows.{key}.where", content.get("where", {"name": key})),
        each=_names(path, f"rows.{key}.each", content.get("each", [])),
        published=None if published is None else _mapping(path, f"rows.{key}.published", published),
    )


def _group(path: Path, content: Any) -> tuple[str | None, dict[str, str]]:
    if content is None:
        return None, {}
    content = _mapping(path, "group", content)
    if len(content) != 1:
        raise ValueError(
            f"{path}: group names one setting and its values, such as {{backbone: {{resnet50: ResNet-50}}}}"
        )
    ((setting, values),) = content.items()
    return setting, {
        _text(path, "a group's value", value): _text(path, f"group.{setting}", label)
        for value, label in _mapping(path, f"group.{setting}", values).items()
    }


def _figure(path: Path, content: Any, rows: tuple[Row, ...]) -> Figure:
    content = dict(_mapping(path, "a figure", content))
    kind = content.pop("kind", None)
    _known(path, "kind of figure", kind, FIGURES)
    title = content.pop("title", kind)
    for option, value in content.items():
        _known(path, f"option of the figure '{kind}'", option, FIGURES[kind])
        if option in ("columns", "column"):
            for key in _names(path, option, value):
                _known(path, "column", key, COLUMNS)
        if option == "rows":
            for key in _names(path, option, value):
                _known(path, "row", key, [row.key for row in rows])
    return Figure(kind, _text(path, "a figure's title", title), content)


def _names(path: Path, what: str, value: Any) -> tuple[str, ...]:
    """One word, or several."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {what} is {str(value)[:40]!r}; expected a name or a list of names")
    return tuple(names)


def _text(path: Path, what: str, value: Any) -> str:
    """A word or a line of a table."""
    text = str(value)
    if len(text) > MOST_LABEL or not text.isprintable():
        raise ValueError(f"{path}: {what} is {text[:40]!r}...; expected a line of at most {MOST_LABEL} characters")
    return text


def _mapping(path: Path, what: str, content: Any, keys: Collection[str] = ()) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {what} must be a mapping, not {type(content).__name__}")
    odd = [] if keys else [str(key) for key in content if not str(key).isprintable()]
    if odd:
        raise ValueError(f"{path}: {what} has the key {odd[0][:40]!r}; use one without line breaks")
    for key in content if keys else ():
        _known(path, f"key of {what}", key, keys)
    return content


def _known(path: Path, what: str, name: Any, known: Collection[str]) -> None:
    if not isinstance(name, Hashable) or name not in known:
        raise ValueError(f"{path}: no {what} is called {str(name)[:100]!r}; {nearest(str(name)[:100], known)}")
