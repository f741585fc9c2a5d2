"""The one pass over the data against loops over rows."""

from dataclasses import replace

import numpy as np
import pytest

from hbsk import PartialPoolingRegressor
from hbsk._engine import sums as statistics
from hbsk._engine.merging import merge
from hbsk._engine.scaling import standardise
from hbsk._engine.sums import collect
from hbsk.exceptions import ConvergenceWarning
from tests.dense import make_problem
from tests.stand_ins import Design

KINDS = pytest.mark.parametrize(
    ("weights", "errors"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["plain", "f", "se", "f+se"],
)


def loop_sums(problem, columns, z):
    """A_j, B_j, G and copies by adding one row after the other."""
    q, width = z.shape[1], columns.shape[1]
    zz, zx = np.zeros((q, q, problem.n_groups)), np.zeros((q, width, problem.n_groups))
    xx, copies = np.zeros((width, width)), np.zeros(problem.n_groups)
    n = log_weight = 0.0
    for i, group in enumerate(problem.codes):
        count = 1.0 if problem.weight is None else problem.weight[i]
        error = 1.0 if problem.standard_error is None else problem.standard_error[i]
        zz[:, :, group] += count / error**2 * np.outer(z[i], z[i])
        zx[:, :, group] += count / error**2 * np.outer(z[i], columns[i])
        xx += count / error**2 * np.outer(columns[i], columns[i])
        copies[group] += count
        n += count
        log_weight += count * np.log(error**-2.0)
    return statistics.GroupSums(zz, zx, xx, n, log_weight, copies)


def assert_same_sums(found, wanted, rtol=1e-12):
    for name in ("zz", "zx", "xx", "n", "log_weight", "copies"):
        value = np.asarray(getattr(wanted, name))
        scale = np.abs(value).max(initial=0.0)
        np.testing.assert_allclose(getattr(found, name), value, rtol=rtol, atol=rtol * scale, err_msg=name)


@KINDS
@pytest.mark.parametrize("has_intercept", [True, False])
def test_sums_equal_a_loop_over_rows(rng, weights, errors, has_intercept):
    problem = make_problem(rng, q=3, has_intercept=has_intercept, weights=weights, errors=errors)
    collected = problem.collect()
    columns = np.column_stack([problem.X - collected.x_centre, problem.y - collected.y_centre])
    assert_same_sums(collected.sums, loop_sums(problem, columns, problem.Z - collected.z_centre))
    assert collected.z_centre[0] == 0 != collected.z_centre[1]
    uncentred = problem.collect(varying_intercept=None, counterparts=problem.counterparts())
    assert_same_sums(uncentred.sums, loop_sums(problem, columns, problem.Z))
    assert has_intercept == bool(np.any(collected.x_centre)) == bool(collected.y_centre)


@KINDS
def test_moments_are_those_of_copies_of_rows(rng, weights, errors):
    problem = make_problem(rng, weights=weights, errors=errors)
    moments, copied = problem.collect().moments, problem.copied()
    assert moments.n == len(copied.y)
    # standard errors have no part in means and sds
    np.testing.assert_allclose([moments.y_mean, moments.y_sd], [copied.y.mean(), copied.y.std()], rtol=1e-12)
    np.testing.assert_allclose(moments.x_mean, copied.X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.x_sd, copied.X.std(axis=0), rtol=1e-12, atol=0)
    np.testing.assert_allclose(moments.z_mean[0], copied.Z.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.z_sd[0], copied.Z.std(axis=0), rtol=1e-12, atol=0)
    if errors:
        assert moments.error_variance == pytest.approx(np.mean(copied.standard_error**2), rel=1e-12)


def test_weights_equal_copies_of_rows(rng):
    problem = make_problem(rng, weights=True, errors=True)
    copied = problem.copied()
    sums, scaling = standardise(problem.collect(), known_standard_error=True)
    wanted, wanted_scaling = standardise(copied.collect(), known_standard_error=True)
    assert_same_sums(sums, wanted)
    assert scaling.y_scale == pytest.approx(wanted_scaling.y_scale, rel=1e-13)


def test_moments_of_all_factors_and_offset(rng):
    n = 23
    X, Z = np.column_stack([np.ones(n), rng.normal(2.0, 3.0, n)]), [np.ones((n, 1)), rng.gamma(1.0, 2.0, (n, 2))]
    y, offset = rng.normal(size=n), rng.normal(5.0, 2.0, n)
    codes = rng.integers(0, 4, n)
    collected = collect(Design(X, Z, offset), codes, 4, y, has_intercept=True)
    np.testing.assert_allclose(collected.moments.z_mean[1], Z[1].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(collected.moments.z_sd[1], Z[1].std(axis=0), rtol=1e-12)
    assert collected.moments.y_mean == pytest.approx((y - offset).mean(), rel=1e-12)
    assert collected.moments.y_sd == pytest.approx((y - offset).std(), rel=1e-12)
    without = collect(Design(X, Z), codes, 4, y - offset, has_intercept=True)
    assert_same_sums(collected.sums, without.sums)


def test_chunks_change_nothing(rng, monkeypatch):
    problem = make_problem(rng, n_rows=97, weights=True, errors=True)
    whole = problem.collect()
    monkeypatch.setattr(statistics, "ROWS_PER_BLOCK", 13)
    chunked = problem.collect()
    # the centre is found before the chunks, so the sums may differ by rounding only
    assert_same_sums(chunked.sums, whole.sums, rtol=1e-13)
    np.testing.assert_allclose(chunked.moments.x_sd, whole.moments.x_sd, rtol=1e-13)


@KINDS
@pytest.mark.parametrize("has_intercept", [True, False])
@pytest.mark.parametrize("q", [1, 2, 4])
def test_columns_known_to_be_equal_change_nothing(rng, weights, errors, has_intercept, q):
    problem = make_problem(rng, q=q, p=3, has_intercept=has_intercept, weights=weights, errors=errors)
    counterparts = problem.counterparts()
    assert counterparts == [[0 if has_intercept else None, 1, 2, None][:q]]
    plain, known = problem.collect(), problem.collect(counterparts=counterparts)
    assert_same_sums(known.sums, plain.sums)
    for name in ("x_mean", "x_sd", "y_mean", "y_sd", "n"):
        np.testing.assert_allclose(getattr(known.moments, name), getattr(plain.moments, name), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(known.moments.z_mean[0], plain.moments.z_mean[0], rtol=1e-12)
    np.testing.assert_allclose(known.moments.z_sd[0], plain.moments.z_sd[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_threads", [2, 3, 50])
def test_threads_change_nothing_and_give_the_same_bits(rng, monkeypatch, n_threads):
    problem = make_problem(rng, n_rows=97, weights=True, errors=True)
    whole = problem.collect(counterparts=problem.counterparts())
    monkeypatch.setattr(statistics, "ROWS_PER_BLOCK", 11)
    first, second = (problem.collect(counterparts=problem.counterparts(), n_threads=n_threads) for _ in range(2))
    assert_same_sums(first.sums, whole.sums, rtol=1e-13)
    np.testing.assert_allclose(first.moments.x_sd, whole.moments.x_sd, rtol=1e-13)
    np.testing.assert_array_equal(first.sums.zx, second.sums.zx)
    np.testing.assert_array_equal(first.sums.xx, second.sums.xx)


def test_the_second_factor_has_sums_of_its_own(rng):
    problem = make_problem(rng, q=2)
    other = rng.normal(size=(problem.n_rows, 3))
    design = Design(problem.X, [other, problem.Z])
    collected = collect(design, problem.codes, problem.n_groups, problem.y, has_intercept=True, factor=1)
    assert_same_sums(collected.sums, problem.collect(varying_intercept=None).sums)
    np.testing.assert_allclose(collected.moments.z_mean[0], other.mean(axis=0), rtol=1e-12)
    known = [[None] * 3, problem.counterparts()[0]]
    again = collect(
        design, problem.codes, problem.n_groups, problem.y, has_intercept=True, factor=1, counterparts=known
    )
    assert_same_sums(again.sums, problem.collect(varying_intercept=None).sums)
    np.testing.assert_allclose(again.moments.z_sd[0], other.std(axis=0), rtol=1e-12)


def test_a_provisional_centre_from_some_of_the_rows_changes_nothing(rng, monkeypatch):
    problem = make_problem(rng, n_rows=97)
    sums, scaling = standardise(problem.collect())
    monkeypatch.setattr(statistics, "ROWS_FOR_A_FIRST_CENTRE", 10)
    rough = problem.collect()
    assert abs(rough.y_centre - problem.y.mean()) > 1e-3
    other_sums, other_scaling = standardise(rough)
    assert_same_sums(other_sums, sums, rtol=1e-11)
    np.testing.assert_allclose(other_scaling.x_scale, scaling.x_scale, rtol=1e-12)


@KINDS
@pytest.mark.parametrize("has_intercept", [True, False])
def test_sums_of_parts_with_centres_of_their_own_merge(rng, weights, errors, has_intercept):
    problem = make_problem(rng, n_rows=90, p=4, q=3, weights=weights, errors=errors, has_intercept=has_intercept)
    problem.X[:, 3] = np.sort(problem.X[:, 3]) * 50.0  # as in a file in order of time
    problem = replace(problem, y=problem.y + 0.3 * problem.X[:, 3])
    whole = problem.collect()
    parts = [problem.take(rows).collect() for rows in np.split(np.arange(90), [17, 50])]
    centres = [part.y_centre for part in parts]
    assert (min(np.abs(np.diff(centres))) > 10) == has_intercept
    for order in ([0, 1, 2], [2, 0, 1]):
        total = merge(merge(parts[order[0]], parts[order[1]]), parts[order[2]])
        columns = np.column_stack([problem.X - total.x_centre, problem.y - total.y_centre])
        assert_same_sums(total.sums, loop_sums(problem, columns, problem.Z - total.z_centre))
        for name in ("n", "y_mean", "y_sd", "x_mean", "x_sd"):
            found, wanted = getattr(total.moments, name), getattr(whole.moments, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(total.moments.z_mean[0], whole.moments.z_mean[0], rtol=1e-12)
        np.testing.assert_allclose(total.moments.z_sd[0], whole.moments.z_sd[0], rtol=1e-12, atol=1e-14)
        assert_same_sums(standardise(total)[0], standardise(whole)[0], rtol=1e-11)


def test_merged_sums_keep_their_digits_far_from_zero(rng):
    # values on a grid that survives the shift: the far rows are exactly the near ones
    near = make_problem(rng, n_rows=60, p=3)
    near.X[:, 1:] = np.round(near.X[:, 1:] * 2**10) / 2**10
    near = replace(near, y=np.round(near.y * 2**16) / 2**16)
    far = replace(near, X=near.X + np.array([0.0, 0.0, 2.0**27]), y=near.y + 2.0**27)
    merged = [
        standardise(merge(*(problem.take(rows).collect() for rows in np.split(np.arange(60), [11]))))[0]
        for problem in (near, far)
    ]
    # the mean itself is a multiple of 1.5e-8 there, and sds are near 0.1 (as in the test of shifts below)
    assert_same_sums(merged[1], merged[0], rtol=2e-7)


def test_a_column_constant_over_all_parts_stays_constant(rng):
    problem = make_problem(rng, n_rows=60, p=4)
    problem.X[:, 2] = 0.1
    problem.X[:, 3] = np.arange(60) >= 21  # constant within the parts, not between them
    parts = [problem.take(rows).collect() for rows in np.split(np.arange(60), [21])]
    total = merge(*parts)
    assert parts[0].moments.x_sd[3] == parts[1].moments.x_sd[3] == 0.0
    assert total.moments.x_sd[2] == 0.0
    assert total.moments.x_sd[3] == pytest.approx(np.sqrt(21 * 39) / 60, rel=1e-14)
    assert list(standardise(total)[1].kept) == [0, 1, 3]


def test_parts_of_other_groups_do_not_merge(rng):
    problem = make_problem(rng, n_rows=40)
    one_group = replace(problem, codes=np.zeros(40, dtype=int), n_groups=1)
    with pytest.raises(ValueError, match="groups and the intercept are the same"):
        merge(problem.collect(), one_group.collect())


def test_row_order_does_not_matter(rng):
    problem = make_problem(rng, n_rows=60, weights=True)
    sums, _ = standardise(problem.collect())
    other, _ = standardise(problem.take(rng.permutation(60)).collect())
    assert_same_sums(other, sums, rtol=1e-11)


def test_permuted_codes_permute_the_sums(rng):
    problem = make_problem(rng, n_rows=60)
    order = rng.permutation(problem.n_groups)
    sums, _ = standardise(problem.collect())
    other, _ = standardise(replace(problem, codes=order[problem.codes]).collect())
    np.testing.assert_array_equal(other.zz[:, :, order], sums.zz)
    np.testing.assert_array_equal(other.zx[:, :, order], sums.zx)
    np.testing.assert_array_equal(other.copies[order], sums.copies)


@KINDS
@pytest.mark.parametrize("has_intercept", [True, False])
def test_standardised_sums_are_those_of_standardised_columns(rng, weights, errors, has_intercept):
    problem = make_problem(rng, q=3, p=4, has_intercept=has_intercept, weights=weights, errors=errors)
    problem.X[:, 2] = 0.0 if not has_intercept else 7.25  # carries nothing
    sums, scaling = standardise(problem.collect(), known_standard_error=errors)
    assert list(scaling.kept) == [0, 1, 3]

    copied = problem.copied()
    if has_intercept:
        X = (problem.X - copied.X.mean(axis=0)) / np.where(copied.X.std(axis=0) > 0, copied.X.std(axis=0), 1.0)
        X[:, 0] = 1.0
        y_centre, y_scale = copied.y.mean(), copied.y.std()
    else:
        X = problem.X / np.where(problem.X.any(axis=0), np.sqrt(np.mean(copied.X**2, axis=0)), 1.0)
        y_centre, y_scale = 0.0, np.sqrt(np.mean(copied.y**2))
    if errors:  # the unit of y holds its noise
        y_scale = np.sqrt(y_scale**2 + np.mean(copied.standard_error**2))
    columns = np.column_stack([X[:, [0, 1, 3]], (problem.y - y_centre) / y_scale])
    Z = (problem.Z - copied.Z.mean(axis=0)) / np.where(copied.Z.std(axis=0) > 0, copied.Z.std(axis=0), 1.0)
    Z[:, 0] = 1.0
    engine = problem if not errors else replace(problem, standard_error=problem.standard_error / y_scale)
    assert_same_sums(sums, loop_sums(engine, columns, Z), rtol=1e-11)


@pytest.mark.parametrize("errors", [False, True])
def test_shifts_of_1e8_lose_no_digits(rng, errors):
    problem = make_problem(rng, p=4, errors=errors)
    # 2^27, and values on a grid that survives the shift, so that the shifted rows are exactly the same rows
    X = problem.X.copy()
    X[:, 3], y = np.round(X[:, 3] * 2**10) / 2**10, np.round(problem.y * 2**16) / 2**16
    problem = replace(problem, X=X, y=y)
    far = X.copy()
    far[:, 3] += 2.0**27
    shifted = replace(problem, X=far, y=y + 2.0**27)
    known = problem.counterparts()
    sums, scaling = standardise(problem.collect(counterparts=known), known_standard_error=errors)
    other, other_scaling = standardise(shifted.collect(counterparts=known), known_standard_error=errors)
    # a mean near 1e8 is a multiple of 1.5e-8, so the centre itself differs by that much; sds here are near 0.1
    assert_same_sums(other, sums, rtol=2e-7)
    assert other_scaling.y_centre - 2.0**27 == pytest.approx(scaling.y_centre, abs=1e-7)
    np.testing.assert_allclose(other_scaling.x_scale, scaling.x_scale, rtol=1e-10)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
@pytest.mark.parametrize("errors", [False, True])
def test_units_do_not_reach_the_engine(rng, factor, errors):
    problem = make_problem(rng, errors=errors)
    X = problem.X.copy()
    X[:, 1:] *= factor
    error = None if not errors else problem.standard_error * factor
    Z = problem.Z * np.where(np.all(problem.Z == 1.0, axis=0), 1.0, factor)
    scaled = replace(problem, X=X, Z=Z, y=problem.y * factor, standard_error=error)
    sums, _ = standardise(problem.collect(), known_standard_error=errors)
    other, _ = standardise(scaled.collect(), known_standard_error=errors)
    assert_same_sums(other, sums)


@pytest.mark.parametrize("has_intercept", [True, False])
def test_coefficients_of_the_engine_give_the_same_line_in_raw_columns(rng, has_intercept):
    problem = make_problem(rng, p=4, has_intercept=has_intercept)
    problem.X[:, 2] = -3.5 if has_intercept else 0.0
    _, scaling = standardise(problem.collect())
    engine = rng.normal(size=(2, 3))
    raw = scaling.coefficients(engine, has_intercept)
    assert np.all(raw[:, 2] == 0)
    line = scaling.y_scale * scaling.common(problem.X, has_intercept) @ engine.T
    line += scaling.y_centre if has_intercept else 0.0
    np.testing.assert_allclose(problem.X @ raw.T, line, rtol=1e-12, atol=1e-10)


def test_contrast_rows_have_no_centre(rng):
    problem = make_problem(rng, p=3)
    _, scaling = standardise(problem.collect())
    slope = scaling.common(np.array([[0.0, 1.0, 0.0]]), True)
    np.testing.assert_allclose(slope, [[0.0, 1.0 / problem.X[:, 1].std(), 0.0]], rtol=1e-12)


def test_constant_columns_and_constant_y(rng):
    problem = make_problem(rng, p=3)
    X = problem.X.copy()
    X[:, 2] = 0.1  # is not exactly the mean of its copies
    sums, scaling = standardise(replace(problem, X=X, y=np.full(problem.n_rows, -4.7)).collect())
    assert list(scaling.kept) == [0, 1]
    assert (scaling.y_centre, scaling.y_scale) == (pytest.approx(-4.7), pytest.approx(4.7))
    np.testing.assert_allclose(sums.xx[-1], 0.0, atol=1e-12)
    _, scaling = standardise(replace(problem, y=np.zeros(problem.n_rows)).collect())
    assert scaling.y_scale == 1.0


def test_without_groups_there_are_only_overall_sums(rng):
    problem = make_problem(rng)
    bare = collect(Design(problem.X, []), None, 0, problem.y, has_intercept=True)
    assert bare.sums.zx.shape == (0, problem.X.shape[1] + 1, 0)
    np.testing.assert_allclose(bare.sums.xx, problem.collect().sums.xx, rtol=1e-12, atol=1e-12)


def test_sizes_from_one_row_to_a_hundred_thousand(rng):
    sizes = [1, 2, 7, 100_000]
    codes = np.repeat(np.arange(4), sizes)
    order = rng.permutation(len(codes))
    y = rng.normal(1e6, 1.0, len(codes)) + codes
    X = np.column_stack([np.ones(len(y)), rng.normal(size=len(y))])
    sums, scaling = standardise(collect(Design(X[order], [X[order]]), codes[order], 4, y[order], has_intercept=True))
    np.testing.assert_array_equal(sums.copies, sizes)
    slope = X[:, 1] / np.sqrt(np.mean(X[:, 1] ** 2))
    z = np.column_stack([X[:, 0], slope])
    # One last digit of a mean of 1e6 is 1e-5 in a sum of a hundred thousand rows: which digit is no matter.
    assert scaling.y_centre == pytest.approx(y.mean(), rel=1e-15)
    engine_y = (y - scaling.y_centre) / y.std()
    for group in range(4):
        rows = codes == group
        np.testing.assert_allclose(sums.zz[:, :, group], z[rows].T @ z[rows], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(sums.zx[:, -1, group], z[rows].T @ engine_y[rows], rtol=1e-8, atol=1e-8)


def test_few_rows_are_summed_to_the_same_bits_however_given(rng):
    """Copies, weights, weights of 0 and order: with more columns than rows posteriors hang on the last digit."""
    X, y, copies = rng.random((15, 30)), rng.integers(0, 3, 15), rng.integers(0, 5, 15)
    X[:, -1] = np.arange(15)
    order = rng.permutation(copies.sum())
    given = {
        "weights": (X, y, copies),
        "copies": (X.repeat(copies, axis=0), y.repeat(copies), None),
        "another order": (X.repeat(copies, axis=0)[order], y.repeat(copies)[order], None),
    }
    means = []
    for rows, of_y, weight in given.values():
        model = PartialPoolingRegressor(group_features=-1)
        with pytest.warns(ConvergenceWarning, match="sigma is held"):
            model.fit(rows, of_y, sample_weight=weight)
        means.append(model.predict(X))
    np.testing.assert_array_equal(means[1], means[0])
    np.testing.assert_array_equal(means[2], means[0])
