r"""A pyramid of token maps: resizing, smoothing, and residual codes scale by scale.

A map f of shape (H, W, C) is coded scale by scale.  With r_0 = f, for scale k of
h x w tokens,

    z_k = area(r_{k-1}),  c_k = argmin_v |z_k - e_v|,  r_k = r_{k-1} - phi(up(e_{c_k})),

where `area` averages over the cells of a grid of h x w, `up` interpolates by cubic
convolution, and phi is a convolution or the identity.  Everything after the argmin is
linear in the codewords and in phi.

References
----------
Tian, Jiang, Yuan, Peng and Wang (2024), "Visual Autoregressive Modeling: Scalable Image
Generation via Next-Scale Prediction", NeurIPS, algorithms 1 and 2.

Keys (1981), "Cubic convolution interpolation for digital image processing", IEEE Trans.
ASSP 29(6).
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq.nearest import backend_of

# The constant of cubic convolution that image libraries commonly use.
_CUBIC = -0.75


def area_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Return the averages over n_out cells of n_in values, as a matrix.

    Cell i covers the values that overlap [i, i + 1) n_in / n_out, with equal weights.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of values and of cells.

    Returns
    -------
    matrix : ndarray of shape (n_out, n_in)
    """
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        cell = slice(i * n_in // n_out, -(-(i + 1) * n_in // n_out))
        matrix[i, cell] = 1.0 / (cell.stop - cell.start)
    return matrix


def cubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Return the interpolation of n_in values at n_out places, as a matrix.

    Values sit at the centres of their cells, and the end values are continued beyond
    the ends.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of values and of places.

    Returns
    -------
    matrix : ndarray of shape (n_out, n_in)
    """
    place = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    first = np.floor(place).astype(int)
    matrix = np.zeros((n_out, n_in))
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, n_in - 1)
        weight = _cubic_weight(np.abs(place - first - tap))
        np.add.at(matrix, (np.arange(n_out), column), weight)
    return matrix


def _cubic_weight(distance: np.ndarray) -> np.ndarray:
    a, t = _CUBIC, distance
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


class Smoothing(NamedTuple):
    """phi(h) = (1 - rho) h + rho conv(h), for each scale with one of some kernels."""

    kernels: np.ndarray  # (n_kernels, 3, 3, C, C), or (n_kernels, 3, 1, C, C)
    of_scale: tuple[int, ...]
    rho: float
    # (n_kernels, C), added to every output; None: nothing, as for learned kernels.
    biases: np.ndarray | None = None


def kernel_of_scales(n_kernels: int, n_scales: int) -> tuple[int, ...]:
    """Return, for each scale, the kernel whose tick on [0, 1] is nearest to its own."""
    edge = 1 / 3 if n_kernels == 4 else 1 / 2
    ticks = np.linspace(edge / n_kernels, 1 - edge / n_kernels, n_kernels)
    places = np.arange(n_scales) / max(n_scales - 1, 1)
    return tuple(int(np.abs(ticks - place).argmin()) for place in places)


def identity_kernels(n_kernels: int, n_channels: int, *, flat: bool) -> np.ndarray:
    """Return convolutions that change nothing; kernels of sequences are 3 x 1."""
    kernels = np.zeros((n_kernels, 3, 1 if flat else 3, n_channels, n_channels))
    kernels[:, 1, kernels.shape[2] // 2] = np.eye(n_channels)
    return kernels


class Pyramid:
    """The linear maps between a map and the token maps of its scales.

    Its matrices are small NumPy arrays; maps, tokens and codes may be of any library.

    Parameters
    ----------
    map_shape : tuple of int
        (H, W, C).
    scales : sequence of tuple of int
        (h, w) of each scale, coarse to fine.
    dtype : dtype
        The dtype to compute in.
    smoothing : Smoothing, optional
        phi; None: the identity.
    metric : {"sqeuclidean", "cosine"}, default="sqeuclidean"
        The metric of the search for the nearest codeword of a token.
    """

    columns: list[slice]
    dtype: np.dtype[Any]
    gains: list[float | int]
    map_shape: tuple[int, ...]
    n_channels: int
    n_features: int
    n_tokens: list[int]
    scales: list[Any]

    def __init__(
        self,
        map_shape: Any,
        scales: Any,
        dtype: Any,
        smoothing: Smoothing | None = None,
        metric: nearest.Metric = "sqeuclidean",
    ) -> None:
        self.metric = metric
        self.map_shape = tuple(map_shape)
        self.scales = list(scales)
        self.dtype = np.dtype(dtype)
        self.smoothing = smoothing
        if smoothing is not None:
            kernels, biases = smoothing.kernels.astype(self.dtype), smoothing.biases
            if biases is not None:
                biases = biases.astype(self.dtype)
            self.smoothing = smoothing._replace(kernels=kernels, biases=biases)
        self._of_scale = smoothing.of_scale if smoothing else (0,) * len(self.scales)
        height, width, self.n_channels = self.map_shape
        self.n_features = height * width * self.n_channels
        self.n_tokens = [h * w for h, w in self.scales]
        ends = np.cumsum([0, *self.n_tokens]).tolist()
        # The code columns of each scale.
        self.columns = [slice(a, b) for a, b in pairwise(ends)]
        self._down = [
            self._matrices(area_matrix(height, h), area_matrix(width, w))
            for h, w in self.scales
        ]
        self._up = [
            self._matrices(cubic_matrix(h, height), cubic_matrix(w, width))
            for h, w in self.scales
        ]
        # Mean squared norm of what a unit token of each scale grows to, before phi.
        self.gains = [math.prod(map(_gain, matrices)) for matrices in self._up]

    def _matrices(self, *matrices: Any) -> Any:
        """Prepare the matrices of both axes; None where an axis does not change."""
        return [
            None if np.array_equal(m, np.eye(*m.shape)) else m.astype(self.dtype)
            for m in matrices
        ]

    def shrink(self, maps: Any, scale: int) -> Any:
        """Average maps over the cells of a scale: (n, H, W, C) to (n, h, w, C)."""
        return _along_axes(maps, self._down[scale])

    def grow(self, tokens: Any, scale: int) -> Any:
        """Interpolate and smooth the token maps of a scale, (n, H, W, C)."""
        return self.smooth(self._interpolate(tokens, scale), self._of_scale[scale])

    def grow_transposed(self, maps: Any) -> Iterator[Any]:
        """Yield the transpose of `grow` applied to maps, (n, h, w, C), by scale."""
        smoothed: dict[int, Any] = {}
        for k, matrices in zip(self._of_scale, self._up, strict=True):
            if k not in smoothed:
                smoothed[k] = self.smooth(maps, k, transposed=True)
            yield _along_axes(
                smoothed[k], [None if m is None else m.T for m in matrices]
            )

    def interpolated(self, codes: Any, table: nearest.Table) -> dict[int, Any]:
        """Return, for each kernel, the sum of the maps that it is to smooth."""
        found: dict[int, Any] = {}
        for scale, (k, span) in enumerate(
            zip(self._of_scale, self.columns, strict=True)
        ):
            maps = self._interpolate(table.rows(codes[:, span]), scale)
            found[k] = found[k] + maps if k in found else maps
        return found

    def _interpolate(self, tokens: Any, scale: int) -> Any:
        shape = (tokens.shape[0], *self.scales[scale], self.n_channels)
        maps = backend_of(tokens).xp.reshape(tokens, shape)
        return _along_axes(maps, self._up[scale])

    def smooth(self, maps: Any, kernel: int, *, transposed: bool = False) -> Any:
        """Apply phi with a kernel, or the transpose of its linear part."""
        if self.smoothing is None:
            return maps
        rho, weights = self.smoothing.rho, self.smoothing.kernels[kernel]
        if transposed:
            weights = weights[::-1, ::-1].swapaxes(2, 3)
        smoothed = (1 - rho) * maps + rho * _convolve(maps, weights)
        if self.smoothing.biases is None or transposed:
            return smoothed
        return smoothed + rho * backend_of(maps).like(self.smoothing.biases[kernel])

    def with_smoothing(self, smoothing: Smoothing) -> "Pyramid":
        """Return a pyramid of the same scales and another phi."""
        scales, dtype = self.scales, self.dtype
        return Pyramid(self.map_shape, scales, dtype, smoothing, self.metric)

    def encode(
        self, X: Any, table: nearest.Table, dtype: Any = np.intp
    ) -> tuple[Any, Any]:
        """Code rows scale by scale: each scale codes the residual of those before it.

        Parameters
        ----------
        X : array of shape (n_samples, H * W * C)
            Flattened maps, in the dtype of the pyramid.
        table : Table of shape (V, C)
            The codewords.
        dtype : dtype, default=intp
            The dtype of the codes.

        Returns
        -------
        codes : array of shape (n_samples, n_tokens)
            Token by token, in C order, coarse to fine.
        rest : array of shape (n_samples, H * W * C)
            The residual after the last scale.
        """
        be = backend_of(X)

        def work(x: Any) -> tuple[Any, ...]:
            left, codes = be.xp.reshape(x, (-1, *self.map_shape)), []
            for scale in range(len(self.scales)):
                found, left = self.coded(left, table, scale)
                codes.append(be.cast(found, dtype))
            return be.concat(codes, 1), be.xp.reshape(left, (-1, self.n_features))

        with nearest.single_threaded_blas():
            return be.map_rows(X, self.n_features, work)

    def coded(self, maps: Any, table: nearest.Table, scale: int) -> tuple[Any, Any]:
        """Return the codes (n, n_tokens) of a scale, and the residual after it."""
        xp = backend_of(maps).xp
        tokens = xp.reshape(self.shrink(maps, scale), (-1, self.n_channels))
        if self.metric == "cosine":
            # Zero tokens have no direction, and get the first codeword.
            known = xp.any(tokens != 0, axis=1)[:, None]
            tokens = xp.where(
                known, tokens, backend_of(tokens).like(table.codewords[0])
            )
        codes, _ = nearest.nearest(tokens, table, self.metric, return_distances=False)
        codes = xp.reshape(codes, (-1, self.n_tokens[scale]))
        return codes, maps - self.grow(table.rows(codes), scale)

    def partial_sums(self, codes: Any, table: nearest.Table) -> Iterator[Any]:
        """Yield the reconstruction (n_samples, n_features) after each scale."""
        total: Any = None
        for scale, span in enumerate(self.columns):
            if span.start == codes.shape[1]:
                return
            grown = self.grow(table.rows(codes[:, span]), scale)
            total = grown if total is None else total + grown
            yield backend_of(total).xp.reshape(total, (-1, self.n_features))

    def decode(self, codes: Any, table: nearest.Table) -> Any:
        """Return the reconstruction: the sum over all scales."""
        return deque(self.partial_sums(codes, table), maxlen=1).pop()


def _gain(matrix: np.ndarray | None) -> float:
    return 1.0 if matrix is None else float(np.square(matrix).sum()) / matrix.shape[1]


def _along_axes(maps: Any, matrices: Any) -> Any:
    """Apply one matrix to the first axis of each map, another to the second.

    Each map gets a product of its own, so that none depends on the other maps.
    """
    rows, columns = matrices
    be = backend_of(maps)
    n_maps, height, width, n_channels = maps.shape
    if rows is not None:
        maps = be.xp.reshape(maps, (n_maps, height, width * n_channels))
        maps = be.like(rows) @ maps
        height = len(rows)
    if columns is not None:
        maps = be.xp.reshape(maps, (n_maps * height, width, n_channels))
        maps = be.like(columns) @ maps
        width = len(columns)
    return be.xp.reshape(maps, (n_maps, height, width, n_channels))


def _convolve(maps: Any, kernel: np.ndarray) -> Any:
    """Convolve zero-padded maps with a kernel of shape (3, 3 or 1, C, C)."""
    total: Any = None
    seen = windows(maps, kernel.shape[:2])
    for window, weights in zip(
        seen, kernel.reshape(-1, *kernel.shape[2:]), strict=True
    ):
        part = window @ backend_of(window).like(weights)
        total = part if total is None else total + part
    return total


def windows(maps: Any, size: Sequence[int]) -> list[Any]:
    """Return maps shifted by every offset of a window, padded with zeros."""
    be, (height, width), padded = backend_of(maps), maps.shape[1:3], maps
    for axis, n in enumerate(size, start=1):
        shape = list(padded.shape)
        shape[axis] = n // 2
        if n > 1:
            margin = be.zeros(tuple(shape), maps.dtype)
            padded = be.concat([margin, padded, margin], axis)
    return [padded[:, i : i + height, j : j + width, :] for i, j in np.ndindex(*size)]
