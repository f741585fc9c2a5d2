"""What the user asks of a fit, as one plain object: estimators hand it down instead of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hbsk._engine.settings import DEFAULT, IntegrationSettings


@dataclass(frozen=True)
class Options:
    """The parameters of an estimator of partial pooling, as they are set, and the name of its class for messages."""

    name: str
    formula: str | None = None
    group_features: Any = None
    slope_features: Any = None
    pooling: str = "partial"
    correlated: bool = True
    priors: Mapping[str, Any] | None = None
    inference: str = "auto"
    unknown_groups: str = "population"
    draws: int = 1000
    tune: int = 1000
    chains: int = 4
    sampler_options: Mapping[str, Any] | None = None
    n_jobs: int | None = None
    random_state: Any = None
    verbose: Any = 0
    integration: IntegrationSettings = DEFAULT

    @property
    def sampling(self) -> dict[str, Any]:
        """The options of sampling."""
        names = ("draws", "tune", "chains", "random_state", "n_jobs", "verbose", "sampler_options")
        return {name: getattr(self, name) for name in names}


def options_of(estimator: Any, integration: IntegrationSettings = DEFAULT) -> Options:
    """Take down what the parameters of an estimator are now."""
    names = [field.name for field in fields(Options) if field.name not in ("name", "integration")]
    given = {name: getattr(estimator, name) for name in names}
    return Options(type(estimator).__name__, **given, integration=integration)
