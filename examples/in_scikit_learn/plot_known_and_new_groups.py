"""
Known groups and new groups
===========================

"How well does the model predict?" has two answers where data are grouped. One is about **new rows of known groups**:
the next days of these subjects. The other is about **new groups**: a subject nobody has met. Which of the two
cross-validation answers is decided by the splitter, and the best model for one can be useless for the other.
"""

# %%
# Two splitters
# -------------
# :class:`~hbsk.model_selection.WithinGroupKFold` deals the rows of every group to the folds, so that each group is
# met in training. :class:`~sklearn.model_selection.GroupKFold` leaves whole groups out.

# sphinx_gallery_tags = ["model selection", "new groups"]

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GroupKFold, KFold

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_sleepstudy
from hbsk.model_selection import WithinGroupKFold, compare_estimators

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"

X, y = load_sleepstudy(return_X_y=True, as_frame=True)
groups = X["Subject"]

figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained", sharey=True)
for ax, splitter in zip(axes, (WithinGroupKFold(5), GroupKFold(5)), strict=True):
    picture = np.zeros((5, 60))
    for fold, (_, test) in enumerate(splitter.split(X, y, groups)):
        picture[fold, test[test < 60]] = 1
    ax.imshow(picture, aspect="auto", cmap=ListedColormap(["#dddddd", BLUE]), interpolation="none")
    for border in range(10, 60, 10):
        ax.axvline(border - 0.5, color="white", linewidth=2)
    ax.set_title(type(splitter).__name__, fontsize=10)
    ax.set_xticks(np.arange(4.5, 60, 10), [f"subject {subject}" for subject in groups.unique()[:6]], fontsize=7)
    ax.set_yticks(range(5), [f"fold {k + 1}" for k in range(5)])
    ax.tick_params(length=0)
figure.suptitle("Rows that are predicted (blue) in the first six subjects")
plt.show()

# %%
# Both questions in one call
# --------------------------
# :func:`~hbsk.model_selection.compare_estimators` asks both of any estimators. The groups come as the keyword here,
# and reach those that take them; ``BayesianRidge`` does not.
estimators = {
    "complete pooling": BayesianRidge(),
    "no pooling": PartialPoolingRegressor(slope_features="all", pooling="none"),
    "partial pooling": PartialPoolingRegressor(slope_features="all"),
}
comparison = compare_estimators(estimators, X[["Days"]], y, groups=groups)
comparison.pivot(index=["question", "estimator"], columns="metric", values="mean").round(3)

# %%
# Known subjects are predicted far better by their own lines, and best by lines that borrow from each other. For a new
# subject there is nothing to go by but the population, and all three give the same mean. What they differ in is how
# much they know of their ignorance. Complete pooling takes the differences between subjects for noise, as large on the
# first day as on the last; no pooling, which has no population, answers for someone new as complete pooling does. Only
# partial pooling learns how much levels and slopes differ between subjects: its 90 % intervals grow with the days and
# are wide enough for someone new, where those of the other two cover somewhat less than they promise.
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
table = comparison.set_index(["metric", "estimator", "question"]).sort_index()
questions = comparison["question"].unique()
colors = {"complete pooling": GREY, "no pooling": ORANGE, "partial pooling": BLUE}
for ax, metric, label in (
    (axes[0], "rmse", "root mean squared error (ms)"),
    (axes[1], "coverage", "coverage of 90 % intervals"),
):
    for k, (name, color) in enumerate(colors.items()):
        rows = table.loc[(metric, name)].loc[questions]
        ax.errorbar(
            np.arange(2) + (k - 1) * 0.18,
            rows["mean"],
            rows["standard_error"],
            fmt="o",
            color=color,
            capsize=4,
            label=name,
        )
    ax.set_xticks(range(2), questions)
    ax.set_xlim(-0.5, 1.5)
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylim(0)
axes[1].axhline(0.9, color="black", linestyle="--", linewidth=1)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %%
# The question one did not mean to ask
# ------------------------------------
# :class:`~sklearn.model_selection.KFold` splits rows and does not look at groups. It asks the first question, more or
# less; who meant the second is told an error that is much too small.
cv = {"KFold": KFold(5, shuffle=True, random_state=0), "GroupKFold": GroupKFold(5)}
errors = compare_estimators(
    {"partial pooling": estimators["partial pooling"]}, X[["Days"]], y, groups=groups, cv=cv, scoring=["rmse"]
)
errors[["question", "mean", "standard_error"]].round(1)
