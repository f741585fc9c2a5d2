"""Squared error of estimated group means: hbsk's James-Stein against the encoders in use.

    python -m benchmarks.encoders [--seeds 60] [--glmm-seeds 6]

100 groups, noise sd 1, true group means normal with sd tau; 30 groups of one row, 40 of 2 to 5, 30 of 10 to 59. Every
method sees the same data; the table holds the mean squared error of the 100 estimated means, averaged over the seeds,
and its standard error for our best method. Encoders are made to be features (scikit-learn's cross-fits in
`fit_transform`); here they are judged as estimators of group means, by `fit` and then `transform`. What they are worth
to a model is measured in `benchmarks.encoded_models`.

Needs category_encoders (and statsmodels, for its GLMM encoder, which is slow and runs on fewer seeds); `--glmm-seeds 0`
leaves that row out.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from sklearn.preprocessing import TargetEncoder

from hbsk import JamesSteinEstimator, PartialPoolingEncoder

TAUS = (0.0, 0.25, 0.5, 1.0, 2.0)
GLMM = "category_encoders GLMM"
OURS = {
    "hbsk james-stein": {"method": "james-stein"},
    "hbsk empirical-bayes, REML": {"method": "empirical-bayes"},
    "hbsk empirical-bayes, Paule-Mandel": {"method": "empirical-bayes", "between_group_variance": "paule-mandel"},
    "hbsk sure": {"method": "sure"},
}


def simulate(tau: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw true means (100,), and the group and response of every row."""
    sizes = np.concatenate([np.ones(30, dtype=int), rng.integers(2, 6, 40), rng.integers(10, 60, 30)])
    theta = tau * rng.normal(size=len(sizes))
    group = np.repeat(np.arange(len(sizes)), sizes)
    return theta, group, theta[group] + rng.normal(size=len(group))


def ours(**params) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def estimate(group, y):
        return JamesSteinEstimator(group_features=0, **params).fit(group[:, None], y).theta_

    return estimate


def our_encoder(group, y):
    labels = np.arange(group.max() + 1)[:, None]
    return PartialPoolingEncoder().fit(group[:, None], y).transform(labels).ravel()


def target_encoder(group, y):
    labels = np.arange(group.max() + 1)[:, None]
    return TargetEncoder(smooth="auto", target_type="continuous").fit(group[:, None], y).transform(labels).ravel()


def category_encoder(name: str, **params) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def estimate(group, y):
        import category_encoders

        frame = pd.DataFrame({"group": group.astype(str)})
        encoder = getattr(category_encoders, name)(cols=["group"], **params).fit(frame, pd.Series(y))
        labels = pd.DataFrame({"group": np.arange(group.max() + 1).astype(str)})
        return encoder.transform(labels)["group"].to_numpy()

    return estimate


def methods(glmm: bool) -> Iterator[tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]]:
    yield "raw means", lambda group, y: np.bincount(group, y) / np.bincount(group)
    yield "global mean", lambda group, y: np.full(group.max() + 1, y.mean())
    for name, params in OURS.items():
        yield name, ours(**params)
    yield "hbsk PartialPoolingEncoder.transform", our_encoder
    yield "category_encoders James-Stein, independent", category_encoder("JamesSteinEncoder", model="independent")
    yield "category_encoders James-Stein, pooled", category_encoder("JamesSteinEncoder", model="pooled")
    yield "scikit-learn TargetEncoder", target_encoder
    if glmm:
        yield GLMM, category_encoder("GLMMEncoder", binomial_target=False)


def run(n_seeds: int, glmm_seeds: int) -> pd.DataFrame:
    """Tidy table: method, tau, seed, squared_error."""
    records = []
    for tau in TAUS:
        for seed in range(n_seeds):
            theta, group, y = simulate(tau, np.random.default_rng([seed, int(100 * tau)]))
            for name, estimate in methods(glmm=seed < glmm_seeds):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the encoders' own
                    records.append((name, tau, seed, np.mean((estimate(group, y) - theta) ** 2)))
    return pd.DataFrame(records, columns=["method", "tau", "seed", "squared_error"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--glmm-seeds", type=int, default=6)
    arguments = parser.parse_args()
    results = run(arguments.seeds, arguments.glmm_seeds)
    table = results.pivot_table("squared_error", "method", "tau", sort=False)
    print(f"Mean squared error of 100 group means, {arguments.seeds} seeds ({GLMM}: {arguments.glmm_seeds})\n")
    print(table.round(3).to_string())
    rivals = [name for name in table.index if name.startswith(("category_encoders James", "scikit-learn"))]
    best, best_rival = table.loc[list(OURS)].min(), table.loc[rivals].min()
    print("\nbest of ours / best of James-Stein encoders and TargetEncoder:", (best / best_rival).round(2).to_dict())
    reml = "hbsk empirical-bayes, REML"
    spread = results[results.method == reml].groupby("tau").squared_error.sem()
    print(f"standard error over seeds, {reml}:", spread.round(4).to_dict())
    if arguments.glmm_seeds:
        same = results[results.seed < arguments.glmm_seeds].pivot_table("squared_error", "method", "tau", sort=False)
        print(f"\nOn the {arguments.glmm_seeds} seeds that {GLMM} had:\n")
        print(same.loc[[reml, "hbsk sure", GLMM]].round(3).to_string())


if __name__ == "__main__":
    main()
