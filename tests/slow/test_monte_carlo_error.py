"""Five hundred random problems: true error against reported error, and Pareto k against what it warns of."""

import numpy as np
import pytest

from tests.honesty import deviations, random_problem

pytestmark = pytest.mark.slow

N_PROBLEMS = 500


@pytest.fixture(scope="module")
def found():
    return [deviations(*random_problem(np.random.default_rng([7, i]))) for i in range(N_PROBLEMS)]


def test_true_error_exceeds_three_reported_ones_in_fewer_than_two_percent(found):
    ratios = np.concatenate([ratio for fit, ratio, _ in found if fit.reliable])
    assert len(ratios) > 1500
    assert np.mean(ratios > 3) < 0.02
    assert np.mean(ratios > 6) < 0.002


def test_true_error_of_what_is_called_reliable_is_small(found):
    # in posterior sds: the ratio to the reported error times the reported error
    errors = np.concatenate([ratio * relative for fit, ratio, relative in found if fit.reliable])
    assert np.mean(errors > 0.1) < 0.01
    assert errors.max() < 0.3


def test_few_problems_need_another_engine(found):
    assert np.mean([not fit.reliable for fit, *_ in found]) < 0.05
