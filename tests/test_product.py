"""The concatenated scheme, and quantized features."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import assert_nearest
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from table import mixture

from skvq import ProductQuantizer, QuantizedFeatures, VectorQuantizer


def test_slices_are_those_of_array_split():
    X = mixture(200, 11)
    pq = ProductQuantizer(4, 5, random_state=0).fit(X)
    assert [table.shape[1] for table in pq.codebooks_] == [3, 3, 3, 2]
    codes, begin = pq.transform(X), 0
    for column, table in zip(codes.T, pq.codebooks_, strict=True):
        x = X[:, begin : begin + table.shape[1]]
        assert_nearest(column, x, table, dtype=np.float32)
        begin += table.shape[1]


def test_more_subspaces_than_features():
    X = mixture(100, 3)
    with pytest.warns(ConvergenceWarning, match="n_subspaces=8 is more than"):
        pq = ProductQuantizer(8, 4, random_state=0).fit(X)
    assert pq.n_subspaces_ == 3
    assert pq.transform(X).shape == (100, 3)


def test_sizes_of_each_subspace():
    pq = ProductQuantizer(3, [2, 7, 300], random_state=0).fit(mixture(400))
    assert pq.codebook_sizes_ == (2, 7, 300)
    assert pq.transform(mixture(10)).dtype == np.uint16
    assert pq.bits_per_sample_ == pytest.approx(np.log2(2 * 7 * 300))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([2, 3], "n_codewords has 2 entries, but there are 3 codebooks"),
        ([2, 3, 0], "holds 0"),
        ([2, 3, 1.5], "holds 1.5"),
        ([2, 3, True], "holds True"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        ProductQuantizer(3, sizes).fit(mixture(50))


def test_shared_table():
    X = mixture(300)
    pq = ProductQuantizer(3, 8, share_codebook=True, random_state=0).fit(X)
    assert pq.codebooks_[0] is pq.codebooks_[1] is pq.codebooks_[2]
    assert pq.quantizers_[0] is pq.quantizers_[2]
    stacked = X.reshape(900, 2)
    alone = clone(pq.quantizers_[0]).fit(stacked)
    assert_array_equal(alone.codebooks_[0], pq.codebooks_[0])
    assert_allclose(pq.distortion_, 3 * alone.distortion_)
    assert pq.distortion_ == pytest.approx(-pq.score(X), rel=1e-5)
    own = ProductQuantizer(3, 8, random_state=0).fit(X)
    assert len(joblib.hash(pq)) and own.distortion_ <= pq.distortion_


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_subspaces": 4}, r"equal width; n_subspaces=4 cuts 6 features"),
        ({"n_subspaces": 3, "n_codewords": [4, 4, 5]}, "one n_codewords for all 3"),
        ({"n_subspaces": 3, "n_codewords": [4, 4]}, "one n_codewords for all 3"),
    ],
)
def test_tables_that_cannot_be_shared(parameters, message):
    with pytest.raises(ValueError, match=message):
        ProductQuantizer(share_codebook=True, **parameters).fit(mixture(50))


def test_parts_receive_every_relevant_parameter():
    part = VectorQuantizer(
        16, metric="manhattan", init="random", max_iter=3, random_state=7, n_init=2
    )
    pq = ProductQuantizer(2, quantizer=part).fit(mixture(100))
    for fitted in pq.quantizers_:
        assert fitted.get_params() == part.get_params()
    pq = ProductQuantizer(2, 4, quantizer=part, random_state=0, backend="numpy").fit(
        mixture(100)
    )
    first, second = (fitted.get_params() for fitted in pq.quantizers_)
    assert first["n_codewords"] == 4
    assert first["backend"] == "numpy"
    assert first["metric"] == "manhattan"
    assert first["random_state"] != second["random_state"]
    assert part.n_codewords == 16
    assert not hasattr(part, "codebook_sizes_")


def test_part_without_codewords_to_set():
    pq = ProductQuantizer(2, 4, quantizer=GridLike())
    with pytest.raises(ValueError, match=r"GridLike.*set its n_levels"):
        pq.fit(mixture(50))


class GridLike(VectorQuantizer):
    """A quantizer whose size has another name, as grids have."""

    def __init__(self, n_levels=4):
        super().__init__(n_levels)
        self.n_levels = n_levels

    _parameter_constraints = {"n_levels": [int]}  # noqa: RUF012


def test_nested_parameters_and_codes():
    X = mixture(300, 8)
    inner = ProductQuantizer(2, 4, quantizer=VectorQuantizer(init="random"))
    outer = ProductQuantizer(2, quantizer=inner, random_state=0)
    outer.set_params(quantizer__quantizer__max_iter=2).fit(X)
    assert outer.codebook_sizes_ == (4, 4, 4, 4)
    assert [part.quantizers_[0].max_iter for part in outer.quantizers_] == [2, 2]
    flat = ProductQuantizer(4, 4, quantizer=VectorQuantizer(learning="fixed"))
    assert outer.transform(X).shape == (300, 4)
    assert flat.fit(X).transform(X).shape == (300, 4)
    halves = [
        part.transform(X[:, 4 * j : 4 * j + 4])
        for j, part in enumerate(outer.quantizers_)
    ]
    assert_array_equal(np.hstack(halves), outer.transform(X))


@pytest.mark.parametrize("metric", ["manhattan", "cosine"])
def test_parts_of_another_metric(metric):
    X = mixture(200)
    part = VectorQuantizer(4, metric=metric, random_state=0)
    pq = ProductQuantizer(3, quantizer=part).fit(X)
    for j, fitted in enumerate(pq.quantizers_):
        x = X[:, 2 * j : 2 * j + 2]
        assert_array_equal(pq.transform(X)[:, j], fitted.transform(x).ravel())
    assert pq.distortion_ == pytest.approx(-pq.score(X), rel=1e-5)


def test_n_jobs_changes_nothing():
    X = mixture(200)
    one = ProductQuantizer(3, 8, random_state=0).fit(X)
    two = ProductQuantizer(3, 8, random_state=0, n_jobs=2)
    with joblib.parallel_config("threading"):
        two.fit(X)
    for a, b in zip(one.codebooks_, two.codebooks_, strict=True):
        assert_array_equal(a, b)


class ConfigSeen(VectorQuantizer):
    """A part that keeps scikit-learn's configuration at the time of its fit."""

    def _fit(self, rows):
        assumed = get_config()["assume_finite"]
        return {**(yield from super()._fit(rows)), "assumed_": assumed}


def test_parts_see_the_configuration_on_every_thread(two_threads):
    pq = ProductQuantizer(4, quantizer=ConfigSeen(4))
    with config_context(assume_finite=True):
        pq.fit(mixture(60, 8))
    assert [part.assumed_ for part in pq.quantizers_] == [True] * 4


def test_a_failed_batch_leaves_the_parts_alone():
    part = VectorQuantizer(4, learning="ema", random_state=0)
    pq = ProductQuantizer(3, quantizer=part).fit(mixture(200))
    before = [table.copy() for table in pq.codebooks_]
    bad = mixture(20)
    bad[3, 5] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        pq.partial_fit(bad)
    for table, copy in zip(pq.codebooks_, before, strict=True):
        assert_array_equal(table, copy)


def test_more_bits_mean_less_distortion():
    X = mixture(1000, 8)
    values = [
        ProductQuantizer(m, 16, random_state=0).fit(X).distortion_ for m in (1, 2, 4, 8)
    ]
    assert (np.diff(values) < 0).all()


# -- quantized features ----------------------------------------------------------------


def test_features_are_reconstructions():
    X = mixture(200)
    features = QuantizedFeatures(VectorQuantizer(8, random_state=0)).fit(X)
    assert_array_equal(features.transform(X), features.quantizer_.quantize(X))
    assert features.transform(X).dtype == np.float32
    assert not hasattr(features.quantizer, "codebook_sizes_")
    assert list(features.get_feature_names_out()) == [f"x{i}" for i in range(6)]


def test_features_pass_weights_on():
    X = mixture(200)
    weights = np.arange(200.0)
    features = QuantizedFeatures(VectorQuantizer(8, random_state=0))
    features.fit(X, sample_weight=weights)
    alone = VectorQuantizer(8, random_state=0).fit(X, sample_weight=weights)
    assert_array_equal(features.quantizer_.codebooks_[0], alone.codebooks_[0])


def test_features_want_a_quantizer():
    with pytest.raises(ValueError, match="'quantizer' parameter"):
        QuantizedFeatures("vq").fit(mixture(20))
    with pytest.raises(TypeError):
        QuantizedFeatures()
