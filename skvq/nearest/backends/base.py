"""The interface between searches and array libraries, for any that follow the standard.

A search is written once, over these methods.  Subclasses do one or another better for
their library: on threads (NumPy), by index (PyTorch), by kernels of their own (CuPy).

For a tile of rows a search returns arrays, which `over_rows` joins.  Nothing is written
in place, and no array is tested for truth before the end, so that the host never waits
for a device in between.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.backends import levels, products, trellis
from skvq.nearest.backends.arrays import (
    library_of_namespace,
    moved,
    standard_to_host,
    to_host,
)
from skvq.nearest.metrics import DIRECT_METRICS

# Scores of a tile, in elements.
TILE_ELEMENTS = 2**21
# Up to this many smallest entries are found one after the other.
MAX_ROUNDS = 8

# States of a row after a search; 0 is sure.
COARSE, DOUBTFUL, OUT_OF_REACH = 1, 2, 3


class Plan(NamedTuple):
    """How the rows of a search are cut."""

    chunk: int  # rows that a thread of the host takes at a time
    elements: int  # numbers that a row takes in memory, on devices
    work: float  # multiply-adds per row
    plain: bool = False  # whether the work is free of linear algebra


class RowTooLargeError(MemoryError):
    """The memory does not suffice for a single row."""


class Backend:
    """An array library and one of its devices.

    Parameters
    ----------
    xp : module
        The library's namespace, as in the array API standard.
    device : object
        The device that holds its arrays.
    """

    device: Any
    xp: Any

    # Whether arrays are NumPy arrays.
    on_host = False
    # Whether nearest codewords are found without linear algebra.
    is_compiled = False
    # Rows of a search that take as long as one.
    tile_rows = 1
    # Metrics, apart from products, that the backend computes itself instead of SciPy.
    direct_metrics = DIRECT_METRICS
    # Number of the first row that a search is given.
    first_row = 0

    def __init__(self, xp: Any, device: Any) -> None:
        self.xp, self.device = xp, device

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that distinguishes this backend's arrays from those of others."""
        return self.name, str(self.device)

    @property
    def name(self) -> str:
        """The name under which the library is imported."""
        return library_of_namespace(self.xp)

    def fingerprint(self) -> str:
        """Return, in words, what the bits of results depend on."""
        return f"{self.name} on {self.device}"

    # -- where and how ---------------------------------------------------------------

    def call(self, search: Callable[..., Any], X: Any, *beside: Any) -> Any:
        """Return ``search(self, X, *beside)``; rows on the host may come in parts."""
        return search(self, X, *beside)

    def map_jobs(self, job: Callable[[int], None], n_jobs: int) -> None:
        """Call ``job(i)`` for all i; several at a time where that pays."""
        for i in range(n_jobs):
            job(i)

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Return whether the library raises this error when it runs out of memory."""
        return isinstance(error, MemoryError)

    def tile_elements(self) -> int:
        """Return how many numbers a tile may have."""
        return TILE_ELEMENTS

    def release(self) -> None:
        """Free the memory that the library keeps for itself."""

    def tiles(
        self, n_rows: int, elements: float, work: Callable[[slice], Any]
    ) -> Iterator[Any]:
        """Yield ``work(rows)`` for every tile of rows, a slice.

        A tile that runs out of memory is halved, and so are those after it; the work on
        a tile must therefore have no visible effect before it returns.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        elements : float
            Numbers that the work holds in memory per row.
        work : callable
            Takes a slice of rows.

        Raises
        ------
        RowTooLargeError
            If the memory does not suffice for a single row.
        """
        rows = max(1, int(self.tile_elements() / max(elements, 2**-20)))
        start = 0
        while start < n_rows:
            stop = min(start + rows, n_rows)
            try:
                found = work(slice(start, stop))
            except Exception as error:
                if not self.ran_out_of_memory(error):
                    raise
                if stop - start == 1:
                    if isinstance(error, RowTooLargeError):
                        raise  # in nested tiles, the innermost know their size
                    raise RowTooLargeError(
                        f"The device has no memory for one row of {elements:.0f} "
                        "numbers: free some, or use fewer codewords."
                    ) from error
                rows = (stop - start + 1) // 2
            else:
                start = stop
                yield found
                continue
            # Only now, since the error keeps the memory of the work alive.
            self.release()

    def over_rows(
        self,
        n_rows: int,
        plan: Plan,
        tile: Callable[[slice], tuple[Any, ...]],
        outputs: Sequence[Any],
    ) -> list[Any]:
        """Join the results of ``tile(rows)`` for all rows.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        plan : Plan
            How to cut them.
        tile : callable
            Returns a tuple of arrays with an entry for each row of the slice.
        outputs : sequence of (shape, dtype)
            Shape of an entry and NumPy dtype, for each of the arrays.
        """

        def in_their_dtypes(rows: slice) -> list[Any]:
            pairs = zip(tile(rows), outputs, strict=True)
            return [self.cast(part, dtype) for part, (_, dtype) in pairs]

        # Overflow is checked at the end and not reported by warnings.
        with np.errstate(all="ignore"):
            parts = list(self.tiles(n_rows, plan.elements, in_their_dtypes))
        empty = [self.zeros((0, *shape), dtype) for shape, dtype in outputs]
        columns = zip(*(parts or [empty]), strict=True)
        return [self.concat(list(column), axis=0) for column in columns]

    def gathered(self, n_rows: int, parts: Iterator[Any], dtype: Any = None) -> Any:
        """Join arrays for consecutive slices of rows.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        parts : iterator of (slice, array)
            In the order of the rows; if there are no rows, there is one empty part.
        dtype : dtype, optional
            A NumPy dtype; None: that of the first part.
        """
        arrays = [part for _, part in parts]
        dtype = self.numpy_dtype(arrays[0]) if dtype is None else dtype
        return self.concat([self.cast(array, dtype) for array in arrays], axis=0)

    def map_rows(
        self, X: Any, elements: int, work: Callable[..., Any], *beside: Any
    ) -> Any:
        """Join ``work(X[rows], ...)``, one array or several, over all rows.

        Parameters
        ----------
        X, *beside : arrays
            Arrays that are cut into the same tiles.
        elements : int
            Numbers that the work holds in memory per row.
        work : callable
            Gets an empty tile if there are no rows.
        """

        def tile(rows: slice) -> tuple[Any, ...]:
            found = work(*(array[rows, ...] for array in (X, *beside)))
            return found if isinstance(found, tuple) else (found,)

        parts = list(self.tiles(X.shape[0], elements, tile)) or [tile(slice(0, 0))]
        joined = [
            self.concat(list(found), axis=0) for found in zip(*parts, strict=True)
        ]
        return joined[0] if len(joined) == 1 else tuple(joined)

    # -- arrays ----------------------------------------------------------------------

    def matrix(self, X: Any, name: str) -> np.ndarray:
        """Return a matrix of real numbers as an array; raise if it is not one."""
        if X.ndim != 2:
            raise ValueError(
                f"{name} has shape {tuple(X.shape)}; expected two dimensions."
            )
        kinds = ("bool", "integral", "real floating")
        if not any(self.xp.isdtype(X.dtype, kind) for kind in kinds):
            raise ValueError(f"{name} has dtype {X.dtype}; expected real numbers.")
        return X

    def dtype(self, dtype: Any) -> Any:
        """Return the library's dtype for one of NumPy's or its own."""
        if not isinstance(dtype, type | np.dtype | str):
            return dtype
        dtype = np.dtype(dtype)
        return self.xp.int64 if dtype == np.intp else getattr(self.xp, dtype.name)

    def code_dtype(self, dtype: Any) -> np.dtype:
        """Return the dtype, or the next wider one with which the library computes."""
        dtype = np.dtype(dtype)
        if hasattr(self.xp, dtype.name):
            return dtype
        return np.dtype({"uint16": "int32", "uint32": "int64"}.get(dtype.name, dtype))

    def numpy_dtype(self, array: Any) -> np.dtype:
        """Return the NumPy dtype of the same name; float32 for bfloat16."""
        name = str(array.dtype).rpartition(".")[2]
        return np.dtype(np.float32 if name == "bfloat16" else name)

    def send(self, array: np.ndarray) -> Any:
        """Return an array of the host as an array of the library, on the device."""
        # Send a copy, since some libraries would share the memory, and complain if it
        # is not writable.
        return self.xp.asarray(np.array(array, order="C"), device=self.device)

    def sent(self, form: Any, kind: str = "") -> Any:
        """Return a named tuple whose host arrays have been sent to the device.

        Parameters
        ----------
        form : named tuple
            A prepared table.
        kind : {"flat", "run", "stage", "factor"}
            The search that it is for; a backend may put data of its own into
            ``form.packed``.
        """
        fields = form._asdict().items()
        arrays = {name: v for name, v in fields if isinstance(v, np.ndarray)}
        return form._replace(**{name: self.send(v) for name, v in arrays.items()})

    def to_host(self, array: Any) -> np.ndarray:
        """Return an array of the library as a NumPy array."""
        return standard_to_host(array)

    def remedy(self, array: Any, name: str) -> str:
        """Return advice, for messages, about an array that NumPy cannot read."""
        return "copy it to the host"

    def like(self, array: Any, dtype: Any = None) -> Any:
        """Return an array of any library as one of this library, on the device."""
        here = self.on_device(array)
        array = self.send(to_host(array)) if here is None else here
        return array if dtype is None else self.cast(array, dtype)

    def on_device(self, array: Any) -> Any:
        """Return an array of the library on the device; None for other libraries'."""
        return moved(array, self.xp, self.device)

    def cast(self, array: Any, dtype: Any) -> Any:
        """Return an array in a NumPy dtype; the array itself if it has it already."""
        dtype = self.dtype(dtype)
        return array if array.dtype == dtype else self.xp.astype(array, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        """Return an array of zeros."""
        return self.xp.zeros(shape, dtype=self.dtype(dtype), device=self.device)

    def concat(self, parts: list[Any], axis: int) -> Any:
        """Join arrays along an axis."""
        return parts[0] if len(parts) == 1 else self.xp.concat(parts, axis=axis)

    def contiguous(self, array: Any) -> Any:
        """Return an array whose rows are consecutive in memory."""
        return array

    def take(self, array: Any, rows: Any) -> Any:
        """Return rows of an array, by indices of any library."""
        return self.xp.take(array, self.like(rows, np.int64), axis=0)

    def look_up(self, table: Any, codes: Any) -> Any:
        """Return the rows of a table by codes of any shape."""
        flat = self.xp.reshape(self.cast(codes, np.int64), (-1,))
        rows = self.xp.take(table, flat, axis=0)
        return self.xp.reshape(rows, (*codes.shape, *table.shape[1:]))

    def take_along(self, array: Any, index: Any) -> Any:
        """Return (n, k, ...) entries along the second axis, by an index (n, k)."""
        xp = self.xp
        n, width = array.shape[:2]
        starts = xp.arange(n, dtype=xp.int64, device=self.device) * width
        rows = xp.reshape(array, (n * width, *array.shape[2:]))
        return self.look_up(rows, self.cast(index, np.int64) + starts[:, None])

    def replaced(self, array: Any, rows: np.ndarray, values: Any) -> Any:
        """Return an array with some rows, given by indices on the host, replaced."""
        place = np.arange(array.shape[0])
        place[rows] = array.shape[0] + np.arange(len(rows))
        values = self.cast(self.like(values), self.numpy_dtype(array))
        return self.take(self.concat([array, values], axis=0), place)

    def flagged(self, state: Any) -> np.ndarray:
        """Return, on the host, the indices of the nonzero entries of a vector."""
        # Testing whether there are any costs a device less than finding them.
        if not bool(self.xp.any(self.cast(state, np.bool_))):
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(self.to_host(state))

    def permuted(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return an array with its axes permuted."""
        return self.xp.permute_dims(array, axes)

    def times_power(self, array: Any, exponent: int) -> Any:
        """Return a floating array multiplied by 2**exponent."""
        # In steps, each of which is a finite number in single precision too.
        while exponent:
            step = max(-100, min(exponent, 100))
            array = array * 2.0**step
            exponent -= step
        return array

    def repeat(self, array: Any, times: int, axis: int) -> Any:
        """Repeat each entry along an axis."""
        xp, shape = self.xp, list(array.shape)
        wide = (*shape[: axis + 1], times, *shape[axis + 1 :])
        shape[axis] *= times
        spread = xp.broadcast_to(xp.expand_dims(array, axis=axis + 1), wide)
        return xp.reshape(spread, tuple(shape))

    def squared_norms(self, rows: Any) -> Any:
        """Return the sums of squares along the last axis, summed in float64."""
        rows = self.cast(rows, np.float64)
        return self.xp.sum(rows * rows, axis=-1)

    def stable_order(self, values: Any) -> Any:
        """Return the indices that sort each row; equal entries keep their order."""
        return self.xp.argsort(values, axis=1, stable=True)

    def unit_rows(self, x: Any) -> Any:
        """Return rows divided by their norms; zero rows become NaN."""
        xp = self.xp
        largest = xp.max(xp.abs(x), axis=1, keepdims=True)
        one = xp.ones_like(largest)
        # Dividing by the largest entry first keeps the norms of tiny and huge rows.
        scaled = x / xp.where(largest > 0, largest, one)
        norms = xp.sqrt(xp.sum(scaled * scaled, axis=1, keepdims=True))
        return scaled / xp.where(norms > 0, norms, one * xp.nan)

    def row_sums(self, x: Any) -> Any:
        """Return sums along the last axis, as float64."""
        return self.cast(self.xp.sum(x, axis=-1), np.float64)

    def row_products(self, x: Any, y: Any) -> Any:
        """Return the product of each row of x with the same row of y."""
        return self.xp.sum(x * y, axis=1)

    def total(self, values: Any, weights: Any = None) -> float:
        """Return the weighted sum of a vector."""
        return float(self.xp.sum(values if weights is None else values * weights))

    def average(self, values: Any, weights: Any = None) -> float:
        """Return the weighted mean of a vector."""
        whole = values.shape[0] if weights is None else self.total(weights)
        return self.total(values, weights) / whole

    def is_finite(self, x: Any) -> bool:
        """Return whether an array has neither NaN nor infinity."""
        if not self.xp.isdtype(x.dtype, "real floating"):
            return True
        return bool(self.xp.all(self.xp.isfinite(x)))

    def largest(self, x: Any) -> Any:
        """Return the largest magnitude of each row; NaN if the row has one."""
        # xp.abs would take memory for another array of this size.
        xp = self.xp
        return xp.maximum(xp.max(x, axis=-1), -xp.min(x, axis=-1))

    # -- for the searches ------------------------------------------------------------

    def rows_at_a_time(self, n_features: int, n_codewords: int) -> int:
        """Return how many rows of a search a thread of the host takes at a time."""
        # All work but the scores is done once per chunk.  Chunks are long, since each
        # call into NumPy hands over the interpreter's lock, but not so long that they
        # leave the cache.
        return max(16, min(2**19 // n_features, 2**14))

    def numbers_per_row(self, n_features: int, n_scores: int) -> int:
        """Return how many numbers a row takes in memory during a search."""
        return n_scores + 4 * n_features

    def product_rows_at_a_time(self, work: float) -> int:
        """Return the same for a search in subspaces with this work per row."""
        return 1024

    def nearest_rows(
        self, x: Any, form: Any, metric: str, dtype: np.dtype, distances: bool
    ) -> tuple[Any, ...]:
        """Return codes and state of a tile of rows, and distances if wanted.

        Parameters
        ----------
        x : array of shape (n_rows, n_features)
            The rows as given.
        form : Flat
            The prepared codebook, on the device.
        metric : {"sqeuclidean", "cosine", "inner_product"}
            The distance.
        dtype : dtype
            The dtype to compute in.
        distances : bool
            Whether distances are wanted.
        """
        if metric == "cosine":
            x = self.unit_rows(self.cast(x, dtype))
        code, state = self.argmin_product(self.centred(x, form, dtype), form)
        found = self.distances_of(x, form, metric, code) if distances else None
        if form.first is not None:
            code = self.look_up(form.first, code)
        if found is None:
            return code, state
        if form.near:
            near = self.cast(found < form.near, np.uint8)
            state = self.xp.maximum(state, near * COARSE)
        return code, state, found

    def distances_of(self, x: Any, form: Any, metric: str, code: Any) -> Any:
        """Return the distances from rows to codewords, both as given."""
        exact, scale = form.exact, form.scale
        if scale != 1.0:
            # float64 loses no digit to the scale.
            x, exact = (self.cast(each, np.float64) for each in (x, exact))
            exact = exact * scale
        if metric == "inner_product":
            x = self.cast(x, self.numpy_dtype(exact))
            return self.row_sums(self.look_up(exact, code) * x) / -scale
        half = 0.5 if metric == "cosine" else 1.0
        x = x if scale == 1.0 else x * scale
        return self.gap_norms(x, exact, code) * half / scale / scale

    def centred(self, x: Any, table: Any, dtype: np.dtype) -> "Centred":
        """Return rows minus the centre of a table, in its scale."""
        rest = self.cast(x, dtype) - table.centre
        return Centred(x, rest * table.scale if table.scale != 1.0 else rest)

    def argmin(self, scores: Any) -> Any:
        """Return the first index of the smallest entry along the last axis."""
        return self.cast(self.xp.argmin(scores, axis=-1), np.int64)

    def smallest(self, scores: Any) -> tuple[Any, Any]:
        """Return the first index of the smallest entry of each row, and the entry."""
        return self.argmin(scores), self.xp.min(scores, axis=-1)

    def argmin_product(self, rows: "Centred", table: Any) -> tuple[Any, Any]:
        """Return argmin_k of [x 1] W for each centred row, and its state."""
        scores = self.xp.matmul(self.with_one(rows.rest), table.weights)
        codes, best = self.smallest(scores)
        norms = self.row_products(rows.rest, rows.rest)
        if table.offset is None:
            distances, norms = norms + 2 * best, norms + table.rounded
        else:
            # The product as asked for, without the centre.
            product = self.xp.matmul(rows.rest, table.offset) + table.level - best
            distances, norms = self.xp.abs(product), 0.5 * (norms + table.reach)
        between = partial(table.between, rows.x)
        return self.settled(scores, codes, norms, distances, table, between)

    def settled(
        self,
        scores: Any,
        codes: Any,
        norms: Any,
        distances: Any,
        table: Any,
        between: Callable[..., Any] | None,
    ) -> tuple[Any, Any]:
        """Return codes and state of rows from their complete scores.

        Parameters
        ----------
        scores : array of shape (n_rows, n_codewords)
            Half the distances, minus half the squared norms of the rows.
        codes, norms, distances : arrays of shape (n_rows,)
            The best codes; the quantities to which rounding of scores is relative; the
            distances found.
        table : named tuple
            The prepared codewords.
        between : callable
            ``between(rows, codewords)`` returns the exact values behind the scores of
            pairs, on the host; for the careful search.
        """
        return codes, self.judged(scores, codes, norms, distances, table)

    def judged(
        self, scores: Any, codes: Any, norms: Any, distances: Any, table: Any
    ) -> Any:
        """Return the state of the argmin of each row of scores.

        It is sure if the distance is not small compared to the norms, to which the
        rounding of scores is relative, or if no other score is near.
        """
        xp, margin = self.xp, table.margin
        out = ~(xp.isfinite(norms) & xp.isfinite(distances))
        state = self.cast(out, np.uint8) * OUT_OF_REACH
        rows = self.flagged(self.far(norms, distances, table) & ~out)
        if not rows.size:
            return state
        scores, codes, norms, distances = (
            self.take(each, rows) for each in (scores, codes, norms, distances)
        )
        places = xp.arange(scores.shape[1], dtype=xp.int64, device=self.device)
        others = codes[:, None] != places[None, :]
        others = xp.where(others, scores, xp.full_like(scores, xp.inf))
        gap = xp.min(others, axis=1) - xp.min(scores, axis=1)
        norms = norms + margin.least
        doubtful = ~(gap > margin.slack * (3 * norms + distances))
        found = self.to_host(doubtful).astype(np.uint8) * DOUBTFUL
        return self.replaced(state, rows, found)

    def with_one(self, x: Any) -> Any:
        """Return rows, along the last axis, with a one appended."""
        return self.concat([x, self.xp.ones_like(x[..., :1])], axis=-1)

    def gap_norms(self, x: Any, rows: Any, codes: Any) -> Any:
        """Return ||c - x||^2, as float64, for each x and its codeword c."""
        gap = self.look_up(rows, codes) - self.cast(x, self.numpy_dtype(rows))
        return self.row_sums(gap * gap)

    def squared_gaps(self, x: Any, rows: Any, codes: Any) -> Any:
        """Return ||x - c||^2 in float64, c being a row by its code, or the same row."""
        y = rows if codes is None else self.look_up(rows, codes)
        gap = self.cast(x, np.float64) - self.cast(y, np.float64)
        return self.row_products(gap, gap)

    def argmin_run(self, x: Any, run: Any) -> tuple[Any, Any]:
        """Return codes (n_rows, m) in consecutive subspaces, and their state."""
        xp, m = self.xp, run.weights.shape[0]
        x = xp.reshape(x[:, run.start : run.stop], (-1, m, run.width))
        rest = (x - run.centre[None, :, :]) * run.scale[None, :, None]
        extended = self.permuted(self.with_one(rest), (1, 0, 2))
        scores = xp.reshape(xp.matmul(extended, run.weights), (m * x.shape[0], -1))
        codes, best = self.smallest(scores)
        codes, best = (xp.reshape(each, (m, -1)) for each in (codes, best))
        norms = xp.sum(rest * rest, axis=2).T
        if run.first is not None:
            codes = self.take_along(run.first, codes)
        return codes.T, self.far(norms, norms + 2 * best, run).T

    def far(self, norms: Any, distances: Any, form: Any) -> Any:
        """Return which rows are too far from the centre, relative to their distance."""
        sure = distances > form.margin.share * (norms + form.margin.least)
        return ~(sure & self.xp.isfinite(norms) & self.xp.isfinite(distances))

    def product_tile(self, x: Any, dtype: np.dtype) -> Any:
        """Return rows in the form that `argmin_run` takes."""
        return self.cast(x, dtype)

    def most_run_scores(self, n_codewords: int) -> int:
        """Return the most scores per row in a run of subspaces."""
        return max(n_codewords, self.tile_elements() // 64)

    def product_rows(self, block: Any) -> int:
        """Return how many rows are compared with products at a time."""
        return 1

    def argmin_products(
        self, y: Any, norms: Any, block: Any, between: Callable[..., Any]
    ) -> tuple[Any, Any, Any]:
        """Return index and score of the best product for each row, and state.

        Parameters
        ----------
        y : array of shape (n_rows, d)
            Scaled samples minus the centre.
        norms : array of shape (n_rows,)
            Their squared norms.
        block : CodewordBlock
            The codewords.
        between : callable
            ``between(rows, codewords)`` returns the exact values behind the scores of
            pairs, on the host; for the careful search.
        """
        scores = products.scores(self, y, block)
        index, best = self.smallest(scores)
        distances, norms = norms + 2 * best, norms + block.rounded
        index, state = self.settled(scores, index, norms, distances, block, between)
        return index + block.first, best, state

    def residuals(self, x: Any, n_sums: int, search: Any) -> "Residuals":
        """Return the residuals of a tile of rows after n_sums empty partial sums."""
        return Residuals(self, x, n_sums, search)

    def pairs(self, search: Any, factors: list[Any], tables: Any) -> Any:
        """Return what a backend prepares from several tables improved in turn."""
        return None

    def products(self, search: Any, stages: list[Any], tables: Any) -> Any:
        """Return what a backend looks up in a beam search; None if nothing."""
        return None

    def sums(
        self, x: Any, factors: list[Any], centre: list[Any], search: Any
    ) -> "Sums":
        """Return one sum of codewords per row of a tile, to be improved."""
        return Sums(self, x, factors, centre, search)

    def trellis_search(self, form: Any) -> Any:
        """Return an object that finds paths through a trellis, a tile at a time."""
        return trellis.TrellisSearch(self, form)

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return the indices of the k smallest entries of each row, ascending.

        Among equal entries the first are taken.

        Parameters
        ----------
        scores : array of shape (n_rows, n_scores)
            Finite numbers.
        k : int
            Number of entries, at most n_scores.

        Returns
        -------
        places : array of shape (n_rows, k), dtype int64
        """
        xp = self.xp
        if k > MAX_ROUNDS:
            # The standard has no partial sort.
            return xp.argsort(scores, axis=1, stable=True)[:, :k]
        places = xp.arange(scores.shape[1], dtype=xp.int64, device=self.device)
        found = []
        for j in range(k):
            found.append(self.argmin(scores)[:, None])
            if j < k - 1:
                taken = found[-1] == places[None, :]
                scores = xp.where(taken, xp.full_like(scores, xp.inf), scores)
        return self.concat(found, axis=1)

    def cell_sums(
        self, X: Any, codes: Any, n_codewords: int, weights: Any
    ) -> tuple[Any, ...]:
        """Return sums (n_codewords, d) and counts (n_codewords,) of rows by code."""
        xp = self.xp
        places = xp.arange(n_codewords, dtype=codes.dtype, device=self.device)[None, :]

        def work(rows: slice) -> Any:
            chosen = self.cast(codes[rows][:, None] == places, np.float64)
            return xp.matmul(chosen.T, self.weighted_rows(X, weights, rows))

        # A product with zeros and ones, not atomics, gives the same bits each time.
        result = self.zeros((n_codewords, X.shape[1] + 1))
        for part in self.tiles(X.shape[0], n_codewords + X.shape[1], work):
            result = result + part
        return result[:, :-1], result[:, -1]

    def adds_up_found(self, X: Any, n_codewords: int, dtype: np.dtype[Any]) -> bool:
        """Return whether rows are best added up while they are searched, in a dtype."""
        return False

    def nearest_cells(
        self, X: Any, form: Any, weights: Any, size: int, dtype: np.dtype[Any]
    ) -> tuple[Any, ...]:
        """Find nearest codewords and add up their rows, where `adds_up_found`.

        Returns
        -------
        codes, state, sums, counts : arrays
            As of `nearest_rows` for squared distances, but in the dtype, and of
            `cell_sums` of so many codes, to the bit.
        """
        raise NotImplementedError

    # -- cells of scalar levels ------------------------------------------------------

    def equal_cells(self, X: Any, cells: levels.EqualCells, dtype: Any) -> Any:
        """Return the cells (n_rows, n_columns) of floating X among equal cells."""
        return levels.equal_cells(self, X, cells, dtype)

    def edges(self, edges: Sequence[np.ndarray]) -> Any:
        """Return the ascending edges of columns in the form that searches take."""
        return levels.Edges(self, edges)

    def cells_between(self, X: Any, edges: Any, dtype: Any) -> Any:
        """Return how many edges of its column each value of floating X has reached."""
        return levels.cells_between(self, X, edges, dtype)

    def entries(self, table: Any, codes: Any, begins: Any) -> Any:
        """Return the entries of codes in their columns' parts of a table."""
        return levels.entries(self, table, codes, begins)

    def level_sums(
        self, X: Any, codes: Any, shares: Any, sizes: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weighted sums of values, and of weights, by code and column.

        Parameters
        ----------
        X, codes : arrays of shape (n_rows, n_columns)
            Values and their codes.
        shares : array of float64, shape (n_rows,)
            Weights of the rows.
        sizes : sequence of int
            Number of codes V of each column.

        Returns
        -------
        sums, reached : ndarray of float64, shape (sum of sizes,)
            On the host, column after column.
        """
        return levels.level_sums(self, X, codes, shares, sizes)

    def scaled_rows(self, rows: Any) -> tuple[Any, Any]:
        """Return float64 rows divided by powers of two, and the exponents (n_rows,).

        The largest entry of each row is then in [1/2, 1): no square overflows or
        vanishes.
        """
        return levels.scaled_rows(self, rows)

    def ldexp(self, values: Any, exponents: Any) -> Any:
        """Return values times powers of two; exact if the results are in range."""
        return levels.ldexp(self, values, exponents)

    def float32_bits(self, values: Any) -> Any:
        """Return the bits (n,), int64, of non-negative numbers within float32."""
        return levels.float32_bits(self, values)

    def from_float32_bits(self, bits: Any) -> Any:
        """Return the numbers of such bits, in float64."""
        return levels.from_float32_bits(self, bits)

    def angle(self, y: Any, x: Any) -> Any:
        """Return the angles of points (x, y), from -pi to pi."""
        return self.xp.atan2(y, x)

    def running_sums(self, x: Any) -> Any:
        """Return the sums of the first 1, 2, ... entries of each row."""
        return levels.running(self, x, operator.add)

    def running_products(self, x: Any) -> Any:
        """Return the products of the first 1, 2, ... entries of each row."""
        return levels.running(self, x, operator.mul)

    def weighted_rows(self, X: Any, weights: Any, rows: slice) -> Any:
        """Return float64 rows, each extended by one and multiplied by its weight."""
        x = self.with_one(self.cast(X[rows, :], np.float64))
        return x if weights is None else x * weights[rows][:, None]


def less(high: Any, low: Any, rows: Any) -> tuple[Any, Any]:
    """Return high + low - rows as a rounded difference, and the digits it has lost.

    Both together are exact (Knuth 1997, section 4.2.2) but for rounding what is lost.
    """
    left = high - rows
    part = left - high
    return left, low + ((high - (left - part)) - (rows + part))


class Centred(NamedTuple):
    """A tile of rows, as given and centred."""

    x: Any  # (n, d), as given, or unit rows
    rest: Any  # (n, d), minus the centre, and scaled


class Residuals:
    """Residuals of a tile of rows after several partial sums, (n, b, d)."""

    rest: Any
    weighted: Any

    def __init__(self, be: Backend, x: Any, n_sums: int, search: Any) -> None:
        n, d = x.shape
        self.be = be
        self.rest = be.xp.broadcast_to(x[:, None, :], (n, n_sums, d))
        if search.scale != 1.0:
            self.rest = self.rest * float(search.scale)
        self.weighted = search.weighted
        self.most: Any = None

    def subtract(self, rows: Any, codes: Any) -> None:
        """Subtract codewords, by codes (n, b), from the residuals."""
        self.rest = self.rest - self.be.look_up(rows, codes)

    def shift(self, centre: Any) -> None:
        """Subtract a centre from all residuals."""
        self.rest = self.rest - centre

    def norms(self) -> Any:
        """Return the squared norms (n, b) of the residuals, as float64."""
        return self.be.row_sums(self.rest * self.rest)

    def choose(self, loss: Any, stage: Any) -> tuple[Any, Any, Any]:
        """Return sum and codeword (n, width) of the best candidates, and state (n,).

        If several are chosen, `doubtful` gives the state.
        """
        be, xp = self.be, self.be.xp
        scores, least = self.scores(self.rest, loss, stage)
        best = be.cast(be.smallest_few(scores, stage.width), np.int64)
        n_codewords = stage.rows.shape[0]
        parent = best // n_codewords
        state = None
        if stage.width == 1:
            distances = least + 2 * be.cast(xp.min(scores, axis=1), np.float64)
            state = be.judged(scores, best[:, 0], self.most, distances, stage)
        return parent, best - parent * n_codewords, state

    def scores(self, rest: Any, loss: Any, stage: Any) -> tuple[Any, Any]:
        """Return the scores (n, b V) of all candidates, and the least cost (n,)."""
        be, xp = self.be, self.be.xp
        n, b, d = rest.shape
        norms = be.row_sums(rest * rest)
        self.most = xp.max(norms, axis=1)
        costs = norms if loss is None else norms + loss / (stage.weight + stage.ahead)
        # Only differences within a row count: subtracting the least keeps their digits.
        least = xp.min(costs, axis=1)
        costs = be.cast(0.5 * (costs - least[:, None]), be.numpy_dtype(rest))
        extended = be.concat([be.with_one(rest), costs[:, :, None]], axis=2)
        extended = xp.reshape(extended, (n * b, d + 2))
        return xp.reshape(xp.matmul(extended, stage.weights), (n, -1)), least

    def advance(self, parent: Any, code: Any, stage: Any) -> None:
        """Replace the residuals by those of the chosen sums."""
        chosen = self.be.take_along(self.rest, parent)
        self.rest = chosen - self.be.look_up(stage.rows, code)

    def doubtful(self, stage: Any) -> Any:
        """Return the state of rows for which several sums were chosen."""
        xp, best = self.be.xp, self.norms()[:, 0]
        out = ~(xp.isfinite(self.most) & xp.isfinite(best))
        margin = stage.margin
        near = ~(best > margin.coarse * self.most + margin.least)
        return self.be.cast(near | out, np.uint8) * DOUBTFUL


class Sums:
    """Residuals of a tile of rows for sums of one codeword per table, (n, d)."""

    factors: Any
    half_norms: Any
    left: Any
    scale: Any
    target: Any
    # Whether distances are those of what is given, up to its tolerance.
    is_exact = False

    def __init__(
        self, be: Backend, x: Any, factors: Any, centre: list[Any], search: Any
    ) -> None:
        self.be: Any = be
        self.factors, self.scale = factors, search.scale
        x = be.cast(x, search.dtype)
        self.target = x if self.scale == 1.0 else x * float(self.scale)
        for part in centre:
            self.target = self.target - part
        self.left = self.target
        self.half_norms = 0.5 * be.row_products(self.target, self.target)

    def reach(self, codes: list[Any]) -> Any:
        """Return the quantity (n,) to which the rounding of residuals is relative."""
        half = self.half_norms
        for factor, column in zip(self.factors, codes, strict=True):
            half = half + self.be.look_up(factor.weights[-1, :], column)
        return 2 * half

    def begin(self, codes: list[Any]) -> None:
        """Go on from other codes."""
        self.leave(codes)

    def leave(self, codes: list[Any]) -> Any:
        """Set the residuals of the given codes; return their squared norms."""
        self.left = self.target
        for factor, column in zip(self.factors, codes, strict=True):
            self.left = self.left - self.be.look_up(factor.rows, column)
        return self.be.row_sums(self.left * self.left)

    def improved(
        self, codes: list[Any], order: Any, n_sweeps: int, size: Any
    ) -> tuple[Any, ...]:
        """Return codes after some sweeps over the tables, and the state of the rows.

        Parameters
        ----------
        codes : list of arrays of shape (n_rows,)
            One column for each table.
        order : sequence of int
            The tables in the order of the steps of a sweep.
        n_sweeps : int
            Number of sweeps; only choices of the last one need be sure.
        size : array of shape (n_rows,)
            The reach of the codes at the start; later ones are no larger.
        """
        codes, state = list(codes), self.be.zeros(codes[0].shape, np.uint8)
        for sweep in range(n_sweeps):
            last = sweep == n_sweeps - 1
            for j in order:
                codes[j], doubt = self.step(j, codes[j], size if last else None)
                if last:
                    state = self.be.xp.maximum(state, doubt)
        return codes, state

    def step(self, j: int, column: Any, size: Any) -> tuple[Any, Any]:
        """Return the codes of table j that are nearest to the others' residuals.

        In the last step of a round in this table, also return their state: `size` is
        then the reach of the codes at the start of the round.
        """
        factor = self.factors[j]
        left = self.left + self.be.look_up(factor.rows, column)
        codes, state = self.chosen(left, factor, size)
        self.left = left - self.be.look_up(factor.rows, codes)
        return codes, state

    def chosen(
        self, left: Any, factor: Any, size: Any, between: Any = None
    ) -> tuple[Any, ...]:
        """Return the codes nearest to residuals, and their state if `size` is given."""
        be = self.be
        scores = be.xp.matmul(be.with_one(left), factor.weights)
        if size is None:
            return be.argmin(scores), None
        codes, best = be.smallest(scores)
        norms = be.row_products(left, left)
        distances = norms + 2 * best
        norms = norms + factor.rounded * size
        return be.settled(scores, codes, norms, distances, factor, between)
