"""`priors_` as `bambi.Prior`.

Bambi takes seconds to import, so every function imports it when it is first called.
"""

from __future__ import annotations

import numpy as np

from hbsk._bambi.correlated_effects import CorrelatedEffects, Member, effect_distribution
from hbsk._model.design import columns_by_term


def varying_priors(layout, factor, priors):
    """Return one `bambi.Prior` for each term of a factor, in the order of the layout."""
    terms = list(columns_by_term(factor.terms))
    correlated = {term for term, (_, columns) in zip(terms, layout.terms, strict=True) if _block_of(layout, columns)}
    plain = {term: _correlated_prior(term, priors[term]) for term in terms if term in correlated}
    effects = _correlated_effects(layout, terms, plain, priors[f"corr|{factor.name}"]) if correlated else None

    chosen = []
    for term, (variable, columns) in zip(terms, layout.terms, strict=True):
        if term not in correlated:
            chosen.append(_independent_prior(term, priors[term], layout.noncentered))
            continue
        assert effects is not None  # this term is among them
        block = layout.blocks.index(_block_of(layout, columns))
        position = [member.variable for member in effects.members[block]].index(variable)
        arguments = {key: _hyperprior(value, key) for key, value in plain[term][1].items()}
        distribution = effect_distribution(effects, block, position)
        chosen.append(_new_prior("Normal", dist=distribution, noncentered=False, **arguments))
    return chosen


def _block_of(layout, columns):
    """Return the block of correlated columns that holds these columns, () if there is none."""
    return next((block for block in layout.blocks if set(columns) <= set(block)), ())


def _correlated_prior(term, prior):
    """Return the prior of a varying term that is correlated with others as plain data, or refuse it."""
    plain = plain_prior(prior)
    if plain is not None and plain[0] == "Normal" and "sigma" in plain[1]:
        return plain
    raise ValueError(
        f"priors[{term!r}]={prior!r}: effects of a group that are correlated must have the prior "
        "('Normal', {'mu': ..., 'sigma': ...}). Use another prior with correlated=False."
    )


def plain_prior(prior):
    """Return a prior as plain data; None for what has none, a function."""
    return _plain(prior) if getattr(prior, "dist", True) is None else prior if isinstance(prior, tuple) else None


def _correlated_effects(layout, terms, priors, lkj):
    """Return the correlated effects of a factor in the form `effect_distribution` wants."""
    members = []
    for block in layout.blocks:
        inside = [
            Member(variable, len(columns), _number_or_none(priors[term][1].get("mu", 0.0)))
            for term, (variable, columns) in zip(terms, layout.terms, strict=True)
            if _block_of(layout, columns) == block
        ]
        members.append(tuple(inside))
    return CorrelatedEffects(
        correlation=layout.correlation,
        columns=layout.columns,
        positions=layout.blocks,
        members=tuple(members),
        eta=float(lkj[1]["eta"]),
        noncentered=layout.noncentered,
    )


def _number_or_none(value):
    """Return a mean as an array; None for one with a prior, which is a variable of the model."""
    return None if isinstance(value, tuple) else np.asarray(value, dtype=float)


def has_fixed_zero(prior):
    """Tell whether a Normal prior fixes the sd of some column at 0, where the effects have no density."""
    plain = plain_prior(prior)
    sigma = plain[1].get("sigma", 1.0) if plain is not None and plain[0] == "Normal" else 1.0
    return not isinstance(sigma, tuple) and bool(np.any(np.asarray(sigma) == 0))


def _independent_prior(term, prior, noncentered):
    """Return the prior of a varying term that is correlated with no other."""
    if not isinstance(prior, tuple):
        return prior
    name, arguments = prior
    mu = arguments.get("mu", 0.0)
    has_mean = isinstance(mu, tuple) or bool(np.any(np.asarray(mu) != 0))
    if has_fixed_zero(prior):
        if has_mean:
            raise ValueError(
                f"priors[{term!r}]={prior!r} fixes every effect at mu: that is no varying term. Leave the term out, "
                "and for a known number take offset(...) of the formula."
            )
        noncentered = True  # a centred Normal with sd 0 has no density
    elif name != "Normal" or has_mean or "sigma" not in arguments:
        # Bambi has offsets for the Normal with a sd only, and loses a mean that is not zero.
        noncentered = False
    given = {key: _hyperprior(value, key) for key, value in arguments.items()}
    return _new_prior(name, noncentered=noncentered, **given)


def _hyperprior(value, key):
    """Return an argument of a varying term's prior; Bambi demands that some argument is a prior itself."""
    if key == "mu" and not isinstance(value, tuple):
        return np.asarray(value, dtype=float)
    return as_bambi_prior(value)


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
