"""The naive scheme."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances
from sklearn.exceptions import ConvergenceWarning
from table import mixture

from skvq import VectorQuantizer


def test_given_table_is_used_as_it_is():
    table = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    X = np.array([[0.1, 0.0], [0.9, 1.0]])
    vq = VectorQuantizer(3, learning="fixed", init=table).fit(X)
    assert_array_equal(vq.codebooks_[0], table)
    assert vq.codebooks_[0] is not table
    assert_array_equal(vq.transform(X).ravel(), [0, 1])
    assert vq.distortion_ == pytest.approx(0.01)


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (3,)])
def test_init_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"init|1D array"):
        VectorQuantizer(3, init=np.zeros(shape)).fit(mixture(9, 2))


def test_bad_init_array():
    X = np.random.default_rng(0).random((9, 2))
    with pytest.raises(ValueError, match="init contains NaN"):
        VectorQuantizer(2, init=[[np.nan, 0], [1, 1]]).fit(X)
    with pytest.raises(ValueError, match=r"row 1 of init is zero"):
        VectorQuantizer(2, init=[[1, 0], [0, 0]], metric="cosine").fit(X + 1)


@pytest.mark.parametrize("learning", ["lloyd", "minibatch", "ema", "sgd"])
@pytest.mark.parametrize("metric", ["inner_product", "chebyshev", "canberra"])
def test_metrics_without_an_update(learning, metric):
    vq = VectorQuantizer(2, metric=metric, learning=learning)
    with pytest.raises(ValueError, match=f"cannot minimise metric='{metric}'"):
        vq.fit(mixture(9))
    with pytest.raises(ValueError, match="splitting"):
        vq.set_params(learning="fixed", init="splitting").fit(mixture(9))


def test_manhattan_has_no_online_learner():
    with pytest.raises(ValueError, match="cannot minimise metric='manhattan'"):
        VectorQuantizer(2, metric="manhattan", learning="ema").fit(mixture(9))


def test_metrics_that_depend_on_the_batch_are_refused():
    with pytest.raises(ValueError, match="StandardScaler"):
        VectorQuantizer(2, metric="seuclidean", learning="fixed").fit(mixture(9))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n_codewords", 0),
        ("n_codewords", 2.5),
        ("learning", "adam"),
        ("init", "kmeans"),
        ("n_init", 0),
        ("max_iter", 0),
        ("tol", -1e-9),
        ("batch_size", 0),
        ("decay", 1.0),
        ("learning_rate", 0.0),
        ("dead_codes", "drop"),
        ("random_state", "seed"),
        ("backend", "cuda"),
    ],
)
def test_bad_parameters_are_named(parameter, value):
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of VectorQuantizer"):
        VectorQuantizer(**{parameter: value}).fit(mixture(9))


def test_cosine_codewords_are_unit_vectors_and_scale_plays_no_part():
    X = mixture(300)
    vq = VectorQuantizer(8, metric="cosine", random_state=0).fit(X)
    assert_allclose(np.linalg.norm(vq.codebooks_[0], axis=1), 1, rtol=1e-6)
    scaled = X * np.random.default_rng(0).uniform(0.01, 100, (len(X), 1))
    assert (vq.transform(X) == vq.transform(scaled)).mean() > 0.99
    assert 0 <= vq.distortion_ <= 2


def test_random_table_of_inner_products():
    X = mixture(100)
    vq = VectorQuantizer(
        16, metric="inner_product", learning="fixed", init="normal", random_state=0
    ).fit(X)
    products = X.astype(float) @ vq.codebooks_[0].T.astype(float)
    assert_array_equal(vq.transform(X).ravel(), products.argmax(axis=1))
    assert vq.score(X) == pytest.approx(products.max(axis=1).mean(), rel=1e-5)


def test_inner_product_starts_from_samples_too():
    X = mixture(100)
    for init in ("k-means++", "random"):
        vq = VectorQuantizer(
            8, metric="inner_product", learning="fixed", init=init, random_state=0
        ).fit(X)
        assert np.isfinite(vq.codebooks_[0]).all()


def test_quantized_is_nearer_than_any_other_codeword():
    X = mixture(200)
    vq = VectorQuantizer(32, random_state=0).fit(X)
    gap = np.square(X - vq.quantize(X)).sum(axis=1)
    assert (gap <= distances(X, vq.codebooks_[0]).min(axis=1) * (1 + 1e-5)).all()


def test_dtype_of_the_codes_follows_the_codebook():
    X = np.arange(70_000, dtype=np.float64)[:, None]
    for n_codewords, dtype in [(256, np.uint8), (257, np.uint16), (65_537, np.uint32)]:
        vq = VectorQuantizer(n_codewords, learning="fixed", init=X[:n_codewords])
        some = np.array([0, 1, 255, n_codewords // 2, n_codewords - 1])
        codes = vq.fit(X[:10]).transform(X[some])
        assert codes.dtype == dtype
        assert_array_equal(codes.ravel(), some)


def test_few_samples_warn_at_the_users_line():
    with pytest.warns(ConvergenceWarning, match="3 distinct samples") as caught:
        VectorQuantizer(4).fit([[1.0], [2.0], [3.0], [3.0]])
    assert caught[0].filename == __file__
