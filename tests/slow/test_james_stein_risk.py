"""Risk of the James-Stein estimators, and coverage of their intervals, by simulation against theory.

The risk of the plain estimator with known unit variance is J - (J - 2)^2 E[1 / (J - 2 + 2 K)], K Poisson with mean
|theta|^2 / 2 (James and Stein 1961): a number, so that every comparison is in units of the Monte Carlo error, which is
the standard error of the mean over N_REPEATS draws. A comparison fails beyond 4 of them (probability 6e-5 each).
"""

import numpy as np
import pytest
from scipy import stats
from sklearn.preprocessing import TargetEncoder

from benchmarks.encoders import simulate
from hbsk.james_stein import JamesSteinEstimator

pytestmark = pytest.mark.slow

N_REPEATS = 2000


def theory(n_groups, squared_norm, *, n_target=0, nu=np.inf):
    """Total squared error of James and Stein's plain estimator, unit variance, target with n_target coefficients."""
    free = n_groups - n_target
    k = np.arange(0, int(squared_norm / 2 + 20 * np.sqrt(squared_norm / 2 + 1)) + 50)
    mean = np.sum(stats.poisson.pmf(k, squared_norm / 2) / (free - 2 + 2 * k))
    return n_groups - (free - 2) ** 2 * mean * (1.0 if np.isinf(nu) else nu / (nu + 2))


def squared_errors(theta, n_repeats=N_REPEATS, *, sd=1.0, seed=0, **params):
    """Total squared error of each repeat, shape (n_repeats,)."""
    rng = np.random.default_rng([seed, len(theta)])
    label = np.arange(len(theta))[:, None]
    estimator = JamesSteinEstimator(group_features=0, **params)
    errors = np.empty(n_repeats)
    for i in range(n_repeats):
        y = theta + sd * rng.normal(size=len(theta))
        errors[i] = np.sum((estimator.fit(label, y, standard_error=sd).theta_ - theta) ** 2)
    return errors


def assert_equal_within_error(errors, expected):
    assert abs(errors.mean() - expected) < 4 * errors.std(ddof=1) / np.sqrt(len(errors))


@pytest.mark.parametrize("n_groups", [3, 5, 12, 40])
def test_risk_is_2_at_the_target_whatever_the_number_of_groups(n_groups):
    errors = squared_errors(np.zeros(n_groups), target="zero", positive_part=False)
    assert theory(n_groups, 0.0) == pytest.approx(2.0)
    assert_equal_within_error(errors, 2.0)


@pytest.mark.parametrize("n_groups", [4, 7, 25])
def test_risk_is_3_at_equal_means_with_an_estimated_target(n_groups):
    errors = squared_errors(np.full(n_groups, 5.5), target="mean", positive_part=False)
    assert theory(n_groups, 0.0, n_target=1) == pytest.approx(3.0)
    assert_equal_within_error(errors, 3.0)


@pytest.mark.parametrize("n_groups", [4, 10])
@pytest.mark.parametrize("norm", [0.7, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("target", ["zero", "mean"])
def test_risk_curve_is_that_of_theory_and_below_the_means_everywhere(n_groups, norm, target):
    direction = np.random.default_rng(1).normal(size=n_groups)
    if target == "mean":
        direction -= direction.mean()
    theta = norm * direction / np.linalg.norm(direction)
    errors = squared_errors(theta, target=target, positive_part=False)
    expected = theory(n_groups, norm**2, n_target=int(target == "mean"))
    assert expected < n_groups
    assert_equal_within_error(errors, expected)


def test_gain_is_largest_near_the_target_and_grows_with_the_number_of_groups():
    norms = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
    for n_groups in (3, 10, 30):
        gain = np.array([1 - theory(n_groups, norm**2) / n_groups for norm in norms])
        assert np.all(np.diff(gain) < 0)
    # At one distance per group; the lesson's "small J" has the least to win.
    gain = [1 - theory(n_groups, n_groups * 1.0) / n_groups for n_groups in (3, 5, 10, 30, 100)]
    assert np.all(np.diff(gain) > 0)
    near = squared_errors(np.full(10, 0.3), target="zero", positive_part=False)
    far = squared_errors(np.full(10, 3.0), target="zero", positive_part=False)
    assert near.mean() + 4 * near.std() / np.sqrt(N_REPEATS) < far.mean()


@pytest.mark.parametrize("norm", [0.0, 1.5, 4.0])
def test_positive_part_is_never_worse(norm):
    theta = norm * np.array([0.5, -0.1, 0.7, 0.2, -0.4])
    plain, cut = (squared_errors(theta, target="zero", positive_part=p) for p in (False, True))
    difference = plain - cut  # the same draws
    assert difference.mean() >= -4 * difference.std() / np.sqrt(N_REPEATS)
    if norm == 0.0:
        assert difference.mean() > 4 * difference.std() / np.sqrt(N_REPEATS)


@pytest.mark.parametrize("n_rows", [2, 5])
def test_risk_with_an_estimated_variance(n_rows):
    n_groups, rng = 8, np.random.default_rng(3)
    theta = np.array([0.4, -0.9, 0.1, 1.2, 0.0, -0.3, 0.6, 0.2])
    group = np.repeat(np.arange(n_groups), n_rows)
    estimator = JamesSteinEstimator(group_features=0, target="zero", positive_part=False)
    errors = np.empty(N_REPEATS)
    for i in range(N_REPEATS):
        y = theta[group] + np.sqrt(n_rows) * rng.normal(size=len(group))  # so that group means have variance 1
        errors[i] = np.sum((estimator.fit(group[:, None], y).theta_ - theta) ** 2)
    nu = n_groups * (n_rows - 1)
    expected = theory(n_groups, theta @ theta, nu=nu)
    assert_equal_within_error(errors, expected)
    # nu / (nu + 2) is more than the Monte Carlo error can hide.
    assert abs(theory(n_groups, theta @ theta) - expected) > 2 * errors.std() / np.sqrt(N_REPEATS) or nu > 20


def test_unequal_variances_dominate_in_the_standardised_loss():
    sd = np.array([0.3, 0.5, 1.0, 1.5, 2.5, 4.0])
    rng = np.random.default_rng(5)
    for scale in (0.0, 1.0, 3.0):
        theta = scale * sd * np.array([0.2, -0.5, 0.4, 0.1, -0.3, 0.6])
        estimator = JamesSteinEstimator(group_features=0, target="zero", positive_part=False)
        errors = np.empty(N_REPEATS)
        for i in range(N_REPEATS):
            y = theta + sd * rng.normal(size=6)
            shrunken = estimator.fit(np.arange(6)[:, None], y, standard_error=sd).theta_
            errors[i] = np.sum(((shrunken - theta) / sd) ** 2)
        assert_equal_within_error(errors, theory(6, np.sum((theta / sd) ** 2)))


def test_sure_is_unbiased():
    from hbsk._shrinkage.between_group_variance import sure_risk
    from hbsk._shrinkage.cells import collect_cells

    rng = np.random.default_rng(6)
    variances, theta, tau2 = np.array([0.3, 0.8, 1.1, 2.0, 3.5]), np.array([1.0, -0.5, 0.2, 2.0, -1.0]), 0.7
    shrinkage = tau2 / (tau2 + variances)
    gap = np.empty(4 * N_REPEATS)
    for i in range(len(gap)):
        y = theta + np.sqrt(variances) * rng.normal(size=5)
        estimate = sure_risk(collect_cells(y, variances, np.empty((5, 0))), tau2)
        gap[i] = estimate - np.sum((shrinkage * y - theta) ** 2)
    assert_equal_within_error(gap, 0.0)


@pytest.mark.parametrize("method", ["james-stein", "empirical-bayes", "sure"])
@pytest.mark.parametrize(("n_groups", "tau"), [(6, 0.0), (6, 1.0), (20, 0.4), (20, 1.5)])
def test_intervals_cover(method, n_groups, tau):
    """Known and new groups, means and observations, under the model; nominal 90 %.

    Morris aims at 90 % on average over groups; near tau = 0 his intervals are wide, and cover more. The lower bounds
    are what the corrections reach: without them coverage at (6, 0.0) is below 45 %. James and Stein's one factor is
    made for equal variances, and gets them here.
    """
    rng = np.random.default_rng([n_groups, int(10 * tau)])
    sizes = np.full(n_groups, 4) if method == "james-stein" else rng.integers(2, 9, n_groups)
    group = np.repeat(np.arange(n_groups), sizes)
    estimator = JamesSteinEstimator(group_features=0, method=method)
    ask = np.arange(n_groups + 1)[:, None]  # the last one is new
    covered = {"mean": np.empty((500, n_groups + 1)), "prediction": np.empty((500, n_groups + 1))}
    for i in range(500):
        theta = tau * rng.normal(size=n_groups + 1)
        estimator.fit(group[:, None], theta[group] + 2.0 * rng.normal(size=len(group)))
        for kind, hits in covered.items():
            truth = theta if kind == "mean" else theta + 2.0 * rng.normal(size=n_groups + 1)
            lower, upper = estimator.predict_interval(ask, kind=kind).T
            hits[i] = (lower <= truth) & (truth <= upper)
    for hits in covered.values():
        assert hits[:, :-1].mean() > 0.86
        assert hits[:, -1].mean() > 0.86


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_group_means_are_better_than_those_of_target_encoder_and_of_the_global_mean(tau):
    differences = {"encoder": [], "global": []}
    for seed in range(30):
        theta, group, y = simulate(tau, np.random.default_rng([seed, int(100 * tau)]))
        ours = JamesSteinEstimator(group_features=0, method="empirical-bayes").fit(group[:, None], y).theta_
        encoder = TargetEncoder(smooth="auto", target_type="continuous").fit(group[:, None], y)
        rivals = {"encoder": encoder.transform(np.arange(100)[:, None]).ravel(), "global": np.full(100, y.mean())}
        for name, rival in rivals.items():
            differences[name].append(np.mean((rival - theta) ** 2) - np.mean((ours - theta) ** 2))
    for name, difference in differences.items():
        error = np.std(difference, ddof=1) / np.sqrt(30)
        if name == "global" and tau == 0.0:
            # Nothing to learn: the best answer is the global mean, and we lose next to nothing against it.
            assert np.mean(difference) > -0.01
        else:
            assert np.mean(difference) > 3 * error
