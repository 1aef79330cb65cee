"""The spherical scheme: angles in equal or matched cells, and a length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq._checks import check_memory
from skvq._compat import SIZE, SIZES, Interval, StrOptions
from skvq._typing import (
    Angles,
    Coordinates,
    MatrixLike,
    Number,
    Radius,
    Size,
    Sizes,
    VectorLike,
)
from skvq._validation import first_followed, followed_backend, warn
from skvq.base import BaseQuantizer
from skvq.coding.directions import (
    TURN,
    direction_plan,
    join,
    join_tile,
    split,
    split_tile,
    tree_levels,
)
from skvq.coding.levels import Grid, Levels
from skvq.coding.radius import RadiusCode
from skvq.learning.allocation import best_sizes, candidate_sizes
from skvq.learning.radius import (
    RADII,
    check_radius_memory,
    fit_radius,
    radius_in_memory,
)
from skvq.learning.rows import Learner, Rows
from skvq.learning.scalar import (
    GAUSSIAN,
    Density,
    lloyd_max,
    mean_error,
    per_column,
    quadrature,
    standard_levels,
)

# `SphericalQuantizer` is public as skvq.SphericalQuantizer.
__all__ = ["from_spherical", "to_spherical"]

COORDINATES = frozenset({"standard", "tree"})

# The most bits of an angle, if bits are spread over all of them.
_MOST_BITS = 16


class SphericalQuantizer(BaseQuantizer):
    r"""Cut the angles of hyperspherical coordinates into cells.

    A vector has a length r and d - 1 angles, with

    .. math:: x_k = r \cos\theta_k \prod_{i<k} \sin\theta_i, \quad
        x_d = r \prod_{i<d} \sin\theta_i.

    The last angle runs over the circle, [0, 2 pi), the others over [0, pi].  Each is
    cut into cells of its own, and the codebook of directions is their product.  It has
    no table and learns nothing: the angles of a uniform direction have known densities,
    :math:`\sin^{d-1-k}\theta_k`.  Other data are best rotated at random before this
    step, which brings them near to that.

    Parameters
    ----------
    n_levels : int or sequence of int, default=16
        Number of levels V of every angle, or of each.
    angles : {"uniform", "density"}, default="uniform"
        "uniform": equal cells.  "density": the cells and levels of least squared error
        (Lloyd-Max) for the densities above; they are much better in high dimensions,
        where all angles but the last few are close to pi/2.
    total_bits : float, default=None
        If given, it replaces `n_levels`: this many bits are spread over the angles by
        their effect on the error, as numbers of levels that need not be powers of two.
        An angle takes at most 16; bits beyond that give a ConvergenceWarning.
    coordinates : {"standard", "tree"}, default="standard"
        "standard": the formula above.  "tree": neighbours in pairs, where (a, b)
        becomes the length and the angle atan2(b, a), then the lengths in pairs, and so
        on; the first angles run over the circle, the others over [0, pi/2].
    radius : {"unit", "uniform", "learned", "float32"}, default="unit"
        How the length is coded.  "unit": it is lost, and reconstructions have length 1;
        "uniform": one more code, for equal cells between the smallest and the largest
        length; "learned": one more code, for the levels of least squared error;
        "float32": two more codes of 16 bits, exact.
    n_radius_levels : int, default=256
        Number of levels V of the length, if it is "uniform" or "learned".

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, 1)
        The levels of each angle, in radians, then the tables of the length.  For
        "float32" these are the lengths of the upper 16 bits, and the units in the last
        place that the lower 16 bits count.
    codebook_sizes_ : tuple of int
        The numbers of levels of the angles, then the sizes of the codes of the length.
    bits_per_sample_ : float
        Sum of log2 V_j.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.  None for columns of more than 2^16 codewords.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    skvq.sphere.to_spherical : The coordinates.
    BinaryQuantizer : One bit for each feature of a direction.

    Notes
    -----
    Cutting every angle on [0, 2 pi], as the formula of the scheme is often written,
    would leave half of the cells of all angles but the last one empty: it equals
    ``angles="uniform"`` with half as many levels for them.  An angle on an edge belongs
    to the cell above.  The codes are nearest in each angle, the last one on its circle,
    but not in the space of X.  A zero vector has all angles 0.  A single feature has no
    angle: its code is its sign.

    The squared error of uniform directions with d = 64 and 8 levels is .367 for equal
    cells and .0357 for matched ones.

    References
    ----------
    Blumenson (1960), "A Derivation of n-Dimensional Spherical Coordinates", American
    Mathematical Monthly 67(1), doi:10.2307/2308932.

    Han et al. (2025), "PolarQuant: Quantizing KV Caches with Polar Transformation",
    arXiv 2502.02617 ("tree").

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import SphericalQuantizer
    >>> X = np.array([[1.0, 0.1], [0.0, 2.0], [-3.0, -3.0], [1.0, -0.1]])
    >>> sq = SphericalQuantizer(4).fit(X)
    >>> sq.transform(X).ravel().tolist()
    [0, 1, 2, 3]
    >>> sq.quantize(X).round(3).tolist()
    [[0.707, 0.707], [-0.707, 0.707], [-0.707, -0.707], [0.707, -0.707]]
    """

    _cells_: Any
    _dtype_: np.dtype
    _fitted_coordinates_: str
    _radius_: RadiusCode

    _parameter_constraints = {  # noqa: RUF012
        "n_levels": [SIZE, SIZES],
        "angles": [StrOptions({"uniform", "density"})],
        "total_bits": [Interval(Real, 0, 2**32, closed="both"), None],
        "coordinates": [StrOptions(set(COORDINATES))],
        "radius": [StrOptions(set(RADII))],
        "n_radius_levels": [SIZE],
    }
    _follows_namespace = True

    def __init__(
        self,
        n_levels: Size | Sizes = 16,
        *,
        angles: Angles = "uniform",
        total_bits: Number | None = None,
        coordinates: Coordinates = "standard",
        radius: Radius = "unit",
        n_radius_levels: Size = 256,
    ) -> None:
        self.n_levels = n_levels
        self.angles = angles
        self.total_bits = total_bits
        self.coordinates = coordinates
        self.radius = radius
        self.n_radius_levels = n_radius_levels

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        angles = _angles(rows.n_features, self.coordinates)
        check_radius_memory(self.radius, int(self.n_radius_levels), rows.n_bytes)
        cells = self._angle_cells(angles, rows.n_bytes)
        radius = yield from fit_radius(self.radius, rows, int(self.n_radius_levels))
        return {
            "_cells_": cells,
            "_radius_": radius,
            "_fitted_coordinates_": self.coordinates,
            "_dtype_": rows.dtype,
            "codebook_sizes_": cells.sizes + radius.sizes,
        }

    def _fewest_rows(self) -> int:
        return 1 if self.radius in ("unit", "float32") else 2

    def _needs_rows_in_memory(self) -> str | None:
        return radius_in_memory(self.radius)

    def _angle_cells(self, angles: list[_Angle], x_bytes: int) -> Grid | Levels:
        if not angles:  # with one feature, only the sign is left
            signs = np.array([-1.0, 1.0])
            return Levels([signs], edges=[np.array([np.nextafter(0.0, 1.0)])])
        if self.total_bits is None:
            sizes = per_column(
                "n_levels", self.n_levels, len(angles), "angle", 1, 2**32
            )
        else:
            most = _MOST_BITS * len(angles)
            if self.total_bits > most:
                warn(
                    f"total_bits={self.total_bits} is more than {most}, which are "
                    f"{_MOST_BITS} for each of {len(angles)} angles: the codes have no "
                    "more than these.",
                )
            sizes = _spread_bits(angles, float(self.total_bits), self.angles)
        if self.angles == "density":
            given = f"n_levels={self.n_levels} for each"
            if self.total_bits is not None:
                given = f"total_bits={self.total_bits} for all"
            what = f"Levels of {given} of {len(sizes)} angles"
            check_memory(what, 8 * 2 * sum(sizes), x_bytes)
            tables = map(_matched_levels, angles, sizes)
            return Levels(list(tables), sizes)
        low, high = np.array([angle[:2] for angle in angles]).T
        return Grid(low, high, sizes)

    def _encode(self, X: Any) -> Any:
        be, (n, n_features) = nearest.backend_of(X), X.shape

        def tile(cut: slice) -> tuple[Any, ...]:
            rows = X[cut, :]
            lengths, angles = split_tile(be, rows, self._fitted_coordinates_)
            return lengths, angles if n_features > 1 else lengths[:, None]

        outputs = [((), np.float64), ((len(self._cells_.sizes),), np.float64)]
        lengths, angles = be.over_rows(n, direction_plan(n_features), tile, outputs)
        codes = self._cells_.encode(angles)
        if not self._radius_.sizes:
            return codes
        return be.concat([codes, self._radius_.encode(abs(lengths))], axis=1)

    def _decode(self, codes: Any) -> Any:
        be, n_angles = nearest.backend_of(codes), len(self._cells_.sizes)

        def tile(cut: slice) -> tuple[Any, ...]:
            angles = self._cells_.decode(codes[cut, :n_angles])
            lengths = self._radius_.decode(codes[cut, n_angles:])
            if self.n_features_in_ == 1:
                return (angles * lengths[:, None],)
            return (join_tile(be, lengths, angles, self._fitted_coordinates_),)

        plan = direction_plan(self.n_features_in_)
        outputs = [((self.n_features_in_,), self._dtype_)]
        return be.over_rows(codes.shape[0], plan, tile, outputs)[0]

    def _why_no_sums(self) -> str | None:
        return "its codes are angles, whose sines and cosines multiply."

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        cells = self._cells_.tables(self._dtype_)
        return cells + self._radius_.tables(self._dtype_)


# -- coordinates -----------------------------------------------------------------------


def to_spherical(
    X: MatrixLike, coordinates: Coordinates = "standard"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the length and the angles of vectors.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Vectors.
    coordinates : {"standard", "tree"}, default="standard"
        See `SphericalQuantizer`.  The angles of the tree are in order of its levels,
        pairs of neighbours first.

    Returns
    -------
    radius : ndarray of float64, shape (n_samples,)
        Lengths.  A single feature has no angle: its radius is X itself, sign included.
    angles : ndarray of float64, shape (n_samples, n_features - 1)
        Angles in radians.  All are 0 for a zero vector, and so are those of coordinates
        that are zero up to the end.

    Raises
    ------
    ValueError
        If X is not 2-d, finite and real, or the name is unknown.

    See Also
    --------
    from_spherical : The inverse.

    Examples
    --------
    >>> from skvq.sphere import to_spherical
    >>> radius, angles = to_spherical([[0.0, 3.0, -4.0]])
    >>> radius.tolist(), angles.round(4).tolist()
    ([5.0], [[1.5708, 5.3559]])
    """
    _check_coordinates(coordinates)
    be = followed_backend(X)
    X = _check_finite("X", X, be)
    if X.ndim != 2 or not X.shape[1]:
        raise ValueError(f"X has shape {X.shape}; expected (n_samples, n_features).")
    return tuple(split(be, X, coordinates))


def from_spherical(
    radius: VectorLike, angles: MatrixLike, coordinates: Coordinates = "standard"
) -> np.ndarray:
    """Return the vectors of given lengths and angles.

    Parameters
    ----------
    radius : array-like of shape (n_samples,)
        Lengths.
    angles : array-like of shape (n_samples, n_features - 1)
        Angles in radians.
    coordinates : {"standard", "tree"}, default="standard"
        See `SphericalQuantizer`.

    Returns
    -------
    X : ndarray of float64, shape (n_samples, n_features)
        Vectors.

    Raises
    ------
    ValueError
        If the shapes do not fit each other, an entry is not finite and real, or the
        name is unknown.

    See Also
    --------
    to_spherical : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.sphere import from_spherical
    >>> from_spherical([2.0], [[np.pi / 2, np.pi]]).round(9).tolist()
    [[0.0, -2.0, 0.0]]
    """
    _check_coordinates(coordinates)
    be = first_followed(radius, angles)
    radius = _check_finite("radius", radius, be)
    angles = _check_finite("angles", angles, be)
    if radius.ndim != 1 or angles.ndim != 2 or radius.shape != angles.shape[:1]:
        raise ValueError(
            f"radius has shape {radius.shape} and angles {angles.shape}; expected "
            "(n_samples,) and (n_samples, n_features - 1)."
        )
    return join(be, radius, angles, coordinates)


def _check_finite(name: str, array: Any, be: nearest.Backend) -> np.ndarray:
    """Return an array in float64; raise unless it is real and finite."""
    array = be.like(array)
    if be.numpy_dtype(array).kind not in "biufO":
        raise ValueError(f"{name} has dtype {array.dtype}; expected real numbers.")
    array = be.cast(array, np.float64)
    if not be.is_finite(array):
        raise ValueError(f"{name} contains NaN or infinity.")
    return array


def _check_coordinates(coordinates: Any) -> None:
    if not isinstance(coordinates, str) or coordinates not in COORDINATES:
        raise ValueError(
            f"coordinates={coordinates!r} is unknown. Accepted are "
            f"{sorted(COORDINATES)}."
        )


# -- angles of uniform directions ------------------------------------------------------


class _Angle(NamedTuple):
    """An angle, its density sin^p cos^q for uniform directions, and what it joins.

    Its cosine is the length of the part `first`, its sine that of the part `second`:
    indices of angles, or None for a single coordinate.
    """

    low: float
    high: float
    sin_power: int
    cos_power: int
    first: int | None = None
    second: int | None = None

    @property
    def shape(self) -> tuple[float, float, int, int]:
        return self[:4]


def _angles(n_features: int, coordinates: str) -> list[_Angle]:
    """Return the angles of vectors in the order of their codes."""
    if n_features == 1:
        return []
    if coordinates == "standard":
        n_angles = n_features - 1
        chain = [
            _Angle(0.0, np.pi, n_angles - k, 0, None, k) for k in range(1, n_angles)
        ]
        return [*chain, _Angle(0.0, TURN, 0, 0)]
    found: list[_Angle] = []
    nodes: list[int | None] = [None] * n_features
    for n_nodes, widths in tree_levels(n_features):
        joined: list[int | None] = []
        for k in range(0, n_nodes - 1, 2):
            a, b = widths[k : k + 2]
            if a == b == 1:
                low, high = 0.0, TURN
            else:  # a single coordinate has a sign
                low, high = (-np.pi / 2 if b == 1 else 0.0), np.pi / 2
            joined.append(len(found))
            found.append(_Angle(low, high, b - 1, a - 1, *nodes[k : k + 2]))
        nodes = joined + nodes[n_nodes // 2 * 2 :]
    return found


def _is_circle(shape: Any) -> bool:
    low, high, *_ = shape
    return high - low == TURN


def _matched_levels(angle: _Angle, n_levels: int) -> np.ndarray:
    if _is_circle(angle.shape):
        return (2 * np.arange(n_levels) + 1) * (np.pi / n_levels)
    return _lloyd_max_levels(angle.shape, n_levels)


@lru_cache(maxsize=4096)
def _lloyd_max_levels(shape: Any, n_levels: int) -> np.ndarray:
    density = _density(shape)
    start = None
    if _is_narrow(shape):
        middle, variance = _middle_and_variance(density)
        start = middle + np.sqrt(variance) * standard_levels("gaussian", n_levels)
    levels = lloyd_max(density, n_levels, start)
    levels.flags.writeable = False
    return levels


def _is_narrow(shape: Any) -> bool:
    """Return whether the density is nearly Gaussian, away from the range's ends."""
    smaller, larger = sorted(shape[2:])
    return larger >= 16 and (smaller == 0 or smaller >= 8)


def _middle_and_variance(density: Density) -> tuple[float, float]:
    places, weights, _ = quadrature(density, np.empty(0))
    middle = float((places * weights).sum() / weights.sum())
    return middle, float((np.square(places - middle) * weights).sum() / weights.sum())


def _density(shape: Any) -> Density:
    """Return sin^p cos^q, scaled to a peak of 1, where it is not negligible.

    The second derivative of its logarithm is at most -(p + q) everywhere, so it falls
    off from its peak at least as fast as a Gaussian of that variance.
    """
    low, high, sin_power, cos_power = shape
    peak = np.arctan2(np.sqrt(sin_power), np.sqrt(cos_power))
    reach = np.sqrt(160.0 / (sin_power + cos_power))

    def log_pdf(angle: Any) -> Any:
        with np.errstate(divide="ignore"):
            result = np.zeros_like(angle)
            if sin_power:
                result += sin_power * np.log(np.abs(np.sin(angle)))
            if cos_power:
                result += cos_power * np.log(np.abs(np.cos(angle)))
        return result

    top = log_pdf(np.array([peak]))
    return Density(
        lambda angle: np.exp(log_pdf(angle) - top),
        max(low, peak - reach),
        min(high, peak + reach),
    )


# -- how many levels for which angle ---------------------------------------------------


def _spread_bits(angles: Any, total_bits: float, cells: str) -> tuple[int, ...]:
    """Choose numbers of levels whose bits sum to at most the total.

    The angles of a uniform direction u are independent, so the mean of u @ u_quant
    follows from those of cos * cos_quant and sin * sin_quant of each angle.  The gain
    of one more level depends on the other angles.  Bits are therefore spread for given
    other angles, then again for those found; this starts from equal bits and from exact
    angles, and the best result is kept.
    """
    sizes = candidate_sizes(min(float(_MOST_BITS), total_bits / len(angles) + 3))
    curves = _all_curves(angles, cells, sizes)
    bits = np.log2(sizes)
    equal = int(np.searchsorted(bits, total_bits / len(angles) + 1e-12, "right")) - 1
    starts = np.full((2, len(angles)), [[equal], [len(sizes) - 1]])
    best, agreement = starts[0], _agreement(angles, curves, starts[0])[0]
    for chosen in starts:
        for _ in range(5):
            _, *parts = _agreement(angles, curves, chosen)
            errors = -np.einsum("pa,apv->av", np.array(parts), curves)
            chosen = best_sizes(errors, bits, total_bits)
            found = _agreement(angles, curves, chosen)[0]
            if found > agreement:
                best, agreement = chosen, found
    return tuple(sizes[i] for i in best)


def _agreement(angles: Any, curves: Any, chosen: Any) -> tuple[Any, ...]:
    """Return the mean of u @ u_quant, and its slopes by the two means of each angle."""
    cosines, sines = curves[np.arange(len(angles)), :, chosen].T
    joined = np.ones(len(angles) + 1)  # the last entry stands for single coordinates
    order = _from_below(angles)
    for j in order:
        first, second = _parts(angles[j])
        joined[j] = cosines[j] * joined[first] + sines[j] * joined[second]
    reach = np.zeros(len(angles) + 1)
    reach[order[-1]] = 1.0
    slopes = np.empty((2, len(angles)))
    for j in reversed(order):
        first, second = _parts(angles[j])
        reach[first], reach[second] = reach[j] * cosines[j], reach[j] * sines[j]
        slopes[:, j] = reach[j] * joined[first], reach[j] * joined[second]
    return joined[order[-1]], *slopes


def _from_below(angles: Any) -> list[int]:
    """Return the angles in an order in which each follows the parts that it joins."""
    ascending = angles[0].second is None
    return list(range(len(angles)))[:: 1 if ascending else -1]


def _parts(angle: _Angle) -> tuple[int, int]:
    return (
        -1 if angle.first is None else angle.first,
        -1 if angle.second is None else angle.second,
    )


def _all_curves(angles: Any, cells: str, sizes: Sequence[int]) -> np.ndarray:
    """Return `_curves` of all angles, (n_angles, 2, n_sizes)."""
    is_chain = angles[-1].second is None and len(angles) > 1
    if cells == "uniform" and is_chain:
        circle = _curves(angles[-1].shape, cells, sizes)
        return np.concatenate([_chain_curves(len(angles), sizes), circle[None]])
    return np.array([_curves(angle.shape, cells, sizes) for angle in angles])


def _chain_curves(n_angles: int, sizes: Sequence[int]) -> np.ndarray:
    r"""Return the curves of the standard angles except the last one, for equal cells.

    They have the densities :math:`\sin^p` on [0, pi].  The integrals over a cell are
    differences between its edges, of :math:`\sin^{p+1} / (p + 1)` for the cosine, and
    of :math:`I_{p+1} = \int \sin^{p+1}` for the sine, which follows from
    :math:`p I_p = (p - 1) I_{p-2} - \cos \sin^{p-1}`.
    """
    begins = np.cumsum([0, *sizes[:-1]])
    width = np.repeat(np.pi / np.array(sizes), sizes)
    edges = (np.arange(sum(sizes)) - np.repeat(begins, sizes)) * width
    middles = edges + 0.5 * width
    # Each edge ends the cell below and begins the one above; the first ends none.
    cosines = np.cos(edges - 0.5 * width) - np.cos(middles)
    sines = np.sin(edges - 0.5 * width) - np.sin(middles)
    cosines[begins] = sines[begins] = 0.0
    last = np.sin(middles[begins + np.array(sizes) - 1])
    sine, cosine = np.sin(edges), np.cos(edges)
    power = np.ones_like(sine)  # sin^(p - 1)
    now, ahead = edges, 1.0 - cosine  # I_(p-1), I_p from 0 to the edges
    whole, whole_ahead = np.pi, 2.0  # the same integrals from 0 to pi
    curves = np.empty((n_angles - 1, 2, len(sizes)))
    for p in range(1, n_angles):
        power = power * sine
        now, ahead = ahead, (p * now - cosine * power) / (p + 1)
        whole, whole_ahead = whole_ahead, p * whole / (p + 1)
        of_cosine = np.add.reduceat(cosines * (power * sine), begins) / (p + 1)
        of_sine = np.add.reduceat(sines * ahead, begins) + last * whole_ahead
        curves[n_angles - 1 - p] = of_cosine / whole, of_sine / whole
    return curves


@lru_cache(maxsize=4096)
def _curves(shape: Any, cells: str, sizes: tuple[int, ...]) -> np.ndarray:
    """Return the means of cos * cos_quant and of sin * sin_quant for each V, (2, n)."""
    low, high, *_ = shape
    if _is_circle(shape):
        half = 0.5 * np.sinc(1.0 / np.array(sizes))
        return np.array([half, half])
    density = _density(shape)
    if cells == "density" and _is_narrow(shape):
        return _narrow_curves(density, sizes)
    means = []
    for size in sizes:
        if cells == "density":
            levels = _lloyd_max_levels(shape, size)
        else:
            levels = low + (2 * np.arange(size) + 1) * ((high - low) / (2 * size))
        places, weights, cell = quadrature(density, 0.5 * (levels[1:] + levels[:-1]))
        weights /= weights.sum()
        found = levels[cell][:, None]
        means.append(
            (
                (np.cos(places) * np.cos(found) * weights).sum(),
                (np.sin(places) * np.sin(found) * weights).sum(),
            )
        )
    return np.array(means).T


def _narrow_curves(density: Density, sizes: Sequence[int]) -> np.ndarray:
    """Return the curves of a Gaussian of the same mean and variance."""
    middle, variance = _middle_and_variance(density)
    error = variance * _gaussian_errors(sizes)
    # At the least error, the variance of the sum of the angle and its level is four
    # times that of the angle, minus three times the error.
    difference = np.exp(-0.5 * error)
    total = np.cos(2 * middle) * np.exp(-0.5 * (4 * variance - 3 * error))
    return 0.5 * np.array([difference + total, difference - total])


@lru_cache(maxsize=64)
def _gaussian_errors(sizes: Sequence[int]) -> np.ndarray:
    """Return the error of Lloyd-Max levels for a Gaussian of variance 1, for each V."""
    errors = []
    for size in sizes:
        levels = standard_levels("gaussian", size)
        errors.append(mean_error(GAUSSIAN, 0.5 * (levels[1:] + levels[:-1]), levels))
    return np.array(errors)
