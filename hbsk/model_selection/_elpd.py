"""Results as ArviZ's own objects, of any version, and the warnings that go with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hbsk._messages import listed, warn
from hbsk.exceptions import ConvergenceWarning

# Vehtari, Gelman, Gabry 2017 (Stat. Comput. 27): with a larger posterior variance of the log likelihood of a unit WAIC
# is not reliable.
WAIC_VARIANCE = 0.4


def loo_data(
    elpd_i: np.ndarray, lpd_i: np.ndarray, pareto_k: np.ndarray, good_k: float, n_samples: int, template
) -> Any:
    """Return an `arviz_stats.ELPDData` of kind "loo".

    Parameters
    ----------
    elpd_i, lpd_i, pareto_k : ndarray of shape (n_units,)
    good_k : float
    n_samples : int
    template : xarray.DataArray of shape (n_units,)
        Has the dimension and coordinates of the units.
    """
    return _elpd_data(
        "loo",
        elpd_i,
        lpd_i - elpd_i,
        template,
        n_samples=n_samples,
        warning=bool((pareto_k > good_k).any()),
        good_k=good_k,
        pareto_k=template.copy(data=pareto_k),
    )


def waic_data(lpd_i: np.ndarray, variance: np.ndarray, n_samples: int, template, what: str) -> Any:
    """Return an `arviz_stats.ELPDData` of kind "waic", and warn where it is not reliable.

    Parameters
    ----------
    lpd_i, variance : ndarray of shape (n_units,)
        Log of the mean likelihood, and variance of the log likelihood.
    n_samples : int
    template : xarray.DataArray of shape (n_units,)
        Has the dimension and coordinates of the units.
    what : str
        "rows" or "groups".
    """
    bad = np.flatnonzero(variance > WAIC_VARIANCE)
    if len(bad):
        names = template.coords[template.dims[0]].to_numpy()
        warn(
            f"The posterior variance of the log likelihood is above {WAIC_VARIANCE} for {len(bad)} of {len(lpd_i)} "
            f"{what} ({listed(names[bad])}): WAIC is not reliable there. Use loo.",
            ConvergenceWarning,
        )
    return _elpd_data(
        "waic", lpd_i - variance, variance, template, n_samples=n_samples, warning=bool(len(bad)), good_k=None
    )


def _elpd_data(kind: str, elpd_i, p_i, template, **fields) -> Any:
    import arviz_stats

    n = len(elpd_i)
    # Vehtari, Gelman, Gabry 2017, eq. 23: V is the sample variance. ArviZ 1.1 divides by n in it, newer ones by n - 1.
    se = np.sqrt(n * np.var(elpd_i, ddof=1)) if n > 1 else np.nan
    fields |= {"elpd": float(np.sum(elpd_i)), "se": float(se), "p": float(np.sum(p_i)), "n_data_points": n}
    fields["scale"] = "log"
    fields["elpd_i"] = template.copy(data=elpd_i)
    if not hasattr(arviz_stats, "ELPDDataLOO"):  # ArviZ 1.1 and 1.2: one class for all kinds
        return arviz_stats.ELPDData(kind=kind, **fields)
    if kind == "loo":
        return arviz_stats.ELPDDataLOO(**fields)
    result = arviz_stats.ELPDData(**fields)
    result._kind = kind  # WAIC has lost its class
    return result
