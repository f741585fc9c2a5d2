"""`priors_` as `bambi.Prior`.

Bambi takes seconds to import, so every function imports it when it is first called.
"""

from __future__ import annotations

import numpy as np

from hbsk._correlated_effects import CorrelatedFactor, Member, effect_distribution
from hbsk._design import columns_by_term

# Arguments of PyMC's distributions that are scales, where the effects of groups borrow strength.
SCALES = frozenset({"sigma", "b", "beta", "lam", "tau"})


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
