"""Tables over parameters and groups: posterior summary, and ranks of groups."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd

from hbsk._engine.quadrature import score_quantiles
from hbsk._messages import interval_columns, shown
from hbsk._model.centres import varying_intercept
from hbsk._model.points import Point
from hbsk._posterior.diagnostics import derived_diagnostics, named_variance_values, variance_shares
from hbsk._posterior.group_tables import coefficient_rows, column_labels, find_term, label_index
from hbsk._posterior.orders import OF_MEAN, OF_VARIANCE, common_orders, variance_orders
from hbsk._posterior.parts import RowMixture
from hbsk._posterior.prediction import mixture_quantiles

RANK_DRAWS = 4000
RANK_NUMBERS = 40_000_000
# Diagnostics of the summary: of chains those that ArviZ shows; of weighted nodes there are no chains, and an effective
# size says how many independent draws would give as exact a mean, or as exact shares of the tails.
OF_CHAINS = {"r_hat": "r_hat", "ess_bulk": "ess_bulk", "ess_tail": "ess_tail", "mcse_mean": "mcse_mean"}
OF_NODES = {"ess_bulk": "equivalent_draws", "ess_tail": "equivalent_draws_tail", "mcse_mean": "mcse_mean"}


def summary_table(
    frame, fitted, diagnostics: pd.DataFrame, *, known_errors: bool, coverage: float, with_diagnostics: bool
) -> pd.DataFrame:
    """Return mean, sd, ends of the central interval and, if asked for, diagnostics of every parameter."""
    specification, posterior = frame.specification, fitted.posterior
    levels, ends = interval_levels(coverage), list(interval_columns(coverage))
    weight = posterior.weight
    mean, sd = posterior.common_mixture()
    estimated = ~np.isnan(sd).any(axis=0)  # not what is absorbed by groups that are not pooled
    columns = dict.fromkeys(["sd", *ends], np.nan)
    common = pd.DataFrame({"mean": weight @ mean, **columns}, index=list(specification.common_columns))
    covariance = posterior.common_moments()[1]
    endless = common_orders(specification, posterior) <= OF_VARIANCE
    common.iloc[estimated, 1] = np.where(endless, np.inf, np.sqrt(np.diag(covariance)))[estimated]
    common.iloc[estimated, 2:] = mixture_quantiles(
        RowMixture(weight, mean[:, estimated], sd[:, estimated] ** 2), levels
    )
    names, values = named_variance_values(specification, posterior.variance_nodes())
    # with known standard errors sigma is no parameter, without pooling the group sds are none
    usable = np.isfinite(values).all(axis=0) & np.isin(names, diagnostics.index)
    names = [name for name, ok in zip(names, usable, strict=True) if ok]
    orders = variance_orders(specification, posterior, names)
    # means are those of the nodes, as in sigma_ and group_sd_
    average = weight @ values[:, usable]
    nodes, weight, _ = posterior.variance_law()
    values = named_variance_values(specification, nodes)[1][:, usable]
    sd = np.sqrt(weight @ (values - weight @ values) ** 2)
    variance = pd.DataFrame(
        {"mean": np.where(orders <= OF_MEAN, np.inf, average), "sd": np.where(orders <= OF_VARIANCE, np.inf, sd)},
        index=names,
        dtype=float,
    )
    variance[ends] = variance_quantiles(posterior, values, weight, levels)
    table = pd.concat([common, variance])
    if not known_errors:  # noise that is known differs by row: there is no share of it
        shares, of_shares = _share_table(specification, posterior, levels, ends, with_diagnostics)
        table, diagnostics = pd.concat([table, shares]), pd.concat([diagnostics, of_shares])
    return _with_diagnostics(table, diagnostics) if with_diagnostics else table


def interval_levels(coverage: float) -> np.ndarray:
    """Return the levels of the ends of a central interval."""
    return np.array([(1 - coverage) / 2, (1 + coverage) / 2])


def _with_diagnostics(table, diagnostics):
    """Return the table with what is known of how exact it is; nothing that is nowhere known."""
    names = OF_NODES if diagnostics["r_hat"].isna().all() else OF_CHAINS
    told = diagnostics.loc[table.index.intersection(diagnostics.index), list(names)].rename(columns=names)
    return table.join(told.dropna(axis="columns", how="all"))


def _share_table(specification, posterior, levels, ends, with_diagnostics):
    """Return the rows of the summary for each factor's share of variance, and their diagnostics."""
    names, average = variance_shares(specification, posterior.variance_nodes())
    if not names:
        return pd.DataFrame(), pd.DataFrame()

    def values_of(nodes):
        return variance_shares(specification, nodes)[1]

    nodes, weight, _ = posterior.variance_law()
    values = values_of(nodes)
    sd = np.sqrt(weight @ (values - weight @ values) ** 2)
    table = pd.DataFrame({"mean": posterior.weight @ average, "sd": sd}, index=names)
    table[ends] = variance_quantiles(posterior, values, weight, levels)
    return table, derived_diagnostics(posterior, names, values_of) if with_diagnostics else pd.DataFrame()


def variance_quantiles(posterior, values: np.ndarray, weight: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles (n_names, n_levels) of variance parameters, given the values and weights of their law."""
    if posterior.by_quadrature:
        spread = np.ptp(values, axis=0) > 0
        quantiles = np.repeat(values[0][:, None], len(levels), axis=1)
        for k in np.flatnonzero(spread):
            falls = values[0, k] > values[-1, k]  # shares do, where sigma rises from node to node
            quantiles[k] = score_quantiles(values[:, k], 1.0 - levels if falls else levels)
        return quantiles
    return mixture_quantiles(RowMixture(weight, values, np.zeros_like(values)), levels)


def rank_table(
    frame, posterior, term, factor, ascending: bool, top: int | None, rng, point: Point | None = None
) -> pd.DataFrame:
    """Return the posterior of the rank of every group's coefficient, of intercepts at a point of the columns.

    Rank 1 is the largest coefficient (the smallest where ``ascending``); ranks are of joint draws, so that they know
    how the groups' errors hang together.
    """
    f, k = find_term(frame.specification, term, factor, "rank")
    ranked = frame.specification.factors[f]
    n_groups = len(ranked.labels)
    _check_top(top, n_groups)
    refuse_point_of_slope(ranked, k, point)
    coefficients = coefficient_draws(posterior, coefficient_rows(frame.specification, f, point)[k], f, n_groups, rng)
    return ranks_of_draws(coefficients, label_index(ranked.labels, ranked.name), ascending, top)


def ranks_of_draws(coefficients: np.ndarray, index: pd.Index, ascending: bool, top: int | None) -> pd.DataFrame:
    """Return the law of each group's rank, given joint draws of shape (n_draws, n_groups)."""
    n_groups = len(index)
    _check_top(top, n_groups)
    order = coefficients if ascending else -coefficients
    ranks = np.empty(order.shape)
    np.put_along_axis(ranks, np.argsort(order, axis=1), np.arange(1.0, n_groups + 1)[None], axis=1)
    table = pd.DataFrame(
        {
            "mean": coefficients.mean(axis=0),
            "expected_rank": ranks.mean(axis=0),
            "rank_sd": ranks.std(axis=0),
            "p_best": np.mean(ranks == 1, axis=0),
        },
        index=index,
    )
    if top is not None:
        table[f"p_top_{top}"] = np.mean(ranks <= top, axis=0)
    return table.sort_values("expected_rank", kind="stable")


def n_rank_draws(n_groups: int) -> int:
    """Return how many joint draws of all groups ranks are told from."""
    return int(np.clip(RANK_NUMBERS // max(n_groups, 1), 100, RANK_DRAWS))


def _check_top(top: int | None, n_groups: int) -> None:
    if top is not None and (not isinstance(top, Integral) or isinstance(top, bool) or not 1 <= top <= n_groups):
        raise ValueError(f"top must be a number of groups from 1 to {n_groups}, got {shown(top)}.")


def coefficient_draws(posterior, row, f, n_groups, rng):
    """Return joint draws (n_draws, n_groups) of ``x'b + z'u_j`` of all groups of a factor, ``row`` being (x, z)."""
    x, z = row
    draws = posterior.group_draws(n_rank_draws(n_groups), rng, f)
    used = np.flatnonzero(z)
    coefficient = sum((draws.effects[f][:, :, k] * z[k] for k in used), np.zeros(draws.effects[f].shape[:2]))
    return coefficient + (draws.common @ x)[:, None] if x.any() else coefficient


def refuse_point_of_slope(factor, k: int, point: Point | None) -> None:
    """Raise where a point is given for coefficients that are the same at all of them."""
    if point is not None and k != varying_intercept(factor):
        raise ValueError(
            f"at= says where intercepts are told, and {column_labels(factor)[k]!r} is a slope, the same everywhere. "
            "Leave at= out."
        )
