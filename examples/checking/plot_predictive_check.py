"""
A predictive check that fails, and the model that fixes it
==========================================================

A posterior predictive check draws data sets :math:`y^{rep}` from the fitted model and compares a statistic T of them
with that of the data. If :math:`p_B = P(T(y^{rep}) \\ge T(y))` is close to 0 or 1, the model does not make data like
ours.

The data are reaction times of 18 subjects over ten days with little sleep.
"""

# %%
# A first model: subjects differ, days count the same for all
# ------------------------------------------------------------
# Mean and spread are what the model was fitted to, so they say nothing. The smallest value raises a doubt: replicated
# data reach further down than the real ones. What is wrong?

# sphinx_gallery_tags = ["model checks", "varying slopes"]

import matplotlib.pyplot as plt
import numpy as np

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_sleepstudy
from hbsk.plotting import PredictiveCheckDisplay
from hbsk.predictive_checks import posterior_predictive_check

X, y = load_sleepstudy(return_X_y=True, as_frame=True)
alike = PartialPoolingRegressor(group_features="Subject").fit(X, y)
print(alike.formula_)
print(posterior_predictive_check(alike, X, y, random_state=0).to_frame().round(3).to_string())

# %%
# A statistic the model was not made to fit
# -----------------------------------------
# Do subjects differ in how fast they get slower? T is the sd, over subjects, of the slope of a straight line through
# a subject's ten points. A statistic is any function of y; with parameters ``groups`` and ``X`` it is given those
# too.


def sd_of_slopes(y, groups, X):
    days = X["Days"].to_numpy()
    return np.std([np.polyfit(days[groups == g], y[groups == g], 1)[0] for g in np.unique(groups)])


failed = posterior_predictive_check(alike, X, y, statistics=sd_of_slopes, n_samples=400, random_state=0)
print(failed.to_frame().round(3).to_string())

# %%
# With one slope for all, subjects drawn from the model differ far less than the real ones: :math:`p_B = 0`.
#
# The model that fixes it
# -----------------------
# Give every subject a slope of their own, partially pooled.

differing = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
print(differing.formula_)
passed = posterior_predictive_check(differing, X, y, statistics=sd_of_slopes, n_samples=400, random_state=0)
print(passed.to_frame().round(3).to_string())

figure, axes = plt.subplots(2, 1, figsize=(6.5, 5), sharex=True, layout="constrained")
for ax, check, title in zip(axes, (failed, passed), ("one slope for all", "a slope for each subject"), strict=True):
    PredictiveCheckDisplay.from_check(check, ax=ax)
    ax.set_title(f"{title}: $p_B$ = {check.p_value.iloc[0]:.3f}")
axes[1].set_xlabel("sd of the subjects' slopes (ms per day)")

# %%
# The stronger question: new subjects
# -----------------------------------
# So far the replicates had the same subjects. With ``new_groups=True`` every replicate has 18 new ones, drawn from
# the estimated population. This checks the population too: would 18 other people look like ours?

mixed = posterior_predictive_check(
    differing, X, y, statistics=["min", "max", "std", sd_of_slopes], n_samples=400, random_state=0, new_groups=True
)
print(mixed.to_frame().round(3).to_string())
PredictiveCheckDisplay.from_check(mixed)
plt.show()
