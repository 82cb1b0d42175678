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
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Datasets and instance pools: check, index, look at.", no_args_is_help=True)
methods = typer.Typer(help="The methods under comparison: list, make a new one, check it.", no_args_is_help=False)
weights = typer.Typer(help="Checkpoints: look into and convert, without a GPU.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(methods, name="methods")
app.add_typer(weights, name="weights")

RunsDir = Annotated[Path, typer.Option("--runs", help="Folder of the runs' records.")]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """One run: train, evaluate, record. Arguments are Hydra's: `method=bsgal seed=1`, `--help`, `--cfg job`."""
    from harness.run import main as run_main

    sys.argv = ["harness run", *context.args]
    run_main()


def main() -> None:
    """Entry point: user errors end in one line."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
