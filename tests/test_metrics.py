"""Metrics: values against slow formulas, weights, edge cases, errors."""

import doctest
import json
import math
import pickle
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from oracles import paired
from scipy.stats import entropy, multivariate_normal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvq import ProductQuantizer, QuantizedFeatures, VectorQuantizer, metrics

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)) + 3
Q = X + RNG.normal(size=(40, 5)) / 4
WEIGHTS = RNG.integers(0, 4, size=40).astype(float)
CODES = RNG.integers(0, [3, 7, 200], size=(60, 3)).astype(np.uint8)
SIZES = (3, 7, 200)

OF_ARRAYS = {
    "distortion": metrics.distortion,
    "sqnr": metrics.sqnr,
    "sqnr-center": lambda *a, **k: metrics.sqnr(*a, center=True, **k),
    "psnr": lambda *a, **k: metrics.psnr(*a, data_range=4.0, **k),
}
OF_CODES = {
    "code_entropy": metrics.code_entropy,
    "perplexity": metrics.perplexity,
    "code_usage": lambda c, **k: metrics.code_usage(c, SIZES[: np.shape(c)[1]], **k),
    "imbalance": lambda c, **k: metrics.imbalance_factor(
        c, SIZES[: np.shape(c)[1]], **k
    ),
    "collision_rate": metrics.collision_rate,
}
of_arrays = pytest.mark.parametrize("metric", OF_ARRAYS.values(), ids=OF_ARRAYS)
of_codes = pytest.mark.parametrize("metric", OF_CODES.values(), ids=OF_CODES)


# -- of samples and reconstructions ------------------------------------------------


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "manhattan", "chebyshev"])
def test_distortion_is_the_mean_distance(metric):
    expected = paired(X, Q, metric)
    assert_allclose(metrics.distortion(X, Q, metric=metric), expected.mean())
    assert_allclose(
        metrics.distortion(X, Q, metric=metric, sample_weight=WEIGHTS),
        np.average(expected, weights=WEIGHTS),
    )


def test_distortion_is_what_score_negates():
    quantizer = VectorQuantizer(4, random_state=0).fit(X)
    found = metrics.distortion(X, quantizer.quantize(X), sample_weight=WEIGHTS)
    assert_allclose(found, -quantizer.score(X, sample_weight=WEIGHTS))


def test_ratios():
    error = ((X - Q) ** 2).sum()
    assert_allclose(metrics.sqnr(X, Q), 10 * np.log10((X**2).sum() / error))
    spread = ((X - X.mean(axis=0)) ** 2).sum()
    assert_allclose(metrics.sqnr(X, Q, center=True), 10 * np.log10(spread / error))
    assert_allclose(
        metrics.psnr(X, Q, data_range=4), 10 * np.log10(16 / (error / X.size))
    )


def test_the_mean_is_zero_decibels():
    constant = np.broadcast_to(np.average(X, axis=0, weights=WEIGHTS), X.shape)
    found = metrics.sqnr(X, constant, center=True, sample_weight=WEIGHTS)
    assert_allclose(found, 0, atol=1e-12)


def test_sqnr_of_uniform_noise():
    # Twelve bits on a full-scale sine: 6.02 b + 1.76 dB.
    wave = np.sin(np.linspace(0, 200 * np.pi, 100_001))[:, None]
    step = 2 / 2**12
    found = metrics.sqnr(wave, np.round(wave / step) * step)
    assert_allclose(found, 6.02 * 12 + 1.76, atol=0.2)


@of_arrays
def test_weights_equal_repeats(metric):
    repeats = WEIGHTS.astype(int)
    assert_allclose(
        metric(X, Q, sample_weight=WEIGHTS),
        metric(X.repeat(repeats, axis=0), Q.repeat(repeats, axis=0)),
    )


@of_arrays
def test_plain_floats(metric):
    assert type(metric(X, Q)) is float
    assert type(metric(X.astype(np.float32), Q.astype(np.float16))) is float
    assert_allclose(metric(pd.DataFrame(X), Q.tolist()), metric(X, Q))


@of_arrays
def test_float32_far_from_the_origin(metric):
    x, q = (X + 1e4).astype(np.float32), (Q + 1e4).astype(np.float32)
    assert_allclose(metric(x, q), metric(x.astype(float), q.astype(float)))


def test_float32_center_of_many_rows():
    x = np.full((200_000, 1), 1000.1, dtype=np.float32)
    x[::2] += np.float32(0.25)
    found = metrics.sqnr(x, x + np.float32(0.125), center=True)
    assert_allclose(found, 0, atol=1e-3)


def test_integers_do_not_wrap():
    x = np.array([[0, 255]], dtype=np.uint8)
    q = np.array([[255, 0]], dtype=np.uint8)
    assert metrics.distortion(x, q) == 2 * 255**2
    assert metrics.psnr(x, q) == 0
    assert metrics.psnr(x.astype(np.uint16), q) == pytest.approx(20 * math.log10(257))
    assert metrics.psnr(x.astype(np.int8), q.astype(np.int8)) > 40


def test_perfect_reconstructions():
    assert metrics.distortion(X, X) == 0
    assert metrics.sqnr(X, X) == math.inf
    assert metrics.sqnr(np.zeros((2, 2)), np.zeros((2, 2))) == math.inf
    assert metrics.psnr(X, X, data_range=1) == math.inf


def test_no_signal():
    assert metrics.sqnr(np.zeros((2, 2)), np.ones((2, 2))) == -math.inf
    constant = np.full((3, 2), 7.0)
    assert metrics.sqnr(constant, constant + 1, center=True) == -math.inf
    assert np.isfinite(metrics.sqnr(constant, constant + 1))


def test_ratios_that_overflow():
    x, q = np.array([[1e150]]), np.array([[1e150]])
    assert metrics.sqnr(np.vstack([x, [[0.0]]]), np.vstack([q, [[1e-150]]])) == (
        pytest.approx(6000)
    )


@of_arrays
@pytest.mark.parametrize(
    ("x", "q", "message"),
    [
        (X, Q[:3], "inconsistent numbers of samples"),
        (X, Q[:, :2], "X has 5 features, but X_quant has 2"),
        (X[0], Q[0], "Expected 2D array"),
        (X[:0], Q[:0], "0 sample"),
        (X, np.where(Q > 3, np.nan, Q), "X_quant contains NaN"),
        (np.where(X > 3, np.inf, X), Q, "X contains infinity"),
        (X.astype(complex), Q, "Complex data not supported"),
        ([["a", "b"]], [["a", "b"]], "could not convert|Unable to convert|numeric"),
    ],
)
def test_bad_reconstructions(metric, x, q, message):
    with pytest.raises(ValueError, match=message):
        metric(x, q)


@of_arrays
def test_bad_weights(metric):
    with pytest.raises(ValueError, match="zero"):
        metric(X, Q, sample_weight=np.zeros(40))
    with pytest.raises(ValueError, match="Negative values in sample_weight"):
        metric(X, Q, sample_weight=-WEIGHTS)
    with pytest.raises(ValueError, match="sample_weight"):
        metric(X, Q, sample_weight=WEIGHTS[:3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.bool_])
def test_psnr_does_not_guess_the_range(dtype):
    with pytest.raises(ValueError, match="pass data_range"):
        metrics.psnr(X.astype(dtype), Q)


@pytest.mark.parametrize("data_range", [0, -1.0, math.inf, math.nan])
def test_psnr_range_out_of_range(data_range):
    with pytest.raises(ValueError, match="data_range must be finite and above 0"):
        metrics.psnr(X, Q, data_range=data_range)


@pytest.mark.parametrize("data_range", ["255", True, [1.0]])
def test_psnr_range_that_is_no_number(data_range):
    with pytest.raises(TypeError, match="data_range must be a number"):
        metrics.psnr(X, Q, data_range=data_range)


def test_unknown_metric():
    with pytest.raises(ValueError, match="nonsense"):
        metrics.distortion(X, Q, metric="nonsense")


# -- of estimators -----------------------------------------------------------------


def test_bits():
    pq = ProductQuantizer(2, [4, 6], random_state=0).fit(X)
    assert metrics.bits_per_sample(pq) == pytest.approx(2 + math.log2(6))
    assert metrics.bits_per_feature(pq) == pytest.approx((2 + math.log2(6)) / 5)
    features = QuantizedFeatures(VectorQuantizer(8, random_state=0))
    model = make_pipeline(StandardScaler(), features).fit(X)
    assert metrics.bits_per_sample(model) == 3
    assert metrics.bits_per_feature(model) == pytest.approx(3 / 5)


def test_rate_distortion_curve():
    plain = VectorQuantizer(4, random_state=0).fit(X)
    scaled = make_pipeline(StandardScaler(), VectorQuantizer(2, random_state=0)).fit(X)
    found = metrics.rate_distortion_curve([plain, scaled], X, sample_weight=WEIGHTS)
    bits, distortions = found
    assert_array_equal(bits, [2, 1])  # in the order that was given
    assert distortions.dtype == np.float64
    back = scaled[0].inverse_transform(scaled[1].quantize(scaled[0].transform(X)))
    expected = [
        metrics.distortion(X, x_quant, sample_weight=WEIGHTS)
        for x_quant in (plain.quantize(X), back)
    ]
    assert_allclose(distortions, expected)


def test_quantizers_of_a_gaussian_stay_above_its_bound(seed):
    data = np.random.default_rng(seed + 1).normal(size=(4000, 2))
    fitted = [VectorQuantizer(V, random_state=seed).fit(data) for V in (2, 8, 32)]
    bits, distortions = metrics.rate_distortion_curve(fitted, data)
    bound = (data**2).sum(axis=1).mean() * 4 ** (-bits / 2)
    assert np.all(distortions > bound)
    assert np.all(distortions < 2 * bound)


def test_bad_estimators():
    fitted = VectorQuantizer(4, random_state=0).fit(X)
    with pytest.raises(ValueError, match="no estimators"):
        metrics.rate_distortion_curve([], X)
    for function in (metrics.bits_per_sample, metrics.bits_per_feature):
        with pytest.raises(NotFittedError):
            function(VectorQuantizer(4))
        with pytest.raises(TypeError, match="holds no quantizer"):
            function(StandardScaler().fit(X))
    with pytest.raises(NotFittedError):
        metrics.rate_distortion_curve([fitted, VectorQuantizer(4)], X)
    with pytest.raises(ValueError, match="features"):
        metrics.rate_distortion_curve([fitted], X[:, :2])


# -- of codes ----------------------------------------------------------------------


def shares(column, size):
    counted = Counter(column.tolist())
    return np.array([counted[v] for v in range(size)]) / len(column)


def test_use_of_columns():
    p = [shares(column, size) for column, size in zip(CODES.T, SIZES, strict=True)]
    bits = [entropy(column, base=2) for column in p]
    assert_allclose(metrics.code_entropy(CODES), bits)
    assert_allclose(metrics.perplexity(CODES), np.exp2(bits))
    assert_allclose(metrics.code_usage(CODES, SIZES), [np.mean(q > 0) for q in p])
    assert_allclose(
        metrics.imbalance_factor(CODES, SIZES),
        [size * np.sum(q**2) for size, q in zip(SIZES, p, strict=True)],
    )


@given(
    arrays(
        np.int64,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.integers(0, 3),
    )
)
def test_collisions_and_ranges(codes):
    rows = [tuple(row) for row in codes.tolist()]
    counted = Counter(rows)
    expected = np.mean([counted[row] > 1 for row in rows])
    assert metrics.collision_rate(codes) == pytest.approx(expected)
    sizes = [4] * codes.shape[1]
    most = min(4, len(codes))
    assert np.all(metrics.code_entropy(codes) >= 0)
    assert np.all(metrics.perplexity(codes) <= most + 1e-9)
    assert np.all(metrics.perplexity(codes) >= 1)
    assert np.all(metrics.imbalance_factor(codes, sizes) >= 1 - 1e-12)
    assert np.all(metrics.code_usage(codes, sizes) >= 0.25)


def test_extremes():
    even = np.arange(256, dtype=np.uint8)
    assert_allclose(metrics.code_entropy(even), [8])
    assert_allclose(metrics.perplexity(even), [256])
    assert_allclose(metrics.code_usage(even, [256]), [1])
    assert_allclose(metrics.imbalance_factor(even, [256]), [1])
    assert metrics.collision_rate(even) == 0
    single = np.zeros((9, 1), dtype=np.uint8)
    assert str(metrics.code_entropy(single)) == "[0.]"  # not minus zero
    assert_array_equal(metrics.perplexity(single), [1])
    assert_array_equal(metrics.imbalance_factor(single, [256]), [256])
    assert metrics.collision_rate(single) == 1
    assert metrics.collision_rate(single[:1]) == 0


def test_large_codes_take_little_memory():
    codes = np.array([[0], [2**32 - 1], [5], [5]], dtype=np.uint32)
    assert_allclose(metrics.code_usage(codes, [2**32]), [3 / 2**32])
    assert_allclose(metrics.code_entropy(codes), [1.5])
    assert metrics.collision_rate(codes) == 0.5


@of_codes
def test_weights_of_codes_equal_repeats(metric):
    # Rows that collide already: a repeat would collide with itself.
    codes = np.repeat(CODES[:20] // 50, 3, axis=0)
    weights = np.random.default_rng(2).integers(0, 4, size=60)
    if metric is metrics.collision_rate:
        weights = np.repeat(weights[:20], 3)
    assert_allclose(
        metric(codes, sample_weight=weights), metric(codes.repeat(weights, axis=0))
    )


def test_weights_in_the_collision_rate():
    codes = [[0], [0], [1], [2], [2]]
    assert metrics.collision_rate(codes, sample_weight=[1, 2, 3, 4, 0]) == 0.3


@of_codes
def test_codes_in_other_clothes(metric):
    expected = metric(CODES)
    for codes in (
        CODES.astype(float),
        CODES.tolist(),
        pd.DataFrame(CODES),
        CODES[:, ::1],
    ):
        assert_allclose(metric(codes), expected)
    assert_allclose(metric(np.asfortranarray(CODES)), expected)


@of_codes
@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0.0], [0.5]], r"codes\[1, 0\] = 0.5 is not an integer"),
        ([[0], [-1]], r"codes\[1, 0\] = -1 is negative"),
        ([[0.0], [-1.0]], r"codes\[1, 0\] = -1 is negative"),
        ([[0.0], [1e300]], "is not an integer"),
        ([[0.0], [np.nan]], "contains NaN"),
        (np.zeros((0, 1), int), "0 sample"),
        (np.zeros((2, 2, 2), int), "dim"),
    ],
)
def test_bad_codes(metric, codes, message):
    with pytest.raises(ValueError, match=message):
        metric(codes)


@pytest.mark.parametrize("metric", [metrics.code_usage, metrics.imbalance_factor])
def test_bad_sizes(metric):
    with pytest.raises(ValueError, match="sizes has 2 entries, but codes has 3"):
        metric(CODES, (3, 7))
    with pytest.raises(ValueError, match=r"Column 1 of codes goes up to 6"):
        metric(CODES, (3, 6, 200))


def test_estimated_entropy_of_a_gaussian_grid():
    """The entropy of a fine scalar grid is h(X) - log2(step), by Rényi's theorem."""
    data = np.random.default_rng(3).normal(size=200_000)
    step = 0.05
    codes = np.floor(data / step).astype(int) + 1000
    expected = multivariate_normal(0, 1).entropy() / math.log(2) - math.log2(step)
    assert_allclose(metrics.code_entropy(codes), [expected], atol=0.01)


# -- the page ----------------------------------------------------------------------


def test_page(tree):
    page = tree / "docs" / "metrics.md"
    # The fences end the expected outputs.
    text = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


# -- of searches -------------------------------------------------------------------


def test_recall_at_k():
    true = RNG.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :10]
    found = RNG.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :12]
    found[::3, 4:] = -1  # nothing
    for k, n_true in ((1, 1), (5, 1), (12, 1), (10, 10), (12, 3)):
        shares = [
            len({*a[:n_true]} & {*b[:k]}) / n_true
            for a, b in zip(true.tolist(), found.tolist(), strict=True)
        ]
        given = {"k": k, "n_true": n_true}
        recall = metrics.recall_at_k(true, found, **given)
        assert type(recall) is float
        assert recall == pytest.approx(np.mean(shares))
        weighted = metrics.recall_at_k(true, found, **given, sample_weight=WEIGHTS)
        assert weighted == pytest.approx(np.average(shares, weights=WEIGHTS))
    assert metrics.recall_at_k(true, true[:, ::-1]) == 1
    assert metrics.recall_at_k(true, found) == metrics.recall_at_k(true, found, k=12)


@pytest.mark.parametrize(
    ("true", "found", "given", "message"),
    [
        ([[1, 2]], [[1, 2]], {"k": 3}, "k=3"),
        ([[1, 2]], [[1, 2]], {"k": 0}, "k=0"),
        ([[1, 2]], [[1, 2]], {"n_true": 3}, "n_true=3"),
        ([[1, 2]], [[1, 2], [1, 2]], {}, "inconsistent numbers"),
        ([[1.5, 2]], [[1, 2]], {}, "neighbors has dtype float64"),
        ([[1, 2]], [[1, np.nan]], {}, "neighbors_found"),
        ([1, 2], [[1, 2]], {}, "2D array"),
    ],
)
def test_recalls_that_are_refused(true, found, given, message):
    with pytest.raises(ValueError, match=message):
        metrics.recall_at_k(true, found, **given)


# -- reports -------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, np.arange(60.0) % 4])
def test_a_report_holds_the_figures_of_the_functions(weights):
    report = metrics.code_report(CODES, SIZES, sample_weight=weights)
    by_column = {
        "usage": metrics.code_usage(CODES, SIZES, sample_weight=weights),
        "entropy": metrics.code_entropy(CODES, sample_weight=weights),
        "perplexity": metrics.perplexity(CODES, sample_weight=weights),
        "imbalance": metrics.imbalance_factor(CODES, SIZES, sample_weight=weights),
    }
    for name, expected in by_column.items():
        assert_allclose([column[name] for column in report["columns"]], expected)
    w = np.ones(60) if weights is None else weights
    heavy = CODES[w > 0]
    assert report["rows"] == len(heavy)
    for j, column in enumerate(report["columns"]):
        counts = np.bincount(CODES[:, j], w, SIZES[j])
        assert column["dead"] == np.count_nonzero(counts == 0)
        assert_allclose(column["largest"], counts.max() / counts.mean())
        assert_allclose(column["smallest"], counts.min() / counts.mean())
        prefix, first = report["prefixes"][j], CODES[:, : j + 1]
        distinct = len(np.unique(heavy[:, : j + 1], axis=0))
        assert prefix["distinct"] == distinct
        assert_allclose(prefix["duplicate_rate"], 1 - distinct / len(heavy))
        rate = metrics.collision_rate(first, sample_weight=weights)
        assert_allclose(prefix["collision_rate"], rate)


def test_a_report_is_a_mapping_and_a_table():
    report = metrics.code_report(CODES.astype(float), SIZES)
    assert json.loads(json.dumps(report.as_dict())) == dict(report)
    assert str(report) == repr(report)
    widths = {len(line) for line in str(report).splitlines()[2:6]}
    assert len(widths) == 1
    html = report._repr_html_()
    assert html.count("<table>") == 2 and html.count("<tr>") == 8
    assert pickle.loads(pickle.dumps(report)).as_dict() == report.as_dict()
    report.as_dict()["columns"].clear()
    assert len(report["columns"]) == 3 == len(report)


def test_the_table_of_many_columns_is_cut():
    report = metrics.code_report(np.zeros((2, 50), int), [2] * 50)
    assert str(report).count("...") == 2 and len(report["columns"]) == 50


def test_a_report_of_large_codes():
    codes = np.array([[2**32 - 1, 5], [2**32 - 1, 5], [7, 2**31]])
    report = metrics.code_report(codes, [2**32, 2**32])
    assert [prefix["distinct"] for prefix in report["prefixes"]] == [2, 2]
    assert report["columns"][0]["dead"] == 2**32 - 2


def test_bad_input_of_a_report():
    with pytest.raises(ValueError, match="2 entries"):
        metrics.code_report(CODES, (3, 7))
    with pytest.raises(ValueError, match="goes up to"):
        metrics.code_report(CODES, (3, 7, 2))
    with pytest.raises(ValueError, match="is negative"):
        metrics.code_report(-CODES.astype(int) - 1, SIZES)
