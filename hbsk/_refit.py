"""A fit succeeds as a whole or changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any


def keeps_former_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that learns, such as `fit`, run on a copy whose attributes the estimator takes over at the end.

    Where the method fails, or is interrupted, a former fit stays whole, `n_features_in_` included, and an estimator
    that was never fitted stays so. Other threads see the former fit or the new one, never some of both.

    Parameters
    ----------
    method : callable
        Method of an estimator that writes attributes and returns the estimator.
    """

    @wraps(method)
    def learn(self: Any, *args: Any, **kwargs: Any) -> Any:
        learning = copy(self)
        method(learning, *args, **kwargs)
        self.__dict__ = learning.__dict__
        return self

    return learn
