"""Exposure and trials of counts: which a family has, and that they are there where fit had them."""

from __future__ import annotations

from dataclasses import replace

from hbsk._base import learnt_by
from hbsk._data.responses import check_sizes, check_whole_trials
from hbsk._data.suspicions import warn_of_order

SIZE_OF = {"poisson": "exposure", "binomial": "trials"}


class SizesMixin:
    """Reading of exposure and trials; a mixin of `PartialPoolingCountRegressor`."""

    def _sizes(self, family, n_rows, exposure, trials):
        """Return exposure or trials, whichever the family has; an error where the other is given."""
        given = {"exposure": exposure, "trials": trials}
        (other,) = given.keys() - {SIZE_OF[family]}
        if given[other] is not None:
            raise ValueError(
                f"{other}= was given with family={family!r}, which has {SIZE_OF[family]}= instead. Leave it out, or "
                f"set family={'poisson' if other == 'exposure' else 'binomial'!r}."
            )
        return check_sizes(given[SIZE_OF[family]], n_rows, SIZE_OF[family], type(self).__name__)

    def _with_sizes(self, rows, X, exposure, trials, what):
        """Return rows with their exposure or trials, which must be there where fit had them."""
        learnt = learnt_by(self)
        warn_of_order(X, [("exposure", exposure), ("trials", trials)])
        size = self._sizes(learnt.family, rows.design.n_rows, exposure, trials)
        if size is None and learnt.sized_by:
            raise ValueError(
                f"{what} needs {learnt.sized_by}= for these rows: this {type(self).__name__} was fitted with it. "
                "scikit-learn's scorers and searches pass it only with metadata routing on, set_fit_request("
                f"{learnt.sized_by}=True) and set_score_request({learnt.sized_by}=True). Without routing fit with "
                f"weights instead, fit(X, y / {learnt.sized_by}, sample_weight={learnt.sized_by}), which is the same "
                "likelihood."
            )
        return replace(rows, size=size)

    def _with_whole_sizes(self, rows, X, exposure, trials, what):
        """Return rows whose outcomes can be drawn."""
        rows = self._with_sizes(rows, X, exposure, trials, what)
        if learnt_by(self).family == "binomial":
            check_whole_trials(rows.size, what)
        return rows
