"""What is refused since floating point would lose it: columns, weights and noise out of all proportion."""

from __future__ import annotations

import numpy as np

from hbsk._data.checks import LARGEST_VALUE, SMALLEST_VALUE
from hbsk._engine.sums import CentredSums
from hbsk._messages import quoted, shown

# Smallest known standard error, in sds of y, of partial pooling: beyond it the density is rounding.
SMALLEST_RELATIVE_ERROR = 1e-7
# Copies of rows, of which the log density holds as many terms.
MOST_COPIES = 1e12
# Offset of log odds or log rates, far beyond the log of any exposure, from which on exponentials leave floating point.
LARGEST_OFFSET = 300.0


def refuse_noise_lost_in_rounding(
    collected: CentredSums, least: float, name: str, argument: str, *, is_weighted: bool = False
) -> None:
    """Refuse known noise whose square vanishes beside the spread of y: the density would be rounding alone.

    Parameters
    ----------
    collected : CentredSums
    least : float
        The smallest noise of a row over the root of its weight.
    name, argument : str
        For the message.
    is_weighted : bool, default=False
        Whether rows have weights.
    """
    spread = collected.moments.y_sd
    if least < SMALLEST_RELATIVE_ERROR * spread:
        over = ", over the root of sample_weight" if is_weighted else ""
        raise ValueError(
            f"{name} {shown(least)}{over}, less than {SMALLEST_RELATIVE_ERROR} of the standard deviation of y, "
            f"{spread:.3g}: beside it such errors are lost in rounding. Use larger ones, or leave {argument} out to "
            "have the residual sd estimated; look for a y that is far from all others too."
        )


def refuse_sampling_of_sums(reason: str | None) -> None:
    """Refuse NUTS where there are sums and no rows."""
    why = "inference='nuts' was asked for" if reason is None else f"the model needs inference='nuts': {reason}"
    raise ValueError(
        f"{why[0].upper() + why[1:]}, and NUTS needs rows, of which SufficientStatistics hold the sums. Use "
        "inference='auto' with Normal or Flat priors on common terms and one of the listed priors on sds, or fit rows."
    )


def refuse_copies_beyond_count(n: float) -> None:
    """Refuse weights that are so many copies of rows that the log density is lost in rounding."""
    if n > MOST_COPIES:
        raise ValueError(
            f"sample_weight adds up to {n:.3g} copies of rows, and at most {MOST_COPIES:.0e} can be taken: beyond, "
            "rounding of the log density is no longer small beside 1. Weights are numbers of copies; divide them by "
            "their mean if they are shares or precisions."
        )


def refuse_offsets_beyond_exponentials(offset: np.ndarray | None, family: str) -> None:
    """Refuse offsets of binary and count models that are no logarithms."""
    if offset is None or np.abs(offset).max(initial=0.0) <= LARGEST_OFFSET:
        return
    farthest = offset[np.abs(offset).argmax()]
    scale, instead = ("log of the rate", ", or pass exposure=") if family == "poisson" else ("log odds", "")
    raise ValueError(
        f"offset() of the formula adds {shown(float(farthest))} to the {scale} of a row, whose exponential leaves "
        f"floating point; at most {LARGEST_OFFSET:g} either way are taken. Where counts are out of something take its "
        f"logarithm, offset(log(x)){instead}."
    )


def refuse_sums_beyond_floats(specification, collected: CentredSums) -> None:
    """Refuse columns whose squares are beyond floating point, and weights that make them so."""
    moments = collected.moments
    terms, means, sds = list(specification.common_terms), [moments.x_mean], [moments.x_sd]
    for factor, z_mean, z_sd in zip(specification.factors, moments.z_mean, moments.z_sd, strict=True):
        terms, means, sds = [*terms, *factor.terms], [*means, z_mean], [*sds, z_sd]
    mean, sd = np.abs(np.concatenate(means)), np.concatenate(sds)
    beyond = ~(mean + sd <= LARGEST_VALUE) | ((mean + sd > 0) & (mean + sd < SMALLEST_VALUE))
    if beyond.any():
        names = dict.fromkeys(terms[k] for k in np.flatnonzero(beyond))
        raise ValueError(
            f"The columns of {quoted(names)} have values whose squares leave floating point: in size they must lie "
            f"between {SMALLEST_VALUE} and {LARGEST_VALUE}. Give X in other units."
        )
    if not np.isfinite(collected.sums.xx).all():
        raise ValueError("Sums of squares of X and y, with these weights, leave floating point. Use smaller weights.")
