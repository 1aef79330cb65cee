"""What schemes of one table for each feature have in common."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq.base import BaseQuantizer


class ScalarQuantizer(BaseQuantizer):
    """A code for each feature, which keeps the name of the feature."""

    def get_feature_names_out(self, input_features=None):
        """Return the names of the code columns.

        Parameters
        ----------
        input_features : array-like of str, optional
            Names of the features; None: those seen in `fit`, or x0, x1, ...

        Returns
        -------
        names : ndarray of str objects
            Those of the features, where each of them has one code; with the length
            coded besides, names made of that of the class.
        """
        check_is_fitted(self)
        if len(self.codebook_sizes_) != self.n_features_in_:
            return super().get_feature_names_out(input_features)
        return OneToOneFeatureMixin.get_feature_names_out(self, input_features)

    def _seen_before(self) -> Any:
        """Return what was learned from, for `partial_fit`; None, if it is the first."""
        if self.__sklearn_is_fitted__() and not hasattr(self, "_seen_"):
            raise ValueError(
                f"This {type(self).__name__} was made from codebooks, or by an earlier "
                "version, and does not tell how many samples its levels stand for: fit "
                "it to go on from there."
            )
        return getattr(self, "_seen_", None)

    def _entries(self, X, metric):
        # Tables behind those of the features are of a length.
        tables = self._codebooks()[: self.n_features_in_]
        levels = [np.asarray(table)[:, 0] for table in tables]
        return nearest.level_distances(X, levels, metric)

    def _is_concatenation(self):
        return True


def columns_of_tables(tables: Sequence[nearest.Table]) -> list[np.ndarray]:
    """Return the numbers in tables of one column; those of a shared one are shared.

    Raises
    ------
    ValueError
        If a table has another width.
    """
    made: dict[int, np.ndarray] = {}
    for j, table in enumerate(tables):
        if table.shape[1] != 1:
            raise ValueError(
                f"codebooks[{j}] has shape {table.shape}; expected (V_j, 1), a table "
                "of one column for each feature."
            )
        made.setdefault(id(table), table.codewords[:, 0])
    return [made[id(table)] for table in tables]


def shared_tables(arrays: Sequence[np.ndarray]) -> tuple[nearest.Table, ...]:
    """Return the tables that arrays are; of an array that is there twice, one."""
    made = {id(array): nearest.Table(array) for array in arrays}
    return tuple(made[id(array)] for array in arrays)
