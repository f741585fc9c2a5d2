"""LOO and WAIC of rows, and of the groups of one factor, where a model has several: against dense normal laws."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import halfnorm, multivariate_normal

from hbsk import PartialPoolingRegressor
from hbsk._posterior.draws import DrawsLocation, DrawsPosterior
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import compare, loo, waic
from hbsk.model_selection._variance_grid import UnitScores, grid_of_draws, largest_good_k, leave_out
from tests.grouped_data import FIXED_SDS

FORMULA = "x + (x || a) + (1 | b)"


def make_rows(n=60):
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"a": rng.integers(0, 9, n), "b": rng.integers(0, 5, n), "x": rng.normal(4.0, 1.0, n)})
    X.loc[0, "b"] = 5  # a level of one row
    y = rng.normal(size=n) + 0.5 * X["x"] + rng.normal(size=9)[X["a"]] + rng.normal(size=6)[X["b"]]
    return X, y.to_numpy()


def law_of(X, noise, mean_of_x, a=None, b=None):
    """Mean and covariance of y with all sds fixed, for labels a and b that may be others than those of X."""
    a = X["a"].to_numpy() if a is None else a
    b = X["b"].to_numpy() if b is None else b
    x = X["x"].to_numpy()
    common = np.column_stack([np.ones(len(X)), x - mean_of_x])
    covariance = common * [4.0, 2.25] @ common.T + np.diag(noise)
    covariance += (0.81 + 0.16 * np.outer(x - 2.0, x - 2.0)) * (a[:, None] == a)
    covariance += 1.69 * (b[:, None] == b)
    return common @ [1.0, 0.2] + 0.3, covariance


def log_density(y, law, kept=slice(None)):
    """Log density of some of the rows."""
    mean, covariance = law
    if isinstance(kept, np.ndarray):
        covariance = covariance[np.ix_(kept, kept)]
    return multivariate_normal(mean[kept], covariance).logpdf(y[kept])


@pytest.fixture(scope="module", params=[False, True], ids=["sigma", "standard errors"])
def fixed(request):
    """All sds fixed: the posterior of the variance parameters is a point."""
    X, y = make_rows()
    error = np.random.default_rng(5).uniform(0.3, 1.2, len(y)) if request.param else None
    priors = {name: prior for name, prior in FIXED_SDS.items() if name != "sigma" or error is None}
    model = PartialPoolingRegressor(FORMULA, priors=priors).fit(X, y, standard_error=error)
    return X, y, error, model, np.full(len(y), 0.49) if error is None else error**2


def test_rows_left_out_have_the_density_of_a_dense_law(fixed):
    X, y, error, model, noise = fixed
    law = law_of(X, noise, X["x"].mean())
    result = loo(model, X, y, standard_error=error)
    all_rows = np.arange(len(y))
    without = np.array([log_density(y, law, all_rows[all_rows != i]) for i in all_rows])
    np.testing.assert_allclose(result.elpd_i, log_density(y, law) - without, rtol=1e-10)
    # the same row again: the predictive law given all rows
    mean, covariance = law
    gain = (covariance - np.diag(noise)) @ np.linalg.inv(covariance)
    seen = mean + gain @ (y - mean)
    variance = np.diag(covariance - np.diag(noise) - gain @ (covariance - np.diag(noise)))
    lpd = -0.5 * (np.log(2 * np.pi * (variance + noise)) + (y - seen) ** 2 / (variance + noise))
    assert result.p == pytest.approx(np.sum(lpd - result.elpd_i.to_numpy()), rel=1e-9)
    # log p(y | f) is a parabola, f Gaussian
    of_log_density = variance**2 / (2 * noise**2) + (y - seen) ** 2 * variance / noise**2
    with pytest.warns(ConvergenceWarning, match=f"above 0.4 for {(of_log_density > 0.4).sum()} of 60 rows"):
        information = waic(model, X, y, standard_error=error)
    np.testing.assert_allclose(information.elpd_i, lpd - of_log_density, rtol=1e-8)


@pytest.mark.parametrize("factor", ["a", "b"])
def test_a_level_left_out_has_the_density_of_a_dense_law(fixed, factor):
    X, y, error, model, noise = fixed
    law, labels = law_of(X, noise, X["x"].mean()), X[factor].to_numpy()
    result = loo(model, X, y, standard_error=error, unit="group", factor=factor)
    assert result.elpd_i.dims == (factor,)
    levels = np.unique(labels)
    without = np.array([log_density(y, law, np.flatnonzero(labels != level)) for level in levels])
    np.testing.assert_allclose(result.elpd_i, log_density(y, law) - without, rtol=1e-10)
    # its rows once more, in a new level of the factor and known levels of the other
    again = []
    for level in levels:
        rows = np.concatenate([np.arange(len(y)), np.flatnonzero(labels == level)])
        other = labels[rows]
        other[len(y) :] = 99
        both = law_of(X.iloc[rows], noise[rows], X["x"].mean(), **{factor: other})
        again.append(log_density(y[rows], both) - log_density(y, law))
    assert result.p == pytest.approx(np.sum(again - result.elpd_i.to_numpy()), rel=1e-9)


@pytest.mark.parametrize("left_out", ["district", "district:school", "district:school:class"])
def test_rows_of_a_new_parent_are_in_new_classes(left_out):
    rng = np.random.default_rng(6)
    names = ["district", "school", "class"]
    X = pd.DataFrame({name: rng.integers(0, n, 50) for name, n in zip(names, (4, 3, 2), strict=True)})
    y = rng.normal(size=50) + rng.normal(size=4)[X["district"]]
    factors = ["district", "district:school", "district:school:class"]
    sds = dict(zip(factors, (0.7, 0.5, 0.9), strict=True))
    priors = {"sigma": 0.8, "Intercept": ("Normal", {"mu": 0.0, "sigma": 2})}
    priors |= {f"1|{name}": ("Normal", {"mu": 0, "sigma": sd}) for name, sd in sds.items()}
    model = PartialPoolingRegressor("(1 | district/school/class)", priors=priors).fit(X, y)
    result = loo(model, X, y, unit="group", factor=left_out)

    def law(labels):
        together = np.ones((len(labels), len(labels)), dtype=bool)
        covariance = 4.0 + 0.64 * np.eye(len(labels))
        for label, sd in zip(labels.T, sds.values(), strict=True):
            together &= label[:, None] == label
            covariance += sd**2 * together
        return np.zeros(len(labels)), covariance

    labels, depth = X.to_numpy(), factors.index(left_out)
    levels, level_of = np.unique(labels[:, : depth + 1], axis=0, return_inverse=True)
    whole = log_density(y, law(labels))
    elpd, lpd = [], []
    for level in range(len(levels)):
        left = level_of == level
        elpd.append(whole - log_density(y, law(labels), np.flatnonzero(~left)))
        again = labels[left]
        again[:, depth] = 99  # a new one of the same parent, with new children
        lpd.append(log_density(np.concatenate([y, y[left]]), law(np.concatenate([labels, again]))) - whole)
    np.testing.assert_allclose(result.elpd_i, elpd, rtol=1e-10)
    assert result.p == pytest.approx(np.sum(lpd) - np.sum(elpd), rel=1e-9)


def test_levels_of_many_rows_are_fitted_again():
    rng = np.random.default_rng(7)
    X = pd.DataFrame({"a": rng.integers(0, 40, 1250), "b": np.repeat([0, 1, 2], [600, 550, 100])})
    y = rng.normal(size=1250) + rng.normal(size=40)[X["a"]] + rng.normal(size=3)[X["b"]]
    priors = {"sigma": 0.8, "1|a": ("Normal", {"mu": 0, "sigma": 0.7}), "1|b": ("Normal", {"mu": 0, "sigma": 0.5})}
    priors["Intercept"] = ("Normal", {"mu": 0.0, "sigma": 2})
    model = PartialPoolingRegressor("(1 | a) + (1 | b)", priors=priors).fit(X, y)
    result = loo(model, X, y, unit="group", factor="b")
    assert result.elpd_i.size == 3
    a, b = X["a"].to_numpy(), X["b"].to_numpy()
    covariance = 4.0 + 0.49 * (a[:, None] == a) + 0.25 * (b[:, None] == b) + 0.64 * np.eye(1250)
    law = (np.zeros(1250), covariance)
    without = [log_density(y, law, np.flatnonzero(b != level)) for level in range(3)]
    np.testing.assert_allclose(result.elpd_i, log_density(y, law) - without, rtol=1e-9)
    np.testing.assert_array_equal(result.pareto_k, 0.0)


# Estimated sds: evidence with and without each unit by quadrature over (sigma, tau_a, tau_b)


@pytest.fixture(scope="module")
def tiny():
    rng = np.random.default_rng(8)
    X = pd.DataFrame({"a": np.arange(11) % 4, "b": np.arange(11) // 4 % 3})
    y = rng.normal(size=11) + rng.normal(size=4)[X["a"]] + rng.normal(size=3)[X["b"]]
    half = ("HalfNormal", {"sigma": 1.0})
    priors = {
        "sigma": half,
        "Intercept": ("Normal", {"mu": 0.0, "sigma": 1.5}),
        "1|a": ("Normal", {"mu": 0.0, "sigma": half}),
        "1|b": ("Normal", {"mu": 0.0, "sigma": half}),
    }
    return X, y, PartialPoolingRegressor("(1 | a) + (1 | b)", priors=priors).fit(X, y)


@pytest.fixture(scope="module")
def evidence(tiny):
    X, y, _ = tiny
    t, weight = np.polynomial.legendre.leggauss(24)
    sigma = np.exp(2.9 * t - 1.2)
    tau = 4.5 * ((t + 1) / 2) ** 2  # denser near zero
    steps = (2.9 * weight * sigma, 4.5 * weight * (t + 1) / 2)
    log_weight = np.log(np.prod(np.meshgrid(steps[0], steps[1], steps[1], indexing="ij"), axis=0)).ravel()
    sigma, tau_a, tau_b = (grid.ravel() for grid in np.meshgrid(sigma, tau, tau, indexing="ij"))
    log_weight += sum(halfnorm.logpdf(sd) for sd in (sigma, tau_a, tau_b))
    a, b = X["a"].to_numpy(), X["b"].to_numpy()
    covariance = 2.25 + sigma[:, None, None] ** 2 * np.eye(11)
    covariance = covariance + tau_a[:, None, None] ** 2 * (a[:, None] == a)
    covariance += tau_b[:, None, None] ** 2 * (b[:, None] == b)

    def log_evidence(kept):
        root = np.linalg.cholesky(covariance[:, kept[:, None], kept])
        white = np.linalg.solve(root, y[kept][:, None])[:, :, 0]
        log_density = -0.5 * np.sum(white**2, axis=1) - np.log(np.einsum("mkk->mk", root)).sum(axis=1)
        return logsumexp(log_density + log_weight) - 0.5 * len(kept) * np.log(2 * np.pi)

    whole = log_evidence(np.arange(11))
    return lambda left_out: whole - log_evidence(np.flatnonzero(~left_out))


def test_rows_left_out_as_by_quadrature(tiny, evidence):
    X, y, model = tiny
    exact = [evidence(np.arange(11) == i) for i in range(11)]
    np.testing.assert_allclose(loo(model, X, y).elpd_i, exact, atol=0.05)


@pytest.mark.parametrize("factor", ["a", "b"])
def test_levels_left_out_as_by_quadrature(tiny, evidence, factor):
    X, y, model = tiny
    exact = [evidence((X[factor] == level).to_numpy()) for level in np.unique(X[factor])]
    np.testing.assert_allclose(loo(model, X, y, unit="group", factor=factor).elpd_i, exact, atol=0.05)


def test_draws_of_sds_are_those_of_the_engine_again():
    # to the units of y and of raw columns, at zero, by the posterior; back again by the grid
    X, y = make_rows()
    posterior = PartialPoolingRegressor("x + (x | a) + (1 | b)").fit(X, y)._learnt.fitted.posterior
    nodes = posterior.variance_nodes()
    draws = DrawsPosterior(
        common=np.zeros((posterior.n_nodes, 2)),
        sigma=nodes.sigma,
        group_sd=nodes.group_sd,
        correlation=nodes.correlation,
        effects=[],
        n_chains=1,
        locations=tuple(DrawsLocation(np.zeros(q), np.zeros(q), 0) for q in (2, 1)),
    )
    grid = grid_of_draws(draws, posterior.scalings)
    np.testing.assert_allclose(np.exp(grid.log_sigma[:, 0]), posterior.sigma, rtol=1e-12)
    covariance = grid.factor @ grid.factor.swapaxes(1, 2)
    of_nodes = posterior.factor @ posterior.factor.swapaxes(1, 2)
    np.testing.assert_allclose(covariance, of_nodes, atol=1e-9 * of_nodes.max())


# What is asked for


def test_models_of_other_factors_are_compared_by_the_one_they_share(tiny):
    X, y, model = tiny
    alone = PartialPoolingRegressor("(1 | a)").fit(X, y)
    complete = PartialPoolingRegressor(group_features=["a", "b"], pooling="complete").fit(X, y)
    models = {"both": model, "a": alone, "complete": complete}
    assert set(compare(models, X, y, unit="group", factor="a").index) == set(models)
    assert set(compare(models, X, y).index) == set(models)
    with pytest.raises(ValueError, match=r"factor='b' is no grouping factor of the model, which has 'a'"):
        compare(models, X, y, unit="group", factor="b")


def test_questions_that_have_no_answer_say_why(tiny):
    X, y, model = tiny
    with pytest.raises(ValueError, match=r"the model has several \(a, b\)\. Name one of them: factor='a'"):
        loo(model, X, y, unit="group")
    with pytest.raises(ValueError, match=r"factor='c' is no grouping factor of the model, which has 'a', 'b'"):
        loo(model, X, y, unit="group", factor="c")
    with pytest.raises(ValueError, match=r"factor='a' says whose groups are left out.*Set unit='group'"):
        loo(model, X, y, factor="a")
    with pytest.raises(ValueError, match=r"waic with unit='group' is for models with the effects of one"):
        waic(model, X, y, unit="group", factor="a")
    with pytest.raises(ValueError, match="needs the rows that the model was fitted to"):
        loo(model, X.assign(b=X["b"].to_numpy()[::-1]), y)


def test_more_than_fifty_large_levels_are_refused():
    X = pd.DataFrame({"a": np.repeat(np.arange(51), 501), "b": np.arange(51 * 501) % 7})
    y = np.random.default_rng(0).normal(size=len(X)) + X["b"]
    model = PartialPoolingRegressor(group_features=["a", "b"]).fit(X, y)
    with pytest.raises(ValueError, match=r"would fit 51 groups again, those of more than 500 rows; at most 50 are"):
        loo(model, X, y, unit="group", factor="a")


def test_units_that_change_no_weight_are_not_told_bad_by_few_nodes():
    """Thirty-two nodes: Pareto's law of the six largest weights says more than good_k of most rows of large data."""
    rng = np.random.default_rng(0)
    weight = rng.dirichlet(np.full(32, 8.0))
    densities = 0.05 * rng.normal(size=(32, 40))
    densities[:, 1] = -4.0 * rng.exponential(size=32)  # a unit that nodes disagree on
    unresolved = np.zeros((32, 40), dtype=bool)
    unresolved[:, 2] = True
    left_out = leave_out(UnitScores(densities, densities, unresolved), weight)
    harmonic = -np.log(weight @ np.exp(-densities))
    np.testing.assert_allclose(np.delete(left_out.elpd, 1), np.delete(harmonic, 1), atol=1e-14)
    assert left_out.pareto_k[1] > largest_good_k(32)
    assert left_out.pareto_k[2] == np.inf
    np.testing.assert_array_equal(np.delete(left_out.pareto_k, [1, 2]), 0.0)
