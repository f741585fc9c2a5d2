"""Six binary and count models against long chains of NUTS with the same priors (`nuts_reference.py`)."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.test_reference.generalized_models import MODELS, first_rows

REFERENCES = json.loads(
    (Path(__file__).parent / "test_reference" / "generalized_nuts.json").read_text(encoding="utf-8")
)
COLUMNS = ("mean", "sd", "lower", "upper", "mcse")


def table_of(stored):
    """Return labels, and mean, sd, lower and upper end of 90 % intervals and the Monte Carlo errors of the four."""
    values = {name: np.array([row[name] for row in stored.values()]) for name in COLUMNS}
    ends = np.column_stack([values["lower"], values["upper"]])
    return list(stored), values["mean"], values["sd"], ends, values["mcse"]


@pytest.mark.parametrize("reference", REFERENCES["models"], ids=[model["data"] for model in REFERENCES["models"]])
def test_answers_are_those_of_long_chains(reference):
    assert reference["least_ess"] >= 10_000
    assert reference["largest_r_hat"] <= 1.01
    assert reference["divergences"] == 0
    estimator, X, y, more = MODELS[reference["data"]]()
    estimator.fit(X, y, **more)
    names, mean, sd, ends, error = table_of(reference["parameters"])
    ours = estimator.summary(coverage=0.9).loc[names]
    assert (np.abs(ours["mean"] - mean) < 0.05 * sd).all()
    np.testing.assert_allclose(ours["sd"], sd, rtol=0.04)
    assert (np.abs(ours[["eti90_lb", "eti90_ub"]] - ends) < 0.05 * sd[:, None] + 2 * error[:, 2:]).all(axis=None)

    labels, mean, sd, ends, error = table_of(reference["groups"])
    rows = first_rows(X, next(iter(estimator.groups_)))
    assert [str(label) for label in rows[next(iter(estimator.groups_))]] == labels
    predicted = estimator.predict_proba(rows)[:, 1] if hasattr(estimator, "predict_proba") else estimator.predict(rows)
    assert (np.abs(predicted - mean) < 0.05 * sd).all()
    interval = estimator.predict_interval(rows, coverage=0.9)
    assert (np.abs(interval - ends) < 0.05 * sd[:, None] + 2 * error[:, 2:]).all()
