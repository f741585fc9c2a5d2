"""The seam to Bambi: our model as a `bambi.Model` (`hbsk._bambi.priors` has its priors).

Bambi takes seconds to import, so every function imports it when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from hbsk._bambi.priors import as_bambi_prior, has_fixed_zero, is_number, plain_prior, varying_priors
from hbsk._bambi.raw_terms import RawTerms
from hbsk._data.labels import group_names
from hbsk._engine.varying_location import less_centre
from hbsk._model.centres import centre_array, varying_intercept
from hbsk._model.default_priors import usable_scale
from hbsk._model.design import columns_by_term

__all__ = ["DUMMY_BLOCK_LIMIT", "F_FOR_CENTRED", "EffectLayout", "Layout", "build_model"]

# Effects are sampled centred (u itself) where the groups of a factor are told apart by the data so well that an F
# statistic of their means passes this, a shrinkage weight of 0.9; otherwise as offsets (u / tau). Measured with 18
# groups and correlated slopes, effective draws of 1000 centred and with offsets: 428 and 186 at F = 15, 952 and 175 at
# F = 164, but 71 and 205 at F = 2.7, where the centred form diverges besides.
F_FOR_CENTRED = 10.0

# Bytes of dense indicator columns that Bambi may be asked to allocate.
DUMMY_BLOCK_LIMIT = 2 * 2**30

# Share of a column's sd that may lie between its mean and the point of priors for the two to be the same.
SAME_POINT = 1e-9

# Names of variables that Bambi makes itself, and the terms "1" and "0" of a formula.
RESERVED_NAMES = frozenset({"Intercept", "mu", "sigma", "1", "0"})


@dataclass(frozen=True)
class EffectLayout:
    """Which variables of the model hold the effects of one grouping factor."""

    name: str
    labels: tuple[str, ...]  # one name for each group, as in the coordinates of the model
    columns: tuple[str, ...]
    terms: tuple[tuple[str, tuple[int, ...]], ...]  # (variable, columns it holds)
    correlation: str | None  # name of the correlation matrix; None where all effects are independent
    blocks: tuple[tuple[int, ...], ...]  # columns correlated with each other, where there are several
    noncentered: bool
    priors: tuple[tuple[str, dict] | None, ...]  # of each term, as plain data; None for a function
    centre: tuple[float, ...]  # what was taken off the columns before the priors of their effects apply
    intercept: int | None  # the column of ones


@dataclass(frozen=True)
class Layout:
    """Which variables of a model that `build_model` returned hold which columns.

    `centre` is what was taken off the common columns before their priors apply (zero without an
    intercept); `sigma` the residual sd where it is no variable: a number where it is fixed, NaN
    with known standard errors. `scales` are the units of the variables, to start a sampler.
    """

    columns: tuple[str, ...]
    has_intercept: bool
    centre: np.ndarray
    common: tuple[tuple[str, tuple[int, ...]], ...]
    factors: tuple[EffectLayout, ...]
    sigma: float | None
    y_mean: float
    scales: dict[str, float | np.ndarray]


def build_model(
    specification,
    priors,
    design,
    y,
    codes,
    groups,
    *,
    sample_weight=None,
    standard_error=None,
    noncentered=None,
    raw=None,
    family="gaussian",
    size=None,
):
    """Return the model of the marginal engine as a `bambi.Model`, all priors explicit.

    The data of the Bambi model are the columns of our own design, so that both engines see the
    same numbers, and names of the user occur in the formula only as quoted column names. Where
    `raw` has a column, the formula computes it from those of X instead, so that `model.predict`
    takes new rows. Variables have the names Bambi would give them ("Intercept", "floor", "1|county",
    "1|county_sigma", "sigma"); "corr_<factor>" is the correlation matrix of a factor's effects.
    Characters that Bambi or PyMC cannot take in a name become underscores; `model.hbsk_layout`
    says which variable holds which columns. Common columns that are constant are left out.

    With an intercept the priors refer to centred common columns. Bambi centres by plain means
    and takes that back after sampling. With `sample_weight` the means are over copies, which
    Bambi cannot do: the columns are centred here, and the intercept that `model.fit` reports is
    the one at the column means (`hbsk._bambi.sampling.sample_posterior` always takes it back).

    Varying columns are less the point that `priors` have for them, so that effects, their sds and
    correlations are those at that point: `center(x)` where it is the mean of the column.

    Parameters
    ----------
    specification : Specification
    priors : dict
        The plain data of `priors_`, complete; values may also be `bambi.Prior` objects.
    design : Design
    y : ndarray of shape (n_rows,)
    codes : dict of str to ndarray of shape (n_rows,)
        Factor name -> group code of each row, 0 to n_groups - 1.
    groups : dict of str to sequence
        Factor name -> labels of its groups.
    sample_weight : ndarray of shape (n_rows,), optional
        Number of copies of each row.
    standard_error : ndarray of shape (n_rows,), optional
        Known standard deviation of each y; the residual sd is then no parameter.
    noncentered : bool, optional
        Whether effects are sampled as offsets in units of their standard deviation. Decided for
        each factor by default: offsets unless the data tell its groups well apart (`F_FOR_CENTRED`).
    raw : RawTerms, optional
        Columns that Bambi can compute.
    family : {"gaussian", "binomial", "poisson"}, default="gaussian"
        Of y. Copies of binomial or Poisson rows are taken together: their successes or counts, and their trials or
        exposure, add up.
    size : ndarray of shape (n_rows,), optional
        Trials or exposure.

    Returns
    -------
    bambi.Model
        Not built yet; `fit` builds it.
    """
    y = np.asarray(y, dtype=float)
    check_dummy_block(specification, len(y), groups)
    X, Z, offset = design.block(0, design.n_rows)
    copies = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    weighted = sample_weight is not None
    is_gaussian = family == "gaussian"
    if not is_gaussian:
        y, size = y * copies, copies if size is None else size * copies
        copies, weighted = size, np.ptp(size) > 0
    raw = RawTerms() if raw is None else raw
    of_factors = raw.varying or tuple({} for _ in specification.factors)

    columns = _Columns()
    response = columns.variable(columns.add(specification.response, y))
    y_mean = float(copies @ y / copies.sum()) if is_gaussian else _start_of_predictor(family, y, size)
    y_scale = 1.0
    if is_gaussian:
        y_scale = float(usable_scale(y_mean, np.sqrt(copies @ (y - y_mean) ** 2 / copies.sum())))
    # Varying terms claim their column names first: theirs are never centred, and the name of the
    # column is part of the name of the variable.
    parts, factors = [], []
    for factor, values, own in zip(specification.factors, Z, of_factors, strict=True):
        code, labels = codes[factor.name], groups[factor.name]
        if noncentered is None and not is_gaussian:
            offsets = True
        elif noncentered is None:
            offsets = _f_statistic(X, y, code, copies, standard_error) < F_FOR_CENTRED
        else:
            offsets = noncentered
        layout, terms = _varying_terms(columns, factor, values, code, labels, bool(offsets), priors, own)
        factors.append(layout)
        parts += terms

    centre = copies @ X / copies.sum() if specification.has_intercept else np.zeros(X.shape[1])
    if specification.has_intercept:
        centre[0] = 0.0
    centre_here = centre if weighted and specification.has_intercept else None
    common = _common_terms(columns, specification, X, copies, centre_here, priors, raw.common)
    parts = common + parts

    texts = [part.text for part in parts]
    texts.insert(0, "1" if specification.has_intercept else "0")
    if offset is not None and raw.offsets and all(columns.can_take(each) for each in raw.offsets):
        texts += [each.text for each in raw.offsets]
    elif offset is not None:
        texts.append(f"offset(`{columns.add('offset', offset)}`)")
    left_side, bambi_family = f"`{response}`", family
    if family == "binomial":
        bambi_family = "bernoulli" if np.all(size == 1) else "binomial"
        if bambi_family == "binomial":
            left_side = f"p({left_side}, `{columns.add('trials', size)}`)"
    elif family == "poisson" and np.any(size != 1):
        texts.append(f"offset(`{columns.add('log exposure', np.log(size))}`)")
    elif is_gaussian and weighted:
        left_side = f"weighted({left_side}, `{columns.add('weight', copies)}`)"
    formulas = [f"{left_side} ~ {' + '.join(texts)}"]
    term_priors = {part.bambi_name: part.prior for part in parts}
    if specification.has_intercept:
        term_priors["Intercept"] = as_bambi_prior(priors["Intercept"])
    parent = "p" if family == "binomial" else "mu"
    model_priors: dict[str, Any] = {parent: term_priors}
    sigma = np.nan if standard_error is not None or not is_gaussian else priors["sigma"]
    if is_gaussian and standard_error is not None:
        log_error = columns.add("log standard error", np.log(standard_error))
        formulas.append(f"sigma ~ 0 + offset(`{log_error}`)")
    elif is_gaussian:
        model_priors["sigma"] = float(sigma) if is_number(sigma) else as_bambi_prior(sigma)

    center = specification.has_intercept and not weighted
    model = _bambi_model(formulas, columns.frame(), model_priors, center, bambi_family)
    for part in parts:
        if part.bambi_name != part.variable:
            model.parameters[parent].terms[part.bambi_name].alias = part.variable
    if left_side != f"`{response}`":
        model.response_term.alias = response
    model.hbsk_layout = Layout(
        columns=tuple(specification.common_columns),
        has_intercept=specification.has_intercept,
        centre=centre,
        common=tuple((part.variable, part.columns) for part in common),
        factors=tuple(factors),
        sigma=float(sigma) if is_number(sigma) else None,
        y_mean=y_mean,
        scales={"Intercept": y_scale} | {part.variable: y_scale / part.scale for part in parts},
    )
    return model


def _f_statistic(X, y, codes, copies, standard_error):
    """Return how far group means of y are apart, given the common columns, in units of chance (1 if by chance only).

    The expectation of 1 - 1/F is the shrinkage weight of a group of average size; 0 where no group has two rows.
    """
    precision = copies if standard_error is None else copies / np.square(standard_error)
    root = np.sqrt(precision)
    residual = y - X @ np.linalg.lstsq(root[:, None] * X, root * y, rcond=None)[0]
    weight = np.bincount(codes, weights=precision)
    n_groups = int(np.count_nonzero(weight))
    weight = np.where(weight > 0, weight, 1.0)
    means = np.bincount(codes, weights=precision * residual) / weight
    between = weight @ means**2 / max(n_groups - 1, 1)
    if standard_error is not None:
        return between
    n_within = copies.sum() - n_groups
    within = precision @ (residual - means[codes]) ** 2 / n_within if n_within > 0 else np.inf
    return between / within if within > 0 else np.inf


def _start_of_predictor(family, y, size):
    """Return the log odds, or the log of the rate, of all rows together."""
    total, exposure = y.sum() + 0.5, size.sum() + 1.0
    return float(np.log(total / (exposure - total)) if family == "binomial" else np.log(total / exposure))


def _bambi_model(formulas, data, priors, center_predictors, family):
    """Make the `bambi.Model`, in a frame of its own: formulae looks functions up in its caller's variables first."""
    import bambi as bmb

    return bmb.Model(bmb.Formula(*formulas), data, family=family, priors=priors, center_predictors=center_predictors)


def check_dummy_block(specification, n_rows, groups):
    """Refuse a model whose dense indicator columns Bambi would need too much memory for.

    formulae expands each varying term into a dense (n_rows, n_groups) block of 8-byte numbers, by
    way of an (n_groups, n_groups) contrast matrix; `bambi.config["SPARSE_DOT"]` changes only the
    product, not this. The engine that integrates needs neither.
    """
    n_bytes = 0
    for factor in specification.factors:
        n_groups = len(groups[factor.name])
        n_bytes += 8 * len(set(factor.terms)) * n_groups * (n_rows + n_groups)
    if n_bytes > DUMMY_BLOCK_LIMIT:
        shape = ", ".join(f"{f.name!r}: {len(groups[f.name])}" for f in specification.factors)
        raise ValueError(
            f"Bambi would hold dense indicator columns of {n_bytes / 2**30:.1f} GiB for {n_rows} "
            f"rows and this many groups: {{{shape}}}; the limit is "
            f"{DUMMY_BLOCK_LIMIT / 2**30:.0f} GiB. Use inference='marginal', which needs no such "
            "columns, or fit a sample of the rows."
        )


@dataclass(frozen=True)
class _Part:
    """One term of the Bambi formula."""

    text: str  # in the formula
    bambi_name: str  # the name formulae gives to the term
    variable: str  # the name of its variable
    columns: tuple[int, ...]  # of the design
    prior: object
    scale: float | np.ndarray  # standard deviation (common) or root mean square (varying)


class _Columns:
    """The columns of the data frame for Bambi, under names that formulae and PyMC accept."""

    def __init__(self):
        self.values = {}
        self.variables = set(RESERVED_NAMES)

    def add(self, name, values):
        """Store a column; returns the name it got. The same column under one name is stored once."""
        name = _spelled(name)
        while name in RESERVED_NAMES or name in self.values:
            if name in self.values and np.array_equal(self.values[name], values):
                return name
            name += "_"
        self.values[name] = values
        return name

    def can_take(self, raw):
        """Store the columns of X that a term reads; tells whether all of them keep their names."""
        if raw is None or any(_spelled(name) != name or name in RESERVED_NAMES for name in raw.columns):
            return False
        if not all(np.array_equal(self.values.get(name, values), values) for name, values in raw.columns.items()):
            return False
        self.values |= raw.columns
        return True

    def variable(self, name):
        """Return a name for a variable of the model that no other has."""
        name = _spelled(name)
        while name in self.variables:
            name += "_"
        self.variables.add(name)
        return name

    def frame(self):
        """Return all columns as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.values)


def _spelled(name):
    """Return a name without the characters that a quoted name, PyMC or Bambi's term names cannot hold."""
    name = "".join("_" if c in "`|/" or not c.isprintable() else c for c in str(name).strip("`"))
    return name.rstrip(":") or "_"


def _term(names):
    """Return the text of the term that holds these columns, and the name formulae gives to it."""
    if len(names) == 1:
        return f"`{names[0]}`", names[0]
    return f"c({', '.join(f'`{name}`' for name in names)})", f"c({', '.join(names)})"


def _common_terms(columns, specification, X, copies, centre, priors, raw):
    """Return the terms of the common columns; constant columns are left out.

    `centre`: what to take off the columns, None where Bambi does that. `raw`: columns that Bambi can compute.
    """
    parts = []
    present = copies > 0
    first = int(specification.has_intercept)
    for term, members in columns_by_term(specification.common_terms).items():
        members = [k for k in members if k >= first]
        kept = [k for k in members if np.ptp(X[present, k]) > 0]
        if members and not kept and not specification.has_intercept:
            raise ValueError(
                f"inference='nuts' cannot fit the term {term!r}: its column is constant and the "
                "formula has no intercept, which Bambi refuses. Add the intercept to the formula "
                "instead of the column, or use inference='marginal'."
            )
        if not kept:
            continue
        names = [term] if len(members) == 1 else [specification.common_columns[k] for k in kept]
        values = X[:, kept]
        own = raw.get(kept[0]) if len(members) == 1 and centre is None else None
        if own is not None and columns.can_take(own):
            text, bambi_name = own.text, own.name
        else:
            if centre is not None:
                names, values = [f"{name} centred" for name in names], values - centre[kept]
            stored = [columns.add(*pair) for pair in zip(names, values.T, strict=True)]
            text, bambi_name = _term(stored)
        variable = columns.variable(term)
        prior = as_bambi_prior(priors[term], [members.index(k) for k in kept])
        scale = np.squeeze(X[present][:, kept].std(axis=0))
        parts.append(_Part(text, bambi_name, variable, tuple(kept), prior, scale))
    return parts


def _less_point(raw, values, point):
    """Return a column of X less the point of its prior; None where Bambi cannot compute that."""
    if point == 0:
        return raw
    is_mean = abs(values.mean() - point) <= SAME_POINT * values.std()
    return raw.centred() if is_mean and not raw.is_product else None


def _varying_terms(columns, factor, Z, code, labels, noncentered, priors, raw):
    """Return the layout and the terms of one grouping factor; `raw`: columns that Bambi can compute."""
    import pandas as pd

    terms = columns_by_term(factor.terms)
    centre, intercept = centre_array(factor, priors), varying_intercept(factor)
    raw = {k: own for k, each in raw.items() if (own := _less_point(each, Z[:, k], centre[k])) is not None}
    Z = less_centre(Z, centre, intercept)
    several = any(len(members) > 1 for members in terms.values()) or centre.any()
    # Bambi splits the dimension names of aliased varying terms at "__".
    plain = (lambda name: _spelled(name).replace("__", "_")) if several else _spelled
    names = group_names(labels)
    are_numbers = all(isinstance(label, Real) and not isinstance(label, bool | np.bool_) for label in labels)
    levels = pd.Index(labels if are_numbers else names)
    group_column = columns.add(plain(factor.name), pd.Categorical.from_codes(code, levels, ordered=True))
    parts = []
    for term, members in terms.items():
        expression = term.removesuffix(f"|{factor.name}")
        if expression == "1" and factor.columns[members[0]] == "1":
            text = bambi_name = variable = "1"
            scale = 1.0
        else:
            own = raw.get(members[0]) if len(members) == 1 else None
            if own is not None and columns.can_take(own):
                text, bambi_name = own.text, own.name
            else:
                wanted = [expression] if len(members) == 1 else [factor.columns[k] for k in members]
                named = [f"{n} centred" if centre[k] else n for n, k in zip(wanted, members, strict=True)]
                stored = [columns.add(plain(n), Z[:, k]) for n, k in zip(named, members, strict=True)]
                text, bambi_name = _term(stored)
            has_own_name = len(members) > 1 or centre[members].any()
            variable = plain(expression) if has_own_name else bambi_name
            scale = np.squeeze(usable_scale(0.0, np.sqrt(np.mean(Z[:, members] ** 2, axis=0))))
            text = f"0 + {text}"
        parts.append(
            _Part(
                f"({text}|`{group_column}`)",
                f"{bambi_name}|{group_column}",
                f"{variable}|{group_column}",
                tuple(members),
                None,
                scale,
            )
        )
    blocks = tuple(tuple(sorted(block)) for block in factor.blocks if len(block) > 1)
    layout = EffectLayout(
        name=factor.name,
        labels=tuple(names),
        columns=tuple(factor.columns),
        terms=tuple((part.variable, part.columns) for part in parts),
        correlation=f"corr_{group_column}" if blocks else None,
        blocks=blocks,
        # where a sd is fixed at 0 there are no effects to divide by it
        noncentered=noncentered or any(has_fixed_zero(priors[term]) for term in terms),
        priors=tuple(plain_prior(priors[term]) for term in terms),
        centre=tuple(centre.tolist()),
        intercept=intercept,
    )
    chosen = varying_priors(layout, factor, priors)
    return layout, [replace(part, prior=prior) for part, prior in zip(parts, chosen, strict=True)]
