"""Viterbi's search by the array API standard, also used for NumPy.

States lie along the first axis and rows along the second.  Every operation is rounded
by itself, in the order of the compiled search, so that both find the same paths.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes of a tile of rows: for each state and step a byte that says what survives, and
# for each step a few numbers.
_TILE_BYTES, _STEP_BYTES = 2**22, 64
_MOST_ROWS = 512
# Fewer rows than this are no faster together than one by one.
_FEW_ROWS = 16
# Cost of a window in multiply-adds, for the choice of threads.
_WORK = 4.0


class TrellisSearch:
    """Alphabets prepared for paths through a trellis.

    Parameters
    ----------
    be : Backend
        The backend that computes.
    form : TrellisForm
        The prepared alphabets.

    Attributes
    ----------
    tile_rows, group, elements : int
        Rows that a thread takes at a time, rows among these that are searched together,
        and numbers that a row takes in memory.
    """

    be: Any
    begins: Any
    edges: list[Any]
    elements: Any
    form: Any
    levels: Any
    places: NDArray[Any]
    step_begins: Any
    subsets: Any
    windows: list[Any]
    work: Any

    group = 1

    def __init__(self, be: Any, form: Any) -> None:
        self.be, self.form = be, form
        trellis, steps = form.trellis, form.steps
        self.levels = be.send(form.levels)
        self.begins = be.send(form.begins)
        self.step_begins = be.send(form.begins[steps])
        # The place of each feature among those that take part; all other features have
        # the place after the last one.
        self.places = np.full(len(form.rates), len(steps))
        self.places[steps] = np.arange(len(steps))
        if trellis.has_subsets:
            # The subsets of the windows t and t + S, for each state t.
            subsets = trellis.subsets.astype(np.int64).reshape(2, -1)
            self.subsets = be.send(trellis.subsets.astype(np.int64))
            self.windows = [be.send(each) for each in subsets]
            sizes = [trellis.alphabet_size(rate) - 4 for rate in form.rates]
            edges = [
                form.edges[begin : begin + max(0, size)]
                for begin, size in zip(form.edge_begins, sizes, strict=True)
            ]
            self.edges = [
                be.edges([edges[j][subset::4] for j in steps])
                for subset in range(4 * (len(steps) > 0))
            ]
        survivors = max(1, len(steps)) * trellis.n_states
        self.elements = survivors + 2 * trellis.n_windows + 20 * len(form.rates)
        per_row = survivors + _STEP_BYTES * len(form.rates)
        rows = min(_TILE_BYTES // per_row, _MOST_ROWS)
        self.tile_rows = rows if rows >= _FEW_ROWS else 1
        self.work = _WORK * max(1, len(steps)) * trellis.n_windows

    def __call__(
        self, x: Any, states: Any, ends: str, as_levels: bool, exact: Any, dtype: Any
    ) -> tuple[Any, ...]:
        """Return codes and distances of a tile of rows; see `skvq.nearest.viterbi`.

        Parameters
        ----------
        x : array of shape (n_rows, n_features)
            Rows, in the dtype to compute in.
        states : array of shape (n_rows,), or None
            Where paths begin and end, if `ends` is "given".
        ends : {"free", "tail_biting", "given"}
            The kind of path ends.
        as_levels : bool
            Whether codes are indices into the alphabets.
        exact : bool
            Whether distances are wanted; if not, they are only finite or infinite.
        dtype : dtype
            The dtype of the codes.

        Returns
        -------
        codes : array of shape (n_rows, n_features)
            Codes of the best path of each row.
        distances : array of shape (n_rows,), dtype float64
            In the units of the scaled alphabets; NaN where costs are NaN.
        """
        be, xp, form = self.be, self.be.xp, self.form
        x = x if form.scale == 1.0 else x * form.scale
        n, n_steps = x.shape[0], len(form.steps)
        features = be.permuted(x, (1, 0))
        active = features
        if n_steps < len(form.rates):
            active = be.take(features, form.steps)
        branches = self._branches(active)
        if ends == "tail_biting":
            half = n_steps // 2
            order = [*range(half, n_steps), *range(half)]
            cost = be.zeros((form.trellis.n_states, n), form.dtype)
            survivors, cost = self._forward(branches, order, cost)
            last = be.argmin(be.permuted(cost, (1, 0)))
            _, states = self._back(survivors[n_steps - half :], last)
        if states is None:
            states = be.zeros((n,), np.int64)
        begun = self._numbers(form.trellis.n_states)[:, None] == states[None, :]
        zero = be.zeros((1, 1), form.dtype)
        cost = xp.where(begun, zero, zero + xp.inf)
        survivors, cost = self._forward(branches, range(n_steps), cost)
        rows = be.permuted(cost, (1, 0))
        last = be.argmin(rows) if ends == "free" else states
        reached = be.cast(be.take_along(rows, last[:, None])[:, 0], np.float64)
        windows, _ = self._back(survivors, last)
        codes, levels = self._named(windows, branches[0], n)
        if exact:
            reached = 0 * reached + self._distances(features, levels)
        elif n_steps < len(form.rates):
            rest = be.take(features, np.flatnonzero(self.places == n_steps))
            reached = reached + be.cast(xp.sum(rest - rest, axis=0), np.float64)
        codes = levels if as_levels else codes
        return be.cast(be.permuted(codes, (1, 0)), dtype), reached

    def _numbers(self, n: int) -> Any:
        """Return the numbers from 0 to n - 1."""
        return self.be.send(np.arange(n, dtype=np.int64))

    def _branches(self, active: Any) -> tuple[Any, ...]:
        """Return, for each step, the costs of windows and the levels behind them.

        With subsets, these are costs (n_steps, 4, n) and the nearest level of each
        subset; without, the values (n_steps, n) themselves.
        """
        be, form = self.be, self.form
        if not form.trellis.has_subsets or not len(form.steps):
            return None, active
        rows, dtype = be.permuted(active, (1, 0)), be.code_dtype(np.uint16)
        nearest: list[Any] = []
        costs: list[Any] = []
        for subset, edges in enumerate(self.edges):
            within = be.cells_between(rows, edges, dtype)
            place = 4 * be.cast(within, np.int64) + subset
            gaps = rows - be.entries(self.levels, place, self.step_begins)
            for parts, part in ((nearest, within), (costs, gaps * gaps)):
                parts.append(be.contiguous(be.permuted(part, (1, 0)))[:, None, :])
        return be.concat(nearest, axis=1), be.concat(costs, axis=1)

    def _forward(self, branches: Any, order: Any, cost: Any) -> tuple[Any, ...]:
        """Return the survivors at each step and state, and the summed costs (S, n)."""
        be, xp, trellis = self.be, self.be.xp, self.form.trellis
        k, apart = trellis.step_bits, trellis.n_states >> trellis.step_bits
        survivors = []
        for place in order:
            best = which = None
            for j in range(2**k):
                before = be.repeat(cost[j * apart : (j + 1) * apart, :], 2**k, axis=0)
                total = before + self._branch(branches[1][place, ...], place, j)
                if j == 0:
                    best = total
                    continue
                now = be.cast(total < best, np.uint8)
                which = now if j == 1 else xp.maximum(which, j * now)
                best = xp.minimum(total, best)
            cost = best
            survivors.append(which)
        return survivors, cost

    def _branch(self, branch: Any, place: int, j: int) -> Any:
        """Return the costs (S, n) of the windows t + j S at a step."""
        form = self.form
        if form.trellis.has_subsets:
            return self.be.xp.take(branch, self.windows[j], axis=0)
        size = form.trellis.n_states
        begin = int(form.begins[form.steps[place]]) + j * size
        gaps = branch[None, :] - self.levels[begin : begin + size][:, None]
        return gaps * gaps

    def _back(self, survivors: list[Any], state: Any) -> tuple[Any, ...]:
        """Return the windows, by step, of the paths that end in states (n,)."""
        be, trellis = self.be, self.form.trellis
        n = state.shape[0]
        lanes = self._numbers(n)
        windows = []
        for which in reversed(survivors):
            flat = be.xp.reshape(which, (-1,))
            found = be.cast(be.xp.take(flat, state * n + lanes, axis=0), np.int64)
            window = state + trellis.n_states * found
            windows.append(window)
            state = window >> trellis.step_bits
        return windows[::-1], state

    def _named(self, windows: list[Any], nearest: Any, n: int) -> tuple[Any, ...]:
        """Return codes and alphabet indices, (n_features, n), of windows."""
        be, form = self.be, self.form
        steps, trellis = form.steps, form.trellis
        if not len(steps):
            nothing = be.zeros((len(form.rates), n), np.int64)
            return nothing, nothing
        windows = be.concat([window[None, :] for window in windows], axis=0)
        codes, levels = windows & (2**trellis.step_bits - 1), windows
        if trellis.has_subsets:
            subset = be.look_up(self.subsets, windows)
            first = 4 * n * self._numbers(len(steps))
            places = first[:, None] + n * subset + self._numbers(n)[None, :]
            within = be.look_up(be.xp.reshape(nearest, (-1,)), places)
            within = be.cast(within, np.int64)
            levels = 4 * within + subset
            shift = np.asarray(form.rates, dtype=np.int64)[steps, None] - 1
            codes = (codes << be.send(shift)) | within
        if len(steps) < len(form.rates):
            nothing = be.zeros((1, n), np.int64)
            codes, levels = (
                be.take(be.concat([each, nothing], axis=0), self.places)
                for each in (codes, levels)
            )
        return codes, levels

    def _distances(self, features: Any, levels: Any) -> Any:
        """Return squared distances, summed from the last feature to the first."""
        be = self.be
        values = be.look_up(self.levels, levels + self.begins[:, None])
        gaps = be.cast(features, np.float64) - be.cast(values, np.float64)
        gaps = gaps * gaps
        total = be.zeros((features.shape[1],))
        for j in reversed(range(len(self.form.rates))):
            total = total + gaps[j, :]
        return total
