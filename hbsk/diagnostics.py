"""Thresholds that `diagnostics_` is held against: r_hat, effective sample size, Pareto k."""

from hbsk._posterior.diagnostics import ESS_THRESHOLD, PARETO_K_THRESHOLD, R_HAT_THRESHOLD

__all__ = ["ESS_THRESHOLD", "PARETO_K_THRESHOLD", "R_HAT_THRESHOLD"]
