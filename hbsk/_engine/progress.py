"""What a fit that takes long says meanwhile, where it is asked to."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds before the first line, and between lines.
PATIENCE = 3.0


class Progress:
    """Counts points, and prints how many there are every few seconds.

    Parameters
    ----------
    verbose : int, default=0
        Nothing is printed at 0.
    """

    def __init__(self, verbose: int = 0):
        self._verbose, self._start = verbose, time.monotonic()
        self._last, self._n_points = self._start, 0

    def counted(self, function: Callable, what: str) -> Callable:
        """Return a function of points (n, d) that tells of them."""

        def evaluate(theta):
            found = function(theta)
            self._n_points += len(theta)
            now = time.monotonic()
            if self._verbose > 0 and now - self._last >= PATIENCE:
                self._last = now
                print(f"hbsk: {what}, {self._n_points} points so far, {now - self._start:.0f} s", flush=True)  # noqa: T201 - asked for
            return found

        return evaluate
