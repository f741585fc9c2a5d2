"""Beta-binomial and gamma-Poisson laws between groups, against sums over trials, quadrature and known results."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize

from hbsk._shrinkage.conjugate import (
    collect_rates,
    digamma_rise,
    fit_rates,
    log_marginal,
    log_rising,
    rate_moments,
    rate_nodes,
    rate_quantiles,
)
from hbsk.datasets import load_baseball

EVENTS = {"binomial": np.array([0.0, 3, 1, 7, 5, 0, 2]), "poisson": np.array([0.0, 3, 1, 17, 5, 0, 2])}
SIZE = np.array([1.0, 4, 6, 9, 5, 3, 20])


def scipy_law(family, a, n, kappa, mean):
    """Log likelihood by scipy's own laws of a count."""
    if family == "binomial":
        return stats.betabinom.logpmf(a, n.astype(int), kappa * mean, kappa * (1 - mean))
    return stats.nbinom.logpmf(a, kappa * mean, kappa / (n + kappa))


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_marginal_likelihood_is_that_of_scipy_up_to_a_constant(family):
    a = EVENTS[family]
    cells = collect_rates(a, SIZE, family)
    kappa, mean = np.array([0.3, 4.0, 250.0]), np.array([0.2, 0.47, 0.6])
    ours = log_marginal(cells, kappa, mean, 1 - mean)
    theirs = np.array([scipy_law(family, a, SIZE, k, m).sum() for k, m in zip(kappa, mean, strict=True)])
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), rtol=1e-9)


def test_differences_of_gamma_functions_keep_their_digits():
    # exact: products and sums of whole steps
    for x in (0.3, 99.0, 150.0, 1e4, 1e9, 1e14):
        steps = x + np.arange(7)
        np.testing.assert_allclose(log_rising(np.array(x), np.array(7.0)), np.log(steps).sum(), rtol=2e-13)
        np.testing.assert_allclose(digamma_rise(x, np.array(7.0)), (1 / steps).sum(), rtol=1e-10)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_law_has_the_greatest_likelihood(family):
    a = EVENTS[family]

    def cost(z):
        mean = 1 / (1 + np.exp(-z[1])) if family == "binomial" else np.exp(z[1])
        return -scipy_law(family, a, SIZE, np.exp(z[0]), mean).sum()

    best = minimize(cost, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000})
    law = fit_rates(collect_rates(a, SIZE, family))
    np.testing.assert_allclose(np.log(law.kappa), best.x[0], atol=1e-4)
    mean = 1 / (1 + np.exp(-best.x[1])) if family == "binomial" else np.exp(best.x[1])
    np.testing.assert_allclose(law.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(law.theta(a, SIZE), (a + law.kappa * mean) / (SIZE + law.kappa), rtol=1e-4)


def dense_answers(family, a, n, j):
    """Posterior of one group's rate on a fine grid of (log kappa, mean), with the priors as documented."""
    u = np.linspace(np.log(np.median(n)) - 16, np.log(np.median(n)) + 16, 81)
    x = np.linspace(-26, 26, 347) if family == "binomial" else np.linspace(-30, 9, 300)
    U, X = (part.ravel() for part in np.meshgrid(u, x, indexing="ij"))
    kappa, mean = np.exp(U), 1 / (1 + np.exp(-X)) if family == "binomial" else np.exp(X)
    log_post = sum(scipy_law(family, a_j, np.array(n_j), kappa, mean) for a_j, n_j in zip(a, n, strict=True))
    log_post += stats.logistic.logpdf(U, np.log(np.median(n)))
    log_post += 0.5 * np.log(mean * (1 - mean)) if family == "binomial" else 0.5 * X
    weight = np.exp(log_post - log_post.max())
    weight /= weight.sum()
    kept = weight > 1e-9
    kappa, mean, weight = kappa[kept], mean[kept], weight[kept]
    if family == "binomial":
        law = stats.beta(a[j] + kappa * mean, n[j] - a[j] + kappa * (1 - mean))
    else:
        law = stats.gamma(a[j] + kappa * mean, scale=1 / (n[j] + kappa))
    centre = weight @ law.mean()
    sd = np.sqrt(weight @ (law.var() + law.mean() ** 2) - centre**2)
    return centre, sd, lambda q: weight @ law.cdf(q)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("edge", [False, True])
def test_posterior_is_that_of_a_dense_grid(family, edge):
    n = SIZE
    a = np.where(family == "binomial", n, 0.0) * np.ones(7) if edge else EVENTS[family]
    nodes = rate_nodes(collect_rates(a, n, family))
    means, sds = rate_moments(nodes, a, n)
    for j in (0, 3):
        centre, sd, cdf = dense_answers(family, a, n, j)
        np.testing.assert_allclose(means[j], centre, atol=0.01 * sd)
        np.testing.assert_allclose(sds[j], sd, rtol=0.01)
        for p in (0.05, 0.5, 0.95):
            found = rate_quantiles(nodes, a, n, p)[j]
            if found < 1e-100:  # as good as an atom at the edge
                assert cdf(found) > p - 3e-3
            elif found > 1 - 1e-14 and family == "binomial":
                assert cdf(1 - 1e-14) < p + 3e-3
            else:
                np.testing.assert_allclose(cdf(found), p, atol=3e-3)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize(
    ("events", "size"),
    [([5.0, 5, 5], [5.0, 5, 5]), ([0.0, 0, 0], [5.0, 1, 2]), ([3.0], [7.0]), ([10.0, 10], [20.0, 20]),
     ([0.0, 400000], [1.0, 1e6]), ([1.0, 0, 1, 1], [1.0, 1, 1, 1])],
)  # fmt: skip
def test_no_width_is_ever_zero(family, events, size):
    a, n = np.array(events), np.array(size)
    cells = collect_rates(a, n, family)
    law, nodes = fit_rates(cells), rate_nodes(cells)
    assert np.isfinite(law.theta(a, n)).all()
    low, high = (rate_quantiles(nodes, a, n, p) for p in (0.05, 0.95))
    assert (high - low > 1e-5).all()
    assert (low >= 0).all()
    assert (rate_moments(nodes, a, n)[1] > 0).all()
    if family == "binomial":
        assert (high <= 1).all()


def test_laws_at_their_limits():
    alike = fit_rates(collect_rates(np.array([10.0, 10, 10]), np.array([20.0, 20, 20]), "binomial"))
    assert alike.kappa == np.inf
    assert alike.mean == 0.5
    either = fit_rates(collect_rates(np.array([3.0, 0, 4, 0, 2]), np.array([3.0, 2, 4, 2, 2]), "binomial"))
    assert either.kappa == 0.0
    np.testing.assert_array_equal(either.theta(np.array([3.0, 0]), np.array([3.0, 2])), [1, 0])
    single = fit_rates(collect_rates(np.array([1.0, 0, 1]), np.ones(3), "binomial"))
    assert "two trials" in single.why_not


def test_groups_that_are_alike_are_counted_once():
    a, n = np.array([2.0, 0, 2, 0.5, 2, 0]), np.array([5.0, 5, 5, 1, 4, 5])
    cells = collect_rates(a, n, "binomial")
    np.testing.assert_array_equal(cells.events[cells.place], a)
    np.testing.assert_array_equal(cells.size[cells.place], n)
    assert sorted(zip(cells.size, cells.events, cells.copies, strict=True)) == [
        (1, 0.5, 1),
        (4, 2, 1),
        (5, 0, 2),
        (5, 2, 2),
    ]


def test_batting_averages_of_1970():
    # Hits of 45 at-bats (Efron and Morris 1977). Beta-binomial likelihood of equal trials, maximised by quadrature over
    # p of the binomial law of each player: an independent route to the same two numbers.
    hits = np.round(45 * load_baseball().target)
    law = fit_rates(collect_rates(hits, np.full(18, 45.0), "binomial"))

    def cost(z):
        kappa, mean = np.exp(z[0]), 1 / (1 + np.exp(-z[1]))
        prior = stats.beta(kappa * mean, kappa * (1 - mean))
        values = {h: quad(lambda p, h=h: stats.binom.pmf(h, 45, p) * prior.pdf(p), 0, 1, points=[h / 45])[0]
                  for h in np.unique(hits)}  # fmt: skip
        return -sum(np.log(values[h]) for h in hits)

    at = np.array([np.log(law.kappa) if np.isfinite(law.kappa) else np.log(1e5), np.log(law.mean / (1 - law.mean))])
    for step in ([0.2, 0], [-0.2, 0], [0, 0.02], [0, -0.02]):
        assert cost(at + step) > cost(at)
    np.testing.assert_allclose(law.mean, 0.2654, atol=5e-4)
