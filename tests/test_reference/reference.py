"""Read the stored estimates of other software, and the data they were made from."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "hbsk" / "datasets" / "data"


@cache
def _read(filename: str) -> list[dict[str, Any]]:
    return json.loads((HERE / filename).read_text(encoding="utf-8"))["models"]


def lme4_models() -> list[dict[str, Any]]:
    """Return all models of lme4.json."""
    return _read("lme4.json")


def lme4_model(data: str, formula: str) -> dict[str, Any]:
    """Return one model of lme4.json by its data set and R formula."""
    (model,) = [m for m in lme4_models() if m["data"] == data and m["formula"] == formula]
    return model


def metafor_models() -> list[dict[str, Any]]:
    """Return all models of metafor.json."""
    return _read("metafor.json")


def metafor_model(data: str, moderators: str, method: str) -> dict[str, Any]:
    """Return one model of metafor.json; moderators as in R, "~1" or "~ablat"."""
    wanted = (data, moderators, method)
    (model,) = [m for m in metafor_models() if (m["data"], m["moderators"], m["method"]) == wanted]
    return model


def heterogeneity_models() -> list[dict[str, Any]]:
    """Return all models of heterogeneity.json."""
    return _read("heterogeneity.json")


def heterogeneity_data(name: str) -> dict[str, list[float]]:
    """Return effects yi, standard errors sei and perhaps moderators x, z of heterogeneity.json."""
    return json.loads((HERE / "heterogeneity.json").read_text(encoding="utf-8"))["data"][name]


def reference_data(name: str) -> pd.DataFrame:
    """Return a fresh frame of the data set a model was fitted to."""
    folder = SHIPPED if (SHIPPED / f"{name}.csv").exists() else HERE / "data"
    return pd.read_csv(folder / f"{name}.csv")
