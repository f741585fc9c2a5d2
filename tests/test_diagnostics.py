"""Thresholds and their warning, and chains that stand still."""

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning

from hbsk import PartialPoolingRegressor
from hbsk._posterior.diagnostics import _sampled_diagnostics, warn_if_unreliable
from hbsk.exceptions import ConvergenceWarning


def test_what_stands_still_has_no_r_hat_and_no_warning(rng):
    values = np.column_stack([rng.normal(size=400), np.zeros(400)])
    table = _sampled_diagnostics(["sigma", "Intercept"], values, 4, 1, np.array([True]))
    assert table.loc["sigma", "r_hat"] < 1.1
    assert np.isnan(table.loc["Intercept", "r_hat"])
    assert table.loc["sigma", "ess_bulk"] > 100


def test_errors_are_those_of_the_ends_that_the_summary_shows(rng):
    X = pd.DataFrame({"g": np.repeat(np.arange(6), 4)})
    model = PartialPoolingRegressor(group_features="g").fit(X, X["g"] + rng.normal(size=24))
    ends = list(model.summary().columns[-2:])
    assert ends == ["eti95_lb", "eti95_ub"]
    assert [name for name in model.diagnostics_ if "eti" in name] == [f"mcse_{end}" for end in ends]


def test_errors_of_sampled_ends_are_those_of_their_quantiles(rng):
    values = rng.normal(size=(400, 1))
    found = _sampled_diagnostics(["sigma"], values, 4, 0, np.ones(0, dtype=bool)).loc["sigma"]
    for end, level in (("lb", 0.025), ("ub", 0.975)):
        wanted = array_stats.mcse(values.reshape(4, 100), method="quantile", prob=level, chain_axis=0, draw_axis=1)
        assert found[f"mcse_eti95_{end}"] == pytest.approx(wanted)


def table(**columns):
    good = {"r_hat": 1.002, "ess_bulk": 900.0, "ess_tail": 700.0, "divergences": 0.0, "pareto_k": np.nan}
    # posterior sd 3, and a tenth of it is told
    good |= {"mcse_mean": 0.1, "mcse_sd": 0.28, "mcse_eti95_lb": 0.29, "mcse_eti95_ub": 0.29}
    good["r_hat"] = np.nan if np.isnan(columns.get("r_hat", 1.0)) else 1.002  # nodes have none
    return pd.DataFrame({name: [columns.get(name, value), value] for name, value in good.items()}, index=["tau", "b"])


@pytest.mark.parametrize(
    ("engine", "columns", "message"),
    [
        ("nuts", {"r_hat": 1.02}, r"r_hat above 1.01 for tau\. Increase tune= and draws="),
        ("nuts", {"ess_bulk": 390.0}, r"effective sample size below 400 for tau\."),
        ("nuts", {"ess_tail": 390.0}, r"effective sample size below 400 for tau\."),
        ("nuts", {"divergences": 3.0}, "3 divergent transitions"),
        (
            "marginal",
            {"r_hat": np.nan, "ess_bulk": 90.0, "ess_tail": 40.0, "mcse_mean": 0.32},
            r"effective sample size below 100 for tau\. Centred columns",
        ),
        (
            "marginal",
            {"r_hat": np.nan, "mcse_eti95_ub": 0.31},
            r"sd or ends of the interval known to no more than 0.1 posterior sds for tau\. Centred columns",
        ),
        ("marginal", {"r_hat": np.nan, "mcse_sd": 0.31}, r"known to no more than 0.1 posterior sds for tau\."),
        ("marginal", {"ess_tail": 300.0}, r"effective sample size below 400 for tau\."),  # it ran chains of its own
        ("marginal", {"pareto_k": 0.8}, r"Pareto k = 0.80, above 0.7"),
        (
            "nuts",
            {"r_hat": 1.3, "ess_bulk": 12.0},
            r"r_hat above 1.01 for tau; effective sample size below 400 for tau",
        ),
    ],
)
def test_the_warning_names_parameters_and_the_threshold_that_was_missed(engine, columns, message):
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        warn_if_unreliable(table(**columns), engine=engine)
    assert len(caught) == 1
    assert issubclass(ConvergenceWarning, SklearnConvergenceWarning)


@pytest.mark.parametrize(
    ("engine", "columns"),
    [("nuts", {}), ("marginal", {"r_hat": np.nan, "ess_bulk": 300.0, "ess_tail": 90.0, "mcse_mean": 0.17})],
)
def test_fits_within_the_thresholds_do_not_warn(engine, columns):
    warn_if_unreliable(table(**columns), engine=engine)  # warnings are errors here
