"""A Griffe extension for MkDocs: the comment beside a dataclass field is its description on the reference pages."""

from __future__ import annotations

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Makes `name: type  # comment` read as if the comment were a docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        last = attr.source.splitlines()[-1] if attr.source else ""
        code, mark, comment = last.partition("  # ")
        if mark and code and attr.docstring is None:
            attr.docstring = griffe.Docstring(comment[:1].upper() + comment[1:].rstrip(".") + ".", parent=attr)
