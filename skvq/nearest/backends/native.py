"""The host backend with the compiled library: searches and sums in one pass over rows.

The library (`skvq/nearest/native`) knows nothing of Python: it is passed addresses.
`NativeBackend.sent` packs the data of a table once, and they are kept with it.
"""

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.backends import native_levels, native_scan
from skvq.nearest.backends.base import DOUBTFUL, OUT_OF_REACH, Backend, Sums
from skvq.nearest.backends.host import NumpyBackend, doubtful, sum_chunk
from skvq.nearest.backends.levels import EqualCells
from skvq.nearest.backends.native_trellis import NativeTrellisSearch
from skvq.nearest.native import TYPES, sources_of
from skvq.nearest.threads import aligned_empty, n_threads, scratch

# The library's type numbers for dtypes in the byte order of this machine.
_TYPES = {np.dtype(name): number for name, number in TYPES.items()}

# Multiply-adds in a call into the library: a few milliseconds, so that interrupts are
# handled soon, and many times the cost of a call.
_CALL_WORK = 2**28
_MAX_CALL_ROWS = 2**17

# Up to this width, rows are compared by the squared differences themselves.  These are
# exact and cost no more at that width than products and a centre.
_DIRECT = 2

# Products of codewords are looked up if all of them take at most this many bytes.
_PRODUCT_BYTES = 2**26
_MOST_TABLES = 64
# Scores of a table whose codewords are improved are padded to a multiple of this.
_UNIT = 64
# Cost per codeword, in multiply-adds, of the products that a sum looks up.  Most of
# them are those of the sum before.
_LOOK_UP = 24


class _Rows(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("column", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("d", ctypes.c_int32),
    ]


class _Codebook(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("n_codewords", ctypes.c_int64),
        ("n_tables", ctypes.c_int64),
        ("direct", ctypes.c_int32),
        ("halved", ctypes.c_int32),
        ("groups", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        ("centre", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("resolves", ctypes.c_int32),
        ("share", ctypes.c_double),
        ("slack", ctypes.c_double),
        ("rounded", ctypes.c_double),
        ("near", ctypes.c_double),
        ("level", ctypes.c_double),
        ("reach", ctypes.c_double),
        ("words", ctypes.c_void_p),
        ("halves", ctypes.c_void_p),
        ("per_unit", ctypes.c_void_p),
        ("lost", ctypes.c_void_p),
    ]


class _Found(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("code_row", ctypes.c_int64),
        ("code_column", ctypes.c_int64),
        ("code_bytes", ctypes.c_int32),
        ("state", ctypes.c_void_p),
        ("distances", ctypes.c_void_p),
        ("best", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("norms", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    ]


class _Stage(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32),
        ("d", ctypes.c_int32),
        ("n_codewords", ctypes.c_int64),
        ("n_panels", ctypes.c_int64),
        ("panels", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
    ]


class _Choice(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_int64),
        ("n_sums", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("is_sorted", ctypes.c_int32),
        ("slack", ctypes.c_double),
        ("costs", ctypes.c_void_p),
        ("least", ctypes.c_void_p),
        ("reach", ctypes.c_void_p),
        ("parent", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("errors", ctypes.c_void_p),
        ("settled", ctypes.c_void_p),
    ]


class _PartialSums(ctypes.Structure):
    _fields_ = [
        ("n_tables", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("products", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
    ]


class _PairsStruct(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32),
        ("n_tables", ctypes.c_int32),
        ("sizes", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("products", ctypes.c_void_p),
        ("words", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
    ]


class _Improved(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("scores", ctypes.c_void_p),
        ("words", ctypes.c_void_p),
        ("room", ctypes.c_void_p),
        ("least", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
    ]


class _Pairs(NamedTuple):
    """Tables that are improved in turn, and the products of their codewords."""

    pairs: _PairsStruct
    arrays: tuple[Any, ...]
    stages: list[Any]  # for the scores that depend on the row
    starts: np.ndarray
    exact: np.ndarray  # addresses of the tables as given but scaled
    margin: Any


class _LookUps(NamedTuple):
    """Addresses of the data that a beam search looks up."""

    # For each table, products of its codewords with those before it.
    products: list[Any]
    rows: np.ndarray  # the tables
    exact: np.ndarray  # the same without centres, as given but scaled
    arrays: list[Any]


class _Book(NamedTuple):
    """Tables of one shape, packed for the library."""

    codebook: _Codebook
    arrays: tuple[Any, ...]  # keeps the memory behind the addresses
    scratch_bytes: int
    dtype: np.dtype
    n_tables: int
    code_dtype: np.dtype  # the narrowest dtype that holds all codes
    # Index of each codeword of the first table among the distinct ones; None: its own.
    place: np.ndarray | None


class _Panels(NamedTuple):
    """A stage of a beam search, packed for the library."""

    stage: _Stage
    arrays: tuple[Any, ...]
    book: _Book  # the same table, for the search of one codeword


class NativeBackend(NumpyBackend):
    """The host, with the compiled library."""

    group: Any

    is_compiled = True

    def fingerprint(self) -> str:
        """Return, in words, what the bits of results depend on."""
        return f"the compiled engine {self._sources} and {super().fingerprint()}"

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__()
        self.library = library
        self._sources = sources_of(library)
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        for name, result, arguments in (
            (
                "pack",
                None,
                [ctypes.c_int32, pointer, integer, integer, pointer, pointer],
            ),
            (
                "pack_integers",
                ctypes.c_int32,
                [pointer, integer, integer, ctypes.c_int32, *[pointer] * 4],
            ),
            ("search", integer, [pointer] * 4),
            ("search_scratch", integer, [pointer]),
            ("unit_rows", None, [pointer, ctypes.c_int32, pointer, pointer]),
            ("unit_rows_scratch", integer, [integer]),
            ("sums", None, [pointer] * 6),
            ("squared_gaps", None, [pointer] * 5),
            ("sums_scratch", integer, [integer]),
            ("panel", ctypes.c_int32, [ctypes.c_int32]),
            ("unit", ctypes.c_int32, [ctypes.c_int32]),
            ("choose_scratch", integer, [pointer, integer, integer]),
            ("choose", None, [pointer] * 4),
            ("choose_by_look_up", None, [pointer] * 4),
            ("errors", None, [pointer, integer, integer, *[pointer] * 3]),
            ("extend", None, [*[integer] * 4, *[pointer] * 4]),
            ("advance", None, [pointer, integer, integer, integer, *[pointer] * 5]),
            ("scores", None, [pointer, integer, pointer, pointer, integer]),
            (
                "pack_words",
                None,
                [pointer, *[integer] * 5, pointer, integer, pointer],
            ),
            (
                "unpack_words",
                None,
                [pointer, *[integer] * 5, pointer, integer, pointer],
            ),
            ("pack_pairs", None, [pointer]),
            ("pack_scores", None, [pointer] * 2),
            ("sum_errors", None, [pointer] * 3),
            (
                "improve",
                None,
                [pointer, pointer, pointer, integer, ctypes.c_int32, pointer],
            ),
            (
                "move",
                None,
                [ctypes.c_int32, integer, integer, *[pointer] * 3, ctypes.c_int32],
            ),
        ):
            function = getattr(library, f"skvq_{name}")
            function.restype, function.argtypes = result, arguments
        native_levels.declare(library)
        native_scan.declare(library)
        self.group = library.skvq_group()
        self.tile_rows = library.skvq_tile_rows()

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that distinguishes this backend's tables from those of others."""
        return ("native",)

    # -- tables and rows in the form of the library ----------------------------------

    def sent(self, form: Any, kind: str = "") -> Any:
        """Return a form with the data that the library takes."""
        pack = getattr(self, f"_packed_{kind}", None)
        return form if pack is None else form._replace(packed=pack(form))

    def _packed_flat(self, form: Any) -> _Book:
        return self._packed_run(form, (form,))

    def _packed_run(self, run: Any, tables: tuple[Any, ...] = ()) -> _Book:
        tables = tables or run.tables
        one, dtype = tables[0], tables[0].weights.dtype
        plain = one.bias is None and one.offset is None and not one.rounded
        scale = np.array([table.scale for table in tables], dtype)
        weights = [table.weights for table in tables]
        centres = [table.centre for table in tables]
        direct = plain and one.rows.shape[1] <= _DIRECT
        if direct:
            weights = []
            for table, each in zip(tables, scale, strict=True):
                rows = table.exact.T * -each
                weights.append(np.vstack([rows, np.zeros_like(rows[:1])]))
            centres = [np.zeros_like(centre) for centre in centres]
        return self._book(
            weights,
            margin=one.margin,
            centre=_joined(centres),
            scale=scale,
            first=[table.first for table in tables],
            exact=_joined([table.exact for table in tables]),
            direct=direct,
            resolves=plain,
            # Unit rows have their own rounding, and half the distance.
            halved=one.rounded > 0,
            rounded=one.rounded,
            near=one.near,
            offset=one.offset,
            level=one.level,
            reach=one.reach,
        )

    def _packed_factor(self, form: Any) -> _Book:
        return self._book([form.weights], margin=form.margin)

    def _packed_stage(self, form: Any) -> _Panels:
        stage, arrays = self._panels(form.weights[:-2].T, form.weights[-2], form.rows)
        return _Panels(stage, arrays, self._book([form.weights[:-1]], form.margin))

    def _panels(
        self, rows: np.ndarray, constants: Any, codewords: Any, unit: int = 1
    ) -> tuple[_Stage, tuple[Any, ...]]:
        """Return a table in panels, which together are a multiple of a unit wide."""
        dtype = rows.dtype
        size, d = rows.shape
        width = self.library.skvq_panel(TYPES[dtype.name])
        unit = max(unit, width)
        n_panels = -(-size // unit) * (unit // width)
        panels = np.zeros((n_panels * width, d), dtype)
        panels[:size] = -rows
        panels = _aligned(panels.reshape(n_panels, width, d).swapaxes(1, 2))
        padded = _aligned(np.full(n_panels * width, np.inf, dtype))
        padded[:size] = constants
        arrays = panels, padded, np.ascontiguousarray(codewords)
        stage = _Stage(
            TYPES[dtype.name],
            d,
            size,
            n_panels,
            *(each.ctypes.data for each in arrays),
        )
        return stage, arrays

    def _products(self, rows: np.ndarray, others: Any, padded: int) -> list[Any]:
        """Return the products (n, padded) of each of others with a table's rows."""
        wide = rows.astype(np.float64)
        # Scores without constants, negated; no BLAS takes part in these chains of sums.
        plain, _kept = self._panels(wide, np.zeros(len(rows)), wide)
        found = []
        for other in others:
            scores = np.zeros((len(other), padded))
            other = other.astype(np.float64, order="C")
            step = max(1, _CALL_WORK // max(1, rows.size))
            for low in range(0, len(other), step):
                self.library.skvq_scores(
                    ctypes.byref(plain),
                    min(step, len(other) - low),
                    other[low:].ctypes.data,
                    scores[low:].ctypes.data,
                    padded,
                )
            scores[:, len(rows) :] = 0
            found.append(_aligned(scores, rows.dtype))
        return found

    def products(self, search: Any, stages: list[Any], tables: Any) -> Any:
        """Return the data that a beam search looks up; None if it does not.

        The choice depends on the tables alone, so that codes do not depend on other
        rows.
        """
        rows = [stage.rows for stage in stages]
        sizes = [len(each) for each in rows]
        unit = self.library.skvq_unit(TYPES[search.dtype.name])
        padded = [-(-size // unit) * unit for size in sizes]
        n_products = sum(wide * sum(sizes[:j]) for j, wide in enumerate(padded))
        spared = sum(
            len(stage.rows)
            * ((before.width - 1) * search.width - _LOOK_UP * before.width)
            for before, stage in pairwise(stages)
        )
        fits = n_products * search.dtype.itemsize <= _PRODUCT_BYTES
        if spared <= 0 or not fits or len(rows) > _MOST_TABLES or search.biased:
            return None

        def make() -> _LookUps:
            made = [
                self._products(each, rows[:j], padded[j]) for j, each in enumerate(rows)
            ]
            products = [_addresses(each) for each in made]
            exact = _as_given(tables, stages, search)
            where = _addresses(rows), _addresses(exact)
            return _LookUps(products, *where, [made, rows, exact])

        return tables.form(("products", search.dtype, self.key), make)

    def pairs(self, search: Any, factors: list[Any], tables: Any) -> Any:
        """Return the products of all codewords; None if they take too much memory."""
        dtype, n_tables = factors[0].rows.dtype, len(factors)
        sizes = np.array([len(factor.rows) for factor in factors], np.int64)
        padded = -(-sizes // _UNIT) * _UNIT
        total = int(padded.sum() * sizes.sum()) * (dtype.itemsize + 2)
        if n_tables > _MOST_TABLES or total > _PRODUCT_BYTES:
            return None
        products, words = [], []
        where, in_words = (np.zeros((n_tables, n_tables), np.uintp) for _ in range(2))
        for j, factor in enumerate(factors):
            others = [o for o in range(n_tables) if o != j]
            rows = [factors[o].rows for o in others]
            made = self._products(factor.rows, rows, int(padded[j]))
            rounded = [aligned_empty(each.shape, np.uint16) for each in made]
            where[j, others], in_words[j, others] = map(_addresses, (made, rounded))
            products += made
            words += rounded
        starts = np.append(0, np.cumsum(padded))
        arrays = sizes, starts, where, in_words, np.ones(n_tables)
        pairs = _PairsStruct(
            TYPES[dtype.name], n_tables, *(each.ctypes.data for each in arrays)
        )
        self.library.skvq_pack_pairs(ctypes.byref(pairs))
        stages = [
            self._panels(factor.weights[:-1].T, factor.weights[-1], factor.rows, _UNIT)
            for factor in factors
        ]
        exact = _as_given(tables, factors, search)
        kept = *arrays, *products, *words, *exact
        margin = max(factor.margin for factor in factors)
        return _Pairs(pairs, kept, stages, starts, _addresses(exact), margin)

    def _book(
        self,
        weights: list[Any],
        margin: Any,
        *,
        centre: Any = None,
        scale: Any = None,
        first: Any = (None,),
        exact: Any = None,
        offset: Any = None,
        direct: bool = False,
        rounded: float = 0.0,
        **options: Any,
    ) -> _Book:
        dtype, n_tables = weights[0].dtype, len(weights)
        width, size = weights[0].shape[0] - 1, weights[0].shape[1]
        padded = -(-size // self.group) * self.group
        # Where a group is narrower, eight lanes are read all the same.
        groups = np.zeros(n_tables * padded * width + 8, dtype)
        constants = np.full(n_tables * padded + 8, np.inf, dtype)
        for j, each in enumerate(map(np.ascontiguousarray, weights)):
            self.library.skvq_pack(
                TYPES[dtype.name],
                each.ctypes.data,
                size,
                width,
                groups[j * padded * width :].ctypes.data,
                constants[j * padded :].ctypes.data,
            )
        integers = self._integers(weights, direct) if offset is None else None
        centre = np.zeros((n_tables, width), dtype) if centre is None else centre
        scale = np.ones(n_tables, dtype) if scale is None else scale
        most, place = size, None
        if any(each is not None for each in first):
            every = np.arange(size)
            first = np.stack([every if each is None else each for each in first])
            first = first.astype(np.int64)
            most = int(first.max()) + 1
            place = np.zeros(most, np.intp)
            place[first[0]] = every
        else:
            first = None
        arrays = {
            "groups": groups,
            "constants": constants,
            "centre": centre,
            "scale": scale,
            "first": first,
            "exact": exact,
            "offset": offset,
            **(integers or {}),
        }
        codebook = _Codebook(
            type=TYPES[dtype.name],
            width=width,
            n_codewords=size,
            n_tables=n_tables,
            direct=direct,
            share=margin.share,
            slack=margin.slack,
            rounded=rounded + margin.least,
            **{k: each.ctypes.data for k, each in arrays.items() if each is not None},
            **options,
        )
        return _Book(
            codebook,
            tuple(arrays.values()),
            self.library.skvq_search_scratch(ctypes.byref(codebook)),
            dtype,
            n_tables,
            np.min_scalar_type(max(0, most - 1)),
            place,
        )

    def _integers(
        self, weights: list[Any], direct: bool
    ) -> dict[str, np.ndarray] | None:
        """Return tables in integers; None where a search would not be faster."""
        if weights[0].dtype != np.float32:
            return None
        n_tables, (width, size) = len(weights), weights[0].shape
        width -= 1
        padded = -(-size // self.group) * self.group
        n_words = padded * -(-width // 2)
        words = aligned_empty((n_tables * n_words + 8,), np.int32)
        # Where a group is narrower, eight lanes are read all the same.
        halves = np.zeros(n_tables * padded + 8, np.int32)
        per_unit, lost = np.empty((2, n_tables), np.float32)
        for j, each in enumerate(map(np.ascontiguousarray, weights)):
            to = words[j * n_words :], halves[j * padded :], per_unit[j:], lost[j:]
            if not self.library.skvq_pack_integers(
                each.ctypes.data, size, width, direct, *(one.ctypes.data for one in to)
            ):
                return None
        return {"words": words, "halves": halves, "per_unit": per_unit, "lost": lost}

    @staticmethod
    def rows(x: np.ndarray) -> tuple[_Rows, np.ndarray]:
        """Return rows in the form of the library, and the array to keep alive."""
        if x.dtype == np.bool_:
            x = x.view(np.uint8)
        number = _TYPES.get(x.dtype)
        if number is None:
            # Only a tile is copied.
            native = x.dtype.newbyteorder("=")
            x = x.astype(native if native in _TYPES else np.float64)
            number = _TYPES[x.dtype]
        return _Rows(x.ctypes.data, len(x), *x.strides, number, x.shape[1]), x

    @staticmethod
    def memory(n_bytes: int) -> int:
        """Return the address of scratch memory of this thread."""
        return scratch.address("native", n_bytes)

    # -- one table, and tables of subspaces ------------------------------------------

    def rows_at_a_time(self, n_features: int, n_codewords: int) -> int:
        """Return how many rows of a search a thread takes at a time."""
        return self.product_rows_at_a_time(n_features * n_codewords)

    def product_rows_at_a_time(self, work: float) -> int:
        """Return the same for a search in subspaces."""
        return max(16, min(_CALL_WORK // max(1, int(work)), _MAX_CALL_ROWS))

    def nearest_rows(
        self, x: Any, form: Any, metric: str, dtype: np.dtype, distances: bool
    ) -> tuple[Any, ...]:
        """Return codes and state of a tile of rows, and distances if wanted."""
        if metric == "cosine":
            x = self._unit_rows(x, scratch("unit rows", x.shape, dtype))
        book, here = form.packed, metric != "inner_product"
        codes, state, found, _ = self._search(x, book, np.intp, distances and here)
        code = codes[:, 0]
        if not distances:
            return code, state[0]
        if not here:
            place = code if book.place is None else book.place[code]
            found = self.distances_of(x, form, metric, place)
        return code, state[0], found

    def unit_rows(self, x: Any) -> Any:
        """Return rows divided by their norms; zero rows become NaN."""
        if x.dtype not in (np.float32, np.float64):
            return super().unit_rows(x)
        return self._unit_rows(x, np.empty(x.shape, x.dtype))

    def _unit_rows(self, x: Any, units: np.ndarray) -> np.ndarray:
        rows, _kept = self.rows(x)
        self.library.skvq_unit_rows(
            ctypes.byref(rows),
            TYPES[units.dtype.name],
            units.ctypes.data,
            self.memory(self.library.skvq_unit_rows_scratch(x.shape[1])),
        )
        return units

    def most_run_scores(self, n_codewords: int) -> int:
        """Return that the scores of a row in a run of subspaces have no limit."""
        return 2**62

    def product_tile(self, x: Any, dtype: np.dtype) -> Any:
        """Return the rows."""
        return x

    def argmin_run(self, x: Any, run: Any) -> tuple[Any, Any]:
        """Return codes (n_rows, m) in consecutive subspaces, and their state."""
        book = run.packed
        codes, state, *_ = self._search(
            x[:, run.start : run.stop], book, book.code_dtype
        )
        return codes, state.T

    def _search(
        self,
        x: Any,
        book: _Book,
        code_dtype: Any,
        distances: Any = False,
        scores: Any = False,
        cells: Any = None,
        out: Any = None,
    ) -> tuple[Any, ...]:
        """Return codes (n, m), state (m, n), distances, and best scores and norms.

        Codes and states are written to `out`, if given, and rows are added to `cells`,
        which are sums, counts and weights of the rows.
        """
        n = len(x)
        if out is None:
            codes = np.empty((n, book.n_tables), code_dtype)
            state = np.empty((book.n_tables, n), np.uint8)
        else:
            codes, state = out
        found = np.empty(n) if distances else None
        own = np.empty((3, n), book.dtype) if scores else None
        rows, _kept = self.rows(x)
        none = (None,) * 3
        arrays = [found, *(none if own is None else own), *(cells or none)]
        to = _Found(
            codes.ctypes.data,
            *codes.strides,
            codes.itemsize,
            state.ctypes.data,
            *(None if each is None else each.ctypes.data for each in arrays),
        )
        self.library.skvq_search(
            ctypes.byref(book.codebook),
            ctypes.byref(rows),
            ctypes.byref(to),
            self.memory(book.scratch_bytes),
        )
        return codes, state, found, own

    def squared_gaps(self, x: Any, rows: Any, codes: Any) -> Any:
        """Return ||x - c||^2 in float64, c being a row by its code, or the same row."""
        if codes is not None and len(rows) > len(x):
            # Of a large table, only what is looked up is converted.
            rows, codes = rows[codes], None
        rows = np.ascontiguousarray(rows, np.float64)
        if codes is not None:
            codes = np.ascontiguousarray(codes, np.int64)
        some, _kept = self.rows(x)
        found = np.empty(len(x))
        self.library.skvq_squared_gaps(
            ctypes.byref(some),
            rows.ctypes.data,
            None if codes is None else codes.ctypes.data,
            found.ctypes.data,
            self.memory(self.library.skvq_sums_scratch(x.shape[1])),
        )
        return found

    def row_sums(self, x: Any) -> Any:
        """Return sums along the last axis, as float64, without linear algebra."""
        return np.sum(x, axis=-1, dtype=np.float64)

    # -- sums of codewords -----------------------------------------------------------

    def residuals(self, x: Any, n_sums: int, search: Any) -> Any:
        """Return the residuals of a tile of rows after n_sums empty partial sums."""
        if search.products is not None:
            return _LookedUp(self, x, search)
        return _Residuals(self, x, n_sums, search)

    def sums(
        self, x: Any, factors: list[Any], centre: list[Any], search: Any
    ) -> "Sums":
        """Return one sum of codewords per row of a tile, to be improved."""
        return _Sums(self, x, factors, centre, search)

    def move(self, x: np.ndarray, codewords: Any, codes: Any, sign: int) -> None:
        """Add codewords, times 1 or -1, to rows in place."""
        codes = np.ascontiguousarray(codes, np.int64)
        self.library.skvq_move(
            TYPES[x.dtype.name],
            *x.shape,
            x.ctypes.data,
            codewords.ctypes.data,
            codes.ctypes.data,
            sign,
        )

    def trellis_search(self, form: Any) -> Any:
        """Return an object that finds paths through a trellis."""
        return NativeTrellisSearch(self.library, form)

    # -- cells of scalar levels ------------------------------------------------------

    def equal_cells(self, X: Any, cells: EqualCells, dtype: Any) -> Any:
        """Return the cells (n_rows, n_columns) of floating X among equal cells."""
        found = native_levels.equal_cells(self, X, cells, dtype)
        return super().equal_cells(X, cells, dtype) if found is None else found

    def edges(self, edges: Sequence[np.ndarray]) -> Any:
        """Return the ascending edges of columns in the form that searches take."""
        is_wide = edges[0].itemsize > 8
        return super().edges(edges) if is_wide else native_levels.Edges(self, edges)

    def cells_between(self, X: Any, edges: Any, dtype: Any) -> Any:
        """Return how many edges of its column each value of floating X has reached."""
        if X.itemsize > 8:
            return super().cells_between(X, edges, dtype)
        return native_levels.cells_between(self, X, edges, dtype)

    # -- packed codes ----------------------------------------------------------------

    def scanner(self, codes: Any, tables: Any) -> Any:
        """Return an object that lets rows of packed codes compete for the best."""
        if native_scan.takes(codes):
            return native_scan.Scanner(self.library, codes, tables)
        return super().scanner(codes, tables)

    def pack_words(self, words: Any, widths: Sequence[int], row_aligned: bool) -> Any:
        """Return words packed into bytes, each in so many bits, highest bits first."""
        if not words.dtype.isnative:
            words = words.astype(words.dtype.newbyteorder("="))
        (n, m), n_bits = words.shape, sum(widths)
        in_int32 = np.array(widths, np.int32)
        shape = (n, -(-n_bits // 8)) if row_aligned else (-(-n * n_bits // 8),)
        packed = np.empty(shape, np.uint8)
        self.library.skvq_pack_words(
            words.ctypes.data,
            n,
            m,
            *words.strides,
            words.itemsize,
            in_int32.ctypes.data,
            row_aligned,
            packed.ctypes.data,
        )
        return packed

    def unpack_words(
        self,
        packed: Any,
        n_rows: int,
        widths: Sequence[int],
        row_aligned: bool,
        dtype: Any,
    ) -> Any:
        """Return the words (n_rows, n_words) that were packed, in an unsigned dtype."""
        if packed.strides[-1] != 1:
            packed = np.ascontiguousarray(packed)
        in_int32 = np.array(widths, np.int32)
        words = np.empty((n_rows, len(widths)), dtype)
        self.library.skvq_unpack_words(
            packed.ctypes.data,
            *words.shape,
            packed.strides[0],
            packed.shape[-1],
            words.itemsize,
            in_int32.ctypes.data,
            row_aligned,
            words.ctypes.data,
        )
        return words

    # -- sums of rows ----------------------------------------------------------------

    def _call_rows(self, d: int, n_codewords: int) -> int:
        most = self.rows_at_a_time(d, n_codewords)
        return -(-most // self.tile_rows) * self.tile_rows

    def adds_up_found(self, X: Any, n_codewords: int, dtype: np.dtype[Any]) -> bool:
        """Return whether rows are best added up while they are searched, in a dtype."""
        if X.dtype != dtype:
            return False
        # Sums are cut by other borders than searches, and threads take turns.
        n, threads = max(1, len(X)), n_threads()

        def turns(rows: int) -> float:
            n_chunks = -(-n // rows)
            return -(-n_chunks // threads) / n_chunks

        own = turns(self._call_rows(X.shape[1], n_codewords))
        return turns(sum_chunk(X, n_codewords)) <= 1.1 * own

    def nearest_cells(
        self, X: Any, form: Any, weights: Any, size: int, dtype: np.dtype[Any]
    ) -> tuple[Any, ...]:
        """Return codes, state, and sums and counts by code."""
        (n, d), most = X.shape, self._call_rows(X.shape[1], size)
        codes, state = np.empty(n, dtype), np.empty(n, np.uint8)

        def added(start: int, stop: int) -> tuple[Any, ...]:
            sums, counts = np.zeros((size, d)), np.zeros(size)
            for low in range(start, stop, most):
                rows = slice(low, min(low + most, stop))
                own = weights
                if own is not None:
                    own = np.ascontiguousarray(weights[rows], np.float64)
                self._search(
                    X[rows],
                    form.packed,
                    dtype,
                    cells=(sums, counts, own),
                    out=(codes[rows, None], state[None, rows]),
                )
            return sums, counts

        return codes, state, *self.sums_of_chunks(X, size, added, d * (size + 16))

    def added_up(
        self, rows: np.ndarray, codes: Any, n_codewords: Any, weights: Any
    ) -> tuple[Any, ...]:
        """Return float64 sums and counts by code, added in the order of the rows."""
        d = rows.shape[1]
        sums, counts = np.zeros((n_codewords, d)), np.zeros(n_codewords)
        codes = np.ascontiguousarray(codes, np.int64)
        if weights is not None:
            weights = np.ascontiguousarray(weights, np.float64)
        size, most = self.library.skvq_sums_scratch(d), max(1, 2**23 // max(1, d))
        for low in range(0, len(rows), most):
            some, _kept = self.rows(rows[low : low + most])
            self.library.skvq_sums(
                ctypes.byref(some),
                codes[low:].ctypes.data,
                None if weights is None else weights[low:].ctypes.data,
                sums.ctypes.data,
                counts.ctypes.data,
                self.memory(size),
            )
        return sums, counts


def _addresses(arrays: list[Any]) -> np.ndarray:
    """Return the addresses of arrays."""
    return np.array([each.ctypes.data for each in arrays], np.uintp)


def _as_given(tables: Any, forms: Any, search: Any) -> list[np.ndarray]:
    """Return the distinct codewords of tables, scaled, and not about their centres."""
    found = []
    for table, form in zip(tables, forms, strict=True):
        rows = table.codewords if form.first is None else table.codewords[form.first]
        scaled = rows.astype(np.float64) * search.scale
        found.append(scaled.astype(search.dtype, order="C"))
    return found


def _aligned(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """Return a copy that begins with a line of the caches."""
    copy = aligned_empty(array.shape, array.dtype if dtype is None else dtype)
    copy[...] = array
    return copy


def _joined(arrays: list[Any]) -> np.ndarray:
    """Return the concatenation of arrays."""
    return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.stack(arrays))


def _judged(
    best: Any, second: Any, norms: Any, distances: Any, form: Any
) -> np.ndarray:
    """Return the state of the rows, as for `Backend.judged`."""
    few, room, state = doubtful(norms, distances, form)
    near = ~(second[few] > best[few] + room)
    state[few[near]] = DOUBTFUL
    return state


class _Residuals:
    """Residuals of a tile of rows after partial sums, (n * b, d), in scratch memory."""

    # Whether the best sum can be told from others by exact distances.
    finds_exactly = False

    def __init__(self, be: NativeBackend, x: Any, n_sums: int, search: Any) -> None:
        self.be, self.b, self.dtype = be, n_sums, search.dtype
        self.n, self.d = x.shape
        self.turn = 0
        self.rest = self._memory()
        self.rest.reshape(self.n, n_sums, self.d)[...] = x[:, None]
        if search.scale != 1.0:
            self.rest *= self.dtype.type(search.scale)
        self.most: Any = None
        self.known: Any = None
        self.found: Any = None
        self.exact = False

    def _memory(self) -> np.ndarray:
        name = ("residuals", "next residuals")[self.turn]
        return scratch(name, (self.n * self.b, self.d), self.dtype)

    def subtract(self, rows: Any, codes: Any) -> None:
        """Subtract codewords, by codes (n, b), from the residuals."""
        self.be.move(self.rest, rows, codes.reshape(-1), -1)
        self.known = None

    def shift(self, centre: Any) -> None:
        """Subtract a centre from all residuals."""
        self.rest -= centre
        self.known = None

    def norms(self) -> np.ndarray:
        """Return the squared norms (n, b) of the residuals, as float64."""
        if self.known is None:
            squares = np.einsum("ij,ij->i", self.rest, self.rest)
            self.known = squares.reshape(self.n, self.b).astype(np.float64)
        return self.known

    def choose(self, loss: Any, stage: Any) -> tuple[Any, Any, Any]:
        """Return sum and codeword of the best candidates, and state of the rows.

        If several are chosen they are in the order of sums and codewords, except after
        the last table.
        """
        plain = loss is None and stage.bias is None
        if self.b == stage.width == 1 and plain:
            return self._choose_one(stage)
        return self._choose_few(loss, stage, plain)

    def _choose_few(self, loss: Any, stage: Any, plain: Any) -> tuple[Any, ...]:
        costs = self.norms()
        self.most = costs.max(axis=1)
        if loss is not None:
            costs = costs + loss / (stage.weight + stage.ahead)
        # Narrow rows are summed along long columns.
        costs = np.asfortranarray(costs)
        least, reach = costs.min(axis=1), self._reach()
        # The best one of all is chosen exactly, if that can be.  Otherwise the second
        # tells how sure it is.
        self.exact = plain and self.finds_exactly and stage.width == 1
        least_width = 1 if self.exact else 2
        width = min(max(least_width, stage.width), self.b * len(stage.rows))
        self.settled = self.exact or (plain and stage.ahead > 0 and stage.width > 1)
        parent, code = (np.empty((self.n, width), np.int64) for _ in range(2))
        errors, near = np.empty((width, self.n)), np.zeros(self.n, np.uint8)
        arrays = costs, least, reach, parent, code, errors, near
        choice = _Choice(
            self.n,
            self.b,
            width,
            not stage.ahead or stage.width == 1,
            4 * stage.margin.slack if self.settled else 0.0,
            *(each.ctypes.data for each in arrays),
        )
        self._find(stage, choice)
        self.found = errors.T[:, : stage.width] if plain else None
        if stage.width > 1:
            return parent, code, None
        return parent[:, :1], code[:, :1], self._state(errors, near, reach, stage)

    def _state(self, errors: Any, near: Any, reach: Any, stage: Any) -> np.ndarray:
        """Return the state of rows whose best sum, and no other, was chosen."""
        second = errors[1] if len(errors) > 1 else np.full(self.n, np.inf)
        return _judged(0.5 * errors[0], 0.5 * second, reach, errors[0], stage)

    def _reach(self) -> np.ndarray:
        """Return the quantity to which the rounding of scores is relative."""
        return self.most

    def _find(self, stage: Any, choice: Any) -> None:
        self._call("choose", stage, choice, self.rest.ctypes.data)

    def _call(self, name: str, stage: Any, *arguments: object) -> None:
        """Call a function of the library with scratch memory."""
        library, packed = self.be.library, ctypes.byref(stage.packed.stage)
        size = library.skvq_choose_scratch(packed, self.b, _MOST_TABLES)
        given = (
            ctypes.byref(each) if isinstance(each, ctypes.Structure) else each
            for each in arguments
        )
        getattr(library, f"skvq_{name}")(packed, *given, self.be.memory(size))

    def _choose_one(self, stage: Any) -> tuple[Any, ...]:
        codes, state, _, own = self.be._search(
            self.rest, stage.packed.book, np.int64, scores=True
        )
        best, _, norms = own
        self.most = norms.astype(np.float64)
        self.found = (self.most + 2 * best)[:, None]
        return np.zeros_like(codes), codes, state[0]

    def advance(self, parent: Any, code: Any, stage: Any) -> None:
        """Replace the residuals by those of the chosen sums."""
        before, self.b, old = self.b, parent.shape[1], self.rest
        self.turn = 1 - self.turn
        self.rest = self._memory()
        one = before == self.b == 1
        norms = None if one else np.empty((self.n, self.b))
        parent, code = (np.ascontiguousarray(each) for each in (parent, code))
        self.be.library.skvq_advance(
            ctypes.byref(stage.packed.stage),
            self.n,
            before,
            self.b,
            old.ctypes.data,
            None if one else parent.ctypes.data,
            code.ctypes.data,
            self.rest.ctypes.data,
            None if norms is None else norms.ctypes.data,
        )
        # With one sum, the distance that its choice has found is good enough to go on.
        self.known = self.found if one and stage.ahead else norms

    def doubtful(self, stage: Any) -> np.ndarray:
        """Return the state of rows for which several sums were chosen."""
        margin, norms = stage.margin, self.norms()
        if self.settled:
            # Distances told which sums are the last that are kept, and all before them
            # are nearer: those may be on the row itself.
            edge, few = norms.max(axis=1), margin.left * self.most
        else:
            edge, few = norms.min(axis=1), margin.coarse * self._reach()
        sure = (edge > few + margin.least) & (self.most < np.inf)
        return (~sure).astype(np.uint8) * np.uint8(DOUBTFUL)


class _LookedUp(_Residuals):
    """Sums in the form of their codes, int32 (n, b, j): products are looked up."""

    finds_exactly = True

    def __init__(self, be: NativeBackend, x: Any, search: Any) -> None:
        super().__init__(be, x, 1, search)
        scaled = x if search.scale == 1.0 else x * self.dtype.type(search.scale)
        self.given = np.ascontiguousarray(scaled)
        self.products, self.largest = search.products, 0.0
        self.codes, self.rough = np.empty((self.n, 1, 0), np.int32), False
        self.ends_exactly = search.n_found == 1 and not search.weighted

    def _paths(self) -> _PartialSums:
        j, (products, rows, exact, _) = self.codes.shape[2], self.products
        pointers = [self.rest, self.codes, rows, products[min(j, len(products) - 1)]]
        pointers += [self.given, exact] if self.exact else []
        return _PartialSums(j, *(each.ctypes.data for each in pointers))

    def norms(self) -> Any:
        """Return the squared norms (n, b) of the residuals, as float64."""
        if self.known is None:
            self.known = np.empty((self.b, self.n)).T
            where = self._paths(), self.known.ctypes.data
            self._call("errors", self.stage, self.n, self.b, *where)
        return self.known

    def choose(self, loss: Any, stage: Any) -> tuple[Any, Any, Any]:
        """Return sum and codeword of the best candidates, and state of the rows."""
        self.stage = stage
        return self._choose_few(loss, stage, loss is None and stage.bias is None)

    def _reach(self) -> Any:
        # Scores hold products with the row, not with its residual, and costs may have
        # been computed from them.
        self.largest = np.maximum(self.largest, self.most)
        return 2 * (self.largest if self.rough else np.sqrt(self.largest * self.most))

    def _state(self, errors: Any, near: Any, reach: Any, stage: Any) -> np.ndarray:
        """Return the state of rows whose best sum, and no other, was chosen."""
        if not self.exact:
            return super()._state(errors, near, reach, stage)
        # Distances were summed in float64, so their rounding is one of the residuals.
        lost = (self.codes.shape[2] + 2) ** 2 * stage.margin.exact
        out = ~((self.largest < np.inf) & (errors[0] < np.inf))
        unsure = (near != 0) & ~(errors[0] > lost * self.largest)
        state = np.where(out, OUT_OF_REACH, np.where(unsure, DOUBTFUL, 0))
        return state.astype(np.uint8)

    def _find(self, stage: Any, choice: Any) -> None:
        self._call("choose_by_look_up", stage, choice, self._paths())

    def advance(self, parent: Any, code: Any, stage: Any) -> None:
        """Replace the sums by those chosen."""
        before, self.b = self.b, parent.shape[1]
        old, j = self.codes, self.codes.shape[2]
        self.codes = np.empty((self.n, self.b, j + 1), np.int32)
        parent, code = (np.ascontiguousarray(each) for each in (parent, code))
        arrays = (old, parent, code, self.codes)
        pointers = (each.ctypes.data for each in arrays)
        self.be.library.skvq_extend(self.n, before, j, self.b, *pointers)
        # More is asked of the last choice: it computes from the rows, unless distances
        # make it.
        left = len(self.products.products) - j - 1
        self.rough = self.settled and left > (0 if self.ends_exactly else 1)
        self.known = self.found if self.rough else None


class _Sums(Sums):
    """Residuals of a tile of rows for sums of codewords, in scratch memory."""

    def __init__(
        self, be: Backend, x: Any, factors: Any, centre: list[Any], search: Any
    ) -> None:
        super().__init__(be, x, factors, centre, search)
        self.left = scratch("residuals", x.shape, search.dtype)
        given = be.cast(x, search.dtype)
        if search.scale != 1.0:
            given = given * search.dtype.type(search.scale)
        self.given = np.ascontiguousarray(given)
        self.pairs = search.pairs
        self.scores: Any = None
        self.words: Any = None
        self.has_words = False
        # In float64, distances of rows in float32 lose nothing that would show.
        self.is_exact = self.pairs is not None and search.dtype == np.float32

    def begin(self, codes: list[Any]) -> None:
        """Go on from other codes; products need no residuals."""
        if self.pairs is None:
            self.leave(codes)

    def improved(
        self, codes: list[Any], order: Any, n_sweeps: int, size: Any
    ) -> tuple[Any, ...]:
        """Return codes after so many sweeps over tables, and the state of the rows."""
        if self.pairs is None:
            return super().improved(codes, order, n_sweeps, size)
        n, library, dtype = len(self.target), self.be.library, self.target.dtype
        starts = self.pairs.starts
        if self.scores is None:
            self.scores = scratch("scores", (n, int(starts[-1])), dtype)
            self.words = scratch("words", self.scores.shape, np.uint16)
            target = np.ascontiguousarray(self.target)
            for start, (stage, _) in zip(starts, self.pairs.stages, strict=False):
                library.skvq_scores(
                    ctypes.byref(stage),
                    n,
                    target.ctypes.data,
                    self.scores[:, start:].ctypes.data,
                    int(starts[-1]),
                )
        found = np.stack(codes, axis=1).astype(np.int64, copy=False)
        steps = np.array(order, np.int64)
        pairs, margin = self.pairs, self.pairs.margin
        # Scores are sums of terms as large as the squares that are reached.
        room = margin.slack * (4 * size + 3 * margin.least)
        least = (len(codes) + 1) ** 2 * margin.exact * size
        state = np.zeros(n, np.uint8)
        room = room.astype(dtype, copy=False)
        least = least.astype(np.float64, copy=False)
        rows = self._rows(self.scores, self.words, room, least, found, state)
        if not self.has_words:
            library.skvq_pack_scores(ctypes.byref(pairs.pairs), ctypes.byref(rows))
            self.has_words = True
        memory = self.be.memory(2 * int(np.diff(starts).max()))
        for sweep in range(n_sweeps):  # one call each, so that interrupts are handled
            library.skvq_improve(
                ctypes.byref(pairs.pairs),
                ctypes.byref(rows),
                steps.ctypes.data,
                len(steps),
                sweep == n_sweeps - 1,
                memory,
            )
        return list(found.T), state

    def _rows(self, *arrays: Any) -> _Improved:
        """Return the rows, and beside them scores, words, room, least, codes, state."""
        *before, codes, state = (
            None if each is None else each.ctypes.data for each in arrays
        )
        where = self.given.ctypes.data, self.pairs.exact.ctypes.data
        return _Improved(*self.given.shape, *before, *where, codes, state)

    def leave(self, codes: list[Any]) -> Any:
        """Set the residuals of the given codes; return their squared norms."""
        if self.pairs is not None:
            found = np.stack(codes, axis=1).astype(np.int64, copy=False)
            errors = np.empty(len(found))
            self.be.library.skvq_sum_errors(
                ctypes.byref(self.pairs.pairs),
                ctypes.byref(self._rows(None, None, None, None, found, None)),
                errors.ctypes.data,
            )
            return errors
        self.left[...] = self.target
        for factor, column in zip(self.factors, codes, strict=True):
            self.be.move(self.left, factor.rows, column, -1)
        return np.einsum("ij,ij->i", self.left, self.left).astype(np.float64)

    def step(self, j: int, column: Any, size: Any) -> tuple[Any, Any]:
        """Return the codes nearest to the other tables' residuals, and their state."""
        factor = self.factors[j]
        self.be.move(self.left, factor.rows, column, 1)
        codes, _, _, own = self.be._search(
            self.left, factor.packed, np.intp, scores=size is not None
        )
        codes, state = codes[:, 0], None
        if size is not None:
            best, second, norms = own
            distances = norms + 2 * best
            norms += norms.dtype.type(factor.rounded) * size
            state = _judged(best, second, norms, distances, factor)
        self.be.move(self.left, factor.rows, codes, -1)
        return codes, state
