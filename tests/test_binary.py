"""Signs as codes, the length beside them, and distances between packed codes."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import first_argmin
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from skvq import ProductQuantizer
from skvq.binary import BinaryQuantizer, hamming_distances
from skvq.codes import pack, token_ids
from skvq.coding.radius import Float32Radius
from skvq.learning.radius import fit_radius
from skvq.learning.rows import Rows, run
from skvq.nearest import row_norms


def gaussian(n_samples, n_features, seed=0, dtype=np.float32):
    return (
        np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(dtype)
    )


def directions(n_samples, n_features, seed=0, dtype=np.float64):
    X = gaussian(n_samples, n_features, seed, np.float64)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(dtype)


def test_sklearn_checks():
    check_estimator(BinaryQuantizer(), on_skip=None)
    check_estimator(BinaryQuantizer(spherical=True, radius="float32"), on_skip=None)


# -- signs -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_are_signs_and_zero_is_below(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    X = np.array([[0.0, -0.0, tiny], [-tiny, 1.0, -1.0]], dtype=dtype)
    with pytest.warns(
        ConvergenceWarning, match=r"In 1 of 3 features \(0\): all samples"
    ):
        codes = BinaryQuantizer().fit(X).transform(X)
    assert codes.dtype == np.uint8
    assert_array_equal(codes, [[0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    "quantizer",
    [BinaryQuantizer(), BinaryQuantizer(scale=0.3), BinaryQuantizer(spherical=True)],
    ids=repr,
)
def test_codes_are_the_nearest_of_all_corners(quantizer):
    X = gaussian(300, 9)
    quantizer = quantizer.fit(X)
    codes = quantizer.transform(X)
    ids = token_ids(codes, quantizer.codebook_sizes_)
    assert_array_equal(ids, first_argmin(X, quantizer.full_codebook()))


def test_scale():
    X = gaussian(500, 3) * [1, 2, 3]
    fitted = BinaryQuantizer().fit(X)
    assert_allclose(fitted.scale_, np.abs(X).mean(axis=0), rtol=1e-6)
    best = fitted.distortion_
    for factor in (0.99, 1.01):
        signs = np.where(X > 0, 1, -1) * fitted.scale_
        assert ((X - factor * signs) ** 2).sum(axis=1).mean() > best
    lfq = BinaryQuantizer(scale=1).fit(X)
    assert_array_equal(np.unique(lfq.quantize(X)), [-1, 1])
    assert_array_equal(lfq.codebooks_[2], [[-1], [1]])
    assert_array_equal(lfq.scale_, np.ones(3))


def test_gaussian_one_bit():
    """The distortion of the best one-bit scalar quantizer, 1 - 2/pi."""
    X = gaussian(100_000, 4)
    assert BinaryQuantizer().fit(X).distortion_ / 4 == pytest.approx(0.363380, rel=5e-3)


def test_zero_features():
    X = np.zeros((4, 2), dtype=np.float32)
    with pytest.warns(ConvergenceWarning, match="In all 2 features: all samples are"):
        quantizer = BinaryQuantizer().fit(X)
    assert_array_equal(quantizer.quantize(X), X)
    assert not np.signbit(quantizer.quantize(X)).any()
    assert not np.signbit(quantizer.codebooks_[0]).any()


def test_weights_equal_repeats():
    X = gaussian(200, 3, dtype=np.float64)
    weights = np.random.default_rng(1).integers(0, 4, 200)
    for parameters in (
        {},
        {"spherical": True, "radius": "uniform", "n_radius_levels": 4},
        {"spherical": True, "radius": "learned", "n_radius_levels": 4},
    ):
        a = BinaryQuantizer(**parameters).fit(X, sample_weight=weights)
        b = BinaryQuantizer(**parameters).fit(np.repeat(X, weights, axis=0))
        for one, two in zip(a.codebooks_, b.codebooks_, strict=True):
            assert_allclose(one, two, rtol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": "one"}, "scale"),
        ({"spherical": 2}, "spherical"),
        ({"radius": "both"}, "radius"),
        ({"n_radius_levels": 0}, "n_radius_levels"),
        ({"n_radius_levels": 2.5}, "n_radius_levels"),
    ],
)
def test_bad_parameters(parameters, name):
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        BinaryQuantizer(**parameters).fit(gaussian(5, 2))


def test_scale_beyond_the_dtype():
    with pytest.raises(ValueError, match=r"scale=1e\+300 is too large for float32"):
        BinaryQuantizer(scale=1e300).fit(gaussian(5, 2).astype(np.float32))


# -- on the sphere ---------------------------------------------------------------------


def closed_form(d):
    """E of the squared distance of a uniform direction from its nearest corner."""
    log_ratio = math.lgamma(d / 2) - math.lgamma((d + 1) / 2)
    return 2 - 2 * math.sqrt(d / math.pi) * math.exp(log_ratio)


@pytest.mark.parametrize(("d", "figure"), [(64, 0.3980), (128, 0.4011)])
def test_error_on_uniform_directions(d, figure):
    X = directions(20_000, d, dtype=np.float32)
    distortion = BinaryQuantizer(spherical=True).fit(X).distortion_
    assert closed_form(d) == pytest.approx(figure, abs=5e-5)
    assert distortion == pytest.approx(closed_form(d), rel=0.01)


def test_unit_radius_forgets_the_length():
    X = gaussian(50, 5)
    quantizer = BinaryQuantizer(spherical=True).fit(X)
    assert_array_equal(quantizer.transform(X * 7), quantizer.transform(X))
    assert_allclose(np.linalg.norm(quantizer.quantize(X), axis=1), 1, rtol=1e-6)
    assert quantizer.bits_per_sample_ == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_radius_keeps_the_length(dtype):
    X = gaussian(200, 5, dtype=dtype) * np.logspace(-30, 30, 200)[:, None].astype(dtype)
    X[7] = 0
    quantizer = BinaryQuantizer(spherical=True, radius="float32").fit(X)
    decoded = quantizer.quantize(X)
    assert decoded.dtype == dtype
    lengths = np.linalg.norm(X.astype(np.float64), axis=1)
    found = np.linalg.norm(decoded.astype(np.float64), axis=1)
    assert_allclose(found, lengths, rtol=3e-7)
    assert found[7] == 0
    assert quantizer.transform(X).dtype == np.uint16
    upper, lower = quantizer.codebooks_[-2:]
    assert (upper.shape, lower.shape) == ((32640, 1), (65536, 1))
    assert np.isfinite(upper).all()


def test_every_pair_of_float32_codes_is_a_length():
    codes = np.array([[0, 0], [0, 1], [0x7F7F, 0xFFFF], [0x3F80, 0]])
    lengths = Float32Radius().decode(codes)
    largest = np.finfo(np.float32).max
    tiny = np.finfo(np.float32).smallest_subnormal
    assert_array_equal(lengths, [0, tiny, largest, 1])
    assert_array_equal(Float32Radius().encode(lengths), codes)
    assert_array_equal(Float32Radius().encode(np.array([1e300])), codes[2:3])


def test_uniform_and_learned_radius():
    X = directions(1000, 4) * np.random.default_rng(1).gamma(2, size=(1000, 1))
    lengths = np.linalg.norm(X, axis=1)
    grid = BinaryQuantizer(spherical=True, radius="uniform", n_radius_levels=4).fit(X)
    low, high = lengths.min(), lengths.max()
    assert_allclose(
        grid.codebooks_[-1][:, 0], low + (2 * np.arange(4) + 1) * (high - low) / 8
    )
    learned = BinaryQuantizer(spherical=True, radius="learned", n_radius_levels=4).fit(
        X
    )
    table = learned.codebooks_[-1]
    codes = learned.transform(X)[:, -1].astype(int)
    assert_array_equal(codes, first_argmin(lengths[:, None], table))
    for code in range(4):
        assert table[code, 0] == pytest.approx(lengths[codes == code].mean())
    assert learned.distortion_ < grid.distortion_
    assert learned.codebook_sizes_ == (2, 2, 2, 2, 4)


def test_few_lengths_are_repeated():
    X = np.array([[1.0, 2, 2], [2, 1, 2], [2, 4, 4], [4, 4, 2]])
    with pytest.warns(ConvergenceWarning, match="2 distinct lengths of samples"):
        quantizer = BinaryQuantizer(
            spherical=True, radius="learned", n_radius_levels=5
        ).fit(X)
    assert_allclose(quantizer.codebooks_[-1][:, 0], [3, 6, 3, 6, 3])
    assert_array_equal(quantizer.transform(X)[:, -1], [0, 0, 1, 1])


@pytest.mark.parametrize("radius", ["unit", "uniform", "learned", "float32"])
def test_zero_vectors_have_the_first_corner(radius):
    X = gaussian(20, 3)
    X[4] = 0
    quantizer = BinaryQuantizer(spherical=True, radius=radius, n_radius_levels=4).fit(X)
    assert_array_equal(quantizer.transform(X)[4, :3], 0)
    assert np.isfinite(quantizer.quantize(X)).all()
    assert np.linalg.norm(quantizer.quantize(X)[4]) <= 1 + 1e-6


def test_norms_neither_overflow_nor_vanish():
    for exponent in (-1060, -600, 0, 600, 1019):
        X = np.ldexp(np.array([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]]), exponent)
        assert_array_equal(row_norms(X), np.ldexp([5.0, 0.0, 13.0], exponent))
    X = np.array([[3e38, 0, 1e38]], dtype=np.float32)
    assert row_norms(X)[0] == pytest.approx(1e38 * math.sqrt(10), rel=1e-6)


def test_radius_is_set_up_from_lengths():
    X = np.array([[1.0, 0], [0, -2], [2, 0], [0, 4]])

    def fitted(how, n_levels, X=X):
        return run(fit_radius(how, Rows(X), n_levels))

    assert fitted("unit", 4).sizes == ()
    assert_array_equal(fitted("learned", 3).tables(float)[0].T, [[1, 2, 4]])
    with pytest.warns(ConvergenceWarning, match="3 distinct lengths of samples"):
        assert fitted("learned", 4).sizes == (4,)
    with pytest.warns(ConvergenceWarning, match="all lengths of samples are equal"):
        fitted("uniform", 4, X[1:3])


def test_nests():
    X = gaussian(100, 6)
    quantizer = ProductQuantizer(2, quantizer=BinaryQuantizer(spherical=True)).fit(X)
    assert quantizer.codebook_sizes_ == (2,) * 6
    assert_array_equal(quantizer.transform(X), X > 0)
    assert_allclose(np.linalg.norm(quantizer.quantize(X)[:, :3], axis=1), 1, rtol=1e-6)


# -- packed ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [1, 8, 13, 64, 100])
@pytest.mark.parametrize("old_numpy", [False, True])
def test_hamming_distances(n_features, old_numpy, monkeypatch):
    if old_numpy:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    X, Y = gaussian(40, n_features), gaussian(30, n_features, seed=1)
    quantizer = BinaryQuantizer(scale=1).fit(X)
    codes_X, codes_Y = quantizer.transform(X), quantizer.transform(Y)
    packed = [pack(codes, quantizer.codebook_sizes_) for codes in (codes_X, codes_Y)]
    assert packed[0].shape[1] == -(-n_features // 8)
    found = hamming_distances(*packed)
    assert found.dtype == np.int32
    assert_array_equal(found, np.rint(cdist(codes_X, codes_Y, "cityblock")))
    assert_array_equal(hamming_distances(packed[0]), hamming_distances(*packed[:1] * 2))
    assert_array_equal(
        4 * found, np.rint(cdist(quantizer.quantize(X), quantizer.quantize(Y)) ** 2)
    )


def test_hamming_distances_of_other_arrays():
    packed = np.zeros((2, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="packed_X has dtype int64"):
        hamming_distances(packed.astype(np.int64))
    with pytest.raises(ValueError, match="packed_Y"):
        hamming_distances(packed, packed[0])
    with pytest.raises(ValueError, match="3 bytes in a row, packed_Y 2"):
        hamming_distances(packed, packed[:, :2])
