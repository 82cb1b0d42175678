"""The command `harness`. Every command imports what it needs when it is called, so that `--help` is there at once."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from harness.commands import data
from harness.errors import UserError, sentence_of
from harness.record.reading import Damaged
from harness.run.own_packages import refuse_hidden

app = typer.Typer(
    name="harness",
    help="Trustworthy experiments on generated data for long-tailed instance segmentation.\n\n"
    "Start with `harness sweep mini` and `harness report mini`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
methods = typer.Typer(help="The methods under comparison: list, make a new one, check one.")
recipes = typer.Typer(help="The papers' configurations by one word: list, show one beside the published file.")
weights = typer.Typer(help="Checkpoints: look into and convert, without a GPU.", no_args_is_help=True)
app.add_typer(data.app, name="data")
app.add_typer(methods, name="methods")
app.add_typer(recipes, name="recipes")
app.add_typer(weights, name="weights")

Runs = Annotated[Path, typer.Option("--runs", help="The folder of the runs.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides in Hydra's grammar, such as seed=1.")]
Which = Annotated[
    list[str] | None,
    typer.Argument(help="Sweeps, runs (or their beginning), jobs' ids, filters: method=bsgal status=failed."),
]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
RUNS = Path("runs")
Trust = Annotated[
    list[Path] | None,
    typer.Option("--trust", help="A file of code that runs name and that may be executed: a method's, an engine's."),
]


# ---------------------------------------------------------------------- runs and sweeps


@app.command(context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """One run: train, evaluate, record. Arguments are Hydra's: `method=bsgal seed=1`, `--help`, `--cfg job`."""
    from harness.run.application import main as run_main

    sys.argv = ["harness run", *context.args]
    run_main()


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="A sweep that comes with the package, one in ./sweeps, or a path.")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="On SLURM too, stay until the sweep has ended.")] = False,
    notify: Annotated[
        str | None, typer.Option("--notify", help="With --wait: a shell command that gets one line at the end.")
    ] = None,
) -> None:
    """Run what a sweep still lacks: complete runs are skipped, stopped ones go on from their checkpoint.

    `launcher=slurm` submits and returns; `launcher=local` works until all runs have ended. Exit codes as `status`.
    """
    from harness.launch.sweep import launch_sweep

    if notify and not wait:
        raise UserError("--notify tells of the sweep's end, which --wait waits for; give both")
    code = launch_sweep(name, overrides or [], dry_run, wait, notify)
    if dry_run:
        _say_power(name, overrides or [])
    raise typer.Exit(code)


def _say_power(sweep_name: str, overrides: list[str]) -> None:
    """What the seeds of a sweep can show, where its report has records."""
    from harness.launch.expand import given
    from harness.launch.sweepfile import find, read
    from reports.power import report_noise, sentence
    from reports.spec import read_spec, spec_names

    sweep = read(find(sweep_name))
    report_name = sweep.report or sweep.name
    runs = Path(given(overrides, "runs_dir") or RUNS)
    if report_name in spec_names() and runs.is_dir():
        noise = report_noise(read_spec(report_name), runs)
        if noise is not None:
            typer.echo(sentence(noise))


@app.command()
def status(
    which: Which = None,
    runs: Runs = RUNS,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until nothing runs or waits any more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Add the hours used, lost starts included.")] = False,
) -> None:
    """How runs stand: progress, loss, what pends or failed and why.

    Exit codes: 1 a run failed, 69 the scheduler gives no answer, 75 a run stopped, 3 one is not under way.
    """
    from harness.launch.status import status as show_status

    raise typer.Exit(show_status(runs, which or [], watch, as_json, cost))


@app.command()
def logs(
    which: Which = None,
    runs: Runs = RUNS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the runs have ended.")] = False,
) -> None:
    """The end of runs' logs."""
    from harness.launch.follow import logs as show_logs

    raise typer.Exit(show_logs(runs, which or [], follow))


@app.command()
def cancel(which: Which = None, runs: Runs = RUNS) -> None:
    """Cancel runs that wait or run; what they have saved stays."""
    from harness.launch.control import cancel as cancel_runs

    raise typer.Exit(cancel_runs(runs, which or []))


@app.command()
def retry(which: Which = None, runs: Runs = RUNS, trust: Trust = None) -> None:
    """Submit failed, cancelled and stopped runs again; `launcher.*=` words change their resources."""
    from harness.launch.control import retry as retry_runs

    raise typer.Exit(retry_runs(runs, which or [], trust or []))


@app.command()
def change(which: Which = None, runs: Runs = RUNS) -> None:
    """Give runs that wait in SLURM's queue other settings: `harness change mini launcher.minutes=600`."""
    from harness.launch.pending import change as change_runs

    raise typer.Exit(change_runs(runs, which or []))


@app.command()
def doctor() -> None:
    """What is installed: engines with versions and capabilities, CUDA, SLURM, datasets; what to type for the rest."""
    from harness.commands.doctor import doctor as examine

    raise typer.Exit(examine())


@app.command()
def evaluate(
    detections: Annotated[Path, typer.Argument(help="COCO/LVIS results as JSON, or Parquet.")],
    annotations: Annotated[Path, typer.Option("--annotations", "-a", help="The LVIS annotation JSON.")],
    iou: Annotated[str, typer.Option("--iou", help="bbox, segm or both.")] = "both",
    json_out: Annotated[Path | None, typer.Option("--json", help="Writes all figures there, as fractions.")] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Leave out categories that the annotations lack.")
    ] = False,
) -> None:
    """LVIS AP of a results file, equal to the lvis package's to 1e-9 and many times faster."""
    from harness.commands.evaluate import evaluate_command

    evaluate_command(detections, annotations, iou, json_out, ignore_unknown)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures.")],
    run: Annotated[str, typer.Option("--run", help="A run, or the beginning of its name.")],
    runs: Runs = RUNS,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("predictions"),
    threshold: Annotated[float, typer.Option("--threshold", help="The lowest score that is drawn.")] = 0.3,
    trust: Trust = None,
) -> None:
    """Draw a run's detections on pictures: boxes, masks, category names."""
    from harness.commands.predict import predict as predict_pictures

    for path in predict_pictures(images, runs, run, out, threshold, trust or []):
        typer.echo(path)


# ---------------------------------------------------------------------- reports


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="A report that comes with the package, or the path of a spec.")],
    runs: Runs = RUNS,
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: html,md,tex,csv.")] = "html,md,tex,csv",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; report/NAME without it.")] = None,
    published: Annotated[Path | None, typer.Option("--published", help="A CSV of further published results.")] = None,
) -> None:
    """Tables and figures of runs, ours beside the published ones: HTML, Markdown, LaTeX, CSV."""
    from harness.launch.tables import console
    from reports.command import report_command

    with as_user_error():
        folder = report_command(name, runs, formats.split(","), out, published, console().print)
    typer.echo(folder / "index.html" if (folder / "index.html").exists() else folder)


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    run_b: Annotated[str, typer.Argument(help="The run that is compared with it.")],
    runs: Runs = RUNS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; report/A-against-B without it.")] = None,
) -> None:
    """What one run does otherwise than another: metrics, categories, configuration, cost."""
    from reports.compare import compare_command

    with as_user_error():
        folder = compare_command(run_a, run_b, runs, out)
    typer.echo(folder / "index.html")


@app.command()
def power(
    name: Annotated[str, typer.Argument(help="A report that comes with the package, or the path of a spec.")],
    runs: Runs = RUNS,
) -> None:
    """What how many seeds can show, by the noise of the records at hand."""
    from reports.power import power_command

    with as_user_error():
        lines = power_command(name, runs)
    typer.echo("\n".join(lines))


@contextmanager
def as_user_error() -> Iterator[None]:
    """Reports know nothing of the harness's errors: their ValueErrors are the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


# ---------------------------------------------------------------------- recipes


@recipes.callback(invoke_without_command=True)
def recipes_list(context: typer.Context) -> None:
    """The recipes: paper, file of origin, GPUs, hours and figures as published."""
    if context.invoked_subcommand is None:
        from harness.commands.recipes import list_command

        list_command()


@recipes.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="A recipe.")]) -> None:
    """One recipe: for every setting ours beside the published value, with file and line of origin."""
    from harness.commands.recipes import show_command

    show_command(name)


# ---------------------------------------------------------------------- methods and what they decided


@methods.callback(invoke_without_command=True)
def methods_list(
    context: typer.Context,
    plugins: Annotated[list[Path] | None, typer.Option("--plugin", help="A file that registers a method.")] = None,
) -> None:
    """The methods under comparison: name, what it does, options, source."""
    from harness.commands.methods import list_command, load_plugins

    load_plugins(plugins or [])  # before a subcommand too, which may be about one of theirs
    if context.invoked_subcommand is None:
        list_command()


@methods.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="A method.")],
    plugins: Annotated[list[Path] | None, typer.Option("--plugin", help="A file that registers a method.")] = None,
) -> None:
    """One method with all its options and their defaults."""
    from harness.commands.methods import list_command, load_plugins

    load_plugins(plugins or [])
    list_command(name)


@methods.command("new")
def methods_new(
    name: Annotated[str, typer.Argument(help="The method's name.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write the files.")] = Path(),
) -> None:
    """Write a working method and its test."""
    from harness.commands.methods import new_command

    typer.echo(new_command(name, folder))


@methods.command("check")
def methods_check(which: Annotated[str, typer.Argument(help="A method's name, or a file of one.")]) -> None:
    """Run the conformance kit on a method; exit code 1 when a check fails."""
    from harness.commands.methods import check_command

    raise typer.Exit(check_command(which))


@app.command()
def decisions(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the beginning of its name.")],
    runs: Runs = RUNS,
    trust: Trust = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="A PNG of the best and worst instances.")] = None,
    count: Annotated[int, typer.Option("--n", help="How many of each.")] = 12,
) -> None:
    """What a run's method decided: over training, by category and frequency group, against the pool's truth."""
    from harness.commands.decisions import decisions_command

    decisions_command(runs, run_name, sheet, count, trust or [])


OfRun = Annotated[str, typer.Option("--run", help="The run whose final weights judge.")]
OnPool = Annotated[str | None, typer.Option("--pool", help="Another pool than the run's.")]
OnGpu = Annotated[bool, typer.Option("--gpu", help="Run the detector on the GPU.")]


@app.command()
def score(
    run_name: OfRun,
    out: Annotated[Path, typer.Option("--out", help="The ranking to write.")] = Path("scores.csv"),
    pool: OnPool = None,
    by: Annotated[
        str,
        typer.Option("--by", help="confidence in the label, gradient, loss_difference, or a file of yours: my.py."),
    ] = "confidence",
    scope: Annotated[str, typer.Option("--scope", help="Parameters of the gradient: all, heads or last.")] = "all",
    hosts: Annotated[int, typer.Option("--hosts", min=1, help="Images that each instance is pasted into.")] = 2,
    references: Annotated[
        str, typer.Option("--references", help="drawn_class: images of its category. random_class, random_image.")
    ] = "drawn_class",
    per_category: Annotated[int | None, typer.Option("--per-category", help="At most so many of each.")] = None,
    gpu: OnGpu = False,
    runs: Runs = RUNS,
    trust: Trust = None,
) -> None:
    """Rank a pool's instances, each alone, by a run's frozen detector; a list for `clip_filter`.

    It is a run of its own, which a sweep has as stage=score; started again it goes on where it was.
    """
    from harness.commands.score import stage_command
    from harness.config import Stage, StageConfig

    stage = StageConfig(Stage.score, by, hosts, per_category, scope=scope, reference_policy=references)
    typer.echo(stage_command(runs, run_name, stage, out, pool, gpu, trust or []))


@app.command()
def embed(
    run_name: OfRun,
    out: Annotated[Path, typer.Option("--out", help="The .npy to write, a line for each row of the pool.")] = Path(
        "embeddings.npy"
    ),
    pool: OnPool = None,
    size: Annotated[int, typer.Option("--size", min=32, help="Pixels of a side that an instance is brought to.")] = 224,
    gpu: OnGpu = False,
    runs: Runs = RUNS,
    trust: Trust = None,
) -> None:
    """Features of a pool's instances by a run's backbone, for `coreset`; a run of its own, as `score` is."""
    from harness.commands.score import stage_command
    from harness.config import Stage, StageConfig

    typer.echo(stage_command(runs, run_name, StageConfig(Stage.embed, size=size), out, pool, gpu, trust or []))


# ---------------------------------------------------------------------- weights


@weights.command("inspect")
def weights_inspect(
    file: Annotated[Path, typer.Argument(help="A .pth or .pkl of weights.")],
    every: Annotated[bool, typer.Option("--every", help="Every tensor, not groups of them.")] = False,
) -> None:
    """What a file of weights holds: its layout, names, shapes. Executes nothing that is in it."""
    from harness.commands.weights import inspect_weights

    inspect_weights(file, every=every)


@weights.command("convert")
def weights_convert(
    file: Annotated[Path, typer.Argument(help="A detector's weights, published ones or ours.")],
    out: Annotated[Path, typer.Argument(help="The .pth or .pkl to write.")],
    to: Annotated[str, typer.Option("--to", help="Whose names: detectron2 or native.")] = "detectron2",
) -> None:
    """Write a detector's weights by detectron2's names or ours."""
    from harness.commands.weights import convert_weights

    convert_weights(file, out, to)


def main() -> None:
    """Entry point: user errors end in one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows a question mark for what it lacks
    try:
        refuse_hidden()
        app()
    except (UserError, Damaged) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if (sentence := sentence_of(error)) is None:
            raise
        sys.exit(f"error: {sentence}")


if __name__ == "__main__":
    main()
