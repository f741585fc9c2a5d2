"""The Monte Carlo error that the engine reports is not smaller than the true one; 500 problems in tests/slow."""

from dataclasses import replace

import numpy as np
import pytest

from hbsk._engine.settings import DEFAULT
from tests.honesty import deviations, random_problem

N_PROBLEMS = 16
# Of the long runs: their errors are a fifth of those that are judged by them, and are added to these.
MANY_NODES = 12_000


@pytest.fixture(scope="module")
def found():
    return [
        deviations(*random_problem(np.random.default_rng([31, i]), small=True), MANY_NODES) for i in range(N_PROBLEMS)
    ]


def test_true_errors_are_within_three_reported_ones(found):
    ratios = np.concatenate([ratio for _, ratio, _ in found])
    assert len(ratios) > 3 * N_PROBLEMS
    # two in a hundred are allowed over 500 problems; here one in all
    assert np.sum(ratios > 3) <= 1, np.sort(ratios)[-5:]
    # and they are not all far below: an error that is never reached says nothing either
    assert np.median(ratios) > 0.01


def test_errors_meet_their_target(found):
    for fit, _, relative_error in found:
        assert fit.reliable
        assert np.all(relative_error < 2 * DEFAULT.error_target)
    met = np.concatenate([relative_error for *_, relative_error in found]) < DEFAULT.error_target
    assert met.mean() > 0.95


@pytest.mark.parametrize("distance", [0.3, 4.0, 40.0])
def test_columns_far_from_where_priors_refer_to_spoil_neither(distance):
    """Correlated blocks whose columns lie some sds from zero, where their priors are stated."""
    n_problems = 0
    for i in range(12):
        rng = np.random.default_rng([99, i])
        problem, priors = random_problem(rng, small=True)
        q = problem.Z.shape[1]
        if len(priors.blocks) > 1 or q == 1:
            continue
        Z = problem.Z.copy()
        Z[:, 1:] += distance * rng.choice([-1, 1], q - 1) / np.sqrt(q - 1)
        fit, ratio, _ = deviations(replace(problem, Z=Z), priors, MANY_NODES)
        assert fit.reliable, i
        assert np.max(ratio) < 4, i
        n_problems += 1
    assert n_problems >= 3
