"""
Meta-analysis: a vaccine in thirteen trials
===========================================

Thirteen trials of the BCG vaccine against tuberculosis, each with a log risk ratio and its standard error. Trials have
true effects of their own: how much do they differ, what is their mean, and what will the next trial find?
"""

# %%
# The random-effects analysis, with the numbers of metafor's ``summary``, ``confint`` and ``predict``:

# sphinx_gallery_tags = ["meta-analysis", "known standard errors", "James-Stein"]

import numpy as np

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.datasets import load_bcg
from hbsk.plotting import ForestDisplay

trials = load_bcg(as_frame=True)
X, y, errors = trials.data[["trial"]], trials.target, trials.standard_error
meta = JamesSteinEstimator(group_features="trial", method="empirical-bayes").fit(X, y, standard_error=errors)
meta.heterogeneity()

# %%
# The forest plot, as risk ratios. Large trials keep their own estimates, small ones borrow from the others. The mean of
# all trials is known well; what the vaccine does in a new place is not.
ForestDisplay.from_estimator(meta, transform=np.exp, order="weight")

# %%
# The same model with priors: tau2 is not known, and the posterior, which knows that, has the wider interval for a new
# trial.
posterior = PartialPoolingRegressor(group_features="trial").fit(X, y, standard_error=errors)
posterior.heterogeneity()

# %%
# Why do the trials differ? Far from the equator the vaccine works better, and little of tau2 is left.
by_latitude = JamesSteinEstimator(group_features="trial", target="regression")
by_latitude.fit(trials.data[["trial", "ablat"]], y, standard_error=errors).heterogeneity()
