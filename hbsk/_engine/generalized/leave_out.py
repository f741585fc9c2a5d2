"""Leaving rows out, by the quadrature that integrated their groups.

Given a node (b, theta) the conditional law of the effects of a group has the probabilities r_jk at the points of its
quadrature, so that

    1 / p(y_i | y_-i, node) = sum_k r_jk / p(y_i | u_jk, node),

y_-i the other rows of the group: no law is approximated by another. (A whole group is left out by its own integral.)
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.generalized.data import GeneralizedScaling, Responses
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.generalized.inner import hermite_rule, integrate_groups, times
from hbsk._engine.generalized.model import GeneralizedModel, ModeStart

# Points on each axis: tails count where a row is left out.
POINTS_PER_AXIS = (1, 21, 11, 7)


def row_log_predictive(
    model: GeneralizedModel,
    scaling: GeneralizedScaling,
    responses: Responses,
    start: ModeStart,
    common: np.ndarray,
    factor: np.ndarray,
) -> np.ndarray:
    """Return ``log p(y_i | y_-i, node)`` of every row, (n_nodes, n_rows).

    Parameters
    ----------
    model : GeneralizedModel
        What was fitted to these rows.
    scaling : GeneralizedScaling
    responses : Responses
        A row of weight w is left out with all its copies.
    start : ModeStart
        Where modes of groups are looked for.
    common : ndarray of shape (n_nodes, p)
        Coefficients in engine units, before the sign of `scaling`.
    factor : ndarray of shape (n_nodes, q, q)
        ``Lambda``.
    """
    family = FAMILIES[responses.family]
    rows = scaling.rows(responses)
    weight = np.ones(len(rows.y)) if responses.weight is None else responses.weight
    constant = family.log_constant(rows.y, rows.size)
    q = model.cells.n_varying
    codes = responses.codes if q else np.zeros(len(rows.y), dtype=int)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(model.cells.n_groups + 1))
    rule = hermite_rule(POINTS_PER_AXIS[min(q, len(POINTS_PER_AXIS) - 1)], q)
    answer = np.empty((len(common), len(rows.y)))
    for points, groups, cells in model.cells.blocks(len(common)):
        b, scale = common[points], factor[points]
        found = integrate_groups(cells, cells.predictor(b), scale, start.modes(b, scale, groups), rule)
        first, last, _ = groups.indices(model.cells.n_groups)
        at = order[ends[first] : ends[last]]
        group = codes[at] - first
        base = b @ rows.x[at].T
        if rows.offset is not None:
            base += rows.offset[at]
        terms = np.empty((len(rule.node), *base.shape))
        for k, node in enumerate(rule.node):
            u = times(scale, found.z_at(node[None])[:, 0])
            eta = base.copy()
            for a in range(q):
                eta += u[a, group].T * rows.z[at, a]
            terms[k] = -weight[at] * (rows.y[at] * eta - rows.size[at] * family.cumulant(eta))
        with np.errstate(divide="ignore"):
            terms += np.log(found.share)[:, group].swapaxes(1, 2)
        answer[points, at] = weight[at] * constant[at] - logsumexp(terms, axis=0)
    return answer
