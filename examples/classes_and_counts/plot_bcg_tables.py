"""
Meta-analysis from the tables of counts
=======================================

The thirteen trials of the BCG vaccine once more, not as log risk ratios with standard errors that are taken as known,
but as their counts: how many of the vaccinated and of the controls fell ill. No trial needs a correction for zeros, and
no normal approximation is made.
"""

# %%
# One row for each arm
# --------------------
# Trials differ in how common tuberculosis is, and in what the vaccine does: a varying intercept and a varying effect,
# correlated.

# sphinx_gallery_tags = ["counts", "meta-analysis"]

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hbsk import PartialPoolingCountRegressor, PartialPoolingRegressor
from hbsk.datasets import load_bcg

bcg = load_bcg(as_frame=True)
trials = bcg.frame
arms = pd.DataFrame({"trial": np.tile(trials["trial"], 2), "vaccine": np.repeat([1.0, 0.0], len(trials))})
ill = np.append(trials["tpos"], trials["cpos"])
people = np.append(trials["tpos"] + trials["tneg"], trials["cpos"] + trials["cneg"])

model = PartialPoolingCountRegressor("vaccine + (vaccine | trial)", family="binomial")
model.fit(arms, ill, trials=people)
print(model.summary().round(2).to_string())
model.summary(scale="response").round(2)

# %%
# On the scale of the response the ratio of ``vaccine`` is the odds ratio: the vaccine more than halves the odds. The
# trials' own effects differ, and where tuberculosis is common the vaccine does more: the correlation is negative.
print(model.group_correlation_["trial"].round(2))

# %%
# Beside the analysis of log risk ratios
# --------------------------------------
# The meta-analysis of published ratios takes their standard errors as known. Tuberculosis is rare in most trials, so
# that odds ratios and risk ratios are nearly the same.
ratios = PartialPoolingRegressor(group_features="trial")
ratios.fit(bcg.data[["trial"]], bcg.target, standard_error=bcg.standard_error)
effects = model.group_effects().set_index(["term", "group"]).loc["vaccine|trial"]
published = ratios.group_effects().set_index("group").loc[effects.index]

place = np.arange(len(effects))
fig, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
for shift, table, label in ((-0.15, effects, "log odds ratio, counts"), (0.15, published, "log risk ratio, published")):
    ax.hlines(place + shift, table["eti95_lb"], table["eti95_ub"], color="0.75")
    ax.plot(table["mean"], place + shift, "o", ms=4, label=label)
ax.axvline(0.0, color="0.8", lw=1)
ax.set(yticks=place, yticklabels=effects.index, xlabel="effect of the vaccine, 95 % intervals")
ax.invert_yaxis()
fig.legend(frameon=False, loc="outside lower center", ncols=2)

# %%
# A new trial
# -----------
# What will the vaccine do elsewhere? The risk of either arm in a trial that nobody has seen:
new = pd.DataFrame({"trial": "elsewhere", "vaccine": [1.0, 0.0]})
low, high = model.predict_interval(new, coverage=0.9).T
for arm, risk, ends in zip(("vaccinated", "controls"), model.predict(new), zip(low, high, strict=True), strict=True):
    print(f"{arm}: risk {risk:.3f}, 90 % interval {ends[0]:.4f} to {ends[1]:.3f}")
