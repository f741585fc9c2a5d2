"""Priors between plain data and Bambi: its defaults as numbers, and `priors_` as `bambi.Prior`.

Bambi takes seconds to import, so every function imports it when it is first called.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from hbsk._correlated_effects import CorrelatedFactor, Member, effect_distribution

# Arguments of PyMC's distributions that are scales, where the effects of groups borrow strength.
SCALES = frozenset({"sigma", "b", "beta", "lam", "tau"})


def default_priors(specification, moments):
    """Return Bambi's auto-scaled priors of a specification, as the plain data of `priors_`.

    Bambi's numbers depend on the data only through the mean and the population standard
    deviation of y and of each design column. So Bambi is shown two rows with those moments, in
    which every design column is a plain numeric column and every grouping factor has one level:
    milliseconds whatever the number of rows and groups.

    Common terms without a varying counterpart are shown with mean zero. Bambi widens the priors
    on the intercept and on `1|group` by the raw means of the common columns, although the
    intercept it samples belongs to centred columns; a column such as `year` would make the prior
    on the between-group sd a thousand times wider. Where a term varies by group its mean is kept,
    because then `1|group` is the effect at zero of that column.

    A constant column (standard deviation 0, for which Bambi's scale would be infinite) gets the
    prior of a column whose standard deviation is its absolute value, or 1 if it is zero; so does
    a constant y. Such priors are harmless: the engine drops constant centred columns.

    Parameters
    ----------
    specification : Specification
        Terms and columns of the model.
    moments : Moments
        Means and population standard deviations of y and of the design columns, over copies.

    Returns
    -------
    dict
        Term name -> (distribution name, arguments); a term of several columns has lists with
        one number for each of its columns.
    """
    import bambi as bmb
    import pandas as pd

    first = int(specification.has_intercept)
    common_terms = specification.common_terms[first:]
    y_scale = usable_scale(moments.y_mean, moments.y_sd)
    # y is shown with mean zero and its mean is added afterwards: the two rows of a y with a large
    # mean would lose the digits of its sd.
    frame = {"y": _two_rows(0.0, y_scale)}
    right_side = ["1" if specification.has_intercept else "0"]

    # All columns of a kind enter as one matrix that a function returns: Bambi scales a matrix
    # column by column, and its parser never sees a name of the user or a sum of p terms.
    matrices = {}
    if common_terms:
        mean, sd = np.asarray(moments.x_mean)[first:], np.asarray(moments.x_sd)[first:]
        varying = {term for factor in specification.factors for term in factor.terms}
        factor_names = [factor.name for factor in specification.factors]
        varies = [any(f"{t}|{name}" in varying for name in factor_names) for t in common_terms]
        matrices["common"] = _two_rows(np.where(varies & (sd > 0), mean, 0.0), usable_scale(mean, sd))
        right_side.append("common(y)")
    for f, factor in enumerate(specification.factors):
        frame[f"g{f}"] = _one_level()
        slopes = [k for k, column in enumerate(factor.columns) if column != "1"]
        if len(slopes) < len(factor.columns):
            right_side.append(f"(1|g{f})")
        if slopes:
            mean, sd = np.asarray(moments.z_mean[f])[slopes], np.asarray(moments.z_sd[f])[slopes]
            matrices[f"varying{f}"] = _two_rows(0.0, usable_scale(mean, sd))
            right_side.append(f"(0+varying{f}(y)|g{f})")

    # columns named by plain objects: pandas' strings make the many look-ups of the parser a tenth slower
    frame = pd.DataFrame(frame).set_axis(np.array(list(frame), dtype=object), axis=1)
    model = bmb.Model(
        "y ~ " + " + ".join(right_side),
        frame,
        extra_namespace={name: partial(_matrix, matrix) for name, matrix in matrices.items()},
    )
    shown = {name: _plain(term.prior) for name, term in model.parameters["mu"].terms.items()}

    priors = {}
    if specification.has_intercept:
        name, arguments = shown["Intercept"]
        priors["Intercept"] = (name, {**arguments, "mu": arguments["mu"] + float(moments.y_mean)})
    for term, columns in columns_by_term(common_terms).items():
        priors[term] = _of_columns(shown["common(y)"], columns)
    for f, factor in enumerate(specification.factors):
        slope_terms = []
        for column, term in zip(factor.columns, factor.terms, strict=True):
            if column == "1":
                priors[term] = shown[f"1|g{f}"]
            else:
                slope_terms.append(term)
        for term, columns in columns_by_term(slope_terms).items():
            priors[term] = _of_columns(shown[f"varying{f}(y)|g{f}"], columns)
    for factor in specification.factors:
        if any(len(block) > 1 for block in factor.blocks):
            priors[f"corr|{factor.name}"] = ("LKJ", {"eta": 1.0})
    priors["sigma"] = _plain(model.parameters["sigma"].prior)
    return priors


def varying_priors(layout, factor, priors):
    """Return one `bambi.Prior` for each term of a factor, in the order of the layout."""
    terms = list(columns_by_term(factor.terms))
    correlated = {term for term, (_, columns) in zip(terms, layout.terms, strict=True) if _block_of(layout, columns)}
    plain = {term: _correlated_prior(term, priors[term]) for term in terms if term in correlated}
    blocks = _correlated_factor(layout, terms, plain, priors[f"corr|{factor.name}"]) if correlated else None

    chosen = []
    for term, (variable, columns) in zip(terms, layout.terms, strict=True):
        if term not in correlated:
            chosen.append(_independent_prior(priors[term], layout.noncentered))
            continue
        block = layout.blocks.index(_block_of(layout, columns))
        position = [member.variable for member in blocks.blocks[block]].index(variable)
        arguments = {key: _hyperprior(value, key) for key, value in plain[term][1].items()}
        distribution = effect_distribution(blocks, block, position)
        chosen.append(_new_prior("Normal", dist=distribution, noncentered=False, **arguments))
    return chosen


def _block_of(layout, columns):
    """Return the block of correlated columns that holds these columns, () if there is none."""
    return next((block for block in layout.blocks if set(columns) <= set(block)), ())


def _correlated_prior(term, prior):
    """Return the prior of a varying term that is correlated with others as plain data, or refuse it."""
    plain = _plain(prior) if getattr(prior, "dist", True) is None else prior
    if isinstance(plain, tuple) and plain[0] == "Normal" and is_number(plain[1].get("mu", 0.0)):
        return plain
    raise ValueError(
        f"priors[{term!r}]={prior!r}: effects of a group that are correlated must have the prior "
        "('Normal', {'mu': <number>, 'sigma': ...}). Use another prior with correlated=False."
    )


def _correlated_factor(layout, terms, priors, lkj):
    """Return the blocks of a factor in the form `_correlated_effects` wants."""
    blocks = []
    for block in layout.blocks:
        inside = [
            Member(variable, len(columns), float(priors[term][1].get("mu", 0.0)))
            for term, (variable, columns) in zip(terms, layout.terms, strict=True)
            if _block_of(layout, columns) == block
        ]
        blocks.append(tuple(inside))
    return CorrelatedFactor(
        correlation=layout.correlation,
        columns=layout.columns,
        blocks=tuple(blocks),
        positions=layout.blocks,
        eta=float(lkj[1]["eta"]),
        noncentered=layout.noncentered,
    )


def _independent_prior(prior, noncentered):
    """Return the prior of a varying term that is correlated with no other."""
    if not isinstance(prior, tuple):
        return prior
    name, arguments = prior
    sigma = arguments.get("sigma")
    if name == "Normal" and is_number(sigma) and sigma == 0:
        noncentered = True  # a centred Normal with sd 0 has no density
    elif name != "Normal" or not is_number(arguments.get("mu", 0.0)) or arguments.get("mu", 0.0):
        # Bambi has offsets for the Normal only, and loses a mean that is not zero.
        noncentered = False
    given = {key: _hyperprior(value, key) for key, value in arguments.items()}
    return _new_prior(name, noncentered=noncentered, **given)


def _hyperprior(value, key):
    """Return an argument of a varying term's prior; Bambi demands that its scale is a prior itself."""
    if key == "mu" and is_number(value):
        return float(value)
    return as_bambi_prior(value) if isinstance(value, tuple) or key in SCALES else value


def as_bambi_prior(prior, columns=None):
    """Return plain data as a `bambi.Prior`; a number fixes the parameter. Of some columns if given."""
    if isinstance(prior, tuple):
        name, arguments = prior if columns is None else _of_columns(prior, columns)
        return _new_prior(
            name,
            **{
                key: as_bambi_prior(value) if isinstance(value, tuple) else np.asarray(value, float)
                for key, value in arguments.items()
            },
        )
    if is_number(prior) or isinstance(prior, list | np.ndarray):
        value = np.asarray(prior, dtype=float)
        return _new_prior("Fixed", dist=_fixed, value=value)
    return prior


def _new_prior(name, **keywords):
    """Make a `bambi.Prior` that Bambi does not rescale."""
    import bambi as bmb

    return bmb.Prior(name, auto_scale=False, **keywords)


def _fixed(name, value, dims=None):
    """Make a parameter that is known: a constant with the name and the shape of the variable."""
    import pymc as pm
    import pytensor.tensor as pt

    model = pm.modelcontext(None)
    shape = tuple(len(model.coords[dim]) for dim in dims or ())
    return pm.Deterministic(name, pt.as_tensor(np.broadcast_to(value, shape)), dims=dims or None)


def is_number(value):
    """Whether a prior is a fixed value."""
    return isinstance(value, int | float | np.number)


def usable_scale(mean, sd):
    """Return the standard deviation, or a stand-in with the units of the column where that is 0."""
    magnitude = np.abs(mean)
    return np.where(np.asarray(sd) > 0, sd, np.where(magnitude > 0, magnitude, 1.0))


def _two_rows(mean, sd):
    """Return two rows with this mean and population standard deviation."""
    return np.stack([mean - sd, mean + sd])


@lru_cache(maxsize=1)
def _one_level():
    """Return a grouping column of two rows in one group."""
    import pandas as pd

    return pd.Categorical.from_codes([0, 0], [0], ordered=True)


def _matrix(matrix, _y):
    """Evaluate a term of the formula that stands for a matrix."""
    return matrix


def columns_by_term(terms):
    """Map each term to the indices of its columns, in the order of first appearance."""
    columns = {}
    for k, term in enumerate(terms):
        columns.setdefault(term, []).append(k)
    return columns


def _plain(prior):
    """Return a `bambi.Prior` as (name, arguments) with floats, lists of floats and nested pairs."""
    arguments = {}
    for key, value in prior.args.items():
        if isinstance(value, int | float | np.ndarray | np.number):
            arguments[key] = np.asarray(value, dtype=float).tolist()
        else:
            arguments[key] = _plain(value) if value.dist is None else value
    return prior.name, arguments


def _of_columns(prior, columns):
    """Return the part of a matrix's prior that belongs to some of its columns; numbers for one column."""
    name, arguments = prior
    part = {}
    for key, value in arguments.items():
        if isinstance(value, tuple):
            part[key] = _of_columns(value, columns)
        elif isinstance(value, list):
            part[key] = [value[k] for k in columns] if len(columns) > 1 else value[columns[0]]
        else:
            part[key] = value
    return name, part
