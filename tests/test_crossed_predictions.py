"""Predictions of several grouping factors, crossed and nested, against dense and sparse solves and draws."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from hbsk import PartialPoolingRegressor
from hbsk.exceptions import NoGroupsWarning

# Classes in schools, all sds fixed: one normal law

SCHOOL_SD, CLASS_SD, SIGMA = 1.2, 0.6, 0.8
FIXED = {
    "sigma": SIGMA,
    "1|school": ("Normal", {"mu": 0.0, "sigma": SCHOOL_SD}),
    "1|school:cls": ("Normal", {"mu": 0.0, "sigma": CLASS_SD}),
    "Intercept": ("Normal", {"mu": 1.0, "sigma": 2.0}),
}
# a class of its school; a class number that only other schools have; one that none has, twice; that of another school;
# a new school, twice the same class and another one
ASKED = pd.DataFrame({"school": list("AAAABZZZ"), "cls": [1, 3, 9, 9, 9, 1, 1, 2]})


@pytest.fixture(scope="module")
def nested():
    rng = np.random.default_rng(8)
    X = pd.DataFrame({"school": rng.choice(list("ABCD"), 60), "cls": rng.integers(1, 4, 60)})
    X.loc[X["school"] == "A", "cls"] = X["cls"].clip(upper=2)
    y = 2.0 + rng.normal(size=60) + X["school"].map(dict(zip("ABCD", rng.normal(size=4), strict=True)))
    return X, y, PartialPoolingRegressor("(1 | school/cls)", priors=FIXED).fit(X, y)


def nested_law(X, y, new):
    """Mean and covariance of the linear predictor of new rows, the levels being schools and pairs."""
    rows = pd.concat([X, new], ignore_index=True)
    school, pair = rows["school"].to_numpy(), (rows["school"] + rows["cls"].astype(str)).to_numpy()
    covariance = 4.0 + SCHOOL_SD**2 * (school[:, None] == school) + CLASS_SD**2 * (pair[:, None] == pair)
    seen, asked = slice(0, len(X)), slice(len(X), None)
    gain = covariance[asked, seen] @ np.linalg.inv(covariance[seen, seen] + SIGMA**2 * np.eye(len(X)))
    return 1.0 + gain @ (y.to_numpy() - 1.0), covariance[asked, asked] - gain @ covariance[seen, asked]


def test_nested_levels_are_pairs_and_a_new_class_keeps_its_schools_effect(nested):
    X, y, model = nested
    mean, covariance = nested_law(X, y, ASKED)
    ours, sd = model.predict(ASKED, return_std=True)
    np.testing.assert_allclose(ours, mean, rtol=1e-9)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance) + SIGMA**2), rtol=1e-9)
    assert ours[1] == pytest.approx(ours[2], rel=1e-12)  # class 3 of B, C and D says nothing of a class 3 of A
    assert abs(ours[1] - 1.0) > 0.3  # but the school does
    low, high = model.predict_interval(ASKED, coverage=0.9, kind="mean").T
    np.testing.assert_allclose(high - low, 2 * 1.6448536269514722 * np.sqrt(np.diag(covariance)), rtol=1e-8)


def test_draws_of_nested_rows_have_the_covariance_of_their_law(nested):
    X, y, model = nested
    mean, covariance = nested_law(X, y, ASKED)
    draws = model.sample_y(ASKED, n_samples=40_000, random_state=0)
    covariance = covariance + SIGMA**2 * np.eye(len(ASKED))
    unit = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(axis=1), mean, atol=0.025 * unit.max())
    np.testing.assert_allclose(np.cov(draws) / np.outer(unit, unit), covariance / np.outer(unit, unit), atol=0.025)
    # rows 2 and 3 share their new class; rows 1 and 2 do not, but the school
    assert np.var(draws[2] - draws[3]) == pytest.approx(2 * SIGMA**2, rel=0.03)
    assert np.var(draws[1] - draws[2]) == pytest.approx(2 * CLASS_SD**2 + 2 * SIGMA**2, rel=0.03)


def test_policies_act_where_the_label_of_any_factor_is_new(nested):
    X, y, _ = nested
    model = PartialPoolingRegressor("(1 | school/cls)", priors=FIXED, unknown_groups="nan").fit(X, y)
    is_new = [False, *[True] * 7]
    for answer in (
        model.predict(ASKED),
        model.predict(ASKED, return_std=True)[1],
        model.predict_interval(ASKED)[:, 0],
        model.sample_y(ASKED, random_state=0)[:, 0],
    ):
        np.testing.assert_array_equal(np.isnan(answer), is_new)
    model.set_params(unknown_groups="error")
    with pytest.raises(ValueError, match=r"Group columns 'school', 'cls' of X has 1 group not seen in fit: \('A', 3\)"):
        model.predict(ASKED.iloc[[1]])
    with pytest.raises(ValueError, match=r"Group column 'school' of X has 1 group not seen in fit: 'Z'"):
        model.predict(ASKED)
    np.testing.assert_array_equal(np.isfinite(model.predict(ASKED.iloc[[0]])), True)


def test_a_parents_coefficients_leave_their_childrens_effects_out(nested):
    """The mean of a school is that of a new class of it; of a class, its own effect with the school's at 0."""
    model = nested[2]
    table = model.group_effects_.set_index(["factor", "group"])
    new = pd.DataFrame({"school": list("ABCD"), "cls": 9})
    np.testing.assert_allclose(table.loc["school", "mean"], model.predict(new), rtol=1e-9)
    known = pd.DataFrame(table.loc["school:cls"].index.tolist(), columns=["school", "cls"])
    together = model.intercept_ + table.loc["school:cls", "deviation"].to_numpy()
    together += table.loc["school", "deviation"][known["school"]].to_numpy()
    np.testing.assert_allclose(together, model.predict(known), rtol=1e-9)
    np.testing.assert_allclose(table.loc["school:cls", "mean"] - table.loc["school:cls", "deviation"], model.intercept_)


# Estimated sds: a mixture over the nodes of sparse solves


def test_pairs_equal_sparse_solves_at_the_same_nodes():
    rng = np.random.default_rng(6)
    n, levels = 300, (30, 9)
    X = pd.DataFrame({"a": rng.integers(0, 30, n), "b": rng.integers(0, 9, n), "x": rng.normal(2.0, 1.0, n)})
    y = rng.normal(size=n) + 0.8 * rng.normal(size=30)[X["a"]] + 0.5 * rng.normal(size=9)[X["b"]]
    y += (0.3 + 0.6 * rng.normal(size=30)[X["a"]]) * X["x"]
    priors = {"Intercept": ("Normal", {"mu": 0.5, "sigma": 3.0}), "x": ("Normal", {"mu": 0.1, "sigma": 2.0})}
    model = PartialPoolingRegressor("x + (x | a) + (1 | b)", priors=priors).fit(X, y)
    asked = pd.DataFrame({"a": [0, 3, 29, 7, 99], "b": [1, 8, 4, 77, 78], "x": [0.0, 2.0, -3.0, 4.0, 1.0]})

    def columns(rows):
        parts = [sp.csr_array(np.column_stack([np.ones(len(rows)), rows["x"] - X["x"].mean()]))]
        for code, count, values in (
            (rows["a"], levels[0], np.ones(len(rows))),
            (rows["a"], levels[0], rows["x"].to_numpy()),
            (rows["b"], levels[1], np.ones(len(rows))),
        ):
            known = np.flatnonzero(code < count)
            parts.append(sp.csr_array((values[known], (known, code.iloc[known])), shape=(len(rows), count)))
        return sp.hstack(parts).tocsr()

    posterior = model._learnt.fitted.posterior
    assert sum(len(law.weight) for law in posterior._laws) == len(posterior.weight)  # every node counts
    nodes, seen, wanted = posterior.variance_nodes(), columns(X), columns(asked)
    prior_mean = np.concatenate([[0.5, 0.1], np.zeros(69)])
    mean, variance = np.empty((len(nodes.sigma), 5)), np.empty((len(nodes.sigma), 5))
    z_new = np.column_stack([np.ones(5), asked["x"]]) * (asked["a"] >= 30).to_numpy()[:, None]
    for m, (sigma, sd, correlation, sd_b) in enumerate(
        zip(nodes.sigma, nodes.group_sd[0], nodes.correlation[0], nodes.group_sd[1][:, 0], strict=True)
    ):
        Sigma = sd[:, None] * correlation * sd
        prior = sp.block_diag(
            [np.diag([1 / 9.0, 1 / 4.0]), sp.kron(np.linalg.inv(Sigma), sp.eye(30)), sp.eye(9) / sd_b**2]
        )
        solver = splu(sp.csc_matrix(prior + seen.T @ seen / sigma**2))
        right = seen.T @ y.to_numpy() / sigma**2 + prior @ prior_mean
        mean[m] = wanted @ solver.solve(np.asarray(right).ravel())
        variance[m] = np.sum(wanted.toarray() * solver.solve(wanted.toarray().T).T, axis=1)
        variance[m] += np.sum(z_new @ Sigma * z_new, axis=1) + sd_b**2 * (asked["b"] >= 9) + sigma**2
    weight = posterior.weight
    ours, sd = model.predict(asked, return_std=True)
    centre = weight @ mean
    np.testing.assert_allclose(ours, centre, rtol=1e-8)
    np.testing.assert_allclose(sd**2, weight @ (variance + (mean - centre) ** 2), rtol=1e-8)


# No pooling


def test_no_pooling_of_several_factors_names_what_to_write_instead(nested):
    X, y, _ = nested
    X = X.assign(**{"the class": X["cls"]})
    for options, factors, terms in (
        ({"group_features": ["school", "cls"]}, "'school', 'cls'", r"C\(school\) \+ C\(cls\)"),
        ({"formula": "(1 | school/cls)"}, "'school', 'school:cls'", r"C\(school\) \+ C\(school\):C\(cls\)"),
        ({"group_features": ["school", "the class"]}, "'school', 'the class'", r"C\(school\) \+ C\(`the class`\)"),
    ):
        wanted = rf"takes one grouping factor, and the model has {factors}, .*Name one factor.*common terms.*: {terms}"
        frame = X if "formula" in options else X[options["group_features"]]
        with pytest.raises(ValueError, match=wanted):
            PartialPoolingRegressor(**options, pooling="none").fit(frame, y)
    for formula in ("C(school) + C(cls)", "C(school) + C(school):C(cls)", "C(school) + C(`the class`)"):
        with pytest.warns(NoGroupsWarning):
            assert np.isfinite(PartialPoolingRegressor(formula, pooling="none").fit(X, y).predict(X)).all()
