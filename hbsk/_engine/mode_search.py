"""The mode of a log density of a few parameters, by Newton's method in a trust region.

Knows nothing of models. What costs is a call, not the points in it: every call gives gradients at a
point and at its neighbours, whose differences are the Hessian. Forward differences: a step and the shape of a proposal
need no more than their two digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

# Next to a perfect fit gradients have two digits, and smaller steps make a Hessian of their rounding.
DIFFERENCE_STEP = 1e-2
# Length, in posterior sds, of the step to the mode that is taken unseen: the next one would be of a hundredth, which no
# proposal can tell from the mode; and that where steps on the way did not find what they expected.
LAST_STEP, LAST_STEP_OF_ROUGH_WAY = 0.2, 0.01
# Share of the gradient that Newton's step may leave beside what it expected. (Data sets of hbsk.datasets: 0.63 at most;
# fewer rows than columns: 0.9 and more.)
EXPECTED = 0.7
# Longest first step, and longest of all: a few units of log sd.
TRUST_RADIUS, LARGEST_RADIUS = 1.0, 3.0
# Steps that gain nothing down to this length lead nowhere.
LEAST_RADIUS = 1e-6
# Gradient, in units of the sharpest direction, of a mode that is polished all the same.
POLISHED = 1e-4
MOST_STEPS = 100
POLISHING_STEPS, POLISHED_DIGITS = 3, 6
# Shorter steps that are looked at in the same call on a rough way, where Newton's overshoots: the best is taken.
SHORTER = (0.3, 0.6)
# Of what a quadratic foretold a step gains: below, it is not taken; below or above, the trust region shrinks or grows.
TAKEN, SHRINKS, GROWS = 0.15, 0.25, 0.75


@dataclass(frozen=True)
class Look:
    """A log density at a point of the search for its mode, with its gradient and minus its Hessian."""

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    precision: np.ndarray

    @cached_property
    def step(self) -> np.ndarray:
        """Newton's step."""
        return np.linalg.lstsq(self.precision, self.gradient, rcond=1e-9)[0]

    def is_within(self, length: float) -> bool:
        """Whether the mode is so many sds away at most that what lies beyond Newton's step can be left alone."""
        return 0.0 <= self.step @ self.precision @ self.step <= length**2 and np.max(np.abs(self.step)) <= 1.0

    def surprise(self, other: Look) -> float:
        """Return what Newton's step there has left of the gradient beside what it expected, as a share of it.

        Where that is much, or the trust region held the step, rounding may rule, as next to a perfect fit: the path
        hangs on it, and so would a mode that is not polished.
        """
        step = other.theta - self.theta
        if np.linalg.norm(step) >= 0.99 * TRUST_RADIUS:
            return np.inf
        expected = self.gradient - self.precision @ step
        return float(np.linalg.norm(other.gradient - expected) / np.linalg.norm(self.gradient))

    def gain(self, step: np.ndarray) -> float:
        """Return what the quadratic here expects of a step."""
        return float(step @ self.gradient - 0.5 * step @ self.precision @ step)


class ModeSearch:
    """A search for the mode.

    Parameters
    ----------
    value_and_gradient : callable
        Maps points (n, d) to log densities (n,) and gradients (n, d).
    try_shorter : bool, default=False
        Whether points cost nothing beside calls, so that shorter steps are looked at too.
    """

    def __init__(
        self, value_and_gradient: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], *, try_shorter: bool = False
    ):
        self.value_and_gradient = value_and_gradient
        self.try_shorter = try_shorter
        self.radius = TRUST_RADIUS
        # whether every step found what it expected, and how far the last one was from it
        self.was_smooth, self.surprise = True, 0.0

    def run(self, starts: np.ndarray) -> Look:
        """Return the last look, from the best of several starts (n, d)."""
        self.try_shorter = self.try_shorter or len(starts) > 1
        here = self.look(starts)
        polished = POLISHED * np.sqrt(max(1.0, np.abs(here.precision).max()))
        for _ in range(MOST_STEPS):
            if np.linalg.norm(here.gradient) < polished:
                break
            here = self.advance(here)
            if self.is_at_end(here):
                break
        return here

    def look(self, points: np.ndarray) -> Look:
        """Evaluate points (n, d) and their neighbours in one call, and return the point of the highest density."""
        d = points.shape[1]
        offsets = np.concatenate([np.zeros((1, d)), DIFFERENCE_STEP * np.eye(d)])
        value, gradient = self.value_and_gradient((points[:, None] + offsets).reshape(-1, d))
        value = value.reshape(-1, d + 1)[:, 0]
        best = int(np.argmax(np.where(np.isnan(value), -np.inf, value)))
        gradient = gradient.reshape(-1, d + 1, d)[best]
        hessian = (gradient[1:] - gradient[0]) / DIFFERENCE_STEP
        return Look(points[best], float(value[best]), gradient[0], -0.5 * (hessian + hessian.T))

    def is_at_end(self, here: Look) -> bool:
        """Whether Newton's step from here is the last, which need not be seen, or there are none that gain."""
        if self.radius < LEAST_RADIUS:
            return True
        if self.was_smooth:
            return here.is_within(LAST_STEP)
        return self.surprise <= EXPECTED and here.is_within(LAST_STEP_OF_ROUGH_WAY)

    def advance(self, here: Look) -> Look:
        """Return the look after a step; the same where the step gains too little of what it expected."""
        step, is_bounded = trust_step(here.gradient, here.precision, self.radius)
        steps = [step]
        if self.try_shorter and (is_bounded or not self.was_smooth):
            radii = np.multiply(SHORTER, np.linalg.norm(step))
            steps += [trust_step(here.gradient, here.precision, radius)[0] for radius in radii]
        there = self.look(here.theta + np.array(steps))
        expected = here.gain(there.theta - here.theta)
        if not expected > 0:  # rounding
            self.radius = 0.0
            return here
        share = (there.value - here.value) / expected
        if not share >= SHRINKS:
            self.radius *= 0.25
        elif share > GROWS and is_bounded:
            self.radius = min(2 * self.radius, LARGEST_RADIUS)
        is_taken = share > TAKEN
        self.surprise = here.surprise(there) if is_taken else np.inf
        self.was_smooth = self.was_smooth and self.surprise <= EXPECTED
        return there if is_taken else here


def trust_step(gradient: np.ndarray, precision: np.ndarray, radius: float) -> tuple[np.ndarray, bool]:
    """Return the step within the radius that gains most by a quadratic, and whether the radius holds it."""
    curvature, axes = np.linalg.eigh(precision)
    along = axes.T @ gradient
    if curvature[0] > 0 and np.linalg.norm(along / curvature) <= radius:
        return axes @ (along / curvature), False
    least = max(0.0, -curvature[0])
    high = (1 + 1e-9) * (least + np.linalg.norm(along) / radius)
    low = least + 1e-12 * max(high, np.abs(curvature).max())

    def missing(added):
        return 1.0 / np.linalg.norm(along / (curvature + added)) - 1.0 / radius

    if high <= low or missing(low) > 0:
        # at a saddle, where the gradient has nothing of the way down: along it, to the radius
        step = along / (curvature + low)
        rest = np.sqrt(max(radius**2 - step[1:] @ step[1:], 0.0))
        step[0] = np.copysign(rest, along[0])
    else:
        step = along / (curvature + brentq(missing, low, high, xtol=1e-300, rtol=1e-12))
    return axes @ step, True


def find_mode(
    value_and_gradient: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    *,
    polish: bool = False,
    try_shorter: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mode of a log density and minus its Hessian there.

    Parameters
    ----------
    value_and_gradient : callable
        Maps points (n, d) to log densities (n,) and gradients (n, d).
    start : ndarray of shape (d,) or (n, d)
        Where the search begins; at the best of several points, where points cost nothing beside calls.
    polish : bool, default=False
        Take a few more steps where the way was rough, and round what comes of them, so that neither mode nor Hessian
        hang on the way: where sds are much alike the axes of a proposal turn with the last digits of the Hessian.
    try_shorter : bool, default=False
        Whether points cost nothing beside calls, though there is one start.
    """
    search = ModeSearch(value_and_gradient, try_shorter=try_shorter)
    last = search.run(np.atleast_2d(start))
    is_rough = polish and not search.was_smooth
    for _ in range(POLISHING_STEPS if is_rough else 0):
        if last.is_within(LAST_STEP):
            last = search.look((last.theta + last.step)[None])
    mode = last.theta + (last.step if last.is_within(LAST_STEP) else 0.0)
    return (
        (np.round(mode, POLISHED_DIGITS), np.round(last.precision, POLISHED_DIGITS))
        if is_rough
        else (mode, last.precision)
    )
