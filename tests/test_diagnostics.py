"""Diagnostics of chains that stand still."""

import numpy as np

from hbsk.diagnostics import _sampled_diagnostics


def test_what_stands_still_has_no_r_hat_and_no_warning(rng):
    values = np.column_stack([rng.normal(size=400), np.zeros(400)])
    table = _sampled_diagnostics(["sigma", "Intercept"], values, 4, 1, np.array([True]))
    assert table.loc["sigma", "r_hat"] < 1.1
    assert np.isnan(table.loc["Intercept", "r_hat"])
    assert table.loc["sigma", "ess_bulk"] > 100
