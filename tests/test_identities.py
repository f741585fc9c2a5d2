"""Candidate's identity: the graph that Bambi builds, our conditional law, and our marginal density say the same.

For all values of the parameters log p(y, b, u, theta) = log p(y, theta) + log p(b, u | y, theta). The left side is
PyMC's, both terms on the right are ours, and they have no code in common.
"""

import numpy as np
import pytest
from scipy import special

from hbsk._bambi.model import build_model
from hbsk._engine.fit import marginal_model
from hbsk._model.exactness import engine_priors
from hbsk._posterior.nodes import marginal_posterior
from tests import dense
from tests.candidate import log_joint
from tests.dense import make_problem
from tests.stand_ins import Design, FactorTerms, Specification

N_POINTS = 20


def specification_of(problem, blocks):
    p, q = problem.X.shape[1], problem.Z.shape[1]
    common = (["Intercept"] if problem.has_intercept else ["x0"]) + [f"x{k}" for k in range(1, p)]
    varying = ("1", *(f"x{k}" for k in range(1, q)))
    factor = FactorTerms("g", varying, tuple(f"{name}|g" for name in varying), blocks)
    return Specification("y", problem.has_intercept, tuple(common), tuple(common), (factor,))


def plain_priors(rng, specification, known, flat=()):
    """Different numbers and families for every parameter."""
    families = [
        ("HalfNormal", {"sigma": 1.7}),
        ("HalfStudentT", {"nu": 3.0, "sigma": 0.9}),
        ("Gamma", {"alpha": 2.2, "beta": 1.3}),
        ("HalfCauchy", {"beta": 1.1}),
    ]
    factor = specification.factors[0]
    priors = {
        name: ("Normal", {"mu": float(rng.normal()), "sigma": float(rng.uniform(0.5, 4))})
        for name in specification.common_columns
    }
    priors |= {name: ("Flat", {}) for name in flat}
    priors |= {
        term: ("Normal", {"mu": 0.0, "sigma": family}) for term, family in zip(factor.terms, families, strict=False)
    }
    if any(len(block) > 1 for block in factor.blocks):
        priors["corr|g"] = ("LKJ", {"eta": 1.6})
    return priors if known else priors | {"sigma": ("HalfStudentT", {"nu": 4.0, "sigma": 1.3})}


def log_density_of_variances(exact, eta, sigma, tau, L):
    """Prior density over (sigma, tau, L below its diagonal), one number per point."""
    total = np.zeros(len(tau)) if exact.residual_sd is None else exact.residual_sd.log_density(sigma)
    total = total + sum(prior.log_density(tau[:, k]) for k, prior in enumerate(exact.group_sd))
    for block in exact.blocks:
        q = len(block)
        for k in range(1, q):
            # Lewandowski, Kurowicka, Joe 2009: LKJ(eta) on factors is prod_k L_kk^(q - k + 2 eta - 2), k from 1;
            # given the rows before it the row k is the head of a point of the sphere, a Dirichlet law in its squares
            diagonal = L[:, block[k], block[k]]
            total = total + (q - (k + 1) + 2 * eta - 2) * np.log(diagonal)
            shape = eta + (q - 1 - k) / 2
            total = total - (0.5 * k * np.log(np.pi) + special.gammaln(shape) - special.gammaln(shape + k / 2))
    return total


def conditional_log_density(posterior, problem, b, u):
    """Our density of centred coefficients b and effects u at a posterior of one node: p(b) prod_j p(u_j | b)."""
    p = len(b)
    mean, covariance = posterior.common_moments()
    change = np.eye(p)
    if problem.has_intercept:
        change[0, 1:] = np.average(problem.X[:, 1:], axis=0, weights=problem.weight)
    mean, covariance = change @ mean, change @ covariance @ change.T
    total = normal_log_density(b - mean, covariance)
    moments = posterior.group_moments()
    for j in range(problem.n_groups):
        with_b = change @ moments.with_common[j]
        gain = np.linalg.solve(covariance, with_b).T
        rest = moments.covariance[j] - gain @ with_b
        total += normal_log_density(u[j] - moments.mean[j] - gain @ (b - mean), rest)
    return total


def normal_log_density(deviation, covariance):
    """As SciPy's, which takes columns on very different scales for singular."""
    scale = np.sqrt(np.diag(covariance))
    root = np.linalg.cholesky(covariance / np.outer(scale, scale))
    white = np.linalg.solve(root, deviation / scale)
    return -0.5 * white @ white - np.sum(np.log(scale * np.diag(root))) - 0.5 * len(scale) * np.log(2 * np.pi)


# Each size, kind of blocks, weighting and kind of errors with an intercept and without.
@pytest.mark.parametrize(
    ("q", "blocks", "weights", "errors", "has_intercept"),
    [
        (1, ((0,),), False, False, True),
        (1, ((0,),), True, True, False),
        (2, ((0, 1),), False, False, False),
        (2, ((0, 1),), True, False, True),
        (2, ((0, 1),), False, True, True),
        (2, ((0, 1),), True, True, True),
        (3, ((0,), (1,), (2,)), True, False, True),
        (3, ((0,), (1,), (2,)), False, True, False),
        (3, ((0, 1, 2),), False, True, False),
        (3, ((0, 1, 2),), True, False, True),
        (4, ((0, 2), (1, 3)), True, False, False),
        (4, ((1,), (0, 2, 3)), False, False, True),
    ],
)
def test_candidates_identity(rng, q, blocks, weights, errors, has_intercept):
    problem = make_problem(rng, q=q, p=4, has_intercept=has_intercept, weights=weights, errors=errors)
    check_identity(rng, problem, blocks, flat=(), constant=0.0)


def test_candidates_identity_with_flat_priors(rng):
    # a flat prior has no normalising constant in common units: the difference is one number, but not zero
    check_identity(rng, make_problem(rng, q=2), ((0, 1),), flat=("Intercept", "x2"), constant=None)


@pytest.mark.parametrize(
    ("q", "blocks", "errors"), [(2, ((0, 1),), False), (3, ((0,), (1,), (2,)), True), (3, ((0, 1), (2,)), False)]
)
def test_candidates_identity_at_a_point_of_the_columns(rng, q, blocks, errors):
    problem = make_problem(rng, q=q, p=4, weights=True, errors=errors)
    check_identity(
        rng, problem, blocks, flat=(), constant=0.0, centre={"x1": 2.3, "x2": -0.4} if q == 3 else {"x1": 2.3}
    )


def check_identity(rng, problem, blocks, flat, constant, centre=None):
    specification = specification_of(problem, blocks)
    known = problem.standard_error is not None
    priors = plain_priors(rng, specification, known, flat) | ({"centre|g": centre} if centre else {})
    exact = engine_priors(specification, priors, known)
    model, scaling = marginal_model(problem.collect(), exact)
    graph = build_model(
        specification,
        priors,
        Design(problem.X, [problem.Z]),
        problem.y,
        {"g": problem.codes},
        {"g": [f"g{j}" for j in range(problem.n_groups)]},
        sample_weight=problem.weight,
        standard_error=problem.standard_error,
        noncentered=False,
    )
    joint = log_joint(graph)

    # nearer to independence where the point is far: correlations there are near one
    theta = rng.normal(size=(N_POINTS, model.parameters.n_dim)) * (0.4 if centre else 1.0)
    variance = model.parameters.points(theta)
    engine_sigma = np.ones(N_POINTS) if known else np.exp(rng.normal(-0.5, 0.7, N_POINTS))
    # where errors are known the engine has noise of sd 1 and sds in units of y_scale
    sigma = engine_sigma * scaling.y_scale
    # what the priors are stated for: effects at a point of the raw columns
    point = np.array([(centre or {}).get(column, 0.0) for column in specification.factors[0].columns])
    raw = scaling.effects(variance.relative_factor.swapaxes(1, 2)).swapaxes(1, 2) * engine_sigma[:, None, None]
    raw[:, 0] += np.einsum("k,mkl->ml", point, raw)
    tau = np.linalg.norm(raw, axis=2)
    L = np.linalg.qr((raw / tau[:, :, None]).swapaxes(1, 2), mode="r").swapaxes(1, 2)
    L *= np.sign(np.einsum("mkk->mk", L))[:, None]
    marginal = model.log_marginal_likelihood(variance.relative_factor, engine_sigma) - model.sums.n * np.log(
        scaling.y_scale
    )
    marginal += log_density_of_variances(exact, 1.6, sigma, tau, L)
    points = model.evaluate(theta)
    differences, sizes = [], []
    for m in range(N_POINTS):
        node = slice(m, m + 1)
        common = dense.replace(points.common, **{name: value[node] for name, value in vars(points.common).items()})
        one = dense.replace(
            points,
            theta=theta[node],
            variance=dense.replace(variance, **{k: None if v is None else v[node] for k, v in vars(variance).items()}),
            common=common,
            log_sigma=np.log(engine_sigma[node])[:, None],
            weight=np.ones((1, 1)),
        )
        posterior = marginal_posterior(
            one, np.ones(1), np.zeros(1, int), 0.0, np.full(1, 0.5), model, scaling, problem.has_intercept
        )
        # effects of their own law: others are no digits' worth where correlations at the point are near one
        white = rng.normal(size=(problem.n_groups, problem.Z.shape[1]))
        b, u = rng.normal(size=problem.X.shape[1]), white @ (tau[m][:, None] * L[m]).T
        left = joint(b=b, sigma=sigma[m], tau={"g": tau[m]}, L={"g": L[m]}, u={"g": u})
        at_zero = u - np.outer(u @ point, np.eye(len(point))[0])
        right = marginal[m] + conditional_log_density(posterior, problem, b, at_zero)
        differences.append(left - right)
        sizes.append(abs(left))
    wanted = np.median(differences) if constant is None else constant
    np.testing.assert_array_less(np.abs(np.array(differences) - wanted), 1e-8 * np.maximum(sizes, 100.0))
