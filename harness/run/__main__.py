"""`python -m harness.run method=bsgal seed=1`, as torchrun starts it; `harness run` is the same."""

from __future__ import annotations

from harness.errors import ending_in_a_sentence
from harness.run.loading import loading
from harness.run.own_packages import refuse_hidden

if __name__ == "__main__":
    with ending_in_a_sentence():
        refuse_hidden(("methods", "backbones"))  # before anything below imports them
    with loading():
        from harness.run.application import main

    main()
