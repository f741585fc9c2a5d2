"""Binary and count models in Bambi: the family, the data and the priors that Bambi is given."""

import bambi as bmb
import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from tests.test_counts import COUNT, EXPOSURE, SUCCESS, TRIALS, X, counts


def test_counts_over_exposure():
    estimator = counts()
    model = estimator.to_bambi(X, COUNT, exposure=EXPOSURE)
    assert model.family.name == "poisson"
    assert "offset(`log exposure`)" in str(model.formula)
    np.testing.assert_allclose(model.data["log exposure"], np.log(EXPOSURE))
    # columns are centred by exposure here, which Bambi cannot do
    assert model.center_predictors is False
    name = next(column for column in model.data if column.startswith("x"))
    assert EXPOSURE @ model.data[name] == pytest.approx(0.0, abs=1e-9)
    mu = model.parameters["mu"].terms["Intercept"].prior.args["mu"]
    assert mu == pytest.approx(np.log(COUNT.sum() / EXPOSURE.sum()))
    assert not hasattr(estimator, "n_features_in_")


def test_weights_as_exposure_are_the_same_model():
    first = counts().to_bambi(X, COUNT, exposure=EXPOSURE)
    assert str(counts().to_bambi(X, COUNT).formula) != str(first.formula)


def test_successes_out_of_trials_and_classes():
    model = counts(family="binomial").to_bambi(X, SUCCESS, trials=TRIALS)
    assert model.family.name == "binomial"
    assert str(model.formula.main).startswith("p(`y`, `trials`)")
    classes = PartialPoolingClassifier(group_features="g").to_bambi(X, np.where(SUCCESS > 0, "some", "none"))
    assert classes.family.name == "bernoulli"
    np.testing.assert_array_equal(classes.data["y"], SUCCESS > 0)


def test_no_pooling_has_fixed_sds():
    model = counts(pooling="none").to_bambi(X, COUNT)
    assert "2.5" in str(model.parameters["mu"].terms["1|g"].prior.args["sigma"])


def test_what_cannot_be_sampled_says_so():
    two = X.assign(h=np.arange(len(X)) % 7)
    with pytest.raises(ValueError, match=r"has several grouping factors.*Use inference='auto' or 'nuts'"):
        PartialPoolingCountRegressor("x + (1 | g) + (1 | h)", inference="marginal").fit(two, COUNT)
    with pytest.raises(ValueError, match="takes whole counts"):
        PartialPoolingCountRegressor("x + (1 | g) + (1 | h)", family="binomial").fit(two, SUCCESS, trials=TRIALS + 0.5)
    with pytest.raises(ValueError, match="one grouping factor"):
        PartialPoolingCountRegressor("x + (1 | g) + (1 | h)", pooling="none").fit(two, COUNT)


def test_frames_of_other_kinds_reach_bambi():
    model = PartialPoolingClassifier("c * x + (x | g)").to_bambi(
        X.assign(c=pd.Categorical(np.where(X["x"] > 0, "high", "low"))), SUCCESS > 0
    )
    assert {"center(x)|g", "1|g"} <= set(model.parameters["p"].terms)


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
@pytest.mark.parametrize("formula", ["x + z + (x | g)", "c + d + (1 | g)", "c*d + (1 | g)", "c:x + x + (1 | g)"])
def test_default_priors_are_those_of_bambi_on_centred_columns(family, formula):
    rng = np.random.default_rng(8)
    n = 60
    frame = pd.DataFrame(
        {
            "x": rng.normal(0, 3, n),
            "z": rng.exponential(2, n),
            "c": rng.permutation(np.repeat(["low", "mid", "top"], n // 3)),
            "d": rng.permutation(np.repeat(["u", "v"], n // 2)),
            "g": rng.permutation(np.repeat([f"g{j}" for j in range(6)], n // 6)),
        }
    )
    frame[["x", "z"]] -= frame[["x", "z"]].mean()
    frame = frame.astype(dict.fromkeys("cdg", "category"))
    y = rng.permutation(np.repeat([0, 1], n // 2))
    bambi_model = bmb.Model(f"y ~ {formula}", frame.assign(y=y), family=family)
    bambi_model.build()
    terms = bambi_model.parameters["mu" if family == "poisson" else "p"].terms
    kind = {"family": "binomial" if family == "bernoulli" else family}
    ours = PartialPoolingCountRegressor(formula, **kind).fit(frame, y).priors_
    for name, term in terms.items():
        if name == "Intercept":
            # Bambi has mean 0 for counts, and widens by raw means of levels
            sd = 1.5 if family == "bernoulli" else 2.5
            assert ours[name][1]["sigma"] == pytest.approx(sd)
            assert ours[name][1]["mu"] == pytest.approx(0.0 if family == "bernoulli" else np.log(y.mean()))
        elif "|" not in name:
            np.testing.assert_allclose(ours[name][1]["sigma"], term.prior.args["sigma"])
        elif name != "1|g":
            np.testing.assert_allclose(ours[name][1]["sigma"][1]["sigma"], term.prior.args["sigma"].args["sigma"])
        else:
            assert ours[name][1]["sigma"][1]["sigma"] == pytest.approx(2.5)
            if "c" not in formula:
                assert term.prior.args["sigma"].args["sigma"] == pytest.approx(2.5)
