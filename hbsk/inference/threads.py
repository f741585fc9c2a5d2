"""How many threads the arithmetic may use."""

from __future__ import annotations


def n_threads() -> int:
    """Return the number of threads that scikit-learn's own compiled code would use.

    It follows OMP_NUM_THREADS, and joblib's limits inside of worker processes.
    """
    from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

    return _openmp_effective_n_threads()
