"""Choosing a codec: scorers for grid search, and the rule that picks the winner.

A codec is judged by two numbers, its error and its bits. Both must be measured where
the user's data live: a scaler in front of a quantizer changes the unit of its
distances, so the quantizer's own `score` would prefer the scaler that makes the numbers
smallest. The scorers here therefore decode all the way back through the pipeline before
they compare.

A search takes one of two forms. `best_within` chooses by two scorers once all
candidates are measured, and `cv_results_` shows both numbers. `neg_error_within` is a
single scorer, for `score` of a search, searches by successive halving, and
`cross_val_score`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from skvq._arrays import to_host
from skvq._pipelines import Codec, find_codec, plain, quantizes
from skvq._validation import check_matrix, followed_backend
from skvq._weights import check_weights
from skvq.coding.rates import code_lengths
from skvq.nearest import paired

__all__ = [
    "BitsScorer",
    "EntropyBitsScorer",
    "ReconstructionErrorScorer",
    "best_within",
    "neg_bits",
    "neg_entropy_bits",
    "neg_error_within",
    "neg_reconstruction_error",
]

# The lowest score within a budget; all scores over it are below. The squares of a
# million such numbers can still be added up, for standard deviations.
_WORST_WITHIN = -1e100
# The mean over folds of equal numbers of bits may differ in the last digits.
_ROUNDING = 1 + 1e-9


class _RoutedScorer:
    """The interface of a scorer for scikit-learn's metadata routing.

    The request is a value that never changes in place: the scorers are constants of the
    module, and a request set for one grid must not affect another.
    """

    sample_weight: bool | str | None

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Return a copy of the scorer that asks for sample weights, or refuses them.

        Unlike the method of the same name in scikit-learn, it does not change the
        scorer itself.

        Parameters
        ----------
        sample_weight : bool, str or None
            True: pass the weights on. False: don't. None: raise if there are any. A
            string: their name in the call of the search's `fit`.

        Returns
        -------
        scorer : object
            A scorer of the same class.

        Raises
        ------
        RuntimeError
            If metadata routing is not enabled.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs metadata routing; enable it with "
                "sklearn.set_config(enable_metadata_routing=True)"
            )
        # mypy does not know that this mixin is used with dataclasses
        scorer = replace(self, sample_weight=sample_weight)  # type: ignore[type-var]
        scorer.get_metadata_routing()  # raises now if the request is not valid
        return scorer

    def get_metadata_routing(self) -> MetadataRequest:
        """Return the metadata that the scorer asks for.

        Returns
        -------
        routing : MetadataRequest
            The request for `sample_weight`.
        """
        request = MetadataRequest(owner=repr(self))
        request.score.add_request(param="sample_weight", alias=self.sample_weight)
        return request

    def _accept_sample_weight(self) -> bool:
        # scikit-learn's searches check for it if metadata routing is off.
        return True


@dataclass(frozen=True)
class ReconstructionErrorScorer(_RoutedScorer):
    """Scorer: minus the mean squared reconstruction error, in the space of X.

    The error of a sample is the squared Euclidean distance, summed over the features,
    between it and its reconstruction; the score is minus its (weighted) mean, in
    float64. Use the instance `neg_reconstruction_error` as ``scoring`` of a search or
    of `cross_validate`.

    The estimator is a quantizer, `QuantizedFeatures`, or a pipeline that holds one of
    them, at any depth; of a fitted search, its best estimator is used. In a pipeline
    the quantizer's reconstruction goes back through `inverse_transform` of all the
    steps before it. Steps after the quantizer, such as a classifier on
    `QuantizedFeatures` or an encoder of the codes, play no part: the score measures how
    well the codes describe X.

    Parameters
    ----------
    sample_weight : bool, str or None, default=None
        The metadata request; see `set_score_request`.
    behind : bool, default=False
        If steps of a pipeline only encode, such as `Normalizer`, whose lengths are in
        no code: whether to measure the error after the last of them, between its output
        and what is decoded back to there.  False: such a step is a TypeError.

    Notes
    -----
    The output of a step's `inverse_transform` counts as decoded, even if it is not a
    true inverse: the components that a PCA drops are part of the error, and so is a
    `FunctionTransformer` without `inverse_func`, whose inverse does nothing.

    scikit-learn 1.6 passes sample weights to scorers only with metadata routing.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skvq import VectorQuantizer
    >>> from skvq.model_selection import neg_reconstruction_error
    >>> X = np.array([[0.0, 0.0], [2.0, 0.0], [100.0, 0.0], [102.0, 0.0]])
    >>> model = make_pipeline(StandardScaler(), VectorQuantizer(2, random_state=0))
    >>> round(neg_reconstruction_error(model.fit(X), X), 6)
    -1.0
    """

    sample_weight: bool | str | None = None
    behind: bool = field(default=False, kw_only=True)

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, sample_weight: Any = None
    ) -> float:
        """Measure a fitted estimator.

        Parameters
        ----------
        estimator : object
            Fitted quantizer, `QuantizedFeatures`, or pipeline with one of them.
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Samples in the form that the estimator takes; finite numbers.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, not negative, not all zero.

        Returns
        -------
        score : float
            Minus the mean squared reconstruction error; 0 is perfect.

        Raises
        ------
        TypeError
            If the estimator holds no quantizer, or a step before it, which the
            message names, has no `inverse_transform`.
        ValueError
            If it holds several quantizers, if decoding doesn't lead back to the shape
            of X, or if X or the weights are not valid.
        """
        X, X_quant = _reconstructed(find_codec(estimator), X, self.behind)
        be = followed_backend(X)
        X = X.toarray() if issparse(X) else X
        X = check_matrix(be, X, "X")
        X_quant = check_matrix(be, X_quant, "the reconstruction")
        if X_quant.shape != X.shape:
            raise ValueError(
                f"X has shape {X.shape}, but its reconstruction has {X_quant.shape}: "
                "the inverse_transform of the steps before the quantizer must lead "
                "back to the features of X"
            )
        errors = paired(X, X_quant)
        weights = check_weights(sample_weight, X)
        return -be.average(errors, weights)


@dataclass(frozen=True)
class BitsScorer(_RoutedScorer):
    """Scorer: minus the bits per sample of the quantizer in an estimator.

    Use the instance `neg_bits` next to `neg_reconstruction_error` in the ``scoring`` of
    a search; `best_within` weighs the two. It finds the quantizer as
    `ReconstructionErrorScorer` does.

    Parameters
    ----------
    sample_weight : bool, str or None, default=False
        The metadata request; see `set_score_request`. Bits don't depend on weights,
        so by default none are asked for, whatever the other scorers ask.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.model_selection import neg_bits
    >>> X = np.arange(16.0).reshape(8, 2)
    >>> neg_bits(VectorQuantizer(4, random_state=0).fit(X), X)
    -2.0
    """

    sample_weight: bool | str | None = False

    def __call__(
        self, estimator: Any, X: Any = None, y: Any = None, sample_weight: Any = None
    ) -> float:
        """Return the score of a fitted estimator.

        Parameters
        ----------
        estimator : object
            Fitted quantizer, `QuantizedFeatures`, or pipeline with one of them.
        X, y, sample_weight : object
            Ignored.

        Returns
        -------
        score : float
            Minus `bits_per_sample_`.

        Raises
        ------
        TypeError
            If the estimator holds no quantizer.
        ValueError
            If it holds several.
        """
        return -float(find_codec(estimator).quantizer.bits_per_sample_)


@dataclass(frozen=True)
class EntropyBitsScorer(_RoutedScorer):
    """Scorer: minus the mean bits of samples in a file of entropy-coded codes.

    The bits of a sample are the sum over its codes of -log2 of the probability that
    each had among the training samples, by `code_counts_`.  Files of
    `skvq.codes.EntropyCoder.from_counts` take these bits plus those of blocks, some .1
    bit.  Samples held out take more bits than those of the fit.  Use the instance
    `neg_entropy_bits` next to `neg_reconstruction_error` in the ``scoring`` of a
    search; `best_within` weighs the two.  It finds the quantizer as
    `ReconstructionErrorScorer` does.

    Parameters
    ----------
    sample_weight : bool, str or None, default=None
        The metadata request; see `set_score_request`.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.model_selection import neg_bits, neg_entropy_bits
    >>> X = np.array([[0.0]] * 15 + [[1.0]])
    >>> vq = VectorQuantizer(2, random_state=0).fit(X)
    >>> neg_bits(vq, X), round(neg_entropy_bits(vq, X), 3)
    (-1.0, -0.337)
    """

    sample_weight: bool | str | None = None

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, sample_weight: Any = None
    ) -> float:
        """Measure the bits of samples' codes.

        Parameters
        ----------
        estimator : object
            Fitted quantizer, `QuantizedFeatures`, or pipeline with one of them.
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Samples in the form that the estimator takes; finite numbers.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, not negative, not all zero.

        Returns
        -------
        score : float
            Minus the mean number of bits.

        Raises
        ------
        TypeError
            If the estimator holds no quantizer.
        ValueError
            If it holds several, or has not counted its codes: its tables were given,
            it was fitted by an earlier version, or a column has too many codewords.
        """
        codec = find_codec(estimator)
        lengths = _lengths(codec.quantizer)
        codes = to_host(plain(codec.quantizer.transform(codec.quantized(X))))
        bits = np.zeros(len(codes))
        for column, found in zip(codes.T, lengths, strict=True):
            bits += found[column]
        weights = check_weights(sample_weight, codes)
        return -float(np.average(bits, weights=weights))


def _lengths(quantizer: Any) -> list[np.ndarray]:
    """Return the bits of each code of each column."""
    name, sizes = type(quantizer).__name__, quantizer.codebook_sizes_
    counts = getattr(quantizer, "code_counts_", None)
    if counts is None:
        raise ValueError(
            f"{name} has no code_counts_, since an earlier skvq has fitted it: fit it "
            "again"
        )
    for j, (found, size) in enumerate(zip(counts, sizes, strict=True)):
        if found is None:
            raise ValueError(
                f"{name} has not counted its codes of column {j}, of {size} codewords: "
                "columns of at most 2^16 are, and 2^20 in all"
            )
        if len(found) != size or not found.any():
            raise ValueError(
                f"{name} has counted no codes of column {j}: its tables were given; "
                "skvq.codes.EntropyCoder(sizes).fit(codes).bits(codes) counts some"
            )
    return [code_lengths(found) for found in counts]


neg_reconstruction_error: ReconstructionErrorScorer = ReconstructionErrorScorer()
neg_bits: BitsScorer = BitsScorer()
neg_entropy_bits: EntropyBitsScorer = EntropyBitsScorer()


@dataclass(frozen=True)
class neg_error_within(_RoutedScorer):
    """Scorer: minus the error within a budget of bits; lower than that above it.

    Use an instance as ``scoring`` of a search, of `cross_val_score` and the like. With
    `best_within`, which needs two scorers, neither `score` of the search nor successive
    halving works; with this one they do.

    - For a codec within the budget, the score is that of `neg_reconstruction_error`.
    - For one over it, the score is ``-1e100 * (1 + excess)``, with the excess in bits
      per sample: below every codec within the budget, and lower with more excess. The
      error is then not measured.

    Errors above 1e100 count as 1e100. All scores are finite, and so are means over
    folds and standard deviations. If the best score of a search is -1e100 or less, no
    candidate was within the budget.

    Parameters
    ----------
    bits : float
        The most bits per sample that a codec may take; above 0 and finite.
    sample_weight : bool, str or None, default=None
        The metadata request; see `set_score_request`.
    behind : bool, default=False
        As in `ReconstructionErrorScorer`.
    coded : bool, default=False
        Whether bits are those of entropy-coded files, as `neg_entropy_bits` measures
        them, instead of `bits_per_sample_`.

    Raises
    ------
    TypeError
        If `bits` is not a number.
    ValueError
        If `bits` is not above 0 and finite.

    See Also
    --------
    best_within : The rule for searches that measure error and bits separately.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvq import VectorQuantizer
    >>> from skvq.model_selection import neg_error_within
    >>> search = GridSearchCV(
    ...     VectorQuantizer(random_state=0),
    ...     {"n_codewords": [2, 4, 8]},
    ...     scoring=neg_error_within(2),
    ... )
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> search.fit(X).best_params_
    {'n_codewords': 4}
    >>> (search.cv_results_["mean_test_score"] > -1e100).tolist()
    [True, True, False]
    >>> -1 < search.score(X) < 0
    True
    """

    bits: float
    sample_weight: bool | str | None = field(default=None, kw_only=True)
    behind: bool = field(default=False, kw_only=True)
    coded: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_budget(self.bits)
        try:
            finite = math.isfinite(self.bits)
        except OverflowError:  # an integer beyond all floats
            finite = False
        if not finite:
            raise ValueError(
                "bits must be finite; neg_reconstruction_error has no limit"
            )

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, sample_weight: Any = None
    ) -> float:
        """Measure a fitted estimator.

        Parameters
        ----------
        estimator : object
            Fitted quantizer, `QuantizedFeatures`, or pipeline with one of them.
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Samples in the form that the estimator takes; finite numbers.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, not negative, not all zero.

        Returns
        -------
        score : float
            Minus the error, or a lower score over the budget; higher is better.

        Raises
        ------
        TypeError, ValueError
            As for `ReconstructionErrorScorer`.
        """
        measure = neg_entropy_bits if self.coded else neg_bits
        bits = -measure(estimator, X, sample_weight=sample_weight)
        budget = float(self.bits)
        if bits > budget * _ROUNDING:
            return _WORST_WITHIN * (1 + bits - budget)
        scorer = ReconstructionErrorScorer(behind=self.behind)
        error = scorer(estimator, X, sample_weight=sample_weight)
        return max(error, _WORST_WITHIN)


@dataclass(frozen=True)
class best_within:
    """Rule for ``refit`` of a search: the least error within a budget of bits.

    The search calls an instance with its `cv_results_`. It returns the index of the
    candidate with the highest mean test score under `error_key` among those that take
    no more than `bits`. Candidates that failed (NaN) are skipped. Among equal scores,
    the one with fewer bits wins, then the first one.

    A rule for two scorers does not define the score of one estimator: `score` of a
    search needs a single scorer, such as `neg_error_within`, and so does a search by
    successive halving.

    Parameters
    ----------
    bits : float
        The most bits per sample that the winner may take; above 0.
    error_key : str, default="err"
        The key in ``scoring`` of `neg_reconstruction_error`, or of any other scorer
        whose higher values are better, such as a classifier's accuracy.
    bits_key : str, default="bits"
        The key in ``scoring`` of `neg_bits`; or of `neg_entropy_bits`, for a budget of
        entropy-coded files.

    Raises
    ------
    TypeError
        If `bits` is not a number.
    ValueError
        If `bits` is not above 0; when called, if a key is not among the scores, or if
        no candidate is within the budget.

    See Also
    --------
    neg_error_within : A single scorer, for which `score` of the search works.

    Examples
    --------
    >>> from skvq.model_selection import best_within
    >>> results = {
    ...     "mean_test_err": [-9.0, -5.0, -4.0, -1.0],
    ...     "mean_test_bits": [-8.0, -32.0, -32.0, -64.0],
    ... }
    >>> best_within(32)(results)
    2

    In a search:

    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvq import VectorQuantizer
    >>> from skvq.model_selection import neg_bits, neg_reconstruction_error
    >>> search = GridSearchCV(
    ...     VectorQuantizer(random_state=0),
    ...     {"n_codewords": [2, 4, 8]},
    ...     scoring={"err": neg_reconstruction_error, "bits": neg_bits},
    ...     refit=best_within(2),
    ... )
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> search.fit(X).best_params_
    {'n_codewords': 4}
    """

    bits: float
    error_key: str = field(default="err", kw_only=True)
    bits_key: str = field(default="bits", kw_only=True)

    def __post_init__(self) -> None:
        _check_budget(self.bits)

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Choose the candidate.

        Parameters
        ----------
        cv_results : mapping
            The `cv_results_` of a search.

        Returns
        -------
        best_index : int
            Index of the winner.

        Raises
        ------
        ValueError
            If a key is not among the scores, or no candidate is within the budget.
        """
        score = _mean_test(cv_results, self.error_key, "error_key")
        bits = -_mean_test(cv_results, self.bits_key, "bits_key")
        valid = np.flatnonzero(~np.isnan(score) & ~np.isnan(bits))
        if not valid.size:
            raise ValueError(
                f"none of the {len(score)} candidates has both scores: all failed "
                "(NaN); error_score='raise' in the search shows why"
            )
        within = valid[bits[valid] <= self.bits * _ROUNDING]
        if not within.size:
            raise ValueError(
                f"no candidate takes at most bits={self.bits} bits per sample; the "
                f"smallest takes {bits[valid].min()}"
            )
        order = np.lexsort((bits[within], -score[within]))  # stable: ties by index
        return int(within[order[0]])


def _check_budget(bits: Any) -> None:
    if not isinstance(bits, Real) or isinstance(bits, bool):
        raise TypeError(f"bits must be a number above 0, got {bits!r}")
    if not bits > 0:  # type: ignore[operator]  # NaN too
        raise ValueError(f"bits must be above 0, got {bits}")


def _mean_test(
    cv_results: Mapping[str, Any], key: str, parameter: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    prefix = "mean_test_"
    if prefix + key not in cv_results:
        known = [name[len(prefix) :] for name in cv_results if name.startswith(prefix)]
        raise ValueError(
            f"{parameter}={key!r} is not among the scores of the search, which are "
            f"{known}: it must be a key of scoring"
        )
    return np.asarray(cv_results[prefix + key], dtype=np.float64)


def _reconstructed(codec: Codec, X: Any, behind: bool) -> tuple[Any, Any]:
    """Return samples and reconstructions, in the space where they are compared."""
    first = codec.behind() if behind else 0
    codec.check_invertible(first)
    for _, step in codec.before[:first]:
        X = step.transform(X)
    X_quant = X
    for _, step in codec.before[first:]:
        X_quant = step.transform(X_quant)
    # Features are taken from their own step, which knows its feature names.
    step = codec.step
    X_quant = (step.quantize if quantizes(step) else step.transform)(X_quant)
    for _, step in reversed(codec.before[first:]):
        X_quant = step.inverse_transform(X_quant)
    return X, X_quant
