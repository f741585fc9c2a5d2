"""How much true group means differ, as a posterior tells it: the random-effects analysis of known standard errors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hbsk._engine.propriety import TAIL_DEGREES
from hbsk._messages import interval_columns, quoted
from hbsk._posterior.orders import OF_MEAN, OF_VARIANCE, common_orders, variance_orders
from hbsk._posterior.parts import RowMixture
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._posterior.summary import interval_levels, variance_quantiles
from hbsk._shrinkage.heterogeneity import MODERATORS, Heterogeneity

# Share of the information on a column that lies between groups, above which it does not vary within them.
BETWEEN_GROUPS = 1.0 - 1e-8


def why_not_random_effects(learnt) -> str:
    """Say why a fit is no random-effects analysis, or nothing."""
    specification = learnt.frame.specification
    if not learnt.known_errors:
        return "the standard errors of y are not known; pass standard_error= to fit"
    if not specification.factors or learnt.fitted.posterior.pools_nothing:
        return "there is no variance between groups in it; it needs groups and pooling='partial'"
    if len(specification.factors) > 1:
        return (
            f"it has the grouping factors {quoted(factor.name for factor in specification.factors)}, where one is due"
        )
    (factor,) = specification.factors
    if factor.columns != ("1",):
        return f"the columns {quoted(factor.columns)} vary by {factor.name!r}, where a varying intercept alone is due"
    return ""


def posterior_heterogeneity(specification, fitted, coverage: float) -> Heterogeneity:
    """Return posterior means, sds and intervals of tau and what follows from it, and the interval of a new group.

    Parameters
    ----------
    specification : Specification
        With one varying intercept.
    fitted : Fitted
        Of known standard errors.
    coverage : float
    """
    posterior, levels = fitted.posterior, interval_levels(coverage)
    typical = typical_variance(fitted)

    def measures(nodes):
        """Return tau, tau^2, I^2 and H^2 at nodes, (n_nodes, 4)."""
        tau = nodes.group_sd[0][:, 0]
        h2 = 1.0 + np.square(tau) / typical
        return np.column_stack([tau, np.square(tau), 1.0 - 1.0 / h2, h2])

    order = _order_of_sd(specification, fitted)
    mean = posterior.weight @ measures(posterior.variance_nodes())
    # a moment of tau^2 is one of tau of twice the order
    mean[[0, 1, 3]] = np.where(order <= OF_MEAN * np.array([1, 2, 2]), np.inf, mean[[0, 1, 3]])
    nodes, weight, _ = posterior.variance_law()
    values = measures(nodes)
    ends = [(float(low), float(high)) for low, high in variance_quantiles(posterior, values, weight, levels)]
    sd = np.inf
    if order > 2 * OF_VARIANCE:
        sd = float(np.sqrt(weight @ np.square(values[:, 1] - weight @ values[:, 1])))
    has_columns = specification.common_columns != ("Intercept",)
    return Heterogeneity(
        posterior.n_groups[0],
        "posterior",
        coverage,
        _coefficients(specification, posterior, levels, coverage),
        tau2=float(mean[1]),
        tau2_se=sd,
        tau2_interval=ends[1],
        tau=float(mean[0]),
        tau_interval=ends[0],
        I2=float(mean[2]),
        I2_interval=ends[2],
        H2=float(mean[3]),
        H2_interval=ends[3],
        typical_variance=typical,
        prediction_interval=None if has_columns else _of_new_group(posterior, levels),
        notes=(MODERATORS,) if has_columns else (),
    )


def _order_of_sd(specification, fitted) -> float:
    """Return the order below which moments of tau exist; as `hbsk._engine.propriety`, which stops at variances."""
    (factor,) = specification.factors
    (order,) = variance_orders(specification, fitted.posterior, [f"1|{factor.name}_sigma"])
    law = fitted.priors[factor.terms[0]]
    law = law[1].get("sigma") if isinstance(law, tuple) else law
    if not isinstance(law, tuple) or law[0] not in TAIL_DEGREES:
        return float(order)
    degrees = TAIL_DEGREES[law[0]]
    n_flat = sum(prior == ("Flat", {}) for prior in fitted.priors.values())
    of_prior = float(law[1][degrees]) if isinstance(degrees, str) else degrees
    return min(float(order), of_prior + fitted.posterior.n_groups[0] - n_flat)


def sampling_variances(fitted) -> np.ndarray:
    """Return the sampling variance of the mean of every group, (n_groups,), by the known errors of its rows."""
    return fitted.scaling.y_scale**2 / fitted.model.sums.zz[0, 0]


def posterior_weights(fitted) -> np.ndarray:
    """Return the weights 1 / (v_j + tau^2) over their sum, (n_groups,), averaged over the posterior of tau."""
    variances, posterior = sampling_variances(fitted), fitted.posterior
    weights = np.zeros(len(variances))
    for tau, share in zip(posterior.variance_nodes().group_sd[0][:, 0], posterior.weight, strict=True):
        at_node = 1.0 / (variances + tau**2)
        weights += share * at_node / at_node.sum()
    return weights


def typical_variance(fitted) -> float:
    """Return s^2 = (J - r) / tr Z'PZ, where Z'PZ is the information on group effects beside the common coefficients.

    Of one mean it is (k - 1) sum w / ((sum w)^2 - sum w^2) (Higgins and Thompson 2002, equation 9); r counts the
    columns that do not vary within groups.
    """
    sums = fitted.model.sums
    of_groups, cross, gram = sums.zz[0, 0], sums.zx[0, :-1], sums.xx[:-1, :-1]
    if not len(gram):
        return float(fitted.scaling.y_scale**2 * sums.n_groups / of_groups.sum())
    inverse = np.linalg.pinv(gram, hermitian=True)
    between = np.linalg.eigvals(inverse @ ((cross / of_groups) @ cross.T)).real
    degrees = sums.n_groups - int(np.sum(between > BETWEEN_GROUPS))
    trace = of_groups.sum() - np.einsum("aj,ab,bj->", cross, inverse, cross)
    return float(fitted.scaling.y_scale**2 * degrees / trace)


def _coefficients(specification, posterior, levels, coverage: float) -> pd.DataFrame:
    """Return posterior mean, sd and interval of the common coefficients."""
    mean, covariance = posterior.common_moments()
    sd = np.sqrt(np.diag(covariance))
    sd[common_orders(specification, posterior) <= OF_VARIANCE] = np.inf
    at_nodes, of_nodes = posterior.common_mixture()
    ends = mixture_quantiles(RowMixture(posterior.weight, at_nodes, of_nodes**2), levels)
    low, high = interval_columns(coverage)
    return pd.DataFrame(
        {"estimate": mean, "se": sd, low: ends[:, 0], high: ends[:, 1]}, index=list(specification.common_columns)
    )


def _of_new_group(posterior, levels) -> tuple[float, float]:
    """Return the interval of the mean of a group that fit has not seen, in a model of one mean."""
    posterior, location = posterior.about_zero()
    one = np.ones((1, 1))
    low, high = mixture_quantiles(posterior.row_mixture(one, [one], [np.array(posterior.n_groups)]), levels)[0]
    return float(low + location), float(high + location)
