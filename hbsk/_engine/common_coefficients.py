"""Common coefficients given the variance parameters: Gaussian, and diagonal in the residual variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotri, dtrtri, dtrtrs

from hbsk._engine.group_algebra import ROUNDING
from hbsk._engine.variance_parameters import RESIDUAL_SD_FLOOR

# Share of the data in the information on a direction of the common coefficients, at sigma = sd(y),
# that cannot be told from rounding, for each column (measured: 1.6e-13 with 31 columns).
NO_DATA = 1e-13
# Share of the prior below which one less the share of the data has lost digits.
CANCELLED = 1e-4
# Columns from which a triangular basis is used (100 columns: 0.1 ms a point instead of 1.2), and what it may leave out
# of the log density.
COLUMNS_FOR_TRIANGLES = 32
LEFT_OUT = 1e-3
# Posterior sds of log sigma within which that is so.
SIGMA_REACH = 4.0
POINTS_FOR_SIGMA = 2
# Matrices of three columns from which all are rotated together, what is left off their diagonals, and most sweeps.
ROTATED_MATRICES = 64
ROTATED, MOST_SWEEPS = 1e-17, 12


@dataclass(frozen=True)
class ConditionalCommon:
    """Law of the common coefficients given (sigma, Lambda), diagonal in sigma.

    ``Q = basis^-T (s d + 1 - d) basis^-1`` with ``s = reference^2 / sigma^2`` and d in [0, 1], so
    that every sigma costs p operations. ``1 - d`` is computed as the share of the prior: a flat one leaves exactly
    0, which counts where s is small. Leading axis: points of theta.
    """

    basis: np.ndarray | None  # (n_points, p, p); None where it was not kept
    share: np.ndarray  # (n_points, p), d
    rest: np.ndarray  # (n_points, p), 1 - d
    slope: np.ndarray  # (n_points, p), basis' C_xy / reference^2
    constant: np.ndarray  # (n_points, p), basis' K m
    half_log_det: np.ndarray  # (n_points,), 1/2 log|Q| at sigma = reference
    residual: np.ndarray  # (n_points,), C_yy / reference^2
    reference: np.ndarray  # (n_points,)
    tilt: np.ndarray  # (n_points,), what the quadratic form gains with 1 - s beside its diagonal; 0 where there is none

    @classmethod
    def of(cls, reduced, prior_mean, prior_precision, n):
        """Diagonalise C_xx / reference^2 against K."""
        # Group sds beyond floating point: whatever stands for the sums, a residual that is no number has no weight.
        any_beyond = not np.isfinite(reduced).all()
        if any_beyond:
            is_beyond = ~np.isfinite(reduced).all(axis=(1, 2))
            reduced = np.where(is_beyond[:, None, None], np.eye(reduced.shape[1]), reduced)
        c_xx, c_xy, c_yy = reduced[:, :-1, :-1], reduced[:, :-1, -1], reduced[:, -1, -1]
        c_yy = np.maximum(c_yy, 0.0)
        reference = np.maximum(np.sqrt(c_yy / n), RESIDUAL_SD_FLOOR)
        scale = reference[:, None] ** -2.0
        share, basis, log_det = diagonalised(c_xx * scale[:, :, None], prior_precision)
        transposed = basis.swapaxes(1, 2)
        share, rest = _shares(share, prior_precision @ basis**2, NO_DATA * (len(prior_precision) + 10))
        slope = (transposed @ (c_xy * scale)[:, :, None])[:, :, 0]
        residual = c_yy * scale[:, 0]
        return cls(
            basis=basis,
            share=share,
            rest=rest,
            # What rounding leaves of a direction without data would be magnified where sigma is small.
            slope=np.where(share > 0, slope, 0.0),
            constant=transposed @ (prior_precision * prior_mean),
            half_log_det=0.5 * log_det,
            residual=np.where(is_beyond, np.nan, residual) if any_beyond else residual,
            reference=reference,
            tilt=np.zeros(len(reference)),
        )

    @classmethod
    def near(cls, reduced, prior_mean, prior_precision, n, sigma=None):
        """Return the law near one sigma for each point: exact there, by Cholesky's factor instead of eigenvalues.

        With ``Q = L L'`` at the reference and ``N = L^-1 K L^-T``, the share of the prior, ``Q`` at another sigma is
        ``L (s I + (1 - s) N) L'``. The diagonal of N stands for N, and `tilt` for what its other entries add in the
        first order of ``1 - s``; the second is left out. Points where that could be seen, because priors weigh as much
        as the data where columns hang together, are diagonalised (`of`), and so are few columns and few rows.

        Parameters
        ----------
        reduced : ndarray of shape (n_points, p + 1, p + 1)
        prior_mean, prior_precision : ndarray of shape (p,)
        n : float
            Number of copies of rows.
        sigma : ndarray of shape (n_points,), optional
            The only sigma at which the law is wanted; by default near the residual sd that the columns leave.
        """
        p, left = len(prior_precision), n - len(prior_precision)
        if p < COLUMNS_FOR_TRIANGLES or (sigma is None and left < p):
            return cls.of(reduced, prior_mean, prior_precision, n)
        try:
            reference = _typical_sigma(reduced, prior_precision, n) if sigma is None else sigma
            law, second_order = cls._triangular(reduced, prior_mean, prior_precision, reference)
        except np.linalg.LinAlgError:
            return cls.of(reduced, prior_mean, prior_precision, n)
        if sigma is not None:
            return law
        # distances of s from 1: of the best sigma, and of those within reach of it
        unexplained = law.residual - np.sum((law.slope + law.constant) * law.slope, axis=1)
        away = np.abs(left / np.maximum(unexplained, 1e-9 * left) - 1.0) + SIGMA_REACH * np.sqrt(2.0 / left)
        (seen,) = np.nonzero(second_order * away**2 > LEFT_OUT)
        if len(seen):
            exact = cls.of(reduced[seen], prior_mean, prior_precision, n)
            for name, values in vars(law).items():
                values[seen] = getattr(exact, name)
        return law

    @classmethod
    def _triangular(cls, reduced, prior_mean, prior_precision, reference):
        """Return the law in the basis L^-T, and a bound of what it leaves out beside ``(1 - s)^2``."""
        c_xx, c_xy, c_yy = reduced[:, :-1, :-1], reduced[:, :-1, -1], np.maximum(reduced[:, -1, -1], 0.0)
        scale = reference[:, None] ** -2.0
        _refuse_noise(c_xx, prior_precision, reference)
        lower, size = _factor(c_xx, prior_precision, reference)
        half_log_det = np.log(np.einsum("mkk->mk", lower) * size).sum(axis=1)
        inverse = lower
        for matrix in inverse:  # LAPACK reads arrays by columns, so that it sees L' where L is
            matrix[...] = dtrtri(matrix.T, overwrite_c=True)[0].T
        inverse /= size[:, None, :]
        of_prior = np.minimum((inverse * inverse) @ prior_precision, 1.0)
        slope = (inverse @ (c_xy * scale)[:, :, None])[:, :, 0]
        constant = inverse @ (prior_precision * prior_mean)
        coordinate = slope + constant
        b_hat = np.einsum("mia,mi->ma", inverse, coordinate)
        prior_form = b_hat**2 @ prior_precision
        size_of_n = of_prior.sum(axis=1)
        second_order = 0.5 * size_of_n**2 + size_of_n * prior_form
        if np.any(second_order > LEFT_OUT):
            square = np.sum(((inverse * prior_precision) @ inverse.swapaxes(1, 2)) ** 2, axis=(1, 2))
            beside = np.maximum(square - np.sum(of_prior**2, axis=1), 0.0)
            second_order = 0.5 * beside + np.sqrt(beside) * prior_form
        law = cls(
            basis=inverse.swapaxes(1, 2),
            share=1.0 - of_prior,
            rest=of_prior,
            slope=slope,
            constant=constant,
            half_log_det=half_log_det,
            residual=c_yy * scale[:, 0],
            reference=reference.copy(),
            tilt=prior_form - np.sum(of_prior * coordinate**2, axis=1),
        )
        return law, second_order

    def at(self, log_sigma: np.ndarray):
        """Return s, the eigenvalues of Q and the coordinates of b_hat, for a grid of sigma.

        Shapes (n_points, n_grid), (n_points, n_grid, p), (n_points, n_grid, p).
        """
        s = np.exp(2 * (np.log(self.reference)[:, None] - log_sigma))
        eigenvalue = self.share[:, None, :] * s[:, :, None] + self.rest[:, None, :]
        moment = self.slope[:, None, :] * s[:, :, None] + self.constant[:, None, :]
        return s, eigenvalue, moment / eigenvalue

    def reduce(self, sigma: np.ndarray, least: float, constant: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ``C_yy / sigma^2 + m' K m - r' Q^-1 r`` and ``log|Q|`` over a grid of sigma, (n_points, n_grid).

        A column at a time: for a thousand points, arrays (n_points, n_grid, p) take three times as long.

        Parameters
        ----------
        sigma : ndarray of shape (n_points, n_grid)
        least : float
            What no coefficients take off C_yy: where group sds are beyond all bounds, rounding would.
        constant : float
            ``m' K m``.
        """
        s = (self.reference[:, None] / sigma) ** 2
        quadratic = s * self.residual[:, None]
        quadratic += constant
        if self.tilt.any():
            quadratic += (1.0 - s) * self.tilt[:, None]
        log_det = np.empty_like(s)
        log_det[...] = 2 * self.half_log_det[:, None]
        by_column = zip(self.share.T, self.rest.T, self.slope.T, self.constant.T, strict=True)
        product = None
        for share, rest, slope, prior in by_column:
            eigenvalue = share[:, None] * s
            eigenvalue += rest[:, None]
            moment = slope[:, None] * s
            moment += prior[:, None]
            moment *= moment
            moment /= eigenvalue
            quadratic -= moment
            # one logarithm for two columns: more of them could leave floating point
            if product is None:
                product = eigenvalue
            else:
                product *= eigenvalue
                log_det += np.log(product)
                product = None
        if product is not None:
            log_det += np.log(product)
        return np.maximum(quadratic, s * (least / self.reference**2)[:, None]), log_det

    def log_sigma_slope(self, log_sigma: np.ndarray, n: float) -> np.ndarray:
        """Return d log p(y | sigma, Lambda) / d log sigma over a grid of sigma, a column at a time, as in `reduce`."""
        s = np.exp(2 * (np.log(self.reference)[:, None] - log_sigma))
        slope_of_quadratic = np.repeat((self.residual - self.tilt)[:, None], s.shape[1], axis=1)
        for share, rest, slope, prior in zip(self.share.T, self.rest.T, self.slope.T, self.constant.T, strict=True):
            share, slope = share[:, None], slope[:, None]
            reciprocal = 1.0 / (share * s + rest[:, None])
            coordinate = (slope * s + prior[:, None]) * reciprocal
            slope_of_quadratic += share * (reciprocal + coordinate**2) - 2 * slope * coordinate
        return s * slope_of_quadratic - n


def _shares(of_data, of_prior, no_data):
    """Return the shares of data and prior; the prior's is one less the data's, unless that would cancel.

    Where the data say nothing that could be told from rounding, all is the prior's, and where neither does (a flat
    prior beside group sds beyond all bounds) the direction stays as it is at the reference.
    """
    share = np.where((of_data < no_data) | (of_data + of_prior < 0.5), 0.0, np.minimum(of_data, 1.0))
    return share, np.where((of_prior < CANCELLED) & (share > 0.5), of_prior, 1.0 - share)


def _typical_sigma(reduced, prior_precision, n):
    """Return one residual sd for all points: the median of what columns leave of y at a few of them."""
    some = reduced[np.linspace(0, len(reduced) - 1, min(len(reduced), POINTS_FOR_SIGMA)).astype(int)]
    c_yy = np.maximum(some[:, -1, -1], 0.0)
    rough = np.maximum(np.sqrt(c_yy / n), RESIDUAL_SD_FLOOR)
    lower, size = _factor(some[:, :-1, :-1], prior_precision, rough)
    right = some[:, :-1, -1] * rough[:, None] ** -2.0 / size
    whitened = np.linalg.solve(lower, right[:, :, None])[:, :, 0]
    unexplained = np.maximum(c_yy - rough**2 * np.sum(whitened**2, axis=1), 0.0)
    sigma = np.maximum(np.sqrt(unexplained / (n - len(prior_precision))), RESIDUAL_SD_FLOOR)
    return np.full(len(reduced), np.median(sigma))


def conditional_means(reduced, prior_mean, prior_precision, n, sigma):
    """Return the means (n_points, p) of the common coefficients, each point at its sigma."""
    c_xx, scale = reduced[:, :-1, :-1], sigma[:, None] ** -2.0
    try:
        _refuse_noise(c_xx, prior_precision, sigma)
        lower, size = _factor(c_xx, prior_precision, sigma)
    except np.linalg.LinAlgError:
        law = ConditionalCommon.of(reduced, prior_mean, prior_precision, n)
        return np.einsum("mij,mj->mi", law.basis, law.at(np.log(sigma)[:, None])[2][:, 0])
    right = (reduced[:, :-1, -1] * scale + prior_precision * prior_mean) / size
    solved = [dtrtrs(L.T, dtrtrs(L.T, of_y, trans=1)[0])[0] for L, of_y in zip(lower, right, strict=True)]
    return np.stack(solved) / size


def conditional_covariances(reduced, prior_precision, sigma, *, root):
    """Return covariances (n_points, p, p) of the common coefficients, each point at its sigma, or roots R, R R' them.

    Raises
    ------
    LinAlgError
        Where eigenvalues are needed (`ConditionalCommon.of`).
    """
    c_xx = reduced[:, :-1, :-1]
    _refuse_noise(c_xx, prior_precision, sigma)
    lower, size = _factor(c_xx, prior_precision, sigma)
    for matrix in lower:
        if root:
            matrix[...] = dtrtri(matrix.T, overwrite_c=True)[0].T
        else:
            half = dpotri(matrix.T, overwrite_c=True)[0].T  # its lower triangle
            half = np.tril(half)
            matrix[...] = half + np.tril(half, -1).T
    lower /= size[:, None, :]
    if root:
        return np.ascontiguousarray(lower.swapaxes(1, 2))
    lower /= size[:, :, None]
    return lower


def _refuse_noise(c_xx, prior_precision, sigma):
    """Raise where rounding of the data would be seen beside the prior, in directions that have no data."""
    p = len(prior_precision)
    noise = NO_DATA * (p + 10) * np.max(np.einsum("mkk->mk", c_xx) * sigma[:, None] ** -2.0, initial=0.0)
    if noise > 1e-2 * np.min(prior_precision, where=prior_precision > 0, initial=np.inf):
        raise np.linalg.LinAlgError("rounding of the data is seen beside the prior")


def _factor(c_xx, prior_precision, reference):
    """Return Cholesky's factors of ``C_xx / reference^2 + K`` with unit diagonal, and the roots of that diagonal."""
    scale = reference[:, None] ** -2.0
    size = np.sqrt(np.maximum(np.einsum("mkk->mk", c_xx) * scale + prior_precision, 0.0))
    size = np.where(size > 0, size, 1.0)
    precision = c_xx * (scale / size)[:, :, None]
    precision /= size[:, None, :]
    p = len(prior_precision)
    precision[:, range(p), range(p)] += prior_precision / size**2
    return np.linalg.cholesky(precision), size


def diagonalised(of_data: np.ndarray, prior_precision: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return d (n, p), the basis (n, p, p), and log|Q| (n,), of ``Q = C_xx / sigma^2 + K``: see `ConditionalCommon`.

    Parameters
    ----------
    of_data : ndarray of shape (n, p, p)
        ``C_xx / sigma^2``.
    prior_precision : ndarray of shape (p,)
    """
    n, p = of_data.shape[:2]
    if p in (1, 2) or (p == 3 and n >= ROTATED_MATRICES):
        found = _diagonalised_at_once(of_data, prior_precision)
        if found is not None:
            return found
    precision = of_data + np.diag(prior_precision)
    # Cholesky of the matrix with unit diagonal: columns on different scales do no harm.
    size = np.sqrt(np.maximum(np.einsum("mkk->mk", precision), 0.0))
    size = np.where(size > 0, size, 1.0)
    lower = _cholesky(precision / (size[:, :, None] * size[:, None, :]))
    half_solve = np.linalg.solve(lower, np.broadcast_to(np.eye(p), precision.shape)) / size[:, None, :]
    share, vectors = np.linalg.eigh(half_solve @ of_data @ half_solve.swapaxes(1, 2))
    log_det = 2.0 * np.log(np.einsum("mkk->mk", lower) * size).sum(axis=1)
    return share, half_solve.swapaxes(1, 2) @ vectors, log_det


def _diagonalised_at_once(of_data, prior_precision):
    """Return what `diagonalised` does, of all matrices at once, or None where one of them is singular to rounding.

    Of two or three columns: a call of LAPACK for each matrix takes several times as long.
    """
    p = len(prior_precision)
    of_data = np.ascontiguousarray(of_data.transpose(1, 2, 0))
    lower: dict[tuple[int, int], np.ndarray] = {}  # Cholesky's factor of Q
    rows: list[np.ndarray] = []  # of its inverse
    log_det = np.zeros(of_data.shape[2])
    for i in range(p):
        for j in range(i):
            entry = of_data[i, j]
            for k in range(j):
                entry = entry - lower[i, k] * lower[j, k]
            lower[i, j] = entry / lower[j, j]
        diagonal = of_data[i, i] + prior_precision[i]
        pivot = diagonal - sum(lower[i, k] ** 2 for k in range(i))
        if not np.all(pivot > ROUNDING * diagonal):
            return None
        lower[i, i] = np.sqrt(pivot)
        log_det = log_det + np.log(pivot)
        row = np.zeros((p, len(pivot)))
        row[i] = 1.0
        for k in range(i):
            row -= lower[i, k] * rows[k]
        rows.append(row / lower[i, i])
    moved = [np.einsum("kn,kjn->jn", row, of_data) for row in rows]
    whitened = {(i, j): np.einsum("jn,jn->n", moved[i], rows[j]) for i in range(p) for j in range(i + 1)}
    share = rotate_to_diagonal(whitened, rows)
    return np.stack(share, axis=1), np.stack(rows).transpose(2, 1, 0), log_det


def rotate_to_diagonal(matrix: dict[tuple[int, int], np.ndarray], basis: list[np.ndarray]) -> list[np.ndarray]:
    """Return eigenvalues, p arrays (n,) in no order, of symmetric matrices of size about 1, by Jacobi's rotations.

    Parameters
    ----------
    matrix : dict of (int, int) to ndarray of shape (n,)
        Entries on and below the diagonal, of all matrices.
    basis : list of p ndarray of shape (p, n)
        Becomes its product with the eigenvectors, in place.
    """
    p = len(basis)
    pairs = [pair for pair in matrix if pair[0] > pair[1]]
    for sweep in range(MOST_SWEEPS):
        # one rotation is all that two columns take
        if sweep and (p == 2 or all(np.all(np.abs(matrix[pair]) <= ROTATED) for pair in pairs)):
            break
        for i, j in pairs:
            twice, apart = 2.0 * matrix[i, j], matrix[i, i] - matrix[j, j]
            # both are zero where nothing is to rotate
            tangent = twice / (apart + np.copysign(np.hypot(apart, twice) + 1e-300, apart))
            cosine = 1.0 / np.sqrt(1.0 + tangent**2)
            sine = tangent * cosine
            change = 0.5 * tangent * twice
            matrix[i, i] = matrix[i, i] + change
            matrix[j, j] = matrix[j, j] - change
            matrix[i, j] = np.zeros_like(twice)
            for k in set(range(p)) - {i, j}:
                of_i, of_j = (max(k, i), min(k, i)), (max(k, j), min(k, j))
                x, y = matrix[of_i], matrix[of_j]
                matrix[of_j], matrix[of_i] = cosine * y - sine * x, sine * y + cosine * x
            x, y = basis[i], basis[j]
            basis[j], basis[i] = cosine * y - sine * x, sine * y + cosine * x
    return [matrix[k, k] for k in range(p)]


def _cholesky(matrices):
    """Return Cholesky factors; matrices singular to rounding have their eigenvalues clipped first."""
    try:
        return np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrices)
        values = np.maximum(values, 1e-14 * np.maximum(values[:, -1:], 1e-300))
        clipped = (vectors * values[:, None, :]) @ vectors.swapaxes(1, 2)
        return np.linalg.cholesky(clipped + 1e-15 * np.eye(matrices.shape[-1]))
