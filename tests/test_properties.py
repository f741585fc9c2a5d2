"""Properties that hold for any grouped data, searched by Hypothesis: structures, types, names, gaps, order, copies.

Examples are few and always the same here; `HBSK_EXAMPLES=500 pytest tests/test_properties.py` searches on.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, example, given, note, settings
from hypothesis import strategies as st

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.exceptions import ConvergenceWarning, NoGroupsWarning, RedundantColumnsWarning, ShrinkageWarning
from hbsk.serialization._json import from_json, to_json

N_EXAMPLES = int(os.environ.get("HBSK_EXAMPLES", "12"))
search = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize="HBSK_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

NAMES = [
    "x", "x1", "a b", "1", "0", "2nd", "sigma", "Intercept", "mu", "groups_", "é", "x|g", "x:y", "`q`", "np.log(x)",
    "x~y", "__class__", "lambda", "common", "group_specific", "1|g", "corr|g", "'", '"', "\\", "a\nb", "", " ",
    "x[0]", "C(x)",
]  # fmt: skip
LABELS = {
    "text": lambda j: f"g{j}",
    "numbers as text": str,
    "integers": lambda j: 3 * j - 4,
    "floats": float,
    "mixed": lambda j: j if j % 2 else f"g{j}",
    "tuples": lambda j: (j // 2, f"t{j}"),
}


@dataclass
class Data:
    """Grouped rows; `g` is the last column of `frame`."""

    frame: pd.DataFrame
    y: np.ndarray
    codes: np.ndarray

    @property
    def features(self):
        return list(self.frame.columns[:-1])

    def new_rows(self, unseen):
        """The first row of every group, and two rows of a group that fit has not seen."""
        first = self.frame.iloc[np.unique(self.codes, return_index=True)[1]]
        fresh = self.frame.iloc[:2].copy()
        column = pd.Series([unseen, unseen], index=fresh.index, dtype=object)
        fresh[self.frame.columns[-1]] = column
        both = [frame.astype({self.frame.columns[-1]: object}) for frame in (first, fresh)]
        return pd.concat(both, ignore_index=True)


PLAIN_NAMES = st.just(["x", "w", "v"])


@st.composite
def grouped(draw, *, max_groups=6, names=PLAIN_NAMES, labels=("text",), wild=False):
    """Draw sizes of groups, then numbers by a seeded generator: a shrunk example stays a proper data set."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=max_groups))
    assume(sum(sizes) >= 3)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(codes)
    chosen = draw(names)
    frame = {}
    for name in chosen[: draw(st.integers(0, len(chosen)))]:
        frame[name] = draw(column(rng, codes, frame, wild=wild))
    effect = rng.normal(size=len(sizes))
    y = draw(st.sampled_from([0.0, 0.3, 2.0])) * effect[codes] + rng.normal(size=n)
    y = y + sum(
        np.asarray(value, dtype=float) / (1 + np.abs(np.asarray(value, dtype=float)).max()) for value in frame.values()
    )
    if wild:
        y = draw(st.sampled_from([1.0, 1e-8, 1e8])) * y + draw(st.sampled_from([0.0, 1e6]))
        if draw(st.integers(0, 9)) == 0:
            y = np.full(n, y[0])
        if draw(st.integers(0, 4)) == 0:
            y = np.round(y)
    label = LABELS[draw(st.sampled_from(labels))]
    column_of_labels = np.empty(n, dtype=object)
    column_of_labels[:] = [label(j) for j in codes]
    frame["g"] = pd.Series(column_of_labels, dtype=object).infer_objects()
    return Data(pd.DataFrame(frame), np.asarray(y), codes)


@st.composite
def column(draw, rng, codes, others, *, wild):
    """Draw a numeric column: of the rows or of the groups, of any scale, at times constant or a copy."""
    n = len(codes)
    kind = draw(st.sampled_from(["rows", "groups", "integers", *(["constant", "copy", "huge", "tiny", "bool"] * wild)]))
    values = rng.normal(size=n)
    match kind:
        case "groups":
            return rng.normal(size=codes.max() + 1)[codes]
        case "integers":
            return rng.integers(-5, 6, n)
        case "constant":
            return np.full(n, 2.5)
        case "copy" if others:
            return np.asarray(next(iter(others.values()))) * -2.0
        case "huge":
            return 1e9 + 1e8 * values
        case "tiny":
            return 1e-9 * values
        case "bool":
            return values > 0
    return values


FOUR_ROWS = Data(
    pd.DataFrame({"x": [1.0, 2.0, 3.0, 5.0], "g": list("aabb")}), np.array([1.0, 2.0, 2.0, 5.0]), np.array([0, 0, 1, 1])
)


@pytest.fixture(scope="module", autouse=True)
def _load_bambi():
    """Load it before Hypothesis starts: PyTensor changes the recursion limit on import, and Hypothesis minds."""
    import bambi  # noqa: F401


def fit(estimator, *args, **options):
    """Fit, with no other warning than ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ours in (ConvergenceWarning, NoGroupsWarning, RedundantColumnsWarning, ShrinkageWarning):
            warnings.simplefilter("ignore", ours)
        return estimator.fit(*args, **options)


def quietly(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **options)


def fits_perfectly(data, kind, n_rows):
    """Whether coefficients can follow every row: sigma is then at its floor, and answers magnify rounding."""
    n_columns = 1 + len(data.features)
    groups = data.codes.max() + 1 if kind == "no pooling" else 1
    return n_rows < n_columns * groups + 2


def close(ours, theirs, y, tolerance):
    """Compare in units of the spread of y."""
    scale = np.std(y) or abs(y[0]) or 1.0
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isfinite(ours), finite)
    np.testing.assert_allclose(ours[finite] / scale, theirs[finite] / scale, atol=tolerance, rtol=tolerance)


ESTIMATORS = {
    "intercepts": lambda: PartialPoolingRegressor(group_features="g"),
    "slopes": lambda: PartialPoolingRegressor(group_features="g", slope_features="all"),
    "independent": lambda: PartialPoolingRegressor(group_features="g", slope_features="all", correlated=False),
    "no pooling": lambda: PartialPoolingRegressor(group_features="g", slope_features="all", pooling="none"),
    "complete": lambda: PartialPoolingRegressor(group_features="g", pooling="complete"),
    "james-stein": lambda: JamesSteinEstimator(group_features="g"),
    "sure": lambda: JamesSteinEstimator(group_features="g", method="sure"),
    "empirical Bayes": lambda: JamesSteinEstimator(group_features="g", method="empirical-bayes", target="regression"),
}
BAYESIAN = [name for name, make in ESTIMATORS.items() if isinstance(make(), PartialPoolingRegressor)]


@search
@given(
    data=grouped(names=st.lists(st.sampled_from(NAMES), max_size=3, unique=True), labels=tuple(LABELS), wild=True),
    kind=st.sampled_from(list(ESTIMATORS)),
)
def test_any_data_give_finite_answers_or_an_error_that_says_why(data, kind):
    note(f"{kind}\n{data.frame.to_dict('list')}\n{data.y.tolist()}")
    estimator = ESTIMATORS[kind]()
    try:
        fit(estimator, data.frame, data.y)
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 25  # noqa: PT017 - an error is one of two good ends
        assert type(error).__module__ == "builtins"  # noqa: PT017 - no LinAlgError, which is a ValueError too
        return
    rows = data.new_rows(("never", "seen"))
    mean, sd = quietly(estimator.predict, rows, return_std=True)
    assert np.isfinite(mean).all()
    # An sd may be infinite where nothing identifies it, as the docstrings say; it is never NaN or negative.
    assert (sd >= 0).all()
    for wanted in ("mean", "prediction"):
        low, high = quietly(estimator.predict_interval, rows, kind=wanted).T
        assert (low <= high).all()
    if isinstance(estimator, PartialPoolingRegressor):
        assert np.isfinite(quietly(estimator.sample_y, rows, n_samples=2, random_state=0)).all()
        for shrinkage in estimator.shrinkage_.values():  # complete pooling has none
            assert ((shrinkage >= 0) & (shrinkage <= 1)).all(axis=None)
        table = quietly(estimator.group_effects)
        assert table["mean"].notna().all()
        summary = quietly(estimator.summary)
        assert np.isfinite(summary["mean"].astype(float)[~summary.index.str.contains(r"\|g|corr")]).all()
    again = from_json(to_json(estimator))
    assert again.predict(rows).tobytes() == mean.tobytes()


@search
@given(data=grouped(), kind=st.sampled_from(list(ESTIMATORS)), seed=st.integers(0, 99))
def test_order_of_rows_and_names_of_groups_do_not_matter(data, kind, seed):
    assume(not fits_perfectly(data, kind, len(data.y)))
    order = np.random.default_rng(seed).permutation(len(data.y))
    renamed = data.frame.assign(g=[f"{'zyxwvu'[j]}" for j in data.codes])
    first = fit(ESTIMATORS[kind](), data.frame, data.y)
    second = fit(ESTIMATORS[kind](), renamed.iloc[order], data.y[order])
    for before, after in zip(
        first.predict(data.frame, return_std=True), second.predict(renamed, return_std=True), strict=True
    ):
        close(after, before, data.y, 1e-6)


@search
@given(
    data=grouped(), kind=st.sampled_from(list(ESTIMATORS)), copies=st.lists(st.integers(0, 3), min_size=48, max_size=48)
)
def test_a_weight_is_a_number_of_copies(data, kind, copies):
    weight = np.array(copies[: len(data.y)])
    # A group without rows is no group; which labels are known is not the question here.
    weight[np.unique(data.codes, return_index=True)[1]] += 1
    assume(not fits_perfectly(data, kind, np.count_nonzero(weight)))
    repeated = np.repeat(np.arange(len(data.y)), weight)
    weighted = fit(ESTIMATORS[kind](), data.frame, data.y, sample_weight=weight)
    copied = fit(ESTIMATORS[kind](), data.frame.iloc[repeated], data.y[repeated])
    for ours, theirs in zip(
        weighted.predict(data.frame, return_std=True), copied.predict(data.frame, return_std=True), strict=True
    ):
        close(ours, theirs, data.y, 1e-6)


@search
@given(
    data=grouped(),
    kind=st.sampled_from(BAYESIAN),
    names=st.lists(st.sampled_from(NAMES), min_size=3, max_size=3, unique=True),
)
@example(data=FOUR_ROWS, kind="slopes", names=["sigma", "Intercept", "1"])
def test_names_of_columns_do_not_matter(data, kind, names):
    plain = fit(ESTIMATORS[kind](), data.frame, data.y)
    odd = data.frame.rename(columns=dict(zip(data.features, names, strict=False)))
    renamed = fit(ESTIMATORS[kind](), odd, data.y)
    close(renamed.predict(odd), plain.predict(data.frame), data.y, 1e-9)
    assert len(renamed.coef_names_) == len(plain.coef_names_)


@search
@given(
    data=grouped(),
    kind=st.sampled_from(list(ESTIMATORS)),
    container=st.sampled_from(["numpy", "object", "polars", "float32", "Float64"]),
)
def test_containers_and_types_do_not_matter(data, kind, container):
    numbers = data.frame.assign(g=data.codes)
    # Values that float32 holds exactly.
    numbers[data.features] = np.round(numbers[data.features].astype(float) * 8) / 8
    plain = fit(ESTIMATORS[kind](), numbers, data.y)
    estimator = ESTIMATORS[kind]()
    match container:
        case "numpy":
            other = numbers.to_numpy(dtype=float)
            estimator.set_params(group_features=-1)
        case "object":
            other = numbers.to_numpy(dtype=object)
            estimator.set_params(group_features=-1)
        case "polars":
            other = pl.DataFrame({name: numbers[name].to_numpy() for name in numbers})
        case _:
            other = numbers.astype(dict.fromkeys(data.features, container))
    try:
        fit(estimator, other, data.y)
    except ValueError as error:
        # A varying slope of a column of objects is not asked for by name in an array.
        assert "slope" in str(error)  # noqa: PT017
        return
    close(estimator.predict(other), plain.predict(numbers), data.y, 1e-7)


@search
@given(
    data=grouped(),
    kind=st.sampled_from(list(ESTIMATORS)),
    gap=st.sampled_from([None, np.nan, pd.NA]),
    at=st.integers(0, 10**6),
)
def test_gaps_are_errors_in_fit_and_new_groups_in_predict(data, kind, gap, at):
    row = at % len(data.y)
    holed = data.frame.copy()
    holed["g"] = holed["g"].astype(object)
    holed.loc[row, "g"] = gap
    with pytest.raises(ValueError, match="g"):
        fit(ESTIMATORS[kind](), holed, data.y)
    with pytest.raises(ValueError, match="NaN"):
        fit(ESTIMATORS[kind](), data.frame, np.where(np.arange(len(data.y)) == row, np.nan, data.y))
    fitted = fit(ESTIMATORS[kind](), data.frame, data.y)
    unseen = data.frame.copy()
    unseen["g"] = unseen["g"].astype(object)
    unseen.loc[row, "g"] = "never seen"
    close(fitted.predict(holed), fitted.predict(unseen), data.y, 1e-12)
    if data.features:
        holed = data.frame.astype(dict.fromkeys(data.features, float))
        holed.loc[row, data.features[0]] = np.nan
        with pytest.raises(ValueError, match=r"NaN|missing"):
            fit(ESTIMATORS[kind](), holed, data.y)
        with pytest.raises(ValueError, match=r"NaN|missing"):
            fitted.predict(holed)


@search
@given(data=grouped(), kind=st.sampled_from(list(ESTIMATORS)))
def test_rows_are_answered_one_by_one_as_all_at_once(data, kind):
    fitted = fit(ESTIMATORS[kind](), data.frame, data.y)
    rows = data.new_rows("never seen")
    together = [*fitted.predict(rows, return_std=True), *fitted.predict_interval(rows, coverage=0.6).T]
    single = [
        [*fitted.predict(rows.iloc[[i]], return_std=True), *fitted.predict_interval(rows.iloc[[i]], coverage=0.6).T]
        for i in range(len(rows))
    ]
    for part, values in enumerate(together):
        close(np.array([answer[part][0] for answer in single]), values, data.y, 1e-8)


@search
@given(
    data=grouped(),
    kind=st.sampled_from(list(ESTIMATORS)),
    shift=st.sampled_from([-1e5, 3.0, 1e7]),
    scale=st.sampled_from([1e-6, 7.0, 1e7]),
)
def test_units_of_y_do_not_matter(data, kind, shift, scale):
    assume(not fits_perfectly(data, kind, len(data.y)))
    shift = shift * scale
    first = fit(ESTIMATORS[kind](), data.frame, data.y)
    second = fit(ESTIMATORS[kind](), data.frame, shift + scale * data.y)
    mean, sd = first.predict(data.frame, return_std=True)
    moved, moved_sd = second.predict(data.frame, return_std=True)
    # y itself is rounded by the shift: 1e7 + y keeps nine digits of y.
    close((moved - shift) / scale, mean, data.y, 1e-5)
    close(moved_sd / scale, sd, data.y, 1e-5)
