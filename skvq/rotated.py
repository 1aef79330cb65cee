"""Rotations in front of any scheme."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._arrays import to_host
from skvq._checks import check_memory, is_finite_number, naming
from skvq._compat import RANDOM_STATE, SIZE, Interval, StrOptions
from skvq._typing import (
    BackendName,
    MatrixLike,
    Number,
    RandomState,
    RotationName,
    Size,
)
from skvq._validation import as_it_is_now, check_matrix, in_own_context
from skvq.base import QUANTIZER, BaseQuantizer, check_as_before, over_blocks
from skvq.coding.turns import HadamardTurn, MatrixTurn, Turn
from skvq.front import FrontQuantizer
from skvq.learning import joint
from skvq.learning.moments import moments, principal_components
from skvq.learning.rotation import (
    RotatedTables,
    improved_components,
    mixing_rounds,
    principal_rotation,
    random_rotation,
)
from skvq.learning.rows import Learner, Rows, along
from skvq.learning.tasks import SILENT
from skvq.parts import Parts, fit_part
from skvq.product import ProductQuantizer
from skvq.staged import StagedQuantizer

# Number of rounds of a Hadamard rotation.
_ROUNDS = 3
# The largest deviation of a given rotation from orthonormal rows.
_MAX_GAP = 1e-4
# Fewer held-out samples than this cannot choose between rotations.
_FEWEST_HELD = 8
# A learned rotation is taken if it lowers their error by at least this share, and by at
# least this many standard errors of the gain.
_MIN_GAIN, _SURE = 1e-3, 2.0


class RotatedQuantizer(FrontQuantizer, StagedQuantizer):
    r"""Quantize rows in rotated coordinates about their mean.

    :math:`f(x) = \mu + R^T q(R (x - \mu))`, with the mean :math:`\mu`, a matrix R with
    orthonormal rows, and any quantizer q.  A rotation keeps distances but changes what
    the features contain.  A product quantizer gains if its slices are independent and
    have equal products of variances.  Signs and grids gain if features are alike, or,
    with bits spread over them, if features differ as much as possible.

    Parameters
    ----------
    quantizer : quantizer, default=None
        Quantizer of the rotated rows; None: ``ProductQuantizer()``.  Its parameters are
        set by ``quantizer__<parameter>``.
    rotation : {"balanced", "pca", "random", "hadamard", "learned"} or array-like of \
            shape (n_components, n_features), default="balanced"
        "balanced": the principal axes, distributed over the slices of a product such
        that the products of their variances are about equal; for a quantizer without
        slices the same as "pca".  "pca": the principal axes, in order of falling
        variance.  "random": drawn uniformly from all rotations.  "hadamard": signs,
        permutations and fast Walsh-Hadamard transforms, which mix all features at a
        cost of d log d.  "learned": optimized from "balanced" so that the tables of a
        product fit best (optimized product quantization, OPQ), if held-out samples gain
        from it; else "balanced".  Or a matrix with orthonormal rows.
    n_components : int, default=None
        Number of new coordinates that are coded: the first ones, or the principal axes
        of largest variance; the others are decoded to the mean.  None: all.
    max_iter : int, default=25
        The most iterations of a learned rotation.
    warm_start : bool, default=False
        Whether another `fit` starts from the fitted part, so that codes keep their
        meaning as far as possible; see `skvq.codes.match`.  Mean and rotation then stay
        as they are, whatever `rotation` says, since tables mean nothing in other
        coordinates.
    random_state : int, RandomState instance or None, default=None
        Draws rotations, and the samples held out for a learned one; seeds the
        quantizer.  None: the quantizer keeps its own.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.
        With "auto", a quantizer that has a backend of its own keeps it.

    Attributes
    ----------
    codebooks_ : tuple of ndarray
        The tables of the quantizer, in the rotated space.
    codebook_sizes_ : tuple of int
        The sizes of the quantizer.
    bits_per_sample_ : float
        Sum of log2 V_j.
    quantizer_ : quantizer
        The fitted quantizer.
    mean_ : ndarray of shape (n_features,)
        The mean of the training samples.
    components_ : ndarray of shape (n_components, n_features)
        The rotation: the quantizer sees ``(X - mean_) @ components_.T``.  For
        "hadamard" the matrix is computed at each access.
    n_iter_ : int
        Number of iterations of a learned rotation; 1 for others.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions,
        including what `n_components` cuts off.
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.  None for columns of more than 2^16 codewords.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    ProductQuantizer : The quantizer that gains most.
    ScaledQuantizer : Gives each row a scale; often used as the part.

    Notes
    -----
    `mean_` and `components_` are named like those of scikit-learn's PCA.

    `from_codebooks` takes the tables in the rotated space, the `rotation` as a matrix
    and, besides the parameters, the `mean` (zeros if it is not given):
    ``RotatedQuantizer.from_codebooks(est.codebooks_, quantizer=est.quantizer,
    rotation=est.components_, mean=est.mean_)`` gives the codes of `est`.

    If the quantizer codes lengths, the rows of `distance_table` are distances up to the
    squared length of ``query - mean_`` under "sqeuclidean", and up to minus the product
    of query and mean under "inner_product"; under "cosine" there is a table only if the
    mean is zero.

    References
    ----------
    Ge, He, Ke and Sun (2013), "Optimized Product Quantization for Approximate Nearest
    Neighbor Search", CVPR, doi:10.1109/CVPR.2013.379.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer, RotatedQuantizer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 3)) @ rng.normal(size=(3, 8))
    >>> pq = ProductQuantizer(4, 16, random_state=0)
    >>> rotated = RotatedQuantizer(pq).fit(X)
    >>> rotated.transform(X).shape, rotated.components_.shape
    ((1000, 4), (8, 8))
    >>> bool(rotated.score(X) > pq.fit(X).score(X) / 2)
    True
    """

    backend: BackendName

    n_iter_: int
    _turn_: Turn

    _parameter_constraints = {  # noqa: RUF012
        "quantizer": [QUANTIZER, None],
        "rotation": [
            StrOptions({"balanced", "pca", "random", "hadamard", "learned"}),
            "array-like",
        ],
        "n_components": [SIZE, None],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }

    def __init__(
        self,
        quantizer: BaseQuantizer | None = None,
        *,
        rotation: RotationName | MatrixLike = "balanced",
        n_components: Size | None = None,
        max_iter: Size = 25,
        warm_start: bool = False,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.quantizer = quantizer
        self.rotation = rotation
        self.n_components = n_components
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend

    def _default_part(self) -> BaseQuantizer:
        return ProductQuantizer()

    # -- learning ------------------------------------------------------------------

    def _n_tasks(self) -> int | None:
        # The part, the trial on some samples, and the turns of all.
        return 3 if self._is("learned") else 1

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        d = rows.n_features
        n_components = self._n_components_in(d)
        if not self._is("hadamard"):
            what = f"A rotation of {d} features"
            check_memory(what, 8 * d * n_components, rows.n_bytes)
        # Draws from a copy do not affect those of the part.
        rng = deepcopy(check_random_state(self.random_state))
        if self._before_ is not None:
            return (yield from self._learn_on(rows, n_components))
        turn, n_iter = (yield from self._learn_turn(rows, n_components, rng)), 1
        part = yield from self._fit_part(_turned(rows, turn).held())
        if self._is("learned"):
            turn, part, n_iter = yield from self._improve(rows, turn, part, rng)
        found = self._found(part, turn, n_iter)
        if n_components == d and part._score_metric == "sqeuclidean":
            found["distortion_"] = part.distortion_
        return found

    def _learn_on(self, rows: Rows, n_components: int) -> Learner[dict[str, Any]]:
        """Continue with the part in the coordinates of the last fit."""
        turn = self._before_._turn_
        check_as_before("n_components", n_components, turn.n_components)
        part = yield from self._fit_part(_turned(rows, turn).held())
        return self._found(part, turn)

    def _found(self, part: Any, turn: Turn, n_iter: int = 1) -> dict[str, Any]:
        """Return the fitted attributes."""
        known = Parts([part])
        return {
            "quantizer_": part,
            "_turn_": turn,
            "n_iter_": n_iter,
            "codebook_sizes_": known.sizes,
            "_parts_": known,
        }

    def _is(self, *names: str) -> bool:
        """Return whether the parameter is one of some names."""
        return isinstance(self.rotation, str) and self.rotation in names

    def _n_components_in(self, n_features: int) -> int:
        """Return the number of coordinates that are coded."""
        if not isinstance(self.rotation, str):
            return len(self._given_matrix(n_features))
        if self.n_components is None:
            return n_features
        if int(self.n_components) > n_features:
            raise ValueError(
                f"n_components={self.n_components} is more than the {n_features} "
                "features of X; expected so many at most."
            )
        return int(self.n_components)

    def _given_matrix(self, n_features: int) -> np.ndarray:
        """Return the given rotation, in float64."""
        with naming("rotation"):
            matrix = check_matrix(
                nearest.HOST, _to_host_array(self.rotation), "rotation"
            )
        k, d = matrix.shape
        asked = k if self.n_components is None else self.n_components
        if d != n_features or k > d or k != asked:
            rows = f"{asked}" if self.n_components is not None else "n_components"
            raise ValueError(
                f"rotation has shape {matrix.shape}; expected ({rows}, {n_features}), "
                "with no more rows than columns."
            )
        matrix = matrix.astype(np.float64)
        gap = np.abs(matrix @ matrix.T - np.eye(k)).max()
        if not gap <= _MAX_GAP:
            raise ValueError(
                "rotation has rows that are not orthonormal: rotation @ rotation.T is "
                f"off the identity by {gap:.2g}; expected {_MAX_GAP:g} or less."
            )
        return matrix

    def _learn_turn(
        self, rows: Rows, n_components: int, rng: np.random.RandomState
    ) -> Learner[Turn]:
        """Return the rotation; if it is to be learned, its start."""
        d, dtype = rows.n_features, rows.dtype
        if self._is("learned"):
            self._check_can_be_learned_for(n_components)
        if self._is("balanced", "pca", "learned"):
            widths = None
            if not self._is("pca"):
                widths = self._template().quantizer._slice_widths(n_components)
            found = yield from principal_components(rows)
            components = principal_rotation(found, n_components, widths)
            return MatrixTurn(found.mean, components.astype(dtype))
        mean = (yield from moments(rows)).mean.astype(dtype)
        if self._is("hadamard"):
            return HadamardTurn(mean, *mixing_rounds(d, _ROUNDS, rng), n_components)
        if self._is("random"):
            components = random_rotation(d, rng)[:n_components]
        else:
            components = self._given_matrix(d)
        return MatrixTurn(mean, components.astype(dtype))

    def _check_can_be_learned_for(self, n_components: int) -> None:
        part = self._template().quantizer
        widths = part._slice_widths(n_components)
        if widths is None or not part._has_free_tables():
            raise ValueError(
                f"rotation='learned' needs a product of tables that are learned by "
                "squared distances, such as ProductQuantizer(8), whose rotation it "
                f"improves; quantizer={part!r} is none. Use rotation='balanced'."
            )

    def _improve(
        self, rows: Rows, turn: Turn, part: Any, rng: np.random.RandomState
    ) -> Learner[tuple[Turn, Any, int]]:
        """Return a learned rotation, its part and the number of iterations.

        They are the given ones if held-out samples do not gain.
        """
        task = rows.task.begin("trial")
        held = yield from joint.hold_out(
            rows.under(SILENT), joint.HELD_OUT_SHARE, joint.MAX_HELD_OUT, rng
        )
        if len(held.X) < _FEWEST_HELD:
            task.end()
            return turn, part, 1
        trial = self._new_part()
        # The part that is kept will give the warnings.
        yield from fit_part(trial, _turned(held.rows, turn).held(), self._template())
        X = held.rows.be.like(held.X)
        turned_on, improved, _ = yield from self._turn_on(held.rows, turn, trial)
        before = _errors(X, turn, trial)
        gains = before - _errors(X, turned_on, improved)
        gain = np.average(gains, weights=held.weights)
        gaps = gains - gain
        unit = np.abs(gaps).max() or 1.0  # its square may exceed float64
        square = np.average((gaps / unit) ** 2, weights=held.weights)
        doubt = unit * np.sqrt(square / len(gains))
        task.end()
        if gain < max(_MIN_GAIN * before.mean(), _SURE * doubt):
            return turn, part, 1
        task = rows.task.begin("rotation", int(self.max_iter))
        turn, part, n_iter = yield from self._turn_on(rows.under(task), turn, part)
        task.end()
        yield from part._measure(_turned(rows, turn), {})
        return turn, part, max(1, n_iter)

    def _turn_on(
        self, rows: Rows, turn: Turn, part: Any
    ) -> Learner[tuple[Turn, Any, int]]:
        """Improve a rotation and the tables of a part together."""
        tables = [table for _, table in part._free_tables()]
        dtype = turn.dtype

        def turned_on(found: RotatedTables) -> tuple[Turn, Any, int]:
            own = [table.astype(dtype) for table in found.tables]
            matrix = found.rotation.astype(dtype)
            return MatrixTurn(turn.mean, matrix), part._with_tables(own), found.n_iter

        def fitted(found: RotatedTables) -> dict[str, Any]:
            turn, part, n_iter = turned_on(found)
            return self._found(part, turn, max(1, n_iter))

        rows = rows.under(rows.task.giving(fitted))
        found = yield from improved_components(
            _turned(rows, turn).held(), turn.components, tables, int(self.max_iter)
        )
        return turned_on(found)

    def _from_tables(
        self,
        tables: list[nearest.Table],
        mean: Any = None,
        code_lengths: Any = None,
        prices: Any = None,
    ) -> dict[str, Any]:
        if isinstance(self.rotation, str):
            raise ValueError(
                f"RotatedQuantizer has no from_codebooks with rotation="
                f"{self.rotation!r}: give the matrix, rotation=components_, and "
                "mean=mean_, of the quantizer that has the tables."
            )
        costs = {"code_lengths": code_lengths, "prices": prices}
        part = self._part_of_tables(tables, costs)
        with naming("rotation"):
            shape = np.shape(_to_host_array(self.rotation))
        n_features = shape[-1] if len(shape) == 2 else part.n_features_in_
        matrix = self._given_matrix(n_features)
        if len(matrix) != part.n_features_in_:
            raise ValueError(
                f"rotation has {len(matrix)} rows, but codebooks have "
                f"{part.n_features_in_} features."
            )
        dtype = np.result_type(*(table.dtype for table in tables))
        if mean is None:
            mean = np.zeros(n_features)
        with naming("mean"):
            mean = check_matrix(nearest.HOST, [_to_host_array(mean)], "mean")[0]
        if len(mean) != n_features:
            raise ValueError(
                f"mean has {len(mean)} entries; expected {n_features}, one for each "
                "column of rotation."
            )
        turn = MatrixTurn(mean.astype(dtype), matrix.astype(dtype))
        return {"n_features_in_": n_features, **self._found(part, turn)}

    def _fewest_rows(self) -> int:
        return max(2, super()._fewest_rows())

    def _table_elements(self, n_features: int) -> int:
        return super()._table_elements(int(self.n_components or n_features))

    def _slice_widths(self, n_features: int) -> list[int] | None:
        return None  # its slices are not features of X

    def _why_no_partial_fit(self) -> str:
        return (
            "the scheme does not learn from a stream: the mean, and a rotation that is "
            "learned, are those of all samples, and what has been learned about the "
            "mean of a first batch would be of no use about that of a second."
        )

    # -- codes ---------------------------------------------------------------------

    def _encode(self, X: Any) -> Any:
        return self.quantizer_._encode(self._turn_.there(X))

    def _decode(self, codes: Any) -> Any:
        return self._turn_.back(self.quantizer_._decode(codes))

    def _can_encode_best(self) -> bool:
        part = getattr(self, "quantizer_", self._template().quantizer)
        return part._can_encode_best()

    def _encode_best(self, X: Any, n_best: int) -> Any:
        # The error of what is cut off is the same for all codes of a row.
        return self.quantizer_._encode_best(self._turn_.there(X), n_best)

    def _decodable_widths(self) -> tuple[int, ...]:
        return self.quantizer_._decodable_widths()

    def _why_no_stages(self) -> str | None:
        part = getattr(self, "quantizer_", self._template().quantizer)
        if not isinstance(part, StagedQuantizer):
            return f"its quantizer, {part!r}, has none."
        return part._why_no_stages()

    def _partial_sums(self, codes: Any) -> Iterator[Any]:
        part: Any = self.quantizer_
        for rows in part._partial_sums(codes):
            yield self._turn_.back(rows)

    # -- sums over codes -----------------------------------------------------------

    def _is_concatenation(self) -> bool:
        return self.quantizer_._is_concatenation()

    def _n_scales(self) -> int:
        return getattr(self, "quantizer_", self._template().quantizer)._n_scales()

    def _scales(self, codes: Any) -> Any:
        return self.quantizer_._scales(codes)

    def _entries(self, X: Any, metric: str) -> Any:
        turn = self._turn_
        mean = turn.mean.astype(np.float64)
        if metric == "inner_product":
            Z, beside = turn.there(X, about_mean=False), -(X @ mean)
        else:
            Z = turn.there(X)
            squares = nearest.HOST.squared_norms
            beside = squares(X - mean) - squares(Z)  # error of what is cut off
        found = self.quantizer_._entries(Z, metric)
        # It counts once for each row: with the entries of the first code.
        first = found[:, : self.codebook_sizes_[0]]
        first += beside[:, None]
        return found

    def _distance_table(self, X: Any, metric: str) -> Any:
        if not self._n_scales():
            return super()._distance_table(X, metric)
        # A length scales what the part decodes, but not the mean.
        self._check_scaled(metric)
        if metric == "cosine":
            nearest.check_no_zero_rows(X)
            X, metric = nearest.HOST.unit_rows(X), "inner_product"
        Z = self._turn_.there(X, about_mean=metric == "sqeuclidean")
        return self.quantizer_._distance_table(Z, metric)

    def _row_terms(self, codes: Any, metric: str) -> tuple[Any, ...]:
        if not self._n_scales():
            return super()._row_terms(codes, metric)
        self._check_scaled(metric)
        return self.quantizer_._row_terms(codes, metric)

    def _check_scaled(self, metric: str) -> None:
        if metric == "cosine" and self._turn_.mean.any():
            raise ValueError(
                "metric='cosine' is no sum over codes where lengths are coded about a "
                "mean that is not zero: use 'inner_product' with rows of length one, "
                "or 'sqeuclidean'."
            )

    # -- public attributes and methods ---------------------------------------------

    @property
    def mean_(self) -> NDArray[Any]:
        """Mean of the training samples."""
        return self._home_.like(self._fitted_turn("mean_").mean)

    @property
    def components_(self) -> NDArray[Any]:
        """The rotation, as a matrix."""
        return self._home_.like(self._fitted_turn("components_").components)

    def _fitted_turn(self, name: str) -> Turn:
        if not hasattr(self, "_turn_"):
            raise AttributeError(
                f"{type(self).__name__} is not fitted: it has no {name} yet."
            )
        return self._turn_

    @in_own_context
    def inner_product_error_bound(
        self, X: MatrixLike, queries: MatrixLike, *, eps0: Number = 1.9
    ) -> NDArray[np.float64]:
        r"""Return bounds on the errors of inner products with reconstructions.

        They hold for codes whose scale makes inner products unbiased, under a random
        rotation.  With the mean c, a row x, and the cosine a of x - c and its
        reconstruction relative to c, the error of the product with a query y is

        .. math::

            |\langle x, y \rangle - \langle \hat x, y \rangle| \le
            |x - c| |y| \sqrt{\frac{1 - a^2}{a^2}} \frac{\epsilon_0}{\sqrt{d - 1}}

        with high probability over rotations, not for certain: at the default of
        :math:`\epsilon_0` about one product in twenty exceeds it for random directions.
        The mean has no error, so products of x - c and of x with y have the same error.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples; a does not follow from their codes.
        queries : array-like of shape (n_queries, n_features)
            The vectors that they are multiplied with.
        eps0 : float, default=1.9
            Number of standard deviations, each about :math:`1 / \sqrt{d - 1}` of the
            length, that the bound allows for.

        Returns
        -------
        bound : ndarray of float64, shape (n_queries, n_samples)
            Infinite where a is not positive.

        Raises
        ------
        ValueError
            If the rotation is not "random" or "hadamard" of all features, at least two,
            if the scale of the quantizer is not "unbiased", or if eps0 is not positive.

        References
        ----------
        Gao and Long (2024), "RaBitQ: Quantizing High-Dimensional Vectors with a
        Theoretical Error Bound for Approximate Nearest Neighbor Search", SIGMOD,
        arXiv 2405.12497.
        """
        self = as_it_is_now(self)
        self._check_fitted()
        self._check_bounded(eps0)
        X = self._check_input(X, "inner_product_error_bound")
        with naming("queries"):
            queries = self._check_input(queries, "inner_product_error_bound")
        be = nearest.backend_of(X)
        with self._computing(X):
            per_row = be.gathered(X.shape[0], over_blocks(X, self._row_bounds))
        lengths = nearest.row_norms(to_host(queries))
        found = lengths[:, None] * to_host(per_row)[None, :]
        return be.send(found * (float(eps0) / np.sqrt(self.n_features_in_ - 1)))

    def _row_bounds(self, X: Any) -> Any:
        """Return the bound (n_samples,) of each row, without common factors."""
        Z = self._turn_.there(X)
        lengths = to_host(nearest.row_norms(Z)).astype(np.float64)
        alike = self.quantizer_._alignments(Z)
        if alike is None:
            raise ValueError(_NO_BOUND.format(f"quantizer={self.quantizer_!r}"))
        alike = np.clip(to_host(alike).astype(np.float64), None, 1.0)
        found = np.full(len(lengths), np.inf)
        np.divide(np.sqrt(1 - alike**2), alike, out=found, where=alike > 0)
        found[lengths == 0] = 0.0
        return nearest.backend_of(X).send(found * lengths)

    def _check_bounded(self, eps0: Any) -> None:
        if not is_finite_number(eps0) or eps0 <= 0:
            raise ValueError(f"eps0={eps0!r}; expected a positive number.")
        if not self._is("random", "hadamard"):
            raise ValueError(_NO_BOUND.format(f"rotation={self.rotation!r}"))
        turn = self._turn_
        if turn.n_components < turn.n_features or turn.n_features < 2:
            raise ValueError(
                f"Of {turn.n_features} features n_components={turn.n_components} are "
                "coded; expected all of two or more, as the bound is one of random "
                "directions."
            )


_NO_BOUND = (
    "{} has no bound of inner products; expected rotation='random' or 'hadamard', and "
    "a quantizer whose scale is 'unbiased'."
)


def _to_host_array(value: Any) -> Any:
    """Return an array of any library as a NumPy array; anything else unchanged."""
    return to_host(value) if nearest.is_array(value) else value


def _errors(X: Any, turn: Turn, part: Any) -> np.ndarray:
    """Return the error of each row, without what is cut off."""
    Z = turn.there(X)
    return to_host(nearest.paired(Z, part._quantize(Z))).astype(np.float64)


def _turned(rows: Rows, turn: Turn) -> Rows:
    return rows.view(along, turn, width=turn.n_components)
