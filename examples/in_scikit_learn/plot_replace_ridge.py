"""
Replacing Ridge in a pipeline
=============================

A pipeline that predicts the radon level of a home from its floor, the uranium in the soil of its county, and the
county itself stands in many projects like this: scale the numbers, make one column for each county, fit a Ridge. Here
a :class:`~hbsk.PartialPoolingRegressor` takes its place, in one line.
"""

# %%
# As it stood
# -----------
# sphinx_gallery_tags = ["pipelines", "baselines"]

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon
from hbsk.model_selection import WithinGroupKFold

X, y = load_radon(return_X_y=True, as_frame=True)
X.head()

# %%
before = make_pipeline(
    make_column_transformer(
        (StandardScaler(), ["floor", "uranium"]),
        (OneHotEncoder(handle_unknown="ignore"), ["county"]),
    ),
    RidgeCV(np.geomspace(0.01, 100, 13)),
)

# %%
# With partial pooling
# --------------------
# The estimator is told which column holds the groups. Nothing has to be scaled or encoded: priors are scaled to the
# columns, and text columns would be coded.
after = PartialPoolingRegressor(group_features="county")
after.fit(X, y)

# %%
# Everything around the pipeline stays: cross-validation, scorers, searches. The folds here have some homes of every
# county in training (wherever it has two), which is how the model will be used.
folds = WithinGroupKFold(5, shuffle=True, random_state=0)
errors = {
    name: -cross_val_score(model, X, y, groups=X["county"], cv=folds, scoring="neg_root_mean_squared_error")
    for name, model in {"Ridge": before, "partial pooling": after}.items()
}
pd.DataFrame(errors).agg(["mean", "std"]).round(4)

# %%
# On average the two predict about equally well: with one column a county, Ridge is itself a kind of partial pooling,
# with one amount of shrinkage for the scaled numbers and the counties, chosen by cross-validation.
#
# What was gained
# ---------------
# The amount of shrinkage was not searched for but learnt, for the counties alone. And there is an answer to how sure
# the prediction is, for homes in known counties and in new ones.
print(f"sd between counties {after.group_sd_['county'].iloc[0]:.2f}, between homes {after.sigma_:.2f}")

sizes = X["county"].value_counts().iloc[[0, 6, 25, 50, -1]]
homes = pd.DataFrame({"county": [*sizes.index, "ELSEWHERE"], "floor": 0, "uranium": 0.0})
mean, sd = after.predict(homes, return_std=True)
low, high = after.predict_interval(homes, coverage=0.9, kind="mean").T
table = homes[["county"]].assign(
    homes=[*sizes, 0], ridge=before.fit(X, y).predict(homes), mean=mean, low=low, high=high
)
table.round(2)

# %%
# The level of a county is known as well as it has homes. For a county that was never measured the interval is that of
# a county drawn from the population; Ridge answers with a number that looks like all the others.
figure, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
place = np.arange(len(table))[::-1]
ax.errorbar(
    mean, place, xerr=[mean - low, high - mean], fmt="o", color="#0072b2", capsize=3, label="partial pooling, 90 %"
)
ax.scatter(table["ridge"], place, marker="x", color="#d55e00", zorder=3, label="Ridge")
names = [
    f"{county.title()} ({n} home{'' if n == 1 else 's'})"
    for county, n in zip(table["county"], table["homes"], strict=True)
]
names[-1] = "a county not among the 85"
ax.set_yticks(place, names)
ax.set_xlabel("mean log radon of basements in the county, at a log uranium of 0")
figure.legend(loc="outside upper right", ncols=2)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
