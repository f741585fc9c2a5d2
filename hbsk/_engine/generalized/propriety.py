"""Which posteriors of binary and count responses exist.

A Flat prior on coefficients leaves a posterior that is not one where the data do not hold them: where some direction
v of these coefficients changes no predictor, or changes predictors only to where the likelihood does not fall. With a
trial that failed ``x_i'v <= 0``, with one that succeeded ``x_i'v >= 0``, with both or a count above zero ``x_i'v =
0``; without counts ``x_i'v <= 0`` (Albert, Anderson 1984, Biometrika 71; Chen, Shao 2001, Proc. AMS 129). Such
directions are found by a linear program, whose optimum is above zero where there are any.

A HalfFlat prior on the sd of a column needs groups that hold its effects on both sides: as the sd grows, the integral
of such a group falls as one over the sd, and that of any other tends to a constant. More of them are needed than
there are HalfFlat sds; power tails of other priors count as in `hbsk._engine.propriety`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import linprog

from hbsk._engine.generalized.model import GeneralizedModel
from hbsk._engine.propriety import HIGHEST_MOMENT, GrowingSds, ImproperPosteriorError, Tails, tail_degrees

# Share of the columns' size that is rounding, and of the largest optimum of the linear program that is none.
RANK, NO_GAIN = 1e-9, 1e-7


def generalized_tails(model: GeneralizedModel, names: Sequence[str] | None = None) -> Tails:
    """Return the sets of sds whose second moments do not exist.

    Parameters
    ----------
    model : GeneralizedModel
    names : sequence of str, optional
        Of the varying columns, for messages.

    Raises
    ------
    ImproperPosteriorError
        Where the posterior has no finite mass.
    """
    flat = model.prior_precision == 0
    if flat.any():
        _refuse_unheld_coefficients(model, flat)
    nu = [tail_degrees(prior) for prior in model.parameters.group_sd]
    heavy = [k for k, degrees in enumerate(nu) if degrees <= HIGHEST_MOMENT]
    held = {k: n_held_groups(model, k) for k in heavy}
    sets = []
    for size in range(1, len(heavy) + 1):
        for columns in combinations(heavy, size):
            degrees = sum(nu[k] for k in columns) + max(held[k] for k in columns)
            if degrees <= 0:
                _refuse_unheld_sd(columns, held, names)
            if degrees <= HIGHEST_MOMENT:
                sets.append(GrowingSds(columns, False, degrees))
    return Tails(tuple(sets), flat)


def n_held_groups(model: GeneralizedModel, column: int) -> int:
    """Return how many groups hold the effects of a varying column on both sides, beyond Flat coefficients."""
    cells = model.cells
    z = cells.columns[column]
    above, below = _bounds(cells, z)
    held = np.logical_or.reduceat(above, cells.starts) & np.logical_or.reduceat(below, cells.starts)
    return max(0, int(held.sum()) - int(np.sum(model.prior_precision == 0)))


def _bounds(cells, z):
    """Tell which cells keep the coefficient of z from growing, and which from falling."""
    counts = cells.y > 0
    rest = cells.size > 0 if cells.family == "poisson" else cells.y < cells.size
    return (rest & (z > 0)) | (counts & (z < 0)), (rest & (z < 0)) | (counts & (z > 0))


def _refuse_unheld_coefficients(model, flat):
    cells = model.cells
    used = cells.size > 0
    x, y, size = cells.x[used][:, flat], cells.y[used], cells.size[used]
    # a cell counts once, however often its design comes
    x, at = np.unique(x, axis=0, return_inverse=True)
    y, size = np.bincount(at.ravel(), y), np.bincount(at.ravel(), size)
    scale = np.maximum(np.sqrt(np.mean(x**2, axis=0)), 1e-300)
    x = x / scale
    rank = np.linalg.matrix_rank(x, tol=RANK * np.sqrt(x.size))
    n_flat = x.shape[1]
    if rank < n_flat:
        raise ImproperPosteriorError(
            f"The posterior is improper: {n_flat} coefficients have Flat priors, but their columns have rank {rank}, "
            "so that the data do not tell them apart. Give them Normal priors, or leave columns out."
        )
    held = (y > 0) if cells.family == "poisson" else (y > 0) & (y < size)
    sign = np.where(y > 0, 1.0, -1.0)[~held]
    toward = sign[:, None] * x[~held]
    if not len(toward):
        return
    found = linprog(
        -toward.sum(axis=0),
        A_ub=-toward,
        b_ub=np.zeros(len(toward)),
        A_eq=x[held] if held.any() else None,
        b_eq=np.zeros(int(held.sum())) if held.any() else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    if found.fun is not None and found.status == 0 and -found.fun > NO_GAIN * len(toward):
        what = "counts of zero" if cells.family == "poisson" else "successes from failures"
        raise ImproperPosteriorError(
            f"The posterior is improper: coefficients with Flat priors can separate {what} without end (complete or "
            "quasi-complete separation), and nothing holds them. Give them Normal priors, which are the default."
        )


def _refuse_unheld_sd(columns, held, names):
    named = [f"the sd of {names[k]!r}" if names else f"the sd of varying column {k}" for k in columns]
    raise ImproperPosteriorError(
        f"The posterior is improper: {' and '.join(named)} cannot be told from infinity. HalfFlat priors need more "
        "groups that have both successes and failures, or counts above zero, than there are of them and of Flat "
        f"coefficients; here are {max(held[k] for k in columns)}. Use a proper prior, such as HalfNormal."
    )
