"""The multi-scale residual scheme: maps of tokens, coded from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._checks import LARGEST_SIZE, check_memory, is_sequence
from skvq._compat import RANDOM_STATE, SIZE, Accepted, Interval, StrOptions
from skvq._given import as_shared, demand
from skvq._typing import (
    BackendName,
    ConvolutionMetric,
    MatrixLike,
    Number,
    RandomState,
    Size,
    Sizes,
)
from skvq._validation import as_it_is_now, check_numbers, in_fitted_dtype, warn
from skvq.base import reordered_once, reordered_table
from skvq.coding.pyramid import (
    Pyramid,
    Smoothing,
    identity_kernels,
    kernel_of_scales,
)
from skvq.coding.sums import codeword_entries
from skvq.learning import multiscale as learning
from skvq.learning.rows import Learner, Rows, run, scaled, stacked
from skvq.learning.start import few_distinct, ordinary_scale
from skvq.staged import StagedQuantizer
from skvq.vector import VectorQuantizer

# With fewer distinct tokens per codeword than this, the deterministic start is the
# result: least squares would fit their noise.
_FEW_TOKENS = 4

_SCALES = Accepted(is_sequence, "a sequence of ints or pairs of ints")


class MultiScaleQuantizer(StagedQuantizer):
    r"""Code maps scale by scale, each scale the residual of the coarser ones.

    The multi-scale residual scheme of visual autoregressive models (VAR).  A sample is
    a flattened map f of shape (height, width, channels).  With :math:`r_0 = f`, a scale
    of :math:`h_k \times w_k` tokens codes

    .. math::

        z_k = \mathrm{area}(r_{k-1}), \quad e_k = f(z_k, W), \quad
        r_k = r_{k-1} - \phi_k(\mathrm{up}(e_k)),

    where area averages over the cells of the coarse grid, :math:`f(z_k, W)` replaces
    every token by the nearest row of the one codebook W, and up interpolates by cubic
    convolution.  The reconstruction is :math:`\sum_k \phi_k(\mathrm{up}(e_k))`, and the
    sums over the first scales are coarse versions of it.

    Parameters
    ----------
    map_shape : tuple of int, default=None
        (height, width, channels), or (length, channels) for sequences; their product is
        the number of features, in C order.  None: one sequence of one channel.
    scales : "auto" or sequence of int or (int, int), default="auto"
        Token grids from coarse to fine: p stands for (p, p), or for p tokens of a
        sequence.  None may exceed the map, or be smaller than the one before.  "auto":
        powers of two, ending at the map's own size.
    n_codewords : int, default=256
        V, the number of codewords.
    n_smoothers : int, default=0
        Number of convolutions :math:`\phi` of 3 x 3 (3 for sequences) after the
        interpolation, each shared by the scales nearest to its tick; VAR has 4.  With
        0, :math:`\phi` is the identity.
    smoothing : float, default=0.5
        :math:`\rho` in :math:`\phi(h) = (1 - \rho) h + \rho\,\mathrm{conv}(h)`.
    metric : {"sqeuclidean", "cosine"}, default="sqeuclidean"
        Metric of the search for the nearest codeword of a token.  "cosine" is for given
        codebooks, see `from_codebooks`: their codewords may have any length, so there
        is no error to minimise by learning.  Zero tokens get the first codeword.
    max_iter : int, default=20
        The most rounds: code all samples, solve for codebook and convolutions.
    tol : float, default=1e-3
        Learning stops when a round lowers the distortion by at most this share of it.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers for the start.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (n_codewords, n_channels)
        The codebook W, the same object for every token.
    codebook_sizes_ : tuple of int
        V for every token, coarse to fine, in C order within a scale.
    bits_per_sample_ : float
        Number of tokens of all scales, times log2 V.
    map_shape_ : tuple of int
        (height, width, channels), or (length, channels).
    scales_ : tuple of (int, int), or of int
        The token grids.
    kernels_ : ndarray of shape (n_smoothers, 3, 3, n_channels, n_channels) or None
        Convolutions from the input channels (last but one axis) to the output channels
        (last axis); (n_smoothers, 3, 1, ...) for sequences.  None if there are none.
    biases_ : ndarray of shape (n_smoothers, n_channels) or None
        Added to the output of given convolutions; None if there are none.
    n_iter_ : int
        Number of rounds.
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
    ResidualQuantizer : Residuals of whole samples, a codebook for each stage.

    Notes
    -----
    The reconstruction is linear in W and in the convolutions, so both are learned by
    alternating between codes and least squares, without gradients of a network; k-means
    over the tokens of all scales diverges.  With more than one scale, row 0 of W is
    zero, so that a scale may leave a token unchanged.  A round that would raise the
    distortion of the training samples is discarded.  With a single scale, the map's
    own, and no convolution the scheme is a `VectorQuantizer` over tokens, and is
    learned as one.

    Fewer distinct tokens than codewords give a ConvergenceWarning.  With fewer than
    four per codeword, the start is the result: small tables of each scale.

    Learned convolutions have no bias: a zero token adds nothing.  `from_codebooks`
    takes given ``kernels`` and ``biases``, in the shapes of the attributes, and ``[W]``
    for the codebook.

    References
    ----------
    Tian, Jiang, Yuan, Peng and Wang (2024), "Visual Autoregressive Modeling: Scalable
    Image Generation via Next-Scale Prediction", NeurIPS, arXiv 2404.02905.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import MultiScaleQuantizer
    >>> rng = np.random.default_rng(0)
    >>> X = np.cumsum(rng.normal(size=(300, 8 * 8)), axis=1)
    >>> msq = MultiScaleQuantizer((8, 8, 1), (1, 2, 4), 16, random_state=0).fit(X)
    >>> msq.transform(X).shape, msq.bits_per_sample_
    ((300, 21), 84.0)
    >>> coarse, middle, fine = msq.staged_score(X)
    >>> coarse < middle < fine
    True
    >>> msq.next_scale_input(msq.transform(X)[:, :5]).shape
    (300, 16, 1)
    """

    map_shape_: tuple[int, ...]
    scales_: tuple[tuple[int, int], ...] | tuple[int, ...]
    kernels_: NDArray[Any] | None
    biases_: NDArray[Any] | None
    n_iter_: int
    _codebook_: nearest.Table
    _exponent_: Any
    _pyramid_: Pyramid
    _table_: nearest.Table

    _parameter_constraints = {  # noqa: RUF012
        "map_shape": [
            Accepted(
                is_sequence,
                "a sequence of ints, (height, width, channels) or (length, channels) "
                "(how many codewords the table has is n_codewords)",
            ),
            None,
        ],
        "scales": [StrOptions({"auto"}), _SCALES],
        "n_codewords": [SIZE],
        "n_smoothers": [Interval(Integral, 0, LARGEST_SIZE, closed="both")],
        "smoothing": [Interval(Real, 0, 1, closed="right")],
        "metric": [StrOptions({"sqeuclidean", "cosine"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }
    _follows_namespace = True

    def __init__(
        self,
        map_shape: Sizes | None = None,
        scales: Literal["auto"] | Sizes | Sequence[Sizes] = "auto",
        n_codewords: Size = 256,
        *,
        n_smoothers: Size = 0,
        smoothing: Number = 0.5,
        metric: ConvolutionMetric = "sqeuclidean",
        max_iter: Size = 20,
        tol: Number = 1e-3,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.map_shape = map_shape
        self.scales = scales
        self.n_codewords = n_codewords
        self.n_smoothers = n_smoothers
        self.smoothing = smoothing
        self.metric = metric
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.backend = backend

    # -- learning ------------------------------------------------------------------

    def _n_tasks(self) -> int | None:
        return int(self.max_iter)

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        if self.metric != "sqeuclidean":
            raise ValueError(
                f"metric={self.metric!r} cannot be learned, and is for from_codebooks: "
                "use metric='sqeuclidean'."
            )
        map_shape = _map_shape(self.map_shape, rows.n_features)
        flat, shape, grids = self._grids_of(map_shape)
        self._check_memory(rows, shape, grids)
        scale = yield from ordinary_scale(rows)
        exponent = self._exponent_of(scale)
        if exponent >= np.finfo(rows.dtype).maxexp - 2:
            raise ValueError(
                f"X has values of {2.0 ** (exponent - 1):.3g} or more, too large for "
                f"interpolation in {rows.dtype}: scale it."
            )
        rows = (rows if scale == 1 else rows.view(scaled, scale)).held()
        smoothing = self._first_smoothing(shape, grids, flat)
        pyramid = Pyramid(shape, grids, rows.dtype, smoothing)
        width, times = shape[2], shape[0] * shape[1]
        tokens = rows.view(stacked, width, width=width, times=times)

        def fitted(learned: learning.LearnedPyramid) -> dict[str, Any]:
            codebook = nearest.Table(np.ldexp(learned.table, exponent))
            found = {
                **_found(learned.table, codebook, exponent, learned.pyramid, map_shape),
                "n_iter_": learned.n_iter,
            }
            if learned.distortion is not None and not exponent:
                found["distortion_"] = learned.distortion
            return found

        rows = rows.under(rows.task.giving(fitted))
        if grids == [shape[:2]] and smoothing is None:
            learned = yield from self._learn_tokens(tokens, pyramid)
        else:
            learned = yield from self._learn_scales(rows, tokens, pyramid)
        return fitted(learned)

    def _grids_of(self, map_shape: Any) -> tuple[bool, tuple[int, ...], list[Any]]:
        """Return whether maps are sequences, (height, width, channels), and scales."""
        flat = len(map_shape) == 2
        shape = (map_shape[0], 1, map_shape[1]) if flat else map_shape
        return flat, shape, _grids(self.scales, shape[:2], flat=flat)

    def _from_tables(
        self, tables: list[nearest.Table], kernels: Any = None, biases: Any = None
    ) -> dict[str, Any]:
        if self.map_shape is None:
            raise ValueError(
                "map_shape=None: codebooks do not tell how large the maps are; "
                "expected (height, width, channels) or (length, channels)."
            )
        map_shape = _sizes_of_map(self.map_shape)
        flat, shape, grids = self._grids_of(map_shape)
        n_tokens = sum(h * w for h, w in grids)
        if len(tables) != 1:
            demand(tables, n_tokens, f"there are {n_tokens} tokens, of one table: [W]")
        table = as_shared(tables, True, type(self).__name__)[0]
        if table.shape[1] != shape[2]:
            raise ValueError(
                f"The given codebook has {table.shape[1]} features, but map_shape="
                f"{self.map_shape!r} has {shape[2]} channels."
            )
        self._imply(n_codewords=len(table))
        if self.metric == "cosine":
            nearest.check_no_zero_rows(table.codewords, "codebooks[0]")
        n_bytes = table.codewords.nbytes
        self._check_matrices(map_shape, shape, grids, n_bytes)
        # The same scale as for samples as large as the codewords.
        exponent = self._exponent_of(run(ordinary_scale(Rows(table.codewords))))
        own = np.ldexp(table.codewords, -exponent)
        smoothing = self._given_smoothing(kernels, biases, shape, grids, flat, exponent)
        pyramid = Pyramid(shape, grids, table.dtype, smoothing, self.metric)
        return {
            "n_features_in_": math.prod(map_shape),
            **_found(own, table, exponent, pyramid, map_shape),
            "n_iter_": 1,
        }

    def _exponent_of(self, scale: float) -> int:
        """Return the power of two by which maps are divided, for values of a scale."""
        return 1 - int(np.frexp(scale)[1])

    def _given_smoothing(
        self,
        kernels: Any,
        biases: Any,
        shape: Any,
        grids: Any,
        flat: Any,
        exponent: Any,
    ) -> Smoothing | None:
        if kernels is None:
            if biases is not None:
                raise ValueError("biases are given without kernels; expected both.")
            if self.n_smoothers:
                raise ValueError(
                    f"n_smoothers={self.n_smoothers}, but kernels is None; expected "
                    "the convolutions."
                )
            return None
        n_channels = shape[2]
        size = 3, 1 if flat else 3, n_channels, n_channels
        kernels = check_numbers(kernels, "kernels", ("n_smoothers", *size))
        self._imply(n_smoothers=len(kernels))
        if biases is not None:
            biases = check_numbers(biases, "biases", (len(kernels), n_channels))
            biases = np.ldexp(biases, -exponent)
        of_scale = kernel_of_scales(len(kernels), len(grids))
        return Smoothing(kernels, of_scale, float(self.smoothing), biases)

    def _check_memory(self, rows: Rows, shape: Any, grids: Any) -> None:
        n_channels, x_bytes = shape[2], rows.n_bytes
        check_memory(
            f"The table of n_codewords={self.n_codewords} times {n_channels} channels",
            8 * int(self.n_codewords) * n_channels,
            x_bytes,
        )
        places = int(self.n_smoothers) * (9 if shape[1] > 1 else 3) * n_channels
        check_memory(
            f"The least squares of n_smoothers={self.n_smoothers} convolutions of "
            f"{n_channels} channels",
            8 * places * (places + n_channels),
            x_bytes,
        )
        n_bytes = 8 * rows.n_rows * sum(h * w for h, w in grids)
        check_memory(f"Codes of scales={self.scales!r}", n_bytes, x_bytes)

    def _check_matrices(
        self, map_shape: Any, shape: Any, grids: Any, n_bytes: int
    ) -> None:
        """Raise if scales take too much memory compared to a given table."""
        n_places = sum(h * shape[0] + w * shape[1] for h, w in grids)
        check_memory(
            f"The interpolation of map_shape={map_shape} to scales={self.scales!r}",
            2 * 8 * n_places,
            n_bytes,
            "the table",
        )

    def _first_smoothing(self, shape: Any, grids: Any, flat: bool) -> Smoothing | None:
        if self.n_smoothers == 0:
            return None
        kernels = identity_kernels(int(self.n_smoothers), shape[2], flat=flat)
        of_scale = kernel_of_scales(int(self.n_smoothers), len(grids))
        return Smoothing(kernels, of_scale, float(self.smoothing))

    def _learn_tokens(
        self, tokens: Any, pyramid: Any
    ) -> Learner[learning.LearnedPyramid]:
        """Learn from tokens as the naive scheme does."""
        vq = VectorQuantizer(
            self.n_codewords,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=self.random_state,
            backend=self.backend,
        )
        task = tokens.task.open("part")
        with task.fitting(vq, tokens) as own:
            yield from vq._learn(tokens.under(own))
        (table,) = vq._codebooks()
        distortion = vq.distortion_ * pyramid.n_tokens[0]
        return learning.LearnedPyramid(table.codewords, pyramid, vq.n_iter_, distortion)

    def _learn_scales(
        self, rows: Rows, tokens: Any, pyramid: Any
    ) -> Learner[learning.LearnedPyramid]:
        rng = check_random_state(self.random_state)
        few = yield from few_distinct(tokens, _FEW_TOKENS * int(self.n_codewords))
        if few is not None:
            if len(few) < int(self.n_codewords):
                warn(
                    "{} distinct tokens are fewer than n_codewords="
                    f"{self.n_codewords}: the codebook has more rows than they need.",
                    len(few),
                )
            start = learning.start_from_few(rows, pyramid, int(self.n_codewords), rng)
            return learning.LearnedPyramid((yield from start), pyramid, 1, None)
        sought = pyramid, int(self.n_codewords), "k-means++", rng
        table = yield from learning.greedy_start(rows, *sought)
        limits: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol}
        return (yield from learning.learn(rows, pyramid, table, rng, **limits))

    # -- codes ---------------------------------------------------------------------

    def _encode(self, X: Any) -> Any:
        # The dtype of the fit is used for any X: in a chain of residuals, each scale is
        # affected by the rounding of those before.
        X = nearest.backend_of(X).times_power(X, -self._exponent_)
        X = in_fitted_dtype(X, self._table_.dtype)
        return self._pyramid_.encode(X, self._table_)[0]

    def _decode(self, codes: Any) -> Any:
        total = self._pyramid_.decode(codes, self._table_)
        return nearest.backend_of(total).times_power(total, self._exponent_)

    def _partial_sums(self, codes: Any) -> Iterator[np.ndarray]:
        be = nearest.backend_of(codes)
        for total in self._pyramid_.partial_sums(codes, self._table_):
            yield be.times_power(total, self._exponent_)

    def _decodable_widths(self) -> tuple[int, ...]:
        return tuple(span.stop for span in self._pyramid_.columns)

    def _why_no_sums(self) -> str | None:
        if not self._smooths():
            return None
        return (
            f"with n_smoothers={self.n_smoothers}, what a token stands for is not the "
            "interpolation of its codeword alone, but that after a convolution."
        )

    def _smooths(self) -> bool:
        if self.__sklearn_is_fitted__():
            return self._pyramid_.smoothing is not None
        return int(self.n_smoothers) > 0

    def _entries(self, X: Any, metric: str) -> Any:
        # What tokens grow to is linear in them; its transpose maps X to the tokens.
        pyramid = self._pyramid_
        maps = X.reshape(-1, *pyramid.map_shape)
        return np.concatenate(
            [
                codeword_entries(
                    tokens.reshape(-1, pyramid.n_channels), self._codebook_, metric
                ).reshape(len(X), -1)
                for tokens in pyramid.grow_transposed(maps)
            ],
            axis=1,
        )

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        return (self._codebook_,) * len(self.codebook_sizes_)

    def _why_no_names(self) -> str | None:
        return None

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        kept = [self._codebook_] * len(orders)
        codebook, *_ = reordered_once(kept, orders, reordered_table)
        own = reordered_table(self._table_, orders[0])
        return {"_codebook_": codebook, "_table_": own}

    def next_scale_input(self, codes: MatrixLike) -> NDArray[Any]:
        """Return the input of a generator that predicts the codes of the next scale.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes)
            Codes of the first scales, not of all.

        Returns
        -------
        tokens : ndarray of shape (n_samples, n_tokens, n_channels)
            The reconstruction from these codes, averaged over the cells of the next
            scale; tokens in C order.

        Raises
        ------
        ValueError
            If the codes are not those of whole scales, or if they are those of all
            scales.
        """
        self = as_it_is_now(self)
        check_is_fitted(self)
        widths = self._decodable_widths()
        if len(widths) == 1:
            raise ValueError(
                f"{type(self).__name__} has the one scale {self.scales_}: there is no "
                "next one."
            )
        codes = self._check_codes(codes, "next_scale_input", widths[:-1])
        scale = widths.index(codes.shape[1]) + 1
        pyramid = self._pyramid_
        maps = self._decode(codes)
        reshape = nearest.backend_of(maps).xp.reshape
        maps = reshape(maps, (-1, *pyramid.map_shape))
        with nearest.single_threaded_blas():
            tokens = pyramid.shrink(maps, scale)
        return reshape(tokens, (-1, pyramid.n_tokens[scale], pyramid.n_channels))


def _found(
    own: Any, codebook: Any, exponent: int, pyramid: Pyramid, map_shape: Any
) -> dict[Any, Any]:
    """Return the fitted attributes for a codebook, as it is and scaled to compute."""
    smoothing, grids = pyramid.smoothing, pyramid.scales
    biases = None if smoothing is None else smoothing.biases
    return {
        "_table_": nearest.Table(own),
        "_exponent_": exponent,
        "_codebook_": codebook,
        "_pyramid_": pyramid,
        "kernels_": None if smoothing is None else smoothing.kernels,
        "biases_": None if biases is None else np.ldexp(biases, exponent),
        "map_shape_": map_shape,
        "scales_": tuple(h for h, _ in grids) if len(map_shape) == 2 else tuple(grids),
        "codebook_sizes_": (len(codebook),) * sum(pyramid.n_tokens),
    }


def _map_shape(map_shape: Any, n_features: int) -> tuple[int, ...]:
    """Return (height, width, channels) or (length, channels) after checks."""
    if map_shape is None:
        return n_features, 1
    sizes = _sizes_of_map(map_shape)
    if math.prod(sizes) != n_features:
        raise ValueError(
            f"map_shape={sizes} holds {math.prod(sizes)} numbers, but X has "
            f"{n_features} features."
        )
    return sizes


def _sizes_of_map(map_shape: Any) -> tuple[int, ...]:
    sizes = list(map_shape)
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in sizes)
    if not whole or len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ValueError(
            f"map_shape={map_shape!r}; expected (height, width, channels) or (length, "
            "channels), integers of 1 or more."
        )
    return tuple(int(size) for size in sizes)


def _grids(scales: Any, size: Sequence[int], *, flat: bool) -> list[tuple[int, int]]:
    """Return (h, w) of each scale after checks; sequences have a width of 1."""
    height, width = size
    if isinstance(scales, str):
        powers = [2**k for k in range(max(size).bit_length()) if 2**k < max(size)]
        return [(min(p, height), min(p, width)) for p in powers] + [(height, width)]
    grids: list[tuple[int, int]] = []
    for scale in scales:
        grid = _grid(scale, flat)
        if grid is None:
            raise ValueError(
                f"scales holds {scale!r}; expected integers of 1 or more, or pairs of "
                "them."
            )
        if grid[0] > height or grid[1] > width:
            raise ValueError(
                f"scales holds {scale!r}, more than the map's own {height} x {width}."
            )
        if grids and (grid[0] < grids[-1][0] or grid[1] < grids[-1][1]):
            raise ValueError(
                f"scales={scales!r} must go from coarse to fine, but {scale!r} is "
                "smaller than the one before."
            )
        grids.append(grid)
    if not grids:
        raise ValueError("scales is empty; expected at least one.")
    return grids


def _grid(scale: Any, flat: bool) -> tuple[int, int] | None:
    """Return (h, w) of an int or a pair; None if it is neither."""
    pair = tuple(scale) if is_sequence(scale) else (scale, 1 if flat else scale)
    if len(pair) != 2 or any(isinstance(n, bool) for n in pair):
        return None
    if not all(isinstance(n, Integral) and int(n) >= 1 for n in pair):
        return None
    return int(pair[0]), int(pair[1])
