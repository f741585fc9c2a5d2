"""What our estimators tell scikit-learn's metadata routing about `groups`."""

from __future__ import annotations

from typing import Any

from hbsk._sources import GROUPS

_METHODS = ("fit", "predict", "score")


class GroupRoutingMixin:
    """Answer that `groups` is not wanted where the groups are in a column of X.

    With routing on, scikit-learn refuses metadata that an estimator could take and has not asked for. Without this
    answer, `cross_validate(..., cv=GroupKFold(), params={"groups": g})` would therefore demand a decision about
    `groups` even where the estimator reads its labels from X and the name is meant for the splitter alone.

    Must stand before `BaseEstimator` among the bases.
    """

    group_features: Any

    def _labels_come_by_keyword(self) -> bool:
        """Tell whether labels may arrive by `groups=`: not where `group_features` or a formula names columns."""
        if self.group_features is not None:
            return False
        formula = getattr(self, "formula", None)
        return formula is None or _names_groups(formula)

    def get_metadata_routing(self) -> Any:
        """Get the metadata requests of this estimator.

        With `group_features` set, or a formula that takes its groups from other names than `groups`, `groups` is
        answered as not requested, whatever `set_fit_request` said.

        Returns
        -------
        routing : MetadataRequest
            A :class:`~sklearn.utils.metadata_routing.MetadataRequest` encapsulating routing information.
        """
        # A copy: the estimator's own requests must not change by being asked for.
        requests = super().get_metadata_routing()  # type: ignore[misc]
        if not self._labels_come_by_keyword():
            for method in _METHODS:
                request = getattr(requests, method)
                if GROUPS in request.requests:
                    request.add_request(param=GROUPS, alias=False)
        return requests


def _names_groups(formula: Any) -> bool:
    """Tell whether `groups` stands right of `|`."""
    from hbsk._parser import parse_formula  # imports formulae, which takes a while

    try:
        return GROUPS in parse_formula(formula).factor_names
    except (TypeError, ValueError):
        return False  # fit says what is wrong with it, and is not kept from it by scikit-learn's word on `groups`
