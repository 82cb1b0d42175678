"""Published results: figures from papers and their repositories, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.names import nearest
from reports.spec import COLUMNS, FOLDER

if TYPE_CHECKING:
    import pandas as pd

SHIPPED = FOLDER / "published_results.csv"
ROUNDED = 0.051  # points of AP
REQUIRED = ("table", "method", "backbone", "dataset", "source")


def read_published(extra: Path | None = None) -> pd.DataFrame:
    """The shipped results and the user's own, one row each; columns as in `published_results.csv`.

    Raises ValueError that names the file, and the line of a row without a source.
    """
    import pandas as pd

    tables = []
    for path in [SHIPPED, *([extra] if extra else [])]:
        if not path.is_file():
            raise ValueError(f"published results {path} do not exist")
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a table of published results ({str(error)[:200]})") from error
        absent = [column for column in REQUIRED if column not in table]
        if absent:
            raise ValueError(
                f"{path} has no column '{absent[0]}'; it needs {', '.join(REQUIRED)} and figures such as AP_box"
            )
        bare = table.index[table["source"].isna() | (table["source"].astype(str).str.strip() == "")]
        if len(bare):
            raise ValueError(f"{path}, line {bare[0] + 2}: a published figure needs a source")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def find_published(published: pd.DataFrame, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The one published row with these values; None if no source that we have gives it.

    Raises ValueError for an unknown column or table, and where several rows fit.
    """
    rows = published
    for key, value in wanted.items():
        if key not in published:
            raise ValueError(f"published results have no column '{key}'; {nearest(key, published.columns)}")
        values = published[key]
        if key == "table" and str(value) not in set(values):
            raise ValueError(f"published results have no table '{value}'; {nearest(str(value), set(values))}")
        rows = rows[rows[key].map(_canonical) == _canonical(value)]
    if rows.empty:
        return None
    if len(rows) > 1:
        raise ValueError(
            f"{len(rows)} published results fit {dict(wanted)}; name the table, num_generated or gdde as well"
        )
    return dict(rows.iloc[0])


def _canonical(value: Any) -> str:
    """YAML reads a bare yes or no as a boolean and the CSV a whole number as a float: all meet here."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def found_elsewhere(published: pd.DataFrame, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What other sources say of the same method, backbone, dataset and number of instances, where it differs."""
    keys = [key for key in ("method", "backbone", "dataset", "num_generated", "gdde") if key in published]
    other = published[published["source"] != row["source"]]
    for key in keys:
        other = other[other[key].isna() if row[key] != row[key] else other[key] == row[key]]
    figures = [key for key in published if key in COLUMNS]
    return [dict(each) for _, each in other.iterrows() if _apart(each, row, figures)]


def _apart(one: Mapping[str, Any], other: Mapping[str, Any], figures: list[str]) -> bool:
    """Whether any figure differs by more than rounding to a decimal makes it."""
    return any(abs(float(one[key]) - float(other[key])) > ROUNDED for key in figures)
