"""Everything that a fit needs of the data, without the rows: sums over groups that merge exactly.

Whoever has the rows gives, for one grouping factor or none (symbols of `hbsk._engine.sums`; ``c`` are centres near the
means, ``w = f / se^2`` the weight of a row, f its copies, w = f without standard errors):

- ``GroupSums``: ``zz`` (q, q, J) = sums by group of ``w z z'``; ``zx`` (q, p + 1, J) = sums by group of ``w z [x y]``;
  ``xx`` (p + 1, p + 1) = the sum over all rows of ``w [x y] [x y]'``; ``n`` = sum of f; ``log_weight`` = sum of
  ``f log(1 / se^2)``, 0 without standard errors; ``copies`` (J,) = sums by group of f. The common columns x are the
  column of ones and the others less ``x_centre``, y is less its offset and ``y_centre``; without an intercept their
  centres are 0. The varying columns z are less ``z_centre`` where one of them is 1, whose own centre is 0;
  ``z_centre`` is None otherwise, and nothing is taken off. Which column is which: `Specification`. Without groups
  ``zz``, ``zx`` and ``copies`` have J = q = 0.
- for `hbsk._engine.sums.centred_sums`: ``column_totals`` (2, p + 1) = sums of ``f d`` and ``f d^2`` of the centred
  common columns and y, ``varying_totals`` (2, q) the same of the varying columns, ``error_squares`` = sum of
  ``f se^2``.
- ``counted``: rows of each group, int64, and ``copies``: sums of f, the same array where there are no weights; one
  array each for every factor; ``n_rows``; ``least_noise``: the smallest ``se / root f`` of a row, without standard
  errors 1 over the root of the largest f.
- ``frame``: a `ModelFrame`, whose factor holds the labels of the groups in the order of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hbsk._data.factor import Factor
from hbsk._data.label_kinds import written_otherwise
from hbsk._data.labels import GroupFactor
from hbsk._data.rows import LEAST_ROWS
from hbsk._data.sources import FactorSource
from hbsk._documents.archive import read_archive, write_archive
from hbsk._documents.kinds import DamagedError
from hbsk._engine.merging import merge, regrouped, scaled, without
from hbsk._engine.sums import CentredSums, GroupSums, Moments
from hbsk._messages import quoted, shown, warn
from hbsk._model.centres import varying_intercept
from hbsk._model.design import Component, Recipe
from hbsk._model.expressions import Call, Name, Operation, Value
from hbsk._model.frame import ModelFrame
from hbsk._model.options import Options
from hbsk._model.recipe_differences import difference_of_recipes
from hbsk._model.specification import Specification
from hbsk.exceptions import LabelMismatchWarning

# Of the files.
FORMAT = 1
# Parameters of an estimator that settle which columns are summed.
RECIPE_PARAMETERS = ("formula", "group_features", "slope_features", "correlated")


@dataclass(frozen=True, eq=False, repr=False)
class SufficientStatistics:
    """Everything that a fit of `PartialPoolingRegressor` needs of the data: sums over groups instead of rows.

    Made by `PartialPoolingRegressor.collect`. Of each group they hold the products of its columns, added up; the fit
    of the sums is the fit of the rows. Sums of other rows can be added, those of some rows taken away again.

    The sums are not anonymous: those of a group of one row are the row, and those of a small group, or differences of
    sums that were given away at different times, tell much about the people in it. Federated analyses of such sums
    add noise or leave small groups out for that reason [1]_.

    Attributes
    ----------
    formula : str
        The model whose columns were summed.
    groups : dict of str to ndarray of shape (n_groups,)
        Labels of each grouping factor.
    counts : dict of str to ndarray of shape (n_groups,)
        Number of rows in each group.
    n_rows : int
        Number of rows.

    See Also
    --------
    PartialPoolingRegressor.collect : Make them.
    PartialPoolingRegressor.partial_fit : Add rows to a fit.

    References
    ----------
    .. [1] arXiv 2407.20796 and arXiv 2604.00410.

    Examples
    --------
    The sums of two halves of the data are those of all of it:

    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_radon
    >>> X, y = load_radon(return_X_y=True, as_frame=True)
    >>> X = X[["county", "floor"]]
    >>> model = PartialPoolingRegressor(group_features="county")
    >>> both = model.collect(X[:400], y[:400]) + model.collect(X[400:], y[400:])
    >>> both.n_rows
    919
    >>> model.fit(both).coef_.round(3), model.fit(X, y).coef_.round(3)
    (array([-0.693]), array([-0.693]))
    """

    frame: ModelFrame
    collected: CentredSums
    counted: tuple[np.ndarray, ...]
    copies: tuple[np.ndarray, ...]
    n_rows: int
    least_noise: float
    known_errors: bool
    n_features: int
    feature_names: np.ndarray | None
    asked: Mapping[str, Any]

    def __repr__(self) -> str:
        of_groups = "".join(f", {factor.n_groups} groups of {factor.name!r}" for factor in self.frame.factors)
        return f"<SufficientStatistics of {self.n_rows} rows{of_groups}: {self.formula}>"

    @property
    def formula(self) -> str:
        """The model whose columns were summed."""
        return self.frame.specification.formula

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Labels of each grouping factor."""
        return {factor.name: factor.labels for factor in self.frame.factors}

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """Number of rows in each group."""
        return {factor.name: counts for factor, counts in zip(self.frame.factors, self.counted, strict=True)}

    @property
    def is_weighted(self) -> bool:
        """Whether rows have other weights than 1."""
        return self.collected.sums.n != self.n_rows

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        """Return the sums of the rows of both.

        Raises
        ------
        ValueError
            For sums of another model, or of other levels or centres of its terms; the message says which.

        Warns
        -----
        hbsk.exceptions.LabelMismatchWarning
            Where no group is in both, and their labels look like the same ones written otherwise.
        """
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        _require_same_recipe(self, other, "added")
        first, second = _over_the_same_groups(self, other)
        _warn_of_labels_written_otherwise(self, other, first)
        return replace(
            first,
            collected=merge(first.collected, second.collected),
            counted=tuple(a + b for a, b in zip(first.counted, second.counted, strict=True)),
            copies=tuple(a + b for a, b in zip(first.copies, second.copies, strict=True)),
            n_rows=self.n_rows + other.n_rows,
            least_noise=min(self.least_noise, other.least_noise),
        )

    def __radd__(self, other: Any) -> SufficientStatistics:
        """Return the sums themselves, added to the 0 that ``sum([...])`` begins with."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: SufficientStatistics) -> SufficientStatistics:
        """Return the sums of the rows that are not in the other, whose rows must be among these.

        Groups that are left without rows are left out. A fit of what is left equals one of its rows to about 1e-10.

        Raises
        ------
        ValueError
            For sums of another model, or of rows that are not in these.
        """
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        _require_same_recipe(self, other, "subtracted")
        first, second = _over_the_same_groups(self, other)
        counted = tuple(a - b for a, b in zip(first.counted, second.counted, strict=True))
        for factor, counts in zip(first.frame.factors, counted, strict=True):
            if (counts < 0).any():
                group = factor.labels[int(counts.argmin())]
                raise ValueError(
                    f"Sums cannot be subtracted of rows that are not in the first: group {shown(group)} of "
                    f"{factor.name!r} would be left with {int(counts.min())} rows."
                )
        if other.n_rows >= self.n_rows:
            raise ValueError(
                f"Sums of {other.n_rows} rows cannot be subtracted from those of {self.n_rows}: no row would be left."
            )
        rest = replace(
            first,
            collected=without(first.collected, second.collected),
            counted=counted,
            copies=tuple(a - b for a, b in zip(first.copies, second.copies, strict=True)),
            n_rows=self.n_rows - other.n_rows,
        )
        return rest.of_groups_with_rows()

    def scaled(self, factor: float) -> SufficientStatistics:
        """Return the sums where every row counts so many times.

        Old rows can be forgotten in this way: with ``total = total.scaled(0.99) + today`` rows of k days ago have the
        weight ``0.99 ** k``, as by ``sample_weight``.

        Parameters
        ----------
        factor : float
            Positive and finite; multiplies the sample weights.

        Returns
        -------
        statistics : SufficientStatistics
        """
        if not isinstance(factor, int | float | np.number) or not 0 < factor < np.inf:
            raise ValueError(f"factor must be a positive number, got {shown(factor)}.")
        return replace(
            self,
            collected=scaled(self.collected, float(factor)),
            copies=tuple(copies * factor for copies in self.copies),
            least_noise=self.least_noise / float(np.sqrt(factor)),
        )

    def save(self, path: Any) -> None:
        """Write the sums to a file, as data that runs nothing when it is read.

        Parameters
        ----------
        path : str or path-like
            Where to; a file that is there is replaced once the new one is whole.

        Raises
        ------
        TypeError
            For group labels of types that `to_json` does not write either.
        """
        from hbsk import __version__

        head = {"hbsk_sums_format": FORMAT, "hbsk_version": __version__}
        write_archive(path, head, self, _classes(), "save")

    @staticmethod
    def load(path: Any) -> SufficientStatistics:
        """Read sums that `save` wrote.

        Nothing in the file is run, and no memory is taken for what it does not hold. A file made by somebody else can
        still hold wrong numbers.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        statistics : SufficientStatistics

        Raises
        ------
        ValueError
            If the file is no such file, is damaged, or of a format that this version does not read.
        """
        statistics = read_archive(path, _check_head, _classes(), "SufficientStatistics.save")
        if not isinstance(statistics, SufficientStatistics):
            raise DamagedError(f"{path} is damaged: it holds no SufficientStatistics.")
        wrong = _disagreement(statistics)
        if wrong:
            raise DamagedError(f"{path} is damaged: {wrong}.")
        return statistics

    def of_groups_with_rows(self) -> SufficientStatistics:
        """Return the same sums without groups that have no rows."""
        statistics = self
        for f, counts in enumerate(self.counted):
            if (counts > 0).all():
                continue
            kept = counts > 0
            codes = np.where(kept, np.cumsum(kept) - 1, -1)
            statistics = _at_codes(statistics, f, _groups(statistics.frame.factors[f]).only(kept), codes)
        return statistics


def require_nothing_beside(given: Mapping[str, Any]) -> None:
    """Raise for what sums hold already."""
    beside = [name for name, value in given.items() if value is not None]
    if beside:
        raise ValueError(
            f"{quoted(beside)} cannot be given with SufficientStatistics, which hold it already. Leave {beside[0]}= "
            "out."
        )


def require_recipe(options: Options, statistics: SufficientStatistics) -> None:
    """Raise unless the sums are of the model that an estimator asks for."""
    asked = parameters_of_recipe(options)
    for name in RECIPE_PARAMETERS:
        if asked[name] != statistics.asked[name]:
            raise ValueError(
                f"The sums are of another model: they were collected with {name}={shown(statistics.asked[name])}, and "
                f"this {options.name} has {name}={shown(asked[name])}. Collect them with the same parameters."
            )
    if statistics.frame.factors and (options.pooling == "complete") != statistics.frame.ignores_groups:
        needed = "which has groups" if statistics.frame.ignores_groups else "which leaves the groups out"
        raise ValueError(
            f"The sums are of another model: they were not collected with pooling={options.pooling!r}, {needed}. "
            "Collect them with the same parameters."
        )


def require_rows(options: Options, statistics: SufficientStatistics) -> None:
    """Raise unless there are rows enough for a fit."""
    if statistics.n_rows < LEAST_ROWS:
        raise ValueError(
            f"The sums are of n_samples={statistics.n_rows} rows, while a minimum of {LEAST_ROWS} is required by "
            f"{options.name}."
        )


def show_features(estimator: Any, statistics: SufficientStatistics) -> None:
    """Give an estimator scikit-learn's attributes of the X that sums were collected from."""
    estimator.n_features_in_ = statistics.n_features
    if statistics.feature_names is not None:
        estimator.feature_names_in_ = statistics.feature_names


def refuse_sums_of_several_factors(frame: ModelFrame) -> None:
    """Refuse sums of more than one grouping factor, which need those of pairs of groups too."""
    names = [factor.name for factor in frame.factors]
    if len(names) > 1:
        raise ValueError(
            f"SufficientStatistics are of one grouping factor, and the model has {quoted(names)}. Name one of them, "
            "or fit the rows."
        )


def parameters_of_recipe(options: Options) -> dict[str, Any]:
    """Return what settles the columns of a model, as plain data."""
    return {name: _plain(getattr(options, name)) for name in RECIPE_PARAMETERS}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    return np.asarray(value, dtype=object).tolist()


# ---------------------------------------------------------------------------------------------------------------------
# The same groups


def _over_the_same_groups(
    first: SufficientStatistics, second: SufficientStatistics
) -> tuple[SufficientStatistics, SufficientStatistics]:
    """Return both with the groups of both, in the same order."""
    for f, (mine, theirs) in enumerate(zip(first.frame.factors, second.frame.factors, strict=True)):
        groups, *codes = _groups(mine).union(_groups(theirs))
        first, second = (_at_codes(part, f, groups, at) for part, at in zip((first, second), codes, strict=True))
    return first, second


def _warn_of_labels_written_otherwise(
    first: SufficientStatistics, second: SufficientStatistics, both: SufficientStatistics
) -> None:
    for mine, theirs, merged in zip(first.frame.factors, second.frame.factors, both.frame.factors, strict=True):
        if merged.n_groups < mine.n_groups + theirs.n_groups:
            continue
        otherwise = written_otherwise(_groups(mine), [theirs.labels])
        if otherwise:
            warn(
                f"Not one of the labels of {mine.name!r} in the rows that are added was there before; {otherwise}. All "
                "of them are taken as new groups. Write labels alike.",
                LabelMismatchWarning,
            )


def _groups(factor: Factor) -> GroupFactor:
    assert factor.groups is not None
    return factor.groups


def _at_codes(statistics: SufficientStatistics, f: int, groups: GroupFactor, codes: np.ndarray) -> SufficientStatistics:
    """Return the sums with each group of a factor at its code; -1 leaves one out that has no rows."""
    n_groups, kept = groups.n_groups, codes >= 0
    if groups is statistics.frame.factors[f].groups:
        return statistics

    def at_codes(numbers):
        new = np.zeros(n_groups, dtype=numbers.dtype)
        new[codes[kept]] = numbers[kept]
        return new

    def with_groups(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
        return tuple(replace(factor, groups=groups) if i == f else factor for i, factor in enumerate(factors))

    frame = statistics.frame
    grouped = replace(frame.grouped, factors=with_groups(frame.grouped.factors))
    specification = frame.specification if frame.ignores_groups else grouped
    collected = statistics.collected
    return replace(
        statistics,
        frame=ModelFrame(specification, grouped),
        collected=collected if frame.ignores_groups else regrouped(collected, codes, n_groups),
        counted=tuple(at_codes(n) if i == f else n for i, n in enumerate(statistics.counted)),
        copies=tuple(at_codes(n) if i == f else n for i, n in enumerate(statistics.copies)),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The same recipe


def _require_same_recipe(first: SufficientStatistics, second: SufficientStatistics, done: str) -> None:
    difference = difference_of_recipes(first.frame, second.frame)
    if not difference and first.known_errors != second.known_errors:
        difference = "standard_error= was given for the rows of one only"
    if difference:
        raise ValueError(f"Sums can be {done} where their columns are the same, but {difference}.")


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _classes() -> dict[str, type]:
    """Return the classes that a file of sums may name."""
    kinds = (
        Call, CentredSums, Component, Factor, FactorSource, GroupFactor, GroupSums, ModelFrame, Moments, Name,
        Operation, Recipe, Specification, SufficientStatistics, Value,
    )  # fmt: skip
    return {kind.__name__: kind for kind in kinds}


def _check_head(head: Mapping[str, Any]) -> None:
    found = head.get("hbsk_sums_format")
    if type(found) is not int:
        raise DamagedError("The file is none of SufficientStatistics.save: its document has no 'hbsk_sums_format'.")
    if found != FORMAT:
        raise DamagedError(
            f"The file has hbsk_sums_format={found}, written by hbsk {head.get('hbsk_version')!r}; this version reads "
            f"format {FORMAT}. Load it with that version, or collect the sums again."
        )


def _disagreement(statistics: SufficientStatistics) -> str:
    """Return in what the parts of sums that were read disagree; "" where they do not."""
    specification, collected = statistics.frame.specification, statistics.collected
    sums, moments = collected.sums, collected.moments
    factors = statistics.frame.factors
    if len(specification.factors) > 1 or any(factor.groups is None for factor in factors):
        return "its grouping factors are none that sums are of"
    p, q, n_groups, intercept = len(specification.common_columns), 0, 0, None
    if specification.factors:
        factor = specification.factors[0]
        q, n_groups, intercept = len(factor.columns), factor.n_groups, varying_intercept(factor)
    due: dict[str, tuple[Any, tuple[int, ...]]] = {
        "zz": (sums.zz, (q, q, n_groups)),
        "zx": (sums.zx, (q, p + 1, n_groups)),
        "xx": (sums.xx, (p + 1, p + 1)),
        "x_centre": (collected.x_centre, (p,)),
        "x_mean": (moments.x_mean, (p,)),
        "x_sd": (moments.x_sd, (p,)),
        "copies of the sums": (sums.copies, (n_groups,)),
    }
    if intercept is not None:
        due["z_centre"] = (collected.z_centre, (q,))
    for name, parts in (("z_mean", moments.z_mean), ("z_sd", moments.z_sd)):
        if len(parts) != bool(q):
            return f"{name} has {len(parts)} parts"
        if parts:
            due[name] = (parts[0], (q,))
    for name, numbers in (("counted", statistics.counted), ("copies", statistics.copies)):
        if len(numbers) != len(factors):
            return f"{name} has {len(numbers)} parts, where {len(factors)} are due"
        due |= {
            f"{name} of {factor.name!r}": (part, (factor.n_groups,))
            for factor, part in zip(factors, numbers, strict=True)
        }
    for name, (array, shape) in due.items():
        if np.shape(array) != shape or not np.isfinite(array).all():
            return f"{name} has not the shape {shape}, or numbers that are not finite"
    squares = [np.einsum("kkj->kj", sums.zz), np.diag(sums.xx), moments.x_sd, moments.y_sd, *moments.z_sd]
    positive = [sums.n, moments.n, statistics.n_rows, statistics.least_noise]
    counts = [*statistics.counted, *statistics.copies, moments.error_variance]
    if min(positive) <= 0 or any(np.min(part, initial=0.0) < 0 for part in (*squares, *counts)):
        return "it has negative counts or squares"
    alone = [sums.n, sums.log_weight, moments.n, moments.y_mean, moments.y_sd, collected.y_centre]
    if not np.isfinite(alone).all():
        return "it has numbers that are not finite"
    if collected.has_intercept != specification.has_intercept or collected.varying_intercept != intercept:
        return "its sums are of another formula"
    if any(int(counts.sum()) != statistics.n_rows for counts in statistics.counted):
        return "its counts of rows do not add up"
    return ""
