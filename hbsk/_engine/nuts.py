"""PyMC's NUTS, for any model of PyMC and for any log density given as a Python function.

PyMC takes seconds to import, so it is imported inside the functions.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from joblib import effective_n_jobs

logger = logging.getLogger("hbsk")

# What `sampler_options` may not set, because a parameter of the estimator does, and which one that is.
OWNED_OPTIONS = {
    "draws": "draws",
    "tune": "tune",
    "chains": "chains",
    "cores": "n_jobs",
    "random_seed": "random_state",
    "progressbar": "verbose",
    "quiet": "verbose",
}
FIXED_OPTIONS = frozenset({"model", "var_names", "return_inferencedata", "trace"})


def sample_log_density(
    log_density_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    scale: np.ndarray,
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    random_state=None,
    n_jobs: int | None = None,
    verbose: int = 0,
    sampler_options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Sample a log density on R^d that is a Python function, with NUTS.

    NUTS moves z in theta = start + scale @ z, so with the mode and a square root of the inverse Hessian it starts
    near the mode (z uniform in [-1, 1]) and sees axes of unit scale. A value that is not finite counts as density 0.

    Parameters
    ----------
    log_density_and_gradient : callable
        theta (d,) -> log density (up to a constant) and its gradient (d,). With `n_jobs` > 1 it must pickle.
    start : ndarray of shape (d,)
    scale : ndarray of shape (d, d)
    draws, tune, chains, random_state, n_jobs, verbose, sampler_options
        As the parameters of the estimator.

    Returns
    -------
    ndarray of shape (chains, draws, d)
    """
    start, scale = np.asarray(start, dtype=float), np.asarray(scale, dtype=float)
    options = checked_options(sampler_options)
    with quiet(verbose):
        import pymc as pm
        from pytensor.compile.mode import Mode

        from hbsk._engine.log_density_op import LogDensityOp

        # Nothing here is worth compiling: all work is in the Python function.
        options.setdefault("compile_kwargs", {"mode": Mode(linker="py", optimizer="fast_compile")})
        with pm.Model() as pymc_model:
            z = pm.Flat("z", shape=start.shape)
            outputs: Any = LogDensityOp(log_density_and_gradient)(start + scale @ z)
            pm.Potential("log_density", outputs[0])
        announce(draws, tune, chains, len(start))
        tree = sample(pymc_model, ["z"], draws, tune, chains, random_state, n_jobs, verbose, options)
    return start + tree["posterior"]["z"].to_numpy() @ scale.T


def announce(draws, tune, chains, n_parameters):
    """Say in one line of the log that NUTS begins, which may take minutes."""
    logger.info(
        "NUTS begins: %d chains of %d draws after %d for tuning, %d parameters.", chains, draws, tune, n_parameters
    )


def checked_options(sampler_options):
    """Return the user's options of `pymc.sample` on top of our defaults."""
    # copies of what is nested too, into which PyMC writes
    nested = (sampler_options or {}).items()
    options = {name: dict(value) if isinstance(value, Mapping) else value for name, value in nested}
    for name in options:
        if name in OWNED_OPTIONS:
            raise ValueError(
                f"sampler_options={sampler_options!r} sets {name!r}, which the parameter {OWNED_OPTIONS[name]} of the "
                "estimator sets. Use that instead."
            )
        if name in FIXED_OPTIONS:
            raise ValueError(
                f"sampler_options={sampler_options!r} sets {name!r}, which hbsk needs for itself. Leave it out; use "
                "to_bambi() and sample that model for full control."
            )
    # PyMC would otherwise take another sampler where one happens to be installed.
    return {"nuts_sampler": "pymc"} | options


def sample(pymc_model, variables, draws, tune, chains, random_state, n_jobs, verbose, options):
    """Call `pymc.sample`."""
    import pymc as pm

    defaults = {"compute_convergence_checks": False}  # slow with many groups; `diagnose` has them
    return pm.sample(
        draws=draws,
        tune=tune,
        chains=chains,
        cores=effective_n_jobs(n_jobs),
        random_seed=_seed(random_state),
        var_names=variables,
        model=pymc_model,
        progressbar=verbose > 0,
        quiet=verbose <= 0,
        **(defaults | options),
    )


def _seed(random_state):
    """Return a seed for PyMC, which does not take a RandomState; None stays None."""
    if random_state is None or isinstance(random_state, int | np.integer):
        return None if random_state is None else int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    raise ValueError(
        f"random_state={random_state!r} cannot seed a sampler: pass None, an int, a numpy.random.RandomState or a "
        "numpy.random.Generator."
    )


@contextlib.contextmanager
def quiet(verbose: int) -> Iterator[None]:
    """Keep PyMC, PyTensor, Bambi and ArviZ from logging and warning, unless verbose."""
    if verbose > 0:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("pymc", "pytensor", "bambi", "arviz", "numba")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # PyTensor about a missing BLAS or compiler, overflow on the way to a rejected step, and the like: nothing a
        # user of the estimator can act on. Our own warnings come from the diagnostics, outside this block.
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
