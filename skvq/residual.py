"""The residual scheme: each table quantizes what those before it have left."""

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from copy import deepcopy
from numbers import Integral
from typing import NamedTuple, Self

import numpy as np
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._arrays import (
    as_indices,
    average,
    code_dtype,
    in_dtype,
    join,
    like,
    look_up,
    numpy_dtype,
    repeat,
    reshape,
    squared_norms,
    stable_order,
    take_along,
    take_rows,
    to_host,
    zeros,
)
from skvq._checks import check_count, check_counts, check_memory, check_unmasked
from skvq._compat import (
    NUMBERS,
    RANDOM_STATE,
    SIZE,
    SIZES,
    Interval,
    StrOptions,
)
from skvq._validation import collected, copy_to_fit, warn_of_parts
from skvq.base import QUANTIZER
from skvq.codes import smallest_dtype
from skvq.learning import joint
from skvq.learning.rows import Rows, run
from skvq.learning.start import few_distinct
from skvq.parts import _sizes as part_sizes
from skvq.parts import make_parts, parts_elements, shallow_copy, why_no_stream
from skvq.staged import StagedQuantizer
from skvq.vector import VectorQuantizer

# Partial sums of each sample whose residuals train the next stage, at least, where
# there are several.
_TRAINING_BEAM = 5
# A stage learns from as many residuals as there are samples, or from so many.
_MIN_TRAINING_ROWS = 131_072
# A way to learn is chosen from so many distinct samples on, and so many a codeword:
# tables that hold nearly every sample say nothing of the way, and few samples no more.
_MIN_ROWS = 80
_MIN_ROWS_PER_CODEWORD = 2
# The other way must be better by this share: less is chance in a few thousand samples,
# and where clusters are real it gains many times as much.
_MIN_GAIN = 0.01
# It is tried on so many samples at most, or so many a codeword, if that is more.
_TRIAL_ROWS = 20_000
_TRIAL_ROWS_PER_CODEWORD = 128


class ResidualQuantizer(StagedQuantizer):
    r"""Quantize, then quantize what is left, and so on; add the codewords up.

    The residual scheme: :math:`r_0 = x`, :math:`\bar x_j = f(r_{j-1}, W_j)`,
    :math:`r_j = r_{j-1} - \bar x_j`; the reconstruction is
    :math:`\sum_j \bar x_j`.  Every table spans all features, so that dependence between
    any of them is used, and every prefix of a code is a coarser code.

    Parameters
    ----------
    n_stages : int, default=4
        M, the number of stages.
    n_codewords : int or sequence of int, default=None
        Codewords of every table, or of each; set on the clones of `quantizer`.  None:
        as they have it (256 for the default).
    quantizer : quantizer, default=None
        Quantizer of a stage, cloned for each; None: ``VectorQuantizer(tol=5e-4)``, with
        ``init="k-means++"`` where `fit_beam_size` is, or is chosen to be, 1, and
        ``init="progressive"`` where it is more.
    share_codebook : bool, default=False
        Whether one table serves all stages, learned from the residuals of all of them.
        Its first codeword is zero, so that no stage raises the error.
    beam_size : int, default=1
        Partial sums of each sample that are kept from stage to stage, when encoding;
        may be changed later by `set_params`.  One is the greedy search.
    fit_beam_size : int, default=None
        Partial sums of each sample that a stage learns from in `fit`, those nearest to
        it.  One is the greedy chain, best where samples form clusters; several are a
        remedy for overfitting, best where they do not.  None: with ``quantizer=None``,
        1 or the larger of 5 and `beam_size`, whichever is better for a tenth of the
        samples that a trial has not learned from, so that `fit` takes about twice as
        long; with another quantizer, the larger of 5 and `beam_size`, or 1 where it
        cannot be searched by beam.
    stage_weights : array-like of shape (n_stages,), default=None
        Weights of the errors of the partial sums in the loss; the last one positive.
        None: only the last error counts.  Needs ``n_refine > 0`` or ``beam_size > 1``.
    n_refine : int, default=0
        Largest number of rounds in which all samples are encoded and all tables solved
        for at once, by least squares.
    random_state : int, RandomState instance or None, default=None
        Seeds the parts, and chooses the samples that stages learn from; None: the parts
        keep their own.
    backend : {"auto", "numpy", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays go to
        a GPU where there is one and the work is worth it), on the host, or on a GPU.
        With "auto", parts that have a backend of their own keep it.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, n_features)
        The tables W_1..W_M; with `share_codebook`, the same one M times.
    codebook_sizes_ : tuple of int
        V_1..V_M.
    bits_per_sample_ : float
        Sum of log2 V_j.
    quantizers_ : list of quantizers
        The fitted stages.
    fit_beam_size_ : int
        Partial sums of each sample that the stages have learned from in `fit`.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    n_features_in_ : int
        Number of features.

    See Also
    --------
    ProductQuantizer : A table for each slice of the features; encodes faster.

    Notes
    -----
    Where `fit` chooses from how many sums stages learn, a tenth of the distinct
    samples, at most 4,096, judge by their codes under `beam_size` and `stage_weights`;
    `random_state` draws them.  With fewer than 80 distinct samples, or 2 for a codeword
    of the largest table, nothing is tried, and stages learn from several sums.  A fit
    with ``fit_beam_size=fit_beam_size_`` is the same without the trial.

    References
    ----------
    Juang and Gray (1982), "Multiple stage vector quantization for speech coding",
    ICASSP.
    Chen, Guan and Wang (2010), "Approximate nearest neighbor search by residual vector
    quantization", Sensors 10(12).
    Babenko and Lempitsky (2014), "Additive quantization for extreme vector
    compression", CVPR, for the joint least squares.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ResidualQuantizer
    >>> X = np.random.default_rng(0).normal(size=(1000, 8))
    >>> rq = ResidualQuantizer(n_stages=3, n_codewords=16, random_state=0).fit(X)
    >>> codes = rq.transform(X)
    >>> codes.shape, rq.bits_per_sample_
    ((1000, 3), 12.0)
    >>> rq.inverse_transform(codes[:, :2]).shape
    (1000, 8)
    >>> scores = list(rq.staged_score(X))
    >>> scores == sorted(scores)
    True
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_stages": [SIZE],
        "n_codewords": [SIZE, SIZES, None],
        "quantizer": [QUANTIZER, None],
        "share_codebook": ["boolean"],
        "beam_size": [SIZE],
        "fit_beam_size": [SIZE, None],
        "stage_weights": [NUMBERS, None],
        "n_refine": [Interval(Integral, 0, None, closed="left")],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }

    def __init__(
        self,
        n_stages=4,
        n_codewords=None,
        *,
        quantizer=None,
        share_codebook=False,
        beam_size=1,
        fit_beam_size=None,
        stage_weights=None,
        n_refine=0,
        random_state=None,
        backend="auto",
    ):
        self.n_stages = n_stages
        self.n_codewords = n_codewords
        self.quantizer = quantizer
        self.share_codebook = share_codebook
        self.beam_size = beam_size
        self.fit_beam_size = fit_beam_size
        self.stage_weights = stage_weights
        self.n_refine = n_refine
        self.random_state = random_state
        self.backend = backend

    # -- learning ------------------------------------------------------------------

    def _fit(self, X, weights):
        self._check_parts()
        self._check_memory(X)
        rng = check_random_state(self.random_state)
        ways = self._ways()
        trial = None
        if len(ways) > 1 or self.n_refine > 0:
            # Random numbers of a copy: `fit` is the same where it is told the way.
            trial = self._try(ways, X, weights, deepcopy(rng))
        beam = ways[0] if trial is None else trial.beam
        parts = self._learn(X, weights, rng, beam)
        if self.n_refine > 0 and trial is not None:
            parts = self._refine(parts, X, weights, trial)
        self._assign(parts)
        self.fit_beam_size_ = beam

    def _ways(self) -> tuple[int, ...]:
        """Return from how many sums of a sample stages may learn, to choose from.

        The first is taken where there is nothing to choose by.
        """
        if self.fit_beam_size is not None:
            return (self.fit_beam_size,)
        if not self._template()._can_encode_best():
            return (1,)
        several = max(self.beam_size, _TRAINING_BEAM)
        return (several,) if self.quantizer is not None else (several, 1)

    def _try(self, ways, X, weights, rng) -> "_Trial | None":
        """Learn from some samples in every way; return what is best for the others.

        The error of samples that tables have learned from would not do: it prefers the
        tables that follow them most closely.  None: there is nothing to choose by.
        """
        found = joint.hold_out(
            Rows(X, weights), joint.HELD_OUT_SHARE, joint.MAX_HELD_OUT, rng
        )
        held = run(found)
        rows = np.delete(np.arange(X.shape[0]), held.numbers)
        if len(ways) > 1:
            largest = max(self._sizes())
            if held.n_distinct < max(_MIN_ROWS, _MIN_ROWS_PER_CODEWORD * largest):
                ways = ways[:1]
            if self.n_refine == 0:
                most = max(_TRIAL_ROWS, _TRIAL_ROWS_PER_CODEWORD * largest)
                rows = _draw_at_most(most, rows, rng)
        if len(held.X) == 0 or (len(ways) == 1 and self.n_refine == 0):
            return None
        learned = take_rows(X, rows), _some(weights, rows)
        with collected():  # what there is to warn of, the model that is kept will say
            models = [
                self._apart()._learn(*learned, deepcopy(rng), beam) for beam in ways
            ]
        losses = [self._loss(model, like(held.X, X), held.weights) for model in models]
        losses[0] *= 1 - _MIN_GAIN
        best = int(np.argmin(losses))
        held = held._replace(rows=Rows(*learned), X=like(held.X, X))
        return _Trial(ways[best], models[best], held)

    def _apart(self) -> Self:
        """Return a copy whose draws leave those of the fit as they are."""
        copy = copy_to_fit(self, fitted=True)
        copy.random_state = deepcopy(self.random_state)
        return copy

    def _loss(self, parts, X, weights) -> float:
        """Return the mean loss under the search that `transform` does."""
        _, losses = _search(
            parts, X, self.beam_size, stage_weights=self._checked_weights()
        )
        return average(losses[:, 0], weights)

    def _learn(self, X, weights, rng, beam) -> list:
        if self.share_codebook:
            return self._fit_shared(X, weights, rng, beam)
        parts = self._new_parts(self.n_stages, self.n_codewords, beam)
        return self._fit_stages(parts, X, weights, rng, beam)

    def _partial_fit(self, X, weights):
        self._check_parts()
        if self.__sklearn_is_fitted__():
            parts = [shallow_copy(part) for part in self.quantizers_]
        else:
            self._check_memory(X)
            parts = self._new_parts(self.n_stages, self.n_codewords)
        rest, found = X, []
        for part in parts:
            with collected() as notices:
                part.partial_fit(rest, sample_weight=weights)
            found.append(notices)
            rest = rest - part._decode(as_indices(part._encode(rest)))
        warn_of_parts("stage", found)
        self._assign(parts)

    def _fit_stages(self, parts, X, weights, rng, beam) -> list:
        """Fit one stage after the other on residuals of the beam."""
        greedy = X if self.beam_size == 1 and beam > 1 else None
        codes = zeros((X.shape[0], 1, 0), X, code_dtype(X, np.dtype(np.uint8)))
        found = []
        for j, part in enumerate(parts):
            rows, sums = _choose_sums(codes.shape[:2], rng)
            rest = _residuals(parts[:j], X, codes, rows, sums)
            with collected() as notices:
                part.fit(rest, sample_weight=_some(weights, rows))
                if j == 0:
                    # Before the beam has grown, as if all stages were like this one.
                    widths = [beam] * len(parts)
                    _check_search_memory([part] * len(parts), X, 0, 1, widths)
                if greedy is not None:
                    greedy = _never_worse(part, greedy, weights)
            found.append(notices)
            if j < len(parts) - 1:
                codes, _ = _search(
                    parts[: j + 1], X, beam, n_best=beam, begin=codes, errors=False
                )
        warn_of_parts("stage", found)
        return parts

    def _fit_shared(self, X, weights, rng, beam) -> list:
        """Learn one table from all stages.

        The union of small tables, one for each stage, in which one codeword is zero, is
        a table that serves all of them; least squares on the sums makes it a good one.
        K-means on the residuals of all stages together would not: what serves the first
        stage best raises the error of the last.
        """
        (part,) = self._new_parts(1, self._shared_size(), beam)
        size = int(part.n_codewords)
        # One codeword is the zero, where there is more than one.
        n_learned = max(1, size - 1)
        zero = np.zeros((size - n_learned, X.shape[1]), dtype=numpy_dtype(X))
        if run(few_distinct(Rows(X), size)) is not None:
            # The samples themselves, and a warning.
            (_, table), *_ = part.fit(X, sample_weight=weights)._free_tables()
            table = np.concatenate([zero, to_host(table)[:n_learned]])
            return [part._with_tables([table])] * self.n_stages
        n_small = min(n_learned, self.n_stages)
        sizes = [len(some) for some in np.array_split(np.arange(n_learned), n_small)]
        small = self._new_parts(n_small, sizes, beam)
        small = self._fit_stages(small, X, weights, rng, beam)
        tables = [to_host(table) for one in small for _, table in one._free_tables()]
        table = np.concatenate([zero, *tables])
        shared = joint.share(
            Rows(X, weights),
            table,
            self.n_stages,
            self._encode_under([small[0]] * self.n_stages, shared=True),
            np.arange(size) < len(zero),
        )
        table = run(shared)
        fitted = small[0]._with_tables([table]).set_params(n_codewords=size)
        return [fitted] * self.n_stages

    def _refine(self, parts, X, weights, trial) -> list:
        """Solve for all tables at once, round by round.

        How far the samples can be trusted is found out on some that a second model has
        never seen: tables that have seen them would look better than they are.
        """
        problem, tables = self._problem(trial.parts)
        strengths = run(
            joint.choose_strengths(trial.held, tables, problem, self.n_refine)
        )
        problem, tables = self._problem(parts)
        rows = Rows(X, weights)
        tables = run(joint.refine(rows, tables, problem, strengths))
        return _unstack(parts, problem.stacks, tables, self.share_codebook)

    def _problem(self, parts) -> tuple[joint.Problem, list[np.ndarray]]:
        shared = self.share_codebook
        stacks = _stacks(parts, shared)
        tables = _stack(parts, stacks, shared)
        pinned = shared and len(tables[0]) > 1
        problem = joint.Problem(
            stacks,
            self._encode_under(parts, shared=shared),
            self._checked_weights(),
            np.arange(len(tables[0])) < 1 if pinned else None,
        )
        return problem, tables

    def _encode_under(self, parts, *, shared):
        """Return the function that gives codes and losses of rows under tables."""
        stacks = _stacks(parts, shared)
        weights = self._checked_weights()

        def encode(X, tables):
            now = _unstack(parts, stacks, tables, shared)
            codes, errors = _search(now, X, self.beam_size, stage_weights=weights)
            return codes[:, 0, :], errors[:, 0]

        return encode

    def _assign(self, parts) -> None:
        self.quantizers_ = parts
        sizes = [size for part in parts for size in part.codebook_sizes_]
        self.codebook_sizes_ = tuple(sizes)

    # -- parameters ----------------------------------------------------------------

    @property
    def _follows_namespace(self):  # type: ignore[override]
        return getattr(self._template(), "_follows_namespace", False)

    def _template(self, beam=_TRAINING_BEAM):
        """Return the part that is cloned, for stages that learn from so many sums."""
        if self.quantizer is None:
            init = "k-means++" if beam == 1 else "progressive"
            return VectorQuantizer(init=init, tol=5e-4)
        return self.quantizer

    def _sizes(self) -> list[int]:
        sizes = self.n_codewords
        if sizes is None:
            sizes = self._template().n_codewords
        return part_sizes(sizes, self.n_stages)

    def _new_parts(self, n_parts, sizes, beam=_TRAINING_BEAM) -> list:
        return make_parts(
            self._template(beam),
            n_parts,
            n_codewords=sizes,
            random_state=self.random_state,
            backend=self.backend,
        )

    def _table_elements(self, n_features):
        if self.share_codebook:
            return parts_elements(self._template(), self._shared_size(), [n_features])
        widths = Counter({n_features: self.n_stages})
        return parts_elements(self._template(), self.n_codewords, widths)

    def _check_memory(self, X) -> None:
        size, (n, d) = numpy_dtype(X).itemsize, X.shape
        check_memory(
            f"Tables of n_codewords={self.n_codewords} for n_stages={self.n_stages}, "
            f"and the codes of {n} rows,",
            size * self._table_elements(d) + n * self.n_stages,
            size * n * d,
        )

    def _shared_size(self):
        """Return the one n_codewords that a shared table may have, or None."""
        sizes = self.n_codewords
        if sizes is None or isinstance(sizes, Integral):
            return sizes
        sizes = check_counts("n_codewords", sizes)
        if len(sizes) != self.n_stages or len(set(sizes)) > 1:
            raise ValueError(
                f"share_codebook=True takes one n_codewords for all {self.n_stages} "
                f"stages; got {sizes}."
            )
        return sizes[0]

    def _check_parts(self) -> None:
        """Raise if the parameters do not go together."""
        part = self._template()
        name = type(part).__name__
        self._check_beam(part)
        self._check_beam(part, "fit_beam_size")
        if self.n_refine > 0 and not part._has_free_tables():
            raise ValueError(
                f"n_refine={self.n_refine} needs stages whose tables are free to move: "
                "learned ones under metric='sqeuclidean', or products of them; "
                f"quantizer={part!r} has others. Use n_refine=0."
            )
        if self.share_codebook and not (
            isinstance(part, VectorQuantizer) and part._has_free_tables()
        ):
            raise ValueError(
                "share_codebook=True takes a VectorQuantizer that learns under "
                f"metric='sqeuclidean' as quantizer; got {name}: {part!r}."
            )
        if self._checked_weights() is None:
            return
        if self.n_refine == 0 and self.beam_size == 1:
            raise ValueError(
                "stage_weights would do nothing with n_refine=0 and beam_size=1: raise "
                "one of the two, or use stage_weights=None."
            )

    def _check_beam(self, part, name="beam_size") -> None:
        size = getattr(self, name)
        if size is None:
            return
        # It may have been changed after the fit, which no constraint has seen.
        if check_count(name, size) > 1 and not part._can_encode_best():
            raise ValueError(
                f"{name}={size} needs stages that find several codes for "
                "a sample: VectorQuantizer under metric='sqeuclidean', and products or "
                f"residuals of it; quantizer={part!r} finds one. Use {name}=1."
            )

    def _checked_weights(self) -> np.ndarray | None:
        if self.stage_weights is None:
            return None
        check_unmasked(self.stage_weights, "stage_weights")
        try:
            weights = np.asarray(self.stage_weights, dtype=np.float64)
        except (TypeError, ValueError):
            weights = np.empty(0)
        valid = weights.shape == (self.n_stages,) and np.isfinite(weights).all()
        if not valid or (weights < 0).any() or weights[-1] <= 0:
            raise ValueError(
                f"stage_weights={self.stage_weights!r}; expected n_stages="
                f"{self.n_stages} finite numbers of zero or more, the last one "
                "positive."
            )
        return weights

    def _can_partial_fit(self):
        return (
            not self.share_codebook
            and self.n_refine == 0
            and hasattr(self._template(), "partial_fit")
        )

    def _why_no_partial_fit(self):
        if self.share_codebook:
            return "share_codebook=True learns from all samples at once."
        if self.n_refine > 0:
            return f"n_refine={self.n_refine} encodes all samples again."
        return why_no_stream(self._template())

    # -- codes ---------------------------------------------------------------------

    def _encode(self, X):
        self._check_beam(self.quantizers_[0])
        codes, _ = _search(
            self.quantizers_,
            X,
            check_count("beam_size", self.beam_size),
            stage_weights=self._checked_weights(),
            errors=False,
        )
        return self._in_order(codes)[:, 0, :]

    def _decode(self, codes):
        return _last(_partial_sums(self.quantizers_, codes))

    def _decodable_widths(self):
        return tuple(np.cumsum(_code_widths(self.quantizers_)).tolist())

    def _codebooks(self):
        return tuple(table for part in self.quantizers_ for table in part.codebooks_)

    def _can_encode_best(self):
        return self._template()._can_encode_best()

    def _encode_best(self, X, n_best):
        codes, _ = _search(
            self.quantizers_,
            X,
            max(check_count("beam_size", self.beam_size), n_best),
            n_best=n_best,
            stage_weights=self._checked_weights(),
            errors=False,
        )
        return self._in_order(codes)

    def _in_order(self, codes):
        """Put codes of a shared table in one order, where it does not count.

        Every order of the same codewords has the same sum, and a beam would return
        whichever rounding favours.  Large codewords first, so that prefixes are coarse.
        """
        weighted = self.stage_weights is not None
        if not self.share_codebook or self.beam_size == codes.shape[1] == 1 or weighted:
            return codes
        table = to_host(self.quantizers_[0].codebooks_[0]).astype(np.float64)
        by_size = np.argsort(-np.linalg.norm(table, axis=1), kind="stable")
        rank = np.argsort(by_size, kind="stable")
        xp = nearest.backend_of(codes).xp
        return look_up(by_size, xp.sort(look_up(rank, as_indices(codes)), axis=2))

    def _partial_sums(self, codes):
        return _partial_sums(self.quantizers_, codes)


# -- the search ------------------------------------------------------------------------


def _search(
    parts: Sequence,
    X: np.ndarray,
    beam_size: int,
    *,
    n_best: int = 1,
    begin: np.ndarray | None = None,
    stage_weights=None,
    errors: bool = True,
):
    """Find codes by beam, as `nearest.nearest_best`, with any quantizers as stages."""
    dtype = smallest_dtype(max(size for part in parts for size in part.codebook_sizes_))
    tables = [_searched_table(part) for part in parts]
    if all(table is not None for table in tables):
        return nearest.nearest_best(
            X,
            tables,
            beam_size,
            n_best=n_best,
            begin=begin,
            stage_weights=stage_weights,
            return_distances=errors,
            dtype=dtype,
        )
    own_dtype = code_dtype(X, dtype)
    if begin is None:
        begin = zeros((X.shape[0], 1, 0), X, own_dtype)
    widths = [beam_size] * (len(parts) - 1) + [n_best]
    weights = np.zeros(len(parts))
    weights[-1] = 1.0
    if stage_weights is not None:
        weights = np.asarray(stage_weights)
    per_row = X.shape[1] * max(beam_size, n_best) ** 2
    _check_search_memory(parts, X, begin.shape[2], begin.shape[1], widths)

    def search(rows: slice):
        return _search_tile(parts, X[rows, :], begin[rows, ...], widths, weights)

    found = list(nearest.backend_of(X).tiles(X.shape[0], per_row, search))
    codes = in_dtype(join([one for one, _ in found], axis=0), own_dtype)
    return codes, join([one for _, one in found], axis=0)


def _check_search_memory(parts, X, n_begun: int, n_sums: int, widths) -> None:
    """Raise if the beam is out of proportion to the rows, of which one is a tile."""
    (n, d), most, n_codes = X.shape, 0, 0
    for part, width in zip(parts, widths, strict=True):
        n_codes += len(part.codebook_sizes_)
        if n_codes > n_begun:
            found = n_sums * min(width, math.prod(part.codebook_sizes_))
            most, n_sums = max(most, found), min(width, found)
    size = numpy_dtype(X).itemsize
    # `nearest_best` compares by scores, and makes the vectors of what it keeps alone.
    of_one_row = 3 * d * most
    if all(_searched_table(part) is not None for part in parts):
        of_one_row = most + 3 * d * n_sums
    check_memory(
        f"beam_size={max(widths)}, which keeps {n_sums} sums of each of {n} rows,",
        size * of_one_row + n * n_sums * n_codes,
        size * n * d,
    )


def _searched_table(part):
    """Return the one table that codes of the part are an argmin over, if it is so."""
    if isinstance(part, VectorQuantizer) and part.metric == "sqeuclidean":
        return part.codebooks_[0]
    return None


def _search_tile(parts, X, codes, widths, weights):
    """Search in a few rows; return their codes and the losses of these."""
    n, d = X.shape
    ahead = np.append(np.cumsum(weights[::-1])[::-1][1:], 0.0)
    n_sums, n_begun = codes.shape[1:]
    rest = repeat(X[:, None, :], n_sums, axis=1)
    loss = zeros((n, n_sums), X)
    for j, part in enumerate(parts):
        width = len(part.codebook_sizes_)
        now = float(weights[j])
        if n_begun > 0:
            column = sum(_code_widths(parts[:j]))
            own = codes[:, :, column : column + width]
            rest = rest - _decode_sums(part, own)
            loss = loss + now * squared_norms(rest)
            n_begun -= width
            continue
        flat = reshape(rest, (n * rest.shape[1], d))
        if rest.shape[1] == widths[j] == 1:
            own = part._encode(flat)[:, None, None, :]
        else:
            own = part._encode_best(flat, widths[j])
            own = reshape(own, (n, rest.shape[1], -1, width))
        n_sums, n_found = own.shape[1:3]
        own = as_indices(reshape(own, (n, n_sums * n_found, width)))
        rest = repeat(rest, n_found, axis=1) - _decode_sums(part, own)
        before = as_indices(repeat(codes, n_found, axis=1))
        codes = join([before, own], axis=2)
        loss = repeat(loss, n_found, axis=1)
        norms = squared_norms(rest)
        # What this error costs now and, if nothing were to improve, in stages to come.
        costs = loss + (now + float(ahead[j])) * norms
        best = stable_order(costs)[:, : min(widths[j], costs.shape[1])]
        loss = take_along(loss + now * norms, best)
        rest = take_along(rest, best)
        codes = take_along(codes, best)
    return codes, loss


def _decode_sums(part, codes):
    """Decode codes (n_samples, n_sums, n_codes) of one part."""
    n, n_sums, width = codes.shape
    flat = as_indices(reshape(codes, (n * n_sums, width)))
    return reshape(part._decode(flat), (n, n_sums, -1))


def _code_widths(parts) -> list[int]:
    return [len(part.codebook_sizes_) for part in parts]


def _last(arrays: Iterator[np.ndarray]) -> np.ndarray:
    (last,) = deque(arrays, maxlen=1)
    return last


def _partial_sums(parts, codes) -> Iterator[np.ndarray]:
    """Yield the sums of the codewords of one part, two parts, and so on."""
    total, column = None, 0
    for part in parts:
        if column == codes.shape[1]:
            return
        width = len(part.codebook_sizes_)
        decoded = part._decode(codes[:, column : column + width])
        total = decoded if total is None else total + decoded
        column += width
        yield total


# -- what stages learn from ------------------------------------------------------------


class _Trial(NamedTuple):
    """Stages that have learned from some samples, and the samples that judge them."""

    beam: int  # sums of each sample that the stages have learned from
    parts: list
    held: joint.HeldOut


def _choose_sums(shape, rng) -> tuple[np.ndarray, np.ndarray]:
    """Choose partial sums to learn from: rows of X, and places in their beams."""
    n_rows, n_sums = shape
    most = max(n_rows, _MIN_TRAINING_ROWS)
    chosen = _draw_at_most(most, np.arange(n_rows * n_sums), rng)
    return np.divmod(chosen, n_sums)


def _draw_at_most(size: int, rows: np.ndarray, rng) -> np.ndarray:
    """Return all rows, or so many of them, in ascending order."""
    if len(rows) <= size:
        return rows
    return np.sort(rng.choice(rows, size, replace=False))


def _residuals(parts, X, codes, rows, sums):
    rest = take_rows(X, rows)
    if not parts:
        return rest
    n, n_sums, n_codes = codes.shape
    chosen = take_rows(reshape(codes, (n * n_sums, n_codes)), rows * n_sums + sums)
    return rest - _last(_partial_sums(parts, as_indices(chosen)))


def _some(weights, rows):
    return None if weights is None else take_rows(weights, rows)


def _never_worse(part, rest, weights):
    """Subtract the codewords of greedy residuals; fit the part on them if that is bad.

    A stage that learned from a beam may raise the error of the one residual that the
    greedy search keeps, in data of a few samples.
    """
    zero = zeros((1, rest.shape[1]), rest)
    codes = as_indices(zeros((rest.shape[0],), rest))
    before = average(nearest.paired(rest, zero, codes=codes), weights)
    decoded = part._decode(as_indices(part._encode(rest)))
    if average(nearest.paired(rest, decoded), weights) > before:
        part.fit(rest, sample_weight=weights)
        decoded = part._decode(as_indices(part._encode(rest)))
    return rest - decoded


# -- tables in and out of the parts ----------------------------------------------------


def _stacks(parts, shared: bool) -> list[joint.Stack]:
    """Group the tables of all stages by the features that they span."""
    stages = [part._free_tables() for part in parts]
    width = len(stages[0])
    stacks = []
    for k, (features, _) in enumerate(stages[0]):
        sizes = [stage[k][1].shape[0] for stage in stages]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        columns = [j * width + k for j in range(len(stages))]
        if shared:
            starts = [0] * len(stages)
        stacks.append(joint.Stack(features, columns, starts, sizes))
    return stacks


def _stack(parts, stacks, shared: bool) -> list[np.ndarray]:
    stages = [part._free_tables() for part in parts[: 1 if shared else None]]
    return [
        np.concatenate([to_host(stage[k][1]) for stage in stages])
        for k in range(len(stacks))
    ]


def _unstack(parts, stacks, tables, shared: bool) -> list:
    """Return copies of the parts with the tables that `_stack` would give."""
    if shared:
        return [parts[0]._with_tables(tables)] * len(parts)
    return [
        part._with_tables(
            [
                table[own.starts[j] : own.starts[j] + own.sizes[j]]
                for own, table in zip(stacks, tables, strict=True)
            ]
        )
        for j, part in enumerate(parts)
    ]
