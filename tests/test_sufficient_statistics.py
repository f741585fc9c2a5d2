"""Sums instead of rows: what was collected in parts, in any order, is fitted as all rows at once."""

import io
import json
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor, SufficientStatistics, from_json, to_json
from hbsk.exceptions import LabelMismatchWarning
from hbsk.model_selection import loo, waic
from hbsk.predictive_checks import posterior_predictive_check

KINDS = ["plain", "weight", "error", "both"]


def make_rows(rng, kind="plain", n_rows=600, n_groups=23, shift=1e3):
    """Rows far from zero that drift, in groups of unequal size; what goes to fit beside X and y."""
    X = pd.DataFrame(
        {
            "g": np.array([f"s{k}" for k in rng.integers(0, n_groups, n_rows) ** 2 // n_groups]),
            "x": rng.normal(size=n_rows) + np.linspace(0, 4, n_rows) - shift,
            "w": rng.integers(0, 4, n_rows),
            "kind": pd.Categorical(np.array(["c", "a", "b"])[rng.integers(0, 3, n_rows)], categories=["a", "b", "c"]),
        }
    )
    effect = X["g"].map({label: rng.normal() for label in X["g"].unique()}).to_numpy()
    y = (
        effect
        + 0.4 * X["x"].to_numpy()
        + 0.3 * X["w"].to_numpy()
        + (X["kind"] == "b").to_numpy()
        + rng.normal(size=n_rows)
    )
    beside = {}
    if kind in ("weight", "both"):
        beside["sample_weight"] = rng.integers(1, 4, n_rows).astype(float)
    if kind in ("error", "both"):
        beside["standard_error"] = rng.uniform(0.5, 1.5, n_rows)
    return X, y + shift, beside


def at(rows, taken):
    X, y, beside = rows
    return (X.iloc[taken], y[taken]), {name: values[taken] for name, values in beside.items()}


def assert_same_posterior(found, wanted, rtol):
    """The nodes and what they say of groups, with the sums and priors that they come from."""
    assert found.fitted.inference == wanted.fitted.inference
    one, other = found.fitted.posterior, wanted.fitted.posterior
    for name in ("common_estimates", "residual_sds"):
        np.testing.assert_allclose(getattr(one, name)(), getattr(other, name)(), rtol=rtol, atol=rtol, err_msg=name)
    for mine, theirs in zip(found.copies, wanted.copies, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)
    assert [list(factor.labels) for factor in found.frame.factors] == [list(f.labels) for f in wanted.frame.factors]
    if found.fitted.model is not None and found.frame.specification.factors:
        moments = one.group_moments(), other.group_moments()
        for name in ("mean", "covariance"):
            values = getattr(moments[1], name)
            np.testing.assert_allclose(getattr(moments[0], name), values, rtol=rtol, atol=rtol * np.abs(values).max())


def collected_in_parts(model, rows, parts):
    total = None
    for part in parts:
        given, beside = at(rows, part)
        new = model.collect(*given, **beside)
        total = new if total is None else total + new
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_forty_chunks_in_any_order_are_one_fit(rng, kind):
    rows = make_rows(rng, kind)
    X, y, beside = rows
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"])
    wanted = model.fit(X, y, **beside)._learnt
    chunks = list(np.array_split(np.arange(len(X)), 40))
    for order in (np.arange(40), rng.permutation(40)):
        found = model.fit(collected_in_parts(model, rows, [chunks[k] for k in order]))._learnt
        assert_same_posterior(found, wanted, 1e-12)


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.NoGroupsWarning")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("plain", {}),
        ("both", {}),
        ("both", {"pooling": "none"}),
        ("both", {"pooling": "complete"}),
        ("both", {"group_features": None}),
    ],
)
def test_partial_fit_goes_on_from_a_fit(rng, kind, options):
    X, y, beside = make_rows(rng, kind, n_rows=200, n_groups=11)
    X = X.drop(columns="g") if "group_features" in options else X
    model = PartialPoolingRegressor(**{"group_features": "g", **options})
    wanted = model.fit(X, y, **beside)._learnt

    def rows(part):
        return (X[part], y[part]), {name: values[part] for name, values in beside.items()}

    given, more = rows(slice(50))
    model.fit(*given, **more)
    for part in (slice(50, 120), slice(120, 121), slice(121, 200)):
        given, more = rows(part)
        assert model.partial_fit(*given, **more) is model
    assert_same_posterior(model._learnt, wanted, 1e-11)
    assert model.priors_.keys() == wanted.fitted.priors.keys()


def test_sums_travel_in_pickles_and_documents(rng):
    X, y, beside = make_rows(rng, "both", n_rows=200, n_groups=11)
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"])
    given = [{name: values[part] for name, values in beside.items()} for part in (slice(120), slice(120, 200))]
    model.partial_fit(X[:120], y[:120], **given[0])
    read = pickle.loads(pickle.dumps(model)), from_json(to_json(model))
    wanted = model.partial_fit(X[120:], y[120:], **given[1])
    for again in read:
        again.partial_fit(X[120:], y[120:], **given[1])
        np.testing.assert_array_equal(again.predict(X), wanted.predict(X))


def test_what_is_left_without_a_fold_is_the_refit(rng):
    rows = make_rows(rng, "both")
    X, y, beside = rows
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"])
    fold = (np.arange(len(X)) % 5 == 2) | (X["g"] == "s3").to_numpy()  # a group of its own
    total, held = model.collect(X, y, **beside), collected_in_parts(model, rows, [np.flatnonzero(fold)])
    rest, more = at(rows, np.flatnonzero(~fold))
    wanted = model.fit(*rest, **more)._learnt
    found = model.fit(total - held)
    assert "s3" not in found.groups_["g"]
    assert_same_posterior(found._learnt, wanted, 1e-10)
    assert (total - held).n_rows == (~fold).sum()


@pytest.mark.parametrize("kind", ["plain", "both"])
def test_scaled_sums_are_weights(rng, kind):
    X, y, beside = make_rows(rng, kind, n_rows=200, n_groups=9)
    model = PartialPoolingRegressor(group_features="g")
    old, new = slice(0, 140), slice(140, 200)
    given = [{name: values[part] for name, values in beside.items()} for part in (old, new)]
    total = model.collect(X[old], y[old], **given[0]).scaled(0.9) + model.collect(X[new], y[new], **given[1])
    weight = np.where(np.arange(200) < 140, 0.9, 1.0) * beside.pop("sample_weight", 1.0)
    wanted = model.fit(X, y, sample_weight=weight, **beside)._learnt
    assert_same_posterior(model.fit(total)._learnt, wanted, 1e-10)
    assert total.n_rows == 200


def test_what_is_left_of_squares_that_went_is_nothing(rng):
    X = pd.DataFrame({"g": np.repeat(list("abcdef"), 10), "x": rng.normal(size=60), "v": np.zeros(60)})
    X.loc[16:19, "x"] = 0.0  # all rows of "b" that stay
    X.loc[10:15, "x"] = 1.1, 0.3, 0.7, 0.1, 1.3, 0.01
    X.loc[[10, 11], "v"] = 0.1, 0.7
    y = rng.normal(size=60)
    model = PartialPoolingRegressor("y ~ x + v + (0 + x | g)")
    out = [20, *range(15, 9, -1)]
    whole, part = model.collect(X, y), model.collect(X.loc[out], y[out])
    rest = whole - part
    assert whole.collected.sums.zz[0, 0, 1] != part.collected.sums.zz[0, 0, 0]  # by rounding
    assert rest.collected.sums.zz[0, 0, 1] == 0.0
    assert not rest.collected.sums.zx[0, :, 1].any()
    assert whole.collected.moments.x_sd[2] > 0 == rest.collected.moments.x_sd[2]
    wanted = model.fit(X.drop(index=out), np.delete(y, out))._learnt
    assert_same_posterior(model.fit(rest)._learnt, wanted, 1e-10)


def test_sums_of_groups_that_ordered_categories_name_keep_their_order(rng):
    days = pd.CategoricalDtype(["mon", "tue", "wed"], ordered=True)
    X = pd.DataFrame({"day": pd.Series(["wed", "mon", "wed", "mon", "tue", "tue"] * 5, dtype=days)})
    y = rng.normal(size=30)
    model = PartialPoolingRegressor(group_features="day")
    whole = model.collect(X, y)
    assert list((model.collect(X[:15], y[:15]) + model.collect(X[15:], y[15:])).groups["day"]) == ["mon", "tue", "wed"]
    assert list((whole - model.collect(X[X["day"] == "tue"], y[X["day"] == "tue"])).groups["day"]) == ["mon", "wed"]
    numbers = X.assign(day=np.tile([7, 2, 7, 2, 5, 5], 5))
    parts = [model.collect(numbers[part], y[part]) for part in (numbers["day"] != 5, numbers["day"] == 5)]
    assert (parts[0] + parts[1]).groups["day"].tolist() == [2, 5, 7]
    assert (parts[0] + parts[1]).counts["day"].tolist() == [10, 10, 10]


def test_effects_with_known_means_are_taken_off_the_sums(rng):
    X, y, _ = make_rows(rng, shift=0)
    priors = {
        "1|g": ("Normal", {"mu": 3.0, "sigma": ("HalfNormal", {"sigma": 1})}),
        "x|g": ("Normal", {"mu": -2.0, "sigma": ("HalfNormal", {"sigma": 1})}),
        "centre|g": {"x": 0},
    }
    shifted = PartialPoolingRegressor(group_features="g", slope_features=["x"], priors=priors).fit(X, y)
    plain = {
        name: ("Normal", {**law[1], "mu": 0}) if "|" in name and "centre" not in name else law
        for name, law in priors.items()
    }
    # the same rows, the means taken off by hand, under the priors that were found
    fixed = {**shifted.priors_, **plain}
    by_hand = PartialPoolingRegressor(group_features="g", slope_features=["x"], priors=fixed)
    by_hand.fit(X, y - 3.0 + 2.0 * X["x"])
    np.testing.assert_allclose(shifted.coef_, by_hand.coef_, rtol=1e-9)
    np.testing.assert_allclose(shifted.sigma_, by_hand.sigma_, rtol=1e-9)
    np.testing.assert_allclose(shifted.predict(X), by_hand.predict(X) + 3.0 - 2.0 * X["x"], rtol=1e-8)
    again = PartialPoolingRegressor(group_features="g", slope_features=["x"], priors=priors)
    again.fit(X[:300], y[:300]).partial_fit(X[300:], y[300:])
    np.testing.assert_allclose(again.predict(X), shifted.predict(X), rtol=1e-9)


def test_a_fit_of_sums_answers_whatever_one_of_rows_does(rng):
    X, y, _ = make_rows(rng, n_rows=120, n_groups=7, shift=0)
    model = PartialPoolingRegressor("y ~ x + kind + (x | g)")
    wanted = PartialPoolingRegressor("y ~ x + kind + (x | g)").fit(X, y)
    found = model.fit(model.collect(X, y))
    for one, other in (
        (found.predict_interval(X), wanted.predict_interval(X)),
        (found.sample_y(X, random_state=0), wanted.sample_y(X, random_state=0)),
        (found.score(X, y), wanted.score(X, y)),
        (loo(found, X, y).elpd, loo(wanted, X, y).elpd),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    pd.testing.assert_frame_equal(found.group_effects_, wanted.group_effects_, rtol=1e-9)
    assert found.n_features_in_ == 4
    assert found.feature_names_in_.tolist() == list(X)
    assert found.to_datatree(X, y, draws=5, random_state=0).children.keys() >= {"posterior", "observed_data"}


def test_where_rows_are_needed_sums_are_refused_by_name(rng):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    model = PartialPoolingRegressor(group_features="g").fit(X, y)
    sums = model.collect(X, y)
    for ask in (
        model.predict,
        lambda sums: model.score(sums, y),
        lambda sums: model.to_bambi(sums, y),
        lambda sums: model.to_datatree(sums, y),
        lambda sums: loo(model, sums, y),
        lambda sums: waic(model, sums, y, unit="group"),
        lambda sums: posterior_predictive_check(model, sums, y),
    ):
        with pytest.raises(TypeError, match="X is SufficientStatistics, which hold the sums of rows and no rows"):
            ask(sums)


# ---------------------------------------------------------------------------------------------------------------------
# What does not go together


def unchanged(model, call, message):
    before, answers = dict(vars(model)), vars(model).get("coef_")
    with pytest.raises(ValueError, match=message):
        call()
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    assert vars(model).get("coef_") is answers


def test_rows_that_do_not_go_with_those_before_leave_the_fit_as_it_was(rng):
    X, y, beside = make_rows(rng, "error", n_rows=60, n_groups=5)
    text = X.assign(kind=X["kind"].astype(str))
    model = PartialPoolingRegressor(group_features="g").fit(text, y)
    unchanged(model, lambda: model.partial_fit(text.assign(kind="new"), y), "holds 'new', not seen in fit")
    unchanged(model, lambda: model.partial_fit(text, y, **beside), "standard_error= was given for the rows of one only")
    unchanged(model, lambda: model.partial_fit(text.drop(columns="x"), y), "feature names")
    unchanged(model, lambda: model.partial_fit(text, np.full(60, np.nan)), "NaN")
    model.set_params(inference="nuts")
    unchanged(model, lambda: model.partial_fit(text, y), "NUTS needs rows")
    model.set_params(inference="auto", slope_features=["x"])
    unchanged(model, lambda: model.partial_fit(text, y), r"slope_features=None, and this .* has slope_features=\['x'\]")
    several = PartialPoolingRegressor(group_features=["g", "w"])
    unchanged(several, lambda: several.partial_fit(X, y), "one grouping factor, and the model has 'g', 'w'")
    assert not hasattr(several, "coef_")
    unchanged(several, lambda: several.partial_fit(X, None), "requires y")
    several.fit(X, y)
    unchanged(several, lambda: several.partial_fit(X, y), "partial_fit adds rows to the sums of one grouping factor")


def test_declared_categories_may_come_later(rng):
    X, y, _ = make_rows(rng, n_rows=90, n_groups=5)
    X = X.sort_values("kind", kind="stable")
    y = y[X.index.to_numpy()]
    model = PartialPoolingRegressor(group_features="g")
    wanted = model.fit(X, y)._learnt
    model = PartialPoolingRegressor(group_features="g")
    for part in np.array_split(np.arange(90), 4):
        model.partial_fit(X.iloc[part], y[part])
    assert_same_posterior(model._learnt, wanted, 1e-11)


def test_centres_are_those_of_the_first_rows(rng):
    X, y, _ = make_rows(rng, n_rows=90, n_groups=5)
    model = PartialPoolingRegressor("y ~ scale(x) + (1 | g)")
    first = model.collect(X[:40], y[:40])
    with pytest.raises(ValueError, match=r"'scale\(x\)' was learnt from other rows: mean .* like= the first"):
        first + model.collect(X[40:], y[40:])
    total = first + model.collect(X[40:], y[40:], like=first)
    scaled = X.assign(x=(X["x"] - X["x"][:40].mean()) / X["x"][:40].std(ddof=0))
    np.testing.assert_allclose(
        model.fit(total).coef_, PartialPoolingRegressor("y ~ x + (1 | g)").fit(scaled, y).coef_, rtol=1e-10
    )


def test_sums_of_another_model_are_refused_by_what_differs(rng):
    X, y, beside = make_rows(rng, "error", n_rows=60, n_groups=5)
    X["text"] = np.where(np.arange(60) < 30, "p", np.where(np.arange(60) % 2, "q", "p"))
    by_formula = PartialPoolingRegressor("y ~ x + (1 | g)")
    sums = by_formula.collect(X, y)
    for other, words in [
        (PartialPoolingRegressor("y ~ x + (x | g)").collect(X, y), r"formulas are 'y ~ x \+ \(1 \| g\)' and"),
        (by_formula.collect(X, y, **beside), "standard_error= was given for the rows of one only"),
    ]:
        for combined in (lambda other=other: sums + other, lambda other=other: sums - other):
            with pytest.raises(ValueError, match=words):
                combined()
    with pytest.raises(ValueError, match=r"collected with formula='y ~ x .*has formula='y ~ 1"):
        PartialPoolingRegressor("y ~ 1 + (1 | g)").fit(sums)
    with pytest.raises(ValueError, match="not collected with pooling='complete', which leaves the groups out"):
        PartialPoolingRegressor("y ~ x + (1 | g)", pooling="complete").fit(sums)
    with pytest.raises(ValueError, match="'y', 'groups' cannot be given with SufficientStatistics"):
        by_formula.fit(sums, y, X["g"])
    levels = PartialPoolingRegressor("y ~ text + (1 | g)")
    with pytest.raises(ValueError, match=r"levels of 'text' are 'p' and 'p', 'q': declare them all"):
        levels.collect(X[:30], y[:30]) + levels.collect(X[30:], y[30:])
    keyword = PartialPoolingRegressor("y ~ x + (1 | groups)")
    with pytest.raises(ValueError, match=r"come from groups= and X \('groups'\)"):
        keyword.collect(X, y, X["g"]) + keyword.collect(X.rename(columns={"g": "groups"}), y)
    with pytest.raises(TypeError, match="unsupported operand"):
        sums + 1


def test_what_is_not_there_cannot_be_subtracted(rng):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    model = PartialPoolingRegressor(group_features="g")
    sums = model.collect(X[:40], y[:40])
    with pytest.raises(ValueError, match=r"group 's\d' of 'g' would be left with -\d+ rows"):
        sums - model.collect(X[5:], y[5:])
    with pytest.raises(ValueError, match="of 40 rows cannot be subtracted from those of 40: no row would be left"):
        sums - sums
    for factor in (0, -1, np.nan, np.inf, "1"):
        with pytest.raises(ValueError, match="factor must be a positive number"):
            sums.scaled(factor)
    with pytest.raises(ValueError, match="of n_samples=1 rows, while a minimum of 2"):
        model.fit(model.collect(X[:1], y[:1]))


def test_a_list_of_sums_is_added_by_sum(rng):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    model = PartialPoolingRegressor(group_features="g")
    parts = [model.collect(X[:40], y[:40]), model.collect(X[40:], y[40:])]
    np.testing.assert_array_equal(sum(parts).collected.sums.xx, (parts[0] + parts[1]).collected.sums.xx)
    with pytest.raises(TypeError, match="unsupported operand"):
        sum(parts, start=1)


def test_labels_of_added_rows_that_are_written_otherwise_are_told(rng):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    model = PartialPoolingRegressor(group_features="g").fit(X, y)
    said = r"Not one of the labels of 'g' in the rows that are added was there before; they are text such as 'S.*Write"
    with pytest.warns(LabelMismatchWarning, match=said):
        model.partial_fit(X.assign(g=X["g"].str.upper()), y)
    PartialPoolingRegressor(group_features="g").fit(X, y).partial_fit(X.assign(g="t" + X["g"]), y)


def test_sums_tell_what_they_are(rng):
    X, y, beside = make_rows(rng, "weight", n_rows=60, n_groups=5)
    sums = PartialPoolingRegressor(group_features="g").collect(X, y, **beside)
    assert isinstance(sums, SufficientStatistics)
    assert repr(sums) == "<SufficientStatistics of 60 rows, 3 groups of 'g': y ~ x + w + kind + (1 | g)>"
    counts = X["g"].value_counts().sort_index()
    assert sums.counts["g"].tolist() == counts.tolist()
    assert sums.groups["g"].tolist() == counts.index.tolist()
    assert sums.n_rows == 60


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_saved_sums_of_two_sites_are_one_fit(rng, tmp_path):
    rows = make_rows(rng, "both")
    X, y, beside = rows
    model = PartialPoolingRegressor("y ~ x + w:kind + (x | g)")
    sites = []
    for site in (0, 1):
        given, more = at(rows, np.flatnonzero(np.arange(600) % 3 // 2 == site))
        model.collect(*given, **more).save(tmp_path / f"{site}.npz")
        sites.append(SufficientStatistics.load(str(tmp_path / f"{site}.npz")))
    wanted = model.fit(X, y, **beside)._learnt
    assert_same_posterior(model.fit(sites[0] + sites[1])._learnt, wanted, 1e-12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "1.npz"]


def test_sums_of_labels_and_levels_of_all_kinds_come_back(rng, tmp_path):
    X = pd.DataFrame({"a": [1.5, 2.5] * 10, "b": list("pqqp") * 5, "n": np.arange(20) % 3, "x": rng.normal(size=20)})
    for formula in (
        "y ~ scale(x) + (1 | a:b)",
        "y ~ 0 + x + (0 + x | n)",
        "y ~ C(n, Sum) + offset(x)",
        "y ~ bs(x, df=4) + (1 | b)",
    ):
        model = PartialPoolingRegressor(formula, pooling="partial" if "|" in formula else "complete")
        sums = model.collect(X, rng.normal(size=20))
        sums.save(tmp_path / "sums.npz")
        again = SufficientStatistics.load(tmp_path / "sums.npz")
        assert (sums + again).n_rows == 40
        np.testing.assert_array_equal(model.fit(again).predict(X), model.fit(sums).predict(X))
        np.testing.assert_array_equal(again.collected.sums.xx, sums.collected.sums.xx)


def test_a_file_that_cannot_be_written_leaves_the_old_one(rng, tmp_path):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    model = PartialPoolingRegressor(group_features="g")
    path = tmp_path / "sums.npz"
    model.collect(X, y).save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"save cannot write .*complex"):
        model.collect(X.assign(g=[1j, 2j] * 30), y).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def rewritten(path, change):
    """The parts of a file, changed, as another file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(parts["document.json"])
    change(parts, document)
    if "document.json" in parts:
        parts["document.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def of_sums(document, *names):
    """Fields of the sums of a document, or of a part of them."""
    value = document["value"]["fields"]["collected"]["fields"]
    for name in names:
        value = value[name]["fields"]
    return value


def larger_claim(parts, document):
    array = document["arrays"][of_sums(document, "sums")["zz"]["value"]]
    array["shape"] = [1, 1, 10**12]
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1, 1, 10**12)})
    parts[array["file"]] = header.getvalue()


DAMAGES = {
    "newer": (lambda _, d: d.update(hbsk_sums_format=2, hbsk_version="9.9"), "format=2, written by hbsk '9.9'"),
    "other": (lambda _, d: d.pop("hbsk_sums_format"), "has no 'hbsk_sums_format'"),
    "no document": (lambda parts, _: parts.pop("document.json"), "it has no 'document.json'"),
    "code": (lambda _, d: d.update(value={"$": "Popen", "value": ["ls"]}), "kind 'Popen'"),
    "larger": (larger_claim, "shape|longest|claim"),
    "other value": (lambda _, d: d.update(value={"$": "Name", "fields": {"column": "x"}}), "holds no Sufficient"),
    "lost array": (lambda parts, _: parts.pop("0.npy"), "no item named"),
    "kind": (lambda _, d: d["value"]["fields"].update(n_rows="many"), "n_rows of a Suff"),
    "counts": (lambda _, d: d["value"]["fields"].update(n_rows=61), "do not add up"),
    "negative": (lambda _, d: d["value"]["fields"].update(least_noise=-1.0), "negative counts or squares"),
    "infinite": (lambda _, d: of_sums(d).update(y_centre={"$": "float", "value": "nan"}), "not finite"),
    "centre": (lambda _, d: of_sums(d).update(z_centre=None), "z_centre has not"),
    "swapped": (lambda _, d: of_sums(d, "sums").update(zx=of_sums(d, "sums")["zz"]), "zx has not the shape"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_refused(rng, tmp_path, damage):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    path = tmp_path / "sums.npz"
    PartialPoolingRegressor(group_features="g").collect(X, y).save(path)
    change, message = DAMAGES[damage]
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        SufficientStatistics.load(path)


def test_bytes_that_are_no_file_of_sums_are_refused(rng, tmp_path):
    X, y, _ = make_rows(rng, n_rows=60, n_groups=5)
    path = tmp_path / "sums.npz"
    PartialPoolingRegressor(group_features="g").collect(X, y).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (b"", b"PK", pickle.dumps(len), whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no file of SufficientStatistics.save|damaged"):
            SufficientStatistics.load(path)
    np.savez_compressed(path, zeros=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"it has no 'document.json'"):
        SufficientStatistics.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("document.json", " " * 10**7)  # a bomb
    with pytest.raises(ValueError, match="claim more than its"):
        SufficientStatistics.load(path)
    with pytest.raises(FileNotFoundError):
        SufficientStatistics.load(tmp_path / "nowhere.npz")
