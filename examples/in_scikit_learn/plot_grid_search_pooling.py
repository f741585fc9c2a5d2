"""
Searching over pooling and slopes
=================================

Should every subject have an intercept of its own, a slope too, and how much should subjects borrow from each other?
All of that are parameters of :class:`~hbsk.PartialPoolingRegressor`, so
:class:`~sklearn.model_selection.GridSearchCV` can ask which of the models predicts best.
"""

# %%
# The sleep deprivation study: reaction times of 18 subjects on ten days. The folds leave some days of each subject
# out.

# sphinx_gallery_tags = ["model selection", "varying slopes"]

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_sleepstudy
from hbsk.model_selection import WithinGroupKFold

X, y = load_sleepstudy(return_X_y=True, as_frame=True)
X.head(3)

# %%
# The grid
# --------
# Three poolings with and without slopes, the correlation of intercepts and slopes, and the same by formula. Parameters
# of a step have its name in front, as always. Nothing has to be done to these columns before they reach the model;
# where something has, names and formulas are looked up in the columns that arrive.
pipeline = Pipeline([("nothing", "passthrough"), ("model", PartialPoolingRegressor(group_features="Subject"))])
grid = [
    {"model__pooling": ["complete"]},
    {"model__pooling": ["none", "partial"], "model__slope_features": [None, ["Days"]]},
    {"model__slope_features": [["Days"]], "model__correlated": [False]},
    {"model__group_features": [None], "model__formula": ["~ 1 + (1 | Subject)", "~ poly(Days, 2) + (Days | Subject)"]},
]
search = GridSearchCV(
    pipeline,
    grid,
    scoring="neg_root_mean_squared_error",
    cv=WithinGroupKFold(5, shuffle=True, random_state=1),
    error_score="raise",
)
search.fit(X, y, groups=X["Subject"])
print(search.best_params_)

# %%
# What each candidate predicts
# ----------------------------
results = pd.DataFrame(search.cv_results_).sort_values("mean_test_score")
folds = [name for name in results if name.startswith("split") and name.endswith("_test_score")]
best = results.loc[results["rank_test_score"] == 1, folds].to_numpy()


def describe(params):
    """Say in words what a candidate is."""
    if "model__formula" in params:
        return params["model__formula"]
    words = [f"{params.get('model__pooling', 'partial')} pooling".replace("none", "no")]
    if params.get("model__slope_features"):
        words.append("own slopes")
    if params.get("model__correlated") is False:
        words.append("uncorrelated")
    return ", ".join(words)


results.index = [describe(params) for params in results["params"]]
table = pd.DataFrame(
    {
        "RMSE (ms)": -results["mean_test_score"],
        "standard error": results[folds].std(axis=1) / len(folds) ** 0.5,
        "worse than the best by": -(results[folds] - best).mean(axis=1),
        "its standard error": (results[folds] - best).std(axis=1) / len(folds) ** 0.5,
        "seconds a fit": results["mean_fit_time"],
    }
)
table.round(2)

# %%
# Errors of folds go up and down together for all models, so a difference is known much better than either error:
# compare candidates fold by fold.
figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
place = range(len(table))
ax.errorbar(
    table["worse than the best by"],
    place,
    xerr=table["its standard error"],
    fmt="o",
    color="#0072b2",
    capsize=3,
)
ax.axvline(0, color="#555555", linestyle="--", linewidth=1)
ax.set_yticks(place, table.index)
ax.set_xlabel("RMSE above that of the best (ms), standard error over folds")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Own slopes pay; whether they are correlated with the intercepts makes no difference that these data could show.
# Where candidates are this close, take the simpler one.
#
# Each fit is a whole posterior and costs some hundredths of a second, so that grids like this one are searched while
# you wait. ``verbose=`` of the search shows how far it is.
search.best_estimator_[-1].summary().round(2)
