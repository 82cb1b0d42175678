"""A run as a Hydra application: `python -m harness.run method=bsgal seed=1`; `harness run` is the same."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from harness.compose import compose, register_groups, validated
from harness.errors import UserError
from harness.record.record import Status
from harness.run.run import EXIT_CODES, execute_composed


@hydra.main(config_path="pkg://harness.conf", config_name="run", version_base="1.3")
def _application(tree: DictConfig) -> None:
    # SystemExit passes through Hydra, which would print a traceback for anything else.
    try:
        outcome = execute_composed(validated(tree))
    except UserError as error:
        sys.exit(f"error: {error}")
    state = outcome.status.value if outcome.status else "not started"
    print(f"{outcome.run_id}: {state}{', ' + outcome.message if outcome.message else ''}")
    if outcome.status not in (Status.complete, None):
        sys.exit(EXIT_CODES[outcome.status])


def main() -> None:
    """Runs the Hydra application on the command line's arguments; user errors end in one line."""
    overrides = [text for text in sys.argv[1:] if "=" in text and not text.startswith("-")]
    try:
        register_groups(overrides)
        if not {"--multirun", "-m"} & set(sys.argv[1:]):
            compose(overrides)
        _application()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
