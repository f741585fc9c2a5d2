"""What several test files share. Keep it small: a fixture used by one file belongs in that file."""

import os

# Without it scikit-learn skips its checks of array API input; SciPy reads it once, when it is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator of its own for each test, with the same seed at every run."""
    return np.random.default_rng(20261122)


@pytest.fixture
def pyplot():
    """Draw without a screen, and leave no figure open."""
    import matplotlib as mpl

    with mpl.rc_context({"backend": "Agg"}):
        import matplotlib.pyplot as plt

        yield plt
        plt.close("all")
