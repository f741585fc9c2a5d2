"""Formulas and columns that say the same of several factors have the same answers."""

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor

LABELS = {"school": list("pqrst"), "room": list("uvw"), "track": list("klm")}


@pytest.fixture(scope="module")
def rows():
    """Rooms of the same names in every school, rows of unequal numbers in each; a track has an effect of its own."""
    rng = np.random.default_rng(7)
    X = pd.DataFrame({name: rng.choice(labels, 120) for name, labels in LABELS.items()})
    X["x"] = rng.normal(0.4, 1.0, 120)
    of_schools, of_rooms = dict(zip("pqrst", rng.normal(size=5), strict=True)), rng.normal(size=(5, 3))
    y = X["school"].map(of_schools) + 0.6 * X["x"] + (X["track"] == "l") + 0.7 * rng.normal(size=120)
    at = [(LABELS["school"].index(s), LABELS["room"].index(r)) for s, r in zip(X["school"], X["room"], strict=True)]
    return X, y + 0.8 * np.array([of_rooms[i] for i in at])


def same(one, other, X, Z=None, rtol=0.0):
    """Compare predictions of rows, known and new, and effects by label."""
    new = [frame.assign(school="z").head(3) for frame in (X, X if Z is None else Z)]
    for ours, theirs in ((X, X if Z is None else Z), new):
        np.testing.assert_allclose(
            one.predict(ours, return_std=True), other.predict(theirs, return_std=True), rtol=rtol
        )
    tables = [model.group_effects(coverage=None).set_index(["factor", "group", "term"]) for model in (one, other)]
    pd.testing.assert_frame_equal(tables[0], tables[1].loc[tables[0].index], check_exact=rtol == 0, rtol=rtol)


def categories(X, order, *, ordered):
    return X.assign(**{name: pd.Categorical(X[name], order(labels), ordered) for name, labels in LABELS.items()})


@pytest.mark.parametrize("order", [lambda labels: labels[::-1], lambda labels: ["0", *labels[1:], labels[0], "zz"]])
def test_the_order_of_categories_changes_no_answer_and_those_without_rows_are_not_there(rows, order):
    X, y = rows
    model = PartialPoolingRegressor("y ~ x + track + (x | school) + (1 | room)")
    of_text = PartialPoolingRegressor(model.formula).fit(X, y)
    Z = categories(X, order, ordered=False)
    model.fit(Z, y)
    assert model.coef_names_ == of_text.coef_names_ == ["x", "track[l]", "track[m]"]
    assert [list(labels) for labels in model.groups_.values()] == [LABELS["school"], LABELS["room"]]
    same(model, of_text, Z, X)
    same(model, of_text, X)  # a fit of categories predicts text


def test_of_ordered_categories_the_first_is_the_reference_and_effects_of_groups_stay(rows):
    X, y = rows
    formula = "y ~ x + track + (x | school) + (1 | room)"
    Z = categories(X, lambda labels: labels[::-1], ordered=True)
    model, of_text = PartialPoolingRegressor(formula).fit(Z, y), PartialPoolingRegressor(formula).fit(X, y)
    assert model.coef_names_ == ["x", "track[l]", "track[k]"]
    assert [list(labels) for labels in model.groups_.values()] == [LABELS["school"][::-1], LABELS["room"][::-1]]
    only_groups = X.assign(school=Z["school"], room=Z["room"])
    same(PartialPoolingRegressor(formula).fit(only_groups, y), of_text, X, rtol=1e-6)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("(1 | school/room)", "(1 | school) + (1 | school:room)"),
        ("(x | school/room)", "(x | school) + (x | school:room)"),
        ("(x || room)", "(1 | room) + (0 + x | room)"),
        ("(x || school) + (1 | room)", "(1 | school) + (0 + x | school) + (1 | room)"),
    ],
)
def test_short_ways_to_write_terms_are_those_they_stand_for(rows, short, long):
    X, y = rows
    models = [PartialPoolingRegressor(f"y ~ x + {terms}").fit(X, y) for terms in (short, long)]
    assert models[0].priors_ == models[1].priors_
    same(*models, X)


def test_rooms_of_the_same_name_in_other_schools_are_others(rows):
    X, y = rows
    nested = PartialPoolingRegressor("y ~ x + (1 | school/room)").fit(X, y)
    assert len(nested.groups_["school:room"]) == 15
    renamed = X.assign(room=X["school"] + X["room"])
    crossed = PartialPoolingRegressor("y ~ x + (1 | school) + (1 | room)").fit(renamed, y)
    for frame, other in ((X, renamed), (X.assign(school="z"), renamed.assign(school="z", room="z" + X["room"]))):
        np.testing.assert_allclose(
            nested.predict(frame, return_std=True), crossed.predict(other, return_std=True), rtol=1e-8
        )
    as_they_are = PartialPoolingRegressor("y ~ x + (1 | school) + (1 | room)").fit(X, y)
    assert len(as_they_are.groups_["room"]) == 3
    # a room known in another school alone is a new room of this school
    fewer = ~((X["school"] == "p") & (X["room"] == "u"))
    model = PartialPoolingRegressor("y ~ x + (1 | school/room)").fit(X[fewer], y[fewer])
    new = X.head(1).assign(school="p", room=["u"])
    np.testing.assert_allclose(
        model.predict(new, return_std=True), model.predict(new.assign(room="never seen"), return_std=True)
    )


def test_independent_slopes_are_independent_at_the_point_that_priors_refer_to(rows):
    X, y = rows
    centred = {"centre|school": {"x": 0.0}}
    model = PartialPoolingRegressor("y ~ x + (x || school) + (1 | room)", priors=centred).fit(X, y)
    np.testing.assert_allclose(model.group_correlation_["school"], np.eye(2), atol=1e-9)
    correlated = PartialPoolingRegressor("y ~ x + (x | school) + (1 | room)", priors=centred).fit(X, y)
    assert abs(correlated.group_correlation_["school"].iloc[0, 1]) > 0.01
