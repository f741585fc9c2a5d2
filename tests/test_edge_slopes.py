"""Effects of groups of nothing but successes or failures, where slopes vary too: moments against dense grids."""

import numpy as np
from scipy.special import log_expit

from hbsk._engine.generalized.data import Responses
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._posterior.generalized import fit_generalized

X = np.array([-1, -1, 3.5, -1, -1, 3.5, -1, -1, -1, 3.5, -1, -1, -1, -1, 3.5, -1, -1, -1]) * 4 / 9
CODES = np.repeat(np.arange(3), 6)
Y = np.where(CODES == 2, np.arange(18) == 14, CODES == 1).astype(float)
# Points of a grid over standard normal effects, even on each axis.
AXIS = np.linspace(-7.5, 7.5, 121)


def posterior():
    columns = np.column_stack([np.ones(len(X)), X])
    responses = Responses("binomial", Y, np.ones(len(Y)), columns, columns, CODES, 3, True, 0)
    sds = [SdPrior("HalfNormal", {"sigma": 2.5})] * 2
    priors = EnginePriors(np.zeros(2), np.array([1.5, 1.0]), None, sds, ((0, 1),), (1.0,))
    return fit_generalized(responses, priors).posterior


def moments_on_grid(common, factor, group):
    """Return mean and variance of the predictor of the first row of a group, from a grid over its effects."""
    standard = np.stack([axis.ravel() for axis in np.meshgrid(AXIS, AXIS)])
    effects, log_density = factor @ standard, -0.5 * np.sum(standard**2, axis=0)
    rows = np.flatnonzero(group == CODES)
    for row in rows:
        predictor = (common + effects.T) @ [1.0, X[row]]
        log_density = log_density + log_expit(predictor if Y[row] else -predictor)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    predictor = (common + effects.T) @ [1.0, X[rows[0]]]
    mean = weight @ predictor
    return mean, weight @ (predictor - mean) ** 2


def test_moments_of_groups_at_an_edge_are_those_of_dense_grids():
    found = posterior()
    order = np.argsort(found.factor[:, 0, 0])  # sds between groups from small to large, even in the posterior
    at = order[np.searchsorted(np.cumsum(found.weight[order]), np.linspace(0.02, 0.98, 25))]
    common = found.scaling.coefficients(found.common, True)[at]
    factor = found.scaling.effects(found.factor.swapaxes(1, 2)).swapaxes(1, 2)[at]
    for group in range(3):
        row = np.array([[1.0, X[group == CODES][0]]])
        mean, variance, _ = found.row_laws(row, [row], [np.array([group])])
        exact = np.array([moments_on_grid(b, root, group) for b, root in zip(common, factor, strict=True)])
        sd = np.sqrt(exact[:, 1])
        np.testing.assert_allclose((mean[at, 0] - exact[:, 0]) / sd, 0.0, atol=0.03)
        np.testing.assert_allclose(np.sqrt(variance[at, 0]) / sd, 1.0, atol=0.04)
        assert abs(np.mean(np.sqrt(variance[at, 0]) / sd) - 1.0) < 0.01
