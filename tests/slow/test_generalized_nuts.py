"""NUTS of the same binary and count models through Bambi: the same answers as by integration, and several factors."""

import numpy as np
import pytest

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from tests.test_counts import COUNT, EXPOSURE, NEW, SUCCESS, TRIALS, X, counts

pytestmark = pytest.mark.slow
STEPS = {"sampler_options": {"target_accept": 0.97}}  # at PyMC's 0.8 chains diverge where an sd is near zero
SAMPLING = {"inference": "nuts", "draws": 2000, "tune": 1000, "chains": 4, "random_state": 0, **STEPS}


def together(one, other):
    table = one.summary()[["mean", "sd"]].join(other.summary()[["mean", "sd"]].add_suffix("_nuts"))
    assert (np.abs(table["mean"] - table["mean_nuts"]) < 0.15 * table["sd"]).all()
    np.testing.assert_allclose(table["sd"], table["sd_nuts"], rtol=0.12)
    ours, theirs = one.group_effects_, other.group_effects_
    assert (np.abs(ours["mean"] - theirs["mean"]) < 0.15 * ours["sd"]).all()
    np.testing.assert_allclose(ours["no_pooling"], theirs["no_pooling"], atol=0.1)
    np.testing.assert_allclose(ours["shrinkage"], theirs["shrinkage"], atol=0.06)


@pytest.mark.parametrize(
    ("family", "y", "more"),
    [
        ("poisson", COUNT, {"exposure": EXPOSURE}),
        ("binomial", SUCCESS, {"trials": TRIALS}),
    ],
)
def test_counts(family, y, more):
    ours, theirs = (counts(family=family, **how).fit(X, y, **more) for how in ({}, SAMPLING))
    together(ours, theirs)
    np.testing.assert_allclose(ours.predict(NEW[:2]), theirs.predict(NEW[:2]), rtol=0.03)
    np.testing.assert_allclose(ours.predict_interval(NEW), theirs.predict_interval(NEW), rtol=0.15)


def test_classes_with_slopes():
    y = np.where(SUCCESS > 0, "some", "none")
    ours, theirs = (
        PartialPoolingClassifier(group_features="g", slope_features="x", **how).fit(X, y) for how in ({}, SAMPLING)
    )
    together(ours, theirs)
    np.testing.assert_allclose(ours.predict_proba(NEW), theirs.predict_proba(NEW), atol=0.02)


def test_a_group_for_every_row_takes_up_overdispersion():
    clumped = np.random.default_rng(4).negative_binomial(2.0, 0.25, len(X))
    rows = X.assign(row=np.arange(len(X)))
    fitted = PartialPoolingCountRegressor(
        "x + (1 | g) + (1 | row)", draws=4000, tune=1000, chains=2, random_state=0, **STEPS
    ).fit(rows, clumped)
    assert fitted.inference_.startswith("nuts (it has several grouping factors")
    # the sd of the logarithm of a gamma variable of shape 2 is 0.80
    assert 0.4 < fitted.group_sd_["row"].iloc[0] < 1.1
    assert fitted.group_sd_["g"].iloc[0] < 0.4
    assert fitted.group_effects_["shrinkage"].between(0, 1).all()
    assert np.isfinite(fitted.score(rows, clumped))
