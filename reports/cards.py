"""Describes each method of a report: its description, options and source, from its runs' records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reports.collect import Collection, canonical
from reports.spec import Spec

OLD = "Its records are older than method cards."
PREFIX = "method."
MOST_OF_A_ROW = 3  # runs whose options are looked at: seeds have the same ones


@dataclass(frozen=True)
class Card:
    """options: each with its values in this report, and the default where that is another."""

    name: str
    about: str
    options: list[tuple[str, str]]
    source: str
    rows: list[str]


def method_cards(spec: Spec, collection: Collection) -> list[Card]:
    """By method, in the order of the report's rows; of complete runs."""
    cards: dict[str, dict[str, Any]] = {}
    for row in collection.with_runs(collection.rows):
        label = spec.label_in_group(row.label, row.group)
        for run in collection.complete(row.key)["run"].head(MOST_OF_A_ROW):
            card = cards.setdefault(str(run.settings.get("method")), {"known": {}, "rows": {}, "values": {}})
            card["rows"][label] = None
            card["known"] = run.record.provenance.get("method") or card["known"]
            for key, value in run.settings.items():
                if key.startswith(PREFIX):
                    card["values"].setdefault(key.removeprefix(PREFIX), {})[canonical(value)] = None
    return [_card(name, **found) for name, found in cards.items()]


def _card(name: str, known: dict[str, Any], rows: dict[str, None], values: dict[str, dict[str, None]]) -> Card:
    defaults = known.get("options") or {}
    options = []
    for option, found in values.items():
        default = _default(defaults.get(option))
        other = option in defaults and list(found) != [default]
        options.append((option, " | ".join(found) + (f" (default {default})" if other else "")))
    return Card(name, known.get("about") or OLD, options, known.get("source") or "", list(rows))


def _default(text: Any) -> str:
    """A default, which a record has as text, spelled as the settings are: 21 for 21.0."""
    try:
        return canonical(None if text == "null" else float(text))
    except (TypeError, ValueError):
        return canonical(text)
