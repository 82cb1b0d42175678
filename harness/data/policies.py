"""A method's policies on their way from the steps that made them to the draws that use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.errors import UserError
from methods.contract import Method

PREFETCHED = 2  # batches that each loader worker is asked for ahead: torch's default


class Policies:
    """What a method's `policy` gave after the last `lag` steps.

    A batch is drawn with the policy from `lag` steps earlier. The loader asks for batches ahead, more of them the more
    workers there are; since every policy waits `lag` steps, none comes too late, and draws are the same for any number
    of workers.
    """

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._after: dict[int, np.ndarray] = {}  # by iteration

    @classmethod
    def of(cls, method: Method) -> Policies | None:
        """None for a method without a policy."""
        return cls(method.lag) if type(method).policy is not Method.policy else None

    def add(self, iteration: int, policy: np.ndarray) -> None:
        """Takes in, as a copy, what the method gave after a step (0-based); steps come in order."""
        kept = np.array(policy)
        kept.setflags(write=False)
        self._after[iteration] = kept
        self._after.pop(iteration - self.lag, None)

    def heeded_at(self, iteration: int) -> np.ndarray | None:
        """The policy that a step's draws use; None in the first `lag` steps."""
        return self._after[iteration - self.lag] if iteration >= self.lag else None

    def prefetch(self, workers: int) -> int | None:
        """How many batches a worker may be asked for ahead; None without workers.

        Raises UserError if even one each would be asked for before its policy is known.
        """
        if self.lag <= workers:
            raise UserError(
                f"data.workers={workers}: the method draws by what it learnt lag={self.lag} steps earlier, and this "
                f"many workers draw further ahead; set data.workers={self.lag - 1}, or raise `lag` in the method"
            )
        return min(PREFETCHED, (self.lag - 1) // workers) if workers else None

    def state_dict(self) -> dict[str, Any]:
        """The policies that no draw has used yet, for a checkpoint."""
        return {str(iteration): torch.tensor(policy) for iteration, policy in self._after.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._after = {}
        for iteration, policy in state.items():
            self.add(int(iteration), policy.cpu().numpy())
