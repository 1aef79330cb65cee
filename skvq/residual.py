"""The residual scheme: each table quantizes the residual of those before it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from functools import partial
from itertools import accumulate, islice, pairwise
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._arrays import (
    as_indices,
    average,
    code_dtype,
    in_dtype,
    join,
    look_up,
    repeat,
    reshape,
    squared_norms,
    stable_order,
    take_along,
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
from skvq._given import are_shared, one_width
from skvq._typing import BackendName, Init, Number, RandomState, Size, Sizes, VectorLike
from skvq._validation import collected, copy_to_fit, take_over, warn_of_parts
from skvq.base import QUANTIZER, BaseQuantizer, check_as_before, measures
from skvq.codes import smallest_dtype
from skvq.coding import rates
from skvq.coding.charges import Prices, biases, charged, of_bits
from skvq.learning import joint
from skvq.learning.balance import balance_prices
from skvq.learning.random_rows import new_key, some_places, some_rows
from skvq.learning.rows import Block, Learner, Rows, run
from skvq.learning.start import few_distinct
from skvq.learning.tasks import SILENT
from skvq.parts import (
    EVENLY,
    QUANTIZERS,
    NestingQuantizer,
    Parts,
    Template,
    check_as_begun,
    check_sizes_as_begun,
    fit_part,
    part_sizes,
)
from skvq.staged import StagedQuantizer
from skvq.vector import VectorQuantizer

# Least number of partial sums per sample whose residuals train the next stage, where
# there are several.
_TRAINING_BEAM = 5
# A stage learns from as many residuals as there are samples, or at least this many.
_MIN_TRAINING_ROWS = 131_072
# A way to learn is chosen only from this many distinct samples on, in total and per
# codeword: tables that hold nearly every sample tell nothing about the way.
_MIN_ROWS = 80
_MIN_ROWS_PER_CODEWORD = 2
# The other way must be better by this share: less is chance in a few thousand samples,
# and real clusters gain many times as much.
_MIN_GAIN = 0.01
# The most samples in a trial, or this many per codeword if that is more.
_TRIAL_ROWS = 20_000
_TRIAL_ROWS_PER_CODEWORD = 128
# Refinement ends with a round that lowers the loss by at most this share of it.
_MIN_FALL = 1e-3


class ResidualQuantizer(NestingQuantizer, StagedQuantizer):
    r"""Quantize, then quantize the residual, and so on; add the codewords up.

    The residual scheme: :math:`r_0 = x`, :math:`\bar x_j = f(r_{j-1}, W_j)`,
    :math:`r_j = r_{j-1} - \bar x_j`; the reconstruction is
    :math:`\sum_j \bar x_j`.  Every table spans all features, so dependence between any
    of them is used, and every prefix of a code is a coarser code.

    Parameters
    ----------
    n_stages : int, default=4
        M, the number of stages.  It plays no part with a list as `quantizer`, whose
        length is the number of stages.
    n_codewords : int or sequence of int, default=None
        Number of codewords of all tables, or of each; set on the clones of `quantizer`.
        None keeps their own (256 for the default), and is required with a list.
    quantizer : quantizer, or list of quantizers or of (str, quantizer), default=None
        Quantizer of a stage, cloned for each; None: ``VectorQuantizer(tol=5e-4)``, with
        ``init="k-means++"`` if `fit_beam_size` is, or is chosen to be, 1, and
        ``init="progressive"`` if it is larger.  A list has a quantizer for each stage,
        with or without names.  Their parameters are set by ``<name>__<parameter>``, as
        in a `Pipeline`; quantizers without names are called 0, 1, ...  Requirements on
        a quantizer below hold for each in the list.
    share_codebook : bool, default=False
        Whether one table serves all stages, learned from the residuals of all of them.
        Its first codeword is zero, so that no stage raises the error.
    rate_weight : float, default=0.0
        Squared distance that a bit is worth in the search of each stage, see
        `VectorQuantizer`; set on the clones of `quantizer`.  0 keeps their own.
        A beam ranks sums by their error plus the cost of their codes' bits.
    balance : True or None, default=None
        True: the codewords of every stage are used evenly, see `VectorQuantizer`; set
        on the clones of `quantizer`.  None keeps their own.  With a beam, the prices of
        all stages are learned from the codes found with this `beam_size`; if it is
        changed later, codes are used less evenly.
    beam_size : int, default=1
        Number of partial sums per sample kept from stage to stage when encoding; it may
        be changed later by `set_params`.  One is the greedy search.
    fit_beam_size : int, default=None
        Number of partial sums per sample, the nearest ones, whose residuals a stage
        learns from in `fit`.  One is the greedy chain, best if samples form clusters;
        several counter overfitting, best if they do not.  None: with
        ``quantizer=None``, the better of 1 and the larger of 5 and `beam_size`, judged
        on a tenth of the samples that a trial has not learned from, which costs the
        time of the trials; with another quantizer, the larger of 5 and `beam_size`, or
        1 if it cannot be searched by beam.  If bits have a price, the choice is made
        with any quantizer, and 1 is taken if there are too few samples for it.
    stage_weights : array-like of shape (n_stages,), default=None
        Weights of the errors of the partial sums in the loss; the last one must be
        positive.  None: only the last error counts.  They need ``n_refine > 0`` or
        ``beam_size > 1``.
    n_refine : int, default=0
        The most rounds in which all samples are encoded and all tables are solved for
        at once, by least squares.
    warm_start : bool, default=False
        Whether another `fit` starts from the fitted tables of all parts, so that codes
        keep their meaning as far as possible; see `skvq.codes.match`.  If
        `fit_beam_size_` was chosen, it stays.
    random_state : int, RandomState instance or None, default=None
        Seeds the parts, and chooses the samples that stages learn from; None: the parts
        keep their own.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.
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
        Number of partial sums per sample whose residuals the stages learned from.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    code_lengths_ : tuple of ndarray of shape (V_j,)
        Bits that the search counts for each code of each stage; only if it weighs bits.
    prices_ : tuple of ndarray of shape (V_j,)
        Squared distance that the search adds for each code of each stage; only if it
        uses codes evenly.
    objective_ : float
        `distortion_` plus the cost of the bits of the training samples; only if the
        search weighs bits.
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.  None for columns of more than 2^16 codewords.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    ProductQuantizer : A table for each slice of the features, searched by itself.

    Notes
    -----
    If `fit` chooses `fit_beam_size_`, a tenth of the distinct samples, at most 4,096,
    judge by their codes under `beam_size` and `stage_weights`; `random_state` draws
    them.  With fewer than 80 distinct samples, or 2 per codeword of the largest table,
    nothing is tried, and stages learn from several sums.  A fit with
    ``fit_beam_size=fit_beam_size_`` gives the same result without the trial.

    References
    ----------
    Juang and Gray (1982), "Multiple stage vector quantization for speech coding",
    ICASSP, doi:10.1109/ICASSP.1982.1171604.
    Chen, Guan and Wang (2010), "Approximate nearest neighbor search by residual vector
    quantization", Sensors 10(12), doi:10.3390/s101211259.
    Babenko and Lempitsky (2014), "Additive quantization for extreme vector
    compression", CVPR, for the joint least squares, doi:10.1109/CVPR.2014.124.

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

    backend: BackendName
    share_codebook: bool

    fit_beam_size_: int
    objective_: float

    _parameter_constraints = {  # noqa: RUF012
        "n_stages": [SIZE],
        "n_codewords": [SIZE, SIZES, None],
        "quantizer": [QUANTIZER, QUANTIZERS, None],
        "share_codebook": ["boolean"],
        "rate_weight": [Interval(Real, 0, None, closed="left")],
        "balance": [EVENLY, None],
        "beam_size": [SIZE],
        "fit_beam_size": [SIZE, None],
        "stage_weights": [NUMBERS, None],
        "n_refine": [Interval(Integral, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }

    _COUNT = "n_stages"
    _DIAGRAM = "serial"

    def __init__(
        self,
        n_stages: Size = 4,
        n_codewords: Size | Sizes | None = None,
        *,
        quantizer: BaseQuantizer
        | Sequence[BaseQuantizer | tuple[str, BaseQuantizer]]
        | None = None,
        share_codebook: bool = False,
        rate_weight: Number = 0.0,
        balance: bool | None = None,
        beam_size: Size = 1,
        fit_beam_size: Size | None = None,
        stage_weights: VectorLike | None = None,
        n_refine: Size = 0,
        warm_start: bool = False,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.n_stages = n_stages
        self.n_codewords = n_codewords
        self.quantizer = quantizer
        self.share_codebook = share_codebook
        self.rate_weight = rate_weight
        self.balance = balance
        self.beam_size = beam_size
        self.fit_beam_size = fit_beam_size
        self.stage_weights = stage_weights
        self.n_refine = n_refine
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend

    # -- learning ------------------------------------------------------------------

    def _n_tasks(self) -> int | None:
        # At most: the trial, the stages, and what all tables and their prices get.
        return 1 + self._n_parts() + 1 + 2 * (int(self.n_refine) > 0) + 1

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        self._check_together()
        self._check_memory(rows)
        rng = check_random_state(self.random_state)
        ways = self._ways()
        trial = None
        if len(ways) > 1 or int(self.n_refine) > 0:
            # A copy of the generator, so that a fit without a trial draws the same.
            trial = yield from self._try(ways, rows, deepcopy(rng))
        beam = ways[0] if trial is None else trial.beam
        parts = yield from self._learn_parts(rows, rng, beam)
        if int(self.n_refine) > 0 and trial is not None:
            parts = yield from self._refine(parts, rows, trial)
        if "prices" in self._code_costs() and max(beam, int(self.beam_size)) > 1:
            parts = yield from self._levelled(rows, parts)
        found = self._found(parts, beam)
        if found["_parts_"].biases is not None:
            found |= yield from self._measured(rows, found)
        return found

    def _found(self, parts: list[Any], beam: int) -> dict[str, Any]:
        """Return the fitted attributes of stages that learned from so many sums."""
        return {**_found(parts), "fit_beam_size_": beam}

    def _measured(self, rows: Rows, found: dict[str, Any]) -> Learner[dict[str, Any]]:
        """Return the fitted attributes that are measured by the final search."""
        fitted, sizes = copy(self), found["codebook_sizes_"]
        fitted.__dict__.update(found)
        # Weights of codes are needed for all columns, large ones too.
        summed, weight, *counts = yield rows.fold(
            measures, fitted, True, range(len(sizes))
        )
        kept = [counts[j] for j in rates.counted_columns(sizes)]
        measured = {
            "distortion_": float(summed / weight),
            "code_counts_": rates.in_mean_weights(kept, weight, rows.n_rows, sizes),
        }
        added = biases(of_bits(found["_parts_"].charges), sizes)
        if added is not None:
            cost = sum(map(np.dot, counts, added))
            measured["objective_"] = float((summed + cost) / weight)
        return measured

    def _levelled(self, rows: Rows, parts: list[Any]) -> Learner[list[Any]]:
        """Return stages whose prices are learned from the codes of the real search.

        They start from the prices that each stage has learned from its own residuals.
        """
        charges = Parts(parts).charges
        begun = {j: one for j, one in enumerate(charges) if isinstance(one, Prices)}
        columns = list(begun)
        ends = np.cumsum([len(one.bias) for one in begun.values()])[:-1]

        def priced(prices: np.ndarray) -> list[Any]:
            own: list[Any] = list(charges)
            for j, bias in zip(columns, np.split(prices, ends), strict=True):
                own[j] = Prices(bias - bias.min(), begun[j].shares)
            own_of_parts = iter(own)
            return [
                part._with_charges(list(islice(own_of_parts, width)))
                for part, width in zip(parts, _code_widths(parts), strict=True)
            ]

        def weigh(prices: np.ndarray) -> Learner[np.ndarray]:
            weights = yield rows.fold(
                _weights_of_codes, Parts(priced(prices)), self.beam_size, columns
            )
            return np.concatenate(weights)

        task = rows.task.begin("levelling")
        total, summed = yield rows.fold(
            _weight_and_errors, Parts(parts), self.beam_size
        )
        prices = np.concatenate([one.bias for one in begun.values()])
        targets = float(total) * np.concatenate([one.shares for one in begun.values()])
        found = yield from balance_prices(weigh, prices, targets, float(summed / total))
        task.end()
        return priced(found.prices)

    def _ways(self) -> tuple[int, ...]:
        """Return the numbers of sums per sample that stages may learn from.

        The first is taken if a choice is not possible.
        """
        if self.fit_beam_size is not None:
            return (int(self.fit_beam_size),)
        if not self._can_encode_best():
            return (1,)
        if self._before_ is not None:
            return (self._before_.fit_beam_size_,)
        several = max(int(self.beam_size), _TRAINING_BEAM)
        if "code_lengths" in self._code_costs():
            # Sums other than the best use codes that are hardly ever written.
            return (1, several)
        return (several,) if self.quantizer is not None else (several, 1)

    def _try(
        self, ways: Any, rows: Rows, rng: np.random.RandomState
    ) -> Learner[_Trial | None]:
        """Learn from some samples in every way; return the way best for the others.

        Samples that tables have learned from would not do as judges: they prefer tables
        that overfit them.  Return None if a choice is not possible.
        """
        held = yield from joint.hold_out(
            rows, joint.HELD_OUT_SHARE, joint.MAX_HELD_OUT, rng
        )
        learned = held.rows
        if len(ways) > 1:
            largest = max(self._sizes())
            if held.n_distinct < max(_MIN_ROWS, _MIN_ROWS_PER_CODEWORD * largest):
                ways = ways[:1]
            if self.n_refine == 0:
                most = max(_TRIAL_ROWS, _TRIAL_ROWS_PER_CODEWORD * largest)
                learned = yield from some_rows(learned, most, rng)
        if len(held.X) == 0 or (len(ways) == 1 and self.n_refine == 0):
            return None
        # Of the ways somebody may be told, but not of what is learned in each of them.
        learned = learned.held().under(SILENT)
        models = []
        trial = rows.task.begin("trial", len(ways))
        with collected():  # the model that is kept will give the warnings
            for beam in ways:
                task = trial.begin("way")
                learner = self._apart()._learn_parts(learned, deepcopy(rng), beam)
                models.append(run(learner))
                task.end()
        trial.end()
        losses = [self._loss(model, held) for model in models]
        losses[0] *= 1 - _MIN_GAIN
        best = int(np.argmin(losses))
        return _Trial(ways[best], models[best], held._replace(rows=learned))

    def _apart(self) -> Self:
        """Return a copy whose random draws do not affect those of the fit."""
        copy = copy_to_fit(self, fitted=True)
        copy.random_state = deepcopy(self.random_state)
        # Tables of the last fit have seen the samples held out, and would mislead.
        copy._before_ = None
        return copy

    def _loss(self, parts: Sequence[Any], held: Any) -> float:
        """Return the mean loss under the search of `transform`."""
        X, weights = held.rows.be.like(held.X), held.weights
        stages = Parts(parts)
        codes, losses = _search(
            stages, X, int(self.beam_size), stage_weights=self._checked_weights()
        )
        losses = losses[:, 0]
        added = biases(of_bits(stages.charges), stages.sizes)
        if added is not None:
            losses = losses + charged(added, as_indices(codes[:, 0, :]))
        return average(losses, weights)

    def _from_tables(
        self, tables: list[nearest.Table], code_lengths: Any = None, prices: Any = None
    ) -> dict[str, Any]:
        costs = {"code_lengths": code_lengths, "prices": prices}
        parts = self._parts_of_tables(tables, costs)
        n_features = one_width([part.n_features_in_ for part in parts])
        priced = self._code_costs()
        if isinstance(parts[0], VectorQuantizer) and are_shared(parts) and not priced:
            self.share_codebook = True
        self._check_together()
        found = {"n_features_in_": n_features, **self._found(parts, 1)}
        return {**found, "objective_": np.nan} if "code_lengths" in priced else found

    def _learn_parts(
        self, rows: Rows, rng: np.random.RandomState, beam: Any
    ) -> Learner[list[Any]]:
        if self.share_codebook:
            return (yield from self._fit_shared(rows, rng, beam))
        default = self._default_part(beam)
        parts = self._new_parts(self._n_parts(), self.n_codewords, default)
        self._go_on(parts)
        return (yield from self._fit_stages(parts, rows, rng, beam))

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        self._check_together()
        n_stages = self._n_parts()
        if self.__sklearn_is_fitted__():
            check_as_begun(self._count(), n_stages, len(self.quantizers_))
            check_sizes_as_begun(self.n_codewords, self.quantizers_)
            parts = [copy_to_fit(part, fitted=True) for part in self.quantizers_]
        else:
            self._check_memory(Rows(X))
            parts = self._new_parts(n_stages, self.n_codewords)
        rest, found = X, []
        for part, template in zip(parts, self._template_of_each(n_stages), strict=True):
            with collected() as notices, template.naming():
                part._validate_params()
                part._learn_batch(rest, weights)
            found.append(notices)
            rest = rest - part._quantize(rest)
        warn_of_parts("stage", found)
        return _found(parts)

    def _fit_stages(
        self, parts: list[Any], rows: Rows, rng: np.random.RandomState, beam: Any
    ) -> Learner[list[Any]]:
        """Fit one stage after the other on residuals of the beam."""
        greedy = self.beam_size == 1 and beam > 1
        codes, greedy_codes, n_sums = None, None, 1
        found = []
        templates = self._template_of_each(len(parts))

        def so_far(n_stages: int) -> dict[str, Any]:
            # Copies, since a stage may be fitted anew.
            own = [copy_to_fit(part, fitted=True) for part in parts[:n_stages]]
            return self._found(own, beam)

        for j, (part, template) in enumerate(zip(parts, templates, strict=True)):
            rest = yield from _residuals(rows, Parts(parts[:j]), codes, n_sums, rng)
            start = part._before_  # set in a warm start; the fit deletes it
            task = rows.task.open("stage", found=partial(so_far, j + 1))
            rest = rest.held().under(task)
            found.append((yield from fit_part(part, rest, template)))
            # The beam is checked before it grows, as if all later stages were alike.
            like = parts[:j] + [part] * (len(parts) - j)
            _check_search_memory(like, rows, 0, 1, [beam] * len(parts))
            if greedy:
                greedy_codes, more = yield from _never_worse(
                    rows, parts[: j + 1], greedy_codes, template, start
                )
                found[-1] += more
            if j < len(parts) - 1:
                upto = Parts(parts[: j + 1])
                (n_sums,), codes = yield rows.fold(
                    _best_sums, upto, beam, state=codes, join=_first, keep=True
                )
        warn_of_parts("stage", found)
        return parts

    def _fit_shared(
        self, rows: Rows, rng: np.random.RandomState, beam: Any
    ) -> Learner[list[Any]]:
        """Learn one table from all stages.

        The union of small tables, one for each stage, in which one codeword is zero, is
        a table that serves all stages; least squares on the sums then improves it.
        K-means on the residuals of all stages together would fail: codewords that serve
        the first stage best raise the error of the last.
        """
        default = self._default_part(beam)
        (part,) = self._new_parts(1, self._shared_size(), default)
        size = int(part.n_codewords)
        # If there is more than one codeword, one of them is zero.
        n_learned = max(1, size - 1)
        zero = np.zeros((size - n_learned, rows.n_features), dtype=rows.dtype)
        if self._before_ is not None:
            return (yield from self._share_on(part, rows))
        if (yield from few_distinct(rows, size)) is not None:
            # Few distinct samples become the table, with a warning.
            part._validate_params()
            yield from part._learn(rows.under(SILENT))
            (_, table), *_ = part._free_tables()
            table = np.concatenate([zero, table[:n_learned]])
            return [part._with_tables([table])] * self.n_stages
        n_small = min(n_learned, int(self.n_stages))
        sizes = [len(some) for some in np.array_split(np.arange(n_learned), n_small)]
        small = self._new_parts(n_small, sizes, default)
        small = yield from self._fit_stages(small, rows, rng, beam)
        tables = [table for one in small for _, table in one._free_tables()]

        def fitted(table: np.ndarray) -> list[Any]:
            part = small[0]._with_tables([table]).set_params(n_codewords=size)
            return [part] * self.n_stages

        task = rows.task.begin("refinement", joint.SHARED_ROUNDS)
        table = yield from joint.share(
            rows.under(task.giving(lambda table: self._found(fitted(table), beam))),
            np.concatenate([zero, *tables]),
            int(self.n_stages),
            self._encode_under([small[0]] * self.n_stages, shared=True),
            np.arange(size) < len(zero),
        )
        task.end()
        return fitted(table)

    def _share_on(self, part: Any, rows: Rows) -> Learner[list[Any]]:
        """Continue from the shared table of the last fit."""
        self._go_on([part])
        before, part._before_ = part._before_, None
        part._validate_params()
        check_as_before("n_codewords", part.n_codewords, before.codebook_sizes_[0])
        take_over(part, before)
        (_, table), *_ = part._free_tables()
        task = rows.task.begin("refinement", joint.SHARED_ROUNDS)
        table = yield from joint.share(
            rows.under(task.giving(None)),
            table.astype(rows.dtype),
            int(self.n_stages),
            self._encode_under([part] * self.n_stages, shared=True),
            _zero_of(table),
        )
        task.end()
        return [part._with_tables([table])] * self.n_stages

    def _refine(self, parts: list[Any], rows: Rows, trial: Any) -> Learner[list[Any]]:
        """Solve for all tables at once, in rounds.

        The strength of the ridge is found on samples that a second model has not seen:
        on samples that tables have learned from, they look better than they are.
        """
        problem, tables = self._problem(trial.parts)
        task = rows.task.begin("trial of refinement", int(self.n_refine))
        own = trial.held.rows.under(task.giving(None))
        chosen = yield from joint.choose_strengths(
            trial.held._replace(rows=own),
            tables,
            problem,
            int(self.n_refine),
            _MIN_FALL,
        )
        task.end()
        if not chosen.strengths:
            return parts
        problem, tables = self._problem(parts)

        def refined(found: joint.Refined) -> list[Any]:
            return _unstack(parts, problem.stacks, found.tables, self.share_codebook)

        task = rows.task.begin("refinement", len(chosen.strengths))
        own = rows.under(task.giving(lambda r: self._found(refined(r), trial.beam)))
        found = yield from joint.refine(own, tables, problem, chosen.strengths)
        task.end()
        return refined(found)

    def _problem(
        self, parts: Sequence[Any]
    ) -> tuple[joint.JointProblem, list[np.ndarray]]:
        shared = self.share_codebook
        stacks = _stacks(parts, shared)
        tables = _stack(parts, stacks, shared)
        pinned = shared and len(tables[0]) > 1
        problem = joint.JointProblem(
            stacks,
            self._encode_under(parts, shared=shared),
            self._checked_weights(),
            _zero_of(tables[0]) if pinned else None,
        )
        return problem, tables

    def _encode_under(self, parts: Sequence[Any], *, shared: Any) -> Any:
        """Return a function that gives codes and losses of rows under tables."""
        weights, stacks = self._checked_weights(), _stacks(parts, shared)
        return partial(_encode_with, parts, stacks, shared, self.beam_size, weights)

    # -- parameters ----------------------------------------------------------------

    def _default_part(self, beam: Any = _TRAINING_BEAM) -> VectorQuantizer:
        """Return the meaning of None for stages that learn from `beam` sums."""
        init: Init = "k-means++" if beam == 1 else "progressive"
        return VectorQuantizer(init=init, tol=5e-4)

    def _sizes(self) -> list[int]:
        """Return the number of codewords of each stage of `VectorQuantizer` parts."""
        sizes: Any = self.n_codewords
        if sizes is None:
            sizes = self._default_part().n_codewords
        return part_sizes(sizes, int(self.n_stages))

    def _table_elements(self, n_features: int) -> int:
        if self.share_codebook:
            return self._elements_of_parts(self._shared_size(), [n_features], 1)
        return self._elements_of_parts(self.n_codewords, [n_features], self._n_parts())

    def _check_memory(self, rows: Rows) -> None:
        n = rows.n_rows
        n_bytes = rows.dtype.itemsize * self._table_elements(rows.n_features)
        check_memory(
            f"{self._tables_in_words()}, and the codes of {n} rows,",
            n_bytes + n * self._n_parts(),
            rows.n_bytes,
        )

    def _shared_size(self) -> Any:
        """Return the n_codewords of a shared table; None if the part keeps its own."""
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

    def _check_together(self) -> None:
        """Raise if parameters contradict each other."""
        templates = self._templates()
        self._check_beam(templates)
        self._check_beam(templates, "fit_beam_size")
        for name in sorted(self._code_costs()):
            self._check_with_costs(name)
        bound = self._without(lambda one: one._has_free_tables())
        if int(self.n_refine) > 0 and bound:
            raise ValueError(
                f"n_refine={self.n_refine} needs stages whose tables are free to move: "
                "learned ones under metric='sqeuclidean', or products of them; "
                f"{bound[0]} has others. Use n_refine=0."
            )
        part = templates[0].quantizer
        if self.share_codebook and not (
            isinstance(part, VectorQuantizer) and not bound
        ):
            raise ValueError(
                "share_codebook=True takes a VectorQuantizer that learns under "
                f"metric='sqeuclidean' as quantizer; got {type(part).__name__}: "
                f"{part!r}."
            )
        if self._checked_weights() is None:
            return
        if self.n_refine == 0 and self.beam_size == 1:
            raise ValueError(
                "stage_weights would do nothing with n_refine=0 and beam_size=1: raise "
                "one of the two, or use stage_weights=None."
            )

    def _check_with_costs(self, cost: str) -> None:
        """Raise if parameters contradict a cost of codes."""
        name, off = ("balance", None) if cost == "prices" else ("rate_weight", 0)
        why = f"{name}={getattr(self, name)!r}"
        if cost not in self._own_costs():
            (template, *_) = self._without(lambda one: cost not in one._code_costs())
            why = f"A {name}, which {template} has,"
        if int(self.n_refine) > 0:
            raise ValueError(
                f"{why} does not go with n_refine={self.n_refine}, which solves for "
                f"tables without regard to that: use n_refine=0, or {name}={off}."
            )
        greedy = self.beam_size == self.fit_beam_size == 1
        if cost == "prices" and not greedy:
            for template in self._templates():
                if getattr(template.quantizer, "share_codebook", False):
                    raise ValueError(
                        f"{why} does not go with beam_size={self.beam_size}, "
                        f"fit_beam_size={self.fit_beam_size} and share_codebook=True "
                        f"of {template}, whose columns would each have prices of "
                        f"their own: use 1 for both, or {name}={off}."
                    )
        if self.share_codebook:
            raise ValueError(
                f"{why} does not go with share_codebook=True, since the codes of each "
                "stage have frequencies of their own: use share_codebook=False, or "
                f"{name}={off}."
            )
        if self.stage_weights is not None:
            raise ValueError(
                f"{why} is a price in the error of the last sum: use "
                f"stage_weights=None, or {name}={off}."
            )

    def _check_beam(
        self, templates: Sequence[Template], name: str = "beam_size"
    ) -> None:
        size = getattr(self, name)
        # It may have been changed after the fit, unseen by the constraints.
        if size is None or check_count(name, size) == 1:
            return
        for template in templates:
            if not template.quantizer._can_encode_best():
                raise ValueError(
                    f"{name}={size} needs stages that find several codes for "
                    "a sample: VectorQuantizer under metric='sqeuclidean', and "
                    f"products or residuals of it; {template} finds one. Use {name}=1."
                )

    def _checked_weights(self) -> np.ndarray | None:
        if self.stage_weights is None:
            return None
        check_unmasked(self.stage_weights, "stage_weights")
        try:
            weights = np.asarray(self.stage_weights, dtype=np.float64)
        except (TypeError, ValueError):
            weights = np.empty(0)
        n_stages = self._n_parts()
        if self.__sklearn_is_fitted__():
            n_stages = len(self.quantizers_)
        valid = weights.shape == (n_stages,) and np.isfinite(weights).all()
        if not valid or (weights < 0).any() or weights[-1] <= 0:
            raise ValueError(
                f"stage_weights={self.stage_weights!r}; expected n_stages="
                f"{n_stages} finite numbers of zero or more, the last one "
                "positive."
            )
        return weights

    def _can_partial_fit(self) -> bool:
        chained = not self.share_codebook and self.n_refine == 0
        return chained and super()._can_partial_fit()

    def _why_no_partial_fit(self) -> str:
        if self.share_codebook:
            return "share_codebook=True learns from all samples at once."
        if int(self.n_refine) > 0:
            return f"n_refine={self.n_refine} encodes all samples again."
        return super()._why_no_partial_fit()

    # -- codes ---------------------------------------------------------------------

    def _encode(self, X: Any) -> Any:
        self._check_beam(
            [Template(f"quantizers_[{j}]", q) for j, q in enumerate(self.quantizers_)]
        )
        codes, _ = _search(
            self._parts_,
            X,
            check_count("beam_size", self.beam_size),
            stage_weights=self._checked_weights(),
            errors=False,
        )
        return self._in_order(codes)[:, 0, :]

    def _decode(self, codes: Any) -> Any:
        return _last(_partial_sums(self.quantizers_, codes))

    def _slice_widths(self, n_features: int) -> list[int] | None:
        # Later stages may be cut differently; the first ones code what matters most.
        return self._quantizers()[0]._slice_widths(n_features)

    def _entries(self, X: Any, metric: str) -> Any:
        return np.concatenate(
            [part._entries(X, metric) for part in self.quantizers_], axis=1
        )

    def _is_concatenation(self) -> bool:
        return len(self.quantizers_) == 1 and self.quantizers_[0]._is_concatenation()

    def _decodable_widths(self) -> tuple[int, ...]:
        return tuple(np.cumsum(_code_widths(self.quantizers_)).tolist())

    def _encode_best(self, X: Any, n_best: int) -> Any:
        codes, _ = _search(
            self._parts_,
            X,
            max(check_count("beam_size", self.beam_size), n_best),
            n_best=n_best,
            stage_weights=self._checked_weights(),
            errors=False,
        )
        return self._in_order(codes)

    def _in_order(self, codes: Any) -> Any:
        """Put codes of a shared table in one order, as their order does not matter.

        Every order of the same codewords has the same sum, and a beam would return the
        one that rounding favours.  Large codewords come first: prefixes are coarse.
        """
        # The parameter may have been changed after the fit, so the parts are asked.  If
        # there are other tables as well, codes stay in their columns.
        is_one = self._parts_.tables is not None and are_shared(self.quantizers_)
        weighted = self.stage_weights is not None
        if not is_one or self.beam_size == codes.shape[1] == 1 or weighted:
            return codes
        table = self._codebooks()[0].codewords.astype(np.float64)
        by_size = np.argsort(-np.linalg.norm(table, axis=1), kind="stable")
        rank = np.argsort(by_size, kind="stable")
        xp = nearest.backend_of(codes).xp
        return look_up(by_size, xp.sort(look_up(rank, as_indices(codes)), axis=2))

    def _partial_sums(self, codes: Any) -> Iterator[np.ndarray]:
        return _partial_sums(self.quantizers_, codes)


# -- the search ------------------------------------------------------------------------


def _found(parts: list[Any]) -> dict[Any, Any]:
    """Return the fitted attributes of stages."""
    known = Parts(parts)
    return {"quantizers_": parts, "codebook_sizes_": known.sizes, "_parts_": known}


def _search(
    stages: Parts,
    X: np.ndarray,
    beam_size: int,
    *,
    n_best: int = 1,
    begin: np.ndarray | None = None,
    stage_weights: Any = None,
    errors: bool = True,
) -> Any:
    """Find codes by beam, as `nearest.nearest_best` does, with any quantizers."""
    parts = stages.parts
    dtype = smallest_dtype(max(size for part in parts for size in part.codebook_sizes_))
    if stages.tables is not None:
        return nearest.nearest_best(
            X,
            stages.tables,
            beam_size,
            n_best=n_best,
            begin=begin,
            stage_weights=stage_weights,
            bias=stages.biases,
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
    _check_search_memory(parts, Rows(X), begin.shape[2], begin.shape[1], widths)

    def search(rows: slice) -> Any:
        return _search_tile(stages, X[rows, :], begin[rows, ...], widths, weights)

    found = list(nearest.backend_of(X).tiles(X.shape[0], per_row, search))
    codes = in_dtype(join([one for one, _ in found], axis=0), own_dtype)
    return codes, join([one for _, one in found], axis=0)


def _encode_with(
    parts: Sequence[Any],
    stacks: Any,
    shared: bool,
    beam_size: Any,
    weights: Any,
    X: Any,
    tables: Any,
) -> tuple[Any, ...]:
    """Return codes and losses of rows, with tables in place of the parts' own."""
    stages = Parts(_unstack(parts, stacks, tables, shared))
    codes, errors = _search(stages, X, beam_size, stage_weights=weights)
    return codes[:, 0, :], errors[:, 0]


def _check_search_memory(
    parts: Sequence[Any], rows: Rows, n_begun: int, n_sums: int, widths: Sequence[int]
) -> None:
    """Raise if the beam takes too much memory for the rows, with tiles of one row."""
    n, d, most, n_codes = rows.n_rows, rows.n_features, 0, 0
    for part, width in zip(parts, widths, strict=True):
        n_codes += len(part.codebook_sizes_)
        if n_codes > n_begun:
            found = n_sums * min(width, math.prod(part.codebook_sizes_))
            most, n_sums = max(most, found), min(width, found)
    # `nearest_best` compares scores, and only computes the vectors that it keeps.
    of_one_row = 3 * d * most
    if None not in (part._searched_table() for part in parts):
        of_one_row = most + 3 * d * n_sums
    check_memory(
        f"beam_size={max(widths)}, which keeps {n_sums} sums of each of {n} rows,",
        rows.dtype.itemsize * of_one_row + n * n_sums * n_codes,
        rows.n_bytes,
    )


def _search_tile(
    stages: Parts, X: Any, codes: Any, widths: Sequence[int], weights: Any
) -> tuple[Any, Any]:
    """Search in a few rows; return their codes and losses."""
    parts, (n, d) = stages.parts, X.shape
    ahead = np.append(np.cumsum(weights[::-1])[::-1][1:], 0.0)
    n_sums, n_begun = codes.shape[1:]
    rest = repeat(X[:, None, :], n_sums, axis=1)
    # The search minimises the loss, which consists of errors, plus costs of codes.
    loss = added = zeros((n, n_sums), X)
    for j, part in enumerate(parts):
        width = len(part.codebook_sizes_)
        now = float(weights[j])
        column = sum(_code_widths(parts[:j]))
        biases = stages.biases and stages.biases[column : column + width]
        if n_begun > 0:
            own = codes[:, :, column : column + width]
            if biases is not None:
                added = added + charged(biases, as_indices(own))
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
        # The cost of this error now and, if nothing improves it, in later stages.
        costs = loss + (now + float(ahead[j])) * norms
        if biases is not None:
            added = repeat(added, n_found, axis=1) + charged(biases, own)
            costs = costs + added
        best = stable_order(costs)[:, : min(widths[j], costs.shape[1])]
        loss = take_along(loss + now * norms, best)
        if biases is not None:
            added = take_along(added, best)
        rest = take_along(rest, best)
        codes = take_along(codes, best)
    return codes, loss


def _decode_sums(part: Any, codes: Any) -> Any:
    """Decode codes (n_samples, n_sums, n_codes) of one part."""
    n, n_sums, width = codes.shape
    flat = as_indices(reshape(codes, (n * n_sums, width)))
    return reshape(part._decode(flat), (n, n_sums, -1))


def _code_widths(parts: Sequence[Any]) -> list[int]:
    return [len(part.codebook_sizes_) for part in parts]


def _last(arrays: Iterator[np.ndarray]) -> np.ndarray:
    (last,) = deque(arrays, maxlen=1)
    return last


def _partial_sums(parts: Sequence[Any], codes: Any) -> Iterator[np.ndarray]:
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

    beam: int  # sums per sample that the stages have learned from
    parts: list[Any]
    held: joint.HeldOut


def _residuals(
    rows: Rows, before: Parts, codes: Any, n_sums: int, rng: np.random.RandomState
) -> Learner[Rows]:
    """Return the residuals of some sums of the stages before."""
    if not before.parts:
        return rows
    if n_sums == 1:
        return rows.view(_less_sums, before.parts, state=codes)
    share = max(rows.n_rows, _MIN_TRAINING_ROWS) / (rows.n_rows * n_sums)
    chosen = yield from rows.chosen(
        some_places, new_key(rng), share, n_sums, times=n_sums, state=codes
    )
    return chosen.view(_less_sums, before.parts)


def _less_sums(block: Block, parts: Sequence[Any]) -> Any:
    codes = as_indices(reshape(block.state[0], (block.n_rows, -1)))
    return block.x - _last(_partial_sums(parts, codes))


def _best_sums(
    block: Block, stages: Parts, beam: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the number of sums, and their codes, continued from those before."""
    begin = block.state[0] if block.state else None
    codes, _ = _search(stages, block.x, beam, n_best=beam, begin=begin, errors=False)
    return (codes.shape[1],), (codes,)


def _first(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return a


def _never_worse(
    rows: Rows, parts: list[Any], codes: Any, template: Any, start: Any
) -> Learner[tuple[Any, list[Any]]]:
    """Return codes of the greedy search, and warnings; refit a bad last stage.

    A stage that learned from a beam may raise the error of the single residual that the
    greedy search keeps, if samples are few.  It is then fitted to these residuals.
    """
    (before, after), found = yield rows.fold(_one_more, parts, state=codes, keep=True)
    if not after > before:
        return found, []
    rest = rows
    if codes is not None:
        rest = rows.view(_less_sums, parts[:-1], state=codes)
    parts[-1]._before_ = start
    notices = yield from fit_part(parts[-1], rest.held().under(SILENT), template)
    _, found = yield rows.fold(_one_more, parts, state=codes, keep=True)
    return found, notices


def _one_more(
    block: Block, parts: list[Any]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return errors without and with the last stage's codewords, and all codes."""
    be, rest, last = block.be, block.x, parts[-1]
    if block.state:
        rest = _less_sums(block, parts[:-1])
    own = last._encode(rest)
    gaps = nearest.paired(rest, last._decode(as_indices(own)))
    errors = [
        be.xp.sum(block.weighted(error)) for error in (be.squared_norms(rest), gaps)
    ]
    own = be.cast(own, be.code_dtype(smallest_dtype(max(last.codebook_sizes_))))
    return tuple(errors), (be.concat([*block.state, own], axis=1),)


def _weights_of_codes(
    block: Block, stages: Parts, beam_size: int, columns: Sequence[int]
) -> tuple[Any, ...]:
    """Return the weight of each code of some columns."""
    codes, _ = _search(stages, block.x, beam_size, errors=False)
    codes = block.be.to_host(codes)[:, 0, :]
    counted = [np.zeros(stages.sizes[j]) for j in columns]
    weights = None if block.w is None else block.host_weights()
    rates.count_into(counted, columns, codes, weights)
    return tuple(counted)


def _weight_and_errors(block: Block, stages: Parts, beam_size: int) -> tuple[Any, ...]:
    _, errors = _search(stages, block.x, beam_size)
    summed = block.be.xp.sum(block.weighted(errors[:, 0]))
    return np.array(block.host_weights().sum()), summed


# -- tables in and out of the parts ----------------------------------------------------


def _zero_of(table: np.ndarray) -> np.ndarray:
    """Return which codeword of a shared table is fixed: the first zero, or the first.

    A fit puts it first, but codes may have been renamed.
    """
    return np.arange(len(table)) == np.argmin(np.any(table, axis=1))


def _stacks(parts: Sequence[Any], shared: bool) -> list[joint.Stack]:
    """Group the tables of all stages by the features that they span.

    If stages cut the features into different slices, their tables are cut as well, so
    that every stage has one piece in each group.
    """
    stages = [part._free_tables() for part in parts]
    edges = {
        edge
        for stage in stages
        for features, _ in stage
        for edge in (features.start, features.stop)
    }
    first_columns = [0, *accumulate(len(stage) for stage in stages[:-1])]
    stacks = []
    for low, high in pairwise(sorted(edges)):
        spanning = [_spanning(stage, low) for stage in stages]
        columns = [first + k for first, k in zip(first_columns, spanning, strict=True)]
        sizes = [len(stage[k][1]) for stage, k in zip(stages, spanning, strict=True)]
        stacks.append(joint.Stack.of(slice(low, high), columns, sizes, shared))
    return stacks


def _spanning(stage: Any, feature: int) -> int:
    """Return the index of a stage's table that spans a feature."""
    return next(
        k for k, (own, _) in enumerate(stage) if own.start <= feature < own.stop
    )


def _stack(parts: Sequence[Any], stacks: Any, shared: bool) -> list[np.ndarray]:
    stages = [part._free_tables() for part in parts[: 1 if shared else None]]
    return [
        np.concatenate([_piece(stage, stack.features) for stage in stages])
        for stack in stacks
    ]


def _piece(stage: Any, features: slice) -> np.ndarray:
    own, table = stage[_spanning(stage, features.start)]
    return table[:, features.start - own.start : features.stop - own.start]


def _unstack(parts: Sequence[Any], stacks: Any, tables: Any, shared: bool) -> list[Any]:
    """Return copies of the parts with tables as `_stack` would return them."""
    if shared:
        return [parts[0]._with_tables(tables)] * len(parts)
    pieces = [own.split(table) for own, table in zip(stacks, tables, strict=True)]
    found = []
    for j, part in enumerate(parts):
        of_tables: list[list[np.ndarray]] = [[] for _ in part._free_tables()]
        for stack, of_stages in zip(stacks, pieces, strict=True):
            k = _spanning(part._free_tables(), stack.features.start)
            of_tables[k].append(of_stages[j])
        found.append(part._with_tables([np.hstack(some) for some in of_tables]))
    return found
