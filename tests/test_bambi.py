"""The graph that Bambi builds from a specification, against densities computed by SciPy."""

import numpy as np
import pytest
from pytensor.compile.mode import Mode
from scipy import stats

from hbsk._bambi import model as _bambi
from hbsk._bambi.model import build_model
from hbsk._data.labels import group_names
from hbsk._model.default_priors import default_priors
from tests.candidate import log_joint
from tests.stand_ins import Design, FactorTerms, Specification, moments_of

INTERCEPT = (("Intercept",), ("Intercept",))


class Problem:
    """A random data set with a category that varies by group, and its model with unsymmetrical priors."""

    def __init__(self, rng, blocks=((0, 1, 2, 3),), factor="school class"):
        self.n, self.n_groups, self.factor = 40, 5, factor
        category = rng.integers(0, 3, self.n)
        self.X = np.column_stack([np.ones(self.n), rng.normal(2.0, 3.0, self.n), category == 1, category == 2])
        self.X = self.X.astype(float)
        self.codes = {factor: rng.integers(0, self.n_groups, self.n)}
        self.groups = {factor: [3, 1, 2, 10, "x"]}
        self.y = rng.normal(5.0, 2.0, self.n)
        names = ("Intercept", "x", "cat[b]", "cat[c]")
        factors = (
            FactorTerms(
                factor, ("1", *names[1:]), (f"1|{factor}", f"x|{factor}", f"cat|{factor}", f"cat|{factor}"), blocks
            ),
        )
        self.specification = Specification("log y", True, names, ("Intercept", "x", "cat", "cat"), factors)
        self.eta = 1.7
        self.tau_scales, self.b_sds = [2.0, 0.7, 1.1, 1.3], [4.0, 1.5, 0.8, 0.6]
        self.priors = {
            "Intercept": ("Normal", {"mu": 1.0, "sigma": 4.0}),
            "x": ("Normal", {"mu": 0.3, "sigma": 1.5}),
            "cat": ("Normal", {"mu": [0.0, 0.0], "sigma": [0.8, 0.6]}),
            f"1|{factor}": ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 2.0})}),
            f"x|{factor}": ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 0.7})}),
            f"cat|{factor}": ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": [1.1, 1.3]})}),
            f"corr|{factor}": ("LKJ", {"eta": self.eta}),
            "sigma": ("HalfStudentT", {"nu": 4.0, "sigma": 0.8}),
        }

    def model(self, **options):
        design = Design(self.X, [self.X])
        return build_model(self.specification, self.priors, design, self.y, self.codes, self.groups, **options)

    def point(self, rng):
        """Random values of all parameters; the Cholesky factor has the blocks of the specification."""
        q = 4
        R = np.eye(q)
        for block in self.specification.factors[0].blocks:
            A = rng.normal(size=(len(block), 7))
            C = A @ A.T
            R[np.ix_(block, block)] = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
        return {
            "b": rng.normal(size=4),
            "sigma": rng.uniform(0.5, 2.0),
            "tau": {self.factor: rng.uniform(0.5, 2.0, q)},
            "L": {self.factor: np.linalg.cholesky(R)},
            "u": {self.factor: rng.normal(size=(self.n_groups, q))},
        }

    def log_density(self, b, sigma, tau, L, u, weight=None, standard_error=None):
        """The joint density by SciPy, but for the constant of the LKJ prior."""
        tau, L, u = tau[self.factor], L[self.factor], u[self.factor]
        weight = np.ones(self.n) if weight is None else weight
        centre = weight @ self.X / weight.sum()
        centre[0] = 0.0
        mean = (self.X - centre) @ b + np.sum(self.X * u[self.codes[self.factor]], axis=1)
        known = standard_error is not None
        total = weight @ stats.norm(mean, standard_error if known else sigma).logpdf(self.y)
        total += stats.norm([1.0, 0.3, 0.0, 0.0], self.b_sds).logpdf(b).sum()
        Sigma = tau[:, None] * (L @ L.T) * tau
        total += stats.multivariate_normal(np.zeros(4), Sigma).logpdf(u).sum()
        total += stats.halfnorm(scale=self.tau_scales).logpdf(tau).sum()
        if not known:
            total += np.log(2.0) + stats.t(4.0, scale=0.8).logpdf(sigma)
        for block in self.specification.factors[0].blocks:
            d = len(block)
            diagonal = np.diag(L)[list(block)]
            total += np.sum((2.0 * self.eta - 2.0 + d - np.arange(1, d + 1)) * np.log(diagonal))
        return total


BLOCKS = {"correlated": ((0, 1, 2, 3),), "independent": ((0,), (1,), (2,), (3,)), "two blocks": ((0, 1), (2, 3))}


# Blocks and rows enter apart from one another: each kind of one with one kind or two of the other.
@pytest.mark.parametrize(
    ("blocks", "known_errors", "weighted"),
    [
        *(("correlated", known_errors, weighted) for known_errors in (False, True) for weighted in (False, True)),
        ("independent", False, True),
        ("two blocks", True, False),
    ],
)
def test_joint_density_of_the_centred_graph_is_that_of_the_model(rng, blocks, known_errors, weighted):
    problem = Problem(rng, BLOCKS[blocks])
    weight = rng.integers(0, 4, problem.n).astype(float) if weighted else None
    errors = rng.uniform(0.5, 2.0, problem.n) if known_errors else None
    density = log_joint(problem.model(noncentered=False, sample_weight=weight, standard_error=errors))
    points = [problem.point(rng) for _ in range(4)]
    difference = [density(**p) - problem.log_density(**p, weight=weight, standard_error=errors) for p in points]
    np.testing.assert_allclose(difference, difference[0], rtol=1e-8, atol=1e-8)
    if blocks == "independent":  # no LKJ constant is left then
        np.testing.assert_allclose(difference, 0.0, atol=1e-7)


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS.keys())
def test_joint_density_of_the_graph_of_offsets_differs_by_their_jacobian(rng, blocks):
    problem = Problem(rng, blocks)
    density = log_joint(problem.model(noncentered=True))
    difference = []
    for point in [problem.point(rng) for _ in range(4)]:
        tau, L = point["tau"][problem.factor], point["L"][problem.factor]
        jacobian = problem.n_groups * (np.log(tau).sum() + np.log(np.diag(L)).sum())
        difference.append(density(**point) - problem.log_density(**point) - jacobian)
    np.testing.assert_allclose(difference, difference[0], rtol=1e-8, atol=1e-8)


def test_weights_count_copies(rng):
    problem = Problem(rng)
    errors = rng.uniform(0.5, 2.0, problem.n)
    weight = rng.integers(0, 3, problem.n)
    copied = np.repeat(np.arange(problem.n), weight)
    design = Design(problem.X[copied], [problem.X[copied]])
    codes = {problem.factor: problem.codes[problem.factor][copied]}
    arguments = (problem.specification, problem.priors)
    repeated = build_model(
        *arguments, design, problem.y[copied], codes, problem.groups, standard_error=errors[copied], noncentered=False
    )
    weighted = problem.model(sample_weight=weight, standard_error=errors, noncentered=False)
    point = problem.point(rng)
    assert log_joint(weighted)(**point) == pytest.approx(log_joint(repeated)(**point), rel=1e-12)


def test_names_and_coordinates_are_those_of_the_user(rng):
    model = Problem(rng).model(noncentered=False)
    model.build()
    graph = model.backend.model
    assert {v.name for v in graph.free_RVs} >= {
        "Intercept", "x", "cat", "sigma", "1|school class", "1|school class_sigma", "cat|school class",
        "cat|school class_sigma",
    }  # fmt: skip
    assert "corr_school class" in graph.named_vars
    assert list(graph.coords["corr_school class_dim"]) == ["1", "x", "cat[b]", "cat[c]"]
    assert list(graph.coords["school class__factor_dim"]) == ["3", "1", "2", "10", "x"]
    assert graph.named_vars_to_dims["log y"] == ("__obs__",)


def test_a_model_can_be_built_again_after_a_change_of_priors(rng):
    import bambi as bmb

    problem = Problem(rng)
    model = problem.model(noncentered=False)
    point = problem.point(rng)
    first = log_joint(model)(**point)
    model.set_priors({"Intercept": bmb.Prior("Normal", mu=1.0, sigma=8.0)})
    difference = log_joint(model)(**point) - first
    b = point["b"][0]
    assert difference == pytest.approx(stats.norm(1.0, 8.0).logpdf(b) - stats.norm(1.0, 4.0).logpdf(b), abs=1e-9)


@pytest.mark.parametrize(("group_sd", "offsets"), [(0.3, True), (5.0, False)])
@pytest.mark.parametrize("known_errors", [False, True])
def test_offsets_are_for_groups_that_the_data_hardly_tell_apart(rng, group_sd, offsets, known_errors):
    n_groups, rows = 20, 6
    code = np.repeat(np.arange(n_groups), rows)
    # A common column that differs by group must not pass for a difference between groups.
    X = np.column_stack([np.ones(len(code)), code])
    y = 30.0 * code + group_sd * rng.normal(size=n_groups)[code] + rng.normal(size=len(code))
    factor = FactorTerms("g", ("1",), ("1|g",), ((0,),))
    specification = Specification("y", True, ("Intercept", "x"), ("Intercept", "x"), (factor,))
    priors = default_priors(specification, moments_of(X, [X[:, :1]], y))
    errors = np.ones(len(y)) if known_errors else None
    design = Design(X, [X[:, :1]])
    model = build_model(specification, priors, design, y, {"g": code}, {"g": range(n_groups)}, standard_error=errors)
    model.build()
    assert ("1|g_offset" in model.backend.model.named_vars) == offsets


@pytest.mark.parametrize(
    "name",
    ["a|b", "a`b", "a/b", "mu", "`sigma`", "`Intercept`", "`1`", "y", "", "a:", "x__y", "é\n\"'", "c", "weighted"],
)
def test_any_column_name_and_any_factor_name_can_be_modelled(rng, name):
    n = 12
    code = np.arange(n) % 3
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    term = f"{name}|{name} group"
    specification = Specification(
        "y",
        True,
        ("Intercept", name),
        ("Intercept", name),
        (FactorTerms(f"{name} group", ("1", name), (f"1|{name} group", term), ((0, 1),)),),
    )
    y = rng.normal(size=n)
    priors = default_priors(specification, moments_of(X, [X], y))
    weight = rng.integers(1, 3, n)
    model = build_model(
        specification, priors, Design(X, [X]), y, {f"{name} group": code}, {f"{name} group": [1, 2, 3]},
        sample_weight=weight,
    )  # fmt: skip
    model.build()
    variables = set(model.backend.model.named_vars)
    assert {variable for variable, _ in model.hbsk_layout.common} <= variables
    assert {variable for variable, _ in model.hbsk_layout.factors[0].terms} <= variables


def test_labels_that_read_alike_stay_apart():
    assert group_names([1, "1"]) == ["1", "'1'"]
    assert group_names([("a", 1), ("b", 2)]) == ["a:1", "b:2"]


@pytest.mark.parametrize("weighted", [False, True])
def test_constant_columns_stay_out_of_the_model(rng, weighted):
    n = 12
    X = np.column_stack([np.ones(n), np.full(n, 3.0), rng.normal(size=n), np.zeros(n)])
    names = ("Intercept", "three", "cat[b]", "cat[c]")
    specification = Specification("y", True, names, ("Intercept", "three", "cat", "cat"))
    y = rng.normal(size=n)
    priors = default_priors(specification, moments_of(X, [], y))
    weight = rng.integers(1, 3, n) if weighted else None
    model = build_model(specification, priors, Design(X, []), y, {}, {}, sample_weight=weight)
    model.build()
    assert model.hbsk_layout.common == (("cat", (2,)),)
    assert {v.name for v in model.backend.model.free_RVs} == {"Intercept", "cat", "sigma"}


def test_a_constant_column_without_an_intercept_is_refused(rng):
    n = 12
    specification = Specification("y", False, ("three",), ("three",))
    X, y = np.full((n, 1), 3.0), rng.normal(size=n)
    priors = default_priors(specification, moments_of(X, [], y))
    with pytest.raises(ValueError, match=r"'three'.*constant"):
        build_model(specification, priors, Design(X, []), y, {}, {})


def test_numbers_fix_parameters(rng):
    problem = Problem(rng)
    factor = problem.factor
    problem.priors |= {
        f"1|{factor}": ("Normal", {"mu": 0.0, "sigma": 2.5}),
        f"cat|{factor}": ("Normal", {"mu": 0.0, "sigma": [0.4, 0.9]}),
        "x": 0.25,
        "sigma": 1.5,
    }
    model = problem.model(noncentered=False)
    free = log_free(model)
    assert f"x|{factor}_sigma" in free
    assert not {"sigma", "x", f"1|{factor}_sigma", f"cat|{factor}_sigma"} & free
    graph = model.backend.model
    assert float(graph[f"1|{factor}_sigma"].eval()) == 2.5
    np.testing.assert_array_equal(graph[f"cat|{factor}_sigma"].eval(), [0.4, 0.9])
    assert model.hbsk_layout.sigma == 1.5


def log_free(model):
    model.build()
    return {v.name for v in model.backend.model.free_RVs}


def test_a_group_sd_fixed_at_zero_has_a_finite_density(rng):
    n = 12
    ones, y = np.ones((n, 1)), rng.normal(size=n)
    specification = Specification("y", True, *INTERCEPT, (FactorTerms("g", ("1",), ("1|g",), ((0,),)),))
    priors = default_priors(specification, moments_of(ones, [ones], y)) | {"1|g": ("Normal", {"mu": 0.0, "sigma": 0.0})}
    model = build_model(
        specification, priors, Design(ones, [ones]), y, {"g": np.arange(n) % 3}, {"g": [1, 2, 3]}, noncentered=False
    )
    model.build()
    assert np.all(np.isfinite(list(model.backend.model.point_logps().values())))


def test_priors_may_be_bambi_objects_and_of_other_families(rng):
    import bambi as bmb

    problem = Problem(rng, BLOCKS["independent"])
    problem.priors["x"] = bmb.Prior("Laplace", mu=0, b=1)
    problem.priors[f"1|{problem.factor}"] = ("Laplace", {"mu": 0.0, "b": ("HalfNormal", {"sigma": 1.0})})
    free = log_free(problem.model(noncentered=True))
    assert f"1|{problem.factor}_b" in free
    assert f"1|{problem.factor}_offset" not in free


def test_a_correlated_effect_that_is_not_normal_is_refused(rng):
    problem = Problem(rng)
    problem.priors[f"x|{problem.factor}"] = ("Laplace", {"mu": 0.0, "b": ("HalfNormal", {"sigma": 1.0})})
    with pytest.raises(ValueError, match=r"x\|school class.*correlated=False"):
        problem.model()


def problem_with_means(rng, blocks):
    problem = Problem(rng, blocks)
    problem.priors |= {
        f"1|{problem.factor}": ("Normal", {"mu": 50.0, "sigma": 0.1}),
        f"x|{problem.factor}": ("Normal", {"mu": ("Normal", {"mu": -30.0, "sigma": 0.1}), "sigma": 0.2}),
        f"cat|{problem.factor}": ("Normal", {"mu": [7.0, -8.0], "sigma": [0.3, 0.4]}),
    }
    return problem


@pytest.mark.parametrize("noncentered", [False, True])
@pytest.mark.parametrize("blocks", [BLOCKS["correlated"], BLOCKS["independent"]], ids=["correlated", "independent"])
def test_means_of_the_effects_survive_in_both_forms(rng, noncentered, blocks):
    # Bambi's own offsets lose them, numbers and priors alike (its issue 1003).
    problem = problem_with_means(rng, blocks)
    terms = [f"{term}|{problem.factor}" for term in ("1", "x", "cat")]
    model = problem.model(noncentered=noncentered)
    model.build()
    assert f"x|{problem.factor}_mu" in log_free(model)
    # every value by hand: drawing a correlation matrix would compile
    sds, means = np.array([0.1, 0.2, 0.3, 0.4]), np.array([50.0, -30.1, 7.0, -8.0])
    A = rng.normal(size=(4, 9))
    R = np.corrcoef(A) if blocks == BLOCKS["correlated"] else np.eye(4)
    L = np.linalg.cholesky(R)
    w = rng.normal(size=(problem.n_groups, 4))
    effects = means + (w @ L.T) * sds
    columns = ([0], [1], [2, 3])
    values = {"Intercept": 1.0, "x": 0.3, "cat": np.zeros(2), "sigma": 1.0, f"x|{problem.factor}_mu": -30.1}
    values |= {f"corr_{problem.factor}_cholesky_0": L}
    for term, k in zip(terms, columns, strict=True):
        values |= {term: np.squeeze(effects[:, k]), f"{term}_offset": np.squeeze(w[:, k])}
    found, densities = at_values(model, terms, values)
    for drawn, k in zip(found, columns, strict=True):
        np.testing.assert_allclose(drawn, np.squeeze(effects[:, k]), rtol=1e-10)
    total = sum(density.sum() for name, density in densities.items() if name in terms)
    if not noncentered or blocks == BLOCKS["independent"]:
        wanted = stats.multivariate_normal(means, sds[:, None] * R * sds).logpdf(effects).sum()
        assert total == pytest.approx(wanted, rel=1e-9)


def at_values(model, names, values):
    """Return some variables of a built model, and the log density of every free one, at values of the free ones."""
    from pymc.model.transform.conditioning import remove_value_transforms

    graph = remove_value_transforms(model.backend.model)
    free = graph.free_RVs
    inputs = [graph.rvs_to_values[variable] for variable in free]
    wanted = graph.replace_rvs_by_values([graph[name] for name in names])
    densities = graph.logp(vars=free, sum=False, jacobian=False)
    mode = Mode(linker="py", optimizer=None)
    evaluate = graph.compile_fn([*wanted, *densities], inputs=inputs, mode=mode, point_fn=False)
    found = evaluate(*(np.asarray(values[variable.name], dtype=float) for variable in free))
    return found[: len(names)], dict(zip([variable.name for variable in free], found[len(names) :], strict=True))


def test_a_group_sd_fixed_at_zero_is_no_effect_in_a_correlated_block(rng):
    problem = problem_with_means(rng, BLOCKS["correlated"])
    problem.priors[f"x|{problem.factor}"] = ("Normal", {"mu": 0.0, "sigma": 0.0})
    model = problem.model(noncentered=False)
    values = {"Intercept": 1.0, "x": 0.3, "cat": np.zeros(2), "sigma": 1.0}
    values |= {f"corr_{problem.factor}_cholesky_0": np.eye(4)}
    values |= {f"{term}|{problem.factor}_offset": rng.normal(size=(problem.n_groups, n)).squeeze() for term, n in
               (("1", 1), ("x", 1), ("cat", 2))}  # fmt: skip
    model.build()
    (drawn,), densities = at_values(model, [f"x|{problem.factor}"], values)
    np.testing.assert_array_equal(drawn, 0.0)
    assert all(np.isfinite(density).all() for density in densities.values())


def test_effects_that_are_all_one_number_are_refused(rng):
    problem = Problem(rng, BLOCKS["independent"])
    problem.priors[f"x|{problem.factor}"] = ("Normal", {"mu": 2.0, "sigma": 0.0})
    with pytest.raises(ValueError, match=r"x\|school class.*Leave the term out"):
        problem.model()


def test_a_precision_with_a_prior_is_that_of_the_effects(rng):
    problem = Problem(rng, BLOCKS["independent"])
    problem.priors[f"x|{problem.factor}"] = ("Normal", {"mu": 0.0, "tau": ("Gamma", {"alpha": 2.0, "beta": 1.0})})
    assert f"x|{problem.factor}_tau" in log_free(problem.model(noncentered=True))
    correlated = Problem(rng)
    correlated.priors |= {f"x|{problem.factor}": problem.priors[f"x|{problem.factor}"]}
    with pytest.raises(ValueError, match=r"correlated must have the prior.*correlated=False"):
        correlated.model()


def test_a_dense_block_above_the_limit_is_refused_before_it_is_made():
    specification = Specification("y", True, *INTERCEPT, (FactorTerms("g", ("1",), ("1|g",), ((0,),)),))
    with pytest.raises(ValueError, match=r"GiB.*10000000.*inference='marginal'"):
        _bambi.check_dummy_block(specification, 10_000_000, {"g": range(100)})
    _bambi.check_dummy_block(specification, 1_000_000, {"g": range(100)})


def test_an_offset_of_the_formula_enters_the_mean(rng):
    n = 12
    ones, y, offset = np.ones((n, 1)), rng.normal(size=n), rng.normal(size=n)
    specification = Specification("y", True, *INTERCEPT)
    priors = default_priors(specification, moments_of(ones, [], y))
    with_offset = build_model(specification, priors, Design(ones, [], offset), y, {}, {})
    without = build_model(specification, priors, Design(ones, []), y - offset, {}, {})
    values = {"b": np.array([0.4]), "sigma": 1.3}
    assert log_joint(with_offset)(**values) == pytest.approx(log_joint(without)(**values), rel=1e-12)
