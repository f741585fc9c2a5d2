"""The stupid twin of the marginal engine: n x n matrices, one row at a time, no sums over groups.

Everything is in the units of the rows. Weights are copies: with whole numbers `Problem.copied` repeats the rows, and
nothing here knows of weights at all.
"""

from dataclasses import dataclass, replace

import numpy as np

from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.sums import collect
from tests.stand_ins import Design


@dataclass(frozen=True)
class Problem:
    """Rows of a Gaussian model with one grouping factor."""

    X: np.ndarray
    Z: np.ndarray
    codes: np.ndarray
    n_groups: int
    y: np.ndarray
    weight: np.ndarray | None = None
    standard_error: np.ndarray | None = None
    has_intercept: bool = True

    @property
    def n_rows(self):
        return len(self.y)

    def take(self, rows):
        def part(values):
            return None if values is None else values[rows]

        fields = {name: part(getattr(self, name)) for name in ("X", "Z", "codes", "y", "weight", "standard_error")}
        return replace(self, **fields)

    def copied(self):
        """The same problem with weights spelt out as copies of rows."""
        if self.weight is None:
            return self
        return replace(self.take(np.repeat(np.arange(self.n_rows), self.weight.astype(int))), weight=None)

    def centred(self):
        """Common columns about their means over copies, where there is an intercept: what priors refer to."""
        X = self.X.copy()
        if self.has_intercept:
            X[:, 1:] -= np.average(X[:, 1:], axis=0, weights=self.weight)
        return X

    def counterparts(self):
        """For each varying column the common column that holds the same numbers."""
        same = [[c for c in range(self.X.shape[1]) if np.array_equal(self.X[:, c], z)] for z in self.Z.T]
        return [[columns[0] if columns else None for columns in same]]

    def collect(self, **options):
        is_one = [k for k, z in enumerate(self.Z.T) if np.all(z == 1.0)]
        options = {"varying_intercept": is_one[0] if is_one else None} | options
        return collect(
            Design(self.X, [self.Z]),
            self.codes,
            self.n_groups,
            self.y,
            has_intercept=self.has_intercept,
            sample_weight=self.weight,
            standard_error=self.standard_error,
            **options,
        )


def make_problem(rng, *, q=2, p=3, n_groups=5, n_rows=31, has_intercept=True, weights=False, errors=False):
    """Unequal groups (one has a single row), columns on different scales and far from zero."""
    share = np.arange(1, n_groups + 1) ** 1.3
    codes = rng.choice(n_groups, n_rows, p=share / share.sum())
    codes[codes == 0] = n_groups - 1
    codes[3] = 0
    X = rng.normal(size=(n_rows, p)) * 10.0 ** rng.uniform(-1.5, 1.5, p) + rng.normal(size=p)
    if has_intercept:
        X[:, 0] = 1.0
    # the first varying column is an intercept, the next ones are common columns, then new ones
    Z = np.column_stack([np.ones(n_rows), X[:, 1:q], rng.normal(0.4, 2.0, size=(n_rows, max(q - p, 0)))])[:, :q]
    effects = rng.normal(size=(n_groups, q)) * np.linspace(1.7, 0.6, q)
    slopes = rng.normal(size=p) / np.abs(X).max(axis=0)
    y = 3.0 * (X @ slopes) + np.sum(Z * effects[codes], axis=1) + rng.normal(0.0, 0.8, n_rows)
    weight = rng.integers(1, 4, n_rows).astype(float) if weights else None
    standard_error = rng.uniform(0.3, 1.4, n_rows) if errors else None
    return Problem(X, Z, codes, n_groups, y, weight, standard_error, has_intercept)


def make_priors(rng, problem, *, blocks=None, residual_sd="HalfStudentT", flat=()):
    """Proper priors of no special scale; `flat` lists common columns without one."""
    p, q = problem.X.shape[1], problem.Z.shape[1]
    mean, sd = rng.normal(size=p), rng.uniform(0.5, 4.0, p)
    sd[list(flat)] = np.inf
    residual = SdPrior("HalfStudentT", {"nu": 4.0, "sigma": 1.3}) if residual_sd == "HalfStudentT" else residual_sd
    if problem.standard_error is not None:
        residual = None
    group = [SdPrior("HalfNormal", {"sigma": s}) for s in rng.uniform(0.7, 2.5, q)]
    blocks = (tuple(range(q)),) if blocks is None else blocks
    return EnginePriors(mean, sd, residual, group, blocks, (1.4,) * len(blocks))


def random_covariance(rng, q, scale=1.0):
    """Sds, lower factor of a correlation matrix, and the covariance; correlations of any size."""
    tau = scale * rng.uniform(0.3, 2.0, q)
    root = np.tril(rng.normal(size=(q, q)))
    root[range(q), range(q)] = np.abs(root[range(q), range(q)]) + 0.1
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    half = tau[:, None] * root
    return tau, root, half @ half.T


def engine_covariance(scaling, sigma, Sigma):
    """A factor Lambda and sigma of the engine for a covariance and a residual sd in the units of the rows."""
    engine_sigma = sigma / scaling.y_scale
    return np.linalg.solve(
        scaling.effects(np.eye(len(Sigma))).T, np.linalg.cholesky(Sigma)
    ) / engine_sigma, engine_sigma


def group_columns(problem):
    """Dense columns of the group effects, (n_rows, J q): those of group 0 first."""
    q = problem.Z.shape[1]
    columns = np.zeros((problem.n_rows, problem.n_groups * q))
    for i, group in enumerate(problem.codes):
        columns[i, group * q : (group + 1) * q] = problem.Z[i]
    return columns


def noise_variance(problem, sigma):
    return np.full(problem.n_rows, sigma**2) if problem.standard_error is None else problem.standard_error**2


def log_marginal(problem, priors, sigma, Sigma):
    """log p(y | sigma, Sigma) by the multivariate normal density of all copies of all rows."""
    X = problem.centred()
    if problem.weight is not None:
        X = np.repeat(X, problem.weight.astype(int), axis=0)
    problem = problem.copied()
    Z = group_columns(problem)
    covariance = np.diag(noise_variance(problem, sigma))
    covariance += Z @ np.kron(np.eye(problem.n_groups), Sigma) @ Z.T
    covariance += (X * priors.common_sd**2) @ X.T
    # by Cholesky's factor: SciPy's eigenvalues lose two digits more where the columns of groups are large
    white = np.linalg.solve(np.linalg.cholesky(covariance), problem.y - X @ priors.common_mean)
    log_det = np.linalg.slogdet(covariance)[1]
    return -0.5 * (white @ white + log_det + len(white) * np.log(2 * np.pi))


def log_restricted(problem, sigma, Sigma, X):
    """log of the integral of p(y | b, sigma, Sigma) over all b, with X as its columns."""
    Z = group_columns(problem)
    covariance = np.diag(noise_variance(problem, sigma)) + Z @ np.kron(np.eye(problem.n_groups), Sigma) @ Z.T
    solved = np.linalg.solve(covariance, np.column_stack([X, problem.y]))
    information = X.T @ solved[:, :-1]
    b = np.linalg.solve(information, X.T @ solved[:, -1])
    residual = problem.y - X @ b
    n, p = X.shape
    return -0.5 * (
        (n - p) * np.log(2 * np.pi)
        + np.linalg.slogdet(covariance)[1]
        + np.linalg.slogdet(information)[1]
        + residual @ np.linalg.solve(covariance, residual)
    )


@dataclass(frozen=True)
class Conditional:
    """Law of (b of centred columns, u of group 0, u of group 1, ..., u of a new group) given the variances."""

    mean: np.ndarray
    covariance: np.ndarray
    p: int
    q: int

    def raw(self, problem):
        """The same law with the coefficients of the raw common columns first."""
        change = np.eye(len(self.mean))
        if problem.has_intercept:
            change[0, 1 : self.p] = -np.average(problem.X[:, 1:], axis=0, weights=problem.weight)
        return Conditional(change @ self.mean, change @ self.covariance @ change.T, self.p, self.q)

    def row(self, x, z, code):
        """Weights of a row over the coefficients; the code J is that of the new group."""
        weights = np.zeros(len(self.mean))
        weights[: self.p] = x
        at = self.p + code * self.q
        weights[at : at + self.q] = z
        return weights


def condition(problem, priors, sigma, Sigma):
    """Condition a joint normal law of everything on y, by the textbook formula with n x n matrices."""
    X = problem.centred()
    if problem.weight is not None:
        X = np.repeat(X, problem.weight.astype(int), axis=0)
    problem = problem.copied()
    p, q = X.shape[1], problem.Z.shape[1]
    size = p + (problem.n_groups + 1) * q
    prior = np.zeros((size, size))
    prior[range(p), range(p)] = priors.common_sd**2
    prior[p:, p:] = np.kron(np.eye(problem.n_groups + 1), Sigma)
    mean = np.concatenate([priors.common_mean, np.zeros(size - p)])
    H = np.column_stack([X, group_columns(problem), np.zeros((len(X), q))])
    gain = np.linalg.solve(H @ prior @ H.T + np.diag(noise_variance(problem, sigma)), H @ prior).T
    return Conditional(mean + gain @ (problem.y - H @ mean), prior - gain @ H @ prior, p, q)
