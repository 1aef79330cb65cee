"""Where the codebook comes from: starts, Lloyd, repair, streams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances, unit
from scipy.stats import kstest
from sklearn.cluster import KMeans, kmeans_plusplus
from table import mixture

from skvq import VectorQuantizer, nearest
from skvq.learning import cells, initialise, lloyd, online
from skvq.learning.lloyd import _Objective

METRICS = ["sqeuclidean", "cosine", "cityblock"]


def objective(X, table, metric="sqeuclidean", weights=None):
    return np.average(distances(X, table, metric).min(axis=1), weights=weights)


# -- cells -----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
def test_best_codewords_are_a_minimum(metric, weighted):
    """Moving a codeword in any direction does not lower the distance of its cell."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(41, 3)) + [1, 0, 2]
    X = unit(X) if metric == "cosine" else X
    weights = rng.integers(1, 4, len(X)).astype(float) if weighted else None
    codes = rng.integers(0, 3, len(X))
    best = cells.best_codewords(X, codes, np.ones((4, 3)), weights, metric)
    assert_array_equal(best[3], np.ones(3))  # an empty cell keeps its codeword
    for code in range(3):
        rows, w = X[codes == code], None if weights is None else weights[codes == code]
        at_best = objective(rows, best[[code]], metric, w)
        for step in rng.normal(size=(50, 3)) * 0.01:
            moved = objective(rows, best[[code]] + step, metric, w)
            assert moved >= at_best - 1e-12


def test_weighted_median_counts_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4))
    weights = rng.integers(1, 5, len(X)).astype(float)
    codes = rng.integers(0, 2, len(X))
    a = cells.best_codewords(X, codes, np.zeros((2, 4)), weights, "cityblock")
    repeats = weights.astype(int)
    b = cells.best_codewords(
        np.repeat(X, repeats, axis=0),
        np.repeat(codes, repeats),
        np.zeros((2, 4)),
        None,
        "cityblock",
    )
    assert_array_equal(a, b)


@pytest.mark.parametrize("how", ["split", "farthest"])
@pytest.mark.parametrize("metric", METRICS)
def test_repair_never_raises_the_objective(how, metric):
    X = mixture(300, 3, dtype=np.float64)
    X = unit(X) if metric == "cosine" else X
    table = np.concatenate([X[:5], np.full((4, 3), 1e3)])
    table = unit(table) if metric == "cosine" else table
    codes = nearest.nearest(X, table, metric)[0]
    table = cells.best_codewords(X, codes, table, None, metric)
    repaired = cells.repair_empty(X, codes, table, None, metric, how)
    assert objective(X, repaired, metric) < objective(X, table, metric)
    used = np.bincount(nearest.nearest(X, repaired, metric)[0], minlength=9)
    assert (used > 0).sum() > (np.bincount(codes, minlength=9) > 0).sum()


def test_repair_keeps_what_it_is_told_to_keep():
    X = mixture(50, 3)
    table = np.full((4, 3), 100.0)
    codes = np.zeros(50, dtype=np.intp)
    assert cells.repair_empty(X, codes, table, None, "sqeuclidean", "keep") is table


# -- starts ----------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("n_samples", [60, 3000])
def test_starts_are_distinct_samples(init, n_samples):
    X = mixture(n_samples, 3)
    table = initialise.initialise(
        X, 40, init, None, "sqeuclidean", np.random.RandomState(0)
    )
    rows = {row.tobytes() for row in X}
    assert len({row.tobytes() for row in table}) == 40
    assert all(row.tobytes() in rows for row in table)


def test_starts_follow_the_weights():
    X = mixture(2000, 2)
    weights = np.where(X[:, 0] > np.median(X[:, 0]), 1.0, 1e-12)
    for init in ("k-means++", "random"):
        table = initialise.initialise(
            X, 20, init, weights, "sqeuclidean", np.random.RandomState(0)
        )
        assert (table[:, 0] > np.median(X[:, 0])).mean() > 0.9


@pytest.mark.parametrize("n_samples", [1500, 6000])
def test_k_means_plus_plus_is_as_good_as_scikit_learns(n_samples):
    X = mixture(n_samples, 8, dtype=np.float64)
    ours, theirs = [], []
    for seed in range(5):
        table = initialise.k_means_plus_plus(
            X, 64, None, "sqeuclidean", np.random.RandomState(seed)
        )
        ours.append(objective(X, table))
        theirs.append(objective(X, kmeans_plusplus(X, 64, random_state=seed)[0]))
    assert np.mean(ours) < 1.05 * np.mean(theirs)


def test_normal_start_is_normal():
    vq = VectorQuantizer(500, learning="fixed", init="normal", random_state=0)
    table = vq.fit(mixture(10, 8)).codebooks_[0]
    assert kstest(table.ravel(), "norm").pvalue > 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_splitting_never_rises_on_doubling(metric):
    X = mixture(500, 4, dtype=np.float64)
    X = unit(X) if metric == "cosine" else X
    values = [
        objective(X, initialise.splitting(X, n, None, metric), metric)
        for n in (1, 2, 4, 8, 16, 32)
    ]
    assert (np.diff(values) < 0).all()


def test_splitting_where_distances_cannot_tell_rows_apart():
    X = np.zeros((40, 2), np.float32)
    X[:, 0] = np.arange(40) * np.float32(1.4e-45)
    X[0, 1] = 1.0
    table = initialise.splitting(X, 30, None, "sqeuclidean")
    assert table.shape == (30, 2)
    assert np.isfinite(table).all()
    vq = VectorQuantizer(30, random_state=0).fit(np.repeat(X, 20, axis=0))
    assert np.isfinite(vq.codebooks_[0]).all()


# -- Lloyd -----------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(METRICS),
    dead_codes=st.sampled_from(["split", "farthest", "keep"]),
    weighted=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=40)
def test_objective_never_rises(seed, metric, dead_codes, weighted, dtype):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rng.integers(20, 120), 3)) + rng.normal()
    X = (unit(X) if metric == "cosine" else X).astype(dtype)
    weights = rng.random(len(X)) + 0.1 if weighted else None
    table = rng.normal(size=(12, 3)) * 3  # some of them far from every sample
    table = (unit(table) if metric == "cosine" else table).astype(dtype)
    values = [objective(X, table, metric, weights)]
    for _ in range(8):
        learned = lloyd.lloyd(
            X, table, weights, metric, max_iter=1, tol=0, dead_codes=dead_codes
        )
        table = learned.codebook
        values.append(objective(X, table, metric, weights))
        assert learned.distortion == pytest.approx(values[-1], rel=1e-4, abs=1e-6)
    slack = 1e-5 if dtype == np.float32 else 1e-12
    assert (np.diff(values) <= slack * values[0]).all()


def test_lloyd_equals_scikit_learn_from_the_same_start():
    X = mixture(2000, 6, dtype=np.float64)
    start = X[::50][:32]
    ours = VectorQuantizer(32, init=start, max_iter=300, tol=0).fit(X)
    theirs = KMeans(32, init=start, n_init=1, max_iter=300, tol=0).fit(X)
    assert ours.distortion_ == pytest.approx(theirs.inertia_ / len(X), rel=1e-9)
    assert_allclose(ours.codebooks_[0], theirs.cluster_centers_, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_objective_from_sums(metric):
    X = mixture(400, 5) + np.float32(300)
    X = X if metric != "cosine" else unit(X).astype(np.float32)
    value = _Objective(X, None, metric)(X[:20])[3] / len(X)
    assert value == pytest.approx(objective(X, X[:20], metric), rel=1e-4)


def test_tolerance_and_max_iter():
    X = mixture(2000, 6)
    vq = VectorQuantizer(32, init=X[:32], tol=0, max_iter=3).fit(X)
    assert vq.n_iter_ == 3
    loose = VectorQuantizer(32, init=X[:32], tol=0.5).fit(X)
    assert loose.n_iter_ < 5


def test_the_best_of_several_starts_is_kept():
    X = mixture(500, 3)
    one = VectorQuantizer(16, init="random", random_state=0).fit(X)
    ten = VectorQuantizer(16, init="random", n_init=10, random_state=0).fit(X)
    assert ten.distortion_ <= one.distortion_


@pytest.mark.parametrize("dead_codes", ["split", "farthest"])
def test_every_codeword_is_used_in_the_end(dead_codes):
    X = mixture(500, 3)
    start = np.concatenate([X[:2], np.full((14, 3), 1e4, np.float32)])
    vq = VectorQuantizer(16, init=start, dead_codes=dead_codes).fit(X)
    assert len(np.unique(vq.transform(X))) == 16
    keep = VectorQuantizer(16, init=start, dead_codes="keep").fit(X)
    assert len(np.unique(keep.transform(X))) <= 2
    assert vq.distortion_ < keep.distortion_


# -- streams ---------------------------------------------------------------------------


def settings_of(learning, **others):
    values = {
        "learning": learning,
        "metric": "sqeuclidean",
        "decay": 0.9,
        "learning_rate": 0.5,
        "dead_codes": "keep",
    }
    return online.OnlineSettings(**{**values, **others})


def test_one_batch_by_hand():
    X = np.array([[0.0], [2.0], [10.0]])
    start = online.start(np.array([[1.5], [9.0], [50.0]]))
    weights = np.array([1.0, 3.0, 1.0])

    def table(learning):
        return online.learn_batch(start, X, weights, settings_of(learning))[0]

    assert_allclose(table("minibatch").codebook, [[1.5], [10.0], [50.0]])
    assert_allclose(table("ema").codebook, [[1.5], [10.0], [50.0]])
    assert_allclose(table("ema").counts, [0.4, 0.1, 0])
    assert_allclose(table("sgd").codebook, [[1.5], [9.5], [50.0]])


def test_ema_is_the_ratio_of_two_averages():
    rng = np.random.default_rng(0)
    state = online.start(np.array([[0.0]]))
    sums = counts = 0.0
    for size in (3, 5, 2):
        X = rng.normal(size=(size, 1))
        state, _ = online.learn_batch(state, X, None, settings_of("ema"))
        sums, counts = 0.9 * sums + 0.1 * X.sum(), 0.9 * counts + 0.1 * size
        assert_allclose(state.codebook, [[sums / counts]])


@pytest.mark.parametrize("learning", ["minibatch", "ema", "sgd"])
def test_streams_come_near_lloyd(learning):
    X = mixture(3000, 5)
    errors = []
    for parameters in ({}, {"learning": learning, "batch_size": 256}):
        seeds = [VectorQuantizer(32, random_state=i, **parameters) for i in range(3)]
        errors.append(np.mean([quantizer.fit(X).distortion_ for quantizer in seeds]))
    assert errors[1] < 1.12 * errors[0]
    stream = seeds[0]
    for begin in range(0, len(X), 500):
        stream.partial_fit(X[begin : begin + 500])
    assert -stream.score(X) < 1.15 * errors[0]


@pytest.mark.parametrize("learning", ["minibatch", "sgd"])
def test_one_batch_of_everything_minibatch_is_one_lloyd_step(learning):
    X = mixture(500, 3, dtype=np.float64)
    vq = VectorQuantizer(8, learning=learning, init=X[:8], learning_rate=1.0)
    vq.partial_fit(X)
    lloyd_step = VectorQuantizer(8, init=X[:8], max_iter=1, tol=0).fit(X)
    assert_allclose(vq.codebooks_[0], lloyd_step.codebooks_[0])


@pytest.mark.parametrize("dead_codes", ["split", "farthest"])
def test_streams_move_codewords_that_nobody_uses(dead_codes):
    X = mixture(5000, 3)
    start = np.concatenate([X[:4], np.full((12, 3), 1e4, np.float32)])
    vq = VectorQuantizer(16, learning="ema", init=start, dead_codes=dead_codes)
    for begin in range(0, len(X), 250):
        vq.partial_fit(X[begin : begin + 250])
    assert len(np.unique(vq.transform(X))) == 16


def test_partial_fit_goes_on_after_fit():
    X = mixture(1000, 3)
    vq = VectorQuantizer(8, learning="minibatch", random_state=0).fit(X)
    before = vq.codebooks_[0]
    copy = before.copy()
    vq.partial_fit(X + 1)
    assert_array_equal(before, copy)
    assert not np.array_equal(vq.codebooks_[0], before)
    with pytest.raises(ValueError, match="n_codewords=9 was 8"):
        vq.set_params(n_codewords=9).partial_fit(X)
