"""
Shrinkage in 85 counties
========================

919 homes in 85 counties of Minnesota were tested for radon, 116 in one county and a single one in three others. What
does partial pooling do to counties of such different sizes?
"""

# %%
# Every county before and after
# -----------------------------
# The open circle is a county's own estimate of log radon in a basement (no pooling), the dot the partially pooled
# one. Counties are sorted by size: large ones at the top stay where they are, small ones are pulled towards the mean,
# and the further from it, the more.

# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_tags = ["varying intercepts"]

import matplotlib.pyplot as plt
import pandas as pd

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon
from hbsk.plotting import GroupEffectsDisplay, GroupSizeDisplay, ShrinkageDisplay

X, y = load_radon(return_X_y=True, as_frame=True)
X = X[["county", "floor"]]
model = PartialPoolingRegressor(group_features="county", slope_features=["floor"]).fit(X, y)
print(model.formula_)
display = ShrinkageDisplay.from_estimator(model)
display.ax_.set_xlabel("log radon in a basement")

# %%
# By size
# -------
# The highest and the lowest counties without pooling are nearly all small ones: their estimates are mostly noise.

effects = model.group_effects_.query("term == '1|county'").set_index("group")
for name, column in {"no pooling": "no_pooling", "partial pooling": "mean"}.items():
    top = effects.sort_values(column, ascending=False).head(5)
    homes = ", ".join(f"{county.title()} ({n:g})" for county, n in top["n"].items())
    print(f"highest five by {name} (homes): {homes}")

display = GroupSizeDisplay.from_estimator(model)
display.ax_.set_ylabel("log radon in a basement")
display.ax_.set_xlabel("homes in the county")

# %%
# How much of its own estimate a county keeps
# -------------------------------------------
# With n homes the weight is :math:`\lambda = \tau^2 / (\tau^2 + \sigma^2 / n)` (all of them basements).

weights = effects.groupby(pd.cut(effects["n"], [0, 1, 3, 10, 50, 200]), observed=True)["shrinkage"]
print(weights.agg(["count", "mean"]).round(2).to_string())

figure, axes = plt.subplots(1, 2, figsize=(12, 13), layout="constrained")
ShrinkageDisplay.from_estimator(model, kind="shrinkage", ax=axes[0])
# The effect of the floor varies too, but no county has enough homes on both floors to stand out much.
GroupEffectsDisplay.from_estimator(model, term="floor|county", ax=axes[1])
axes[1].set_xlabel("effect of the first floor on log radon")
plt.show()
