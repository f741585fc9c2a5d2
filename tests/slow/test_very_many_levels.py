"""Very many crossed levels against a Cholesky factor of everything: the posterior of the variance parameters."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.linalg import cholesky, solve_triangular

from benchmarks.crossed import ratings
from hbsk import PartialPoolingRegressor
from hbsk._engine import crossed

pytestmark = pytest.mark.slow


class ExactPasses:
    """Intercepts of two factors, the smaller of which is a dense matrix."""

    is_stochastic, watch = False, None

    def __init__(self, sums, first, rest):
        self.sums, self.first, self.rest = sums, first, rest
        self.within = np.zeros_like(sums.xx)
        pair = sums.pair(first, rest)
        shape = sums.factors[first].n_groups, sums.factors[rest].n_groups
        self.between = sp.csr_array((pair.blocks[:, 0, 0], (pair.first, pair.second)), shape=shape)

    def reduce(self, factor):
        log_det, reduced = [], []
        first, rest = (self.sums.factors[f] for f in (self.first, self.rest))
        b, c = first.zx[0].T, rest.zx[0].T
        for one in factor:
            inside = 1.0 + one[self.first, self.first] ** 2 * first.zz[0, 0]
            shrink = one[self.first, self.first] ** 2 / inside
            left = (sp.diags_array(rest.zz[0, 0]) - self.between.T @ sp.diags_array(shrink) @ self.between).toarray()
            scale = one[self.rest, self.rest]
            root = cholesky(np.eye(len(left)) + scale**2 * left, lower=True)
            white = solve_triangular(root, scale * (c - self.between.T @ (shrink[:, None] * b)), lower=True)
            log_det.append(np.log(inside).sum() + 2 * np.log(root.diagonal()).sum())
            reduced.append(self.sums.xx - b.T @ (shrink[:, None] * b) - white.T @ white)
        return np.array(log_det), np.array(reduced)


@pytest.mark.parametrize("neighbours", [None, 20])
def test_variance_parameters_are_those_of_an_exact_cholesky_factor(neighbours, monkeypatch):
    monkeypatch.setattr(crossed, "MOST_REMAINING", 0)
    X, y, columns = ratings(40_000, 16_000, 3_000, neighbours)
    posterior = PartialPoolingRegressor(group_features=columns).fit(X, y)._learnt.fitted.posterior
    assert posterior.is_stochastic
    model, law = posterior.model, posterior.law.sample
    mean = posterior.weight @ posterior.theta
    deviation = posterior.theta - mean
    root = np.linalg.cholesky((posterior.weight[:, None] * deviation).T @ deviation)
    steps = np.array([[0.0, 0], [1.5, 0], [-1.5, 0], [0, 1.5], [0, -1.5], [1.2, 1.2], [-1.2, 1.2]])
    points = mean + steps @ root.T
    ours = model.evaluate(points).log_density
    vars(model)["passes"] = ExactPasses(model.sums, *model.passes.order)
    missing = model.evaluate(points).log_density - ours

    def terms(z):  # what is missing is all but constant: a polynomial of second degree has it
        return np.column_stack([np.ones(len(z)), z, z**2, z[:, 0] * z[:, 1]])

    coefficients, *_ = np.linalg.lstsq(terms(steps), missing, rcond=None)
    assert np.abs(terms(steps) @ coefficients - missing).max() < 1e-3
    log_ratio = terms((law.theta - mean) @ np.linalg.inv(root).T) @ coefficients
    exact = law.weight * np.exp(log_ratio - log_ratio.max())
    exact /= exact.sum()
    for values in (*law.theta.T, law.log_sigma):
        expected, found = exact @ values, law.weight @ values
        sd = np.sqrt(exact @ (values - expected) ** 2)
        assert abs(found - expected) < 0.01 * sd  # .05 is what is promised
        assert np.sqrt(law.weight @ (values - found) ** 2) == pytest.approx(sd, rel=0.005)
