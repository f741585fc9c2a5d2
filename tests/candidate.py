"""The joint density of the PyMC graph that Bambi built, for tests of the candidate's identity.

For every value of the parameters, log p(y, b, u, theta) = log p(y, theta) + log p(b, u | y, theta). The left side
comes from a graph of somebody else, the last term is our conditional Gaussian density; so

    log_joint(b, u, theta) - conditional_log_density(b, u | theta) - our_log_marginal(theta)

is one constant, the same at any (b, u, theta), and 0 where our marginal is normalised. How to use it:

    model = build_model(specification, priors, design, y, codes, groups, noncentered=False)
    density = log_joint(model)
    density(b=b, sigma=1.3, tau={"county": tau}, L={"county": L}, u={"county": u})

- `b` (p,) in the order of the common columns, the intercept being that of *centred* columns (that is what its prior
  refers to); entries of constant columns are not used. `sigma` is ignored where it is fixed or errors are known.
- For each factor `tau` (q,), `L` (q, q) the Cholesky factor of the correlation matrix and `u` (J, q). `L` is needed
  for correlated factors only; of columns outside a block of correlated ones it must have the rows of the identity.
- The density is over (sigma, tau, the below-diagonal of L, b, u), no Jacobians of any transform in it; so compare
  with a marginal density over the same variables, again without Jacobians.
- On a non-centred graph (`noncentered=True`) the density is over the offsets w with u = tau * (L w) in place of u:
  log p(w) = log p(u) + J * (sum log tau + sum log diag L).
"""

import numpy as np
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.compile.mode import Mode


def log_joint(model):
    """Return a function (b, sigma, tau, L, u) -> log joint density of a model from `hbsk._bambi.model.build_model`."""
    layout = model.hbsk_layout
    if not model.built:
        model.build()
    graph = remove_value_transforms(model.backend.model)
    # Python's linker, and the graph as it is: evaluated a few times, so compiling would be most of the time.
    density = graph.compile_logp(jacobian=False, mode=Mode(linker="py", optimizer=None))
    # PyMC misnames the value of a variable whose transform has an underscore in its name (LKJCorr).
    values = {rv.name: graph.rvs_to_values[rv].name for rv in graph.free_RVs}

    def evaluate(*, b, sigma=None, tau=None, L=None, u=None):
        point = {"sigma": sigma, "Intercept": b[0] if layout.has_intercept else None}
        for variable, columns in layout.common:
            point[variable] = _shaped(np.asarray(b)[list(columns)])
        for factor in layout.factors:
            sds, effects = np.asarray(tau[factor.name]), np.asarray(u[factor.name])
            if factor.correlation is not None:
                cholesky = np.asarray(L[factor.name])
                point |= _cholesky_blocks(factor, cholesky)
            else:
                cholesky = np.eye(len(sds))
            offsets = np.linalg.solve(cholesky, (effects / sds).T).T
            for variable, columns in factor.terms:
                columns = list(columns)
                point[f"{variable}_sigma"] = _shaped(sds[columns])
                point[variable] = _shaped(effects[:, columns])
                point[f"{variable}_offset"] = _shaped(offsets[:, columns])
        missing = set(values) - set(point)
        assert not missing, f"the graph has variables this helper does not know: {missing}"
        return float(density({value: np.asarray(point[name], dtype=float) for name, value in values.items()}))

    return evaluate


def _cholesky_blocks(factor, cholesky):
    """Return the blocks of the Cholesky factor under the names of their variables."""
    return {
        f"{factor.correlation}_cholesky_{b}": cholesky[np.ix_(positions, positions)]
        for b, positions in enumerate(factor.blocks)
    }


def _shaped(values):
    """Drop the axis of columns where there is one column, as the variables of Bambi do."""
    return values[..., 0] if values.shape[-1] == 1 else values
