"""The binary scheme: the signs of the features."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq._arrays import to_host
from skvq._compat import NUMBERS, SIZE, Interval, StrOptions
from skvq._given import one_or_each
from skvq._typing import MatrixLike, Number, Radius, Size, VectorLike
from skvq._validation import first_followed, warn_of_some
from skvq.coding.levels import Levels, is_table
from skvq.coding.radius import Float32Radius, RadiusCode, ScalarRadius
from skvq.learning.radius import (
    RADII,
    check_radius_memory,
    fit_radius,
    radius_in_memory,
)
from skvq.learning.rows import Learner, Rows, run
from skvq.learning.scalar import (
    Averages,
    positive_per_column,
    total_weight,
    weighted_mean,
)
from skvq.scalar import ScalarQuantizer, columns_of_tables, shared_tables

# `BinaryQuantizer` is public as skvq.BinaryQuantizer.
__all__ = ["hamming_distances"]


class BinaryQuantizer(ScalarQuantizer):
    r"""Replace each feature by its sign, one bit each.

    The codewords are the corners of a box about the origin,
    :math:`f(x)_i = s_i\,\mathrm{sign}(x_i)`, or, with ``spherical=True``, those of the
    cube in the unit sphere, :math:`\mathrm{sign}(x_i) / \sqrt{d}`, nearest to
    :math:`x / \|x\|`.  The sign is +1 (code 1) for x > 0, and -1 (code 0) otherwise.
    Encoding looks at signs alone.  It needs features about zero, of similar size and
    independent of each other: center the data, and rotate them (by PCA with whitening,
    or at random) before this step.

    Parameters
    ----------
    spherical : bool, default=False
        Whether codewords are unit vectors; the length of x is then coded apart.
    scale : "fit", float or sequence of float, default="fit"
        With ``spherical=False``: factor of the signs.  "fit": the mean absolute value
        of each feature, which has the least squared error; or a number for all
        features, or one for each.  1 gives lookup-free quantization (LFQ).
    radius : {"unit", "uniform", "learned", "float32"}, default="unit"
        With ``spherical=True``: how the length of x is coded.  "unit": it is lost, and
        reconstructions have length 1; "uniform": one more code, for equal cells between
        the smallest and the largest length; "learned": one more code, for the levels of
        least squared error; "float32": two more codes of 16 bits, exact.
    n_radius_levels : int, default=256
        Number of levels V of the length, if it is "uniform" or "learned".

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (2, 1)
        The two values of each feature, then the tables of the length, of shape (V, 1).
        For "float32" these are the lengths of the upper 16 bits, and the units in the
        last place that the lower 16 bits count.
    codebook_sizes_ : tuple of int
        2 for each feature, then the sizes of the codes of the length.
    scale_ : ndarray of shape (n_features,)
        Factor of the signs.
    bits_per_sample_ : float
        One per feature, plus those of the length.
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
    skvq.binary.hamming_distances : Distances of packed codes.
    skvq.codes.pack : Packs the codes to one bit for each feature.

    Notes
    -----
    On uniform directions the spherical codewords have the squared error
    :math:`2 - 2 \sqrt{d}\,\Gamma(d/2) / (\sqrt{\pi}\,\Gamma((d+1)/2))`: .398 at d = 64.
    A zero vector has the direction of the first corner.

    `partial_fit` updates the mean magnitudes.

    References
    ----------
    Yu et al. (2024), "Language Model Beats Diffusion: Tokenizer is Key to Visual
    Generation", ICLR (LFQ), arXiv 2310.05737.

    Zhao, Xiong and Krahenbuhl (2024), "Image and Video Tokenization with Binary
    Spherical Quantization", arXiv 2406.07548 (BSQ).

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import BinaryQuantizer
    >>> X = np.array([[1.0, -2.0], [-3.0, 4.0], [2.0, 0.0]])
    >>> lfq = BinaryQuantizer(scale=1).fit(X)
    >>> lfq.transform(X).tolist()
    [[1, 0], [0, 1], [1, 0]]
    >>> lfq.quantize(X).tolist()
    [[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]]
    >>> bsq = BinaryQuantizer(spherical=True, radius="float32").fit(X)
    >>> bsq.codebook_sizes_
    (2, 2, 32640, 65536)
    """

    scale: Any

    scale_: NDArray[Any]
    _radius_: Any

    _parameter_constraints = {  # noqa: RUF012
        "spherical": ["boolean"],
        "scale": [
            StrOptions({"fit"}),
            Interval(Real, 0, None, closed="neither"),
            NUMBERS,
        ],
        "radius": [StrOptions(set(RADII))],
        "n_radius_levels": [SIZE],
    }
    _follows_namespace = True

    def __init__(
        self,
        *,
        spherical: bool = False,
        scale: Literal["fit"] | Number | VectorLike = "fit",
        radius: Radius = "unit",
        n_radius_levels: Size = 256,
    ) -> None:
        self.spherical = spherical
        self.scale = scale
        self.radius = radius
        self.n_radius_levels = n_radius_levels

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        radius = None
        if self.spherical:
            check_radius_memory(self.radius, int(self.n_radius_levels), rows.n_bytes)
            radius = yield from fit_radius(self.radius, rows, int(self.n_radius_levels))
        if self._learns_scale():
            averages = yield from _mean_magnitudes(rows)
            return self._of_magnitudes(averages, rows.dtype)
        return self._of_scale(self._given_scale(rows.n_features), rows.dtype, radius)

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        rows = Rows(X, weights)
        dtype = rows.dtype
        if hasattr(self, "scale_"):
            dtype = nearest.backend_of(self.scale_).numpy_dtype(self.scale_)
        if not self._learns_scale():
            radius = None
            if self.spherical:
                radius = run(fit_radius(self.radius, rows, int(self.n_radius_levels)))
            return self._of_scale(self._given_scale(rows.n_features), dtype, radius)
        seen, averages = self._seen_before(), run(_mean_magnitudes(rows))
        if seen is not None:
            averages = seen.joined(averages)
        return self._of_magnitudes(averages, dtype)

    def _learns_scale(self) -> bool:
        return not self.spherical and isinstance(self.scale, str)

    def _of_magnitudes(self, averages: Averages, dtype: Any) -> dict[str, Any]:
        (scale,) = averages.means
        warn_of_some(
            "feature",
            "all samples are zero, and so are both levels.",
            [None if value > 0 else 0 for value in scale.astype(dtype)],
        )
        return {**self._of_scale(scale, dtype, None), "_seen_": averages}

    def _given_scale(self, n_features: int) -> np.ndarray:
        """Return the scale of each feature, if none is learned."""
        if self.spherical:
            return np.full(n_features, 1 / np.sqrt(n_features))
        return positive_per_column("scale", self.scale, n_features)

    def _of_scale(self, scale: np.ndarray, dtype: Any, radius: Any) -> dict[str, Any]:
        """Return the fitted attributes."""
        if scale.max() > float(np.finfo(dtype).max):
            raise ValueError(
                f"scale={self.scale!r} is too large for {dtype}, in which X is "
                "quantized."
            )
        sizes = () if radius is None else radius.sizes
        return {
            "scale_": scale.astype(dtype),
            "_radius_": radius,
            "codebook_sizes_": (2,) * len(scale) + sizes,
        }

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        arrays = columns_of_tables(tables)
        dtype, radius = tables[0].dtype, None
        if self.spherical:
            arrays, radius = self._radius_of(arrays)
        scale = np.array([_scale_of(j, array) for j, array in enumerate(arrays)])
        if self._learns_scale():
            if scale.min() > 0:
                # Set from the tables, since nothing is known of the samples.
                self.scale = one_or_each(scale.tolist())
        else:
            given = self._given_scale(len(scale))
            if not np.allclose(scale, given, rtol=4 * np.finfo(dtype).eps, atol=0):
                what = "spherical=True" if self.spherical else f"scale={self.scale!r}"
                raise ValueError(
                    f"{what}: codebooks have the scales {scale}; expected {given}."
                )
        found = self._of_scale(scale, dtype, radius)
        return {**found, "n_features_in_": len(scale)}

    def _radius_of(self, arrays: Any) -> tuple[list[np.ndarray], RadiusCode]:
        """Return the tables of the signs, and the code of the length in the others."""
        if self.radius == "unit":
            return arrays, RadiusCode()
        if self.radius == "float32":
            code = Float32Radius()
            if tuple(map(len, arrays[-2:])) != code.sizes or len(arrays) < 3:
                raise ValueError(
                    f"radius='float32': the last two of codebooks are expected to have "
                    f"{code.sizes} rows, as those of a fitted quantizer have."
                )
            return arrays[:-2], code
        levels = arrays[-1].astype(np.float64)
        if len(arrays) < 2 or not is_table(levels):
            raise ValueError(
                f"radius={self.radius!r}: the last of codebooks is expected to hold "
                "lengths, ascending, behind a table of two rows for each feature."
            )
        self._imply(n_radius_levels=len(levels))
        return arrays[:-1], ScalarRadius(Levels.of_tables([levels]))

    def _fewest_rows(self) -> int:
        return 2 if self._learns_scale() or self._learns_radius() else 1

    def _learns_radius(self) -> bool:
        return self.spherical and self.radius not in ("unit", "float32")

    def _can_partial_fit(self) -> bool:
        return not self._learns_radius()

    def _why_no_partial_fit(self) -> str:
        return (
            f"radius={self.radius!r} does not learn from a stream; 'unit' and "
            "'float32' do."
        )

    def _needs_rows_in_memory(self) -> str | None:
        return radius_in_memory(self.radius) if self.spherical else None

    def _encode(self, X: Any) -> Any:
        be = nearest.backend_of(X)
        signs = be.cast(X > 0, np.uint8)
        if self._radius_ is None or not self._radius_.sizes:
            return signs
        lengths = self._radius_.encode(nearest.row_norms(X))
        return be.concat([signs, lengths], axis=1)

    def _decode(self, codes: Any) -> Any:
        be, n_features = nearest.backend_of(codes), self.n_features_in_
        result = be.cast(codes[:, :n_features], be.numpy_dtype(self.scale_))
        result = (2 * result - 1) * self.scale_
        result += 0  # turns negative zeros positive
        if self._radius_ is None or not self._radius_.sizes:
            return result
        lengths = self._radius_.decode(codes[:, n_features:])
        result *= be.cast(lengths, be.numpy_dtype(result))[:, None]
        return result

    def _n_scales(self) -> int:
        if self.__sklearn_is_fitted__():
            return len(self.codebook_sizes_) - self.n_features_in_
        return {"unit": 0, "float32": 2}.get(self.radius, 1) if self.spherical else 0

    def _scales(self, codes: Any) -> Any:
        return self._radius_.decode(codes[:, self.n_features_in_ :])

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        scale = to_host(self.scale_)
        pairs = {
            value: np.array([[0 - value], [value]], scale.dtype) for value in set(scale)
        }
        signs = shared_tables([pairs[value] for value in scale])
        if self._radius_ is None:
            return signs
        return signs + self._radius_.tables(scale.dtype)


def _mean_magnitudes(rows: Rows) -> Learner[Averages]:
    weight = yield from total_weight(rows)
    mean = yield from weighted_mean(rows, _magnitudes)
    return Averages(weight, (mean,))


def _magnitudes(be: nearest.Backend, x: Any) -> Any:
    return abs(x)


def _scale_of(j: int, table: np.ndarray) -> float:
    """Return the scale of a feature from its table."""
    if table.shape != (2,) or not 0 <= table[1] == -table[0]:
        raise ValueError(
            f"codebooks[{j}] = {table.tolist()}; expected [[-s], [s]], the two values "
            "of a sign."
        )
    return float(table[1])


def hamming_distances(
    packed_X: MatrixLike, packed_Y: MatrixLike | None = None
) -> np.ndarray:
    """Count the bits in which packed rows differ.

    For the signs of `BinaryQuantizer`, they rank like squared distances between
    reconstructions if all scales are equal: each bit adds (2 scale)^2.

    Parameters
    ----------
    packed_X : ndarray of uint8, shape (n_samples_X, n_bytes)
        Codes packed by `skvq.codes.pack`, row by row.
    packed_Y : ndarray of uint8, shape (n_samples_Y, n_bytes), optional
        Other codes to compare with; None: the same codes.

    Returns
    -------
    distances : array of int32, shape (n_samples_X, n_samples_Y)
        Number of bits that differ.

    Raises
    ------
    ValueError
        If the rows are not packed bytes, or have different widths.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import BinaryQuantizer
    >>> from skvq.binary import hamming_distances
    >>> from skvq.codes import pack
    >>> X = np.array([[1.0, -2.0, 3.0], [-3.0, 4.0, 1.0]])
    >>> bq = BinaryQuantizer().fit(X)
    >>> hamming_distances(pack(bq.transform(X), bq.codebook_sizes_)).tolist()
    [[0, 2], [2, 0]]
    """
    be = first_followed(packed_X, packed_Y)
    X = _as_bytes(packed_X, "packed_X")
    Y = X if packed_Y is None else _as_bytes(packed_Y, "packed_Y")
    if Y.shape[1] != X.shape[1]:
        raise ValueError(
            f"packed_X has {X.shape[1]} bytes in a row, packed_Y {Y.shape[1]}."
        )
    X, Y = _as_words(X), _as_words(Y)
    result = np.zeros((len(X), len(Y)), dtype=np.int32)
    tile = nearest.tile_rows(len(Y))
    for begin in range(0, len(X), tile):
        rows = slice(begin, begin + tile)
        for word in range(X.shape[1]):
            result[rows] += _count_bits(X[rows, word, None] ^ Y[:, word])
    return be.send(result)


def _as_bytes(packed: Any, name: str) -> np.ndarray:
    packed = to_host(packed)
    if packed.ndim != 2 or packed.dtype != np.uint8:
        raise ValueError(
            f"{name} has dtype {packed.dtype} and {packed.ndim} dimensions; expected "
            "2-d uint8, as pack() gives it."
        )
    return packed


def _as_words(packed: np.ndarray) -> np.ndarray:
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


def _count_bits(words: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    # For NumPy 1.26: sums of neighbouring bits, pairs and nibbles, then of all bytes.
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    words = words + (words >> 4) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101 >> 56).astype(np.uint8)
