"""Fitted estimators as JSON: data only, so that loading a file from elsewhere runs no code.

A pickle is a program; what is written here is a tree of numbers, strings and names of classes from one list. Arrays
are kept apart, once each, as base64 of their bytes, so that every bit comes back and nothing is stored twice. What a
document may hold is what this module knows how to write; anything else is refused, on both sides.
"""

from __future__ import annotations

import json
from typing import Any

from sklearn import config_context
from sklearn.utils.validation import check_is_fitted

from hbsk._base import ROUTED_METHODS
from hbsk._documents.kinds import DamagedError
from hbsk._documents.reading import DocumentReader, parse_json
from hbsk._documents.writing import Writer
from hbsk._messages import listed
from hbsk.serialization._classes import CLASSES, ESTIMATORS
from hbsk.serialization._kinds import check_learnt
from hbsk.serialization._shapes import check_arrays

FORMAT = 2

_REQUESTS = "_metadata_request"


def to_json(estimator: Any) -> str:
    """Write a fitted estimator as JSON.

    Parameters
    ----------
    estimator : estimator of hbsk
        A fitted PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor, JamesSteinEstimator
        or PartialPoolingEncoder.

    Returns
    -------
    text : str
        A JSON document, plain ASCII. `from_json` makes an estimator of it whose answers are the same, bit for bit.

    Raises
    ------
    TypeError
        If the estimator is of another class, or holds what JSON cannot: `bambi.Prior` objects, random generators,
        group labels of types other than str, int, float, bool, bytes, tuple, date, datetime, UUID, Decimal, and pandas'
        Timestamp, Timedelta, Period and Interval.

    See Also
    --------
    from_json : Read it back.

    Examples
    --------
    >>> from hbsk import JamesSteinEstimator, from_json, to_json
    >>> X, y = [["a"], ["b"], ["c"], ["d"], ["a"]], [1.0, 2.5, 3.0, 4.5, 2.0]
    >>> fitted = JamesSteinEstimator(group_features=0).fit(X, y)
    >>> from_json(to_json(fitted)).predict([["a"]]) == fitted.predict([["a"]])
    array([ True])
    """
    kind = type(estimator)
    if kind not in ESTIMATORS.values():
        raise TypeError(f"to_json writes {listed(ESTIMATORS)}, got {estimator!r}.")
    check_is_fitted(estimator)
    from hbsk import __version__

    writer = Writer(CLASSES, "to_json")
    params = estimator.get_params(deep=False)
    state = {name: value for name, value in vars(estimator).items() if name not in params and name != _REQUESTS}
    document = {
        "hbsk_format": FORMAT,
        "hbsk_version": __version__,
        "estimator": kind.__name__,
        "params": {name: writer.write(value, f"the parameter {name}") for name, value in params.items()},
        "requests": _requests(estimator),
        "state": {name: writer.write(value, name) for name, value in state.items()},
        "arrays": writer.arrays,
    }
    return json.dumps(document, allow_nan=False)


def from_json(text: str) -> Any:
    """Read a fitted estimator from JSON that `to_json` wrote.

    Nothing in the text is run: it can name only classes from a list of this package, and numbers and strings to fill
    them with. A text made by somebody else can still hold wrong numbers.

    Parameters
    ----------
    text : str
        A document of `to_json`.

    Returns
    -------
    estimator : estimator of hbsk
        A fitted PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor, JamesSteinEstimator
        or PartialPoolingEncoder.

    Raises
    ------
    ValueError
        If the text is no such document, or of a format that this version does not read; if it lacks a part of a fit,
        has one of another kind, or claims sizes that it does not fill (nothing is allocated for a claim).

    See Also
    --------
    to_json : Write it.
    """
    document = _parse(text)
    cls = ESTIMATORS.get(document["estimator"])
    if cls is None:
        raise ValueError(
            f"The document holds an estimator {document['estimator']!r}; from_json reads {listed(ESTIMATORS)}."
        )
    try:
        reader = DocumentReader(document["arrays"], len(text), CLASSES, check_arrays)
        params = {name: reader.read(value) for name, value in document["params"].items()}
        state = {name: reader.read(value) for name, value in document["state"].items()}
        estimator = cls(**params)
        for name, value in state.items():
            _check_attribute(cls, name)
            setattr(estimator, name, value)
        estimator._validate_params()
        check_learnt(estimator)
        _request(estimator, document["requests"])
    except DamagedError:
        raise
    except Exception as error:  # pandas and NumPy have their own errors for what they cannot make
        raise ValueError(
            f"The document of hbsk {document.get('hbsk_version')!r} is damaged, or from a version whose {cls.__name__} "
            f"is not that of this one: {type(error).__name__}: {error}."
        ) from error
    return estimator


def _parse(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise TypeError(f"from_json takes the str that to_json returned, got {type(text).__name__}.")
    document = parse_json(text, "from_json takes the text that to_json returned")
    if not isinstance(document, dict) or "hbsk_format" not in document:
        raise ValueError("from_json takes the text that to_json returned; this JSON has no key 'hbsk_format'.")
    if type(document["hbsk_format"]) is not int or document["hbsk_format"] != FORMAT:
        raise ValueError(
            f"The document has hbsk_format={document['hbsk_format']!r}, written by hbsk "
            f"{document.get('hbsk_version')!r}; this version reads format {FORMAT}. Load it with that version, or fit "
            "again."
        )
    parts = {"estimator": str, "params": dict, "requests": dict, "state": dict, "arrays": list}
    wrong = [name for name, kind in parts.items() if not isinstance(document.get(name), kind)]
    if wrong:
        raise ValueError(f"The document lacks {', '.join(map(repr, wrong))}, or they are not what to_json writes.")
    return document


def _check_attribute(cls: type, name: str) -> None:
    """Refuse names that are not those of fitted attributes; a document must not replace methods."""
    learnt = name.isidentifier() and not name.startswith("__") and (name.startswith("_") or name.endswith("_"))
    if not learnt or hasattr(cls, name):
        raise DamagedError(f"The document sets {name!r}, which is no fitted attribute of {cls.__name__}.")


def _requests(estimator: Any) -> dict[str, dict[str, Any]]:
    """Return what `set_fit_request` and its like were told."""
    stored = vars(estimator).get(_REQUESTS)
    if stored is None:
        return {}
    return {m: requests for m in ROUTED_METHODS if (requests := dict(getattr(stored, m).requests))}


def _request(estimator: Any, requests: dict[str, dict[str, Any]]) -> None:
    with config_context(enable_metadata_routing=True):
        for method, wanted in requests.items():
            if method not in ROUTED_METHODS:
                raise DamagedError(f"The document has metadata requests of {method!r}.")
            getattr(estimator, f"set_{method}_request")(**wanted)
