"""Tables, figures and predictive checks of counts and classes, against draws of the same posterior."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import poisson

from hbsk import PartialPoolingClassifier
from hbsk.plotting import GroupEffectsDisplay, GroupSizeDisplay, RankDisplay, ShrinkageDisplay
from hbsk.predictive_checks import posterior_predictive_check
from tests.test_counts import COUNT, EXPOSURE, SUCCESS, TRIALS, J, N, X, counts


@pytest.fixture(scope="module")
def model():
    return counts().fit(X, COUNT, exposure=EXPOSURE)


def test_group_effects_on_the_scale_of_the_response(model):
    shares = counts(family="binomial").fit(X, SUCCESS, trials=TRIALS)
    for fitted, draw in ((model, np.exp), (shares, lambda eta: 1 / (1 + np.exp(-eta)))):
        link, response = fitted.group_effects(), fitted.group_effects(scale="response")
        tree = fitted.to_datatree(draws=10_000, random_state=0)["posterior"]
        values = draw(tree["Intercept"].to_numpy()[..., None] + tree["1|g"].to_numpy()).reshape(-1, J)
        np.testing.assert_allclose(response["mean"], values.mean(axis=0), rtol=0.01)
        np.testing.assert_allclose(response["sd"], values.std(axis=0), rtol=0.03)
        for name in ("eti95_lb", "eti95_ub", "no_pooling"):
            np.testing.assert_allclose(response[name], draw(link[name].to_numpy()))
        assert not {"deviation", "deviation_sd"} & set(response)
    with pytest.raises(ValueError, match="'link' or 'response'"):
        model.group_effects(scale="log")


def test_slopes_on_the_scale_of_the_response_are_ratios():
    fitted = counts(slope_features="x").fit(X, COUNT, exposure=EXPOSURE)
    response = fitted.group_effects(scale="response").set_index("term").loc["x|g"]
    tree = fitted.to_datatree(draws=10_000, random_state=0)["posterior"]
    values = np.exp(tree["x"].to_numpy()[..., None] + tree["x|g"].to_numpy()).reshape(-1, J)
    np.testing.assert_allclose(response["mean"], values.mean(axis=0), rtol=0.01)


def test_summary_has_ratios(model):
    table, ratios = model.summary(), model.summary(scale="response")
    assert list(ratios) == ["ratio", "eti95_lb", "eti95_ub"]
    assert list(ratios.index) == ["Intercept", "x"]
    np.testing.assert_allclose(ratios.loc["x", "ratio"], np.exp(model.coef_[0]))
    np.testing.assert_allclose(ratios.iloc[:, 1:], np.exp(table.loc[["Intercept", "x"], ["eti95_lb", "eti95_ub"]]))
    assert "sigma" not in table.index
    with pytest.raises(ValueError, match="scale must be 'link' or 'response', got 'log'"):
        model.summary(scale="log")
    with pytest.raises(ValueError, match="ask for it with scale='link'"):
        model.summary(scale="response", diagnostics=True)


def test_ranks_and_displays(model):
    ranks = model.rank_groups(top=3)
    expected = model.group_effects_.set_index("group")["mean"].sort_values(ascending=False)
    assert ranks.index[0] == expected.index[0]
    for display in (GroupEffectsDisplay, GroupSizeDisplay, ShrinkageDisplay, RankDisplay):
        display.from_estimator(model)
    plt.close("all")


def test_overdispersion_fails_visibly(model):
    rng = np.random.default_rng(4)
    clumped = rng.negative_binomial(1.0, 0.2, N)
    fitted = counts().fit(X, clumped)
    check = posterior_predictive_check(fitted, X, clumped, n_samples=300, random_state=0)
    assert list(check.observed.index) == ["proportion", "zeros", "dispersion"]
    assert check.p_value["dispersion"] < 0.01
    expected = fitted.predict(X)
    assert check.observed["dispersion"] == pytest.approx(np.mean((clumped - expected) ** 2 / expected))
    right = posterior_predictive_check(model, X, COUNT, exposure=EXPOSURE, n_samples=300, random_state=0)
    assert 0.02 < right.p_value["dispersion"] < 0.98
    assert right.observed["proportion"] == pytest.approx(COUNT.sum() / EXPOSURE.sum())
    fresh = posterior_predictive_check(
        model, X, COUNT, exposure=EXPOSURE, n_samples=300, random_state=0, new_groups=True
    )
    assert fresh.to_frame()["replicated_sd"]["proportion"] > 2 * right.to_frame()["replicated_sd"]["proportion"]
    with pytest.raises(ValueError, match="needs exposure="):
        posterior_predictive_check(model, X, COUNT)


def test_checks_of_classes():
    y = np.where(SUCCESS > 0, "some", "none")
    fitted = PartialPoolingClassifier(group_features="g").fit(X, y)
    check = posterior_predictive_check(fitted, X, y, statistics=["proportion", "mean"], n_samples=200, random_state=0)
    assert (check.observed == (y == "some").mean()).all()
    assert (check.p_value > 0.2).all()


def test_datatree_of_rows(model):
    tree = model.to_datatree(X[:5], COUNT[:5], exposure=EXPOSURE[:5], draws=200, random_state=0)
    rate = np.exp(
        tree["posterior"]["Intercept"].to_numpy()[..., None]
        + tree["posterior"]["x"].to_numpy()[..., None] * X["x"][:5].to_numpy()
        + tree["posterior"]["1|g"].to_numpy()[..., X["g"][:5].str[1:].astype(int)]
    )
    np.testing.assert_allclose(
        tree["log_likelihood"]["y"].to_numpy(), poisson.logpmf(COUNT[:5], EXPOSURE[:5] * rate), rtol=1e-9
    )
    assert "sigma" not in tree["posterior"]
    assert (tree["posterior_predictive"]["y"].to_numpy() >= 0).all()
