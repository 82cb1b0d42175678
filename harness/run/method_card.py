"""What a record says about its method, for readers who do not have its code."""

from __future__ import annotations

from typing import Any

from methods.listing import method_row


def method_card(name: str) -> dict[str, Any]:
    """about, source, origin, and options: their defaults as text, by name."""
    row = method_row(name)
    options = {option.name: option.default for option in row.options}
    return {"about": row.about, "source": row.paper, "origin": row.origin, "options": options}
