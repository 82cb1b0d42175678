"""The command `harness`. Every command imports what it needs when it is called, so that `--help` is there at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UserError

app = typer.Typer(
    name="harness",
    help="Trustworthy experiments on generated data for long-tailed instance segmentation.\n\n"
    "Start with `harness sweep mini` and `harness report mini`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Datasets and instance pools: check, index, look at.", no_args_is_help=True)
methods = typer.Typer(help="The methods under comparison: list, make a new one, check one.")
weights = typer.Typer(help="Checkpoints: look into and convert, without a GPU.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(methods, name="methods")
app.add_typer(weights, name="weights")

Runs = Annotated[Path, typer.Option("--runs", help="The folder of the runs.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides in Hydra's grammar, such as seed=1.")]
Which = Annotated[
    list[str] | None, typer.Argument(help="Sweeps, runs (or their beginning), filters: method=bsgal status=failed.")
]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
RUNS = Path("runs")


# ---------------------------------------------------------------------- runs and sweeps


@app.command(context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """One run: train, evaluate, record. Arguments are Hydra's: `method=bsgal seed=1`, `--help`, `--cfg job`."""
    from harness.run import main as run_main

    sys.argv = ["harness run", *context.args]
    run_main()


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="A sweep that comes with the package, one in ./sweeps, or a path.")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; submit nothing.")] = False,
) -> None:
    """Run what a sweep still lacks: complete runs are skipped, stopped ones go on from their checkpoint.

    `launcher=slurm` submits and returns; `launcher=local` works until all runs have ended.
    """
    from harness.launch.submit import launch_sweep

    raise typer.Exit(launch_sweep(name, overrides or [], dry_run))


@app.command()
def status(
    which: Which = None,
    runs: Runs = RUNS,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until nothing runs or waits any more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How runs stand: progress, loss, what pends or failed and why. Exit code 1 when one failed."""
    from harness.launch.status import status as show_status

    raise typer.Exit(show_status(runs, which or [], watch, as_json))


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
def retry(which: Which = None, runs: Runs = RUNS) -> None:
    """Submit failed, cancelled and stopped runs again; `launcher.*=` words change their resources."""
    from harness.launch.control import retry as retry_runs

    raise typer.Exit(retry_runs(runs, which or []))


@app.command()
def evaluate(
    detections: Annotated[Path, typer.Argument(help="COCO/LVIS results as JSON, or Parquet.")],
    annotations: Annotated[Path, typer.Option("--annotations", "-a", help="The LVIS annotation JSON.")],
    iou: Annotated[str, typer.Option("--iou", help="bbox, segm or both.")] = "both",
    json_out: Annotated[Path | None, typer.Option("--json", help="Writes all figures there, as fractions.")] = None,
) -> None:
    """LVIS AP of a results file, equal to the lvis package's to 1e-9 and many times faster."""
    from harness.evaluate.command import evaluate_command

    evaluate_command(detections, annotations, iou, json_out)


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
    from reports.command import report_command

    folder = _mended(report_command, name, runs, formats.split(","), out, published)
    typer.echo(folder / "index.html" if (folder / "index.html").exists() else folder)


def _mended(function, *arguments):
    """Reports know nothing of the harness's errors: their ValueErrors are the user's to mend."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise UserError(str(error)) from error


# ---------------------------------------------------------------------- data


@data.command("show")
def data_show(
    name: Annotated[str | None, typer.Argument(help="A dataset, such as mini or lvis_v1.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Show what this method makes of images.")] = None,
    n: Annotated[int, typer.Option("--n", help="How many images.")] = 12,
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("contact_sheet.png"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="An override such as data.pool=clean.")] = None,
) -> None:
    """A contact sheet: images with masks and pool instances, or images as a method augments them."""
    from harness.compose import compose

    chosen = [f"data={name}"] if name else []
    config = compose([*chosen, *([f"method={method}"] if method else []), *(overrides or [])]).config
    if method:
        from harness.data.show import show_method

        show_method(config, config.method, n, out)
    else:
        from harness.data import sources
        from harness.data.contact_sheet import show_dataset

        show_dataset(sources.root(config.data), out, n, config.data.pool)
    typer.echo(out)


@data.command("index-pool")
def data_index_pool(
    pool: Annotated[Path, typer.Argument(help="The pool's published JSON, an Arrow index or Parquet.")],
    out: Annotated[Path | None, typer.Option("--out", help="The index to write; beside the pool without it.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; all cores without it.")] = None,
) -> None:
    """Verify every image of a pool and write its memory-mapped index; goes on where it was when started again."""
    from harness.data.index_pool import index_pool

    typer.echo(index_pool(pool, out, workers))


@data.command("pool-stats")
def data_pool_stats(
    overrides: Annotated[list[str], typer.Argument(help="Which pool of which dataset: data=mini data.pool=clean.")],
    out: Annotated[Path | None, typer.Option("--out", help="Plots them into this PNG or SVG.")] = None,
) -> None:
    """What a pool holds: instances by category, frequency group and generator, CLIP scores, areas."""
    from harness.compose import compose
    from harness.data import sources
    from harness.data.facts import TrainingFacts
    from harness.data.lvis import load_annotations
    from harness.data.pool_index import open_pool
    from harness.data.pool_stats import pool_stats
    from harness.data.training import cache_folder

    config = compose(overrides).config.data
    path = sources.pool(config)
    if path is None:
        raise UserError("data.pool names no pool; give data.pool=PATH")
    annotations = load_annotations(sources.train_annotations(config), cache_folder(config))
    facts = TrainingFacts(annotations)
    pool = open_pool(path, config.num_classes or facts.num_categories, cache_folder(config))
    typer.echo(pool_stats(pool, facts, annotations.category_names, out))


def main() -> None:
    """Entry point: user errors end in one line."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
