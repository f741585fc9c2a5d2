"""
Sales of stores: Ridge's pipeline, swapped in one line
======================================================

The pipeline of every tutorial scales the numbers, makes a column of each level of the rest, and fits a Ridge. But
stores are no levels like regions: some have two weeks of sales, others forty, and next month a new one opens. A
:class:`~hbsk.PartialPoolingRegressor` takes the pipeline's place in one line, and the rest of the script stays.
"""

# %%
# Made-up weeks of 40 stores in three regions: log sales, by price and promotion.

# sphinx_gallery_tags = ["pipelines", "baselines"]

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hbsk import PartialPoolingRegressor
from hbsk.model_selection import compare_estimators
from hbsk.plotting import ShrinkageDisplay

rng = np.random.default_rng(0)
regions = rng.choice(["north", "south", "west"], 40)
stores = pd.DataFrame({"store": [f"store {j}" for j in range(40)], "region": regions})
level = 3 + 0.3 * (regions == "south") + rng.normal(0, 0.25, 40)
X = stores.loc[np.repeat(np.arange(40), rng.integers(2, 40, 40))]
X = X.assign(price=rng.normal(10, 1.5, len(X)), promotion=rng.random(len(X)) < 0.3)
y = level[X.index] - 0.08 * X["price"] + 0.2 * X["promotion"] + rng.normal(0, 0.5, len(X))

# %%
# As it stood, and what takes its place. Nothing has to be scaled or encoded: priors are scaled to the columns, text is
# coded for you.
levels = ["store", "region", "promotion"]
preprocess = ColumnTransformer(
    [("numbers", StandardScaler(), ["price"]), ("levels", OneHotEncoder(handle_unknown="ignore"), levels)]
)
ridge = Pipeline([("preprocess", preprocess), ("ridge", Ridge())])
pooled = PartialPoolingRegressor(group_features="store")

# %%
# Further weeks of known stores, and stores that were not there. The two predict equally well: with a column a store
# Ridge shrinks too, by one penalty that has to be searched for. How sure it is, Ridge cannot say; 90 % intervals of
# hbsk hold 90 % of the weeks.
scores = compare_estimators({"Ridge": ridge, "hbsk": pooled}, X, y, groups=X["store"], scoring=["rmse", "coverage"])
scores.pivot(index=["question", "estimator"], columns="metric", values="mean").round(3)

# %%
# Averages of two weeks are pulled far towards what region, price and promotion say, those of forty hardly. How far was
# learnt, not searched for; and a store that opens tomorrow has an answer with its uncertainty.
new = pd.DataFrame({"store": ["store 10", "opens tomorrow"], "region": "south", "price": 10.0, "promotion": True})
mean, sd = pooled.fit(X, y).predict(new, return_std=True)
print(new.assign(mean=mean, sd=sd).round(2))
ShrinkageDisplay.from_estimator(pooled)
