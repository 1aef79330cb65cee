"""A report on how far samples are from those that an estimator was fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.utils import _safe_indexing

from skvq._arrays import to_host
from skvq._dask import batches
from skvq._pipelines import Codec, find_codec, plain
from skvq._reports import DriftReport
from skvq._typing import MatrixLike, VectorLike
from skvq._validation import check_samples
from skvq._weights import check_weights
from skvq.nearest import is_dask, paired

# Number of values in a block of rows.
_BLOCK = 2**20
# Number of standard deviations of a hypergeometric distribution to sum over; the rest
# is less than the rounding error of the sum.
_REACH = 12.0
# Number of values that represent all weights where few rows share a code.
_NODES = 32

# How often each code of each column occurs; None where it is not counted.
_Counts = list[NDArray[np.float64] | None]


def drift(
    estimator: Any, X: MatrixLike, *, sample_weight: VectorLike | None = None
) -> DriftReport:
    r"""Report how far samples are from those that an estimator was fitted on.

    The results of the fit, `distortion_` and `code_counts_`, are compared with the same
    quantities for X.  The shares p_j of the codes of column j in the fit, and q_j in X,
    are compared by their Jensen-Shannon divergence,

    .. math::
        J_j = H\left(\tfrac{p_j + q_j}{2}\right) - \tfrac12 H(p_j) - \tfrac12 H(q_j)

    with H the entropy in bits.  It is 0 for equal shares and 1 if no code is used in
    both.  Two samples of one distribution have a positive divergence too, larger for
    fewer rows; its expectation is reported beside it.

    There are no thresholds.  Whether a value is too large depends on what the codes are
    for, and on the reports of other days.

    Parameters
    ----------
    estimator : quantizer, QuantizedFeatures or Pipeline
        Fitted; of a fitted search, its best estimator is used.
    X : array-like of shape (n_samples, n_features)
        Samples in the form that the estimator takes.  They are read in blocks, also
        from memory maps and Dask collections.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples; those of weight 0 play no part.

    Returns
    -------
    report : DriftReport
        A mapping that prints as a table.  Its items:

        ``rows`` : int
            Number of samples, without those of weight zero.
        ``effective_rows`` : float
            The number of unweighted samples whose mean is as certain:
            :math:`(\sum w)^2 / \sum w^2`.
        ``training_rows`` : float or None
            The number of samples that `code_counts_` counts.
        ``distortion``, ``training_distortion``, ``distortion_ratio`` : float or None
            The mean distance of the samples from their reconstructions, by the metric
            of the quantizer and in its space, after any steps before it;
            `distortion_`; and their ratio.
        ``new_rows`` : float or None
            Share of the samples with a code that no training sample has.
        ``outside_rows`` : float or None
            For scalar schemes with a range, share of the samples outside of it in any
            feature.
        ``outside`` : list of float or None
            The same for each feature that the quantizer sees.
        ``columns`` : list of dict
            For each code column: ``divergence``, in bits; ``expected``, its mean
            without drift; ``excess``, the difference; and ``new_cells``, the share of
            the samples whose code no training sample has.

        None stands for what is unknown: the distortion of given tables, codes that were
        not counted, such as those of columns with more than 2^16 codewords, and the
        ratio to a distortion of zero.

    Raises
    ------
    TypeError
        If the estimator holds no quantizer.
    ValueError
        If it holds several, or if neither its distortion nor its code counts are known;
        if X or the weights are not valid.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    See Also
    --------
    code_report : How codes use their codewords.
    entropy_bits : What codes cost in files, by the counts of the fit.

    Notes
    -----
    The expectation is exact if samples and training samples come from one distribution
    and the tables do not depend on them.  Given that a code occurs c times in both
    together, the number of its occurrences in X is hypergeometric [2]_, whatever its
    probability.  The mean of its term of J is summed over that distribution.  To first
    order it is (K - 1)(1/n + 1/m) / (8 ln 2) for K codes.  Weights of X are assumed to
    be independent of the codes, and sums of some of them are approximated; those of the
    training samples are not known.

    `distortion_` is that of the training samples, to which learned tables are nearer
    than to others: without any drift, the ratio of distortions is above 1.  With few
    training samples per codeword, cells follow these samples, and their counts vary
    less than those of an independent sample.  Divergences are then a little below their
    expectation, by 14% with 16 per codeword.  Later reports are best compared with the
    report of rows that were held out.

    For scalar schemes, "outside" means: beyond `clip_range_` of `UniformQuantizer`;
    beyond the training samples, with ``squash`` "cdf" and "none" of
    `FiniteScalarQuantizer`; where "clamp" clips; and for levels without a range, beyond
    the end levels by more than half a step.  "tanh" has no range.

    References
    ----------
    .. [1] J. Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf.
       Theory 37(1), 1991, doi:10.1109/18.61115.
    .. [2] R. A. Fisher, "On the interpretation of chi-squared from contingency tables",
       Journal of the Royal Statistical Society 85(1), 1922, doi:10.2307/2340521.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer
    >>> from skvq.metrics import drift
    >>> rng = np.random.default_rng(0)
    >>> pq = ProductQuantizer(4, 8, random_state=0).fit(rng.normal(size=(2000, 4)))
    >>> X = rng.normal(size=(500, 4))
    >>> report = drift(pq, X)
    >>> [round(column["excess"], 3) for column in report["columns"]]
    [-0.001, -0.001, 0.001, -0.0]
    >>> X[:, 2] += 1
    >>> [round(column["excess"], 3) for column in drift(pq, X)["columns"]]
    [-0.001, -0.001, 0.186, -0.0]
    """
    codec = find_codec(estimator)
    quantizer = codec.quantizer
    known = _counts_of(quantizer)
    if all(found is None for found in known) and np.isnan(quantizer.distortion_):
        raise ValueError(
            f"{type(quantizer).__name__} has neither a distortion nor counts of its "
            "codes to compare with: its tables were given; fit it on samples"
        )
    seen = _SeenSamples(codec, known, sample_weight is not None)
    for block, weights in _blocks(X, sample_weight):
        seen.add(block, weights)
    effective = seen.weight**2 / seen.squares
    spread = WeightSpread.of(np.concatenate(seen.weights)) if seen.weights else None
    columns = [
        _column(trained, found, numbers, new / seen.weight, spread)
        for trained, found, numbers, new in zip(
            known, seen.counts, seen.numbers, seen.new, strict=True
        )
    ]
    counted = next((counts for counts in known if counts is not None), None)
    distortion = seen.distortion / seen.weight
    before = _or_none(quantizer.distortion_)
    has_range = seen.ranges is not None
    return DriftReport(
        {
            "rows": seen.n_rows,
            "effective_rows": effective,
            "training_rows": None if counted is None else float(counted.sum()),
            "distortion": distortion,
            "training_distortion": before,
            "distortion_ratio": distortion / before if before else None,
            "new_rows": None if counted is None else seen.new_rows / seen.weight,
            "outside_rows": seen.outside_rows / seen.weight if has_range else None,
            "outside": (seen.outside / seen.weight).tolist() if has_range else None,
            "columns": columns,
        }
    )


def _or_none(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _counts_of(quantizer: Any) -> _Counts:
    """Return how often the fit has seen each code; None for uncounted columns."""
    found = getattr(quantizer, "code_counts_", None)
    if found is None:
        found = [None] * len(quantizer.codebook_sizes_)
    return [None if one is None or not one.any() else one for one in found]


class WeightSpread(NamedTuple):
    """The distribution of weights whose mean is one."""

    variance: float
    skewness: float
    # Means of equally many of the smallest weights, the next ones, and so on.
    nodes: NDArray[np.float64]

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> WeightSpread | None:
        """Return the distribution of weights; None if all are equal."""
        weights = np.sort(weights) / weights.mean()
        if weights[0] == weights[-1]:
            return None
        centred = weights - 1
        variance = float(np.mean(centred**2))
        groups = np.array_split(weights, min(_NODES, len(weights)))
        nodes = np.array([group.mean() for group in groups])
        skewness = float(np.mean(centred**3)) / variance**1.5
        return cls(variance, skewness, nodes)


# -- statistics of the samples -----------------------------------------------------


class _SeenSamples:
    """Sums over samples: of weights, and of weighted quantities.

    Parameters
    ----------
    codec : Codec
        Encodes the samples.
    known : list of ndarray or None
        How often each code of each column occurs in the training samples.
    is_weighted : bool
        Whether samples have weights.
    """

    def __init__(self, codec: Codec, known: _Counts, is_weighted: bool) -> None:
        self.codec, self.ranges = codec, codec.quantizer._ranges()
        self.never = [None if one is None else one == 0 for one in known]
        self.counts = [None if one is None else np.zeros(len(one)) for one in known]
        self.numbers = [None if one is None else np.zeros(len(one)) for one in known]
        self.new = np.zeros(len(known))
        self.outside = np.zeros(0 if self.ranges is None else len(self.ranges[0]))
        self.n_rows = 0
        # All weights, unless they are equal.
        self.is_weighted, self.weights = is_weighted, list[NDArray[np.float64]]()
        self.weight = self.squares = self.distortion = 0.0
        self.new_rows = self.outside_rows = 0.0

    def add(self, X: Any, w: NDArray[np.float64]) -> None:
        """Encode a block of samples and add its sums."""
        quantizer = self.codec.quantizer
        X = self.codec.quantized(X)
        codes = plain(quantizer.transform(X))
        X = check_samples(quantizer, X, reset=False)
        decoded = quantizer.inverse_transform(codes)
        errors = to_host(paired(X, decoded, quantizer._score_metric))
        self.n_rows += int(np.count_nonzero(w))
        self.weight += float(w.sum())
        self.squares += float(w @ w)
        if self.is_weighted:
            self.weights.append(w[w > 0])
        self.distortion += float(w @ errors)
        self._count(to_host(codes).astype(np.intp), w)
        if self.ranges is not None:
            low, high = self.ranges
            values = to_host(X)
            beyond = (values < low) | (values > high)
            self.outside += w @ beyond
            self.outside_rows += float(w @ beyond.any(axis=1))

    def _count(self, codes: NDArray[np.intp], w: NDArray[np.float64]) -> None:
        unseen = np.zeros(len(codes), dtype=bool)
        heavy = w > 0
        columns = zip(codes.T, self.counts, self.numbers, self.never, strict=True)
        for j, (column, found, number, never) in enumerate(columns):
            if found is not None and number is not None and never is not None:
                found += np.bincount(column, w, len(found))
                number += np.bincount(column[heavy], minlength=len(found))
                self.new[j] += w @ never[column]
                unseen |= never[column]
        self.new_rows += float(w @ unseen)


def _blocks(X: Any, sample_weight: Any) -> Iterator[tuple[Any, NDArray[np.float64]]]:
    """Yield blocks of rows, each with its weights on the host."""
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    rows = np.broadcast_to(np.float64(0), (_n_rows(X), 1))
    if is_dask(sample_weight):
        sample_weight = sample_weight.compute()
    weights = check_weights(sample_weight, rows)
    weights = None if weights is None else to_host(weights)
    start = 0
    for batch, _ in batches("drift", X, None):
        size = max(1, _BLOCK // max(1, batch.shape[1] if batch.ndim > 1 else 1))
        for first in range(0, batch.shape[0], size):
            cut = slice(first, min(first + size, batch.shape[0]))
            block = batch if cut == slice(0, batch.shape[0]) else _cut(batch, cut)
            if weights is None:
                yield block, np.ones(cut.stop - first)
            else:
                yield block, weights[start + first : start + cut.stop]
        start += batch.shape[0]


def _n_rows(X: Any) -> int:
    n_rows = X.shape[0] if len(X.shape) else 0
    if n_rows != n_rows or not isinstance(n_rows, int | np.integer):
        raise ValueError(
            "X has chunks of unknown lengths: X.compute_chunk_sizes() of an array, "
            "X.to_dask_array(lengths=True) of a dataframe, finds them."
        )
    if not n_rows:
        raise ValueError(
            "Found array with 0 sample(s) while a minimum of 1 is required by drift."
        )
    return int(n_rows)


def _cut(X: Any, rows: slice) -> Any:
    """Return some rows of an array, or of a dataframe, which keeps its names."""
    return _safe_indexing(X, rows) if hasattr(X, "columns") else X[rows]


# -- divergence ----------------------------------------------------------------------


def _column(
    trained: NDArray[np.float64] | None,
    found: NDArray[np.float64] | None,
    numbers: NDArray[np.float64] | None,
    new: float,
    spread: WeightSpread | None,
) -> dict[str, float | None]:
    """Return the report of a code column."""
    if trained is None or found is None or numbers is None:
        return dict.fromkeys(("divergence", "expected", "excess", "new_cells"))
    divergence = float(_divergences(trained / trained.sum(), found / found.sum()).sum())
    expected = expected_divergence(trained, numbers, spread)
    return {
        "divergence": divergence,
        "expected": expected,
        "excess": divergence - expected,
        "new_cells": float(new),
    }


def _divergences(p: Any, q: Any) -> Any:
    """Return the term of each code in the Jensen-Shannon divergence, in bits."""
    middle = (p + q) / 2
    found = np.zeros(np.broadcast(p, q).shape)
    for share in (p, q):
        ratio = np.divide(share, middle, out=np.ones_like(middle), where=share > 0)
        found += share * np.log2(ratio) / 2
    return np.maximum(found, 0)


def expected_divergence(
    trained: NDArray[np.float64],
    found: NDArray[np.float64],
    spread: WeightSpread | None = None,
) -> float:
    """Return the mean divergence of two samples from one distribution, in bits.

    Parameters
    ----------
    trained : ndarray of shape (n_codewords,)
        How often each code occurs in one sample.  Fractions are allowed; the mean is
        interpolated between the neighbouring integers.
    found : ndarray of shape (n_codewords,)
        How often each code occurs in the other sample, regardless of weights.
    spread : WeightSpread, optional
        The distribution of that sample's weights; None: all are equal.
    """
    n, m = (max(1, round(float(one.sum()))) for one in (trained, found))
    pooled = np.minimum(trained + found, n + m)
    low = np.floor(pooled).astype(np.int64)
    # Codes that occur equally often in both together have equal means.
    values, places = np.unique(
        np.concatenate((low, np.minimum(low + 1, n + m))), return_inverse=True
    )
    means = np.array([_expected_of(int(c), n, m, spread) for c in values])[places]
    below, above = means[: len(low)], means[len(low) :]
    return float((below + (pooled - low) * (above - below)).sum())


def _expected_of(c: int, n: int, m: int, spread: WeightSpread | None) -> float:
    """Return the mean term of a code that occurs c times in n and m rows together."""
    if c == 0:
        return 0.0
    total = n + m
    middle = c * (n / total)
    deviation = np.sqrt(middle * (m / total) * (total - c) / max(1, total - 1))
    reach = _REACH * deviation + 20
    k = np.arange(
        max(0, c - m, int(middle - reach)), min(n, c, int(middle + reach)) + 1
    )
    logs = -(gammaln(k + 1) + gammaln(c - k + 1))
    logs -= gammaln(n - k + 1) + gammaln(m - c + k + 1)
    shares = np.exp(logs - logs.max())
    if spread is None:
        parts = _divergences(k / n, (c - k) / m)
    else:
        parts = _means_of_weighted(k / n, c - k, m, spread)
    return float(shares @ parts / shares.sum())


def _means_of_weighted(
    p: NDArray[np.float64], k: NDArray[np.intp], m: int, spread: WeightSpread
) -> NDArray[np.float64]:
    """Return the mean terms of codes with shares p and k of m rows.

    The weight of these rows is a sum of weights drawn without replacement.  One or two
    weights are drawn from nodes; for more, two sums represent the mean, the variance
    and the skewness.
    """
    found = sum(
        share * _divergences(p, weight / m) for share, weight in _two_sums(k, m, spread)
    )
    sums = np.zeros(1)
    for few in (1, 2):
        sums = np.add.outer(sums, spread.nodes).ravel()
        for i in np.flatnonzero(k == few):
            found[i] = _divergences(p[i], sums / m).mean()
    return found


def _two_sums(
    k: NDArray[np.intp], m: int, spread: WeightSpread
) -> list[tuple[Any, NDArray[np.float64]]]:
    """Return two sums of k of m weights of mean one, and the probability of each.

    They have the mean, the variance and the skewness of the distribution of all sums.
    """
    middle = k.astype(np.float64)
    free = k * (m - k) / (m - 1)
    skewness = np.zeros_like(middle)
    if m > 2:
        np.divide(
            spread.skewness * (m - 2.0 * k) / (m - 2),
            np.sqrt(free),
            out=skewness,
            where=free > 0,
        )
    root = np.sqrt(skewness**2 + 4)
    above, below = (skewness + root) / 2, (skewness - root) / 2
    deviation, likely = np.sqrt(spread.variance * free), -below / root
    return [
        (likely, middle + deviation * above),
        (1 - likely, np.maximum(middle + deviation * below, 0)),
    ]
