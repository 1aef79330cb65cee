"""Where the codebook comes from: starts, Lloyd, repair, streams."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances, unit
from scipy.stats import kstest
from sklearn.cluster import KMeans
from table import LEARNING, mixture

from skvq import VectorQuantizer, nearest
from skvq.learning import cells, online

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


def test_empty_cells_take_halves_of_others():
    X = mixture(300, 3, dtype=np.float64)
    table = np.concatenate([X[:5], np.full((4, 3), 1e3)])
    codes = nearest.nearest(X, table)[0]
    table = cells.best_codewords(X, codes, table, None, "sqeuclidean")
    repaired = cells.repair_empty(X, codes, table, None)
    assert objective(X, repaired) < objective(X, table)
    assert len(np.unique(nearest.nearest(X, repaired)[0])) == 9
    assert cells.repair_empty(X, np.arange(300) % 9, table, None) is table


# -- what every learner must do --------------------------------------------------------


@pytest.mark.parametrize("learning", LEARNING)
def test_a_learner_lowers_the_error_about_as_far_as_lloyd(learning):
    X = mixture(2000, 4)
    start = X[:16]
    fitted = VectorQuantizer(16, learning=learning, init=start).fit(X)
    assert fitted.n_iter_ > 1
    lloyd = VectorQuantizer(16, init=start).fit(X).distortion_
    assert objective(X, fitted.codebooks_[0]) < 1.3 * lloyd < 0.8 * objective(X, start)


@pytest.mark.parametrize("learning", LEARNING)
def test_codewords_end_near_the_means_of_their_cells(learning):
    """Of rows that count: the others, which lie aside, have hardly a weight."""
    X = mixture(4000, 4)
    aside = np.arange(len(X)) % 2 == 1
    X[aside] += 2.0
    weights = np.where(aside, 0.01, 1.0)
    vq = VectorQuantizer(8, learning=learning, init=X[:8], max_iter=100, tol=0)
    table = vq.fit(X, sample_weight=weights).codebooks_[0]
    means = cells.best_codewords(
        X, vq.transform(X)[:, 0], table, weights, "sqeuclidean"
    )
    spread = np.square(X - X.mean(axis=0)).sum(axis=1).mean()
    assert np.square(table - means).sum(axis=1).max() < 0.05 * spread


@pytest.mark.parametrize("learning", [*LEARNING, "fixed"])
def test_distortions_are_added_up_in_float64(learning):
    X = mixture(5000, 3, dtype=np.float64)
    vq = VectorQuantizer(8, learning=learning, init=X[:8], max_iter=3).fit(X)
    nearest_ones = distances(X, vq.codebooks_[0], "sqeuclidean").min(axis=1)
    exact = math.fsum(nearest_ones) / len(X)
    assert vq.distortion_ == pytest.approx(exact, rel=1e-12)
    assert -vq.score(X) == pytest.approx(exact, rel=1e-12)


# -- starts and Lloyd, as estimators have them -----------------------------------------


def test_normal_start_is_normal(seed):
    vq = VectorQuantizer(500, learning="fixed", init="normal", random_state=seed)
    table = vq.fit(mixture(10, 8)).codebooks_[0]
    # Of a normal distribution, once in ten thousand seeds.
    assert kstest(table.ravel(), "norm").pvalue > 1e-4


def test_starts_where_distances_cannot_tell_rows_apart():
    X = np.zeros((40, 2), np.float32)
    X[:, 0] = np.arange(40) * np.float32(1.4e-45)
    X[0, 1] = 1.0
    vq = VectorQuantizer(30, random_state=0).fit(np.repeat(X, 20, axis=0))
    assert np.isfinite(vq.codebooks_[0]).all()


def test_lloyd_equals_scikit_learn_from_the_same_start():
    X = mixture(2000, 6, dtype=np.float64)
    start = X[::50][:32]
    ours = VectorQuantizer(32, init=start, max_iter=300, tol=0).fit(X)
    theirs = KMeans(32, init=start, n_init=1, max_iter=300, tol=0).fit(X)
    assert ours.distortion_ == pytest.approx(theirs.inertia_ / len(X), rel=1e-9)
    assert_allclose(ours.codebooks_[0], theirs.cluster_centers_, atol=1e-9)


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
def test_streams_come_near_lloyd(learning, seed):
    X = mixture(3000, 5, seed)
    errors = []
    for parameters in ({}, {"learning": learning, "batch_size": 256}):
        seeds = [
            VectorQuantizer(32, random_state=seed + i, **parameters) for i in range(3)
        ]
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
