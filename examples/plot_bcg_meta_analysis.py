"""
Meta-analysis: a vaccine in thirteen trials
===========================================

Thirteen trials of the BCG vaccine against tuberculosis. Each reports a log risk ratio and, from its counts, a
standard error. A random-effects meta-analysis is a hierarchical model with known standard errors: the trials have
true effects of their own, drawn from a population of trials.
"""

# %%
# Random effects
# --------------
# The standard errors go to ``fit``; there is no residual sd left to estimate. ``pooling="complete"`` is the
# fixed-effect analysis, which takes all trials for repetitions of one.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_bcg
from hbsk.plotting import ShrinkageDisplay

trials = load_bcg(as_frame=True)
X, y, standard_error = trials.data[["trial"]], trials.target, trials.standard_error
random_effects = PartialPoolingRegressor(group_features="trial").fit(X, y, standard_error=standard_error)
fixed_effect = PartialPoolingRegressor(group_features="trial", pooling="complete").fit(
    X, y, standard_error=standard_error
)

for name, model in {"fixed effect": fixed_effect, "random effects": random_effects}.items():
    mean, sd = model.summary().loc["Intercept", ["mean", "sd"]]
    print(f"{name}: log risk ratio {mean:.2f}, sd {sd:.2f} (risk ratio {np.exp(mean):.2f})")
print(f"sd between trials: {random_effects.group_sd_['trial'].iloc[0]:.2f}")

# %%
# The forest plot
# ---------------
# Left of 0 the vaccine protects. Large trials keep their own estimates, small ones borrow from the others; compare
# the two intervals of Rosenthal et al. 1960 or TPT Madras 1980.

no_pooling = PartialPoolingRegressor(group_features="trial", pooling="none").fit(X, y, standard_error=standard_error)
display = ShrinkageDisplay.from_estimator(random_effects, no_pooling=no_pooling, sort="shrinkage")
display.ax_.axvline(0.0, color="0.8", linewidth=1, zorder=0)
display.ax_.set_xlabel("log risk ratio")

# %%
# What will the next trial find?
# ------------------------------
# The mean of all trials is known well; the effect in a new place is not. Its interval includes the sd between trials,
# and for the estimate of a trial with a standard error of 0.2 its sampling error as well.

new = pd.DataFrame({"trial": ["next"]})
effect = random_effects.predict_interval(new, coverage=0.95, kind="mean")[0]
estimate = random_effects.predict_interval(new, coverage=0.95, standard_error=0.2)[0]
print(f"95 % interval of the effect in a new trial:  {effect[0]:.2f} to {effect[1]:.2f}")
print(f"95 % interval of what that trial will report: {estimate[0]:.2f} to {estimate[1]:.2f}")

# %%
# Why the trials differ: latitude
# -------------------------------
# A feature that is the same for a whole group explains differences between groups: a meta-regression. Far from the
# equator the vaccine works better, and the sd between trials is little more than half of what it was.

with_latitude = trials.data[["trial", "ablat"]]
meta_regression = PartialPoolingRegressor(group_features="trial").fit(with_latitude, y, standard_error=standard_error)
print(meta_regression.formula_)
print(meta_regression.summary().round(3).to_string())

latitude = np.linspace(10, 57, 50)
places = pd.DataFrame({"trial": [f"new {i}" for i in range(50)], "ablat": latitude})
low, high = meta_regression.predict_interval(places, coverage=0.95, kind="mean").T
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
ax.fill_between(latitude, low, high, color="#0072B2", alpha=0.2, label="95 % interval of a new trial's effect")
ax.plot(latitude, meta_regression.predict(places), color="#0072B2", label="mean")
ax.errorbar(
    trials.data["ablat"],
    y,
    1.96 * standard_error,
    fmt="o",
    markerfacecolor="white",
    color="#D55E00",
    elinewidth=1,
    label="trials, 95 % interval",
)
ax.axhline(0.0, color="0.8", linewidth=1, zorder=0)
ax.set(xlabel="latitude (degrees from the equator)", ylabel="log risk ratio")
ax.legend(frameon=False, fontsize=9)
plt.show()
