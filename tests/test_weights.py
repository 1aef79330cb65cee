"""What sample weights mean: ratios, repeats, and the chance to be drawn."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import paired
from sklearn.exceptions import ConvergenceWarning
from table import BY_NAME, TABLE, each, every_row, mixture, rq, tables_of, vq

from skvq import (
    AdditiveQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    UniformQuantizer,
    VectorQuantizer,
    metrics,
)
from skvq.learning import additive
from skvq.learning.rotation import whole_rotation
from skvq.learning.rows import Rows, run
from skvq.learning.start import initialise

STREAMS = [row for row in TABLE if row.streams]
EXACT = [row for row in TABLE if row.weights == "exact"]
# One of each learner, and of each way in which weights reach one.
LEARNERS = [
    BY_NAME[name]
    for name in (
        *("vq-k-means++", "vq-random", "vq-progressive", "vq-farthest", "vq-manhattan"),
        *("vq-minibatch", "vq-ema", "vq-sgd", "vq-cosine-ema", "pq-shared-minibatch"),
        *("kronecker-2", "kronecker-shared", "multiscale-map", "multiscale-smooth"),
        *("rq-greedy", "rq-ema", "rq-shared", "rq-refined", "rq-of-pq-beam-refined"),
        *("aq-exhaustive", "aq-fixed-ridge", "aq-independent", "lloyd-max", "fsq-cdf"),
        *("uniform-laplacian", "binary-spherical-learned", "features-ema"),
    )
]

# Of these, some for the ends of what a float can be.
ENDS = ("vq-random", "vq-minibatch", "kronecker-2", "rq-shared", "lloyd-max", "fsq-cdf")


def _fit(make, X, weights=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make().fit(X, sample_weight=weights)


def _numbers(estimator, X):
    """Return what a fit has come to: tables, codes, and the distortion."""
    quantizer = estimator
    if not hasattr(estimator, "distortion_"):  # a transformer that holds one
        quantizer = estimator.quantizer_
    yield from tables_of(quantizer)
    yield quantizer.transform(X)
    yield np.array(quantizer.distortion_)


def _assert_same_bits(a, b, X):
    for one, two in zip(_numbers(a, X), _numbers(b, X), strict=True):
        assert_array_equal(one, two, strict=True)


def _assert_close(a, b, X):
    (*a, _, a_error), (*b, _, b_error) = _numbers(a, X), _numbers(b, X)
    for one, two in zip(a, b, strict=True):
        assert_allclose(one, two, rtol=1e-6, atol=1e-6)
    assert_allclose(a_error, b_error, rtol=1e-6, atol=1e-12)


def _weights(n_samples, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=n_samples)


# -- a factor that all weights have in common ------------------------------------------


@pytest.mark.long
@every_row
@pytest.mark.long
def test_equal_weights_are_no_weights(row):
    X = row.data(30)
    weighted = _fit(row.make, X, np.full(len(X), 0.7))
    _assert_same_bits(_fit(row.make, X), weighted, X)


@pytest.mark.long
@every_row
@pytest.mark.long
def test_powers_of_two_change_no_bit(row):
    X = row.data(30)
    weights = _weights(len(X))
    a = _fit(row.make, X, weights)
    _assert_same_bits(a, _fit(row.make, X, weights * 2.0**-20), X)


@each(LEARNERS)
def test_other_factors_change_nothing_but_rounding(row):
    X = row.data(80, dtype=np.float64)
    weights = _weights(len(X))
    a = _fit(row.make, X, weights)
    _assert_close(a, _fit(row.make, X, weights * (0.1 / len(X))), X)


@each([BY_NAME[name] for name in ENDS])
@pytest.mark.parametrize("exponent", [-1060, 1000])
def test_weights_near_the_ends_of_float64(row, exponent):
    X = row.data(80)
    weights = np.random.default_rng(0).integers(1, 30, len(X)) / 4
    _assert_same_bits(
        _fit(row.make, X, weights),
        _fit(row.make, X, np.ldexp(weights, exponent)),
        X,
    )


def test_weights_whose_ratio_leaves_the_floats():
    X = mixture(60)
    weights = np.where(np.arange(60) < 40, 1e300, 1e-300)
    light = UniformQuantizer(4, clip_range="gaussian").fit(X, sample_weight=weights)
    without = UniformQuantizer(4, clip_range="gaussian").fit(X[:40])
    _assert_same_bits(light, without, X)


@pytest.mark.parametrize("factor", [2.0**-1060, 2.0**-3, 2.0**1000])
def test_scores_are_ratios(factor):
    X = mixture(60)
    weights = np.random.default_rng(0).integers(1, 30, len(X)) / 4
    quantizer = rq().fit(X)
    for score in (
        quantizer.score,
        lambda X, sample_weight: list(quantizer.staged_score(X, None, sample_weight)),
        lambda X, sample_weight: metrics.distortion(
            X, quantizer.quantize(X), sample_weight=sample_weight
        ),
        lambda X, sample_weight: metrics.perplexity(
            quantizer.transform(X), sample_weight=sample_weight
        ),
    ):
        found = score(X, sample_weight=weights)
        assert_array_equal(score(X, sample_weight=weights * factor), found)
        assert np.isfinite(found).all()
        equal = score(X, sample_weight=np.full(len(X), 0.1 * factor))
        assert_array_equal(equal, score(X, sample_weight=None))


def test_a_shared_table_of_weights_that_sum_to_one():
    X = mixture(2000)
    ones, shares = (
        ResidualQuantizer(3, 8, share_codebook=True, random_state=0).fit(
            X, sample_weight=np.full(len(X), weight)
        )
        for weight in (1.0, 1 / len(X))
    )
    _assert_same_bits(ones, shares, X)


# -- streams ---------------------------------------------------------------------------


def _stream(row, batches, factor=1.0, between=lambda estimator: estimator):
    estimator = row.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for X, weights in batches:
            if weights is not None:
                weights = weights * factor
            estimator = between(estimator).partial_fit(X, sample_weight=weights)
    return estimator


def _batches(row):
    X = row.data(120)
    weights = 3 * _weights(len(X))
    weights[[1, 50]] = 0
    return [(X[i : i + 40], weights[i : i + 40]) for i in (0, 40, 80)]


@each(STREAMS)
@pytest.mark.parametrize("factor", [2.0**-1000, 2.0**7])
def test_powers_of_two_change_no_bit_of_a_stream(row, factor):
    batches = _batches(row)
    X = row.data(60)
    _assert_same_bits(_stream(row, batches), _stream(row, batches, factor), X)


@each(STREAMS)
def test_other_factors_change_a_stream_by_rounding(row):
    batches = _batches(row)
    _assert_close(_stream(row, batches), _stream(row, batches, 1e-3), row.data(60))


@each(STREAMS)
def test_batches_without_weights_are_batches_of_ones(row):
    batches = _batches(row)
    (_, first), (middle, _), last = batches
    ones = [batches[0], (middle, np.ones(len(middle))), last]
    none = [batches[0], (middle, None), last]
    assert not np.allclose(first, 1)
    _assert_same_bits(_stream(row, ones), _stream(row, none), row.data(60))
    all_ones = [(X, np.ones(len(X))) for X, _ in batches]
    all_none = [(X, None) for X, _ in batches]
    _assert_same_bits(_stream(row, all_ones), _stream(row, all_none), row.data(60))


def test_a_stream_remembers_what_its_weights_are_measured_by():
    row, batches = BY_NAME["pq-ema"], _batches(BY_NAME["pq-ema"])
    X = row.data(60)
    stored = _stream(
        row, batches, between=lambda estimator: pickle.loads(pickle.dumps(estimator))
    )
    _assert_same_bits(_stream(row, batches), stored, X)
    # A batch counts as it weighs beside those before it.
    heavy = [*batches[:2], (batches[2][0], 1e6 * batches[2][1])]
    assert not np.allclose(
        _stream(row, batches).codebooks_[0], _stream(row, heavy).codebooks_[0]
    )


def test_batches_of_another_order_are_refused():
    X = mixture(40)
    stream = vq(learning="ema").partial_fit(X, sample_weight=np.full(40, 1e-200))
    before = pickle.dumps(stream)
    for weights in (None, np.full(40, 1e-310)):
        with pytest.raises(ValueError, match=r"times the mean of the first batch's"):
            stream.partial_fit(X, sample_weight=weights)
    assert pickle.dumps(stream) == before


# -- repeats ---------------------------------------------------------------------------

# Least squares over several tables, from starts without chance.
_SPLITTING = {"quantizer": VectorQuantizer(init="splitting")}
JOINT = [
    {"n_codewords": 7, "share_codebook": True},
    {"n_codewords": 7, "share_codebook": True, "n_refine": 2, "beam_size": 2},
    {"n_refine": 2},
    {"n_refine": 2, "stage_weights": [1, 0, 2]},
]


@each(EXACT)
def test_all_samples_twice_are_all_samples_once(row):
    X = row.data(60, dtype=np.float64)
    _assert_close(_fit(row.make, X), _fit(row.make, np.vstack([X, X])), X)


@pytest.mark.parametrize("parameters", JOINT, ids=str)
@pytest.mark.long
def test_joint_least_squares_take_repeats_for_weights(parameters):
    def make(**others):
        return rq(**{"n_codewords": 4, **parameters, **_SPLITTING, **others})

    X = np.random.default_rng(1).normal(size=(150, 3))
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    once = _fit(make, X)
    if "share_codebook" not in parameters:
        # The rows held out have agreed to a step.
        plain = _fit(lambda: make(n_refine=0, stage_weights=None), X)
        assert not np.allclose(once.codebooks_[1], plain.codebooks_[1], rtol=1e-3)
    _assert_close(once, _fit(make, np.repeat(X, 3, axis=0)), X)
    repeated = _fit(make, np.repeat(X, weights, axis=0))
    _assert_close(_fit(make, X, weights), repeated, X)


@pytest.mark.parametrize("shared", [False, True])
def test_the_additive_ridge_takes_repeats_for_weights(shared):
    X = mixture(200, dtype=np.float64)
    rng = np.random.default_rng(0)
    first = rng.normal(size=(5 if shared else 15, X.shape[1]))

    def start(rows, rng):
        yield from ()
        return first

    def learn(X, weights=None):
        learned = run(
            additive.learn_jointly(
                Rows(X, weights),
                [5, 5, 5],
                np.random.RandomState(0),
                start=start,
                shared=shared,
                beam_size=8,
                strength=0.5,
                max_iter=3,
                tol=0.0,
            )
        )
        return [table.codewords for table in learned.tables]

    weights = rng.integers(1, 4, len(X)).astype(float)
    for a, b in (
        (learn(X), learn(np.repeat(X, 5, axis=0))),
        (learn(X, weights), learn(np.repeat(X, weights.astype(int), axis=0))),
        (learn(X, weights), learn(X, 10 * weights)),
    ):
        for one, two in zip(a, b, strict=True):
            assert_allclose(one, two, rtol=1e-9, atol=1e-9)


# -- draws -----------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["minibatch", "ema", "sgd", "lloyd", "fixed"])
def test_weighted_duplicates_leave_no_codeword_without_rows(learning, seed):
    X = [[0.0], [0], [1], [1]]
    for one in range(seed, seed + 5):
        quantizer = vq(2, learning=learning, init="random", random_state=one)
        quantizer.fit(X, sample_weight=[1.0, 2, 4, 8])
        assert_allclose(np.sort(quantizer.codebooks_[0].ravel()), [0, 1])
        if quantizer._can_partial_fit():
            stream = vq(2, learning=learning, init="random", random_state=one)
            stream.partial_fit(X, sample_weight=[1.0, 2, 4, 8])
            assert_allclose(np.sort(stream.codebooks_[0].ravel()), [0, 1])


def test_draws_from_another_library_are_the_same():
    xp = pytest.importorskip("array_api_strict")
    X = np.rint(mixture(200))
    weights = _weights(len(X))
    for mass in (None, weights):
        there = None if mass is None else xp.asarray(mass)
        a, b = (
            run(initialise(rows, 8, "random", "sqeuclidean", np.random.RandomState(0)))
            for rows in (Rows(X, mass), Rows(xp.asarray(X), there))
        )
        assert_array_equal(a, b)
        assert len(np.unique(a, axis=0)) == 8


# -- the additive scheme's own errors, and its cost ------------------------------------


@pytest.fixture
def encodings(monkeypatch):
    """Numbers of rows of the additive quantizer's own searches after learning."""
    counts = []
    own = AdditiveQuantizer._encode

    def encode(self, X):
        counts.append(len(X))
        return own(self, X)

    monkeypatch.setattr(AdditiveQuantizer, "_encode", encode)
    return counts


@pytest.mark.parametrize(
    ("parameters", "held_out"),
    [
        ({"assignment": "independent", "max_iter": 2}, None),
        ({"ridge": 0.5, "max_iter": 2}, None),
        ({"ridge": 0.5, "max_iter": 2, "share_codebook": True}, None),
        ({"ridge": 0.5, "n_codewords": 32, "beam_size": 8, "n_rounds": 0}, None),
        ({}, 10),
        ({}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.long
def test_the_distortion_comes_from_codes_at_hand(
    parameters, held_out, weighted, encodings, monkeypatch
):
    X = mixture(300) + 10
    weights = _weights(len(X)) if weighted else None
    if held_out is not None:
        # So few that nothing is learned again with all rows.
        monkeypatch.setattr(additive, "_MAX_HELD_OUT", held_out)
    quantizer = AdditiveQuantizer(3, 4, random_state=0).set_params(**parameters)
    quantizer.fit(X, sample_weight=weights)
    assert encodings == []
    expected = np.average(paired(X, quantizer.quantize(X)), weights=weights)
    assert quantizer.distortion_ == pytest.approx(expected, rel=1e-5)
    assert quantizer.distortion_ == pytest.approx(
        -quantizer.score(X, sample_weight=weights), rel=1e-5
    )


@pytest.mark.parametrize("ridge", [0.5, "auto"])
def test_a_harder_search_than_that_of_fit_is_left_to_the_score(ridge, encodings):
    X = mixture(300)
    quantizer = AdditiveQuantizer(4, 16, ridge=ridge, max_iter=1, random_state=0).fit(X)
    assert encodings == []
    as_in_fit = quantizer.set_params(beam_size=quantizer.fit_beam_size, n_rounds=0)
    assert quantizer.distortion_ == pytest.approx(-as_in_fit.score(X), rel=1e-6)


@pytest.fixture
def decomposed(monkeypatch):
    """Shapes of the matrices that are decomposed."""
    shapes = []
    for name in ("svd", "eigh", "qr"):
        own = getattr(np.linalg, name)

        def decompose(matrix, *args, own=own, **kwargs):
            shapes.append(matrix.shape)
            return own(matrix, *args, **kwargs)

        monkeypatch.setattr(np.linalg, name, decompose)
    return shapes


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdditiveQuantizer(2, 4, assignment="independent", random_state=0),
        lambda: AdditiveQuantizer(2, 3, random_state=0),
        lambda: ResidualQuantizer(2, 3, random_state=0),
        lambda: vq(3, init="progressive"),
    ],
)
def test_few_samples_of_many_features_cost_their_rank(make, decomposed):
    X = np.random.default_rng(0).normal(size=(5, 1000)) + 1
    quantizer = make().fit(X)
    assert decomposed
    assert max(min(shape) for shape in decomposed) <= 25
    assert quantizer.distortion_ == pytest.approx(-quantizer.score(X), abs=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_of_low_rank_cost_their_rank(dtype, decomposed, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 40))
    X = (X + rng.normal(size=40)).astype(dtype)
    quantizer = AdditiveQuantizer(2, 8, assignment="independent", random_state=0)
    quantizer.fit(X)
    # The covariance once; else nothing of the width of the features.
    assert sum(min(shape) > 8 for shape in decomposed) == 1
    product = ProductQuantizer(2, 8, random_state=0).fit(X)
    assert quantizer.distortion_ < 0.9 * product.distortion_
    assert quantizer.distortion_ == pytest.approx(-quantizer.score(X), rel=1e-4)


def test_a_rotation_of_a_span_is_one_of_the_whole_space():
    rng = np.random.default_rng(0)
    basis, turned = (np.linalg.qr(rng.normal(size=(20, 4)))[0] for _ in range(2))
    there, back = whole_rotation(basis, turned.T)
    rotation = there(np.eye(20))
    assert_allclose(rotation @ rotation.T, np.eye(20), atol=1e-12)
    assert_allclose(basis.T @ rotation, turned.T, atol=1e-12)
    assert_allclose(back(np.eye(20)), rotation.T, atol=1e-12)


def test_repeats_are_not_more_rows_to_hold_out():
    X = mixture(35)[:, :3]
    fits = [
        AdditiveQuantizer(2, 4, random_state=0).fit(np.repeat(X, k, axis=0))
        for k in (1, 2)
    ]
    assert [fit.ridge_ for fit in fits] == [(), ()]
