"""The base of schemes with one table for each feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._checks import check_memory
from skvq._compat import OneToOneFeatureMixin
from skvq._typing import NamesLike
from skvq._validation import warn, warn_of_some
from skvq.base import BaseQuantizer
from skvq.learning.allocation import MOST_BITS, allocated
from skvq.learning.rows import Learner, Rows


class ScalarQuantizer(BaseQuantizer):
    """Base of schemes with a code for each feature, named after the feature."""

    def get_feature_names_out(
        self, input_features: NamesLike | None = None
    ) -> NDArray[Any]:
        """Return the names of the code columns.

        Parameters
        ----------
        input_features : array-like of str, optional
            Names of the features; None: those seen in `fit`, or x0, x1, ...

        Returns
        -------
        names : ndarray of str objects
            Those of the features, if each has one code; if the length is coded too,
            names made from that of the class.
        """
        check_is_fitted(self)
        if len(self.codebook_sizes_) != self.n_features_in_:
            return super().get_feature_names_out(input_features)
        return OneToOneFeatureMixin.get_feature_names_out(self, input_features)

    def _seen_before(self) -> Any:
        """Return the statistics before a `partial_fit`; None if it is the first."""
        if self.__sklearn_is_fitted__() and not hasattr(self, "_seen_"):
            raise ValueError(
                f"This {type(self).__name__} was made from codebooks, or by an earlier "
                "version, and does not tell how many samples its levels stand for: fit "
                "it to go on from there."
            )
        return getattr(self, "_seen_", None)

    def _entries(self, X: Any, metric: str) -> Any:
        # Tables after those of the features belong to a length.
        tables = self._codebooks()[: self.n_features_in_]
        levels = [np.asarray(table)[:, 0] for table in tables]
        return nearest.level_distances(X, levels, metric)

    def _is_concatenation(self) -> bool:
        return True


def columns_of_tables(tables: Sequence[nearest.Table]) -> list[np.ndarray]:
    """Return the numbers in tables of one column; shared tables share an array.

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
    """Return arrays as tables; an array that occurs twice gives one table."""
    made = {id(array): nearest.Table(array) for array in arrays}
    return tuple(made[id(array)] for array in arrays)


def allocated_sizes(
    estimator: Any, rows: Rows, errors: Callable[[tuple[int, ...]], Learner[np.ndarray]]
) -> Learner[tuple[int, ...]]:
    """Return the levels of each feature with `total_bits`, and warn of too many bits.

    Parameters
    ----------
    estimator : estimator
        Has the parameters `total_bits` and `powers_of_two`.
    rows : Rows
        The samples.
    errors : callable
        As `skvq.learning.allocation.allocated` takes it.
    """
    total, d = float(estimator.total_bits), rows.n_features
    sizes, useless = yield from allocated(errors, d, total, estimator.powers_of_two)
    if useless:
        used = float(np.log2(sizes).sum())
        warn(
            f"total_bits={estimator.total_bits} is more than {used:.6g}, beyond which "
            f"no more levels lower the training error, or a feature has {MOST_BITS} "
            "bits: the codes have no more than these.",
        )
    check_levels_memory("total_bits", estimator.total_bits, sizes, rows)
    return sizes


def check_levels_memory(
    name: str, given: Any, sizes: Sequence[int], rows: Rows
) -> None:
    """Raise if levels, or the counts of their samples, take too much memory."""
    check_memory(
        f"Levels of {name}={given} for {rows.n_features} features",
        3 * 8 * sum(sizes),
        rows.n_bytes,
    )


def warn_of_few(noun: str, counts: Any, sizes: Sequence[int], text: str) -> None:
    """Warn of features with fewer items, as counted, than levels."""
    for size in sorted(set(sizes)):
        few = [
            count if count < size == own else None
            for count, own in zip(counts, sizes, strict=True)
        ]
        warn_of_some(noun, text.replace("{size}", str(size)), few)


def warn_of_points(
    noun: str, low: Any, high: Any, sizes: Sequence[int], name: str
) -> None:
    """Warn of features whose range is a point, so that all their levels are equal.

    The mean and the spread of a constant feature are exact only up to rounding.
    """
    rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high))
    points = 0.5 * high - 0.5 * low <= rounding
    warn_of_some(
        noun,
        f"the range that is cut is one point, and all {name} are equal.",
        [
            0 if size > 1 and point else None
            for point, size in zip(points, sizes, strict=True)
        ],
    )
