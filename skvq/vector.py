"""The naive scheme: one table, and the nearest of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._checks import check_memory, is_sequence, is_true
from skvq._compat import RANDOM_STATE, SIZE, Accepted, Interval, StrOptions
from skvq._given import check_costs, demand
from skvq._typing import (
    BackendName,
    DeadCodes,
    Init,
    Learning,
    MatrixLike,
    MetricName,
    Number,
    RandomState,
    Size,
    VectorLike,
)
from skvq._validation import (
    all_in_memory,
    check_numbers,
    check_table,
    copy_to_fit,
    in_fitted_dtype,
    warn,
)
from skvq.base import BaseQuantizer, check_as_before, reordered_table
from skvq.coding import rates
from skvq.coding.charges import Charge, Charges, Prices, biases, costs_of
from skvq.coding.sums import codeword_entries
from skvq.learning import online
from skvq.learning.balance import ITERATIONS, balanced, largest_cell
from skvq.learning.cells import LEARNABLE_METRICS, unit_rows
from skvq.learning.lloyd import LearnedCodebook, lloyd, mean_distance
from skvq.learning.rows import Learner, Rows, no_zero_rows, unit
from skvq.learning.start import INITS, few_distinct, initialise, repeat_cyclically
from skvq.learning.tasks import SILENT
from skvq.parts import check_as_begun

_ONLINE = ("minibatch", "ema", "sgd")
# A warm start keeps the prices of the last fit if no cell has more than this many times
# its share under them.
_STILL_EVEN = 2.0

_TABLE = Accepted(is_sequence, "an array-like of shape (n_codewords, n_features)")
_BALANCE = Accepted(
    lambda value: is_true(value) or is_sequence(value),
    "True, or an array-like of shape (n_codewords,)",
)
# Distances that grow with another one, which can be learned in their place.
_LEARNED_AS = {"euclidean": "sqeuclidean", "minkowski": "sqeuclidean"}


class VectorQuantizer(BaseQuantizer):
    r"""Replace each sample by the nearest row of one table.

    The naive scheme: :math:`f(x, W) = W_j` with
    :math:`j = \arg\min_k \mathrm{dist}(x, W_k)`, over a codebook W of V codewords.  No
    scheme is more accurate at equal bits, and none costs more: time and memory grow
    with V, which doubles with every bit.

    Parameters
    ----------
    n_codewords : int, default=256
        V, the number of codewords.  With ``learning="fixed"`` and a table as `init` it
        plays no part: V is then the number of rows of the table.
    metric : str or callable, default="sqeuclidean"
        Distance that assigns samples and that `score` reports: "sqeuclidean", "cosine"
        (codewords are unit vectors), "manhattan", "inner_product" (minus the product),
        another name that `scipy.spatial.distance.cdist` takes, or a callable of two
        vectors.  The first three can be learned; the others need ``learning="fixed"``.
    learning : {"lloyd", "minibatch", "ema", "sgd", "fixed"}, default="lloyd"
        How the table is improved: k-means over all samples ("lloyd"); running means
        over batches ("minibatch"); exponential moving averages over batches, as
        VQ-VAE does ("ema"); gradient steps on the codebook loss ("sgd"); not at all
        ("fixed").  The three online learners also have `partial_fit`, and take the
        metrics "sqeuclidean" and "cosine".
    init : {"k-means++", "random", "splitting", "progressive", "normal"} or \
            array-like of shape (n_codewords, n_features), default="k-means++"
        The first table.  "k-means++" is greedy k-means++ (beyond 8 samples per
        codeword on the candidates of k-means||, which is as good, in fewer passes over
        the samples); "random" takes random samples; "splitting" splits cells, from one
        codeword on, deterministically (LBG); "progressive" runs k-means in growing
        numbers of principal components, from random samples on, which generalises best
        with few samples per codeword; "normal" draws independent standard normal
        entries.  An array is the table itself.
    n_init : int, default=1
        Number of starts, the best of which is kept.  Deterministic starts run once.
    max_iter : int, default=25
        The most updates ("lloyd") or passes over X (online learners).
    tol : float, default=1e-4
        Learning stops when an update lowers the distortion by at most this share of it;
        for the online learners, whose batches differ, when two consecutive passes do.
    batch_size : int, default=1024
        Samples in a batch of the online learners in `fit`.
    decay : float, default=0.99
        Decay of the moving averages of "ema".
    learning_rate : float, default=0.1
        Step of "sgd": the share of the way from a codeword to the mean of its batch.
    dead_codes : {"split", "farthest", "keep"}, default="split"
        What happens to codewords that no sample uses: the heaviest cells are split for
        them, they move to the samples farthest from their codewords, or they stay.
        Online learners move codewords that have not been used for long, if their loss
        would cost little for the rows that they have served.
    rate_weight : float, default=0.0
        Squared distance that a bit is worth.  If it is positive, codes minimise the
        squared distance plus `rate_weight` times the bits of the code, -log2 of its
        frequency, and codebook and frequencies are learned in turn.  It takes the
        metric "sqeuclidean" and ``learning="lloyd"``.  `dead_codes` then plays no part,
        since codewords become unused where their bits cost more than they gain.  It
        pays only if codes are entropy coded.
    balance : True, array-like of shape (n_codewords,) or None, default=None
        True: the codewords are used evenly.  An array: they are used in proportion to
        these positive shares of the weight of the samples.  After the codebook, prices
        of codewords are learned, in turn with the codebook; the search adds them to
        distances, and a codeword with more samples than its share becomes dearer.  New
        samples are encoded with the same prices.  It takes the metric "sqeuclidean" and
        ``learning="lloyd"``, and no `rate_weight`.
    warm_start : bool, default=False
        Whether another `fit` starts from the fitted table instead of `init`, so that
        codes keep their meaning as far as possible (see `skvq.codes.match`); with a
        `rate_weight` or a `balance`, also from the bits or prices of codes.  There is
        then only one start.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers for `init` and for the order of batches.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.

    Attributes
    ----------
    codebooks_ : tuple of one ndarray of shape (n_codewords, n_features)
        The table W.
    codebook_sizes_ : tuple of int
        ``(n_codewords,)``.
    bits_per_sample_ : float
        log2 of n_codewords.
    n_iter_ : int
        Number of updates, passes or batches; 1 if nothing was learned.
    distortion_ : float
        Mean distance of the training samples from their codewords; after `partial_fit`,
        that of the last batch before the table learned from it.
    code_counts_ : tuple of one ndarray of shape (n_codewords,)
        How often each code occurs in the training samples, in units of the mean weight.
    prices_ : tuple of one ndarray of shape (n_codewords,)
        Squared distance that the search adds for each code, the least being zero; only
        with `balance`.
    nearest_distortion_ : float
        Mean distance of the training samples from their nearest codewords, which
        `distortion_` exceeds for the sake of balance; only with `balance`.
    code_lengths_ : tuple of one ndarray of shape (n_codewords,)
        Bits that the search counts for each code, at most 24; only with a
        `rate_weight`.
    objective_ : float
        `distortion_` plus `rate_weight` times the mean of these bits over the training
        samples; only with a `rate_weight`.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    ProductQuantizer : Concatenates small tables, for many more bits.

    Notes
    -----
    Fewer distinct samples than codewords give a ConvergenceWarning.  The table is then
    the distinct samples in lexicographic order, repeated, or, if `init` is an array,
    what is learned from it.  A stream does not warn: more samples may come.

    References
    ----------
    Gersho and Gray (1992), "Vector Quantization and Signal Compression",
    doi:10.1007/978-1-4615-3626-0.
    Chou, Lookabaugh and Gray (1989), "Entropy-constrained vector quantization",
    IEEE Trans. ASSP 37(1), doi:10.1109/29.17498.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]])
    >>> vq = VectorQuantizer(n_codewords=2, init="splitting").fit(X)
    >>> vq.transform(X).ravel().tolist()
    [1, 1, 0, 0]
    >>> vq.quantize([[8.0, 8.0]]).tolist()
    [[9.0, 8.5]]
    >>> vq.score(X)
    -0.25
    """

    n_iter_: int
    nearest_distortion_: float
    objective_: float
    _table_: nearest.Table

    _parameter_constraints = {  # noqa: RUF012
        "n_codewords": [SIZE],
        # `check_metric` knows the names, and suggests one for a misspelt one.
        "metric": [str, callable],
        "learning": [StrOptions({"lloyd", *_ONLINE, "fixed"})],
        "init": [StrOptions(set(INITS)), _TABLE],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "decay": [Interval(Real, 0, 1, closed="left")],
        "learning_rate": [Interval(Real, 0, 1, closed="right")],
        "dead_codes": [StrOptions({"split", "farthest", "keep"})],
        "rate_weight": [Interval(Real, 0, None, closed="left")],
        "balance": [_BALANCE, None],
        "warm_start": ["boolean"],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }
    _follows_namespace = True
    _has_one_column = True
    _charge_: Charge | Prices | None = None

    def __init__(
        self,
        n_codewords: Size = 256,
        *,
        metric: MetricName | Callable[..., Any] = "sqeuclidean",
        learning: Learning = "lloyd",
        init: Init | MatrixLike = "k-means++",
        n_init: Size = 1,
        max_iter: Size = 25,
        tol: Number = 1e-4,
        batch_size: Size = 1024,
        decay: Number = 0.99,
        learning_rate: Number = 0.1,
        dead_codes: DeadCodes = "split",
        rate_weight: Number = 0.0,
        balance: bool | VectorLike | None = None,
        warm_start: bool = False,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.n_codewords = n_codewords
        self.metric = metric
        self.learning = learning
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.decay = decay
        self.learning_rate = learning_rate
        self.dead_codes = dead_codes
        self.rate_weight = rate_weight
        self.balance = balance
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend

    @property
    def _score_metric(self) -> nearest.Metric:
        return self.metric

    def _n_tasks(self) -> int | None:
        return int(self.n_init)

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        metric = self._check_learnable()
        table = self._first_table(rows.dtype, rows.n_features)
        if table is None:
            self._check_memory(rows)
        if metric == "cosine":
            yield rows.fold(no_zero_rows)
            rows = rows.view(unit).held()
        learned, stream = yield from self._best_run(rows, metric, table)
        return self._found(learned, stream)

    def _best_run(self, rows: Rows, metric: Any, table: Any) -> Learner[Any]:
        """Learn from rows; return the learned table and the state of the stream."""
        rng, size = check_random_state(self.random_state), int(self.n_codewords)
        if self.learning != "fixed" or (table is None and self.init != "normal"):
            few = yield from few_distinct(rows, size)
            if few is not None:
                text = f"{{}} distinct samples are fewer than n_codewords={size}"
                if table is None:
                    warn(f"{text}: the codebook repeats them.", len(few))
                    return (yield from self._repeat(rows, few, metric))
                which = "rows of init" if self._before_ is None else "codewords"
                warn(f"{text}: {which} are left without any.", len(few))
        deterministic = table is not None or self.init == "splitting"
        runs: list[Any] = []

        def best() -> Any:
            return min(runs, key=lambda run: run[0].objective)

        for _ in range(1 if deterministic else int(self.n_init)):
            task = rows.task.begin("start", self._n_iterations())
            own = rows.under(task.giving(lambda pair: self._found(*pair)))
            run = yield from self._run(own, metric, table, rng)
            runs.append(run)
            if task.end(lambda: self._found(*best())):
                break
        return best()

    def _n_iterations(self) -> int:
        """Return how many iterations a start has, at most."""
        if self.learning == "fixed":
            return 0
        return int(self.max_iter) + (0 if self.balance is None else ITERATIONS)

    def _run(
        self, rows: Rows, metric: Any, table: Any, rng: np.random.RandomState
    ) -> Learner[Any]:
        """Learn from one start; return the learned table and the stream's state."""
        if table is None:
            table = yield from initialise(
                rows, int(self.n_codewords), str(self.init), metric, rng
            )
            if metric == "cosine":
                table = unit_rows(table)
        if self.learning == "fixed":
            distortion = yield from mean_distance(rows, table, metric)
            return LearnedCodebook(table, distortion, 1), None
        if self.learning == "lloyd":
            rows = rows.under(rows.task.giving(lambda learned: (learned, None)))
            if self.balance is None:
                return (yield from self._lloyd(rows, table, metric)), None
            before = None if self._before_ is None else self._before_._charge_
            shares = self._shares()
            prices = None
            if isinstance(before, Prices) and len(table) > 1:
                if np.array_equal(np.sort(shares), np.sort(before.shares)):
                    shares = before.shares  # ordered as the codes are named now
                # Prices that were learned from other rows may only disturb.
                found = yield from largest_cell(rows, table, before.bias, shares)
                prices = before.bias if found <= _STILL_EVEN else None
            if prices is None:
                learned = yield from self._lloyd(rows, table, metric)
            else:
                # Without prices, codewords would leave the cells that prices have made.
                distortion = yield from mean_distance(rows, table, metric)
                learned = LearnedCodebook(table, distortion, 0)
            learned = yield from balanced(rows, learned, shares, prices)
            return learned, None
        stream, learned = yield from online.learn_epochs(
            rows.under(rows.task.giving(lambda pair: pair[::-1])),
            self._start_stream(table),
            self._online_settings(metric),
            rng,
            batch_size=int(self.batch_size),
            max_iter=int(self.max_iter),
            tol=float(self.tol),
        )
        return learned, stream

    def _lloyd(self, rows: Rows, table: Any, metric: Any) -> Learner[LearnedCodebook]:
        before = None if self._before_ is None else self._before_._charge_
        return (
            yield from lloyd(
                rows,
                table,
                metric,
                max_iter=int(self.max_iter),
                tol=float(self.tol),
                dead_codes=self.dead_codes,
                rate_weight=float(self.rate_weight),
                bits=before.bits if isinstance(before, Charge) else None,
            )
        )

    def _repeat(self, rows: Rows, few: Any, metric: Any) -> Learner[Any]:
        """Return a table that repeats the few distinct rows."""
        table, stream = repeat_cyclically(few, int(self.n_codewords)), None
        if self.rate_weight > 0:
            # Some of them may not be worth their bits.
            rows = rows.under(SILENT)
            return (yield from self._lloyd(rows, table, metric)), None
        distortion = yield from mean_distance(rows, table, metric)
        if self.balance is not None:
            # Equal rows cannot be split by prices: one codeword gets all of them.
            charge = Prices(np.zeros(len(table)), self._shares())
            learned = LearnedCodebook(
                table, distortion, 1, charge=charge, nearest=distortion
            )
            return learned, None
        if self.learning in _ONLINE:
            # As for a stream, the rows themselves are kept.
            stream = yield from online.start_from_few(rows, few, int(self.n_codewords))
        return LearnedCodebook(table, distortion, 1), stream

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        metric = self._check_learnable()
        rows, samples = Rows(X, weights), X
        if metric == "cosine":
            nearest.check_no_zero_rows(X)
            samples = unit_rows(X)
        stream, table = getattr(self, "_stream_", None), None
        if stream is None:
            table = self._given_table(rows.dtype, rows.n_features)
        if stream is None and table is None:
            self._check_memory(rows)
        if stream is not None:
            check_as_begun("n_codewords", self.n_codewords, len(stream.codebook))
            samples = in_fitted_dtype(samples, stream.codebook.dtype)
        elif table is not None:
            stream = self._start_stream(table)
        if stream is None or stream.seeds is not None:
            stream, samples, weights = online.start_from_batch(
                samples,
                weights,
                int(self.n_codewords),
                str(self.init),
                metric,
                check_random_state(self.random_state),
                stream,
            )
        if stream.seeds is not None:
            # Every row so far is a codeword.
            learned = LearnedCodebook(stream.codebook, 0.0, stream.n_batches)
        else:
            stream, distortion = online.learn_batch(
                stream, samples, weights, self._online_settings(metric)
            )
            learned = LearnedCodebook(stream.codebook, distortion, stream.n_batches)
        return self._found(learned, stream)

    def _found(self, learned: Any, stream: Any) -> dict[Any, Any]:
        found = {
            "_table_": nearest.Table(learned.codebook),
            "n_iter_": learned.n_iter,
            "distortion_": learned.distortion,
            "codebook_sizes_": (len(learned.codebook),),
        }
        if learned.counts is not None:
            sizes = found["codebook_sizes_"]
            found["code_counts_"] = rates.kept([learned.counts], sizes)
        if learned.charge is not None:
            found["_charge_"] = learned.charge
            if self.balance is None:
                found["objective_"] = learned.objective
            else:
                found["nearest_distortion_"] = learned.nearest
        return found if stream is None else {**found, "_stream_": stream}

    def _from_tables(
        self,
        tables: list[nearest.Table],
        counts: Any = None,
        sums: Any = None,
        code_lengths: Any = None,
        prices: Any = None,
    ) -> dict[str, Any]:
        (table,) = demand(tables, 1, "VectorQuantizer has one table")
        self._imply(n_codewords=len(table))
        if nearest.check_metric(self.metric) == "cosine":
            # The codewords are not normalised, since codes are decoded to them.
            nearest.check_no_zero_rows(table.codewords, "codebooks[0]")
        found = {
            "n_features_in_": table.shape[1],
            "_table_": table,
            "n_iter_": 1,
            "codebook_sizes_": (len(table),),
        }
        self._check_costs(nearest.check_metric(self.metric))
        costs = {"code_lengths": code_lengths, "prices": prices}
        costs = check_costs(costs, tables, self._code_costs())
        if "code_lengths" in costs:
            bits = Charge(float(self.rate_weight), costs["code_lengths"][0])
            found.update(_charge_=bits, objective_=np.nan)
        if "prices" in costs:
            (given,) = costs["prices"]
            prices = Prices(given - given.min(), self._shares())
            found.update(_charge_=prices, nearest_distortion_=np.nan)
        if self.learning in _ONLINE:
            self._check_learnable()
            return {**found, "_stream_": self._resumed(table, counts, sums)}
        if counts is not None or sums is not None:
            raise ValueError(
                "counts and sums are those of a stream, but "
                f"learning={self.learning!r} learns from none; "
                f"{', '.join(_ONLINE)} do."
            )
        return found

    def _resumed(self, table: Any, counts: Any, sums: Any) -> online.StreamState:
        """Return the state of a stream that continues from a table."""
        codebook = table.codewords
        if nearest.check_metric(self.metric) == "cosine":
            codebook = unit_rows(codebook)
        if counts is None:
            if sums is not None:
                raise ValueError("sums are given without counts; expected both.")
            return online.start(codebook, weight=float(self.learning == "ema"))
        counts = check_numbers(counts, "counts", (len(codebook),))
        if counts.min() < 0:
            raise ValueError(
                f"counts ranges from {counts.min()} to {counts.max()}; expected "
                "numbers of zero or more."
            )
        if sums is not None:
            sums = check_numbers(sums, "sums", codebook.shape)
        return online.resumed(codebook, counts, sums)

    def _n_tables(self) -> int | None:
        return 1

    def _start_stream(self, table: Any) -> online.StreamState:
        # Averages that start from zero would replace a given table at once.
        given = self.learning == "ema" and (
            self._before_ is not None or not isinstance(self.init, str)
        )
        return online.start(table, weight=1.0 if given else 0.0)

    def _first_table(self, dtype: Any, n_features: int) -> Any:
        """Return the table to start from; None if `init` is a name."""
        if self._before_ is None:
            return self._given_table(dtype, n_features)
        table = self._before_._table_.codewords
        size = self._given_size()
        if size is None:
            size = int(self.n_codewords)
        check_as_before("n_codewords", size, len(table))
        meaning = "(n_codewords, n_features)"
        table = check_table(table, "codebooks_[0]", dtype, table.shape, meaning)
        if nearest.check_metric(self.metric) == "cosine":
            nearest.check_no_zero_rows(table, "codebooks_[0]")
            table = unit_rows(table)
        return table

    def _given_table(self, dtype: Any, n_features: int) -> Any:
        """Return the init array in a dtype; None if `init` is a name."""
        if isinstance(self.init, str):
            return None
        # A table from which nothing is learned may have any number of rows.
        size = None if self.learning == "fixed" else int(self.n_codewords)
        meaning = "(n_codewords, n_features)"
        if size is None:
            meaning = f"(n_codewords, {n_features}), the second the number of features"
        table = check_table(self.init, "init", dtype, (size, n_features), meaning)
        if nearest.check_metric(self.metric) == "cosine":
            nearest.check_no_zero_rows(table, "init")
            table = unit_rows(table)
        return table

    def _given_size(self) -> int | None:
        if self.learning == "fixed" and not isinstance(self.init, str):
            table: Any = self.init
            return len(table)
        return None

    def _table_elements(self, n_features: int) -> int:
        return (self._given_size() or int(self.n_codewords)) * n_features

    def _check_memory(self, rows: Rows) -> None:
        d = rows.n_features
        check_memory(
            f"The table of n_codewords={self.n_codewords} times {d} features",
            rows.dtype.itemsize * self._table_elements(d),
            rows.n_bytes,
        )

    def _check_learnable(self) -> Any:
        """Return the metric without aliases; raise unless the learner minimises it."""
        metric = nearest.check_metric(self.metric)
        self._check_costs(metric)
        accepted = {
            "fixed": None,
            "lloyd": LEARNABLE_METRICS,
            "minibatch": online.ONLINE_METRICS,
            "ema": online.ONLINE_METRICS,
            "sgd": online.ONLINE_METRICS,
        }[self.learning]
        if accepted is not None and metric not in accepted:
            same = _LEARNED_AS.get(str(metric))
            use = f"{same!r}, which gives the same codes" if same else "one of these"
            raise ValueError(
                f"learning={self.learning!r} cannot minimise metric={self.metric!r}; "
                f"it takes {sorted(accepted)}. Use {use}, or learning='fixed'."
            )
        if isinstance(self.init, str) and self.init == "splitting":
            if metric not in LEARNABLE_METRICS:
                raise ValueError(
                    f"init='splitting' cannot minimise metric={self.metric!r}; it "
                    f"takes {sorted(LEARNABLE_METRICS)}."
                )
        if isinstance(self.init, str) and self.init == "progressive":
            if metric != "sqeuclidean":
                raise ValueError(
                    f"init='progressive' cannot minimise metric={self.metric!r}; it "
                    "takes 'sqeuclidean'."
                )
        return metric

    def _check_costs(self, metric: Any) -> None:
        """Raise if costs of codes do not fit the other parameters."""
        if not self._code_costs():
            return
        if self.rate_weight > 0 and self.balance is not None:
            raise ValueError(
                f"balance={self.balance!r} uses codes evenly, and rate_weight="
                f"{self.rate_weight!r} does not: use balance=None, or rate_weight=0."
            )
        name, value, off = "rate_weight", repr(self.rate_weight), "0"
        if self.balance is not None:
            name, value, off = "balance", repr(self.balance), "None"
            self._shares()
        if metric != "sqeuclidean" or self.learning != "lloyd":
            raise ValueError(
                f"{name}={value} takes metric='sqeuclidean' and "
                f"learning='lloyd'; got metric={self.metric!r} and "
                f"learning={self.learning!r}. Use these, or {name}={off}."
            )

    def _shares(self) -> np.ndarray:
        """Return the share of the total weight that each cell is to get."""
        size = int(self.n_codewords)
        if is_true(self.balance):
            return np.full(size, 1 / size)
        shares = check_numbers(self.balance, "balance", (size,))
        if shares.min() <= 0:
            raise ValueError(
                f"balance ranges from {shares.min()} to {shares.max()}; expected "
                "positive shares, one for each codeword."
            )
        return shares / shares.max() / (shares / shares.max()).sum()

    def _code_costs(self) -> frozenset[str]:
        return costs_of(float(self.rate_weight), self.balance)

    def _online_settings(self, metric: Any) -> online.OnlineSettings:
        return online.OnlineSettings(
            self.learning,
            metric,
            float(self.decay),
            float(self.learning_rate),
            self.dead_codes,
        )

    def _fewest_rows(self) -> int:
        given = self.learning == "fixed" and not isinstance(self.init, str)
        return 1 if given else 2

    def _can_partial_fit(self) -> bool:
        return self.learning in _ONLINE

    def _needs_rows_in_memory(self) -> str | None:
        if self.learning in _ONLINE:
            return (
                f"learning={self.learning!r} does not see the rows of a Dask array in "
                "its own order: call partial_fit, which takes chunk by chunk."
            )
        if isinstance(self.init, str) and self.init == "splitting":
            return all_in_memory("init", self.init)
        if nearest.check_metric(self.metric) == "cityblock":
            return all_in_memory("metric", self.metric)
        return None

    def _why_no_partial_fit(self) -> str:
        return f"learning={self.learning!r}; {', '.join(_ONLINE)} learn from a stream."

    def _encode(self, X: Any) -> Any:
        codes, _ = nearest.nearest(
            X, self._table_, self.metric, bias=self._bias(), return_distances=False
        )
        return codes[:, None]

    def _bias(self) -> Any:
        return None if self._charge_ is None else self._charge_.bias

    def _charges(self) -> Charges:
        return (self._charge_,)

    def _with_charges(self, charges: Charges) -> Self:
        copy = copy_to_fit(self, fitted=True)
        (copy._charge_,) = charges
        # The counts belonged to the codes of another search.
        copy.code_counts_ = rates.no_counts(self.codebook_sizes_)
        for name in ("distortion_", "nearest_distortion_", "objective_"):
            if hasattr(copy, name):
                setattr(copy, name, np.nan)
        return copy

    def _can_encode_best(self) -> bool:
        return nearest.check_metric(self.metric) == "sqeuclidean"

    def _encode_best(self, X: Any, n_best: int) -> Any:
        codes, _ = nearest.nearest_best(
            X,
            [self._table_],
            n_best,
            n_best=n_best,
            bias=biases(self._charges(), self.codebook_sizes_),
            return_distances=False,
        )
        return codes

    def _has_free_tables(self) -> bool:
        # Code frequencies would not fit another table.
        learns = self.learning != "fixed" and not self._code_costs()
        return self._can_encode_best() and learns

    def _free_tables(self) -> list[tuple[slice, np.ndarray]]:
        return [(slice(0, self._table_.shape[1]), self._table_.codewords)]

    def _with_tables(self, tables: list[np.ndarray]) -> Self:
        copy = copy_to_fit(self, fitted=True)
        (table,) = tables
        copy._table_ = nearest.Table(table)
        if hasattr(copy, "_stream_"):
            copy._stream_ = online.moved(copy._stream_, table)
        copy.codebook_sizes_ = (len(table),)
        return copy

    def _why_no_names(self) -> str | None:
        return None

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        order: Any
        (order,) = orders
        found: dict[str, Any] = {"_table_": reordered_table(self._table_, order)}
        if self._charge_ is not None:
            found["_charge_"] = self._charge_.in_order(order)
        if hasattr(self, "_stream_"):
            found["_stream_"] = online.reordered(self._stream_, order)
        return found

    def _decode(self, codes: Any) -> Any:
        return self._table_.rows(codes[:, 0])

    def _codebooks(self) -> tuple[nearest.Table]:
        return (self._table_,)

    def _entries(self, X: Any, metric: str) -> Any:
        return codeword_entries(X, self._table_, metric)

    def _is_concatenation(self) -> bool:
        return True

    def _searched_table(self) -> nearest.Table | None:
        return self._table_ if self.metric == "sqeuclidean" else None
