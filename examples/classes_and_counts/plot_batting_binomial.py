"""
Batting averages as what they are: hits out of at-bats
======================================================

Efron and Morris's 18 players of 1970, whose first 45 at-bats are to predict the rest of the season. A batting average
is a proportion; a model of normal noise puts intervals below 0 where a player has seen few pitches.
"""

# %%
# Eighteen players
# ----------------
# Each player is a group with one row: his hits, out of 45 trials.
# sphinx_gallery_tags = ["counts", "ranks", "James-Stein"]

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hbsk import JamesSteinEstimator, PartialPoolingCountRegressor
from hbsk.datasets import load_baseball
from hbsk.plotting import RankDisplay

players = load_baseball(as_frame=True)
X, hits, at_bats = players.data, players.hits, players.at_bats
model = PartialPoolingCountRegressor(family="binomial", group_features="player").fit(X, hits, trials=at_bats)

# Two parameters in place of a model: a beta law between players, and no priors to set.
beta = JamesSteinEstimator(method="beta-binomial", group_features="player").fit(X, hits, trials=at_bats)

rest = players.remaining_average
estimates = {"own average": players.target, "partial pooling": model.predict(X), "beta-binomial": beta.predict(X)}
for name, estimate in estimates.items():
    print(f"{name}: squared error of the rest of the season {np.sum((estimate - rest) ** 2):.4f}")

# %%
# Probabilities of groups with their intervals are one line; on the scale of the link they would be log odds.
table = model.group_effects(scale="response").set_index("group").sort_values("mean", ascending=False)
season = pd.Series(rest.to_numpy(), index=X["player"]).loc[table.index]
place = np.arange(len(table))
fig, ax = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
ax.hlines(place, table["eti95_lb"], table["eti95_ub"], color="0.7")
ax.plot(table["mean"], place, "o", label="partial pooling, 95 % interval")
ax.plot(table["no_pooling"], place, "x", label="first 45 at-bats")
ax.plot(season, place, "|", ms=12, color="k", label="rest of the season")
ax.set(yticks=place, yticklabels=table.index, xlabel="batting average")
ax.invert_yaxis()
fig.legend(frameon=False, loc="outside lower center", ncols=3)

# %%
# Players seen for a moment
# -------------------------
# Ten more players with two at-bats each and no hit. Their own average is 0; the posterior is that of a player of whom
# little is known, and no interval leaves 0 to 1.
rookies = pd.DataFrame({"player": [f"rookie {i}" for i in range(10)]})
everyone = pd.concat([X, rookies], ignore_index=True)
model.fit(everyone, np.append(hits, np.zeros(10)), trials=np.append(at_bats, np.full(10, 2)))
low, high = model.predict_interval(rookies[:1], coverage=0.95)[0]
print(
    f"a rookie without a hit in two at-bats: {model.predict(rookies[:1])[0]:.3f}, 95 % interval {low:.2f} to {high:.2f}"
)

# %%
# Who is best?
# ------------
# Nobody knows after 45 at-bats: the ranks say so.
RankDisplay.from_estimator(model.fit(X, hits, trials=at_bats), top=3)

# %%
# Does it fit?
# ------------
# The sum of squares in units of the binomial variance is what such players would make.
from hbsk.predictive_checks import posterior_predictive_check  # noqa: E402 - where it is used

posterior_predictive_check(model, X, hits, trials=at_bats, random_state=0)
