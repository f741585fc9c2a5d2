"""Labels of a column that is encoded: as those of a grouping factor, but missing ones are a label of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hbsk._data.label_kinds import written_otherwise
from hbsk._data.labels import GroupFactor, Values
from hbsk._data.rows import apply_unknown_policy
from hbsk._data.sources import FactorSource, where_labels_stand
from hbsk._messages import warn
from hbsk.exceptions import LabelMismatchWarning


@dataclass(frozen=True)
class EncodedLabels:
    """The labels that one column had in fit.

    Parameters
    ----------
    groups : GroupFactor
        The labels that are not missing.
    has_missing : bool
        Whether fit saw missing labels, which then have the code after those of the others.
    """

    groups: GroupFactor
    has_missing: bool

    @classmethod
    def learn(cls, name: str, values: Values) -> tuple[EncodedLabels, np.ndarray]:
        """Labels and codes, shape (n_rows,), of a column."""
        groups, codes = GroupFactor.learn(name, [values])
        missing = codes < 0
        has_missing = bool(missing.any())
        if has_missing:
            codes[missing] = groups.n_groups
        return cls(groups, has_missing), codes

    @property
    def n_labels(self) -> int:
        """Number of labels, the missing one counted."""
        return self.groups.n_groups + self.has_missing

    def codes(self, values: Values, policy: str = "population") -> np.ndarray:
        """Codes of shape (n_rows,): those of fit, or `n_labels` for every label that fit has not seen.

        Raises
        ------
        ValueError
            For labels that fit has not seen, under the policy "error".
        """
        if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
            categories = values.cat.categories
            of_categories = np.empty(0, dtype=np.int64)
            if len(categories):
                of_categories = self._codes(pd.Series(categories.astype(object), dtype=object))
            codes = np.append(of_categories, self._missing_code).astype(np.int64)[values.cat.codes.to_numpy()]
        else:
            codes = self._codes(values)
        unknown = codes == self.n_labels
        if unknown.any() and (policy == "error" or unknown.all()):
            source = FactorSource(self.groups.name, (self.groups.name,))
            otherwise = written_otherwise(self.groups, [values]) if unknown.all() else ""
            # each label that was not seen has a code of its own in the message
            apart = np.where(unknown, self.groups.encode(values) + 1, 0)
            apply_unknown_policy(apart, self.n_labels, [values], policy, source, otherwise)
            if otherwise:
                warn(
                    f"{where_labels_stand(source)}: not one of the labels of these rows was seen in fit; {otherwise}. "
                    "All rows are encoded as new labels. Write labels as in fit.",
                    LabelMismatchWarning,
                )
        return codes

    @property
    def _missing_code(self) -> int:
        return self.groups.n_groups if self.has_missing else self.n_labels

    def _codes(self, values: Values) -> np.ndarray:
        codes = self.groups.encode(values)
        new = np.flatnonzero(codes >= self.groups.n_groups)
        if len(new):
            missing = np.asarray(pd.isna(values.iloc[new] if isinstance(values, pd.Series) else values[new]))
            codes[new] = np.where(missing, self._missing_code, self.n_labels)
        return codes
