"""Rotations of rows about their mean, for arrays of any library.

A turn maps rows x to (x - mean) C^T, where the rows of C, the components, are
orthonormal; and it maps back.  It is a matrix, or a formula that costs less.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq import nearest

# Number of rows in a product.  Fewer rows are padded: products of one shape give the
# same bits for a row wherever it stands and whatever rows are beside it.
_ROWS = 64


class Turn:
    """The interface that matrices and formulas share.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Subtracted from rows; in the dtype of reconstructions.
    """

    def __init__(self, mean: np.ndarray) -> None:
        self._mean = nearest.Table(mean[None, :])

    @property
    def mean(self) -> np.ndarray:
        """The mean that is subtracted from rows, on the host."""
        return self._mean.codewords[0]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of rows that are turned back."""
        return self._mean.dtype

    @property
    def n_features(self) -> int:
        """Number of features before the turn."""
        return self._mean.shape[1]

    @property
    @abstractmethod
    def n_components(self) -> int:
        """Number of features after the turn."""

    @property
    @abstractmethod
    def components(self) -> np.ndarray:
        """The matrix (n_components, n_features) of the turn, on the host."""

    def there(self, X: Any, *, about_mean: bool = True) -> Any:
        """Turn rows (n, n_features); return rows (n, n_components).

        Parameters
        ----------
        X : array of shape (n, n_features)
            Of any library.
        about_mean : bool, default=True
            Whether the mean is subtracted first; directions have none.
        """
        be = nearest.backend_of(X)
        dtype = np.result_type(be.numpy_dtype(X), self.dtype)
        mean = be.cast(self._mean.on(be), dtype)

        def tile(rows: Any) -> Any:
            rows = be.cast(rows, dtype)
            return self._there(be, rows - mean if about_mean else rows)

        return self._over_rows(be, X, tile, self.n_components, dtype)

    def back(self, Z: Any) -> Any:
        """Turn rows back; return rows (n, n_features) in the dtype of the mean."""
        be = nearest.backend_of(Z)
        mean = self._mean.on(be)

        def tile(rows: Any) -> Any:
            return self._back(be, be.cast(rows, self.dtype)) + mean

        return self._over_rows(be, Z, tile, self.n_features, self.dtype)

    def _over_rows(
        self, be: nearest.Backend, X: Any, work: Any, width: int, dtype: Any
    ) -> Any:
        n, n_columns = X.shape
        plan = nearest.Plan(_ROWS, 3 * max(n_columns, width), self._work())

        def tile(cut: slice) -> tuple[Any, ...]:
            rows = X[cut, :]
            n_rows = rows.shape[0]
            if n_rows < _ROWS:
                more = be.zeros((_ROWS - n_rows, n_columns), be.numpy_dtype(X))
                rows = be.concat([be.cast(rows, be.numpy_dtype(X)), more], axis=0)
            return (work(rows)[:n_rows, :],)

        return be.over_rows(n, plan, tile, [((width,), dtype)])[0]

    @abstractmethod
    def _there(self, be: nearest.Backend, X: Any) -> Any:
        """Turn a few rows, from which the mean has been subtracted."""

    @abstractmethod
    def _back(self, be: nearest.Backend, Z: Any) -> Any:
        """Turn rows back, without adding the mean."""

    @abstractmethod
    def _work(self) -> float:
        """Return the multiply-adds per row."""


class MatrixTurn(Turn):
    """A turn by a matrix.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Subtracted from rows.
    components : ndarray of shape (n_components, n_features)
        The matrix, with orthonormal rows.
    """

    def __init__(self, mean: np.ndarray, components: np.ndarray) -> None:
        super().__init__(mean)
        self._components = nearest.Table(components)

    @property
    def n_components(self) -> int:
        """Number of features after the turn."""
        return len(self._components)

    @property
    def components(self) -> np.ndarray:
        """The matrix."""
        return self._components.codewords

    def _there(self, be: nearest.Backend, X: Any) -> Any:
        matrix = be.cast(self._components.on(be), be.numpy_dtype(X))
        return be.xp.matmul(X, matrix.T)

    def _back(self, be: nearest.Backend, Z: Any) -> Any:
        return be.xp.matmul(Z, self._components.on(be))

    def _work(self) -> float:
        return float(self.n_components * self.n_features)


class HadamardTurn(Turn):
    """Rounds of a permutation, signs, and Walsh-Hadamard transforms of blocks.

    The widths of the blocks are the powers of two that add up to the width of the rows,
    the largest first.  A turn takes d log d additions.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Subtracted from rows.
    signs : ndarray of shape (n_rounds, n_features)
        Ones and minus ones.
    orders : ndarray of int, shape (n_rounds, n_features)
        Permutation of each round: places of its features in the round before.
    n_components : int
        Number of turned features that are kept, the first ones.

    References
    ----------
    Ailon and Chazelle (2009), "The fast Johnson-Lindenstrauss transform and approximate
    nearest neighbors", SIAM J. Computing 39(1).
    """

    orders: NDArray[Any]
    signs: NDArray[Any]

    def __init__(
        self, mean: np.ndarray, signs: np.ndarray, orders: np.ndarray, n_components: int
    ) -> None:
        super().__init__(mean)
        self.signs, self.orders = signs.astype(np.int8), orders.astype(np.int64)
        self._n_components = n_components

    @property
    def n_components(self) -> int:
        """Number of features after the turn."""
        return self._n_components

    @property
    def components(self) -> np.ndarray:
        """The matrix of the turn."""
        one = np.eye(self.n_features, dtype=self.dtype)
        return np.ascontiguousarray(self.there(one, about_mean=False).T)

    def _factors(self, be: nearest.Backend, dtype: Any) -> list[Any]:
        """Return the signs of each round, divided by the roots of the block widths."""
        widths = powers_of_two(self.n_features)
        roots = np.sqrt(np.repeat(widths, widths).astype(np.float64))
        return [be.send((signs / roots).astype(dtype)) for signs in self.signs]

    def _there(self, be: nearest.Backend, X: Any) -> Any:
        factors = self._factors(be, be.numpy_dtype(X))
        for order, factor in zip(self.orders, factors, strict=True):
            X = be.xp.take(X, be.send(order), axis=1) * factor
            X = _transformed(be, X)
        return X[:, : self.n_components]

    def _back(self, be: nearest.Backend, Z: Any) -> Any:
        n_cut = self.n_features - self.n_components
        if n_cut:
            zeros = be.zeros((Z.shape[0], n_cut), self.dtype)
            Z = be.concat([Z, zeros], axis=1)
        factors = self._factors(be, self.dtype)
        for order, factor in zip(self.orders[::-1], factors[::-1], strict=True):
            Z = _transformed(be, Z) * factor
            Z = be.xp.take(Z, be.send(np.argsort(order)), axis=1)
        return Z

    def _work(self) -> Any:
        return 16.0 * len(self.orders) * self.n_features * self.n_features.bit_length()


def powers_of_two(n: int) -> list[int]:
    """Return the powers of two that add up to n, the largest first."""
    return [1 << i for i in range(n.bit_length() - 1, -1, -1) if n >> i & 1]


def _transformed(be: nearest.Backend, X: Any) -> Any:
    """Return the Walsh-Hadamard transforms of the blocks of rows.

    Each step adds and subtracts neighbours and puts the sums before the differences.
    After as many steps as an index has bits, each index is back in its place.
    """
    parts, start = [], 0
    for width in powers_of_two(X.shape[1]):
        part = X[:, start : start + width]
        for _ in range(width.bit_length() - 1):
            even, odd = part[:, 0::2], part[:, 1::2]
            part = be.concat([even + odd, even - odd], axis=1)
        parts.append(part)
        start += width
    return be.concat(parts, axis=1)
