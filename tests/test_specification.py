"""Designs and their names: against formulae live, on new rows, in another process, with weights, with odd names."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hbsk._data.factor import Factor
from hbsk._data.table import Table
from hbsk._model.formula import bind_columns, write_formula
from hbsk._model.parser import parse_formula
from hbsk._model.specification import specify


@pytest.fixture
def frame(rng):
    n = 60
    return pd.DataFrame(
        {
            "x": rng.normal(3.0, 2.0, n),
            "z": rng.uniform(0.5, 4.0, n),
            "k": rng.integers(-3, 4, n),
            "small": rng.integers(-100, 100, n).astype(np.int8),
            "yes": rng.uniform(size=n) > 0.4,
            "a": rng.choice(["q", "p", "r"], n, p=[0.5, 0.3, 0.2]),
            "b": pd.Categorical(rng.choice(["v", "u"], n), categories=["w", "v", "u"]),
            "o": pd.Categorical(rng.choice(["lo", "mid", "hi"], n), categories=["lo", "mid", "hi"], ordered=True),
            "g": np.arange(n) % 7,
        }
    )


def table_of(frame):
    return Table({name: column.to_numpy() if column.dtype.kind in "biuf" else column for name, column in frame.items()},
                 len(frame))  # fmt: skip


def specified(formula, frame, **options):
    return specify(bind_columns(parse_formula(formula), frame.columns), table_of(frame), **options)


def matrices(specification, frame):
    X, Z, offset = specification.design(table_of(frame)).block(0, len(frame))
    return X, Z, offset


FORMULAS = [
    "y ~ x + z + (x | g)",
    "y ~ x + yes + k + (0 + yes | g)",
    "y ~ a + (1 | g)",
    "y ~ 0 + a + x",
    "y ~ 0 + a + b",
    "y ~ a*b + (a | g)",
    "y ~ a:b",
    "y ~ 0 + a:b + (0 + a | g)",
    "y ~ x:a",
    "y ~ x + x:a",
    "y ~ x + x:a:b",
    "y ~ x + a:b:x",
    "y ~ a*x*b + (a*x | g)",
    "y ~ yes:x + yes:a + k:z",
    "y ~ (a + b + x)**2",
    "y ~ o + o:x + (0 + o | g)",
    "y ~ x:z:a + z:x + (x:z | g)",
    "y ~ 0 + a + x + 1",
    "y ~ center(x) + scale(z) + standardize(k) + (center(x) | g)",
    "y ~ poly(x, 3) + (poly(z, 2) | g)",
    "y ~ poly(x, degree=2, raw=True) + poly(z, 1)",
    "y ~ a:poly(x, 2) + (0 + a:poly(x, 2) | g)",
    "y ~ bs(x, df=5) + (bs(z, df=4, degree=2) | g)",
    "y ~ bs(x, 6, degree=2, intercept=True, lower_bound=-20, upper_bound=20)",
    "y ~ C(k) + (C(k) | g)",
    "y ~ C(a, Sum) + C(b, Treatment('v'))",
    "y ~ 0 + S(a) + T(b, 'v')",
    "y ~ T(k, ref=2):x + S(a, 'q')",
    "y ~ {x**2} + I(x + z*2) + I((x + 1)/z) + I(-x) + {+z}",
    "y ~ np.log(z) + log10(z) + exp2(z) + abs(k) + np.where({x > 3}, x, z) + np.hypot(x, z)",
    "y ~ {x > 3} + {x > z}:z + {a == 'p'} + {k != 0}",
    "y ~ I(a) + I(a):x",
    "y ~ center(np.log(z)) + scale(center(x)*z) + poly(scale(x), 2)",
    "y ~ x + offset(z) + offset({z*2})",
    "y ~ x + offset(2)",
    "y ~ C({k > 0}) + x",
    "y ~ C(o, Sum) + {small / 2}",
    "y ~ g + (1 | g)",
    "y ~ (a || g) + (0 + x | g:k)",
    "y ~ (1 | g) + (0 + a | g)",
]
# formulae 0.6.2 cannot compare calls of different shapes, and mislabels a/x, whose terms share an object.
BEYOND_FORMULAE = ["y ~ offset(np.log(z)) + offset(z) + offset(2)", "y ~ C({k > 0}) + C(o)", "y ~ a/x + (a/x | g)"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_same_columns_and_labels_as_formulae(formula, frame):
    """formulae (what Bambi computes with) on the same rows; groups have one level there, so Z is its group matrix."""
    from bambi.transformations import transformations_namespace
    from formulae import design_matrices

    namespace = {**transformations_namespace, "np": np}
    data = frame.assign(y=1.0)
    theirs = design_matrices(formula.replace("||", "|"), data, extra_namespace=namespace)
    specification = specified(formula, frame)
    X, Z, offset = matrices(specification, frame)

    offsets = [name for name, term in theirs.common.terms.items() if term.kind == "offset"]
    labels = [label for name, term in theirs.common.terms.items() if name not in offsets for label in term.labels]
    columns = [theirs.common[name].reshape(len(frame), -1) for name in theirs.common.terms if name not in offsets]
    order = [labels.index(name) for name in specification.common_columns]
    assert sorted(labels) == sorted(specification.common_columns)
    np.testing.assert_allclose(X, np.column_stack(columns)[:, order], rtol=1e-12, atol=1e-12)
    assert set(specification.common_terms) == set(theirs.common.terms) - set(offsets)
    if offsets:
        total = sum(theirs.common[name].ravel() for name in offsets)
        np.testing.assert_allclose(offset, total, rtol=1e-12)
    else:
        assert offset is None

    if "|" in formula:
        one_level = {name: "all" for factor in specification.factors for name in factor.name.split(":")
                     if name not in specification.feature_names}  # fmt: skip
        theirs = design_matrices(formula.replace("||", "|"), data.assign(**one_level), extra_namespace=namespace)
        found = {}
        for name, term in theirs.group.terms.items():
            expr, columns = term.expr, np.asarray(term.expr.data, dtype=float).reshape(len(frame), -1)
            names = ["1"] if term.kind == "intercept" else expr.labels
            found[name] = dict(zip(names, columns.T, strict=True))
        assert [n for f in specification.factors for n in dict.fromkeys(f.terms)] == sorted(
            found, key=[t for f in specification.factors for t in f.terms].index
        )
        for factor, z in zip(specification.factors, Z, strict=True):
            assert list(factor.columns) == [label for term in dict.fromkeys(factor.terms) for label in found[term]]
            for column, term, values in zip(factor.columns, factor.terms, z.T, strict=True):
                np.testing.assert_allclose(values, found[term][column], rtol=1e-12, atol=1e-12)


def test_beyond_formulae(frame):
    offset = matrices(specified(BEYOND_FORMULAE[0], frame), frame)[2]
    np.testing.assert_allclose(offset, np.log(frame["z"]) + frame["z"] + 2)
    specification = specified(BEYOND_FORMULAE[1], frame)
    assert specification.common_columns == ("Intercept", "C(I(k > 0))[True]", "C(o)[mid]", "C(o)[hi]")
    nested, written_out = specified(BEYOND_FORMULAE[2], frame), specified("y ~ a + a:x + (a + a:x | g)", frame)
    assert nested.common_columns == written_out.common_columns
    np.testing.assert_array_equal(matrices(nested, frame)[0], matrices(written_out, frame)[0])


@pytest.mark.parametrize("formula", FORMULAS + BEYOND_FORMULAE)
def test_new_rows_and_blocks(formula, frame):
    """Rows of the training data, alone and in another order, have the same columns; so has every block of rows."""
    specification = specified(formula, frame)
    X, Z, offset = matrices(specification, frame)
    pick = [5, 3, 59, 0]
    new_x, new_z, new_offset = matrices(specification, frame.iloc[pick].reset_index(drop=True))
    np.testing.assert_array_equal(new_x, X[pick])
    design = specification.design(table_of(frame))
    parts = [design.block(0, 7), design.block(7, 50), design.block(50, 999)]
    np.testing.assert_array_equal(np.vstack([part[0] for part in parts]), X)
    for i, z in enumerate(Z):
        np.testing.assert_array_equal(new_z[i], z[pick])
        np.testing.assert_array_equal(np.vstack([part[1][i] for part in parts]), z)
    if offset is not None:
        np.testing.assert_array_equal(new_offset, offset[pick])
        np.testing.assert_array_equal(np.concatenate([part[2] for part in parts]), offset)


def test_another_process_predicts_the_same_bits_without_formulae(frame, tmp_path):
    cases = [
        (specified(formula, frame), matrices(specified(formula, frame), frame))
        for formula in FORMULAS + BEYOND_FORMULAE
    ]
    path = tmp_path / "cases.pkl"
    path.write_bytes(pickle.dumps((cases, table_of(frame))))
    code = f"""
import pickle, sys
for name in ("formulae", "bambi", "pymc", "pytensor"):
    sys.modules[name] = None
import numpy as np
cases, table = pickle.load(open({str(path)!r}, "rb"))
for specification, (X, Z, offset) in cases:
    x, z, o = specification.design(table).block(0, table.n_rows)
    assert np.array_equal(x, X) and all(map(np.array_equal, z, Z)), specification.formula
    assert (o is None) == (offset is None) and (o is None or np.array_equal(o, offset))
print(len(cases))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(FORMULAS + BEYOND_FORMULAE)


def test_plain_columns_never_reach_formulae(frame, monkeypatch):
    for name in [*(module for module in sys.modules if module.startswith("formulae")), "formulae"]:
        monkeypatch.setitem(sys.modules, name, None)
    parsed = write_formula(["x", "k", "yes", "g"], ["g"], ["k"])
    specification = specify(parsed, table_of(frame))
    X, (Z,), _ = matrices(specification, frame)
    np.testing.assert_array_equal(X, np.column_stack([np.ones(60), frame["x"], frame["k"], frame["yes"]]))
    np.testing.assert_array_equal(Z, np.column_stack([np.ones(60), frame["k"]]))
    assert X.dtype == Z.dtype == np.float64


def test_factors_and_blocks(frame):
    factors = specified("y ~ x + (a + x | g) + (0 + z | g) + (k || yes)", frame).factors
    assert factors == (
        Factor("g", ("1", "a[q]", "a[r]", "x", "z"), ("1|g", "a|g", "a|g", "x|g", "z|g"), ((0, 1, 2, 3), (4,))),
        Factor("yes", ("1", "k"), ("1|yes", "k|yes"), ((0,), (1,))),
    )
    factors = specified("y ~ (0 + a || g/k)", frame).factors
    assert [f.name for f in factors] == ["g", "g:k"]
    assert factors[1].blocks == ((0,), (1,), (2,))
    parsed = parse_formula("y ~ (a | g)").without_correlation()
    assert specify(parsed, table_of(frame)).factors[0].blocks == ((0,), (1,), (2,))


def test_terms_repeat_for_their_columns(frame):
    specification = specified("y ~ a + poly(x, 2)", frame)
    assert specification.common_columns == ("Intercept", "a[q]", "a[r]", "poly(x, 2)[0]", "poly(x, 2)[1]")
    assert specification.common_terms == ("Intercept", "a", "a", "poly(x, 2)", "poly(x, 2)")


# --------------------------------------------------------------------------------------------------------------------
# Names


ODD = ["a|b", "x + 1", "class", "y", "a`b", "Intercept", "", "__import__('os').system('exit 3')", "log", "1", "sigma"]


def test_any_column_name(rng):
    values = rng.normal(size=(9, len(ODD)))
    table = Table(dict(zip(ODD, values.T, strict=True)), 9)
    specification = specify(write_formula(ODD, [("groups",)], ["1", "a|b"]), table)
    shown = [f"`{name}`" if name in ("Intercept", "1", "sigma") else name for name in ODD]
    assert specification.common_columns == ("Intercept", *shown)
    assert specification.factors[0].columns == ("1", "`1`", "a|b")
    assert specification.factors[0].terms == ("1|groups", "`1`|groups", "a|b|groups")
    X, (Z,), _ = specification.design(table).block(0, 9)
    np.testing.assert_array_equal(X[:, 1:], values)
    np.testing.assert_array_equal(Z[:, 1:], values[:, [9, 0]])


def test_names_that_collide_are_quoted(frame):
    table = table_of(frame.assign(**{"x:z": 1.5, "a[q]": 2.5, "corr|g": 3.5, "1|g": 4.5}))
    parsed = parse_formula("y ~ x:z + `x:z` + a + `a[q]` + `corr|g` + `1|g` + (1 | g)")
    specification = specify(parsed, table)
    assert specification.common_columns == (
        "Intercept", "x:z", "`x:z`", "a[q]", "a[r]", "`a[q]`", "`corr|g`", "`1|g`",
    )  # fmt: skip
    assert specification.aliases["`x:z`"] == "`x:z`"
    X = specification.design(table).block(0, 1)[0]
    assert X[0, [2, 5, 6, 7]].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_factors_keep_their_plain_names(frame):
    """Group codes are looked up by the name of the factor, also where it is a reserved word."""
    table = table_of(frame.assign(sigma=1.0))
    (factor,) = specify(parse_formula("y ~ sigma + (sigma | sigma)"), table).factors
    assert factor == Factor("sigma", ("1", "`sigma`"), ("1|sigma", "`sigma`|sigma"), ((0, 1),))
    with pytest.raises(ValueError, match="several terms or columns called"):
        specify(parse_formula("y ~ (1 | `g:k`) + (1 | g:k)"), table)


def test_terms_formulae_cannot_tell_apart_are_refused(frame):
    """formulae prints both as I(x + 1 * 2) and silently keeps one."""
    with pytest.raises(ValueError, match=r"several terms or columns called 'I\(x \+ 1 \* 2\)'"):
        specified("y ~ I((x + 1) * 2) + I(x + 1 * 2)", frame)


def test_renamed_columns_keep_the_formulas_names(frame):
    renamed = frame.rename(columns={"x": "num__x", "a": "cat__a", "g": "remainder__g"})
    specification = specified("y ~ x*a + center(x) + (x | g)", renamed)
    plain = specified("y ~ x*a + center(x) + (x | g)", frame)
    assert specification.common_columns == plain.common_columns
    assert specification.factors == plain.factors
    assert specification.feature_columns == ("num__x", "cat__a")
    np.testing.assert_array_equal(matrices(specification, renamed)[0], matrices(plain, frame)[0])


# --------------------------------------------------------------------------------------------------------------------
# Categories


@pytest.mark.parametrize(("column", "value"), [("a", "s"), ("b", "w"), ("o", "top")])
def test_unseen_level_is_named(column, value, frame):
    specification = specified(f"y ~ {column} + x:{column} + ({column} | g)", frame)
    new = frame.head(3).astype({column: object})
    new.loc[1, column] = value
    with pytest.raises(ValueError, match=rf"Column '{column}' holds '{value}', not seen in fit\. Known levels: '"):
        specification.design(table_of(new))
    with pytest.raises(ValueError, match="not seen in fit"):
        specification.design(table_of(new.astype({column: "category"})))


def test_unseen_level_of_a_call_is_named(frame):
    specification = specified("y ~ C(k)", frame)
    design = specification.design(table_of(frame.head(2).assign(k=99)))
    with pytest.raises(ValueError, match=r"Column 'C\(k\)' holds 99, not seen in fit. Known levels: -3, -2"):
        design.block(0, 2)


def test_missing_category_is_named(frame):
    frame.loc[4, "a"] = None
    with pytest.raises(ValueError, match="'a' has missing values"):
        specified("y ~ a", frame)


def test_levels_are_equal_when_python_says_so(frame):
    specification = specified("y ~ C(k)", frame)
    np.testing.assert_array_equal(
        matrices(specification, frame.astype({"k": float}))[0], matrices(specification, frame)[0]
    )


def test_unobserved_categories_have_no_column(frame):
    """Also of ordered categoricals, where formulae makes an empty column."""
    observed = frame[frame["o"] != "mid"].reset_index(drop=True)
    assert specified("y ~ o", observed).common_columns == ("Intercept", "o[hi]")


def test_single_level_has_no_column(frame):
    specification = specified("y ~ x + a + (a | g)", frame[frame["a"] == "q"].reset_index(drop=True))
    assert specification.common_columns == ("Intercept", "x")
    assert specification.factors[0].columns == ("1",)
    assert specification.empty_terms == ("a", "a|g")


def test_levels_that_do_not_sort_keep_their_order():
    column = pd.Series(pd.Categorical(["b", 3, "a", 3], categories=["b", 3, "a"]))
    specification = specify(parse_formula("y ~ 0 + c"), Table({"c": column}, 4))
    assert specification.common_columns == ("c[b]", "c[3]", "c[a]")


def test_reference_must_be_a_level(frame):
    with pytest.raises(ValueError, match=r"names 'zz', which is no level of the column\. Levels: 'p', 'q', 'r'"):
        specified("y ~ T(a, 'zz')", frame)


# --------------------------------------------------------------------------------------------------------------------
# Weights


@pytest.mark.parametrize(
    "call",
    ["center(x)", "scale(x)", "poly(x, 3)", "bs(x, df=6)", "bs(x, df=4, degree=1)", "center(scale(x)*z)", "C(k)", "a"],
)
def test_weight_is_a_number_of_copies(call, frame, rng):
    weight = rng.integers(0, 5, len(frame)).astype(float)
    copies = frame.loc[np.repeat(frame.index, weight.astype(int))].reset_index(drop=True)
    weighted = specified(f"y ~ {call}", frame, sample_weight=weight)
    repeated = specified(f"y ~ {call}", copies)
    unweighted = specified(f"y ~ {call}", frame)
    rows = frame[weight > 0].reset_index(drop=True)
    np.testing.assert_allclose(matrices(weighted, rows)[0], matrices(repeated, rows)[0], rtol=1e-9, atol=1e-9)
    if call not in ("C(k)", "a"):
        assert not np.allclose(matrices(weighted, rows)[0], matrices(unweighted, rows)[0], rtol=1e-3)


def test_fractional_weights(frame, rng):
    weight = rng.uniform(0.1, 2.0, len(frame))
    with pytest.raises(ValueError, match=r"bs\(x, df=6\).*quantiles.*fractions"):
        specified("y ~ bs(x, df=6)", frame, sample_weight=weight)
    specification = specified("y ~ bs(x, df=3) + scale(x)", frame, sample_weight=weight)
    scaled = matrices(specification, frame)[0][:, -1]
    assert np.average(scaled, weights=weight) == pytest.approx(0.0, abs=1e-12)
    assert np.average(scaled**2, weights=weight) == pytest.approx(1.0)


def test_levels_of_rows_without_weight_are_unknown(frame):
    weight = (frame["a"] != "p").to_numpy().astype(float)
    specification = specified("y ~ a", frame, sample_weight=weight)
    assert specification.common_columns == ("Intercept", "a[r]")


# --------------------------------------------------------------------------------------------------------------------
# What cannot be computed


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ np.log(k)", r"'np.log\(k\)' of the formula is not finite in \d+ of 60 rows"),
        ("y ~ scale(one)", r"'scale\(one\)' of the formula is not finite"),
        ("y ~ np.log(a)", r"'np.log\(a\)' of the formula cannot be computed"),
        ("y ~ center(a)", r"'center\(a\)' of the formula needs one numeric column"),
        ("y ~ {2 + 1}", "is one number, no column"),
        ("y ~ poly(yes, 2)", "more than 2 different values"),
        ("y ~ poly(x, 0)", "positive integer, got 0"),
        ("y ~ bs(x)", "needs df="),
        ("y ~ bs(x, df=2)", "an integer >= 3, got 2"),
        ("y ~ bs(x, df=4, knots=2)", "list of knots"),
        ("y ~ bs(x, df=5, lower_bound=4)", "do not enclose"),
        ("y ~ offset(a) + x", r"'offset\(a\)' in the formula must be numeric"),
    ],
)
def test_errors_name_the_term(formula, message, frame, capsys):
    with pytest.raises(ValueError, match=message):
        matrices(specified(formula, frame.assign(one=1.0)), frame.assign(one=1.0))
    assert capsys.readouterr() == ("", "")


def test_new_rows_that_are_not_finite(frame):
    specification = specified("y ~ np.log(z)", frame)
    with pytest.raises(ValueError, match=r"not finite in 1 of 2 rows"):
        matrices(specification, pd.DataFrame({"z": [1.0, -1.0]}))


def test_powers_of_small_integers_do_not_wrap_around():
    table = Table({"k": np.array([100, -100, 7], dtype=np.int8)}, 3)
    design = specify(parse_formula("y ~ {k**2} + {k*k} + {k + k}"), table).design(table)
    assert design.block(0, 1)[0][0].tolist() == [1.0, 10000.0, 10000.0, 200.0]


def test_columns_of_the_user_are_never_written_to(frame):
    before = frame.copy(deep=True)
    for formula in FORMULAS:
        matrices(specified(formula, frame), frame)
    pd.testing.assert_frame_equal(frame, before)
