"""
Ranks with their uncertainty: 18 hitters, 85 counties
=====================================================

After 45 at-bats of the 1970 season Roberto Clemente had hit .400, Max Alvis .156. Ranking players by such averages
looks exact and is not: the standard error of each is .066. Partial pooling gives the joint posterior of all 18
players, and so the posterior of every rank.
"""

# %%
# Expected ranks
# --------------
# The open circles are the ranks of the raw averages. The expected ranks (dots) keep much closer to the middle, and
# their bars, one sd to both sides, overlap nearly everywhere.

# sphinx_gallery_tags = ["ranks"]

import matplotlib.pyplot as plt
import pandas as pd

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_baseball, load_radon
from hbsk.plotting import RankDisplay

players = load_baseball(as_frame=True)
model = PartialPoolingRegressor(group_features="player", random_state=0)
model.fit(players.data, players.target, standard_error=players.standard_error)
display = RankDisplay.from_estimator(model, top=3)
display.ax_.set_xlabel("rank by batting average (1 is the best)")

ranks = model.rank_groups(top=6)
print(ranks.round(3).to_string())

# %%
# What became of them
# -------------------
# The rest of the season, 200 to 500 at-bats each, tells how good the players really were. The shrunken averages come
# much closer to it than the raw ones. Clemente stayed the first; the fourth of the raw ranking, Johnstone with .333,
# fell to .222.

later = players.remaining_average
shrunken = model.predict(players.data)
table = pd.DataFrame({"first 45": players.target, "shrunken": shrunken, "rest of season": later})
table.index = players.data["player"]
print(table.head(6).round(3).to_string())
print(f"squared error: raw {((players.target - later) ** 2).sum():.4f}, shrunken {((shrunken - later) ** 2).sum():.4f}")
print("best over the rest of the season:", table["rest of season"].idxmax())

# %%
# Ranking raw means crowns the smallest groups
# --------------------------------------------
# All players have 45 at-bats. Where sizes differ, raw ranks do more harm: the top of a raw ranking is made of small
# groups, whose means vary most. Counties of Minnesota by their radon, 1 to 116 homes each:

X, y = load_radon(return_X_y=True, as_frame=True)
homes = X["county"].value_counts()
raw = y.groupby(X["county"]).mean().sort_values(ascending=False)
radon = PartialPoolingRegressor(group_features="county", random_state=0).fit(X[["county", "floor"]], y)
expected = radon.rank_groups(top=6)
comparison = pd.DataFrame(
    {"raw": raw.index[:6], "homes": homes[raw.index[:6]].to_numpy(), "by expected rank": expected.index[:6]}
)
comparison["homes "] = homes[expected.index[:6]].to_numpy()
comparison["P(top 6)"] = expected["p_top_6"].round(2).to_numpy()
print(comparison.to_string(index=False))
plt.show()
