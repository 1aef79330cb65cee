"""Drift: its parts against slow formulas, its expectation against permutations."""

import json
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from scipy.spatial.distance import jensenshannon
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skvq
from skvq import _drift
from skvq.metrics import drift

RNG = np.random.default_rng(0)
TRAIN = RNG.normal(size=(600, 4))
X = RNG.normal(size=(150, 4)) * 1.2
WEIGHTS = RNG.integers(0, 4, size=150).astype(float)
PQ = skvq.ProductQuantizer(4, 8, random_state=0).fit(TRAIN)


def fixed_grid(n_levels):
    """Return a grid that is learned from nothing: rows of a fit only are counted."""
    return skvq.UniformQuantizer(n_levels, clip_range=(-2, 2))


# -- what is reported --------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_figures_by_slow_formulas(weights):
    report = drift(PQ, X, sample_weight=weights)
    w = np.ones(len(X)) if weights is None else weights
    codes = PQ.transform(X)
    assert report["rows"] == np.count_nonzero(w)
    assert report["training_rows"] == 600
    assert_allclose(report["effective_rows"], w.sum() ** 2 / (w**2).sum())
    assert_allclose(report["distortion"], -PQ.score(X, sample_weight=weights))
    assert_allclose(report["training_distortion"], PQ.distortion_)
    ratio = report["distortion"] / PQ.distortion_
    assert_allclose(report["distortion_ratio"], ratio)
    new_rows = np.zeros(len(X), dtype=bool)
    for j, column in enumerate(report["columns"]):
        counts = np.bincount(codes[:, j], w, 8)
        # SciPy's is the root, of shares that it makes itself.
        expected = jensenshannon(PQ.code_counts_[j], counts, base=2) ** 2
        assert_allclose(column["divergence"], expected)
        assert_allclose(column["excess"], expected - column["expected"])
        new = PQ.code_counts_[j][codes[:, j]] == 0
        assert_allclose(column["new_cells"], np.average(new, weights=w))
        new_rows |= new
    assert_allclose(report["new_rows"], np.average(new_rows, weights=w))
    assert report["outside"] is None and report["outside_rows"] is None


def test_new_cells_and_outside():
    grid = skvq.UniformQuantizer(4, clip_range=(0, 4)).fit([[0.5, 0.5], [1.5, 3.5]])
    report = drift(grid, [[0.5, 0.5], [2.5, 0.6], [9.0, -1.0], [1.0, 4.5]])
    assert [column["new_cells"] for column in report["columns"]] == [0.5, 0.0]
    assert report["new_rows"] == 0.5
    assert report["outside"] == [0.25, 0.5] and report["outside_rows"] == 0.5
    assert "outside" in str(report)


RANGES = {
    "minmax": (skvq.UniformQuantizer(4), [0, 1]),
    "ends": (skvq.UniformQuantizer(5, range_ends="levels"), [0, 1]),
    "given": (skvq.UniformQuantizer(4, clip_range=(-1, 3)), [-1, 3]),
    "levels": (skvq.UniformQuantizer(levels=([0.0, 0.5, 2.5],)), [-0.25, 3.5]),
    "one level": (skvq.UniformQuantizer(levels=([2.0],)), [-np.inf, np.inf]),
    "step": (skvq.UniformQuantizer(step=0.5), None),
    "none": (skvq.FiniteScalarQuantizer(4, squash="none"), [0, 1]),
    "cdf": (skvq.FiniteScalarQuantizer(4, squash="cdf"), [0, 1]),
    "clamp": (skvq.FiniteScalarQuantizer(5, squash="clamp", scale=3.0), [-3, 3]),
}


@pytest.mark.parametrize("quantizer, ends", RANGES.values(), ids=RANGES)
def test_ranges(quantizer, ends):
    rows = np.linspace(0, 1, 21)[:, None]
    quantizer.fit(rows)
    assert drift(quantizer, rows)["outside"] == [0.0]
    if ends is None:
        ends = [end[0] for end in quantizer.clip_range_]
    low, high = quantizer._ranges()
    assert_allclose([low[0], high[0]], ends)
    beyond = [[-1e9], [1e9], [0.5], [0.5]]
    expected = 0.5 if np.isfinite(ends).all() else 0.0
    assert drift(quantizer, beyond)["outside"] == [expected]


@pytest.mark.parametrize(
    "quantizer",
    [skvq.FiniteScalarQuantizer(4), skvq.VectorQuantizer(4), skvq.BinaryQuantizer()],
)
def test_no_range(quantizer):
    assert drift(quantizer.fit(TRAIN), X)["outside"] is None


def test_of_a_trellis():
    tcq = skvq.TrellisQuantizer(1, n_states=4).fit(TRAIN)
    report = drift(tcq, np.concatenate((X, np.full((150, 4), 1e3))))
    assert min(report["outside"]) >= 0.5


# -- what it takes -----------------------------------------------------------------


def test_through_a_pipeline():
    model = make_pipeline(StandardScaler(), skvq.QuantizedFeatures(PQ)).fit(TRAIN)
    inner = model[-1].quantizer_
    expected = drift(inner, model[0].transform(X)).as_dict()
    assert drift(model, X).as_dict() == expected


def test_frames_and_sparse_rows():
    names = list("abcd")
    frame = pd.DataFrame(TRAIN, columns=names)
    named = make_pipeline(StandardScaler(), clone(PQ)).set_output(transform="pandas")
    named.fit(frame)
    plain = make_pipeline(StandardScaler(), skvq.ProductQuantizer(4, 8, random_state=0))
    plain.fit(TRAIN)
    found = drift(named, pd.DataFrame(X, columns=names))
    assert found["columns"] == drift(plain, X)["columns"]
    svd = make_pipeline(TruncatedSVD(2, random_state=0), skvq.VectorQuantizer(4))
    svd.fit(TRAIN)
    assert_allclose(drift(svd, csr_array(X))["distortion"], drift(svd, X)["distortion"])


def test_blocks_maps_and_lists(tmp_path, monkeypatch):
    expected = drift(PQ, X, sample_weight=WEIGHTS)
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr(_drift, "_BLOCK", 4 * 17)
    for rows in (X, np.load(tmp_path / "X.npy", mmap_mode="r"), X.tolist()):
        found = drift(PQ, rows, sample_weight=WEIGHTS)
        assert_allclose(found["distortion"], expected["distortion"])
        assert found["columns"] == expected["columns"]


def test_dask():
    da = pytest.importorskip("dask.array")
    found = drift(PQ, da.from_array(X, chunks=(40, 4)), sample_weight=WEIGHTS)
    expected = drift(PQ, X, sample_weight=WEIGHTS)
    assert found["columns"] == expected["columns"]
    unknown = da.from_array(X, chunks=40)
    unknown = unknown[unknown[:, 0] > 0]
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        drift(PQ, unknown)


def test_rows_of_weight_zero_play_no_part():
    heavy = WEIGHTS > 0
    found = drift(PQ, X, sample_weight=WEIGHTS).as_dict()
    alone = drift(PQ, X[heavy], sample_weight=WEIGHTS[heavy]).as_dict()
    for name in ("rows", "effective_rows", "distortion", "new_rows"):
        assert_allclose(found[name], alone[name])
    assert found["columns"] == alone["columns"]


def test_what_is_not_known_is_none():
    fitted = skvq.VectorQuantizer(8, random_state=0).fit(TRAIN)
    given = skvq.VectorQuantizer.from_codebooks(fitted.codebooks_)
    with pytest.raises(ValueError, match="neither a distortion nor counts"):
        drift(given, X)
    given.distortion_ = fitted.distortion_
    report = drift(given, X)
    assert report["training_rows"] is None and report["new_rows"] is None
    assert set(report["columns"][0].values()) == {None}
    assert "-" in str(report)
    large = skvq.UniformQuantizer(2**20).fit(TRAIN)
    assert drift(large, X)["columns"][0]["divergence"] is None


def test_bad_input():
    with pytest.raises(NotFittedError):
        drift(skvq.VectorQuantizer(4), X)
    with pytest.raises(TypeError, match="holds no quantizer"):
        drift(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="NaN"):
        drift(PQ, np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="3 features"):
        drift(PQ, X[:, :3])
    with pytest.raises(ValueError, match="0 sample"):
        drift(PQ, X[:0])
    with pytest.raises(ValueError, match="sample_weight"):
        drift(PQ, X, sample_weight=-np.ones(150))
    with pytest.raises(ValueError, match=r"sample_weight.shape"):
        drift(PQ, X, sample_weight=np.ones(7))


def test_a_report_is_a_mapping_and_a_table():
    report = drift(PQ, X)
    assert json.loads(json.dumps(report.as_dict())) == dict(report)
    report.as_dict()["columns"].clear()
    assert len(report["columns"]) == 4 and len(report) == len(dict(report))
    assert str(report) == repr(report) and "of the fit" in str(report)
    assert report._repr_html_().count("<table>") == 3


# -- what is expected of no drift ----------------------------------------------------


def test_expectation_is_the_mean_over_all_ways_to_deal_rows():
    a, b = np.array([3, 1, 0, 2]), np.array([1, 0, 2, 1])
    labels = np.repeat(np.arange(4), a + b)
    n, total, found = a.sum(), 0.0, 0
    for bits in range(2 ** len(labels)):
        first = np.array([bits >> i & 1 for i in range(len(labels))], dtype=bool)
        if first.sum() == n:
            parts = [np.bincount(labels[part], minlength=4) for part in (first, ~first)]
            total += jensenshannon(*parts, base=2) ** 2
            found += 1
    assert found == comb(len(labels), int(n))
    expected = _drift.expected_divergence(a.astype(float), b.astype(float))
    assert_allclose(expected, total / found)


def test_expectation_of_many_rows_is_the_leading_term():
    a, b = np.full(4, 2.5e8), np.full(4, 2.5e6)
    leading = 3 * (1 / a.sum() + 1 / b.sum()) / (8 * np.log(2))
    assert_allclose(_drift.expected_divergence(a, b), leading, rtol=1e-3)


def test_moments_of_weights_that_are_drawn():
    w = np.array([0.2, 0.4, 1.0, 1.1, 2.3])
    spread = _drift.WeightSpread.of(3 * w)
    for k in (1, 2, 3):
        sums = np.array([sum(some) for some in combinations(w, k)])
        found = _drift._two_sums(np.array([k]), 5, spread)
        for power in (1, 2, 3):
            mean = sum(share * weight**power for share, weight in found)
            assert_allclose(mean, [np.mean(sums**power)])


def excesses(seed, n_train, n_rows, n_levels, n_seeds, draw_weights=None):
    """Return divergences less their expectations, of grids that are not learned."""
    found = []
    for more in range(n_seeds):
        rng = np.random.default_rng(seed + more)
        grid = fixed_grid(n_levels).fit(rng.normal(size=(n_train, 2)))
        weights = None if draw_weights is None else draw_weights(rng, n_rows)
        report = drift(grid, rng.normal(size=(n_rows, 2)), sample_weight=weights)
        found.append(report["columns"][0]["excess"])
    return np.array(found)


@pytest.mark.parametrize(
    "sizes", [(100, 100, 4), (1000, 100, 256), (500, 3000, 64)], ids=str
)
def test_no_drift_is_as_expected(sizes, seed):
    found = excesses(seed, *sizes, n_seeds=50)
    assert abs(found.mean()) < 3 * found.std(ddof=1) / np.sqrt(len(found))


def test_no_drift_with_weights_is_as_expected(seed):
    found = excesses(seed, 1000, 100, 64, 50, lambda rng, n: rng.exponential(size=n))
    assert abs(found.mean()) < 3 * found.std(ddof=1) / np.sqrt(len(found))


@pytest.mark.parametrize("feature", range(4))
def test_a_shift_is_named_by_its_column(feature):
    shifted = RNG.normal(size=(300, 4))
    shifted[:, feature] += 1.0
    excess = [column["excess"] for column in drift(PQ, shifted)["columns"]]
    assert np.argmax(excess) == feature
