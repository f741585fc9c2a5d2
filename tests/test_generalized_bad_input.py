"""Binary and count models: what is refused, in words that say what to do."""

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor

RNG = np.random.default_rng(2)
X = pd.DataFrame({"x": RNG.normal(size=40), "people": RNG.integers(2_000, 90_000, 40), "g": np.arange(40) % 5})
COUNT = RNG.poisson(1e-3 * X["people"])


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("poisson", r"log of the rate.*offset\(log\(x\)\), or pass exposure="),
        ("binomial", r"log odds.*offset\(log\(x\)\)\."),
    ],
)
def test_offsets_that_are_no_logarithms(family, words):
    model = PartialPoolingCountRegressor("x + offset(people) + (1 | g)", family=family)
    y, more = (COUNT, {}) if family == "poisson" else (COUNT, {"trials": X["people"]})
    with pytest.raises(ValueError, match=rf"adds {X['people'].max()}\.0 to the {words}"):
        model.fit(X, y, **more)


def test_offsets_of_logarithms_are_exposure():
    by_formula = PartialPoolingCountRegressor("x + offset(log(people)) + (1 | g)").fit(X, COUNT)
    by_keyword = PartialPoolingCountRegressor("x + (1 | g)").fit(X, COUNT, exposure=X["people"])
    np.testing.assert_allclose(
        by_formula.predict(X.assign(people=1)), by_keyword.predict(X), rtol=0.01, err_msg="priors differ a little"
    )


def test_labels_that_do_not_sort():
    y = np.array([1 if count > 40 else "few" for count in COUNT], dtype=object)
    with pytest.raises(TypeError, match=r"y mixes labels .* \(int, str\): make them all text"):
        PartialPoolingClassifier(group_features="g").fit(X, y)


def test_draws_beyond_what_is_counted_are_as_large_as_predicted():
    """They were cut at e^40."""
    counts = PartialPoolingCountRegressor(group_features="g").fit(X[["x", "g"]], COUNT, exposure=X["people"])
    rows, exposure = X[["x", "g"]][:5], 1e30
    draws = counts.sample_y(rows, n_samples=400, exposure=exposure, random_state=0)
    np.testing.assert_allclose(draws.mean(axis=1), exposure * counts.predict(rows), rtol=0.05)
    shares = PartialPoolingCountRegressor(group_features="g", family="binomial")
    shares.fit(X[["x", "g"]], COUNT, trials=X["people"])
    for ask in (shares.sample_y, lambda *args, **how: shares.predict_interval(*args, kind="prediction", **how)):
        with pytest.raises(ValueError, match=r"trials must be 9.0072e\+15 at most"):
            ask(rows, trials=1e30)
