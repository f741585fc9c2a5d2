"""What a fit that takes long says meanwhile, where it is asked to."""

from __future__ import annotations

import time

# Seconds before the first line, and between lines.
PATIENCE = 3.0


class Progress:
    """Counts points, and prints how many there are every few seconds.

    Parameters
    ----------
    verbose : int, default=0
        Nothing is printed at 0.

    Attributes
    ----------
    stage : str
        What the points are for.
    """

    def __init__(self, verbose: int = 0):
        self._verbose, self._start = verbose, time.monotonic()
        self._last, self._n_points = self._start, 0
        self.stage = ""

    def count(self, n_points: int) -> None:
        """Take down that points were evaluated."""
        self._n_points += n_points
        now = time.monotonic()
        if self._verbose > 0 and now - self._last >= PATIENCE:
            self._last = now
            line = f"hbsk: {self.stage}, {self._n_points} points so far, {now - self._start:.0f} s"
            print(line, flush=True)  # noqa: T201 - asked for
