"""The command `harness`. Each command imports what it needs when it is called, so that `--help` answers at once."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from harness.commands import data
from harness.errors import UserError, ending_in_a_sentence
from harness.run.own_packages import refuse_hidden

app = typer.Typer(
    name="harness",
    help="Trustworthy experiments on generated data for long-tailed instance segmentation.\n\n"
    "Start with `harness sweep mini` and `harness report mini`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
methods = typer.Typer(help="List the methods, write a new one, check one.")
recipes = typer.Typer(help="List the papers' configurations, or compare one with its published file.")
weights = typer.Typer(help="Inspect and convert checkpoints, without a GPU.", no_args_is_help=True)
app.add_typer(data.app, name="data")
app.add_typer(methods, name="methods")
app.add_typer(recipes, name="recipes")
app.add_typer(weights, name="weights")

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides in Hydra's grammar, such as seed=1.")]
Which = Annotated[
    list[str] | None,
    typer.Argument(help="Sweeps, run ids or their beginnings, job ids, or filters such as method=bsgal status=failed."),
]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
RUNS = Path("runs")
Trust = Annotated[
    list[Path] | None,
    typer.Option("--trust", help="Allow the runs to execute this file, such as a method's or an engine's."),
]


# ---------------------------------------------------------------------- runs and sweeps


@app.command(context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """Train and evaluate one run. Takes Hydra's arguments: `method=bsgal seed=1`, `--help`, `--cfg job`."""
    from harness.run.application import main as run_main

    sys.argv = ["harness run", *context.args]
    run_main()


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="A sweep of the package, one in ./sweeps, or a path.")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the sweep has ended, on SLURM too.")] = False,
    notify: Annotated[
        str | None, typer.Option("--notify", help="With --wait: shell command that gets one line at the end.")
    ] = None,
) -> None:
    """Run a sweep. Complete runs are skipped, and interrupted ones resume from their last checkpoint.

    `launcher=slurm` submits the runs and returns; `launcher=local` waits until all have ended.

    Exit codes: as `harness status --help` lists them.
    """
    from harness.launch.sweep import launch_sweep

    if notify and not wait:
        raise UserError("--notify needs --wait; give both")
    code = launch_sweep(name, overrides or [], dry_run, wait, notify)
    if dry_run:
        _say_power(name, overrides or [])
    raise typer.Exit(code)


def _say_power(sweep_name: str, overrides: list[str]) -> None:
    """Prints what the sweep's number of seeds can show, if its report has records."""
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
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until no run is running or waiting.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Add the hours used, including those of lost starts.")] = False,
) -> None:
    """Show the state of runs: progress, loss, and why a run is pending or has failed.

    Exit codes: 1 a run failed, 69 the scheduler does not answer, 75 a run was stopped, 3 a run has not started.
    """
    from harness.launch.status import status as show_status

    raise typer.Exit(show_status(runs, which or [], watch, as_json, cost))


@app.command()
def logs(
    which: Which = None,
    runs: Runs = RUNS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the runs have ended.")] = False,
) -> None:
    """Print the end of the runs' logs."""
    from harness.launch.follow import logs as show_logs

    raise typer.Exit(show_logs(runs, which or [], follow))


@app.command()
def cancel(which: Which = None, runs: Runs = RUNS) -> None:
    """Cancel waiting and running runs. Their checkpoints are kept."""
    from harness.launch.control import cancel as cancel_runs

    raise typer.Exit(cancel_runs(runs, which or []))


@app.command()
def retry(which: Which = None, runs: Runs = RUNS, trust: Trust = None) -> None:
    """Resubmit failed, cancelled and interrupted runs. `launcher.*=` overrides change their resources."""
    from harness.launch.control import retry as retry_runs

    raise typer.Exit(retry_runs(runs, which or [], trust or []))


@app.command()
def change(which: Which = None, runs: Runs = RUNS) -> None:
    """Change the resources of runs in SLURM's queue: `harness change mini launcher.minutes=600`."""
    from harness.launch.pending import change as change_runs

    raise typer.Exit(change_runs(runs, which or []))


@app.command()
def doctor() -> None:
    """Show what is installed (engines, CUDA, SLURM, datasets), and how to install the rest."""
    from harness.commands.doctor import doctor as examine

    raise typer.Exit(examine())


@app.command()
def evaluate(
    detections: Annotated[Path, typer.Argument(help="COCO/LVIS results as JSON, or Parquet.")],
    annotations: Annotated[Path, typer.Option("--annotations", "-a", help="The LVIS annotation JSON.")],
    iou: Annotated[str, typer.Option("--iou", help="bbox, segm or both.")] = "both",
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write all results to this file, as fractions.")
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Ignore categories that the annotations do not have.")
    ] = False,
) -> None:
    """Compute the LVIS AP of a results file: equal to the lvis package's to 1e-9, and many times faster."""
    from harness.commands.evaluate import evaluate_command

    evaluate_command(detections, annotations, iou, json_out, ignore_unknown)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    run: Annotated[str, typer.Option("--run", help="A run id, or its beginning.")],
    runs: Runs = RUNS,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("predictions"),
    threshold: Annotated[float, typer.Option("--threshold", help="Lowest score to draw.")] = 0.3,
    trust: Trust = None,
) -> None:
    """Draw a run's detections on images: boxes, masks and category names."""
    from harness.commands.predict import predict as predict_pictures

    for path in predict_pictures(images, runs, run, out, threshold, trust or []):
        typer.echo(path)


# ---------------------------------------------------------------------- reports


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="A report of the package, or the path of a spec.")],
    runs: Runs = RUNS,
    formats: Annotated[
        str, typer.Option("--format", help="Any of html,md,tex,csv, separated by commas.")
    ] = "html,md,tex,csv",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; report/NAME by default.")] = None,
    published: Annotated[
        Path | None, typer.Option("--published", help="CSV file with further published results.")
    ] = None,
) -> None:
    """Write tables and figures that compare runs with each other and with published results."""
    from harness.launch.tables import console
    from reports.command import report_command

    with as_user_error():
        folder = report_command(name, runs, formats.split(","), out, published, console().print)
    typer.echo(folder / "index.html" if (folder / "index.html").exists() else folder)


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="A run id, or its beginning.")],
    run_b: Annotated[str, typer.Argument(help="The run to compare it with.")],
    runs: Runs = RUNS,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; report/A-against-B by default.")
    ] = None,
) -> None:
    """Compare two runs: metrics, categories, configuration and cost."""
    from reports.compare import compare_command

    with as_user_error():
        folder = compare_command(run_a, run_b, runs, out)
    typer.echo(folder / "index.html")


@app.command()
def power(
    name: Annotated[str, typer.Argument(help="A report of the package, or the path of a spec.")],
    runs: Runs = RUNS,
) -> None:
    """Show the smallest difference that each number of seeds can detect, given the noise in your records."""
    from reports.power import power_command

    with as_user_error():
        lines = power_command(name, runs)
    typer.echo("\n".join(lines))


@contextmanager
def as_user_error() -> Iterator[None]:
    """Reports do not know the harness's errors: their ValueErrors are the user's to fix."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


# ---------------------------------------------------------------------- recipes


@recipes.callback(invoke_without_command=True)
def recipes_list(context: typer.Context) -> None:
    """List the recipes, with their paper, original file, and published GPUs, hours and results."""
    if context.invoked_subcommand is None:
        from harness.commands.recipes import list_command

        list_command()


@recipes.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="A recipe.")]) -> None:
    """Show every setting of a recipe beside the published value, with its file and line."""
    from harness.commands.recipes import show_command

    show_command(name)


# ---------------------------------------------------------------------- methods and what they decided


@methods.callback(invoke_without_command=True)
def methods_list(
    context: typer.Context,
    plugins: Annotated[list[Path] | None, typer.Option("--plugin", help="Python file that registers a method.")] = None,
) -> None:
    """List the methods: name, what it does, options and source."""
    from harness.commands.methods import list_command, load_plugins

    load_plugins(plugins or [])  # before subcommands too: they may be about a plugin's method
    if context.invoked_subcommand is None:
        list_command()


@methods.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="A method.")],
    plugins: Annotated[list[Path] | None, typer.Option("--plugin", help="Python file that registers a method.")] = None,
) -> None:
    """Show a method with all its options and their defaults."""
    from harness.commands.methods import list_command, load_plugins

    load_plugins(plugins or [])
    list_command(name)


@methods.command("new")
def methods_new(
    name: Annotated[str, typer.Argument(help="Name of the method.")],
    folder: Annotated[Path, typer.Option("--folder", help="Folder to write the files to.")] = Path(),
) -> None:
    """Write a working method and its test, to start from."""
    from harness.commands.methods import new_command

    typer.echo(new_command(name, folder))


@methods.command("check")
def methods_check(which: Annotated[str, typer.Argument(help="A method's name, or the path of its file.")]) -> None:
    """Run the conformance kit on a method. Exits with 1 when a check fails."""
    from harness.commands.methods import check_command

    raise typer.Exit(check_command(which))


@app.command()
def decisions(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or its beginning.")],
    runs: Runs = RUNS,
    trust: Trust = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG file to draw the best and worst instances to.")
    ] = None,
    count: Annotated[int, typer.Option("--n", help="How many of each to draw.")] = 12,
) -> None:
    """Show what a run's method decided: during training, by category, and against the pool's truth."""
    from harness.commands.decisions import decisions_command

    decisions_command(runs, run_name, sheet, count, trust or [])


OfRun = Annotated[str, typer.Option("--run", help="The run whose final weights to use.")]
OnPool = Annotated[str | None, typer.Option("--pool", help="A pool other than the run's.")]
OnGpu = Annotated[bool, typer.Option("--gpu", help="Run the detector on the GPU.")]


@app.command()
def score(
    run_name: OfRun,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write the ranking to.")] = Path("scores.csv"),
    pool: OnPool = None,
    by: Annotated[
        str,
        typer.Option("--by", help="confidence, gradient, loss_difference, or a Python file of your own."),
    ] = "confidence",
    scope: Annotated[
        str, typer.Option("--scope", help="Parameters that the gradient covers: all, heads or last.")
    ] = "all",
    hosts: Annotated[int, typer.Option("--hosts", min=1, help="Number of images to paste each instance into.")] = 2,
    references: Annotated[
        str, typer.Option("--references", help="drawn_class (images of its category), random_class or random_image.")
    ] = "drawn_class",
    per_category: Annotated[int | None, typer.Option("--per-category", help="Limit of instances per category.")] = None,
    gpu: OnGpu = False,
    runs: Runs = RUNS,
    trust: Trust = None,
) -> None:
    """Score every instance of a pool with a run's frozen detector: a ranking for `confidence` or `clip_filter`.

    This is a run with stage=score, as in a sweep. Restart it after an interruption and it resumes.
    """
    from harness.commands.score import stage_command
    from harness.config import Stage, StageConfig

    stage = StageConfig(Stage.score, by, hosts, per_category, scope=scope, reference_policy=references)
    typer.echo(stage_command(runs, run_name, stage, out, pool, gpu, trust or []))


@app.command()
def embed(
    run_name: OfRun,
    out: Annotated[
        Path, typer.Option("--out", help="The .npy file to write, with a row for each row of the pool.")
    ] = Path("embeddings.npy"),
    pool: OnPool = None,
    size: Annotated[
        int, typer.Option("--size", min=32, help="Side in pixels to which each instance is resized.")
    ] = 224,
    gpu: OnGpu = False,
    runs: Runs = RUNS,
    trust: Trust = None,
) -> None:
    """Compute features of a pool's instances with a run's backbone, for `coreset`. This is a run with stage=embed."""
    from harness.commands.score import stage_command
    from harness.config import Stage, StageConfig

    typer.echo(stage_command(runs, run_name, StageConfig(Stage.embed, size=size), out, pool, gpu, trust or []))


# ---------------------------------------------------------------------- weights


@weights.command("inspect")
def weights_inspect(
    file: Annotated[Path, typer.Argument(help="A .pth or .pkl file of weights.")],
    every: Annotated[bool, typer.Option("--every", help="Show every tensor, not groups of tensors.")] = False,
) -> None:
    """Show the layout, names and shapes in a file of weights, without executing code in it."""
    from harness.commands.weights import inspect_weights

    inspect_weights(file, every=every)


@weights.command("convert")
def weights_convert(
    file: Annotated[Path, typer.Argument(help="A detector's weights, published or ours.")],
    out: Annotated[Path, typer.Argument(help="The .pth or .pkl file to write.")],
    to: Annotated[str, typer.Option("--to", help="Naming scheme: detectron2 or native.")] = "detectron2",
) -> None:
    """Rename a detector's weights to detectron2's names or ours."""
    from harness.commands.weights import convert_weights

    convert_weights(file, out, to)


def main() -> None:
    """Entry point. A user's error ends in one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows question marks
    with ending_in_a_sentence():
        refuse_hidden()
        app()


if __name__ == "__main__":
    main()
