"""How many threads the arithmetic may use."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController


def n_threads() -> int:
    """Return the number of threads that scikit-learn's own compiled code would use.

    It follows OMP_NUM_THREADS, and joblib's limits inside of worker processes.
    """
    from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

    return _openmp_effective_n_threads()


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """Find the libraries of linear algebra that are loaded; that takes milliseconds, a limit then microseconds."""
    return ThreadpoolController()


class _SharedLimit:
    """A limit of one thread that is set by the first who enters and lifted by the last who leaves.

    The limit holds for the process; if each restored what it found, the second of two that overlap would restore one.
    """

    def __init__(self):
        self._lock, self._inside = Lock(), 0
        self._limit: Any = None

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._limit = _libraries().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limit.restore_original_limits()


_ONE_THREAD = _SharedLimit()


def one_thread_each() -> _SharedLimit:
    """Return a context in which linear algebra starts no threads inside of our own.

    Four threads on two cores that others use too made a product of 64 x 3072 by 3072 x 28 thirteen times slower.
    """
    return _ONE_THREAD
