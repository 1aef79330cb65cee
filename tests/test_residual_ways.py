"""The ways in which stages of residuals learn, and the choice between them."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skvq import (
    AdditiveQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    UniformQuantizer,
    VectorQuantizer,
    residual,
)


def blobs(n_samples=2000, n_centres=50, n_features=16):
    """Real clusters, more of them than a table holds."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(n_centres, n_features))
    X = centres[rng.integers(0, n_centres, n_samples)]
    return (X + rng.normal(size=X.shape)).astype(np.float32)


def dense(n_samples=600, n_features=32):
    """No clusters, and few samples for each of 64 codewords."""
    X = np.random.default_rng(0).normal(size=(n_samples, n_features))
    return (X / np.arange(1, n_features + 1)).astype(np.float32)


class Fits:
    """Counts the fits of `VectorQuantizer`, and what they learned from."""

    def __init__(self, monkeypatch):
        self.starts, self.sizes = [], []
        learn = VectorQuantizer._learn

        def counted(part, rows):
            self.starts.append(part.init)
            self.sizes.append(rows.n_rows)
            return learn(part, rows)

        monkeypatch.setattr(VectorQuantizer, "_learn", counted)


@pytest.fixture
def fits(monkeypatch):
    return Fits(monkeypatch)


def _without_repairs(fits):
    """Leave out the second fit of a stage that made the greedy residual worse."""
    pairs = list(zip(fits.starts, fits.sizes, strict=True))
    kept = [
        pair
        for pair, before in zip(pairs, [(None, 0), *pairs], strict=False)
        if not (pair[0] == "progressive" and pair[1] < before[1])
    ]
    return [start for start, _ in kept], [size for _, size in kept]


# -- the choice ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "n_codewords", "fit_beam_size", "gain"),
    [(blobs, 32, 1, 0.7), (dense, 64, 5, 0.9)],
)
def test_the_better_way_is_chosen(make, n_codewords, fit_beam_size, gain):
    X, test = np.array_split(make(), 2)
    rq = ResidualQuantizer(3, n_codewords, random_state=0).fit(X)
    assert rq.fit_beam_size_ == fit_beam_size
    # The other way is worse on samples that are in no fit.
    other = ResidualQuantizer(
        3, n_codewords, random_state=0, fit_beam_size=6 - fit_beam_size
    ).fit(X)
    assert rq.score(test) > gain * other.score(test)
    if make is dense:
        # And better by the error that has no say.
        assert other.distortion_ < rq.distortion_


@pytest.mark.parametrize("make", [blobs, dense])
@pytest.mark.parametrize("seed", [int, np.random.RandomState])
@pytest.mark.parametrize("n_refine", [0, 1])
@pytest.mark.long
def test_the_fit_is_that_of_the_way_which_was_chosen(make, seed, n_refine):
    X = make()[:400]
    rq = ResidualQuantizer(2, 8, random_state=seed(0), n_refine=n_refine).fit(X)
    told = clone(rq).set_params(random_state=seed(0), fit_beam_size=rq.fit_beam_size_)
    for table, other in zip(rq.codebooks_, told.fit(X).codebooks_, strict=True):
        assert_array_equal(table, other)


def test_codes_of_the_beam_and_weights_of_stages_judge(monkeypatch):
    asked = []
    loss = ResidualQuantizer._loss

    def noted(rq, parts, held):
        asked.append(loss(rq, parts, held))
        # The parts, encoded as `transform` does.
        vars(rq).update(residual._found(parts))
        squares = [
            np.square(held.X - found).sum(axis=1)
            for found in rq._partial_sums(rq._encode(held.X).astype(int))
        ]
        expected = np.average(np.array([3, 2, 1]) @ squares, weights=held.weights)
        assert_allclose(asked[-1], expected, rtol=1e-5)
        return asked[-1]

    monkeypatch.setattr(ResidualQuantizer, "_loss", noted)
    X = blobs(400)
    weights = np.random.default_rng(0).uniform(1, 2, len(X))
    rq = ResidualQuantizer(3, 8, beam_size=3, stage_weights=[3, 2, 1], random_state=0)
    rq.fit(X, sample_weight=weights)
    assert len(asked) == 2
    assert rq.fit_beam_size_ == (5, 1)[int(np.argmin(asked))]


# -- when there is none, and what it costs ---------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_each_way_is_tried_once_and_the_best_fitted(fits, shared):
    X = blobs(500)
    ResidualQuantizer(2, 9, random_state=0, share_codebook=shared).fit(X)
    starts, sizes = _without_repairs(fits)
    ways = [["progressive"] * 2, ["k-means++"] * 2]
    assert starts[:4] == ways[0] + ways[1]
    assert starts[4:] in ways
    assert sizes[0] == sizes[2] == 450
    assert sizes[4] == 500


@pytest.mark.parametrize(
    ("parameters", "fit_beam_size", "start"),
    [
        ({"fit_beam_size": 1}, 1, "k-means++"),
        ({"fit_beam_size": 3}, 3, "progressive"),
        ({"quantizer": VectorQuantizer(8)}, 5, "k-means++"),
        ({"quantizer": VectorQuantizer(8), "beam_size": 6}, 6, "k-means++"),
        ({"quantizer": VectorQuantizer(8), "fit_beam_size": 1}, 1, "k-means++"),
        ({"quantizer": VectorQuantizer(8, metric="manhattan")}, 1, "k-means++"),
    ],
)
def test_what_is_given_is_not_tried(fits, parameters, fit_beam_size, start):
    X = blobs(500)
    rq = ResidualQuantizer(2, 8, random_state=0, **parameters).fit(X)
    assert rq.fit_beam_size_ == fit_beam_size
    # A stage that makes the greedy residual worse is fitted again.
    assert fits.sizes[:2] == [500, 500 * fit_beam_size]
    assert set(fits.sizes) <= {500, 500 * fit_beam_size}
    assert set(fits.starts) == {start}


@pytest.mark.parametrize(
    ("n_samples", "n_codewords", "tried"),
    [(79, 8, False), (80, 8, True), (127, [8, 64], False), (128, [64, 8], True)],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_few_samples_are_no_judges(fits, n_samples, n_codewords, tried):
    X = dense(n_samples)
    # Repeats are no further samples.
    X = np.concatenate([X, X[:40]])
    rq = ResidualQuantizer(2, n_codewords, random_state=0).fit(X)
    assert (fits.sizes[0] < len(X)) == tried
    if not tried:
        assert rq.fit_beam_size_ == 5


def test_a_refinement_takes_the_trial_of_the_way(fits):
    ResidualQuantizer(1, 8, random_state=0, n_refine=1).fit(blobs(600))
    # No trial of its own.
    assert fits.sizes == [540, 540, 600]


def test_the_trial_is_bounded(fits, monkeypatch):
    monkeypatch.setattr("skvq.residual._TRIAL_ROWS", 200)
    monkeypatch.setattr("skvq.residual._TRIAL_ROWS_PER_CODEWORD", 30)
    ResidualQuantizer(1, 8, random_state=0).fit(blobs(500))
    # Drawn one by one, so that about as many are drawn as wanted.
    assert fits.sizes[0] == fits.sizes[1] == pytest.approx(240, abs=45)
    assert fits.sizes[2:] == [500]


def test_an_additive_fit_chooses_once(fits):
    AdditiveQuantizer(1, 8, max_iter=1, random_state=0).fit(blobs(300))
    # Both ways on part of the samples that are not held out, and one on these; then
    # the same on all.
    assert fits.sizes == [216, 216, 240, 300]
    assert fits.starts[:2] == ["progressive", "k-means++"]
    assert fits.starts[2] == fits.starts[3]


def test_parts_choose_for_themselves():
    narrow, wide = blobs(500, n_centres=100, n_features=32), dense(500)
    X = np.hstack([narrow, wide])
    part = ResidualQuantizer(2, 64)
    pq = ProductQuantizer(2, quantizer=part, random_state=1).fit(X)
    assert [part.fit_beam_size_ for part in pq.quantizers_] == [1, 5]


def test_trials_do_not_warn():
    # 8 codewords hold the 8 distinct residuals of the second stage.
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, 8).T
    X = np.concatenate([corners + 100.0 * j for j in range(16)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rq = ResidualQuantizer(3, 16, random_state=0).fit(X)
        first = len(caught)
        rq.set_params(fit_beam_size=rq.fit_beam_size_).fit(X)
    assert len(caught) == 2 * first
    assert all(one.category is ConvergenceWarning for one in caught)


@pytest.mark.parametrize("fit_beam_size", [2, 5])
def test_several_sums_need_stages_that_find_them(fit_beam_size):
    rq = ResidualQuantizer(
        2, quantizer=UniformQuantizer(4), fit_beam_size=fit_beam_size
    )
    with pytest.raises(ValueError, match=f"fit_beam_size={fit_beam_size} needs stages"):
        rq.fit(dense(50))


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_way_does_not_depend_on_the_unit(scale):
    X = blobs(400).astype(np.float64)
    X[::7] = X[0]  # sums without error
    expected = ResidualQuantizer(2, 16, random_state=0).fit(X)
    found = ResidualQuantizer(2, 16, random_state=0).fit(X * scale)
    assert found.fit_beam_size_ == expected.fit_beam_size_
    assert_allclose(found.distortion_, expected.distortion_ * scale**2, rtol=0.3)


# -- the rows held out -----------------------------------------------------------------


@pytest.mark.parametrize("make", [blobs, dense])
def test_repeats_judge_like_weights(make, monkeypatch):
    seen = []
    loss = ResidualQuantizer._loss

    judged = []

    def noted(rq, parts, held):
        X, weights = held.X, held.weights
        seen.append(np.unique(X, axis=0))
        # The mean over the counts that the user gave, whatever is handed on.
        found = loss(rq, parts, held)
        codes = residual._search(residual.Parts(parts), X, rq.beam_size)[0][:, 0]
        sums = list(residual._partial_sums(parts, codes.astype(np.intp)))[-1]
        errors = np.square(X - sums, dtype=np.float64).sum(axis=1)
        given = None if weights is None else [by_row[x.tobytes()] for x in X]
        judged.append((found, np.average(errors, weights=given)))
        return found

    monkeypatch.setattr(ResidualQuantizer, "_loss", noted)
    X = make()[:500]
    counts = np.random.default_rng(0).integers(1, 4, len(X))
    by_row = dict(zip((x.tobytes() for x in X), counts, strict=True))
    for data, weights in ((X, counts), (np.repeat(X, counts, axis=0), None)):
        ResidualQuantizer(2, 8, random_state=0).fit(data, sample_weight=weights)
    assert_array_equal(seen[0], seen[2])
    assert len(seen[0]) == 50
    found, expected = np.transpose(judged)
    assert_allclose(found, expected, rtol=1e-4)
