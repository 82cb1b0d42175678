"""Writes docs/explanation/fidelity.md from the tables in harness/recipes and the composed recipes.

python docs/write_fidelity.py [OUT.md]
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.compose import compose
from harness.recipes.document import document
from harness.recipes.table import papers

PAGE = Path(__file__).parent / "explanation" / "fidelity.md"


def page() -> str:
    return document({name: compose([f"recipe={name}"]).settings for name in papers()})


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    out.write_text(page())
    print(out)
