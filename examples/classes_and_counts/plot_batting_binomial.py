"""
Who is the best hitter? Ranking players by hits out of at-bats
==============================================================

Efron and Morris's 18 players of 1970, whose first 45 at-bats are to predict the rest of the season. A batting average
is a proportion: a model of normal noise puts intervals below 0 where a player has had few at-bats. And a ranking by
averages looks exact, and is not.
"""

# %%
# Each player is a group with one row: his hits, out of 45 trials. The ranks have a posterior like all else; after 45
# at-bats nobody knows who is best.

# sphinx_gallery_tags = ["counts", "ranks", "James-Stein"]

import numpy as np
import pandas as pd

from hbsk import JamesSteinEstimator, PartialPoolingCountRegressor
from hbsk.datasets import load_baseball
from hbsk.plotting import RankDisplay

players = load_baseball(as_frame=True)
X, hits, at_bats = players.data, players.hits, players.at_bats
model = PartialPoolingCountRegressor(family="binomial", group_features="player").fit(X, hits, trials=at_bats)
averages = model.group_effects(scale="response").set_index("group")[["no_pooling", "mean", "eti95_lb", "eti95_ub"]]
model.rank_groups(top=5)[["expected_rank", "p_top_5"]].join(averages).round(3)

# %%
RankDisplay.from_estimator(model, top=5)

# %%
# Did it pay? The rest of the season, some 370 at-bats each, tells how good the players were. A beta law between players
# is the shorter way to shrink: two parameters in place of a model, no priors to set.
beta = JamesSteinEstimator(method="beta-binomial", group_features="player").fit(X, hits, trials=at_bats)
estimates = {"own average": hits / at_bats, "partial pooling": model.predict(X), "beta-binomial": beta.predict(X)}
rest = players.remaining_average
pd.Series({name: np.sum((estimate - rest) ** 2) for name, estimate in estimates.items()}, name="squared error").round(4)

# %%
# Ten more players with two at-bats each and no hit. Their own average is 0; the posterior is that of a player of whom
# little is known, and no interval leaves 0 to 1.
rookies = pd.DataFrame({"player": [f"rookie {i}" for i in range(10)]})
everyone = pd.concat([X, rookies], ignore_index=True)
model.fit(everyone, np.append(hits, np.zeros(10)), trials=np.append(at_bats, np.full(10, 2)))
low, high = model.predict_interval(rookies[:1], coverage=0.95)[0]
print(f"a rookie: {model.predict(rookies[:1])[0]:.3f}, 95 % interval {low:.3f} to {high:.3f}")
