"""A run as a Hydra application, for `harness run` and `python -m harness.run`."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.compose import Composed, check_groups, compose, explained, initialised, register_groups, validated
from harness.errors import ending_in_a_sentence
from harness.record.record import Status
from harness.run.outcome import EXIT_CODES
from harness.run.run import execute_composed


def main() -> None:
    """Executes a run from the command line's arguments; user errors end in one line.

    Only Hydra's own flags (--help, --cfg, --multirun, --config-dir ...) and settings need Hydra's application.
    """
    arguments = sys.argv[1:]
    with ending_in_a_sentence():
        if any(text.startswith(("-", "hydra")) for text in arguments):
            _hydra_application([text for text in arguments if "=" in text and not text.startswith("-")])
        else:
            _execute(compose(arguments))


def _hydra_application(overrides: list[str]) -> None:
    register_groups(overrides)
    with initialised():
        check_groups(overrides)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors, so that ours can name the nearest word
    try:
        _application()
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, overrides) from error


@hydra.main(config_path="pkg://harness.conf", config_name="run", version_base="1.3")
def _application(tree: DictConfig) -> None:
    # SystemExit passes through Hydra, which would announce anything else as an error of its own.
    with ending_in_a_sentence():
        known = HydraConfig.get()
        _execute(validated(tree, known.runtime.choices, known.overrides.task))


def _execute(composed: Composed) -> None:
    outcome = execute_composed(composed)
    state = outcome.status.value if outcome.status else "not started"
    print(f"{outcome.run_id}: {state}{', ' + outcome.message if outcome.message else ''}")
    if outcome.status not in (Status.complete, None):
        sys.exit(EXIT_CODES[outcome.status])
