"""From a sweep file to its runs: grids multiplied out, rules applied, parents found, ordered parents first."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.config import RunConfig, Stage
from harness.errors import UserError, nearest, quoting
from harness.launch.sweepfile import Selector, Sweep, text_of
from harness.record.manifest import ExpectedRun

if TYPE_CHECKING:
    from harness.compose import Composed  # imports torch, which `harness status` does without

# A parent may differ from its child in these even where both have them: it is another method, trained otherwise.
_NEVER_SHARED = ("name", "method", "schedule", "recipe", "stage")
_SHARED_IF_POSSIBLE = ("method.", "schedule.", "stage.", "data.pool")


@dataclass
class _Row:
    """A run that is being built: its settings from the sweep, in order; later ones win."""

    axes: dict[str, str]
    settings: dict[str, str]
    wanted: bool = True  # selected by the command line, or only the parent of one that is
    init_from: _Row | None = None
    needs: list[_Row] = field(default_factory=list)
    files: dict[str, _Row] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.axes.items())

    def parents(self) -> list[_Row]:
        return [*([self.init_from] if self.init_from else []), *self.needs, *self.files.values()]


def expand(
    sweep: Sweep, overrides: Sequence[str] = (), progress: Callable[[int, int], None] | None = None
) -> list[ExpectedRun]:
    """The runs of a sweep, parents before children.

    An override of a grid's key picks among the grid's values (`seed=0,1`; parents of what is picked stay) or, where
    the value is not among them, replaces them; any other override applies to every run. `progress` is called with
    (runs composed, all runs). Raises UserError.
    """
    picks, everywhere = _read_overrides(sweep, overrides)
    rows = _rows(sweep, picks)
    for row in rows:
        row.settings |= everywhere
    composer = _Composer()
    lookup = _Lookup(sweep, composer)
    _apply_rules(sweep, rows, lookup, everywhere)
    _find_parents(sweep, rows, lookup)
    kept = _order(sweep, _with_parents([row for row in rows if row.wanted]))
    runs: dict[int, ExpectedRun] = {}
    taken: dict[str, _Row] = {}
    for done, row in enumerate(kept):
        run = _expected(sweep, row, runs, composer)
        if run.run_id in taken:
            raise UserError(f"{sweep.path}: grid: two runs are the same experiment: ({taken[run.run_id]}) and ({row})")
        runs[id(row)], taken[run.run_id] = run, row
        if progress:
            progress(done + 1, len(kept))
    return list(runs.values())


# ------------------------------------------------------------------------------------------------- the command line


def _read_overrides(sweep: Sweep, overrides: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Overrides of grid keys with their values, and all others."""
    picks: dict[str, tuple[str, ...]] = {}
    everywhere: dict[str, str] = {}
    for text in overrides:
        key, values = _parse(text)
        if key in sweep.axes or key == "name":
            picks[key] = values
        elif len(values) > 1:
            raise UserError(f"{text}: '{key}' is not varied by {sweep.path}; give it one value or add it to the grid")
        else:
            everywhere[key] = values[0]
    return picks, everywhere


def given(overrides: Sequence[str], key: str) -> Any:
    """The value of the last override of a key, as Hydra reads it; None without one. Raises UserError."""
    texts = [text for text in overrides if text.startswith(f"{key}=")]
    if not texts:
        return None
    _parse(texts[-1])
    return OverridesParser.create().parse_override(texts[-1]).value()


def _parse(text: str) -> tuple[str, tuple[str, ...]]:
    """Key (with Hydra's + where given) and the text of each value of an override."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"cannot read the override '{text}': {quoting(text)}") from error
    key, _, value = text.partition("=")
    if override.is_sweep_override():
        return key, tuple(str(item) for item in override.sweep_string_iterator())
    return key, (value,)


def _rows(sweep: Sweep, picks: dict[str, tuple[str, ...]]) -> list[_Row]:
    rows: list[_Row] = []
    names = (*sweep.axes.get("name", ()), *sweep.axes.get("method", ()))
    for name in picks.get("name", ()):
        if name not in names:
            raise UserError(f"name={name}: {sweep.path} has no such row; {nearest(name, names)}")
    filters = {key: values for key, values in picks.items() if key == "name" or set(values) <= set(sweep.axes[key])}
    defaults = dict(text.split("=", 1) for text in sweep.defaults)
    for grid in sweep.grids:
        axes = {key: values if key in filters else picks.get(key, values) for key, values in grid.items()}
        for combination in itertools.product(*axes.values()):
            own = dict(zip(axes, combination, strict=True))
            row = _Row(axes=own, settings=defaults | own)
            row.wanted = all(_given(row, key) in values for key, values in filters.items())
            rows.append(row)
    if not any(row.wanted for row in rows):
        asked = " ".join(f"{key}={','.join(values)}" for key, values in picks.items())
        raise UserError(f"{sweep.path}: no run has {asked}")
    return rows


# --------------------------------------------------------------------------------------------- selecting and rules


def _given(row: _Row, key: str) -> str | None:
    """What the sweep sets a key to; a row without a name has its method's."""
    if key == "name" and "name" not in row.settings:
        key = "method"
    return row.settings.get(key)


class _Composer:
    """Composes configurations, once for all runs that differ only in plain fields at the top of RunConfig."""

    def __init__(self) -> None:
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], Composed] = {}
        self._choices: dict[tuple[str, ...], dict[str, str | None]] = {}

    def compose(self, settings: Mapping[str, str], **parents: Any) -> Composed:
        """Composes these overrides; `parents` are the values of init_from and needed_runs. Raises UserError."""
        from harness.compose import compose

        own = _seed_and_name(settings) | parents
        shared = tuple(f"{key}={value}" for key, value in settings.items() if key not in own)
        if any("${" in text for text in shared):  # may well refer to what is the run's own
            return compose(_overrides(settings))
        alike = (shared, tuple(own))
        if alike not in self._composed:
            self._composed[alike] = compose(_overrides(settings))
        composed = self._composed[alike]
        return dataclasses.replace(composed, config=dataclasses.replace(composed.config, **own))

    def choices(self, settings: Mapping[str, str]) -> dict[str, str | None]:
        """The chosen option of every configuration group. Raises UserError."""
        from harness.compose import group_choices

        overrides = tuple(_overrides(settings))
        if overrides not in self._choices:
            self._choices[overrides] = group_choices(overrides)
        return self._choices[overrides]


def _seed_and_name(settings: Mapping[str, str]) -> dict[str, Any]:
    """A run's seed and name as RunConfig has them, where it is given any."""
    own: dict[str, Any] = {"name": settings["name"]} if "name" in settings else {}
    if settings.get("seed", "").isdecimal():
        own["seed"] = int(settings["seed"])
    return own


class _Lookup:
    """The final settings of a run, for `when` and for finding parents: given, a group's option, or composed."""

    def __init__(self, sweep: Sweep, composer: _Composer) -> None:
        self._sweep = sweep
        self._composer = composer
        self._groups = tuple(composer.choices({}))

    def matches(self, row: _Row, selector: Selector, where: str) -> bool:
        return all(self.value(row, key, where) in values for key, values in selector.items())

    def value(self, row: _Row, key: str, where: str) -> str:
        given = _given(row, key)
        if given is not None:
            return given
        key = "method" if key == "name" else key
        with _errors_of(self._sweep, row):
            if key in self._groups:
                return text_of(self._composer.choices(self._choosing(row))[key])
            settings = self._composer.compose(row.settings).settings
        if key not in settings:
            raise UserError(
                f"{self._sweep.path}: {where}: no such key '{key}'; {nearest(key, [*settings, *self._groups])}"
            )
        return text_of(settings[key])

    def comes_to(self, row: _Row, key: str, value: str) -> bool:
        """Whether a run has this option of a group, by its recipe too."""
        return key in self._groups and self.value(row, key, "") == value

    def _choosing(self, row: _Row) -> dict[str, str]:
        """Those of a run's settings that the options of its groups follow from, in which few runs differ."""
        return {key: row.settings[key] for key in row.settings if key in (*self._groups, "method_paths")}


@contextmanager
def _errors_of(sweep: Sweep, row: _Row) -> Iterator[None]:
    """Adds the sweep's file and the run to an error about the run."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{sweep.path}: the run ({row}): {error}") from error


def _apply_rules(sweep: Sweep, rows: Sequence[_Row], lookup: _Lookup, everywhere: dict[str, str]) -> None:
    for rule in sweep.rules:
        _check_values(sweep, rule.when, rows, lookup, "rules: when")
        for row in rows:
            if lookup.matches(row, rule.when, "rules: when"):
                row.settings |= rule.settings | everywhere


def _check_values(sweep: Sweep, selector: Selector, rows: Sequence[_Row], lookup: _Lookup, where: str) -> None:
    """Raises UserError for a value that no grid and no recipe gives its key, since it would select nothing."""
    for key, values in selector.items():
        known = set(sweep.axes.get(key, ())) | set(sweep.axes.get("method", ()) if key == "name" else ())
        settable = {rule.settings[key] for rule in sweep.rules if key in rule.settings}
        defaults = {text.partition("=")[2] for text in sweep.defaults if text.startswith(f"{key}=")}
        for value in values:
            if key not in sweep.axes or value in known | settable | defaults:
                continue
            if not any(lookup.comes_to(row, key, value) for row in rows):
                raise UserError(f"{sweep.path}: {where}: no run has {key}={value}; {nearest(value, list(known))}")


# ------------------------------------------------------------------------------------------------------- parents


def _find_parents(sweep: Sweep, rows: Sequence[_Row], lookup: _Lookup) -> None:
    for entry in sweep.after:
        _check_values(sweep, entry.when, rows, lookup, "after: when")
        for row in rows:
            if not lookup.matches(row, entry.when, "after: when"):
                continue
            if entry.init_from:
                row.init_from = _parent(sweep, row, entry.init_from, rows, lookup, "after: init_from")
            for need in entry.needs:
                row.needs.append(_parent(sweep, row, need, rows, lookup, "after: needs"))
            for option, stage in entry.files.items():
                row.files[option] = _parent(sweep, row, stage, rows, lookup, f"after: files: {option}")


def _parent(sweep: Sweep, child: _Row, selector: Selector, rows: Sequence[_Row], lookup: _Lookup, where: str) -> _Row:
    """The one run that `selector` names and that agrees with the child on every axis that both have.

    Where none agrees on all, options of the method, the schedule and the pool may differ.
    """
    _check_values(sweep, selector, rows, lookup, where)
    named = [row for row in rows if row is not child and lookup.matches(row, selector, where)]
    for lenient in (False, True):
        found = [row for row in named if _agree(row, child, selector, lenient)]
        if found:
            break
    if len(found) == 1:
        return found[0]
    wish = " ".join(f"{key}={'|'.join(values)}" for key, values in selector.items())
    listed = "; ".join(f"({row})" for row in (found or named)[:6]) or "none"
    count = "several runs match" if found else "no run matches"
    raise UserError(f"{sweep.path}: {where}: {count} {wish} for the run ({child}); candidates: {listed}")


def _agree(parent: _Row, child: _Row, selector: Selector, lenient: bool) -> bool:
    for key in parent.axes.keys() & child.axes.keys():
        if key in selector or key in _NEVER_SHARED or (lenient and key.startswith(_SHARED_IF_POSSIBLE)):
            continue
        if parent.axes[key] != child.axes[key]:
            return False
    return True


def _with_parents(rows: Iterable[_Row]) -> list[_Row]:
    found: dict[int, _Row] = {}
    waiting = list(rows)
    while waiting:
        row = waiting.pop(0)
        if id(row) not in found:
            found[id(row)] = row
            waiting += row.parents()
    return list(found.values())


def _order(sweep: Sweep, rows: Sequence[_Row]) -> list[_Row]:
    """Parents before children; otherwise as the file has them, level by level."""
    depth: dict[int, int] = {}

    def level(row: _Row, trail: tuple[int, ...]) -> int:
        if id(row) in trail:
            raise UserError(f"{sweep.path}: after: the run ({row}) would wait for itself")
        if id(row) not in depth:
            depth[id(row)] = max((1 + level(parent, (*trail, id(row))) for parent in row.parents()), default=0)
        return depth[id(row)]

    return sorted(rows, key=lambda row: level(row, ()))


# ---------------------------------------------------------------------------------------------------- composing


def _overrides(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _expected(sweep: Sweep, row: _Row, runs: dict[int, ExpectedRun], composer: _Composer) -> ExpectedRun:
    from harness.run.identity import identify
    from harness.run.unmeant import refuse_unmeant

    parents: dict[str, Any] = {}
    if row.init_from:
        parents["init_from"] = runs[id(row.init_from)].run_id
    if needed := [*row.needs, *row.files.values()]:
        parents["needed_runs"] = list(dict.fromkeys(runs[id(need)].run_id for need in needed))
    files = {option: _file_of(sweep, runs[id(stage)], option) for option, stage in row.files.items()}
    settings = row.settings | files | {key: text_of(value) for key, value in parents.items()}
    with _errors_of(sweep, row):
        composed = composer.compose(settings, **parents)
        refuse_unmeant(composed)
        config = composed.config
        run_id = identify(config)
    does = composed.settings["method"] if config.stage.name is Stage.none else config.stage.name.name
    return ExpectedRun(
        run_id=run_id,
        name=config.name or does,
        overrides=_overrides(settings),
        choices=composed.choices,
        axes=row.axes,
        parents=list(dict.fromkeys(runs[id(parent)].run_id for parent in row.parents())),
        resources=dataclasses.asdict(config.launcher) | {"ranks": _ranks(config)},
        iterations=config.schedule.iterations if config.train and config.stage.name is Stage.none else 0,
        stage="" if config.stage.name is Stage.none else config.stage.name.name,
    )


def _ranks(config: RunConfig) -> int:
    """Any number of ranks shares out a stage's rows, so every GPU gets one."""
    if config.stage.name is Stage.none:
        return config.schedule.ranks
    return max(1, config.launcher.gpus * config.launcher.nodes)


def _file_of(sweep: Sweep, run: ExpectedRun, option: str) -> str:
    """The file that a stage will write, as an override."""
    from harness.stages.stage import FILES

    if not run.stage:
        raise UserError(f"{sweep.path}: after: files: {option}: {run.run_id} leaves no file; set stage=score or embed")
    return f"${{runs_dir}}/{run.run_id}/{FILES[Stage[run.stage]]}"
