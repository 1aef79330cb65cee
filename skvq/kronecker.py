"""The Kronecker scheme: the feature dimension as a product of small dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._checks import check_memory, is_sequence
from skvq._compat import RANDOM_STATE, SIZE, SIZES, Accepted, Interval, StrOptions
from skvq._given import are_shared, as_shared, one_or_each
from skvq._typing import (
    BackendName,
    Matrices,
    MatrixLike,
    Number,
    RandomState,
    Size,
    Sizes,
)
from skvq._validation import check_table, warn
from skvq.base import BaseQuantizer, check_as_before, reordered_once, reordered_table
from skvq.learning import kronecker as learning
from skvq.learning.rows import Learner, Rows, scaled
from skvq.learning.start import few_distinct, ordinary_scale
from skvq.parts import part_sizes

# Searches among more codewords take seconds for each row.
_MAX_CODEWORDS = 2**32

_TABLES = Accepted(is_sequence, "a sequence of tables, one for each factor")


class KroneckerQuantizer(BaseQuantizer):
    r"""Replace each sample by the nearest Kronecker product of rows of small tables.

    A sample of :math:`d = d_1 \cdots d_m` features is read as an array of shape
    :math:`(d_1, \ldots, d_m)`, in C order, and coded as the outer product of one row of
    each table: :math:`f(x, W) = w_1 \otimes \cdots \otimes w_m`, with :math:`w_j` a row
    of :math:`W_j` of shape :math:`(V_j, d_j)`.  The tables hold
    :math:`\sum_j V_j d_j` numbers and represent a codebook of
    :math:`V = \prod_j V_j` codewords, over which the argmin is exact.  The scheme suits
    data of this form: separable patterns (images: a column times a row), channels times
    positions, a gain times a shape (``factor_sizes=(1, d)``).

    Parameters
    ----------
    factor_sizes : sequence of int, default=None
        (d_1, ..., d_m), whose product is the number of features.  None: the pair
        closest to a square, the smaller one first.
    n_codewords : int or sequence of int, default=16
        V_j, for all factors or for each.
    share_codebook : bool, default=False
        Whether one table serves all factors, which must then have equal d_j and V_j.
    init : "spectral" or sequence of array-like of shape (V_j, d_j), default="spectral"
        The first tables: from the leading singular vectors of the samples, or given.
    fixed_factors : sequence, default=None
        For each factor, a table of shape (V_j, d_j) that is fixed, or None if its table
        is learned.
    n_init : int, default=1
        Number of spectral starts, the best of which is kept.
    max_iter : int, default=50
        The most rounds: assign all samples, solve for each table in turn.
    tol : float, default=1e-4
        Learning stops when a round lowers the distortion by at most this share of it.
    warm_start : bool, default=False
        Whether another `fit` starts from the fitted tables instead of `init`, so that
        codes keep their meaning as far as possible; see `skvq.codes.match`.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers for the spectral start.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, d_j)
        The tables W_1..W_m; with `share_codebook`, the same one m times.
    codebook_sizes_ : tuple of int
        V_1..V_m.
    factor_sizes_ : tuple of int
        d_1..d_m.
    bits_per_sample_ : float
        Sum of log2 V_j.
    n_iter_ : int
        Number of rounds of the start that was kept; 1 if nothing was learned.
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
    ProductQuantizer : Concatenates rows of small tables instead of multiplying them.
    ResidualQuantizer : Can have this one as `quantizer`, which lifts the limit below.

    Notes
    -----
    A codeword is an array of rank one, so no codebook of this form has less distortion
    than the best approximations of rank one of the samples.  The mean of the samples is
    in general not of rank one; centering them first (`StandardScaler` with
    ``with_std=False``) often helps.

    Encoding takes about :math:`V (\min_j d_j + 3)` multiplications for a row, against
    :math:`V (d + 1)` of the dense search over the same codewords, and the same
    :math:`V` comparisons.

    Products determine their factors only up to a scalar.  Learned tables have equal
    root mean squares, and in all but the first of them the entry of largest magnitude
    is positive.

    Fewer distinct samples than codewords in a table give a ConvergenceWarning.

    The theory that this package follows names a factorization of the feature dimension
    and gives no formula for it; the Kronecker product is our reading.

    References
    ----------
    Van Loan and Pitsianis (1993), "Approximation with Kronecker Products", in: Linear
    Algebra for Large Scale and Real-Time Applications,
    doi:10.1007/978-94-015-8196-7_17.

    Kolda and Bader (2009), "Tensor Decompositions and Applications", SIAM Review 51(3),
    doi:10.1137/07070111X.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import KroneckerQuantizer
    >>> rng = np.random.default_rng(0)
    >>> columns, rows = rng.normal(size=(4, 3)), rng.normal(size=(4, 5))
    >>> pairs = rng.integers(4, size=(500, 2))
    >>> X = np.einsum("ni,nj->nij", columns[pairs[:, 0]], rows[pairs[:, 1]])
    >>> X = X.reshape(500, 15)
    >>> kq = KroneckerQuantizer((3, 5), n_codewords=4, random_state=0).fit(X)
    >>> kq.transform(X).shape, kq.bits_per_sample_
    ((500, 2), 4.0)
    >>> bool(kq.distortion_ < 1e-12)
    True
    """

    share_codebook: bool

    factor_sizes_: tuple[int, ...]
    n_iter_: int
    _tables_: nearest.Tables

    _parameter_constraints = {  # noqa: RUF012
        "factor_sizes": [
            Accepted(
                is_sequence,
                "a sequence of ints that multiply to the number of features (how many "
                "codewords each table has is n_codewords)",
            ),
            None,
        ],
        "n_codewords": [SIZE, SIZES],
        "share_codebook": ["boolean"],
        "init": [StrOptions({"spectral"}), _TABLES],
        "fixed_factors": [_TABLES, None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }
    _follows_namespace = True

    def __init__(
        self,
        factor_sizes: Sizes | None = None,
        n_codewords: Size | Sizes = 16,
        *,
        share_codebook: bool = False,
        init: Literal["spectral"] | Matrices = "spectral",
        fixed_factors: Sequence[MatrixLike | None] | None = None,
        n_init: Size = 1,
        max_iter: Size = 50,
        tol: Number = 1e-4,
        warm_start: bool = False,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.factor_sizes = factor_sizes
        self.n_codewords = n_codewords
        self.share_codebook = share_codebook
        self.init = init
        self.fixed_factors = fixed_factors
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend

    def _n_tasks(self) -> int | None:
        return int(self.n_init)

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        shape = _factor_sizes(self.factor_sizes, rows.n_features)
        fixed = self._given("fixed_factors", shape, rows.dtype)
        sizes = self._sizes(shape, fixed, rows.n_bytes)
        start = None
        if self._before_ is not None:
            tables = self._before_._tables_
            check_as_before("factor_sizes", shape, self._before_.factor_sizes_)
            check_as_before("n_codewords", sizes, tuple(map(len, tables)))
            start = [table.codewords.astype(rows.dtype) for table in tables]
        elif not isinstance(self.init, str):
            start = self._given("init", shape, rows.dtype, sizes)
        self._check_shared(shape, sizes, fixed, start)
        scale = yield from ordinary_scale(rows)
        rows = (rows if scale == 1 else rows.view(scaled, scale)).held()
        problem, exponent = learning.with_ordinary_factors(
            learning.KroneckerProblem(shape, sizes, fixed, self.share_codebook), scale
        )

        def fitted(learned: learning.LearnedTables) -> dict[str, Any]:
            tables = learned.tables
            if exponent:
                tables = learning.normalised(problem, tables, exponent)
            tables = [
                table if given is None else given
                for table, given in zip(tables, fixed, strict=True)
            ]
            shared = nearest.Table(tables[0]) if self.share_codebook else None
            found = {
                "_tables_": nearest.Tables([shared] * len(shape) if shared else tables),
                "factor_sizes_": shape,
                "n_iter_": learned.n_iter,
                "codebook_sizes_": sizes,
            }
            if scale == 1 and not exponent:
                found["distortion_"] = learned.distortion
            return found

        rows = rows.under(rows.task.giving(fitted))
        return fitted((yield from self._learn_tables(rows, problem, exponent, start)))

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        tables = as_shared(tables, self.share_codebook)
        shape = tuple(table.shape[1] for table in tables)
        sizes = list(map(len, tables))
        self._imply(factor_sizes=shape)
        if self.fixed_factors is None:  # fixed tables have sizes of their own
            self._imply(n_codewords=one_or_each(sizes))
        self.share_codebook = self.share_codebook or are_shared(tables)
        self._check_shared(shape, sizes, [], None)
        _check_product(sizes)
        return {
            "n_features_in_": math.prod(shape),
            "_tables_": nearest.Tables(tables),
            "factor_sizes_": shape,
            "n_iter_": 1,
            "codebook_sizes_": tuple(sizes),
        }

    def _n_tables(self) -> int | None:
        return 2 if self.factor_sizes is None else len(self.factor_sizes)

    def _learn_tables(
        self, rows: Rows, problem: Any, exponent: Any, start: Any
    ) -> Learner[learning.LearnedTables]:
        few, found = None, None if problem.free else list(problem.fixed)
        if problem.free:
            few = yield from few_distinct(rows, max(problem.sizes))
        if few is not None:
            after = "the codebooks repeat their parts."
            if start is not None:
                which = "rows of init" if self._before_ is None else "codewords"
                after = f"{which} are left without any."
            warn(
                "{} distinct samples are fewer than n_codewords="
                f"{max(problem.sizes)}: {after}",
                len(few),
            )
            if start is None:
                found = learning.start_from_few(problem, few)
        limits: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol}
        if found is not None:
            limits["max_iter"] = 0
        elif start is not None:
            found = learning.start_from_tables(problem, start, -exponent)
        rng = check_random_state(self.random_state)
        runs: list[Any] = []

        def best() -> Any:
            return min(runs, key=lambda run: run.distortion)

        for _ in range(int(self.n_init) if found is None else 1):
            task = rows.task.begin("start", limits["max_iter"])
            tables = found
            if tables is None:
                tables = yield from learning.spectral_start(rows, problem, rng)
            own = rows.under(task)
            learned = yield from learning.alternate(own, problem, tables, **limits)
            runs.append(learned)
            if task.end(best):
                break
        return best()

    def _given(
        self, name: str, shape: Any, dtype: Any, sizes: Sequence[int] | None = None
    ) -> list[Any]:
        """Return a list of tables, or of None, from a parameter."""
        given = getattr(self, name)
        if given is None:
            return [None] * len(shape)
        if len(given) != len(shape):
            raise ValueError(
                f"{name} has {len(given)} entries, but there are {len(shape)} factors."
            )
        tables = []
        for j, table in enumerate(given):
            if table is not None or sizes is not None:
                expected = None if sizes is None else sizes[j], shape[j]
                meaning = f"(n_codewords, {shape[j]})"
                table = check_table(table, f"{name}[{j}]", dtype, expected, meaning)
            tables.append(table)
        return tables

    def _sizes(self, shape: Any, fixed: Any, x_bytes: int) -> tuple[int, ...]:
        """Return V_1..V_m; fixed factors have as many codewords as their table rows."""
        one_for_all = isinstance(self.n_codewords, Integral)
        sizes = part_sizes(self.n_codewords, len(shape))
        for j, table in enumerate(fixed):
            if table is not None and len(table) != sizes[j]:
                if not one_for_all:
                    raise ValueError(
                        f"fixed_factors[{j}] has {len(table)} rows, but "
                        f"n_codewords[{j}] is {sizes[j]}."
                    )
                sizes[j] = len(table)
        _check_product(sizes)
        n_bytes = 8 * sum(n * d for n, d in zip(sizes, shape, strict=True))
        check_memory(f"Tables of n_codewords={sizes}", n_bytes, x_bytes)
        return tuple(sizes)

    def _check_shared(
        self, shape: Any, sizes: Sequence[int], fixed: Any, start: Any
    ) -> None:
        if not self.share_codebook:
            return
        if len(set(shape)) > 1 or len(set(sizes)) > 1:
            raise ValueError(
                "share_codebook=True needs factors of equal sizes; got factor_sizes="
                f"{shape} and n_codewords={sizes}."
            )
        if any(table is not None for table in fixed):
            raise ValueError(
                "share_codebook=True takes no fixed_factors: its one table is learned."
            )
        if start is not None and any(
            not np.array_equal(table, start[0]) for table in start
        ):
            raise ValueError("share_codebook=True takes m equal tables as a start.")

    def _encode(self, X: Any) -> Any:
        return nearest.nearest_kronecker(X, self._tables_)[0]

    def _decode(self, codes: Any) -> Any:
        return nearest.kronecker_rows(
            [table.rows(codes[:, j]) for j, table in enumerate(self._tables_)]
        )

    def _why_no_sums(self) -> str | None:
        return "its reconstruction is a product of codewords, not a sum of them."

    def _codebooks(self) -> Any:
        return self._tables_

    def _why_no_names(self) -> str | None:
        return None

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        tables = reordered_once(list(self._tables_), orders, reordered_table)
        return {"_tables_": nearest.Tables(tables)}


def _check_product(sizes: Sequence[int]) -> None:
    """Raise if there are more codewords than the search can compare."""
    if math.prod(sizes) > _MAX_CODEWORDS:
        raise ValueError(
            f"n_codewords={sizes} multiply to more than {_MAX_CODEWORDS} "
            "codewords, all of which the search compares."
        )


def _factor_sizes(factor_sizes: Any, n_features: int) -> tuple[int, ...]:
    """Return d_1..d_m after checks; by default the pair closest to a square."""
    if factor_sizes is None:
        root = math.isqrt(n_features)
        small = next(d for d in range(root, 0, -1) if n_features % d == 0)
        return small, n_features // small
    sizes = list(factor_sizes)
    whole = all(isinstance(d, Integral) and not isinstance(d, bool) for d in sizes)
    if not whole or not sizes or min(sizes) < 1:
        raise ValueError(
            f"factor_sizes={factor_sizes!r}; expected one or more integers of 1 or "
            "more."
        )
    sizes = [int(size) for size in sizes]
    if math.prod(sizes) != n_features:
        raise ValueError(
            f"factor_sizes={tuple(sizes)} multiply to {math.prod(sizes)}, but X has "
            f"{n_features} features."
        )
    return tuple(sizes)
