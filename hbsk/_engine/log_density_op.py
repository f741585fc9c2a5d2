"""A log density that is a Python function, as a PyTensor Op with a gradient.

A module of its own because the class needs PyTensor as its base, which `import hbsk` must not load.
"""

from __future__ import annotations

import numpy as np
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor import as_tensor_variable, dscalar, dvector


class LogDensityOp(Op):
    """theta (d,) -> log density () and its gradient (d,), one call of the function for both."""

    __props__ = ("log_density_and_gradient",)

    def __init__(self, log_density_and_gradient):
        self.log_density_and_gradient = log_density_and_gradient

    def make_node(self, theta):  # type: ignore[override]  # as PyTensor's own operations do
        """Declare the types of input and outputs."""
        return Apply(self, [as_tensor_variable(theta)], [dscalar(), dvector()])

    def perform(self, node, inputs, outputs):  # noqa: ARG002 - PyTensor's signature
        """Call the function; what is not finite becomes density zero, so that NUTS turns back."""
        value, gradient = self.log_density_and_gradient(np.array(inputs[0], dtype=float))
        finite = np.isfinite(value) and np.all(np.isfinite(gradient))
        outputs[0][0] = np.asarray(value if finite else -np.inf, dtype=float)
        outputs[1][0] = np.array(gradient if finite else np.zeros_like(inputs[0]), dtype=float)

    def pullback(self, inputs, outputs, cotangents):  # noqa: ARG002 - PyTensor's signature
        """Return the gradient that the function itself computed (its own derivative is not needed)."""
        return [cotangents[0] * outputs[1]]
