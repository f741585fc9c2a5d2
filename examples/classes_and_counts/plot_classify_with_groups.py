"""
Rates by group: against LogisticRegression and boosting
=======================================================

Which houses are above 4 pCi/L, the level at which the EPA advises to act? 919 houses in 85 counties, most of them with
few houses. A classifier that ignores the counties, one with a column for each, one that encodes them by their rates,
and trees, against partial pooling; by log loss and Brier score, for new houses of known counties and for new counties.
"""

# %%

# sphinx_gallery_tags = ["classes", "baselines", "new groups"]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from threadpoolctl import threadpool_limits

from hbsk import PartialPoolingClassifier
from hbsk.datasets import load_radon
from hbsk.model_selection import WithinGroupKFold, compare_estimators

X, log_radon = load_radon(return_X_y=True, as_frame=True)
high = np.where(log_radon > np.log(4), "act", "fine")
numbers = ["floor", "uranium"]


def with_counties(encoder, model):
    return make_pipeline(make_column_transformer((encoder, ["county"]), (StandardScaler(), numbers)), model)


folds = StratifiedKFold(5, shuffle=True, random_state=0)
one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
trees = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=4, random_state=0)
contenders = {
    "hbsk": PartialPoolingClassifier(group_features="county"),
    "LogisticRegression, no counties": make_pipeline(
        make_column_transformer((StandardScaler(), numbers)), LogisticRegression()
    ),
    "LogisticRegression, one-hot": with_counties(one_hot, LogisticRegression()),
    "LogisticRegression, TargetEncoder": with_counties(TargetEncoder(cv=folds), LogisticRegression()),
    "boosting, TargetEncoder": with_counties(TargetEncoder(cv=folds), trees),
}
with threadpool_limits(1):
    comparison = compare_estimators(contenders, X, high, X["county"], scoring=["log_loss", "brier", "fit_seconds"])
comparison.pivot(index=["question", "estimator"], columns="metric", values="mean").round(3)

# %%
# Differences, paired by folds
# ----------------------------
# Log loss less that of partial pooling, with twice the standard error of the difference.
losses = comparison[comparison["metric"] == "log_loss"].set_index(["question", "estimator"])
names = list(contenders)
fig, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
for ax, (question, part) in zip(axes, losses.groupby(level="question", observed=True), strict=True):
    part = part.droplevel("question").loc[names]
    ax.errorbar(
        part["difference"],
        np.arange(len(names)),
        xerr=2 * part["difference_standard_error"].fillna(0.0),
        fmt="o",
    )
    ax.axvline(0.0, color="0.8", lw=1, zorder=0)
    ax.set(title=question, xlabel="log loss less that of hbsk", yticks=np.arange(len(names)), yticklabels=names)
axes[0].invert_yaxis()

# %%
# Are the probabilities right?
# ----------------------------
# Of houses that are said to be above the level with a probability of 0.3, three in ten should be.
known = list(WithinGroupKFold(5, shuffle=True, random_state=0).split(X, high, X["county"]))
with threadpool_limits(1):
    probability = cross_val_predict(contenders["hbsk"], X, high, cv=known, method="predict_proba")[:, 0]
seen, said = calibration_curve(high == "act", probability, n_bins=8, strategy="quantile")
fig, ax = plt.subplots(figsize=(4, 3.6), layout="constrained")
ax.plot([0, 1], [0, 1], color="0.8", lw=1)
ax.plot(said, seen, "o-")
ax.set(xlabel="probability said", ylabel="share seen", xlim=(0, 1), ylim=(0, 1))
