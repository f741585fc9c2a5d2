"""Posteriors of small binary and count models by dense grids over (tau, b).

Nothing is shared with the engine: the effect of a group is integrated by Gauss-Legendre rules between the points at
which its density has fallen by e^30, found by bisection, in two panels that meet at a random point (so that points of
different nodes differ).
"""

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import expit, ndtr

RULE = np.polynomial.legendre.leggauss(40)
DROP, HALVINGS = 30.0, 50


class Law(NamedTuple):
    """Mean, sd and ends of the central interval of 90 %."""

    mean: float
    sd: float
    ends: np.ndarray


class Grid(NamedTuple):
    """Laws of a posterior: of tau, coefficients of centred columns, and predictor and rate of each group there."""

    tau: Law
    common: list[Law]
    predictor: list[Law]
    rate: list[Law]


def grid_of(family, y, size, x, codes, sds, sd_of_tau, n_tau=48):
    """Return a `Grid`; priors are Normal(0, sds) on coefficients of centred columns, HalfNormal(sd_of_tau) on tau."""
    n_b, reach = (51, 8.5) if x.shape[1] == 1 else (31, 9.1)
    x = x - np.append(0.0, x[:, 1:].mean(axis=0))
    groups = [np.flatnonzero(codes == j) for j in range(codes.max() + 1)]
    mesh = np.stack(np.meshgrid(*[np.linspace(-reach, reach, n_b)] * x.shape[1], indexing="ij"), axis=-1)
    mesh = mesh.reshape(-1, x.shape[1])
    taus = np.exp(np.linspace(np.log(sd_of_tau) - 8.5, np.log(6.5 * sd_of_tau), n_tau))
    log_joint, b, width, effects = [], [], [], []
    start = np.zeros(x.shape[1] + len(groups))
    for tau in taus:
        start, root = _mode(family, y, size, x, codes, sds, tau, start)
        b.append(start[: x.shape[1]] + mesh @ root.T)
        log_integral, points = 0.0, []
        for j, rows in enumerate(groups):
            value, *of_group = _integrate(family, y[rows], size[rows], b[-1] @ x[rows].T, tau, j)
            log_integral = log_integral + value
            points.append(of_group)
        effects.append(points)
        log_prior = -0.5 * np.sum((b[-1] / sds) ** 2, axis=1) - 0.5 * (tau / sd_of_tau) ** 2 + np.log(tau)
        log_joint.append(log_integral + log_prior + np.log(np.diag(root)).sum())
        width.append(2.0 * reach / (n_b - 1) * root)
    weight = np.exp(np.array(log_joint) - np.max(log_joint))
    weight /= weight.sum()
    assert weight[:, np.abs(mesh).max(axis=1) == reach].sum() < 1e-6  # the grid holds the posterior
    predictor, rate = zip(
        *(_group_law(family, weight, b, [e[j] for e in effects]) for j in range(len(groups))), strict=True
    )
    common = [_common_law(weight, b, width, np.eye(x.shape[1])[k]) for k in range(x.shape[1])]
    return Grid(_tau_law(weight.sum(axis=1), taus), common, list(predictor), list(rate))


def _curves(family, eta):
    if family == "poisson":
        return (np.exp(np.minimum(eta, 600.0)),) * 3
    return np.logaddexp(0.0, eta), expit(eta), expit(eta) * expit(-eta)


def _mode(family, y, size, x, codes, sds, tau, start):
    """Return the mode of (b, u) given tau, and a root of the covariance of b in the normal law there."""
    design = np.column_stack([x, codes[:, None] == np.arange(codes.max() + 1)])
    prior = np.append(np.asarray(sds, dtype=float), np.full(codes.max() + 1, tau)) ** -2.0

    def density(at):
        eta = design @ at
        return np.sum(y * eta - size * _curves(family, eta)[0]) - 0.5 * prior @ at**2

    at, precision = start, np.diag(prior)
    for _ in range(300):
        _, mean, curvature = _curves(family, design @ at)
        precision = design.T @ (design * (size * curvature)[:, None]) + np.diag(prior)
        step = np.linalg.solve(precision, design.T @ (y - size * mean) - prior * at)
        while density(at + step) < density(at) - 1e-9 * abs(density(at)):
            step = step / 2
        at = at + step
        if step @ precision @ step < 1e-10:
            break
    return at, np.linalg.cholesky(np.linalg.inv(precision)[: x.shape[1], : x.shape[1]])


def _integrate(family, y, size, base, tau, seed):
    """Return logs of the integrals over u, points (n, n_points), ends of their cells and conditional probabilities."""

    def log_density(u):
        eta = base[..., None] + u[:, None]
        return (
            np.einsum("c,ncp->np", y, eta)
            - np.einsum("c,ncp->np", size, _curves(family, eta)[0])
            - 0.5 * (u / tau) ** 2
        )

    def slope(u):
        return y.sum() - _curves(family, base + u[:, None])[1] @ size - u / tau**2

    reach = np.maximum(tau, 1.0) * 60.0
    low, high = np.full(len(base), -reach), np.full(len(base), reach)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        rises = slope(middle) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    mode = 0.5 * (low + high)
    top, sides = log_density(mode[:, None])[:, 0], []
    for sign in (-1.0, 1.0):
        near, far = np.zeros(len(base)), np.full(len(base), np.sqrt(2.0 * DROP) * tau)
        for _ in range(30):
            middle = 0.5 * (near + far)
            falls = top - log_density((mode + sign * middle)[:, None])[:, 0] > DROP
            near, far = np.where(falls, near, middle), np.where(falls, middle, far)
        sides.append(mode + sign * far)
    cut = np.random.default_rng(seed).uniform(0.3, 0.7, len(base))
    cut = np.where(cut < 0.5, sides[0] + 2 * cut * (mode - sides[0]), mode + (2 * cut - 1) * (sides[1] - mode))
    edges = np.stack([sides[0], cut, sides[1]])
    half = np.diff(edges, axis=0).T[:, :, None] / 2
    points = (edges[:2].T[:, :, None] + half * (1.0 + RULE[0])).reshape(len(base), -1)
    value = log_density(points) + np.log(half * RULE[1]).reshape(len(base), -1) - np.log(tau)
    largest = value.max(axis=1, keepdims=True)
    total = largest[:, 0] + np.log(np.exp(value - largest).sum(axis=1))
    cells = edges[:2].T[:, :, None] + half * np.append(0.0, np.cumsum(RULE[1]))
    spans = [part.reshape(len(base), -1) for part in (cells[:, :, :-1], cells[:, :, 1:])]
    return total, points, *spans, np.exp(value - total[:, None])


def _law(values, weight, ends):
    mean = weight @ values
    return Law(mean, np.sqrt(weight @ (values - mean) ** 2), ends)


def _group_law(family, weight, b, effects):
    """Return the laws of predictor and rate of a group where all columns but the intercept are at their means."""
    parts = []
    for of_tau, common, (*places, probability) in zip(weight, b, effects, strict=True):
        joint = of_tau[:, None] * probability
        used = joint > 1e-14
        parts.append([(common[:, :1] + place)[used] for place in places] + [joint[used]])
    values, first, last, joint = (np.concatenate(part) for part in zip(*parts, strict=True))
    joint /= joint.sum()
    # a distribution function of pieces: in its cell each point has an even density
    at, change = np.concatenate([first, last]), np.concatenate([joint, -joint]) / np.tile(last - first, 2)
    order = np.argsort(at)
    below = np.append(0.0, np.cumsum(np.cumsum(change[order])[:-1] * np.diff(at[order])))
    ends = np.interp([0.05, 0.95], below, at[order])
    inverse = expit if family == "binomial" else np.exp
    return _law(values, joint, ends), _law(inverse(values), joint, inverse(ends))


def _common_law(weight, b, width, contrast):
    """Return the law of a coefficient: each point of the grid has the width of its place."""
    values = np.array(b) @ contrast
    mean = np.sum(weight * values)
    sd = np.sqrt(np.sum(weight * (values - mean) ** 2))
    at = np.linspace(mean - 6 * sd, mean + 6 * sd, 2001)
    below = np.zeros(len(at))
    for of_tau, value, root in zip(weight, values, width, strict=True):
        used = of_tau > 1e-11
        if used.any():
            share, value = of_tau[used], value[used]
            kernel = (contrast @ root) @ (contrast @ root) / 12.0
            centre = share @ value / share.sum()
            spread = max(share @ (value - centre) ** 2 / share.sum(), kernel)
            value = centre + (value - centre) * np.sqrt(1.0 - kernel / spread)
            below += ndtr((at[:, None] - value) / np.sqrt(kernel)) @ share
    return Law(mean, sd, np.interp([0.05, 0.95], below, at))


def _tau_law(weight, taus):
    """Return the law of tau from its values on a grid even in its log."""
    fine = np.linspace(np.log(taus[0]), np.log(taus[-1]), 4001)
    density = np.maximum(CubicSpline(np.log(taus), weight)(fine), 0.0)
    below = np.cumsum(density) - 0.5 * density
    return _law(taus, weight, np.exp(np.interp([0.05, 0.95], below / density.sum(), fine)))
