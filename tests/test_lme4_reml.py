"""The maximum of the marginal likelihood with flat common priors is lme4's REML estimate.

With flat priors on the common coefficients, and none on the sds, the marginal likelihood is the restricted likelihood
(Harville 1974). The stored estimates are those of lme4 1.1-31 (tests/test_reference), the density is the one that the
engine integrates; the search for its maximum is SciPy's, from a start that knows neither.
"""

from typing import NamedTuple

import numpy as np
import pytest
from scipy import optimize

from hbsk import PartialPoolingRegressor
from hbsk._engine.common_coefficients import ConditionalCommon
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.scaling import ColumnScaling
from tests.test_reference.reference import lme4_model, lme4_models, reference_data

ONE_FACTOR = [model for model in lme4_models() if len(model["groups"]) == 1]
# Where lme4's language has more words than ours.
TRANSLATIONS = {"I(age^2)": "I(age**2)", "sample": "batch:cask", "1 + Days ||": "Days ||"}


class Estimate(NamedTuple):
    sigma: float
    sd: np.ndarray
    correlation: np.ndarray
    fixed: np.ndarray
    fixed_se: np.ndarray
    criterion: float


def name_of(model):
    return f"{model['data']}: {model['formula']}"


def engine_model(stored) -> PartialPoolingRegressor:
    """Fit with flat common priors; the priors on sds do not enter the likelihood that is maximised here."""
    data = reference_data(stored["data"])
    formula = stored["formula"]
    for theirs, ours in TRANSLATIONS.items():
        formula = formula.replace(theirs, ours)
    response = formula.split("~")[0].strip()
    estimator = PartialPoolingRegressor(formula, priors={"common": ("Flat", {})}, inference="marginal")
    return estimator.fit(data.drop(columns=response), data[response])


def free_entries(blocks, q):
    """Return rows and columns of the entries of Lambda that are not zero by the model."""
    correlated = [(block[i], block[j]) for block in blocks for i in range(len(block)) for j in range(i)]
    return tuple(np.array([(k, k) for k in range(q)] + correlated, dtype=int).T)


def engine_effects(scaling: ColumnScaling) -> np.ndarray:
    """Return the effects of the engine's columns for each effect at zero, in units of the engine."""
    raw = scaling.effects(np.eye(len(scaling.z_scale))).T / scaling.y_scale
    return np.linalg.inv(raw * scaling.z_scale[:, None])


def maximum(model: MarginalModel, scaling: ColumnScaling, has_intercept: bool) -> Estimate:
    """Maximise the likelihood over log sigma and the entries of Lambda."""
    q = model.sums.n_varying
    entries = free_entries(model.parameters.blocks, q)
    diagonal = entries[0] == entries[1]
    to_engine = engine_effects(scaling)

    def negative(points):
        factor = np.zeros((len(points), q, q))
        factor[:, *entries] = points[:, 1:]
        return -model.log_marginal_likelihood(to_engine @ factor, np.exp(points[:, 0]))

    def gradient(point, step=1e-3):
        # Fourth-order differences: the error of second-order ones shows in the sixth digit of the sds.
        moves = step * np.eye(len(point))
        one, two = (negative(point + k * moves) - negative(point - k * moves) for k in (1, 2))
        return (8 * one - two) / (12 * step)

    # The sign of a diagonal entry is free: a bound at zero would stop the search (Oxboys, three varying terms).
    point = np.concatenate([[0.0], np.where(diagonal, 1.0, 0.0)])
    for method, options in (("L-BFGS-B", {"ftol": 1e-13, "maxiter": 1000}), ("BFGS", {"gtol": 1e-8})):
        found = optimize.minimize(lambda p: negative(p[None])[0], point, jac=gradient, method=method, options=options)
        point = found.x
    return estimate(model, scaling, has_intercept, point, entries)


def estimate(model, scaling, has_intercept, point, entries) -> Estimate:
    """Return everything in the units of the data."""
    q, scale = model.sums.n_varying, scaling.y_scale
    factor = np.zeros((1, q, q))
    factor[:, *entries] = point[1:]
    engine = engine_effects(scaling) @ factor
    _, reduced = model.reduce(engine)
    common = ConditionalCommon.of(reduced, model.prior_mean, model.prior_precision, model.sums.n)
    _, eigenvalue, coordinate = common.at(np.array([[point[0]]]))
    root = common.basis[0] / np.sqrt(eigenvalue[0, 0])
    jacobian = scaling.coefficients(np.eye(len(root)), has_intercept)
    if has_intercept:
        jacobian[:, 0] -= scaling.y_centre
    covariance = factor[0] @ factor[0].T
    relative_sd = np.sqrt(np.diag(covariance))
    sigma = np.exp(point[0]) * scale
    row, column = np.tril_indices(q, -1)
    with np.errstate(invalid="ignore"):
        correlation = (covariance / np.outer(relative_sd, relative_sd))[column, row]
    # From engine units: y is divided by y_scale, and so is the volume of the coefficients, column by column.
    log_units = model.sums.n * np.log(scale) - np.sum(np.log(scale / scaling.x_scale[scaling.kept]))
    log_likelihood = model.log_marginal_likelihood(engine, np.exp(point[:1]))[0] - log_units
    return Estimate(
        sigma,
        sigma * relative_sd / scaling.z_scale,
        correlation,
        scaling.coefficients(common.basis[0] @ coordinate[0, 0], has_intercept),
        np.sqrt(np.sum((jacobian.T @ root) ** 2, axis=1)),
        -2 * log_likelihood,
    )


@pytest.mark.parametrize("stored", ONE_FACTOR, ids=name_of)
def test_maximum_of_the_marginal_likelihood_is_the_reml_estimate(stored):
    estimator = engine_model(stored)
    fitted, has_intercept = estimator._learnt.fitted, estimator._learnt.frame.specification.has_intercept
    ours = maximum(fitted.model, fitted.scaling, has_intercept)

    # The criterion is flat at its minimum: 15 stored digits hold to the rounding of a sum over all rows.
    assert ours.criterion == pytest.approx(stored["reml_criterion"], rel=1e-10)
    # Variance estimates agree as far as lme4's two optimisers do; a criterion that is known to 1e-13 places its
    # minimum to about the root of that.
    rel = 3 * stored["disagreement"] + 3e-6
    assert ours.sigma == pytest.approx(stored["sigma"], rel=rel)
    np.testing.assert_allclose(ours.sd, [entry["value"] for entry in stored["sd"]], rtol=rel, atol=1e-4 * ours.sigma)
    expected = [entry["value"] for entry in stored["correlation"]]
    if expected:
        # A correlation has no scale of its own to be relative to.
        np.testing.assert_allclose(ours.correlation, expected, atol=3 * rel)
    # Coefficients and their standard errors follow the variances, and only in second order or scaled down.
    np.testing.assert_allclose(ours.fixed, list(stored["fixed"].values()), rtol=rel, atol=1e-8)
    np.testing.assert_allclose(ours.fixed_se, list(stored["fixed_se"].values()), rtol=rel)


@pytest.mark.parametrize(
    ("data", "formula", "group"),
    [
        ("dyestuff", "Yield ~ 1 + (1 | Batch)", "Batch"),
        ("radon", "log_radon ~ floor + uranium + (1 | county)", "county"),
        ("sleepstudy", "Reaction ~ Days + (1 + Days || Subject)", "Subject"),
    ],
)
def test_coefficients_at_the_reml_sds_are_those_of_lme4(data, formula, group):
    """Priors that fix every sd at lme4's value leave a linear problem, whose answer is lme4's."""
    stored, frame = lme4_model(data, formula), reference_data(data)
    sds = {f"{entry['term'].replace('(Intercept)', '1')}|{group}": entry["value"] for entry in stored["sd"]}
    priors = {term: ("Normal", {"mu": 0, "sigma": value}) for term, value in sds.items()}
    priors |= {"common": ("Flat", {}), "sigma": stored["sigma"]}
    response = formula.split("~")[0].strip()
    estimator = PartialPoolingRegressor(formula.replace("1 + Days ||", "Days ||"), priors=priors)
    estimator.fit(frame.drop(columns=response), frame[response])
    ours = np.append(estimator.intercept_, estimator.coef_)
    # Both solve the same linear system; the sds carry 15 digits.
    np.testing.assert_allclose(ours, list(stored["fixed"].values()), rtol=1e-6)
    _, covariance = estimator._learnt.fitted.posterior.common_moments()
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), list(stored["fixed_se"].values()), rtol=1e-6)
