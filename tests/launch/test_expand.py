"""Sweep files: what they expand into, and what is said about one that is wrong."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness.compose
from harness.compose import compose
from harness.errors import UserError, quoting
from harness.launch import sweepfile
from harness.launch.expand import expand, given
from harness.record.manifest import ExpectedRun
from harness.run.identity import identify
from methods import registry

FAIR = """
description: "A fair comparison"
defaults: [data=mini, schedule.iterations=4]
grid:
  - {name: baseline, method: baseline, schedule: mini, backbone: resnet18, seed: [0, 1]}
  - {method: [xpaste, bsgal, random_selection], schedule: mini_continue, data.pool: half_bad, seed: [0, 1]}
rules:
  - when: {method: [bsgal, random_selection], seed: 1}
    set: {launcher.memory_gb: 16, schedule.lr: 1.0e-3}
after:
  - when: {schedule: mini_continue}
    init_from: {name: baseline}
  - when: {method: random_selection}
    needs: {method: bsgal}
report: mini
"""

WANTS_A_LIMIT = '''
from dataclasses import dataclass

from methods import register
from methods.contract import Method


@register("wants_a_limit")
@dataclass
class WantsALimit(Method):
    """Of no use as it is."""

    limit: int = 0

    def validate(self) -> None:
        if not self.limit:
            raise ValueError("say method.limit")
'''


@pytest.fixture(autouse=True)
def _dataset(mini_root: Path) -> None:
    """Identities are of contents, so the dataset must be there."""


def _sweep(tmp_path: Path, text: str = FAIR) -> sweepfile.Sweep:
    path = tmp_path / "fair.yaml"
    path.write_text(text)
    return sweepfile.read(path)


def _row(runs: list[ExpectedRun], name: str, seed: str) -> ExpectedRun:
    (found,) = (run for run in runs if run.name == name and run.axes["seed"] == seed)
    return found


def test_grids_rules_and_parents(tmp_path: Path) -> None:
    runs = expand(_sweep(tmp_path))
    assert len(runs) == 8
    assert len({run.run_id for run in runs}) == 8
    for seed in ("0", "1"):
        baseline, bsgal = _row(runs, "baseline", seed), _row(runs, "bsgal", seed)
        random = _row(runs, "random_selection", seed)
        assert baseline.parents == []
        assert bsgal.parents == [baseline.run_id]
        assert f"init_from={baseline.run_id}" in bsgal.overrides
        assert random.parents == [baseline.run_id, bsgal.run_id]
        assert f"needed_runs=[{bsgal.run_id}]" in random.overrides
        assert bsgal.iterations == 4
        assert bsgal.resources["memory_gb"] == (16.0 if seed == "1" else 8.0)
        assert bsgal.resources["ranks"] == 1
    order = [run.run_id for run in runs]
    assert all(order.index(parent) < order.index(run.run_id) for run in runs for parent in run.parents)
    assert _row(runs, "xpaste", "0").resources["memory_gb"] == 8.0


def test_runs_are_what_composing_their_overrides_gives(tmp_path: Path) -> None:
    """Runs that differ in the seed alone are composed once; that must not show."""
    for run in expand(_sweep(tmp_path)):
        assert identify(compose(run.overrides).config) == run.run_id


def test_groups_that_no_row_gives_are_known_to_rules(tmp_path: Path) -> None:
    text = """
defaults: [schedule.iterations=4]
grid: {seed: [0, 1], backbone: [resnet18, resnet50]}
rules:
  - {when: {launcher: local, method: baseline, name: baseline, evaluation: lvis}, set: {launcher.minutes: 7}}
  - {when: {engine: mmdet}, set: {launcher.minutes: 9}}
"""
    runs = expand(_sweep(tmp_path, text))
    assert {run.resources["minutes"] for run in runs} == {7}
    assert {run.name for run in runs} == {"baseline"}
    assert [run.choices["backbone"] for run in runs] == ["resnet18", "resnet50"] * 2
    assert {run.choices["schedule"] for run in runs} == {"mini"}


@pytest.fixture
def wants_a_limit(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "wants_a_limit.py"
    path.write_text(WANTS_A_LIMIT)
    yield path
    registry._forget("bsgal_bench_method_wants_a_limit")


def test_groups_of_a_run_are_known_whose_settings_make_sense_together_alone(
    wants_a_limit: Path, tmp_path: Path
) -> None:
    text = f"""
defaults: [schedule.iterations=4, 'method_paths=[{wants_a_limit}]']
grid: {{method: wants_a_limit, method.limit: [1, 2]}}
rules: [{{when: {{launcher: local}}, set: {{launcher.minutes: 7}}}}]
"""
    assert {run.resources["minutes"] for run in expand(_sweep(tmp_path, text))} == {7}
    with pytest.raises(UserError, match=r"fair.yaml: the run \(.*\): method=wants_a_limit: say method.limit"):
        expand(_sweep(tmp_path, text.replace("[1, 2]", "[1, 0]")))


def test_runs_that_differ_in_the_seed_alone_are_composed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []
    original = harness.compose.compose

    def counted(overrides: list[str]) -> harness.compose.Composed:
        composed.append(overrides)
        return original(overrides)

    monkeypatch.setattr(harness.compose, "compose", counted)
    text = """
grid: {method: [baseline, xpaste], seed: [%s]}
rules:
  - {when: {launcher: local}, set: {launcher.parallel: 2}}
  - {when: {schedule.iterations: 800}, set: {launcher.minutes: 7}}
"""
    runs = expand(_sweep(tmp_path, text % ", ".join(map(str, range(50)))))
    assert len({run.run_id for run in runs}) == 100
    assert {run.resources["minutes"] for run in runs} == {7}
    assert len(composed) == 4, "for each method the settings that a rule asks for, and the whole"


def test_what_refers_to_the_seed_follows_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"start-{seed}.pth").write_bytes(bytes([seed]))
    text = f"grid: {{method: baseline, seed: [0, 1], weights: '{tmp_path}/start-${{seed}}.pth'}}"
    for run in expand(_sweep(tmp_path, text)):
        assert identify(compose(run.overrides).config) == run.run_id


def test_override_of_an_axis_picks_and_keeps_parents(tmp_path: Path) -> None:
    everything = {run.run_id for run in expand(_sweep(tmp_path))}
    runs = expand(_sweep(tmp_path), ["name=random_selection", "seed=1"])
    assert [run.name for run in runs] == ["baseline", "bsgal", "random_selection"]
    assert {run.axes["seed"] for run in runs} == {"1"}
    assert {run.run_id for run in runs} <= everything


def test_override_of_an_axis_by_a_new_value_replaces_it(tmp_path: Path) -> None:
    runs = expand(_sweep(tmp_path), ["seed=5,6,7"])
    assert sorted({run.axes["seed"] for run in runs}) == ["5", "6", "7"]
    assert len(runs) == 12
    assert _row(runs, "bsgal", "6").parents == [_row(runs, "baseline", "6").run_id]


def test_other_overrides_go_to_every_run_and_win(tmp_path: Path) -> None:
    runs = expand(_sweep(tmp_path), ["schedule.iterations=9", "launcher.memory_gb=3", "launcher=slurm"])
    assert {run.iterations for run in runs} == {9}
    assert {run.resources["memory_gb"] for run in runs} == {3.0}
    assert {run.resources["name"] for run in runs} == {"slurm"}


def test_where_no_axis_tells_parents_apart_all_candidates_are_named(tmp_path: Path) -> None:
    text = FAIR.replace("init_from: {name: baseline}", "init_from: {schedule: mini_continue}")
    with pytest.raises(UserError, match=r"several runs match schedule=mini_continue.*candidates: .*bsgal"):
        expand(_sweep(tmp_path, text))


def test_pool_of_the_needed_run_is_the_childs_own(tmp_path: Path) -> None:
    text = """
grid:
  - {method: [bsgal, random_selection], data.pool: [clean, half_bad], schedule.iterations: 4}
after:
  - {when: {method: random_selection}, needs: {method: bsgal}}
"""
    runs = expand(_sweep(tmp_path, text))
    for run in runs:
        if run.name == "random_selection":
            (parent,) = (other for other in runs if other.run_id in run.parents)
            assert parent.axes["data.pool"] == run.axes["data.pool"]


def test_circle_is_found(tmp_path: Path) -> None:
    circle = "needs: {method: bsgal}\n  - {when: {method: bsgal}, needs: {method: random_selection}}"
    text = FAIR.replace("needs: {method: bsgal}", circle)
    with pytest.raises(UserError, match="would wait for itself"):
        expand(_sweep(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("report: mini", "reprot: mini", r"fair.yaml: no such key 'reprot'; did you mean 'report'\?"),
        ("when: {method: [bsgal", "when: {method: [bsgall", r"no run has method=bsgall; did you mean 'bsgal'\?"),
        ("when: {method: [bsgal", "when: {methd: [bsgal", r"no such key 'methd'; did you mean 'method'\?"),
        ("init_from: {name: baseline}", "init_from: {name: basline}", "no run has name=basline"),
        ("    set: {launcher", "    sett: {launcher", r"rules: no such key 'sett'; did you mean 'set'\?"),
        ("method: [xpaste,", "method: [xpast,", r"method=xpast: no such method; did you mean 'xpaste'\?"),
        ("schedule.lr", "schedule.lrr", r"no such key 'schedule.lrr'"),
        ("defaults: [data=mini", "defaults: [data", "is not an override"),
        ("report: mini", "report: [mini", r"fair.yaml is not valid YAML: while parsing"),
        ("method: [xpaste,", "method: [xpaste, xpaste,", "two runs are the same experiment"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FAIR
    with pytest.raises(UserError, match=message):
        expand(_sweep(tmp_path, FAIR.replace(old, new)))


def test_unknown_names_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweep is called 'mimi'; did you mean 'mini'\?"):
        sweepfile.find("mimi")
    with pytest.raises(UserError, match="no such row; did you mean 'bsgal'"):
        expand(_sweep(tmp_path), ["name=bsgall"])
    with pytest.raises(UserError, match="is not varied by"):
        expand(_sweep(tmp_path), ["schedule.iterations=3,4"])


def test_sweeps_lie_here_first_then_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweepfile.find("mini").is_file()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mini.yaml").write_text(FAIR)
    assert sweepfile.read(sweepfile.find("mini")).description == "A fair comparison"


@pytest.mark.parametrize("text", ["/x/my runs", "a,b", "[x]", "{x}", "a=b", "$x", "~/é", "it's", "a\\b"])
def test_a_runs_folder_of_any_name_is_reached_by_what_the_error_says(text: str) -> None:
    quoted = shlex.split(quoting(f"runs_dir={text}").partition("Hydra: ")[2])[0]
    assert given(["seed=1", quoted], "runs_dir") == text
    assert compose([quoted]).config.runs_dir == text


def test_an_override_that_cannot_be_read_says_how_to_quote_it() -> None:
    for read in (lambda text: compose([text]), lambda text: given([text], "runs_dir")):
        with pytest.raises(UserError, match=r"""quote its value.*"runs_dir='/x/\{y'\""""):
            read("runs_dir=/x/{y")


@pytest.mark.parametrize("name", ["a,b", "%j", "my sweep", ".hidden", "-x"])
def test_a_sweep_that_cannot_be_called_so_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text("grid: {method: [baseline]}")
    with pytest.raises(UserError, match=r"a sweep has its file's name.*rename it"):
        sweepfile.read(path)


OFFLINE = """
defaults: [data=mini, data.pool=half_bad]
grid:
  - {name: baseline, method: baseline, seed: [0, 1]}
  - {name: scores, stage: score, seed: [0, 1]}
  - {name: best, method: clip_filter, schedule: mini_continue, seed: [0, 1]}
rules:
  - {when: {stage: score}, set: {launcher.gpus: 2, launcher.nodes: 2}}
after:
  - {when: {name: [scores, best]}, init_from: {name: baseline}}
  - {when: {name: best}, files: {method.scores: {name: scores}}}
"""


def test_a_stage_s_file_goes_to_the_runs_after_it(tmp_path: Path) -> None:
    runs = expand(_sweep(tmp_path, OFFLINE), ["runs_dir=elsewhere"])
    for seed in ("0", "1"):
        baseline, scores, best = (_row(runs, name, seed) for name in ("baseline", "scores", "best"))
        assert scores.run_id.startswith(f"score-resnet18-s{seed}-")
        assert (scores.stage, best.stage, scores.iterations) == ("score", "", 0)
        assert scores.parents == [baseline.run_id]
        assert best.parents == [baseline.run_id, scores.run_id]
        assert scores.resources["ranks"] == 4  # one a GPU, whatever the schedule says
        config = compose(best.overrides).config
        assert config.method.scores == f"elsewhere/{scores.run_id}/scores.csv"
        assert config.needed_runs == [scores.run_id]
        assert identify(config) == best.run_id
    # Another score makes another run of the one that reads it, before either is there.
    others = expand(_sweep(tmp_path, OFFLINE), ["stage.hosts=5"])
    assert _row(others, "best", "0").run_id != _row(runs, "best", "0").run_id
    assert _row(others, "baseline", "0").run_id == _row(runs, "baseline", "0").run_id


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("files: {scores: {name: scores}}", r"scores is not an option of a method"),
        ("files: {method.scores: {name: baseline}}", r"leaves no file; set stage=score or embed"),
        ("files: {method.scores: {name: score}}", "did you mean 'scores'"),
    ],
)
def test_a_file_that_nothing_leaves_is_refused(wrong: str, words: str, tmp_path: Path) -> None:
    text = OFFLINE.replace("files: {method.scores: {name: scores}}", wrong)
    with pytest.raises(UserError, match=words):
        expand(_sweep(tmp_path, text))
