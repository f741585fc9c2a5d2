"""Was the posterior found? Thresholds, tables and one warning for both engines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hbsk._engine.integrate import monte_carlo_error
from hbsk._engine.settings import DEFAULT
from hbsk._engine.variance_parameters import RESIDUAL_SD_FLOOR
from hbsk._messages import interval_columns, listed, warn
from hbsk._posterior.accuracy import END_LEVELS, INTERVAL, TAIL_LEVELS, mixture_accuracy, variance_accuracy
from hbsk._posterior.orders import OF_VARIANCE, common_orders, variance_orders
from hbsk.exceptions import ConvergenceWarning

# Vehtari, Gelman, Simpson, Carpenter, Buerkner 2021 (Bayesian Analysis 16), section 4; Vehtari et al. 2024 (JMLR 25).
R_HAT_THRESHOLD = 1.01
ESS_THRESHOLD = 400.0
# The marginal engine adds nodes until the means of the variance parameters reach that size, by an estimate from sixteen
# replicates that is itself off by a third. A fit that ends a little short is no failure; one with less than this is.
ESS_OF_NODES_THRESHOLD = ESS_THRESHOLD / 4
PARETO_K_THRESHOLD = DEFAULT.pareto_k_limit

# Monte Carlo error of an sd or of an end of an interval, in posterior sds, that is told.
MCSE_THRESHOLD = 0.1
ERRORS = ["mcse_sd", *(f"mcse_{end}" for end in interval_columns(INTERVAL))]
COLUMNS = ["r_hat", "ess_bulk", "ess_tail", "mcse_mean", *ERRORS, "divergences", "pareto_k", "in_model"]
# A residual sd is near its floor up to this many times it, and held there with this share of its posterior.
NEAR_FLOOR, SHARE_AT_FLOOR = 2.0, 0.01
# Of many columns a fit judges those whose conditional means differ most between nodes, which are known worst.
JUDGED_COEFFICIENTS = 20
# Relative spread that is rounding.
NO_SPREAD = 1e-10


def variance_names(specification, nodes) -> list[str]:
    """Return names of residual sd, group sds and correlations, as Bambi would have them."""
    names = ["sigma"]
    for factor, correlation in zip(specification.factors, nodes.correlation, strict=True):
        names += [f"{column}|{factor.name}_sigma" for column in factor.columns]
        for i, k in correlated_pairs(factor, correlation):
            names.append(f"corr_{factor.name}[{factor.columns[k]}, {factor.columns[i]}]")
    return names


def correlated_pairs(factor, correlation) -> list[tuple[int, int]]:
    """Return index pairs (later, earlier) of columns whose effects are correlated at zero.

    Those of one block, and the intercept with columns that are independent of it at another point than zero.
    """
    return [
        (i, k)
        for i in range(len(factor.columns))
        for k in range(i)
        if any(i in block and k in block for block in factor.blocks) or correlation[:, i, k].any()
    ]


def variance_values(specification, nodes) -> np.ndarray:
    """Return values of the variance parameters at nodes, (n_nodes, n_names), in the order of `variance_names`."""
    columns = [nodes.sigma[:, None]]
    for factor, sd, correlation in zip(specification.factors, nodes.group_sd, nodes.correlation, strict=True):
        columns.append(sd)
        columns += [correlation[:, i, k, None] for i, k in correlated_pairs(factor, correlation)]
    return np.concatenate(columns, axis=1)


def named_variance_values(specification, nodes) -> tuple[list[str], np.ndarray]:
    """Return names and values, (n_nodes, n_names), of all hyper-parameters, arguments of effects' laws included."""
    names, values = variance_names(specification, nodes), variance_values(specification, nodes)
    more, absent = {}, set()
    for laws in nodes.laws:
        for law in laws:
            more |= dict(law.parameters())
            if not law.has_sd_parameter:
                absent |= {f"{name}_sigma" for name in law.names}
    kept = [i for i, name in enumerate(names) if name not in absent]
    return [names[i] for i in kept] + list(more), np.column_stack([values[:, kept], *more.values()])


def variance_shares(specification, nodes) -> tuple[list[str], np.ndarray]:
    """Return names and values, (n_nodes, n_factors), of each factor's share of the variance of y given the columns.

    The variance of the effects in a row, averaged over rows, over that of all effects and the residual variance: of one
    varying intercept the intraclass correlation. (Goldstein, Browne, Rasbash 2002, Underst. Stat. 1(4), for the share;
    Nakagawa, Johnson, Schielzeth 2017, J. R. Soc. Interface 14, for the average.) None without groups, without pooling,
    and where effects have no variance.
    """
    if nodes.between is None or not np.isfinite(nodes.between).all():
        return [], np.empty((len(nodes.sigma), 0))
    total = nodes.between.sum(axis=1) + nodes.sigma**2
    return [f"variance_share[{factor.name}]" for factor in specification.factors], nodes.between / total[:, None]


def derived_diagnostics(posterior, names, values_of) -> pd.DataFrame:
    """Return the diagnostics of functions of the variance parameters.

    Parameters
    ----------
    posterior : Posterior
    names : list of str
    values_of : callable
        Maps `VarianceNodes` to values (n_points, n_names).
    """
    values = values_of(posterior.variance_nodes())
    if posterior.n_chains:
        return _sampled_diagnostics(names, values, posterior.n_chains, 0, np.ones(0, dtype=bool))
    mean, sd, error = monte_carlo_error(values, posterior.weight, posterior.replicate)
    error = np.hypot(error, posterior.probe_error(values))
    if posterior.by_quadrature:
        error[:] = 0.0
    table = pd.DataFrame(index=names, columns=COLUMNS, dtype=float)
    table["mcse_mean"], table["ess_bulk"] = error, effective_size(mean, sd, error)
    exact = posterior.by_quadrature
    table["ess_tail"] = table["ess_bulk"] if exact else variance_accuracy(posterior, values_of).ess_tail
    return table


def marginal_diagnostics(
    specification,
    posterior,
    *,
    sigma_is_parameter: bool,
    common: tuple[np.ndarray, np.ndarray] | None = None,
    mixture: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Return the table of diagnostics of the marginal engine.

    Effective sample sizes are posterior variance over squared Monte Carlo error, of the mean (bulk) and of the
    probabilities in the 5 % tails (tail); of logarithms where there is no posterior variance, infinite where the nodes
    are a quadrature. With ``common``, means and sds of the coefficients at nodes, of those alone that a fit judges;
    ``mixture`` is what stands for `Posterior.common_mixture`, where that is smoother than the nodes are.
    """
    if common is None:
        common, judged = posterior.common_mixture() if mixture is None else mixture, slice(None)
    else:
        judged = _most_affected(*common, posterior.weight)
    common, common_sd = (part[:, judged] for part in common)
    columns = np.asarray(specification.common_columns, dtype=object)
    nodes = posterior.variance_nodes()
    names, values = variance_names(specification, nodes), variance_values(specification, nodes)
    finite = np.isfinite(values).all(axis=0)
    finite[0] &= sigma_is_parameter
    # a mean without a variance has no finite error; a logarithm has, and the same ranks
    endless = variance_orders(specification, posterior, names) <= OF_VARIANCE
    values = np.where(endless, np.log(np.maximum(values, 1e-300)), values)
    in_model = np.zeros(len(columns), dtype=bool)
    in_model[posterior.scaling.kept] = True
    in_model, columns = in_model[judged], columns[judged]
    names = [*np.asarray(names, dtype=object)[finite], *columns]
    values = np.concatenate([values[:, finite], common], axis=1)
    if posterior.n_chains:
        return _sampled_diagnostics(names, values, posterior.n_chains, len(columns), in_model)
    mean, sd, error = monte_carlo_error(values, posterior.weight, posterior.replicate)
    error = np.hypot(error, posterior.probe_error(values))
    if posterior.by_quadrature:
        error[:] = 0.0
    # A coefficient's sd is wider than that of its conditional mean.
    deviation = common - posterior.weight @ common
    of_common = np.sqrt(posterior.weight @ (common_sd**2 + deviation**2))
    of_common = np.where(common_orders(specification, posterior)[judged] <= OF_VARIANCE, np.inf, of_common)
    sd[len(sd) - common.shape[1] :] = of_common
    table = pd.DataFrame(index=pd.Index(names, name="parameter"), columns=COLUMNS, dtype=float)
    table["ess_bulk"] = effective_size(mean, sd, error)
    table["mcse_mean"] = error
    n_variance = int(finite.sum())
    _enter_errors(table, specification, posterior, finite, (common, common_sd))
    if not posterior.by_quadrature:
        without = np.flatnonzero(endless[finite])
        table.iloc[without, [COLUMNS.index(name) for name in ("mcse_mean", "mcse_sd")]] = np.inf
    # What groups that are not pooled absorb has no spread at the nodes, which is no accuracy.
    absorbed = np.append(np.zeros(n_variance, dtype=bool), np.isnan(common_sd).any(axis=0))
    table.loc[absorbed, ["ess_bulk", "ess_tail", "mcse_mean", *ERRORS]] = np.nan
    table["pareto_k"] = posterior.pareto_k
    table["in_model"] = np.concatenate([np.ones(n_variance, dtype=bool), in_model])
    return table


def _most_affected(mean, sd, weight) -> np.ndarray:
    """Return the columns whose conditional means have the largest share in the variance, in their order."""
    between = weight @ (mean - weight @ mean) ** 2
    with np.errstate(invalid="ignore"):
        share = between / (between + weight @ sd**2)
    return np.sort(np.argsort(-np.nan_to_num(share, nan=-1.0), kind="stable")[:JUDGED_COEFFICIENTS])


def _sampled_diagnostics(names, values, n_chains, n_common, in_model) -> pd.DataFrame:
    """Return ArviZ's diagnostics where the variance parameters were sampled, of conditional means for the rest."""
    from arviz_stats.base import array_stats

    chains = values.reshape(n_chains, -1, values.shape[1])
    axes = {"chain_axis": 0, "draw_axis": 1}
    table = pd.DataFrame(index=pd.Index(names, name="parameter"), columns=COLUMNS, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):  # of what stands still, NaN is the answer
        table["r_hat"] = array_stats.rhat(chains, **axes)
        table["ess_bulk"] = array_stats.ess(chains, method="bulk", **axes)
        table["ess_tail"] = array_stats.ess(chains, method="tail", prob=tuple(TAIL_LEVELS), **axes)
        table["mcse_mean"] = array_stats.mcse(chains, method="mean", **axes)
        table["mcse_sd"] = array_stats.mcse(chains, method="sd", **axes)
        for name, level in zip(ERRORS[1:], END_LEVELS, strict=True):
            table[name] = array_stats.mcse(chains, method="quantile", prob=level, **axes)
    table["in_model"] = np.concatenate([np.ones(len(names) - n_common, dtype=bool), in_model])
    return table


def effective_size(mean, sd, error) -> np.ndarray:
    """Return ``sd^2 / error^2``; NaN where there is no spread but rounding, infinite where there is no error."""
    spread = sd > NO_SPREAD * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread, (sd / error) ** 2, np.nan)


def _enter_errors(table, specification, posterior, finite, mixture):
    """Enter the errors of sds and ends, and the effective size of tails; ``mixture`` is that of the coefficients."""
    if posterior.by_quadrature:
        table["ess_tail"] = table["ess_bulk"]
        table[ERRORS] = 0.0
        return
    n_variance = int(finite.sum())
    accuracy = variance_accuracy(posterior, lambda nodes: variance_values(specification, nodes)[:, finite])
    _enter(table, np.arange(n_variance), accuracy)
    mean, sd = mixture
    estimated = np.flatnonzero(~np.isnan(sd).any(axis=0))
    accuracy = mixture_accuracy(mean[:, estimated], sd[:, estimated], posterior.weight, posterior.replicate)
    _enter(table, n_variance + estimated, accuracy)


def _enter(table, rows, accuracy):
    columns = [table.columns.get_loc(name) for name in ("ess_tail", *ERRORS)]
    table.iloc[rows, columns] = np.column_stack([accuracy.ess_tail, accuracy.mcse_sd, accuracy.mcse_ends])


def nuts_diagnostics(specification, posterior, table: pd.DataFrame, n_divergent: int) -> pd.DataFrame:
    """Return ArviZ's diagnostics of NUTS in the common layout; a mean without a variance has no finite error."""
    table = table.copy()
    common = dict(zip(specification.common_columns, common_orders(specification, posterior), strict=True))
    orders = np.minimum(
        variance_orders(specification, posterior, list(table.index)), [common.get(name, np.inf) for name in table.index]
    )
    table.loc[orders <= OF_VARIANCE, ["mcse_mean", "mcse_sd"]] = np.inf
    table["divergences"] = float(n_divergent)
    table["in_model"] = True
    table.index.name = "parameter"
    return table.reindex(columns=COLUMNS)


def warn_if_sigma_is_held(posterior) -> None:
    """Warn where the residual sd lies at its floor, so that what is shown is not its posterior."""
    floor = RESIDUAL_SD_FLOOR * posterior.scaling.y_scale
    held = posterior.weight @ (posterior.residual_sds() < NEAR_FLOOR * floor)
    if held > SHARE_AT_FLOOR:
        warn(
            f"sigma is held at {floor:.3g}, {RESIDUAL_SD_FLOOR} of the sd of y: rows of one group or of equal "
            "columns differ by less, or not at all. What is smaller is lost in rounding, and a perfect fit has no "
            "proper posterior; sds and intervals of predictions may be far too wide. Look for a y, or for groups, far "
            "from all others, or fit what is left of y with the large part taken off.",
            ConvergenceWarning,
        )


def warn_if_unreliable(table: pd.DataFrame, *, engine: str) -> None:
    """Warn once, naming the parameters and what to do."""
    problems = []
    bad = table.index[table["r_hat"] > R_HAT_THRESHOLD]
    if len(bad):
        problems.append(f"r_hat above {R_HAT_THRESHOLD} for {listed(bad)}")
    of_nodes = table["r_hat"].isna().all()  # and not of chains, which the marginal engine may have run too
    least = ESS_OF_NODES_THRESHOLD if of_nodes else ESS_THRESHOLD
    size = table["ess_bulk"] if of_nodes else table[["ess_bulk", "ess_tail"]].min(axis=1)
    bad = table.index[size < least]
    if len(bad):
        problems.append(f"effective sample size below {least:.0f} for {listed(bad)}")
    if of_nodes:
        sd = table["mcse_mean"] * np.sqrt(table["ess_bulk"])
        bad = table.index[table[ERRORS].max(axis=1) > MCSE_THRESHOLD * sd]
        if len(bad):
            problems.append(
                f"sd or ends of the interval known to no more than {MCSE_THRESHOLD} posterior sds for {listed(bad)}"
            )
    if (table["divergences"] > 0).any():
        problems.append(f"{int(table['divergences'].max())} divergent transitions")
    if (table["pareto_k"] > PARETO_K_THRESHOLD).any():
        problems.append(f"Pareto k = {table['pareto_k'].max():.2f}, above {PARETO_K_THRESHOLD}")
    if not problems:
        return
    advice = (
        "Increase tune= and draws=, set sampler_options={'target_accept': 0.95}, or simplify the model; inference="
        "'marginal', where it is possible, needs no sampling."
        if engine == "nuts"
        else "Centred columns where slopes vary, fewer of them, correlated=False, or tighter priors on the sds in "
        "priors=, make the posterior easier; inference='nuts' samples the full model."
    )
    warn(f"The posterior is not reliable: {'; '.join(problems)}. {advice}", ConvergenceWarning)
