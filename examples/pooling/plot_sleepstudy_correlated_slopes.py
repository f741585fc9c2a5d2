"""
Intercepts and slopes that vary together
========================================

Eighteen subjects slept three hours a night; their reaction times were taken on ten days. Everybody starts somewhere
(an intercept) and gets slower by so much a day (a slope). Both vary between subjects, and the two may be correlated.
"""

# %%
# One model with correlated effects
# ---------------------------------
# ``slope_features`` names the features whose slope varies; with ``correlated=True``, the default, intercept and slope
# have a correlation :math:`\rho`, learnt from the data.

# sphinx_gallery_tags = ["varying slopes"]

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_sleepstudy
from hbsk.plotting import GroupEffectsDisplay

X, y = load_sleepstudy(return_X_y=True, as_frame=True)
model = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
print(model.formula_)
print(model.summary().round(2).to_string())

# %%
# Where the subjects move
# -----------------------
# Without pooling every subject has a line of their own (open circles). Partial pooling pulls the subjects towards the
# middle, and not straight: a slope that is known badly is corrected by what the intercept says, and the other way
# round. The ellipse holds half of the population.

effects = model.group_effects_.pivot(index="group", columns="term", values=["no_pooling", "mean"])
own = effects["no_pooling"][["1|Subject", "Days|Subject"]].to_numpy()
pooled = effects["mean"][["1|Subject", "Days|Subject"]].to_numpy()
centre = np.array([model.intercept_, model.coef_[0]])

sd = model.group_sd_["Subject"].to_numpy()
covariance = model.group_correlation_["Subject"].to_numpy() * np.outer(sd, sd)
values, vectors = np.linalg.eigh(covariance)
width, height = 2 * np.sqrt(values * 2 * np.log(2))  # half of a bivariate normal lies within
angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))

figure, ax = plt.subplots(figsize=(7, 5.5), layout="constrained")
ax.add_patch(
    Ellipse(centre, width, height, angle=angle, facecolor="0.92", edgecolor="0.6", label="half of the population")
)
for start, end in zip(own, pooled, strict=True):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-", "color": "#D55E00", "alpha": 0.5})
ax.plot(*own.T, "o", markersize=7, markerfacecolor="none", color="#D55E00", label="no pooling")
ax.plot(*pooled.T, "o", markersize=5, color="#0072B2", label="partial pooling")
ax.plot(*centre, "k+", markersize=11, markeredgewidth=2, label="population mean")
ax.set(xlabel="reaction time on day 0 (ms)", ylabel="slower by (ms per day)")
ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)

# %%
# Who suffers most from too little sleep
# --------------------------------------
# The slopes in their order. For most subjects the interval does not hold the population mean or barely does; nobody
# gets faster for sure.

display = GroupEffectsDisplay.from_estimator(model, term="Days|Subject")
display.ax_.set_xlabel("slower by (ms per day)")

# %%
# Does the correlation matter?
# ----------------------------
# Its posterior is wide and includes 0, so a model without it predicts much the same here. It would matter in
# predictions for a subject with one or two observations.

independent = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"], correlated=False).fit(X, y)
print(model.group_correlation_["Subject"].round(2).to_string())
difference = np.abs(model.predict(X) - independent.predict(X)).max()
print(f"largest difference of the two models' predictions: {difference:.1f} ms (residual sd {model.sigma_:.0f} ms)")
plt.show()
