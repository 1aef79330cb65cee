"""`skvq.codes.UniqueIds`, which gives each row a code that no other row has."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvq._checks import check_count, check_unmasked, columns_in_words
from skvq._code_checks import (
    check_codes,
    check_integers,
    check_sizes,
    first_out_of_range,
    row_words,
    sent,
    smallest_dtype,
)
from skvq._compat import published_in
from skvq._typing import MatrixLike, Size, Sizes, StackLike
from skvq._validation import followed_backend
from skvq.nearest import Backend

# Returns more candidates for rows, given by their numbers, and their errors.
Widen = Callable[[NDArray[np.intp], int], tuple[StackLike, MatrixLike]]

# Rows whose candidates are turned into Python objects at a time.
_ROWS_AT_A_TIME = 2**10
# Number of rows that a message names.
_MOST_NAMED = 10


@published_in("skvq.codes")
class UniqueIds:
    """Give every row a code of its own: the first of its candidates that is free.

    Items that are near each other have similar codes, and some have equal codes.  If
    codes are to identify items, as semantic ids do in recommenders [1]_, rows have to
    move to the next best code that is free.  `encode_best` finds candidates.

    Rows choose one after the other.  Rows whose second candidate is most expensive
    compared to their first choose first, so that rows with little to lose move.  Ties
    are broken by the candidates, then by the errors.  The set of ids given does
    therefore not depend on the order of the rows; only between rows that are equal in
    all of these does the earlier one choose first, and `widen` may still tell them
    apart.  If a row finds no free candidate, not even among more candidates, other rows
    move on to make room, along the shortest chain that ends at a free id.  So rows are
    left over only if no choice among the candidates serves all of them.

    Parameters
    ----------
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column: the `codebook_sizes_` of the
        quantizer.
    overflow : {"error", "digit"}, default="error"
        What to do with rows for which no room can be made: raise an error that names
        them, or append a digit to the codes, which is 0 for all other rows.  Such a row
        gets the first of its candidates whose next free digit is lowest.
    max_width : int, default=256
        The most candidates per row to ask for.

    Attributes
    ----------
    ids_ : ndarray of shape (n_rows, n_codes) or (n_rows, n_codes + 1)
        The ids, including the digit under ``overflow="digit"``; ids from `add` come
        after the others.  Like the other attributes it is a NumPy array.
    sizes_ : tuple of int
        Number of values of each column of `ids_`; with a digit, the last one is
        `n_digits_`.
    n_digits_ : int
        Number of values of the digit: 1 if none was needed.
    width_ : int
        The most candidates per row asked for so far.
    moved_ : ndarray of bool, shape (n_rows,)
        Whether a row has another id than its first candidate, or a digit above 0.
    excess_ : ndarray of float64, shape (n_rows,)
        Error of the id's codes minus that of the first candidate; negative where the
        first one is not the nearest, as with balanced codes.

    Raises
    ------
    TypeError
        If a size is not an integer.
    ValueError
        If a size, `overflow` or `max_width` is out of range.

    See Also
    --------
    disambiguate : Appends a column with the rank among equal codes.
    skvq.metrics.duplicate_rate : Share of rows beyond the first with the same codes.
    skvq.metrics.collision_rate : Share of rows whose codes other rows have too.

    References
    ----------
    .. [1] S. Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS
       2023, arXiv 2305.05065.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ResidualQuantizer
    >>> from skvq.codes import UniqueIds
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> rq = ResidualQuantizer(2, 32, random_state=0).fit(X)
    >>> len(np.unique(rq.transform(X), axis=0))
    144
    >>> ids = UniqueIds(rq.codebook_sizes_)
    >>> given = ids.assign(
    ...     *rq.encode_best(X, 8), widen=lambda rows, n: rq.encode_best(X[rows], n)
    ... )
    >>> len(np.unique(given, axis=0)), ids.row_of(given[[7, 150]]).tolist()
    (200, [7, 150])
    >>> ids.add(*rq.encode_best(X[:1] + 0.1, 16)).shape
    (1, 2)
    """

    excess_: NDArray[Any]
    ids_: NDArray[Any]
    max_width: int
    moved_: NDArray[Any]
    n_digits_: int
    sizes: tuple[int, ...]
    sizes_: tuple[int, ...]
    width_: int

    def __init__(
        self,
        sizes: Sizes,
        *,
        overflow: Literal["error", "digit"] = "error",
        max_width: Size = 256,
    ) -> None:
        self.sizes = check_sizes(sizes)
        if overflow not in ("error", "digit"):
            raise ValueError(f"overflow must be 'error' or 'digit', got {overflow!r}")
        self.overflow = overflow
        self.max_width = check_count("max_width", max_width)

    def __repr__(self) -> str:
        given = "no ids yet"
        if hasattr(self, "_given"):
            given = f"{len(self.ids_)} ids, {int(self.moved_.sum())} of them moved"
            if self.n_digits_ > 1:
                given += f", a digit of {self.n_digits_} values"
        return f"<UniqueIds in {columns_in_words(self.sizes)}; {given}>"

    def assign(
        self, candidates: StackLike, errors: MatrixLike, *, widen: Widen | None = None
    ) -> NDArray[Any]:
        """Give ids to rows, and forget all ids given before.

        If it fails, the ids given before stay.

        Parameters
        ----------
        candidates : array-like of int, shape (n_rows, n_candidates, n_codes)
            Codes of each row, best first; some may be repeated.
        errors : array-like of shape (n_rows, n_candidates)
            Cost of each candidate; if costs do not ascend, as with prices, the order of
            the candidates counts.
        widen : callable, optional
            ``widen(rows, n)`` returns n candidates of some rows, and their errors;
            fewer mean that there are no more.  For rows without a free candidate it is
            called with twice as many, repeatedly, up to `max_width`.  `rows` are their
            numbers, ascending.

        Returns
        -------
        ids : ndarray of shape (n_rows, n_codes) or (n_rows, n_codes + 1)
            As in `ids_`, but in the library of the candidates.

        Raises
        ------
        TypeError
            If candidates are not integers.
        ValueError
            If shapes do not fit, a candidate is out of range, an error is not finite,
            or rows are left without an id.
        """
        return self._give(_Given(), candidates, errors, widen)

    def add(
        self, candidates: StackLike, errors: MatrixLike, *, widen: Widen | None = None
    ) -> NDArray[Any]:
        """Give free ids to new rows, and keep all ids given before.

        Only new rows move to make room for others.

        Parameters
        ----------
        candidates, errors, widen : objects
            As in `assign`; `widen` gets the numbers of new rows, from 0 on.

        Returns
        -------
        ids : ndarray of shape (n_new_rows, n_codes) or (n_new_rows, n_codes + 1)
            The ids of the new rows, which are numbered after the others.

        Raises
        ------
        TypeError, ValueError
            As in `assign`.
        """
        return self._give(getattr(self, "_given", _Given()), candidates, errors, widen)

    def row_of(self, ids: MatrixLike) -> NDArray[np.intp]:
        """Return the row that has each id.

        Parameters
        ----------
        ids : array-like of int, shape (n_ids, n_codes) or (n_ids, n_codes + 1)
            As many columns as `ids_` has.

        Returns
        -------
        rows : ndarray of intp, shape (n_ids,)
            Row numbers; -1 where no row has the id.

        Raises
        ------
        ValueError
            If nothing was assigned, the shape does not fit, or an id is out of range.
        """
        if not hasattr(self, "_given"):
            raise ValueError("UniqueIds has given no ids yet: call assign first")
        be, found = check_codes(ids, self.sizes_, "ids")
        digits = [0] * len(found)
        if self.overflow == "digit":
            digits = found[:, -1].tolist()
        keys = self._words(found[:, : len(self.sizes)]).tolist()
        rows = [self._given.row(*pair) for pair in zip(keys, digits, strict=True)]
        return sent(be, np.array(rows, dtype=np.intp))

    # -- giving ids ----------------------------------------------------------------

    def _give(
        self, before: _Given, candidates: Any, errors: Any, widen: Widen | None
    ) -> NDArray[Any]:
        be, asked = self._checked(candidates, errors)
        n = len(asked.codes)
        if self.overflow == "error":
            self._check_room(len(before.moved) + n)
        new = _Given(asked)
        left = self._take_free(before, new, asked, np.arange(n))
        while len(left) and widen is not None and asked.width < self.max_width:
            n_wanted = min(2 * asked.width, self.max_width)
            left = np.sort(left)
            wider = self._checked(*widen(left.copy(), n_wanted), n_rows=len(left))[1]
            grows = wider.width > asked.width
            asked = wider
            new.width = max(new.width, asked.width)
            left = self._take_free(before, new, asked, left)
            if not grows:
                break
        over = self._make_room(before, new, left)
        if over and self.overflow == "error":
            _refuse(over, n, new.width)
        self._take_digits(before, new, over)
        self._keep(before, new)
        return sent(be, self.ids_[len(self.ids_) - n :].copy())

    def _take_free(
        self, before: _Given, new: _Given, asked: _Asked, rows: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Let rows take their first free candidates.

        Return the rows that found none, in the order of choice.
        """
        left, order = [], asked.order()
        for start in range(0, len(order), _ROWS_AT_A_TIME):
            places = order[start : start + _ROWS_AT_A_TIME]
            keys = self._words(asked.codes[places]).tolist()
            for place, own in zip(places.tolist(), keys, strict=True):
                row = int(rows[place])
                new.candidates[row] = asked, place
                for b, key in enumerate(own):
                    if key not in before.rows and key not in new.rows:
                        new.rows[key] = row
                        new.take(row, b)
                        break
                else:
                    left.append(row)
        return np.array(left, dtype=np.intp)

    def _make_room(
        self, before: _Given, new: _Given, rows: NDArray[np.intp]
    ) -> list[int]:
        """Let rows take ids from others, which move on along the shortest chains.

        Return the rows from which no chain leads to a free id.
        """
        left: list[int] = []
        closed: set[bytes] = set()
        for row in rows.tolist():
            reached: dict[bytes, tuple[int, int]] = {}  # the candidate that takes it
            waiting, end = deque([row]), b""
            while waiting and not end:
                one = waiting.popleft()
                for b, key in enumerate(self._keys(new, one)):
                    if key in reached or key in closed or key in before.rows:
                        continue
                    reached[key] = one, b
                    if key not in new.rows:
                        end = key
                        break
                    waiting.append(new.rows[key])
            if not end:
                # No row can ever move on from these.
                closed.update(reached)
                left.append(row)
            while end:
                one, b = reached[end]
                own = b"" if one == row else bytes(self._words(new.codes[one]))
                new.rows[end] = one
                new.take(one, b)
                end = own
        return left

    def _take_digits(self, before: _Given, new: _Given, rows: list[int]) -> None:
        """Let the rows left over take the candidates whose next digits are lowest."""
        for row in rows:
            keys = self._keys(new, row)
            digits = [1 + before.n_more(key) + new.n_more(key) for key in keys]
            b = digits.index(min(digits))
            new.more.setdefault(keys[b], []).append(row)
            new.take(row, b, digits[b])

    def _keys(self, new: _Given, row: int) -> list[bytes]:
        """Return the keys of the candidates of a row."""
        asked, place = new.candidates[row]
        return self._words(asked.codes[place]).tolist()

    def _keep(self, before: _Given, new: _Given) -> None:
        """Set the attributes after everything went well."""
        n = len(before.moved)
        before.rows.update((key, n + row) for key, row in new.rows.items())
        for key, rows in new.more.items():
            before.more.setdefault(key, []).extend(n + row for row in rows)
        new.moved = (new.codes != new.first).any(axis=1) | (new.digits > 0)
        if before.codes is None:
            before.codes = new.codes[:0]
        for name in ("codes", "digits", "moved", "excess"):
            both = getattr(before, name), getattr(new, name)
            setattr(before, name, np.concatenate(both))
        before.width = max(before.width, new.width)
        self._given = before
        self.n_digits_ = 1 + int(before.digits.max(initial=0))
        self.sizes_, columns = self.sizes, [before.codes]
        if self.overflow == "digit":
            self.sizes_ = (*self.sizes, self.n_digits_)
            columns.append(before.digits[:, None])
        dtype = smallest_dtype(max(self.sizes_))
        self.ids_ = np.concatenate(columns, axis=1).astype(dtype)
        self.width_ = before.width
        self.moved_, self.excess_ = before.moved, before.excess

    def _words(self, codes: NDArray[Any]) -> NDArray[np.void]:
        return row_words(codes.astype(smallest_dtype(max(self.sizes)), copy=False))

    # -- checks --------------------------------------------------------------------

    def _checked(
        self, candidates: Any, errors: Any, n_rows: int | None = None
    ) -> tuple[Backend, _Asked]:
        be = followed_backend(candidates)
        codes = np.asarray(check_unmasked(be.to_host(candidates), "candidates"))
        costs = followed_backend(errors).to_host(errors)
        costs = np.asarray(check_unmasked(costs, "errors"))
        n_codes = len(self.sizes)
        if codes.ndim != 3 or codes.shape[2] != n_codes or codes.shape[1] == 0:
            raise ValueError(
                f"candidates has shape {codes.shape}; expected (n_rows, n_candidates, "
                f"{n_codes}), since sizes={self.sizes}"
            )
        if n_rows is not None and len(codes) != n_rows:
            raise ValueError(
                f"widen returned candidates of {len(codes)} rows; it was asked for "
                f"those of {n_rows}"
            )
        if costs.shape != codes.shape[:2]:
            raise ValueError(
                f"errors has shape {costs.shape}; expected {codes.shape[:2]}, one for "
                "each of the candidates"
            )
        check_integers(codes, "candidates")
        if costs.dtype.kind not in "biuf":
            raise TypeError(f"errors must be real numbers, got dtype {costs.dtype}")
        for j, size in enumerate(self.sizes):
            flat = codes[:, :, j].ravel()
            i = first_out_of_range(flat, size)
            if i is not None:
                row, b = divmod(i, codes.shape[1])
                raise ValueError(
                    f"candidates[{row}, {b}, {j}] is {flat[i]}: column {j} has {size} "
                    f"codewords, 0 to {size - 1}"
                )
        wrong = ~np.isfinite(costs)
        if wrong.any():
            row, b = np.argwhere(wrong)[0]
            raise ValueError(
                f"errors[{row}, {b}] is {costs[row, b]}; expected finite numbers"
            )
        dtype = smallest_dtype(max(self.sizes))
        return be, _Asked(codes.astype(dtype, copy=False), costs.astype(np.float64))

    def _check_room(self, n_rows: int) -> None:
        n_ids = math.prod(self.sizes)
        if n_rows > n_ids:
            raise ValueError(
                f"sizes={self.sizes} make {n_ids} ids, which do not suffice for "
                f"{n_rows} rows: use larger sizes, or overflow='digit'"
            )


class _Asked(NamedTuple):
    """Candidates of some rows, on the host."""

    codes: NDArray[Any]  # (n_rows, n_candidates, n_codes)
    errors: NDArray[np.float64]  # (n_rows, n_candidates)

    @property
    def width(self) -> int:
        return self.codes.shape[1]

    def order(self) -> NDArray[np.intp]:
        """Return the indices of the rows in the order in which they choose."""
        errors = self.errors + 0.0  # -0.0 would have other bytes than 0.0
        gains = np.zeros(len(errors))
        if self.width > 1:
            # The second candidate is the first one with other codes.
            second = (self.codes != self.codes[:, :1]).any(axis=2).argmax(axis=1)
            gains = errors[np.arange(len(errors)), second] - errors[:, 0]
        _, group, counts = np.unique(gains, return_inverse=True, return_counts=True)
        tied = np.flatnonzero(counts[group] > 1)
        ranks = np.zeros(len(errors), dtype=np.intp)
        if len(tied):
            flat = self.codes[tied].reshape(len(tied), -1)
            # Any fixed order of the errors will do; their bytes give one.
            costs = np.ascontiguousarray(errors[tied]).view(np.uint64)
            for_codes = np.unique(row_words(flat), return_inverse=True)[1]
            for_costs = np.unique(row_words(costs), return_inverse=True)[1]
            ranks[tied] = for_codes * len(tied) + for_costs
        return np.lexsort((ranks, -gains))


class _Given:
    """The ids that are taken, and the rows that have them.

    Parameters
    ----------
    asked : _Asked, optional
        The first candidates of new rows.
    """

    def __init__(self, asked: _Asked | None = None) -> None:
        n = 0 if asked is None else len(asked.codes)
        self.rows: dict[bytes, int] = {}  # rows with the digit 0
        self.more: dict[bytes, list[int]] = {}  # other rows, from the digit 1 on
        self.digits = np.zeros(n, dtype=np.intp)
        self.moved = np.zeros(n, dtype=bool)
        self.excess = np.zeros(n)
        self.width = 0
        self.codes: Any = None
        if asked is not None:
            self.first, self.costs = asked.codes[:, 0], asked.errors[:, 0]
            self.codes = self.first.copy()
            self.width = asked.width
            # For each row, the latest answer and its index there.
            self.candidates: list[tuple[_Asked, int]] = [(asked, 0)] * n

    def n_more(self, key: bytes) -> int:
        """Return how many rows have these codes and a digit above 0."""
        return len(self.more.get(key, ()))

    def row(self, key: bytes, digit: int) -> int:
        """Return the row with an id; -1 if there is none."""
        if digit == 0:
            return self.rows.get(key, -1)
        more = self.more.get(key, ())
        return more[digit - 1] if digit <= len(more) else -1

    def take(self, row: int, b: int, digit: int = 0) -> None:
        """Record the candidate that a row gets."""
        asked, place = self.candidates[row]
        self.codes[row] = asked.codes[place, b]
        self.digits[row] = digit
        self.excess[row] = asked.errors[place, b] - self.costs[row]


def _refuse(left: list[int], n_rows: int, width: int) -> None:
    """Raise an error that names the rows left over."""
    named = ", ".join(map(str, sorted(left)[:_MOST_NAMED]))
    more = ", ..." if len(left) > _MOST_NAMED else ""
    raise ValueError(
        f"{len(left)} of {n_rows} rows have no free id among {width} candidates: rows "
        f"{named}{more}. Give more candidates, or widen=, with a larger max_width; use "
        "larger sizes; or overflow='digit'"
    )
