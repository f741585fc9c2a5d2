"""What every posterior answers, whichever engine ran: nothing after ``fit`` asks which kind it has.

A row's answer is a law of its linear predictor, a mixture over nodes. Answers to users apply to it what makes an
observation of a predictor (noise, and what else a likelihood has); posteriors know predictors only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hbsk._engine.propriety import Tails
from hbsk._posterior.parts import GroupMoments, JointDraws, RowMixture, VarianceNodes, draw_rows

# Joint draws that contrasts of groups are told from where they have no closed form given the nodes.
CONTRAST_DRAWS = 8_000


class Posterior(ABC):
    """Posterior of coefficients, group effects and variance parameters, at weighted nodes.

    Rows come in as raw columns: x (n_rows, p) of the common ones, z one array (n_rows, q) for each factor, codes one
    array (n_rows,) for each factor, where a code that is not below the number of groups is a new group. Answers are
    in the units of y.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    n_groups : tuple of int
        Number of groups of each factor.
    n_chains : int
        Chains of equal length that the nodes are, where they were sampled; otherwise 0.
    tails : Tails
        Which moments do not exist.
    by_quadrature : bool
        Whether nodes have no Monte Carlo error.
    are_draws : bool
        Whether a node fixes every parameter, coefficients and effects included.
    pools_nothing : bool
        Whether groups have estimates of their own.
    is_stochastic : bool
        Whether there are draws of effects, in place of their covariances, and log-determinants have errors.
    has_crossed_model : bool
        Whether it was integrated from the sums of several factors, which are in its ``model``, with its ``scalings``.
    family : {"gaussian", "binomial", "poisson"}
        Of y given the linear predictor; posteriors of a linear model do not look at it.
    """

    weight: np.ndarray
    n_groups: tuple[int, ...]
    n_chains: int
    tails: Tails
    by_quadrature: bool
    are_draws: bool = False
    pools_nothing: bool = False
    is_stochastic: bool = False
    has_crossed_model: bool = False
    model: Any
    scalings: tuple
    family: str = "gaussian"

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.weight)

    # parameters

    @abstractmethod
    def common_estimates(self) -> np.ndarray:
        """Return the mean (p,) of the coefficients of the raw columns."""

    @abstractmethod
    def common_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (p,) and covariance (p, p) of the coefficients of the raw columns."""

    @abstractmethod
    def common_mixture(self) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds, each (n_nodes, p), of the coefficients of the raw columns.

        NaN is the sd of what nothing identifies, 0 of what a node fixes.
        """

    @abstractmethod
    def variance_nodes(self) -> VarianceNodes:
        """Return the variance parameters at the nodes."""

    def residual_sds(self) -> np.ndarray:
        """Return the residual sd at the nodes, (n_nodes,)."""
        return self.variance_nodes().sigma

    @abstractmethod
    def variance_law(self) -> tuple[VarianceNodes, np.ndarray, np.ndarray | None]:
        """Return weighted points of the variance parameters, as many as their ends of intervals need.

        Returns
        -------
        nodes : VarianceNodes
        weight : ndarray of shape (n_points,)
        replicate : ndarray of shape (n_points,), dtype int, or None
        """

    @abstractmethod
    def diagnostics(self, specification, *, sigma_is_parameter: bool) -> pd.DataFrame:
        """Return errors and convergence of every parameter, see `hbsk._posterior.diagnostics`."""

    def judged_mixture(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what a fit judges coefficients by where `diagnostics` costs too much; None where it does not."""
        return None

    def probe_error(self, values: np.ndarray) -> np.ndarray | float:  # noqa: ARG002 - mostly there are no probes
        """Return the errors of means of values at the nodes, (n_nodes, k), that log-determinants by probes make."""
        return 0.0

    # rows

    @abstractmethod
    def row_moments(
        self, x: np.ndarray, z: Sequence, codes: Sequence, need_variance: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return mean and variance (or None) of the linear predictor of rows."""

    @abstractmethod
    def row_mixture(self, x: np.ndarray, z: Sequence, codes: Sequence) -> RowMixture:
        """Return the mixture of the linear predictor of rows."""

    def on_edge(self, codes: Sequence[np.ndarray]) -> np.ndarray:
        """Tell which rows, (n_rows,), have laws of so many parts that they are better looked at by themselves."""
        return np.zeros(len(codes[0]) if codes else 0, dtype=bool)

    def coefficient_mixture(self, x: np.ndarray, z: Sequence, codes: Sequence) -> RowMixture:
        """Return the mixture of sums of coefficients: what groups absorb counts as known in them."""
        return self.row_mixture(x, z, codes)

    def row_sigma(self, codes: Sequence) -> np.ndarray:  # noqa: ARG002 - mostly the same for all rows
        """Return sigma for rows at the nodes of `row_mixture`, an array that broadcasts to (n_nodes, n_rows)."""
        return self.variance_nodes().sigma[:, None]

    def noise_variance(self, codes: Sequence) -> np.ndarray:
        """Return the posterior mean of the variance of the noise of rows, which broadcasts to (n_rows,)."""
        return self.weight @ self.row_sigma(codes) ** 2

    @property
    def has_infinite_moments(self) -> bool:
        """Whether any mean or variance does not exist."""
        return bool(self.tails.sets)

    def row_degrees(self, x: np.ndarray, z: Sequence, codes: Sequence, *, with_noise: bool = False) -> np.ndarray:  # noqa: ARG002
        """Return the order below which moments of rows exist, of the linear predictor or of y."""
        return np.full(len(x), np.inf)

    def unidentified_rows(self, x: np.ndarray, z: Sequence, codes: Sequence) -> np.ndarray:  # noqa: ARG002
        """Tell which rows have an infinite sd since nothing is pooled and their group does not identify them."""
        return np.zeros(len(x), dtype=bool)

    def about_zero(self) -> tuple[Posterior, float]:
        """Return the posterior of y less a number, and that number: 0 unless floats would lose what y differs by."""
        return self, 0.0

    # groups

    @abstractmethod
    def group_moments(self, factor: int = 0, *, need_covariance: bool = True) -> GroupMoments:
        """Return posterior moments of the effects of all groups of a factor."""

    @abstractmethod
    def shrinkage(self, factor: int = 0, turned: np.ndarray | None = None) -> np.ndarray:
        """Return ``1 - Var(u_jk | y, b, sigma, Sigma) / tau_k^2``, averaged; (n_groups, q).

        Of the effects ``turned @ u_j`` in the place of those of the raw columns, where ``turned`` (q, q) is given.
        """

    def own_effects(self, factor: int) -> np.ndarray | None:  # noqa: ARG002 - of several factors only
        """Return the least-squares effects of all groups of one of several factors, (n_groups, q).

        From each group's own rows, common coefficients and the effects of the other factors at their posterior means;
        NaN where the rows do not identify them. None with one factor, whose estimates are those of no pooling.
        """
        return None

    # draws

    @abstractmethod
    def joint_draws(self, n_draws: int, rng: np.random.Generator, groups: Sequence[np.ndarray]) -> JointDraws:
        """Draw parameters jointly.

        Parameters
        ----------
        n_draws : int
        rng : numpy.random.Generator
        groups : sequence of ndarray of shape (n_codes,)
            Codes of the groups whose effects are wanted, one array per factor; a code that is not
            below the number of groups is a new group, drawn from its law given the rest.
        """

    def contrast_mixture(
        self, factor: int, z: np.ndarray, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
    ) -> RowMixture:
        """Return the law of ``z'u_a - z'u_b`` of pairs of known groups of a factor.

        Here it is that of joint draws, about the means that are known exactly.

        Parameters
        ----------
        factor : int
        z : ndarray of shape (q,)
        first, second : ndarray of shape (n_pairs,), dtype int
        rng : numpy.random.Generator
        """
        groups, position = np.unique(np.concatenate([first, second]), return_inverse=True)
        effects = self.effect_draws(factor, groups, rng)
        used = z != 0
        level = effects[:, :, used] @ z[used]
        contrast = level[:, position[: len(first)]] - level[:, position[len(first) :]]
        if not self.are_draws:
            exact = self.group_moments(factor, need_covariance=False).mean[:, used] @ z[used]
            contrast += exact[first] - exact[second] - contrast.mean(axis=0)
        return RowMixture(np.full(len(contrast), 1 / len(contrast)), contrast, np.zeros_like(contrast))

    def effect_draws(self, factor: int, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return joint draws of the effects of some known groups of a factor, (n_draws, n_codes, q)."""
        wanted = [groups if f == factor else np.empty(0, dtype=int) for f in range(len(self.n_groups))]
        n_draws = self.n_nodes if self.are_draws else CONTRAST_DRAWS
        return self.joint_draws(n_draws, rng, wanted).effects[factor]

    def group_draws(self, n_draws: int, rng: np.random.Generator, factor: int | None = None) -> JointDraws:
        """Return joint draws with the effects of every known group, of one factor or all: so many, or all there are."""
        wanted = [np.arange(n if factor in (None, f) else 0) for f, n in enumerate(self.n_groups)]
        return self.joint_draws(n_draws, rng, wanted)

    def chain_draws(self, n_chains: int, n_draws: int, rng: np.random.Generator) -> tuple[JointDraws, tuple[int, int]]:
        """Return joint draws with the effects of every known group by chain, and numbers of chains and draws in each.

        Draws that are independent are cut into chains; chains that there are have their own number and most length.
        """
        return self.group_draws(n_chains * n_draws, rng), (n_chains, n_draws)

    def without_unidentified(self, effects: list[np.ndarray]) -> list[np.ndarray]:
        """Return draws (n_draws, n_groups, q) of effects of each factor, NaN where a group does not identify them."""
        return effects

    def row_draws(
        self, x: np.ndarray, z: Sequence, codes: Sequence, n_draws: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return joint draws of the linear predictor of rows, and of sigma; see `draw_rows`."""
        return draw_rows(self, x, z, codes, n_draws, rng)
