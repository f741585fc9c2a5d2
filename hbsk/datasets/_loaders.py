"""The classic data sets, one function each, in the conventions of scikit-learn's loaders."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

_DATA_MODULE = "hbsk.datasets.data"
_DESCR_MODULE = "hbsk.datasets.descr"


def load_eight_schools(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the eight schools: effects of coaching on a test, with known standard errors.

    =================  =====================================
    Rows               8, one a school
    Groups             8 (``school``)
    Features           none besides the group
    Target             estimated effect, points of the SAT-V
    Standard errors    known, 9 to 18 points
    =================  =====================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target and all further columns are Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (8, 1), dtype object, or DataFrame
            The column ``school``, with the labels "A" to "H".
        target : ndarray of shape (8,) or Series
            Estimated effect of coaching in each school, in points.
        standard_error : ndarray of shape (8,) or Series
            Standard deviation of the sampling error of each effect, in points.
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (8, 3) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    Examples
    --------
    >>> from hbsk.datasets import load_eight_schools
    >>> schools = load_eight_schools()
    >>> schools.target
    array([28.,  8., -3.,  7., -1.,  1., 18., 12.])
    >>> schools.standard_error
    array([15., 10., 16., 11.,  9., 11., 10., 18.])
    """
    frame = _read("eight_schools.csv").astype({"effect": "float64", "standard_error": "float64"})
    return _dress(frame, "eight_schools", ["school"], "effect", return_X_y, as_frame)


def load_baseball(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the batting averages of 18 baseball players in 1970, early season and remainder.

    =================  ==================================================
    Rows               18, one a player
    Groups             18 (``player``)
    Features           none besides the group
    Target             batting average of the first 45 at-bats
    Standard errors    0.0657 for all: binomial, at the average of all 18
    =================  ==================================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target and all further columns are Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (18, 1), dtype object, or DataFrame
            The column ``player``.
        target : ndarray of shape (18,) or Series
            Hits per at-bat in the first 45 at-bats of the season.
        standard_error : ndarray of shape (18,) or Series
            ``sqrt(p * (1 - p) / 45)`` with p the mean of the 18 averages, the same for every player.
        hits, at_bats : ndarray of shape (18,) or Series
            The counts behind the target; ``at_bats`` is 45 throughout.
        remaining_average : ndarray of shape (18,) or Series
            Batting average over the rest of the season, rounded to three digits: what the first 45 at-bats are to
            predict.
        remaining_at_bats : ndarray of shape (18,) or Series
            Number of at-bats in the rest of the season.
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (18, 7) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    Examples
    --------
    Knowing only the mean of all players predicts the rest of the season better than each player's own average:

    >>> from hbsk.datasets import load_baseball
    >>> players = load_baseball()
    >>> own = ((players.target - players.remaining_average) ** 2).sum()
    >>> overall = ((players.target.mean() - players.remaining_average) ** 2).sum()
    >>> round(float(own), 4), round(float(overall), 4)
    (0.0753, 0.0243)
    """
    frame = _read("baseball.csv")
    frame.insert(2, "at_bats", 45)
    average = frame["hits"] / frame["at_bats"]
    overall = average.mean()
    frame["standard_error"] = np.sqrt(overall * (1 - overall) / frame["at_bats"])
    frame["batting_average"] = average
    return _dress(frame, "baseball", ["player"], "batting_average", return_X_y, as_frame)


def load_sleepstudy(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the sleep deprivation study: reaction times of 18 subjects over 10 days.

    =================  =====================================
    Rows               180, ten a subject
    Groups             18 (``Subject``)
    Features           ``Days`` of sleep deprivation, 0 to 9
    Target             average reaction time, milliseconds
    =================  =====================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target is a Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (180, 2), dtype float64, or DataFrame
            The columns ``Subject`` (an integer label, 308 to 372) and ``Days``.
        target : ndarray of shape (180,) or Series
            Average reaction time of the day, in milliseconds.
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (180, 3) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    Examples
    --------
    >>> from hbsk.datasets import load_sleepstudy
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> X.join(y).head(3)
       Subject  Days  Reaction
    0      308     0  249.5600
    1      308     1  258.7047
    2      308     2  250.8006
    """
    frame = _read("sleepstudy.csv")
    return _dress(frame, "sleepstudy", ["Subject", "Days"], "Reaction", return_X_y, as_frame)


def load_radon(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the radon levels of 919 homes in the 85 counties of Minnesota.

    =================  =====================================================================
    Rows               919, one a home
    Groups             85 (``county``), of 1 to 116 homes
    Features           ``floor`` of the home, ``uranium`` of the county
    Target             log of the radon activity in picocuries per litre
    =================  =====================================================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target is a Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (919, 3), dtype object, or DataFrame
            The columns ``county`` (name in capitals), ``floor`` (where the measurement was taken: 0 basement, 1 first
            floor) and ``uranium`` (log of the soil uranium of the county, the same for all homes of a county).
        target : ndarray of shape (919,) or Series
            Natural logarithm of the radon activity in picocuries per litre.
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (919, 4) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    Examples
    --------
    Half of the counties have five homes or fewer; a county's own mean says little there:

    >>> from hbsk.datasets import load_radon
    >>> X, y = load_radon(return_X_y=True, as_frame=True)
    >>> sizes = X["county"].value_counts()
    >>> int(sizes.median()), int(sizes.min()), int(sizes.max())
    (5, 1, 116)
    """
    frame = _read("radon.csv")
    return _dress(frame, "radon", ["county", "floor", "uranium"], "log_radon", return_X_y, as_frame)


def load_dyestuff(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the yields of dyestuff made from six batches of an intermediate product.

    =================  ==========================================
    Rows               30, five a batch
    Groups             6 (``Batch``)
    Features           none besides the group
    Target             yield, grams of standard colour
    =================  ==========================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target is a Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (30, 1), dtype object, or DataFrame
            The column ``Batch``, with the labels "A" to "F".
        target : ndarray of shape (30,) or Series
            Yield of each preparation, in grams of standard colour.
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (30, 2) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    See Also
    --------
    load_dyestuff2 : The same layout with no variance between batches.

    Examples
    --------
    >>> from hbsk.datasets import load_dyestuff
    >>> load_dyestuff(as_frame=True).frame.groupby("Batch")["Yield"].mean().round().astype(int).tolist()
    [1505, 1528, 1564, 1498, 1600, 1470]
    """
    frame = _read("dyestuff.csv").astype({"Yield": "float64"})
    return _dress(frame, "dyestuff", ["Batch"], "Yield", return_X_y, as_frame)


def load_dyestuff2(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load made-up dyestuff yields whose batches differ less than chance would have them.

    =================  ==========================================
    Rows               30, five a batch
    Groups             6 (``Batch``)
    Features           none besides the group
    Target             yield (invented numbers)
    =================  ==========================================

    The usual estimates of the variance between batches are zero or negative here.

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target is a Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (30, 1), dtype object, or DataFrame
            The column ``Batch``, with the labels "A" to "F".
        target : ndarray of shape (30,) or Series
            Yield of each preparation.
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (30, 2) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    See Also
    --------
    load_dyestuff : Measured yields in the same layout.

    Examples
    --------
    The mean square between batches is below that within batches:

    >>> from hbsk.datasets import load_dyestuff2
    >>> yields = load_dyestuff2(as_frame=True).frame.groupby("Batch")["Yield"]
    >>> round(float(5 * yields.mean().var()), 2), round(float(yields.var().mean()), 2)
    (8.34, 14.95)
    """
    frame = _read("dyestuff2.csv")
    return _dress(frame, "dyestuff2", ["Batch"], "Yield", return_X_y, as_frame)


def load_bcg(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the 13 trials of the BCG vaccine against tuberculosis, with known standard errors.

    =================  =============================================================
    Rows               13, one a trial
    Groups             13 (``trial``)
    Features           ``ablat``, absolute latitude; ``year`` of publication
    Target             log of the risk ratio, vaccinated against controls
    Standard errors    known (large samples), 0.06 to 0.73
    =================  =============================================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, the data are a pandas DataFrame and the target and all further columns are Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes.

        data : ndarray of shape (13, 3), dtype object, or DataFrame
            The columns ``trial`` (first author and year), ``ablat`` (degrees from the equator) and ``year``.
        target : ndarray of shape (13,) or Series
            Natural logarithm of the risk ratio; negative where the vaccinated fell ill less often.
        standard_error : ndarray of shape (13,) or Series
            Standard error of the log risk ratio, ``sqrt(1/tpos - 1/(tpos + tneg) + 1/cpos - 1/(cpos + cneg))``.
        tpos, tneg, cpos, cneg : ndarray of shape (13,) or Series
            Numbers of people: treated (vaccinated) with and without tuberculosis, controls with and without.
        author, allocation : ndarray of shape (13,), dtype object, or Series
            Authors of the trial, and how people were allocated: "random", "alternate" or "systematic".
        feature_names, target_names : list of str
            Names of the columns of ``data`` and of the target.
        frame : DataFrame of shape (13, 11) or None
            All columns together. Only with ``as_frame=True``.
        DESCR, filename, data_module : str
            Description, and where the CSV file is.
    (data, target) : tuple if ``return_X_y`` is True
        The first two of the above.

    Examples
    --------
    >>> from hbsk.datasets import load_bcg
    >>> trials = load_bcg(as_frame=True)
    >>> trials.frame[["trial", "log_risk_ratio", "standard_error"]].head(3).round(4)
                       trial  log_risk_ratio  standard_error
    0           Aronson 1948         -0.8893          0.5706
    1  Ferguson & Simes 1949         -1.5854          0.4411
    2   Rosenthal et al 1960         -1.3481          0.6445
    """
    frame = _read("bcg.csv")
    # Authors alone would not do as labels: two of them published two trials.
    frame.insert(0, "trial", frame["author"] + " " + frame["year"].astype(str))
    treated = frame["tpos"] + frame["tneg"]
    controls = frame["cpos"] + frame["cneg"]
    frame["standard_error"] = np.sqrt(1 / frame["tpos"] - 1 / treated + 1 / frame["cpos"] - 1 / controls)
    frame["log_risk_ratio"] = np.log(frame["tpos"] / treated) - np.log(frame["cpos"] / controls)
    return _dress(frame, "bcg", ["trial", "ablat", "year"], "log_risk_ratio", return_X_y, as_frame)


def _read(filename: str) -> pd.DataFrame:
    """Return a CSV file of this package as a DataFrame."""
    with resources.files(_DATA_MODULE).joinpath(filename).open(encoding="utf-8") as file:
        return pd.read_csv(file)


def _dress(frame: pd.DataFrame, name: str, features: list[str], target: str, return_X_y: bool, as_frame: bool) -> Any:
    """Return a data set in the form the caller asked for; columns that are neither feature nor target become extras."""
    extra_names = [column for column in frame.columns if column not in (*features, target)]
    as_asked: Callable[[Any], Any] = (lambda values: values) if as_frame else _to_array
    X, y = as_asked(frame[features]), as_asked(frame[target])
    if return_X_y:
        return X, y
    return Bunch(
        data=X,
        target=y,
        **{column: as_asked(frame[column]) for column in extra_names},
        feature_names=list(features),
        target_names=[target],
        frame=frame[[*features, *extra_names, target]] if as_frame else None,
        DESCR=resources.files(_DESCR_MODULE).joinpath(f"{name}.rst").read_text(encoding="utf-8"),
        filename=f"{name}.csv",
        data_module=_DATA_MODULE,
    )


def _to_array(values: pd.DataFrame | pd.Series) -> np.ndarray:
    """Return float64 where every column is a number, else object."""
    dtypes = values.dtypes if isinstance(values, pd.DataFrame) else [values.dtype]
    numeric = all(pd.api.types.is_numeric_dtype(dtype) for dtype in dtypes)
    return values.to_numpy(dtype=np.float64 if numeric else object)
