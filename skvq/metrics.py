"""Measures of a codec: its error, its bits, and the use of its codes.

For samples and their reconstructions:

========================  ==========================================================
`distortion`              mean distance of the samples from their reconstructions
`sqnr`                    power of the signal over that of the error, in dB
`psnr`                    squared peak over the mean squared error, in dB
========================  ==========================================================

For estimators:

========================  ==========================================================
`bits_per_sample`         bits that the codes of a sample take
`bits_per_feature`        the same, divided by the number of features
`entropy_bits`            mean bits of a sample's codes in an entropy-coded file
`rate_distortion_curve`   bits and distortion of several estimators
========================  ==========================================================

For codes:

========================  ==========================================================
`code_entropy`            entropy of each code column, in bits
`perplexity`              number of codewords that, evenly used, have this entropy
`code_usage`              share of the codewords in use
`imbalance_factor`        how uneven the use is: 1 if all are used evenly
`collision_rate`          share of the samples that share all their codes
`duplicate_rate`          share of the samples beyond the first with the same codes
`changed_codes`           share of codes that changed, for example in a refit
`code_report`             use of codes in one table, with collisions by prefix
========================  ==========================================================

For a fitted estimator in service:

========================  ==========================================================
`drift`                   how far samples are from those of the fit
========================  ==========================================================

For searches:

========================  ==========================================================
`recall_at_k`             share of the true neighbours among the first k found
========================  ==========================================================

Errors are measured in float64 by `skvq.nearest.paired`, whatever the dtype of the
samples.  Arrays of CuPy, and of other libraries if scikit-learn's dispatch is on, are
measured on their device, and results with an entry per column are arrays there.  As in
`sklearn.metrics`, samples come first, then what was made of them, then keywords.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array, check_consistent_length

from skvq._checks import (
    check_count,
    check_counts,
    check_unmasked,
    is_sequence,
    naming,
)
from skvq._code_checks import row_words
from skvq._columns import refuse_list_columns
from skvq._drift import drift
from skvq._reports import CodeReport, DriftReport
from skvq._typing import MatrixLike, MetricName, Number, Size, Sizes, VectorLike
from skvq._validation import check_matrix, first_followed, followed_backend
from skvq._weights import check_weights, drop_zero_weights
from skvq.model_selection import (
    neg_bits,
    neg_entropy_bits,
    neg_reconstruction_error,
)
from skvq.nearest import HOST, Backend, accumulate, backend_of, paired

__all__ = [
    "CodeReport",
    "DriftReport",
    "bits_per_feature",
    "bits_per_sample",
    "changed_codes",
    "code_entropy",
    "code_report",
    "code_usage",
    "collision_rate",
    "distortion",
    "drift",
    "duplicate_rate",
    "entropy_bits",
    "imbalance_factor",
    "perplexity",
    "psnr",
    "rate_distortion_curve",
    "recall_at_k",
    "sqnr",
]


# -- samples and reconstructions ---------------------------------------------------


def distortion(
    X: MatrixLike,
    X_quant: MatrixLike,
    *,
    metric: MetricName | Callable[..., Any] = "sqeuclidean",
    sample_weight: VectorLike | None = None,
) -> float:
    r"""Mean distance of the samples from their reconstructions.

    .. math::
        D = \frac1n \sum_i \mathrm{dist}(x_i, \hat x_i)

    The default is the squared Euclidean distance, summed over the features, as in
    `distortion_` and, negated, in `score`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples.
    X_quant : array-like of shape (n_samples, n_features)
        Their reconstructions.
    metric : str or callable, default="sqeuclidean"
        A metric of `skvq.nearest.nearest`.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    distortion : float
        The mean distance; 0 is perfect.

    Raises
    ------
    ValueError
        If the shapes differ, the numbers are not finite, or the weights not valid.

    References
    ----------
    Gersho and Gray (1992), "Vector Quantization and Signal Compression", section 10.3,
    doi:10.1007/978-1-4615-3626-0.

    Examples
    --------
    >>> from skvq.metrics import distortion
    >>> distortion([[0.0, 2.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]])
    2.5
    """
    X, X_quant, weights = _check_reconstruction(X, X_quant, sample_weight)
    return backend_of(X).average(paired(X, X_quant, metric), weights)


def sqnr(
    X: MatrixLike,
    X_quant: MatrixLike,
    *,
    center: bool = False,
    sample_weight: VectorLike | None = None,
) -> float:
    r"""Signal-to-quantization-noise ratio, in dB.

    .. math::
        10 \log_{10} \frac{\sum_i \lVert x_i - m \rVert^2}
                          {\sum_i \lVert x_i - \hat x_i \rVert^2}

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples.
    X_quant : array-like of shape (n_samples, n_features)
        Their reconstructions.
    center : bool, default=False
        Whether m is the mean of the samples, so that the signal is the variance, and
        reconstructing the mean gives 0 dB; if not, m is 0.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    sqnr : float
        The ratio in dB; infinite if the reconstruction is perfect, minus infinite if
        there is an error but no signal.

    Raises
    ------
    ValueError
        If the shapes differ, the numbers are not finite, or the weights not valid.

    References
    ----------
    Gersho and Gray (1992), "Vector Quantization and Signal Compression", section 5.2,
    doi:10.1007/978-1-4615-3626-0.

    Examples
    --------
    >>> from skvq.metrics import sqnr
    >>> round(sqnr([[3.0, 4.0], [0.0, 5.0]], [[3.0, 4.0], [0.0, 4.5]]), 3)
    23.01
    """
    X, X_quant, weights = _check_reconstruction(X, X_quant, sample_weight)
    be = backend_of(X)
    noise = be.average(paired(X, X_quant), weights)
    # A codebook with the middle as its only codeword, which codes all samples.
    codes = be.zeros((X.shape[0],), np.intp)
    middle = be.zeros((1, X.shape[1]))
    if center:
        sums, counts = accumulate(X, codes, 1, weights=weights)
        middle = sums / counts[:, None]
    signal = be.average(paired(X, middle, codes=codes), weights)
    return _decibels(signal, noise)


def psnr(
    X: MatrixLike,
    X_quant: MatrixLike,
    *,
    data_range: Number | None = None,
    sample_weight: VectorLike | None = None,
) -> float:
    r"""Peak signal-to-noise ratio, in dB.

    .. math::
        10 \log_{10} \frac{R^2}{\mathrm{MSE}}, \qquad
        \mathrm{MSE} = \frac1{nd} \sum_i \lVert x_i - \hat x_i \rVert^2

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Samples; or pictures: one of shape (height, width) or (height, width,
        n_channels), or several with one more axis in front.  The mean is over all
        numbers, so the shape of a picture does not matter, and several pictures have
        one PSNR together, which is not the mean of theirs.
    X_quant : array-like of the same shape
        Their reconstructions.
    data_range : float, optional
        R, the largest possible value of the data minus the smallest.  The default is
        that of the dtype of X, which must then be an integer dtype of 8 or 16 bits:
        other data do not tell their range.  The dtype of X_quant plays no part.
    sample_weight : array-like of shape (n_samples,), optional
        Weights along the first axis: of the samples, of the rows of one picture, or of
        the pictures.

    Returns
    -------
    psnr : float
        The ratio in dB; infinite if the reconstruction is perfect.

    Raises
    ------
    TypeError
        If `data_range` is not a number.
    ValueError
        If `data_range` is missing, or not finite and above 0; if the shapes differ, the
        numbers are not finite, or the weights not valid.

    References
    ----------
    Huynh-Thu and Ghanbari (2008), "Scope of validity of PSNR in image/video quality
    assessment", doi:10.1049/el:20080522.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.metrics import psnr
    >>> X = np.array([[0, 255], [128, 64]], dtype=np.uint8)
    >>> round(psnr(X, X.astype(float) + 1), 3)
    48.131

    For a picture:

    >>> picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    >>> round(psnr(picture, picture // 16 * 16 + 8), 1)
    34.8
    """
    X, X_quant = _as_rows(X, X_quant)
    X, X_quant, weights = _check_reconstruction(X, X_quant, sample_weight)
    be = backend_of(X)
    data_range = _check_data_range(data_range, be.numpy_dtype(X))
    error = be.average(paired(X, X_quant), weights) / X.shape[1]
    return _decibels(data_range**2, error)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    # The logarithms are taken first, since the ratio may overflow.
    return 10 * (math.log10(signal) - math.log10(noise))


# -- estimators --------------------------------------------------------------------


def bits_per_sample(estimator: Any) -> float:
    """Bits that the codes of a sample take: the sum of log2 V_j over its codes.

    Parameters
    ----------
    estimator : object
        Fitted quantizer, `QuantizedFeatures`, or a pipeline with one of them.

    Returns
    -------
    bits : float
        Its `bits_per_sample_`.

    Raises
    ------
    TypeError
        If there is no quantizer.
    ValueError
        If there are several.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    See Also
    --------
    code_entropy : The bits that an entropy coder would spend.
    skvq.codes.packed_bits : The bits that packed codes take.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer
    >>> from skvq.metrics import bits_per_sample
    >>> X = np.random.default_rng(0).normal(size=(50, 6))
    >>> bits_per_sample(ProductQuantizer(3, 8, random_state=0).fit(X))
    9.0
    """
    return -neg_bits(estimator)


def bits_per_feature(estimator: Any) -> float:
    """Bits that the codes of a sample take, divided by its number of features.

    Parameters
    ----------
    estimator : object
        Fitted quantizer, `QuantizedFeatures`, or a pipeline with one of them.

    Returns
    -------
    bits : float
        `bits_per_sample` divided by the estimator's `n_features_in_`; for a pipeline,
        by the number of its input features.

    Raises
    ------
    TypeError
        If there is no quantizer.
    ValueError
        If there are several.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer
    >>> from skvq.metrics import bits_per_feature
    >>> X = np.random.default_rng(0).normal(size=(50, 6))
    >>> bits_per_feature(ProductQuantizer(3, 8, random_state=0).fit(X))
    1.5
    """
    return bits_per_sample(estimator) / int(estimator.n_features_in_)


def entropy_bits(
    estimator: Any, X: MatrixLike, *, sample_weight: VectorLike | None = None
) -> float:
    r"""Mean bits of samples' codes in an entropy-coded file.

    .. math::
        R = \frac1n \sum_i \sum_j -\log_2 p_j(k_{ij}), \qquad
        p_j(k) \propto n_j(k) + 0.02

    with the counts n_j of the training samples, `code_counts_`.  For these samples it
    is the entropy of their codes; for others it is larger, the more they differ.

    Parameters
    ----------
    estimator : quantizer, QuantizedFeatures or Pipeline
        Fitted; of a fitted search, its best estimator is used.
    X : array-like of shape (n_samples, n_features)
        Samples in the form that the estimator takes.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    bits : float
        Bits per sample.  Files take about .1 bit more, for blocks of 1,024 rows.

    Raises
    ------
    TypeError
        If the estimator holds no quantizer.
    ValueError
        If it holds several, or has not counted its codes.

    See Also
    --------
    bits_per_sample : The bits in packed files, the same for each row.
    skvq.model_selection.EntropyBitsScorer : A scorer that returns the negative.
    skvq.codes.EntropyCoder : The coder of such files.

    References
    ----------
    Shannon (1948), "A Mathematical Theory of Communication",
    doi:10.1002/j.1538-7305.1948.tb01338.x.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.metrics import bits_per_sample, entropy_bits
    >>> X = np.array([[0.0]] * 15 + [[1.0]])
    >>> vq = VectorQuantizer(2, random_state=0).fit(X)
    >>> bits_per_sample(vq), round(entropy_bits(vq, X), 3)
    (1.0, 0.337)
    """
    return -neg_entropy_bits(estimator, X, sample_weight=sample_weight)


def rate_distortion_curve(
    estimators: Iterable[Any],
    X: Any,
    *,
    sample_weight: VectorLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits and distortion of several estimators on the same samples.

    Parameters
    ----------
    estimators : iterable of object
        Fitted quantizers, `QuantizedFeatures`, or pipelines with one of them.
    X : array-like of shape (n_samples, n_features)
        Samples other than those of the fit, unless overfitting is the question.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    bits : ndarray of shape (n_estimators,)
        Bits per sample, in the order of the estimators.
    distortions : ndarray of shape (n_estimators,)
        Mean squared Euclidean distance between samples and reconstructions in the space
        of X, summed over the features; pipelines decode back through all their steps.

    Raises
    ------
    TypeError
        If an estimator holds no quantizer, or a step before it cannot be inverted.
    ValueError
        If there are no estimators, an estimator holds several quantizers, or X or the
        weights are not valid.
    sklearn.exceptions.NotFittedError
        If an estimator is not fitted.

    References
    ----------
    Cover and Thomas (2006), "Elements of Information Theory", chapter 10,
    doi:10.1002/047174882X.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.metrics import rate_distortion_curve
    >>> X = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> fitted = [VectorQuantizer(V, init="splitting").fit(X) for V in (1, 2)]
    >>> bits, distortions = rate_distortion_curve(fitted, X)
    >>> bits.tolist(), distortions.tolist()
    ([0.0, 1.0], [25.25, 0.25])
    """
    estimators = list(estimators)
    if not estimators:
        raise ValueError("There are no estimators; expected at least one.")
    bits = [bits_per_sample(estimator) for estimator in estimators]
    errors = [
        -neg_reconstruction_error(estimator, X, sample_weight=sample_weight)
        for estimator in estimators
    ]
    return np.array(bits), np.array(errors)


# -- codes -------------------------------------------------------------------------


def code_entropy(
    codes: MatrixLike, *, sample_weight: VectorLike | None = None
) -> NDArray[np.float64]:
    r"""Entropy of each code column, in bits.

    .. math::
        H_j = -\sum_v p_{jv} \log_2 p_{jv}

    with :math:`p_{jv}` the share of the samples whose j-th code is v.  The sum over the
    columns is what an entropy coder spends that codes them one by one; it bounds the
    entropy of whole rows from above.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    entropy : ndarray of shape (n_codes,)
        Bits, from 0 to log2 V_j.  It is too low for few samples: at most log2 of their
        number.

    Raises
    ------
    ValueError
        If codes are negative, fractional or empty, or the weights not valid.

    References
    ----------
    Shannon (1948), "A Mathematical Theory of Communication", section 6,
    doi:10.1002/j.1538-7305.1948.tb01338.x.

    Examples
    --------
    >>> from skvq.metrics import code_entropy
    >>> code_entropy([[0, 0], [1, 0], [2, 0], [3, 1]]).round(3).tolist()
    [2.0, 0.811]
    """
    be, codes, weights = _check_use(codes, sample_weight)
    return be.send(_entropies(codes, weights))


def perplexity(
    codes: MatrixLike, *, sample_weight: VectorLike | None = None
) -> NDArray[np.float64]:
    r"""Perplexity of each code column: :math:`2^{H_j}`, H being its entropy in bits.

    This many codewords, evenly used, would have the same entropy.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    perplexity : ndarray of shape (n_codes,)
        From 1 to V_j.

    Raises
    ------
    ValueError
        If codes are negative, fractional or empty, or the weights not valid.

    See Also
    --------
    skvq.losses.perplexity_loss : A training loss, for soft assignments.

    References
    ----------
    Jelinek, Mercer, Bahl and Baker (1977), "Perplexity: a measure of the difficulty of
    speech recognition tasks", doi:10.1121/1.2016299.

    Examples
    --------
    >>> from skvq.metrics import perplexity
    >>> perplexity([[0, 0], [1, 0], [2, 0], [3, 0]]).tolist()
    [4.0, 1.0]
    """
    be, codes, weights = _check_use(codes, sample_weight)
    return be.send(np.exp2(_entropies(codes, weights)))


def code_usage(
    codes: MatrixLike, sizes: Sizes, *, sample_weight: VectorLike | None = None
) -> NDArray[np.float64]:
    """Share of the codewords of each code column that samples use.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.
    sizes : sequence of int
        Number of codewords V_j of each code column: the `codebook_sizes_` of the
        quantizer.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples; those of weight 0 use no codeword.

    Returns
    -------
    usage : ndarray of shape (n_codes,)
        From 1 / V_j to 1.

    Raises
    ------
    ValueError
        If codes are negative, fractional, empty or too large for their sizes, or the
        weights not valid.

    Examples
    --------
    >>> from skvq.metrics import code_usage
    >>> code_usage([[0, 0], [1, 0], [1, 0], [3, 7]], sizes=(4, 8)).tolist()
    [0.75, 0.25]
    """
    be, codes, weights = _check_use(codes, sample_weight)
    _check_sizes(codes, sizes)
    shares = _shares(codes, weights)
    return be.send(np.array(list(map(_usage, shares, sizes))))


def imbalance_factor(
    codes: MatrixLike, sizes: Sizes, *, sample_weight: VectorLike | None = None
) -> NDArray[np.float64]:
    r"""How unevenly the codewords of each code column are used.

    .. math::
        \mathrm{IF}_j = V_j \sum_v p_{jv}^2

    with :math:`p_{jv}` the share of the samples whose j-th code is v.  In an inverted
    file, it is the factor by which a search takes longer than with even lists.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.
    sizes : sequence of int
        Number of codewords V_j of each code column: the `codebook_sizes_` of the
        quantizer.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples.

    Returns
    -------
    factor : ndarray of shape (n_codes,)
        From 1 (even use) to V_j (only one in use).

    Raises
    ------
    ValueError
        If codes are negative, fractional, empty or too large for their sizes, or the
        weights not valid.

    References
    ----------
    Jégou, Douze and Schmid (2010), "Improving Bag-of-Features for Large Scale Image
    Search".

    Examples
    --------
    >>> from skvq.metrics import imbalance_factor
    >>> imbalance_factor([[0, 0], [1, 0], [2, 0], [3, 0]], sizes=(4, 2)).tolist()
    [1.0, 2.0]
    """
    be, codes, weights = _check_use(codes, sample_weight)
    _check_sizes(codes, sizes)
    shares = _shares(codes, weights)
    return be.send(np.array(list(map(_imbalance, shares, sizes))))


def collision_rate(
    codes: MatrixLike, *, sample_weight: VectorLike | None = None
) -> float:
    """Share of the samples whose whole row of codes is shared with another sample.

    If rows of codes serve as identifiers, these samples cannot be told from others.
    `duplicate_rate` does not count the first of each group.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples in the share; those of weight 0 collide with nothing.

    Returns
    -------
    rate : float
        From 0 (all rows differ) to 1.

    Raises
    ------
    ValueError
        If codes are negative, fractional or empty, or the weights not valid.

    References
    ----------
    Rajput et al. (2023), "Recommender Systems with Generative Retrieval", section 3.1,
    arXiv 2305.05065.

    Examples
    --------
    >>> from skvq.metrics import collision_rate
    >>> collision_rate([[0, 1], [0, 2], [0, 1], [5, 1]])
    0.5
    """
    _, codes, weights = _check_use(codes, sample_weight)
    _, inverse, counts = np.unique(
        row_words(codes), return_inverse=True, return_counts=True
    )
    return _collisions(inverse, counts, weights)


def code_report(
    codes: MatrixLike, sizes: Sizes, *, sample_weight: VectorLike | None = None
) -> CodeReport:
    """Report how codes use their codewords, column by column and prefix by prefix.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.
    sizes : sequence of int
        Number of codewords V_j of each code column: the `codebook_sizes_` of the
        quantizer.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples; those of weight 0 play no part.

    Returns
    -------
    report : CodeReport
        A mapping that prints as a table.  Its items:

        ``rows`` : int
            Number of samples, without those of weight zero.
        ``columns`` : list of dict
            For each code column: ``size``, V_j; ``usage``, `code_usage`; ``dead``, the
            number of codewords without a sample; ``entropy``, `code_entropy` in bits;
            ``perplexity``; ``imbalance``, `imbalance_factor`; ``largest`` and
            ``smallest``, the share of the most and the least used codeword times V_j,
            1 for even use.
        ``prefixes`` : list of dict
            For the first 1, 2, ... columns, which are the stages of a residual scheme:
            ``distinct``, the number of distinct rows; ``collision_rate``; and
            ``duplicate_rate``, the share of samples beyond the distinct rows.  Weights
            only count in the second.

    Raises
    ------
    ValueError
        If codes are negative, fractional, empty or too large for their sizes, or the
        weights not valid.

    See Also
    --------
    skvq.display.CodeUsageDisplay.from_report : Draws it.
    drift : How samples and their codes differ from those of the fit.

    References
    ----------
    Rajput et al. (2023), "Recommender Systems with Generative Retrieval", section 3.1,
    arXiv 2305.05065.

    Examples
    --------
    >>> from skvq.metrics import code_report
    >>> report = code_report([[0, 0], [1, 0], [2, 0], [0, 1]], sizes=(4, 2))
    >>> print(report)
    Codes of 4 rows
    <BLANKLINE>
    column  size  usage  dead  entropy  perplexity  imbalance  largest  smallest
         0     4   0.75     1      1.5       2.828        1.5        2         0
         1     2      1     0    0.811       1.755       1.25      1.5       0.5
    <BLANKLINE>
    first columns  distinct rows  collision rate  duplicate rate
                1              3             0.5            0.25
                2              4               0               0
    >>> report["columns"][0]["dead"]
    1
    """
    _, codes, weights = _check_use(codes, sample_weight)
    _check_sizes(codes, sizes)
    columns, used = [], []
    prefixes = []
    before, n_rows = np.zeros(len(codes), np.int64), len(codes)
    for column, size in zip(codes.T, map(int, sizes), strict=True):
        found, inverse = np.unique(column, return_inverse=True)
        sums = np.bincount(inverse, weights=weights)
        used.append((found, sums / sums.sum()))
        columns.append(_use_of_column(used[-1][1], size))
        # Numbers of groups and codes are below that of rows, so this does not overflow.
        _, before, counts = np.unique(
            before * len(found) + inverse, return_inverse=True, return_counts=True
        )
        prefixes.append(
            {
                "distinct": len(counts),
                "collision_rate": _collisions(before, counts, weights),
                "duplicate_rate": 1 - len(counts) / n_rows,
            }
        )
    facts = {"rows": n_rows, "columns": columns, "prefixes": prefixes}
    return CodeReport(facts, used)


def _use_of_column(p: NDArray[Any], size: int) -> dict[str, Any]:
    """Return the report of a column with these positive shares."""
    entropy = _entropy(p)
    return {
        "size": size,
        "usage": _usage(p, size),
        "dead": size - len(p),
        "entropy": entropy,
        "perplexity": float(np.exp2(entropy)),
        "imbalance": _imbalance(p, size),
        "largest": size * float(p.max()),
        "smallest": size * float(p.min()) if len(p) == size else 0.0,
    }


def duplicate_rate(codes: MatrixLike) -> float:
    """Share of the samples that could be dropped without losing a row of codes.

    This is (n - number of distinct rows) / n, the collision rate in papers on
    recommenders.  `collision_rate` also counts the first of each group of equal rows:
    for two equal rows among a hundred, it is .02, and this one .01.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes as `transform` returns them.

    Returns
    -------
    rate : float
        From 0 (all rows differ) to 1 - 1 / n_samples (all are equal).

    Raises
    ------
    ValueError
        If codes are negative, fractional or empty.

    See Also
    --------
    collision_rate : The share of the samples that share their codes.
    skvq.codes.UniqueIds : Gives every row codes of its own.

    Examples
    --------
    >>> from skvq.metrics import duplicate_rate
    >>> duplicate_rate([[0, 1], [0, 2], [0, 1], [5, 1]])
    0.25
    """
    _, codes, _ = _check_use(codes, None)
    return 1 - len(np.unique(row_words(codes))) / len(codes)


class ChangedCodes(NamedTuple):
    """The result of `changed_codes`."""

    columns: NDArray[np.float64]  # (n_codes,), share of changed codes in each column
    rows: float  # share of rows with any changed code


def changed_codes(
    old: MatrixLike, new: MatrixLike, *, sample_weight: VectorLike | None = None
) -> ChangedCodes:
    """Share of the codes that have changed, for example in a refit.

    Parameters
    ----------
    old, new : array-like of int, shape (n_samples, n_codes) or (n_samples,)
        Codes of the same samples, as `transform` returned them before and returns them
        now.
    sample_weight : array-like of shape (n_samples,), optional
        Weights of the samples in the shares.

    Returns
    -------
    columns : ndarray of float64, shape (n_codes,)
        Share of the samples whose code of each column has changed.
    rows : float
        Share of the samples with any changed code.

    Raises
    ------
    ValueError
        If codes are negative, fractional or empty, their shapes differ, or the weights
        are not valid.

    See Also
    --------
    skvq.codes.match : New names for codewords such that codes keep their meaning.

    Examples
    --------
    >>> from skvq.metrics import changed_codes
    >>> columns, rows = changed_codes([[0, 1], [2, 3]], [[0, 2], [2, 3]])
    >>> columns.tolist(), rows
    ([0.0, 0.5], 0.5)
    """
    with naming("old"):
        be, before, _ = _check_use(old, None)
    with naming("new"):
        _, now, _ = _check_use(new, None)
    if before.shape != now.shape:
        raise ValueError(
            f"old has shape {before.shape} and new has {now.shape}; expected codes of "
            "the same samples in the same columns."
        )
    # Checked again, to leave out the rows of weight zero.
    _, before, weights = _check_use(old, sample_weight)
    _, now, _ = _check_use(new, sample_weight)
    changed = before != now
    shares = [HOST.average(column, weights) for column in changed.T]
    return ChangedCodes(
        be.send(np.array(shares)), HOST.average(changed.any(axis=1), weights)
    )


# -- searches ----------------------------------------------------------------------


def recall_at_k(
    neighbors: MatrixLike,
    neighbors_found: MatrixLike,
    *,
    k: Size | None = None,
    n_true: Size = 1,
    sample_weight: VectorLike | None = None,
) -> float:
    """Share of the true nearest neighbours that are among the first k found.

    With ``n_true=1`` it is the recall@k of product quantization: the share of the
    queries whose nearest neighbour is found.  With ``n_true=k`` it is what other
    benchmarks of approximate searches call by this name.

    Parameters
    ----------
    neighbors : array-like of int, shape (n_queries, n_neighbors)
        Indices of the true neighbours, nearest first: the result of a search over the
        rows themselves, such as scikit-learn's `NearestNeighbors`.
    neighbors_found : array-like of int, shape (n_queries, n_neighbors_found)
        Indices that were found, best first; -1 stands for none.
    k : int, default=None
        Number of found indices that count; None: all.
    n_true : int, default=1
        Number of true neighbours to find.
    sample_weight : array-like of shape (n_queries,), optional
        Weights of the queries.

    Returns
    -------
    recall : float
        From 0 (none is found) to 1 (all are).

    Raises
    ------
    ValueError
        If there are fewer columns than `k` or `n_true`, numbers of queries differ, or
        indices are not integers.

    References
    ----------
    Jegou, Douze and Schmid (2011), "Product Quantization for Nearest Neighbor Search",
    IEEE TPAMI 33(1), section V-A, doi:10.1109/TPAMI.2010.57.

    Examples
    --------
    >>> from skvq.metrics import recall_at_k
    >>> true, found = [[3, 1], [7, 2]], [[3, 9, 1], [4, 7, 8]]
    >>> recall_at_k(true, found, k=1), recall_at_k(true, found, k=3)
    (0.5, 1.0)
    >>> recall_at_k(true, found, n_true=2)
    0.75
    """
    true = _check_neighbors(neighbors, "neighbors")
    found = _check_neighbors(neighbors_found, "neighbors_found")
    check_consistent_length(true, found)
    n_true = check_count("n_true", n_true, largest=true.shape[1])
    k = check_count("k", found.shape[1] if k is None else k, largest=found.shape[1])
    weights = check_weights(sample_weight, true)
    shares = np.zeros(len(true))
    for column in true[:, :n_true].T:
        shares += (found[:, :k] == column[:, None]).any(axis=1)
    return HOST.average(shares / n_true, weights)


def _check_neighbors(indices: Any, name: str) -> NDArray[Any]:
    indices = _check_numbers(backend_of(indices).to_host(indices), name)
    if indices.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {indices.dtype}; expected integers.")
    return indices


def _shares(codes: NDArray[Any], weights: NDArray[Any] | None) -> list[NDArray[Any]]:
    """Return the positive shares of the codes of each column, in any order."""
    shares = []
    for column in codes.T:
        # Counting by code would need memory for the largest code, up to 2**32.
        _, inverse = np.unique(column, return_inverse=True)
        counts = np.bincount(inverse, weights=weights)
        shares.append(counts / counts.sum())
    return shares


def _entropies(codes: Any, weights: Any) -> NDArray[np.float64]:
    return np.array([_entropy(p) for p in _shares(codes, weights)])


def _entropy(p: NDArray[Any]) -> float:
    return max(0.0, -float(p @ np.log2(p)))


def _usage(p: NDArray[Any], size: int) -> float:
    return len(p) / size


def _imbalance(p: NDArray[Any], size: int) -> float:
    return size * float(p @ p)


def _collisions(
    groups: NDArray[Any], counts: NDArray[Any], weights: NDArray[Any] | None
) -> float:
    """Return the share of the rows that are not alone in their group."""
    return HOST.average(counts[groups] > 1, weights)


# -- inputs ------------------------------------------------------------------------


def _check_reconstruction(
    X: Any, X_quant: Any, sample_weight: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    be = first_followed(X, X_quant)
    X, X_quant = check_matrix(be, X, "X"), check_matrix(be, X_quant, "X_quant")
    check_consistent_length(X, X_quant)
    if X.shape != X_quant.shape:
        raise ValueError(
            f"X has {X.shape[1]} features, but X_quant has {X_quant.shape[1]}."
        )
    weights = check_weights(sample_weight, X)
    return drop_zero_weights(X, weights)[0], *drop_zero_weights(X_quant, weights)


def _as_rows(X: Any, X_quant: Any) -> tuple[Any, Any]:
    """Return each entry of the first axis of pictures as one row of numbers."""
    X, X_quant = (a if hasattr(a, "shape") else np.asarray(a) for a in (X, X_quant))
    if max(len(X.shape), len(X_quant.shape)) < 3 or 0 in X.shape:
        return X, X_quant  # these are rows already, or not valid
    if X.shape != X_quant.shape:
        raise ValueError(
            f"X has shape {tuple(X.shape)}, but X_quant has {tuple(X_quant.shape)}; "
            "pictures and their reconstructions have the same."
        )
    n_rows, n_numbers = X.shape[0], math.prod(X.shape[1:])

    def rows_of(array: Any) -> Any:
        be = followed_backend(array)
        return be.xp.reshape(be.like(array), (n_rows, n_numbers))

    return rows_of(X), rows_of(X_quant)


def _check_numbers(array: Any, name: str, **options: Any) -> NDArray[Any]:
    with naming(name):
        check_unmasked(array, name)
        return check_array(array, dtype="numeric", input_name=name, **options)


def _check_data_range(data_range: Any, dtype: np.dtype[Any]) -> float:
    if data_range is None:
        if dtype.kind not in "ui" or dtype.itemsize > 2:
            raise ValueError(
                f"X has dtype {dtype}, which does not tell the range of the data: pass "
                "data_range, such as 1.0 for images in [0, 1]."
            )
        info = np.iinfo(dtype)
        return float(info.max) - float(info.min)
    if not isinstance(data_range, Real) or isinstance(data_range, bool):
        raise TypeError(f"data_range must be a number above 0, got {data_range!r}.")
    found = float(data_range)
    if not 0 < found < math.inf:
        raise ValueError(f"data_range must be finite and above 0, got {data_range!r}.")
    return found


def _check_use(
    codes: Any, sample_weight: Any
) -> tuple[Backend, NDArray[Any], NDArray[Any] | None]:
    """Return the backend of the result, and codes without the rows of weight zero.

    The codes are integers (n_samples, n_codes) on the host.
    """
    be = followed_backend(codes)
    refuse_list_columns(codes, "codes")
    codes = be.to_host(codes)
    codes = _check_numbers(codes, "codes", ensure_2d=False)
    if codes.dtype.kind not in "biuf":
        raise ValueError(f"codes has dtype {codes.dtype}; expected integers.")
    codes = codes[:, None] if codes.ndim == 1 else codes
    if codes.dtype.kind == "f":
        # Compare before the cast, which would wrap around.
        wrong = (codes != np.floor(codes)) | (np.abs(codes) > 2.0**53)
        _refuse(codes, wrong, "is not an integer")
        codes = codes.astype(np.int64)
    _refuse(codes, codes < 0, "is negative")
    return be, *drop_zero_weights(codes, check_weights(sample_weight, codes))


def _check_sizes(codes: NDArray[Any], sizes: Any) -> None:
    if not is_sequence(sizes):
        raise TypeError(
            f"sizes must be a sequence of integers, one per code column, got {sizes!r}"
        )
    sizes = check_counts("sizes", sizes)
    if len(sizes) != codes.shape[1]:
        raise ValueError(
            f"sizes has {len(sizes)} entries, but codes has {codes.shape[1]} columns."
        )
    for column, size in enumerate(sizes):
        largest = int(codes[:, column].max())
        if largest >= size:
            raise ValueError(
                f"Column {column} of codes goes up to {largest}; with "
                f"sizes[{column}] = {size}, it takes the integers 0 to {size - 1}."
            )


def _refuse(codes: NDArray[Any], wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(f"codes[{row}, {column}] = {codes[row, column]} {why}.")
