"""The files of offline stages that a run's method reads."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import RunConfig
from harness.errors import UserError
from harness.record.record import Record
from harness.run.identity import fingerprints, maker_of


def check_needed_files(config: RunConfig, parents: Sequence[Record]) -> None:
    """Raises UserError for a file that is gone, and for one that was made from another pool."""
    records = {parent.run_id: parent for parent in parents}
    for option, path in config.method.files().items():
        run = maker_of(path, config)
        if run is None:
            continue
        if not path.is_file():
            raise UserError(f"method.{option}: {path} is gone; delete the folder of {run} and run it again")
        pool = (records[run].provenance.get("fingerprints") or {}).get("pool")
        if pool != fingerprints(config).get("pool"):
            raise UserError(f"method.{option}: {run} used another pool than data.pool={config.data.pool}")
