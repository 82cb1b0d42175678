"""`python -m harness.run method=bsgal seed=1`, as torchrun starts it; `harness run` is the same."""

from __future__ import annotations

import sys

from harness.errors import UserError
from harness.run.own_packages import refuse_hidden

if __name__ == "__main__":
    try:
        refuse_hidden(("methods", "backbones"))  # before anything below imports them
    except UserError as error:
        sys.exit(f"error: {error}")
    from harness.run.application import main

    main()
