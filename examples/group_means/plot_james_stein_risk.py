"""
Where James-Stein shrinkage pays
================================

Estimate J means, each from one observation with variance 1. The observations themselves (maximum likelihood) have an
expected total squared error of J. James and Stein showed in 1961 that for J of 3 or more multiplying them by
:math:`1 - (J - 2) / |y|^2` is better *whatever the true means are*. How much better depends on where they are.
"""

# %%
# The risk curve
# --------------
# At the target the error is 2, whatever J, and less with the positive part; far away nothing is left of the gain. So
# the gain is largest where the true means lie close to the target, and it grows with J. (One reads at times that it is
# largest for few groups and large means. It is the other way round.)

# sphinx_gallery_tags = ["James-Stein"]

import matplotlib.pyplot as plt
import numpy as np

from hbsk import JamesSteinEstimator
from hbsk.datasets import load_baseball
from hbsk.plotting import RiskDisplay

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
displays = {}
for ax, n_groups in zip(axes, (3, 10, 50), strict=True):
    display = displays[n_groups] = RiskDisplay.from_n_groups(n_groups, max_distance=4 * n_groups, ax=ax)
    gain = 1 - display.positive_part / display.means
    half = display.squared_distance[np.argmax(gain < gain[0] / 2)]
    print(f"J = {n_groups}: {gain[0]:.0%} less error at the target, half of that at a squared distance of {half:.0f}")
    ax.set_xlabel(r"$|\theta|^2$")
    ax.set_title(f"J = {n_groups}", loc="right", fontsize=10)
    if ax is not axes[0]:
        ax.get_legend().remove()
    ax.set_ylabel("expected total squared error" if ax is axes[0] else "")

# %%
# The estimator keeps the promise
# -------------------------------
# Simulated errors of :class:`~hbsk.JamesSteinEstimator` lie on the curve (± is the Monte Carlo error).

rng = np.random.default_rng(0)
n_groups, n_repeats = 10, 150
display = displays[n_groups]
X = np.arange(n_groups)[:, None]
for squared_norm in (0.0, 10.0, 30.0):
    theta = np.full(n_groups, np.sqrt(squared_norm / n_groups))
    observations = theta + rng.normal(size=(n_repeats, n_groups))
    for name, curve in {"plain": display.plain, "positive part": display.positive_part}.items():
        model = JamesSteinEstimator(group_features=0, target="zero", positive_part=name == "positive part")
        errors = [np.sum((model.fit(X, y, standard_error=1.0).theta_ - theta) ** 2) for y in observations]
        simulated, error = np.mean(errors), np.std(errors) / np.sqrt(n_repeats)
        theory = np.interp(squared_norm, display.squared_distance, curve)
        print(f"|theta|^2 = {squared_norm:2.0f}, {name:13}: {simulated:.2f} ± {error:.2f}, in theory {theory:.2f}")
    display.ax_.errorbar(squared_norm, simulated, 2 * error, fmt="o", markersize=5, color="black", zorder=5)

# %%
# Where real data lie
# -------------------
# The batting averages of 18 players, shrunken towards their mean. The dotted line is an estimate of how far the true
# averages are from it, in units of the sampling variance: close, and so shrinkage cuts the error to about a quarter.

players = load_baseball(as_frame=True)
model = JamesSteinEstimator(group_features="player")
model.fit(players.data, players.target, standard_error=players.standard_error)
RiskDisplay.from_estimator(model)
raw = np.sum((players.target - players.remaining_average) ** 2)
shrunken = np.sum((model.predict(players.data) - players.remaining_average) ** 2)
print(f"squared error over the rest of the season: raw {raw:.4f}, shrunken {shrunken:.4f} ({shrunken / raw:.0%})")
plt.show()
