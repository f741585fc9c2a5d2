"""What our estimators tell scikit-learn's metadata routing about `groups`."""

from __future__ import annotations

from typing import Any

_METHODS = ("fit", "predict", "score")


class GroupRoutingMixin:
    """Answer that `groups` is not wanted where the groups are in a column of X.

    With routing on, scikit-learn refuses metadata that an estimator could take and has not asked for. Without this
    answer, `cross_validate(..., cv=GroupKFold(), params={"groups": g})` would therefore demand a decision about
    `groups` even where the estimator reads its labels from X and the name is meant for the splitter alone.

    Must stand before `BaseEstimator` among the bases.
    """

    group_features: Any

    def _takes_groups_keyword(self) -> bool:
        """Tell whether labels arrive by `groups=`; estimators with other ways to name a column say so here."""
        return self.group_features is None

    def get_metadata_routing(self) -> Any:
        """Get the metadata requests of this estimator.

        With `group_features` set, `groups` is answered as not requested, whatever `set_fit_request` said.

        Returns
        -------
        routing : MetadataRequest
            A :class:`~sklearn.utils.metadata_routing.MetadataRequest` encapsulating routing information.
        """
        # A copy: the estimator's own requests must not change by being asked for.
        requests = super().get_metadata_routing()  # type: ignore[misc]
        if not self._takes_groups_keyword():
            for method in _METHODS:
                request = getattr(requests, method)
                if "groups" in request.requests:
                    request.add_request(param="groups", alias=False)
        return requests
