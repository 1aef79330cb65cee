"""Learners from streams: when they stop, which codewords they move, how they start."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from table import mixture

from skvq import ProductQuantizer, ResidualQuantizer, VectorQuantizer
from skvq.learning import online
from skvq.learning.rows import Rows, run

LEARNERS = ("minibatch", "ema", "sgd")
each_learner = pytest.mark.parametrize("learning", LEARNERS)


def settings_of(learning, **others):
    values = {
        "learning": learning,
        "metric": "sqeuclidean",
        "decay": 0.9,
        "learning_rate": 0.1,
        "dead_codes": "split",
    }
    return online.OnlineSettings(**{**values, **others})


def stream(quantizer, X, size, weights=None):
    for begin in range(0, len(X), size):
        rows = slice(begin, begin + size)
        w = None if weights is None else weights[rows]
        quantizer.partial_fit(X[rows], sample_weight=w)
    return quantizer


def classes(n_classes=10, n_rows=600, seed=0, n_features=8):
    """Return rows of distant clouds, one cloud after the other."""
    rng = np.random.default_rng(seed)
    centres = 10 * rng.normal(size=(n_classes, n_features))
    X = np.repeat(centres, n_rows, axis=0)
    return (X + rng.normal(size=X.shape)).astype(np.float32)


# -- passes ----------------------------------------------------------------------------


def passes_of(monkeypatch, distortions, tol=1e-3, max_iter=20):
    given = iter(distortions)
    monkeypatch.setattr(online, "learn_batch", lambda state, *_: (state, next(given)))
    learner = online.learn_epochs(
        Rows(np.zeros((4, 1))),
        online.start(np.zeros((1, 1))),
        settings_of("ema"),
        np.random.RandomState(0),
        batch_size=4,
        max_iter=max_iter,
        tol=tol,
    )
    return run(learner)[1].n_iter


@pytest.mark.parametrize(
    ("distortions", "n_iter"),
    [
        ([5.0, 5.0, 5.0, 1.0], 3),
        # One pass without a fall is forgiven, two are not.
        ([5.0, 5.5, 4.0, 4.1, 3.0, 2.9999, 2.9998, 1.0], 7),
        ([5.0, 4.0, 3.0], 3),
        ([0.0, 0.0, 0.0, 0.0], 3),
    ],
)
def test_two_passes_without_a_fall_end_the_learning(monkeypatch, distortions, n_iter):
    max_iter = min(len(distortions), 20)
    assert passes_of(monkeypatch, distortions, max_iter=max_iter) == n_iter


@each_learner
def test_fit_passes_more_than_once(learning):
    X = np.random.default_rng(0).normal(size=(1000, 4))
    vq = VectorQuantizer(8, learning=learning, batch_size=200, decay=0.9)
    vq.set_params(max_iter=100, random_state=0).fit(X)
    assert 3 < vq.n_iter_ < 100
    assert vq.distortion_ == pytest.approx(-vq.score(X))
    once = vq.set_params(max_iter=1).fit(X)
    assert once.n_iter_ == 1
    # A tolerance that no pass can satisfy leaves the first one and two more.
    assert vq.set_params(max_iter=9, tol=2.0).fit(X).n_iter_ <= 3


@each_learner
def test_fit_is_as_good_as_that_of_scikit_learn(learning, seed):
    X = load_digits().data[:1000]
    ours, theirs = [], []
    for one in (seed, seed + 1):
        vq = VectorQuantizer(16, learning=learning, batch_size=200, random_state=one)
        ours.append(-vq.fit(X).score(X))
        peer = MiniBatchKMeans(16, batch_size=200, n_init=1, random_state=one).fit(X)
        theirs.append(-peer.score(X) / len(X))
    # Of two seeds each, by chance one is a little better than the other.
    assert np.mean(ours) <= 1.02 * np.mean(theirs)


# -- codewords that no row uses --------------------------------------------------------


@each_learner
@pytest.mark.parametrize("dead_codes", ["split", "farthest"])
def test_codewords_with_many_rows_behind_them_stay(learning, dead_codes):
    rng = np.random.default_rng(0)
    low = rng.integers(0, 2, (400, 1)) + 0.1 * rng.normal(size=(400, 1))
    table = [[0.0], [1.0], [100.0], [101.0]]
    vq = VectorQuantizer(4, learning=learning, init=table, dead_codes=dead_codes)
    first = ResidualQuantizer(1, quantizer=vq)
    twice = ProductQuantizer(2, quantizer=vq)
    for quantizer, width in ((vq, 1), (first, 1), (twice, 2)):
        rows = np.repeat(low, width, axis=1)
        quantizer.partial_fit(np.concatenate([rows, rows + 100]))
        before = quantizer.score(rows + 100)
        assert before > -0.1
        for _ in range(5):
            quantizer.partial_fit(rows)
        assert quantizer.score(rows + 100) == pytest.approx(before, abs=1e-9)


def sorted_and_shuffled(quantizer, X, size):
    """Return the errors of one stream of rows in their order, and in another."""
    order = np.random.default_rng(0).permutation(len(X))
    return [-stream(clone(quantizer), rows, size).score(X) for rows in (X, X[order])]


@each_learner
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_rows_sorted_by_class(learning, metric):
    vq = VectorQuantizer(32, learning=learning, metric=metric, random_state=0)
    in_order, shuffled = sorted_and_shuffled(vq, classes(), 100)
    assert in_order < 2 * shuffled


@pytest.mark.parametrize("learning", ["minibatch", "sgd"])
def test_rows_sorted_by_class_come_one_by_one(learning):
    vq = VectorQuantizer(8, learning=learning, random_state=0)
    in_order, shuffled = sorted_and_shuffled(vq, classes(3, 100), 1)
    assert in_order < 2 * shuffled


@each_learner
@pytest.mark.parametrize("dead_codes", ["split", "farthest"])
def test_repairs_do_no_harm_to_shuffled_rows(learning, dead_codes, seed):
    X = mixture(4000, 8, seed)
    errors = {}
    for how in (dead_codes, "keep"):
        vq = VectorQuantizer(
            32, learning=learning, dead_codes=how, random_state=seed, decay=0.95
        )
        errors[how] = -stream(vq, X, 100).score(X)
    assert errors[dead_codes] <= 1.02 * errors["keep"]


def in_use(table, X):
    return len(np.unique(pairwise_distances_argmin(X, table)))


@each_learner
def test_as_many_codewords_in_use_as_in_scikit_learn(learning, seed):
    """The case of its own tests: one row fifty times, and fifty others."""
    ours, theirs = [], []
    for one in (seed, seed + 1):
        X, _ = make_blobs(n_samples=100, centers=5, random_state=one)
        X[::2] = 0
        table = np.concatenate([np.zeros((10, 2)), X[1:21:2]])
        vq = VectorQuantizer(20, init=table, learning=learning, batch_size=10)
        peer = MiniBatchKMeans(
            20, init=table, n_init=1, batch_size=10, random_state=one
        )
        ours.append(in_use(vq.fit(X).codebooks_[0], X))
        theirs.append(in_use(peer.fit(X).cluster_centers_, X))
    assert np.mean(ours) >= np.mean(theirs)


def test_neighbours_inherit_by_hand():
    table = np.array([[0.0], [0.1], [10.0], [500.0]])
    weights = np.array([100.0, 1.0, 100.0, 2.0])
    state = replace(
        online.start(table),
        sums=table * weights[:, None],
        counts=weights,
        support=weights,
        costs=np.array([3.0, 4.0, 5.0, 2.0]),
        idle=np.array([0, 40, 0, 40]),
    )
    X = np.concatenate([np.zeros((20, 1)), np.full((19, 1), 10.0), [[13.0]]])
    after, _ = online.learn_batch(state, X, None, settings_of("minibatch"))
    # What 0.1 costs is little, what 500 costs is not; the gain is 9 at 13.
    assert_array_equal(after.codebook[[1, 3]], [[13.0], [500.0]])
    assert_allclose(after.counts, [121, 1, 120, 2])
    assert_allclose(after.sums[:2, 0], [0.1, 13.0])
    assert_allclose(after.support, after.counts)
    # The heir takes over what the cell has cost, and costs now; one split begins anew.
    assert_allclose(after.costs, [3.0 + 4.0 + 0.1**2, 0.0, 0.0, 2.0])
    kept, _ = online.learn_batch(
        state, X, None, settings_of("minibatch", dead_codes="keep")
    )
    assert_array_equal(kept.codebook[1], [0.1])
    # Two that would inherit from each other: only one goes at a time.
    pair = replace(state, codebook=np.array([[0.0], [300.0], [10.0], [300.1]]))
    both, _ = online.learn_batch(pair, X, None, settings_of("sgd"))
    assert sorted(both.codebook[[1, 3], 0]) == [13.0, 300.1]
    assert both.support[3] == 3.0


@pytest.mark.parametrize("learning", LEARNERS)
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_all_weights_times_a_number(learning, metric):
    X = classes(4, 200)
    if metric == "cosine":
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
    weights = np.random.default_rng(0).random(len(X)) + 0.1
    settings = settings_of(learning, metric=metric)

    def learned(factor):
        state = online.start(X[:16])
        for begin in range(0, len(X), 50):
            rows = slice(begin, begin + 50)
            state, _ = online.learn_batch(
                state, X[rows], factor * weights[rows], settings
            )
        return state.codebook

    assert learned(1.0).tobytes() == learned(2.0**-10).tobytes()
    assert learned(1.0).tobytes() == learned(2.0**10).tobytes()


def test_a_stream_of_one_codeword():
    vq = VectorQuantizer(1, learning="minibatch", init=[[7.0]])
    X = np.arange(40.0)[:, None]
    stream(vq, X, 10)
    assert_allclose(vq.codebooks_[0], [[19.5]])


# -- starts ----------------------------------------------------------------------------


def test_ema_continues_a_table():
    """As if the table had been learned from one row a cell."""
    table = np.array([[0.0], [10.0]])
    vq = VectorQuantizer(2, learning="ema", decay=0.9, init=table)
    vq.partial_fit([[1.0], [2.0], [12.0]])
    first = (0.9 * 0 + 0.1 * 3) / (0.9 + 0.1 * 2)
    assert_allclose(vq.codebooks_[0], [[first], [(9 + 1.2) / 1.0]])
    vq.partial_fit([[11.0]])
    assert_allclose(vq.codebooks_[0][1], [(0.9 * 10.2 + 1.1) / 1.0])
    assert_allclose(vq.codebooks_[0][0], [first])


@each_learner
def test_codewords_of_a_table_that_no_row_needs_are_moved(learning):
    X = mixture(2000, 3)
    table = np.concatenate([X[:4], 1e4 + np.arange(36, dtype="f").reshape(12, 3)])
    vq = VectorQuantizer(16, learning=learning, init=table)
    assert in_use(stream(vq, X, 100).codebooks_[0], X) == 16
    assert np.abs(vq.codebooks_[0]).max() < 100


@each_learner
def test_few_rows_are_kept_for_what_comes_after_fit(learning):
    """`fit`, as `partial_fit` does, keeps rows that are fewer than the codewords."""
    few, more = mixture(6, 3), mixture(100, 3, seed=1)
    few = np.concatenate([few, few[:2]])
    weights = np.arange(1.0, 9.0)
    fitted = VectorQuantizer(8, learning=learning, random_state=0)
    with pytest.warns(ConvergenceWarning, match="6 distinct samples"):
        fitted.fit(few, sample_weight=weights)
    streamed = VectorQuantizer(8, learning=learning, random_state=0)
    streamed.partial_fit(few, sample_weight=weights)
    for vq in (fitted, streamed):
        vq.partial_fit(more)
    assert_array_equal(fitted.codebooks_[0], streamed.codebooks_[0])
    assert_array_equal(fitted._stream_.counts, streamed._stream_.counts)


@each_learner
def test_opposite_rows_leave_a_direction(learning):
    vq = VectorQuantizer(
        1, learning=learning, metric="cosine", init=[[1.0, 0.0]], learning_rate=1.0
    )
    vq.partial_fit([[1.0, 0.0], [-1.0, 0.0]])
    if learning != "ema":
        assert_array_equal(vq.codebooks_[0], [[1.0, 0.0]])
    vq.partial_fit([[0.0, 2.0]])
    assert_allclose(np.linalg.norm(vq.codebooks_[0]), 1)


@each_learner
def test_one_table_for_all_stages(learning):
    X = mixture(300)
    part = VectorQuantizer(learning=learning, batch_size=100, max_iter=5)
    rq = ResidualQuantizer(
        2, 16, quantizer=part, share_codebook=True, random_state=0
    ).fit(X)
    assert rq.codebook_sizes_ == (16, 16)
    assert rq.distortion_ < -VectorQuantizer(16, random_state=0).fit(X).score(X)


def test_far_codewords_that_no_row_needs_are_moved():
    X = np.random.default_rng(0).normal(size=(400, 1))
    init = [[0.0], [1.0], [1e160], [-1e160]]
    vq = VectorQuantizer(4, learning="minibatch", init=init, batch_size=50).fit(X)
    assert len(np.unique(vq.transform(X))) == 4


@pytest.mark.parametrize("init", ["random", "array"])
@pytest.mark.parametrize("learning", ["minibatch", "ema", "sgd"])
def test_batches_are_counted_from_the_first_row_on(learning, init):
    X = mixture(60)
    init = X[:8] if init == "array" else init
    vq = VectorQuantizer(8, learning=learning, init=init, random_state=0)
    batches = np.split(X, [1, 3, 5, 7, 20, 40])
    counts = [vq.partial_fit(batch).n_iter_ for batch in batches]
    assert counts == list(range(1, len(batches) + 1))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_stream_after_a_fit_of_few_rows_counts_on():
    X = mixture(60)
    vq = VectorQuantizer(8, learning="ema", random_state=0).fit(X[:5])
    counts = [vq.n_iter_, *(vq.partial_fit(X[[i]]).n_iter_ for i in range(5, 11))]
    assert counts == list(range(1, 8))
