"""Exposure and trials of counts: which a family has, and that they are there where fit had them."""

from __future__ import annotations

from dataclasses import replace

from hbsk._base import learnt_by, require_size
from hbsk._data.responses import SIZE_OF, check_whole_trials, read_sizes
from hbsk._data.suspicions import warn_of_order


class SizesMixin:
    """Reading of exposure and trials; a mixin of `PartialPoolingCountRegressor`."""

    def _sizes(self, family, n_rows, exposure, trials):
        """Return exposure or trials, whichever the family has; an error where the other is given."""
        families = {family: family for family in SIZE_OF}
        return read_sizes(exposure, trials, n_rows, family, type(self).__name__, "family", families)

    def _with_sizes(self, rows, X, exposure, trials, what):
        """Return rows with their exposure or trials, which must be there where fit had them."""
        warn_of_order(X, [("exposure", exposure), ("trials", trials)])
        size = self._sizes(learnt_by(self).family, rows.design.n_rows, exposure, trials)
        require_size(self, size, what)
        return replace(rows, size=size)

    def _with_whole_sizes(self, rows, X, exposure, trials, what):
        """Return rows whose outcomes can be drawn."""
        rows = self._with_sizes(rows, X, exposure, trials, what)
        if learnt_by(self).family == "binomial":
            check_whole_trials(rows.size, what)
        return rows
