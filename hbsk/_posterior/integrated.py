"""From group sums and priors to a posterior: the nodes of the engine as something that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hbsk._engine.fit import IntegratedNodes, integrate_model, marginal_model, own_errors, sample_model
from hbsk._engine.integrate import Nodes
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import at_zero
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.sums import CentredSums
from hbsk._posterior.nodes import MarginalPosterior, marginal_posterior


@dataclass(frozen=True)
class FoundPosterior:
    """A posterior by the marginal engine, and how it was found.

    Attributes
    ----------
    posterior : MarginalPosterior
    reliable : bool
        Whether Pareto k and the Monte Carlo error met their targets.
    model : MarginalModel
    nodes : Nodes or None
    """

    posterior: MarginalPosterior
    reliable: bool
    model: MarginalModel
    nodes: Nodes | None

    @property
    def is_coarse(self) -> bool:
        """Whether ends of intervals of the variance parameters are those of the nodes alone."""
        return self.nodes is not None and self.posterior.law is None


def fit_marginal(
    collected: CentredSums,
    priors: EnginePriors,
    sampler: dict[str, Any] | None = None,
    names: Sequence[str] | None = None,
    settings: IntegrationSettings = DEFAULT,
) -> FoundPosterior:
    """Integrate a Gaussian model with at most one grouping factor.

    Parameters
    ----------
    collected : CentredSums
    priors : EnginePriors
        In the user's units.
    sampler : dict, optional
        Arguments of `sample_log_density`, for a posterior that importance sampling cannot reach; without it, such a
        posterior is returned as not reliable.
    names : sequence of str, optional
        Of the varying columns, for messages.
    settings : IntegrationSettings, optional
    """
    model, scaling = marginal_model(collected, priors)
    found = integrate_model(model, names, settings)
    if model.sums.n_varying:
        tails = at_zero(found.tails, priors.centre, [collected.varying_intercept], [model.sums.n_varying])
        found = replace(found, tails=tails)
    fit = _answering(found, model, scaling, collected.has_intercept)
    if fit.reliable or sampler is None:
        return fit
    with own_errors():
        return _answering(sample_model(model, found, sampler), model, scaling, collected.has_intercept)


def integrate_posterior(
    model: MarginalModel, scaling: ColumnScaling, has_intercept: bool, names: Sequence[str] | None = None
) -> FoundPosterior:
    """Return the posterior of a model in engine units."""
    return _answering(integrate_model(model, names), model, scaling, has_intercept)


def _answering(
    found: IntegratedNodes, model: MarginalModel, scaling: ColumnScaling, has_intercept: bool
) -> FoundPosterior:
    with own_errors():
        posterior = marginal_posterior(
            found.points,
            found.weight,
            found.replicate,
            found.pareto_k,
            found.level,
            model,
            scaling,
            has_intercept,
        )
    posterior = replace(
        posterior, tails=found.tails, law=found.law, by_quadrature=found.by_quadrature, n_chains=found.n_chains
    )
    return FoundPosterior(posterior, found.reliable, model, found.nodes)
