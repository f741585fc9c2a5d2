"""
Eight schools, two engines
==========================

Eight schools coached pupils for a test. Each school's effect was estimated with a standard error of 9 to 18 points,
and the estimates run from -3 to 28. Is school A's coaching really worth 28 points?

The model has three levels. What was measured, :math:`y_j \\sim N(\\theta_j, s_j^2)` with known :math:`s_j`; the true
effects, :math:`\\theta_j \\sim N(\\mu, \\tau^2)`; and the priors :math:`\\mu \\sim N(0, 5^2)`, :math:`\\tau \\sim`
half-Cauchy(5). Here it is fitted twice, by the marginal engine, which integrates, and by NUTS, which samples with
four chains through Bambi and PyMC.
"""

# %%
# The same model for both engines
# -------------------------------
# The standard errors are known, so they are passed to ``fit`` and there is no residual sd to estimate.

# sphinx_gallery_tags = ["known standard errors", "NUTS"]

import time

import matplotlib.pyplot as plt
import pandas as pd

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_eight_schools
from hbsk.plotting import ShrinkageDisplay

schools = load_eight_schools(as_frame=True)
priors = {
    "Intercept": ("Normal", {"mu": 0, "sigma": 5}),
    "1|school": ("Normal", {"mu": 0, "sigma": ("HalfCauchy", {"beta": 5})}),
}
# Where tau is near 0 the sampler needs short steps: hence a high target_accept.
sampled = PartialPoolingRegressor(
    group_features="school",
    priors=priors,
    inference="nuts",
    chains=4,
    sampler_options={"target_accept": 0.99},
    random_state=1,
)
integrated = PartialPoolingRegressor(group_features="school", priors=priors)

for model in (sampled, integrated):
    start = time.perf_counter()
    model.fit(schools.data, schools.target, standard_error=schools.standard_error)
    # The first fit also pays for importing PyMC or Bambi.
    print(f"{model.inference_}: {time.perf_counter() - start:.1f} s")

# %%
# The answers side by side
# ------------------------
# First :math:`\mu` and :math:`\tau`, then the eight :math:`\theta_j`. The engines agree within the Monte Carlo error
# of NUTS (``mcse_mean``).


def posterior(model):
    """Mean and sd of mu, tau and the eight theta."""
    parameters = model.summary()[["mean", "sd"]].rename({"Intercept": "mu", "1|school_sigma": "tau"})
    effects = model.group_effects_.set_index("group")[["mean", "sd"]]
    return pd.concat([parameters, effects.rename(index=lambda school: f"theta[{school}]")])


side_by_side = pd.concat({"marginal": posterior(integrated), "NUTS": posterior(sampled)}, axis=1)
print(side_by_side.round(2).to_string())
print()
print(sampled.summary(diagnostics=True)[["ess_bulk", "ess_tail", "r_hat", "mcse_mean"]].round(3).to_string())

# %%
# No pooling against partial pooling
# ----------------------------------
# The open circles are the schools on their own (no pooling, an interval of 1.96 standard errors). Partial pooling moves
# them towards the common mean and shortens every interval, because each school learns from the other seven. School A's
# 28 points become 6, and its interval holds the mean.

no_pooling = PartialPoolingRegressor(group_features="school", pooling="none")
no_pooling.fit(schools.data, schools.target, standard_error=schools.standard_error)
display = ShrinkageDisplay.from_estimator(integrated, no_pooling=no_pooling)
display.ax_.set_xlabel("effect of coaching (points)")

# %%
# Shrinkage of each school
# ------------------------
# The weight of a school's own estimate is :math:`\lambda_j = \tau^2 / (\tau^2 + s_j^2)`, averaged over the posterior
# of :math:`\tau`. It is largest where the standard error is smallest (school E, 9 points) and smallest in school H
# (18).

display = ShrinkageDisplay.from_estimator(integrated, kind="shrinkage")
shrinkage = integrated.shrinkage_["school"]["1|school"]
print(pd.DataFrame({"standard error": schools.standard_error.to_numpy(), "weight": shrinkage.round(2)}).to_string())
plt.show()
