"""Default priors are Bambi's, to the last digits, on columns less the points that they refer to.

Bambi's numbers come from models built, not sampled: coefficients and slopes' sds from the user's own formula; the
intercept's and `1|group`'s from a frame of the columns of the design, the varying ones less `centre|group` and the
common-only ones less their mean. Without an intercept the common-only columns stay as they are.
"""

import re

import bambi as bmb
import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor

N_ROWS = 48


def make_frame():
    rng = np.random.default_rng(20)
    frame = pd.DataFrame(
        {
            "x": rng.normal(30.0, 2.0, N_ROWS),
            "z": rng.exponential(1.0, N_ROWS) + 0.2,
            "year": rng.integers(1990, 2020, N_ROWS),
            "flag": rng.integers(0, 2, N_ROWS).astype(float),
            "c": rng.permutation(np.repeat(["low", "mid", "top"], N_ROWS // 3)),
            "d": rng.permutation(np.repeat(["u", "v"], N_ROWS // 2)),
            "g": rng.permutation(np.repeat([f"g{j}" for j in range(8)], N_ROWS // 8)),
            "h": rng.permutation(np.repeat([f"h{j}" for j in range(6)], N_ROWS // 6)),
        }
    )
    frame = frame.astype(dict.fromkeys("cdgh", "category"))
    frame["y"] = 7.0 + 0.3 * frame["x"] + rng.normal(0.0, 2.0, N_ROWS)
    return frame


FRAME = make_frame()

FORMULAS = [
    # nothing, numbers, categories
    "y ~ 1",
    "y ~ x",
    "y ~ x + z + year",
    "y ~ c",
    "y ~ c + d + x",
    "y ~ (1 | g)",
    "y ~ x + (1 | g)",
    "y ~ x + z + flag + (1 | g)",
    "y ~ c + (1 | g)",
    "y ~ c + d + year + (1 | g)",
    # interactions
    "y ~ x:z + (1 | g)",
    "y ~ x*z + (1 | g)",
    "y ~ c*d + (1 | g)",
    "y ~ c*x + (1 | g)",
    "y ~ c:x + d + (1 | g)",
    "y ~ x*z*flag + (1 | g)",
    "y ~ (x + z + c)**2 + (1 | g)",
    # transforms
    "y ~ poly(x, 3) + (1 | g)",
    "y ~ poly(z, 2, raw=True) + (1 | g)",
    "y ~ bs(x, df=5) + (1 | g)",
    "y ~ bs(z, df=4, degree=2) + c + (1 | g)",
    "y ~ np.log(z) + I(x**2) + (1 | g)",
    "y ~ center(x) + scale(z) + (1 | g)",
    "y ~ C(flag) + (1 | g)",
    # slopes
    "y ~ x + (x | g)",
    "y ~ x + z + (x + z | g)",
    "y ~ z + (x | g)",
    "y ~ year + x + (year | g)",
    "y ~ c + (c | g)",
    "y ~ c*x + (x | g)",
    "y ~ poly(x, 2) + (poly(x, 2) | g)",
    "y ~ x*z + (x*z | g)",
    "y ~ x + (0 + x | g)",
    "y ~ x + z + (0 + x | g) + (1 | g)",
    "y ~ c + (0 + c | g)",
    "y ~ x + (x || g)",
    "y ~ x + z + d + (x + z || g)",
    # several terms over one factor
    "y ~ x + z + (1 | g) + (0 + x | g) + (0 + z | g)",
    "y ~ x + z + (x | g) + (0 + z | g)",
    # no intercept
    "y ~ 0 + c + (1 | g)",
    "y ~ 0 + c",
    "y ~ 0 + x + (1 | g)",
    "y ~ 0 + c + x + (1 | g)",
    "y ~ 0 + x + z + (x | g)",
]
TWO_FACTORS = [
    "y ~ (1 | g) + (1 | h)",
    "y ~ x + c + (1 | g) + (1 | h)",
    "y ~ x + z + (x | g) + (1 | h)",
    "y ~ 0 + c + (1 | g) + (1 | h)",
]
POINTS = [
    ("y ~ x + z + (x + z | g)", {"centre|g": {"x": 25.0}}),
    ("y ~ x + z + year + (x + year | g)", {"centre|g": {"x": 31.0, "year": 2000.0}}),
    ("y ~ poly(x, 2) + z + (z | g)", {"centre|g": {"z": -1.0}}),
    ("y ~ x + year + (x | g)", {"corr|g": 2.0}),  # in the notation of Bambi: the point is zero
]
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def in_bambis_words(formula):
    """Write `(x + z || g)` as the separate blocks that it stands for."""
    match = re.search(r"\(([^()|]+)\|\|([^)]+)\)", formula)
    if not match:
        return formula
    blocks = ["1", *(f"0 + {name.strip()}" for name in match[1].split("+"))]
    return formula.replace(match[0], " + ".join(f"({block} | {match[2].strip()})" for block in blocks))


def moved_columns(model, centre):
    """Return the common columns of a Bambi model less the points of their priors."""
    mu = model.parameters["mu"]
    varying = {name.split("|")[0] for name in mu.group_specific_terms}
    columns = []
    for name, term in mu.common_terms.items():
        data = np.asarray(term.data, dtype=float).reshape(len(term.data), -1)
        for j, column in enumerate(data.T):
            label = name if data.shape[1] == 1 else f"{name}[{term.levels[j] if term.levels else j}]"
            if name in varying:
                columns.append(column - centre.get(label, 0.0))
            else:
                columns.append(column - column.mean() if mu.intercept_term is not None else column)
    return columns


def bambis_intercepts(model, y, centre, factors=("g",)):
    """Return the sd of the common intercept's prior and the scale of each `1|factor`, at the points of the priors."""
    columns = moved_columns(model, centre)
    frame = pd.DataFrame({"y": y} | {f"x{k}": column for k, column in enumerate(columns)})
    first = "1" if model.parameters["mu"].intercept_term is not None else "0"
    terms = [first, *frame.columns[1:]]
    for factor in factors:
        frame[factor] = pd.Categorical(np.resize(["a", "b"], len(frame)))
        terms.append(f"(1 | {factor})")
    return scales(bmb.Model(f"y ~ {' + '.join(terms)}", frame))


def scales(model):
    """Return the sd of the prior of the intercept, and the scales of the sds of group intercepts."""
    mu = model.parameters["mu"]
    found = {
        name: float(term.prior.args["sigma"].args["sigma"])
        for name, term in mu.group_specific_terms.items()
        if name.startswith("1|")
    }
    if mu.intercept_term is not None:
        found["Intercept"] = float(mu.intercept_term.prior.args["sigma"])
    return found


def assert_bambis(priors, formula, frame):
    model = bmb.Model(in_bambis_words(formula), frame)
    mu = model.parameters["mu"]
    terms = [*mu.common_terms, *mu.group_specific_terms] + (["Intercept"] if mu.intercept_term is not None else [])
    assert {name for name in priors if not name.startswith(("corr|", "centre|"))} == {*terms, "sigma"}
    for name, term in mu.common_terms.items():
        expected = term.prior.args
        np.testing.assert_allclose(priors[name][1]["sigma"], np.squeeze(expected["sigma"]), **CLOSE, err_msg=name)
        np.testing.assert_array_equal(priors[name][1]["mu"], np.squeeze(expected["mu"]))
    for name, term in mu.group_specific_terms.items():
        assert priors[name][1]["sigma"][0] == "HalfNormal"
        if not name.startswith("1|"):
            ours, expected = priors[name][1]["sigma"][1], term.prior.args["sigma"].args
            np.testing.assert_allclose(ours["sigma"], np.squeeze(expected["sigma"]), **CLOSE, err_msg=name)
    family, sigma = priors["sigma"]
    assert (family, sigma["nu"]) == ("HalfStudentT", 4.0)
    np.testing.assert_allclose(sigma["sigma"], model.parameters["sigma"].prior.args["sigma"], **CLOSE)

    for name, expected in bambis_intercepts(model, frame["y"].to_numpy(), priors.get("centre|g", {})).items():
        if name in priors:
            ours = priors[name][1]["sigma"]
            np.testing.assert_allclose(ours if name == "Intercept" else ours[1]["sigma"], expected, **CLOSE)
    if "Intercept" in priors:
        np.testing.assert_allclose(priors["Intercept"][1]["mu"], frame["y"].mean(), **CLOSE)


@pytest.mark.parametrize("formula", FORMULAS)
def test_default_priors_are_bambis(formula):
    pooling = "partial" if "|" in formula else "complete"
    model = PartialPoolingRegressor(formula=formula, pooling=pooling).fit(FRAME, FRAME["y"])
    assert_bambis(model.priors_, formula, FRAME)


@pytest.mark.parametrize(
    ("formula", "offset"),
    [("y ~ offset(z) + (1 | g)", FRAME["z"]), ("y ~ x + offset(np.log(z)) + (x | g)", np.log(FRAME["z"]))],
)
def test_default_priors_beside_an_offset_are_bambis_for_what_it_leaves_of_y(formula, offset):
    model = PartialPoolingRegressor(formula=formula).fit(FRAME, FRAME["y"])
    assert_bambis(model.priors_, formula, FRAME.assign(y=FRAME["y"] - offset))


@pytest.mark.parametrize(("formula", "priors"), POINTS)
def test_priors_at_a_point_that_the_user_gives_are_bambis(formula, priors):
    model = PartialPoolingRegressor(formula=formula, priors=priors).fit(FRAME, FRAME["y"])
    assert_bambis(model.priors_, formula, FRAME)


@pytest.mark.parametrize("formula", ["y ~ x + c + (x | g)", "y ~ 0 + c + z + (1 | g)", "y ~ c*x + (1 | g)"])
def test_default_priors_of_copies_are_those_of_the_rows_repeated(formula):
    copies = np.arange(N_ROWS) % 4
    repeated = FRAME.loc[np.repeat(FRAME.index, copies)].reset_index(drop=True)
    model = PartialPoolingRegressor(formula=formula).fit(FRAME, FRAME["y"], sample_weight=copies)
    assert_bambis(model.priors_, formula, repeated)


@pytest.mark.parametrize("formula", TWO_FACTORS)
def test_default_priors_of_two_factors_are_bambis(formula):
    ours = scales(PartialPoolingRegressor(formula=formula).to_bambi(FRAME, FRAME["y"]))
    centre = {"x": FRAME["x"].mean()}
    expected = bambis_intercepts(bmb.Model(formula, FRAME), FRAME["y"], centre, factors=("g", "h"))
    assert ours == pytest.approx(expected, rel=1e-12)


def test_without_an_intercept_the_columns_count_as_they_are():
    """Here Bambi's own numbers, on the user's frame, are the reference."""
    formula = "y ~ 0 + c + (1 | g)"
    model = PartialPoolingRegressor(formula=formula).fit(FRAME, FRAME["y"])
    expected = scales(bmb.Model(formula, FRAME))["1|g"]
    np.testing.assert_allclose(model.priors_["1|g"][1]["sigma"][1]["sigma"], expected, **CLOSE)
    assert expected > 1.5 * 2.5 * FRAME["y"].std(ddof=0)  # the means of the columns do move it
