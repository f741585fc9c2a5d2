"""
The lesson's simulation, by hand and by hbsk
============================================

Eight schools with known truth: :math:`\\theta_j \\sim N(5, 2^2)`, pupils with sd 3, and 10 to 25 pupils a school. A
course on hierarchical Bayes writes this model in PyMC by hand. Here it stands beside the two engines of hbsk, from the
means of the schools and from the pupils themselves. Do they agree, and does partial pooling come closer to the truth?
"""

# %%
# Data from a known truth
# -----------------------

# sphinx_gallery_tags = ["known standard errors", "NUTS"]

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

from hbsk import PartialPoolingRegressor

rng = np.random.default_rng(42)
n = np.array([15, 22, 12, 18, 10, 25, 14, 20])
mu_true, tau_true, sigma = 5.0, 2.0, 3.0
theta_true = rng.normal(mu_true, tau_true, 8)
schools = [f"school {j}" for j in range(1, 9)]
pupils = pd.DataFrame({"school": np.repeat(schools, n)})
score = rng.normal(np.repeat(theta_true, n), sigma)

means = pd.Series(score).groupby(np.repeat(np.arange(8), n)).mean().to_numpy()
errors = sigma / np.sqrt(n)  # known: the lesson takes sigma as given

# %%
# By hand
# -------
# Effects are written as :math:`\mu + \tau z_j`, which spares the sampler the funnel where :math:`\tau` is small.
with pm.Model():
    mu = pm.Normal("mu", 0, 10)
    tau = pm.HalfNormal("tau", 5)
    z = pm.Normal("z", 0, 1, shape=8)
    theta = pm.Deterministic("theta", mu + tau * z)
    pm.Normal("y", theta, errors, observed=means)
    by_hand = pm.sample(
        3000, tune=1000, chains=4, cores=1, random_seed=1, target_accept=0.95, progressbar=False, quiet=True
    )
drawn = by_hand["posterior"]

# %%
# By hbsk
# -------
# The same priors, by integration and by NUTS, from the means with their standard errors. From the pupils sigma is not
# known but learnt.
priors = {
    "Intercept": ("Normal", {"mu": 0, "sigma": 10}),
    "1|school": ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 5})}),
}
one_row_each = pd.DataFrame({"school": schools})
sampling = {"inference": "nuts", "draws": 3000, "chains": 4, "n_jobs": 1, "random_state": 1,
            "sampler_options": {"target_accept": 0.95}}  # fmt: skip


def model(**options):
    return PartialPoolingRegressor(group_features="school", priors=priors, **options)


fits = {
    "marginal, means": model().fit(one_row_each, means, standard_error=errors),
    "NUTS, means": model(**sampling).fit(one_row_each, means, standard_error=errors),
    "marginal, pupils": model().fit(pupils, score),
    "NUTS, pupils": model(**sampling).fit(pupils, score),
}

# %%
# Side by side
# ------------
# Posterior means of :math:`\mu`, :math:`\tau` and the eight :math:`\theta_j`. What is sampled agrees with what is
# integrated within its Monte Carlo error, some hundredths here.
table = {
    "truth": [mu_true, tau_true, *theta_true],
    "by hand": [float(drawn["mu"].mean()), float(drawn["tau"].mean()), *drawn["theta"].mean(("chain", "draw")).values],
}
for name, fit in fits.items():
    parameters = fit.summary()["mean"]
    table[name] = [parameters["Intercept"], parameters["1|school_sigma"], *fit.group_effects_["mean"]]
print(pd.DataFrame(table, index=["mu", "tau", *schools]).round(2).to_string())

# %%
# No pooling and partial pooling
# ------------------------------
# Left, both with bars of 1.96 standard deviations, and the line of :math:`\mu`. Right, how far each school moved
# towards it; at one half a school believes the others as much as itself.
fit = fits["marginal, means"]
effects = fit.group_effects_.set_index("group").loc[schools]
shrinkage = 1 - fit.shrinkage_["school"]["1|school"].loc[schools]
mean = fit.summary().loc["Intercept", "mean"]
place = np.arange(8)

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
left.errorbar(place - 0.1, means, 1.96 * errors, fmt="o", mfc="none", color="#d55e00", label="no pooling")
left.errorbar(place + 0.1, effects["mean"], 1.96 * effects["sd"], fmt="o", color="#0072b2", label="partial pooling")
left.axhline(mean, color="#555555", linestyle="--", label="$\\mu$")
left.set_xticks(place, range(1, 9))
left.set_ylabel("mean of the school")
left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
right.bar(place, shrinkage, color="#0072b2", width=0.6)
right.axhline(0.5, color="#555555", linestyle="--")
right.set_xticks(place, range(1, 9))
right.set_ylim(0, 1)
right.set_ylabel("shrinkage towards $\\mu$")
for ax in (left, right):
    ax.set_xlabel("school")
plt.show()

# %%
# Estimates against size
# ----------------------
# Small schools move most. With the truth at hand the error can be counted:
figure, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
ax.vlines(n, means, effects["mean"], color="#aaaaaa", linewidth=1)
ax.scatter(n, means, facecolors="none", edgecolors="#d55e00", label="no pooling")
ax.scatter(n, effects["mean"], color="#0072b2", label="partial pooling")
ax.scatter(n, theta_true, color="black", marker="x", label="true $\\theta_j$")
ax.axhline(mu_true, color="#555555", linestyle="--", label="true $\\mu$")
ax.set_xlabel("pupils of the school")
ax.set_ylabel("mean of the school")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
print("mean squared error, no pooling:     ", f"{np.mean((means - theta_true) ** 2):.3f}")
print("mean squared error, partial pooling:", f"{np.mean((effects['mean'] - theta_true) ** 2):.3f}")
plt.show()
