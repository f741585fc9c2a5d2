"""Common coefficients given the variance parameters: Gaussian, and diagonal in the residual variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbsk.inference.variance_parameters import RESIDUAL_SD_FLOOR

# Share of the data in the information on a direction of the common coefficients, at sigma = sd(y),
# that cannot be told from rounding, for each column (measured: 1.6e-13 with 31 columns).
NO_DATA = 1e-13
# Share of the prior below which one less the share of the data has lost digits.
CANCELLED = 1e-4


@dataclass(frozen=True)
class ConditionalCommon:
    """Law of the common coefficients given (sigma, Lambda), diagonal in sigma.

    ``Q = basis^-T (s d + 1 - d) basis^-1`` with ``s = reference^2 / sigma^2`` and d in [0, 1], so
    that every sigma costs p operations. ``1 - d`` is computed as the share of the prior: a flat one leaves exactly
    0, which counts where s is small. Leading axis: points of theta.
    """

    basis: np.ndarray  # (n_points, p, p)
    share: np.ndarray  # (n_points, p), d
    rest: np.ndarray  # (n_points, p), 1 - d
    slope: np.ndarray  # (n_points, p), basis' C_xy / reference^2
    constant: np.ndarray  # (n_points, p), basis' K m
    half_log_det: np.ndarray  # (n_points,), 1/2 log|Q| at sigma = reference
    residual: np.ndarray  # (n_points,), C_yy / reference^2
    reference: np.ndarray  # (n_points,)

    @classmethod
    def of(cls, reduced, prior_mean, prior_precision, n):
        """Diagonalise C_xx / reference^2 against K."""
        c_xx, c_xy, c_yy = reduced[:, :-1, :-1], reduced[:, :-1, -1], reduced[:, -1, -1]
        c_yy = np.maximum(c_yy, 0.0)
        reference = np.maximum(np.sqrt(c_yy / n), RESIDUAL_SD_FLOOR)
        scale = reference[:, None] ** -2.0
        p = c_xy.shape[1]
        precision = c_xx * scale[:, :, None] + np.diag(prior_precision)
        # Cholesky of the matrix with unit diagonal: columns on different scales do no harm.
        size = np.sqrt(np.maximum(np.einsum("mkk->mk", precision), 0.0))
        size = np.where(size > 0, size, 1.0)
        lower = _cholesky(precision / (size[:, :, None] * size[:, None, :]))
        identity = np.broadcast_to(np.eye(p), precision.shape)
        half_solve = np.linalg.solve(lower, identity) / size[:, None, :]
        whitened = half_solve @ (c_xx * scale[:, :, None]) @ half_solve.swapaxes(1, 2)
        share, vectors = np.linalg.eigh(whitened)
        basis = half_solve.swapaxes(1, 2) @ vectors
        transposed = basis.swapaxes(1, 2)
        slope = (transposed @ (c_xy * scale)[:, :, None])[:, :, 0]
        share, rest = _shares(share, np.einsum("a,mai->mi", prior_precision, basis**2), NO_DATA * (p + 10))
        return cls(
            basis=basis,
            share=share,
            rest=rest,
            # What rounding leaves of a direction without data would be magnified where sigma is small.
            slope=np.where(share > 0, slope, 0.0),
            constant=transposed @ (prior_precision * prior_mean),
            half_log_det=np.log(np.einsum("mkk->mk", lower) * size).sum(axis=1),
            residual=c_yy * scale[:, 0],
            reference=reference,
        )

    def at(self, log_sigma: np.ndarray):
        """Return s, the eigenvalues of Q and the coordinates of b_hat, for a grid of sigma.

        Shapes (n_points, n_grid), (n_points, n_grid, p), (n_points, n_grid, p).
        """
        s = np.exp(2 * (np.log(self.reference)[:, None] - log_sigma))
        eigenvalue = self.share[:, None, :] * s[:, :, None] + self.rest[:, None, :]
        moment = self.slope[:, None, :] * s[:, :, None] + self.constant[:, None, :]
        return s, eigenvalue, moment / eigenvalue

    def reduce(self, log_sigma: np.ndarray, least: float, constant: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ``C_yy / sigma^2 + m' K m - r' Q^-1 r`` and ``log|Q|`` over a grid of sigma, (n_points, n_grid).

        A column at a time: for a thousand points, arrays (n_points, n_grid, p) take three times as long.

        Parameters
        ----------
        log_sigma : ndarray of shape (n_points, n_grid)
        least : float
            What no coefficients take off C_yy: where group sds are beyond all bounds, rounding would.
        constant : float
            ``m' K m``.
        """
        s = np.exp(2 * (np.log(self.reference)[:, None] - log_sigma))
        quadratic = s * self.residual[:, None]
        quadratic += constant
        log_det = np.repeat(2 * self.half_log_det[:, None], s.shape[1], axis=1)
        by_column = zip(self.share.T, self.rest.T, self.slope.T, self.constant.T, strict=True)
        for share, rest, slope, prior in by_column:
            eigenvalue = share[:, None] * s
            eigenvalue += rest[:, None]
            moment = slope[:, None] * s
            moment += prior[:, None]
            moment *= moment
            moment /= eigenvalue
            quadratic -= moment
            log_det += np.log(eigenvalue)
        return np.maximum(quadratic, s * (least / self.reference**2)[:, None]), log_det


def _shares(of_data, of_prior, no_data):
    """Return the shares of data and prior; the prior's is one less the data's, unless that would cancel.

    Where the data say nothing that could be told from rounding, all is the prior's, and where neither does (a flat
    prior beside group sds beyond all bounds) the direction stays as it is at the reference.
    """
    share = np.where((of_data < no_data) | (of_data + of_prior < 0.5), 0.0, np.minimum(of_data, 1.0))
    return share, np.where((of_prior < CANCELLED) & (share > 0.5), of_prior, 1.0 - share)


def _cholesky(matrices):
    """Return Cholesky factors; matrices singular to rounding have their eigenvalues clipped first."""
    try:
        return np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrices)
        values = np.maximum(values, 1e-14 * np.maximum(values[:, -1:], 1e-300))
        clipped = (vectors * values[:, None, :]) @ vectors.swapaxes(1, 2)
        return np.linalg.cholesky(clipped + 1e-15 * np.eye(matrices.shape[-1]))
