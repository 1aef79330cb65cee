"""Functions of codes, and metrics, in other libraries."""

import numpy as np
import pytest
from arrays.libraries import assert_same, library_name, load, make, put
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import clone
from table import BinaryQuantizer

from skvq import QuantizedFeatures, UniformQuantizer, metrics
from skvq import codes as codes_module
from skvq._arrays import to_host
from skvq.binary import hamming_distances

SIZES = [(2,) * 9, (5, 5, 5), (256, 4, 1), (300, 7, 65536), (1, 1), (2**32,) * 3]


@pytest.mark.parametrize("n_samples", [0, 1, 77])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_functions_of_codes(place, sizes, n_samples):
    rng = np.random.default_rng(n_samples)
    columns = [rng.integers(0, size, n_samples) for size in sizes]
    wide = np.stack(columns, axis=1)
    own = wide.astype(codes_module.smallest_dtype(max(sizes)))
    given = put(place, wide)
    for method in ("columns", "radix"):
        for row_aligned in (True, False):
            how = {"method": method, "row_aligned": row_aligned}
            packed = codes_module.pack(given, sizes, **how)
            assert_same(packed, codes_module.pack(own, sizes, **how), place)
            back = codes_module.unpack(packed, sizes, n_samples=n_samples, **how)
            assert_same(back, own, place)
    if max(sizes) > 2**16:
        return
    for order in ("C", "F"):
        ids = codes_module.token_ids(given, sizes, order=order)
        assert_same(ids, codes_module.token_ids(own, sizes, order=order), place)
        assert_same(codes_module.from_token_ids(ids, sizes, order=order), own, place)
    dense = codes_module.one_hot(given, sizes, dtype=np.float32, sparse=False)
    expected = codes_module.one_hot(own, sizes, dtype=np.float32, sparse=False)
    assert_same(dense, expected, place)
    assert_array_equal(codes_module.one_hot(given, sizes).toarray(), expected)


def test_ids(place):
    rng = np.random.default_rng(0)
    candidates, errors = rng.integers(0, 4, (9, 3, 2)), np.sort(rng.random((9, 3)))
    here, there = (codes_module.UniqueIds((4, 4), overflow="digit") for _ in range(2))
    expected = here.assign(candidates, errors)
    found = there.assign(put(place, candidates), put(place, errors))
    assert_same(found, expected, place)
    assert_same(there.row_of(found), here.row_of(expected), place)
    assert_array_equal(there.ids_, here.ids_, strict=True)
    new = there.add(put(place, candidates[:2]), put(place, errors[:2]))
    assert_same(new, here.add(candidates[:2], errors[:2]), place)
    codes = candidates[:, 0].astype(np.uint8)
    given = put(place, codes)
    ranked = codes_module.disambiguate(codes)
    assert_same(codes_module.disambiguate(given), ranked, place)
    tokens = codes + codes_module.offsets((4, 4))
    back = codes_module.from_vocabulary(put(place, tokens), (4, 4))
    assert_same(back, codes, place)
    assert metrics.duplicate_rate(given) == metrics.duplicate_rate(codes)


def test_what_is_no_code(place):
    def expect(message, function, array, *arguments, error=ValueError):
        with pytest.raises(error, match=message):
            function(put(place, np.array(array)), *arguments)

    expect(r"codes\[0, 1\] is 9", codes_module.pack, [[0, 9]], (2, 3))
    expect(r"codes\[0, 1\] is -1", codes_module.token_ids, [[0, -1]], (2, 3))
    expect("integers", codes_module.one_hot, [[0.0, 1.0]], (2, 3), error=TypeError)
    expect(r"ids\[1\] is 99", codes_module.from_token_ids, [6, 99], (5, 5))
    expect(r"codes\[0, 1\] = -1 is negative", metrics.code_entropy, [[0, -1]])
    expect("not an integer", metrics.collision_rate, [[0, 0.5]])
    expect("goes up to 3", metrics.code_usage, [[0], [3]], (2,))
    byte = np.array([[255]], dtype=np.uint8)
    expect("is corrupt", codes_module.unpack, byte, (5, 5))
    expect("holds code 7", codes_module.unpack, byte - 1, (5, 5, 2))
    expect("expected 2-d uint8", hamming_distances, [[1, 2]])


def test_hamming_distances(place, tiles):
    rng = np.random.default_rng(0)
    X, Y = (rng.integers(0, 256, (n, 5)).astype(np.uint8) for n in (20, 7))
    for some in ((X, Y), (X,)):
        found = hamming_distances(*(put(place, array) for array in some))
        assert_same(found, hamming_distances(*some), place)
    with pytest.raises(ValueError, match="5 bytes in a row, packed_Y 4"):
        hamming_distances(put(place, X), put(place, Y[:, :4]))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_reconstructions(place, weighted):
    X = make((50, 7, 1), dtype="float64")[0]
    X_quant = np.rint(X)
    weights = np.random.default_rng(0).integers(0, 3, 50) if weighted else None
    for function, how in [
        (metrics.distortion, {"metric": "manhattan"}),
        (metrics.sqnr, {}),
        (metrics.sqnr, {"center": True}),
        (metrics.psnr, {"data_range": 2.0}),
    ]:
        expected = function(X, X_quant, sample_weight=weights, **how)
        for given in [(put(place, X), put(place, X_quant)), (put(place, X), X_quant)]:
            found = function(*given, sample_weight=weights, **how)
            assert isinstance(found, float)
            assert found == pytest.approx(expected, rel=1e-12)
    image = np.array([[0, 255], [128, 64]], dtype=np.uint8)
    found = metrics.psnr(put(place, image), put(place, image + 1.0))
    assert found == pytest.approx(metrics.psnr(image, image + 1.0))
    made = (UniformQuantizer(4), QuantizedFeatures(BinaryQuantizer()))
    there = [clone(quantizer).fit(put(place, X)) for quantizer in made]
    here = [clone(quantizer).fit(X) for quantizer in made]
    assert_allclose(
        metrics.rate_distortion_curve(there, put(place, X), sample_weight=weights),
        metrics.rate_distortion_curve(here, X, sample_weight=weights),
    )
    for bad in (X * np.nan, X[:, :0], X[0]):
        with pytest.raises(ValueError, match="X "):
            metrics.distortion(put(place, bad), put(place, bad))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_codes(place, weighted):
    rng = np.random.default_rng(0)
    sizes = (4, 9, 300)
    codes = np.stack([rng.integers(0, size, 60) for size in sizes], axis=1)
    codes[30:] = codes[rng.integers(0, 30, 30)]
    weights = rng.integers(0, 3, 60).astype(float) if weighted else None
    given = put(place, codes)
    for function, more in [
        (metrics.code_entropy, ()),
        (metrics.perplexity, ()),
        (metrics.code_usage, (sizes,)),
        (metrics.imbalance_factor, (sizes,)),
    ]:
        found = function(given, *more, sample_weight=weights)
        assert library_name(found) == place.__name__
        expected = function(codes, *more, sample_weight=weights)
        assert_allclose(to_host(found), expected, rtol=1e-12)
    found = metrics.collision_rate(given, sample_weight=weights)
    expected = metrics.collision_rate(codes, sample_weight=weights)
    assert found == pytest.approx(expected, rel=1e-12)
    assert 0 < found < 1
    report = metrics.code_report(given, sizes, sample_weight=weights)
    assert (
        report.as_dict()
        == metrics.code_report(codes, sizes, sample_weight=weights).as_dict()
    )


def test_drift(place):
    rng = np.random.default_rng(0)
    train, X = rng.normal(size=(200, 3)), rng.normal(size=(50, 3))
    weights = rng.random(50)
    grid = UniformQuantizer(4)
    expected = metrics.drift(grid.fit(train), X, sample_weight=weights)
    grid.fit(put(place, train))
    found = metrics.drift(grid, put(place, X), sample_weight=put(place, weights))
    assert found["columns"] == expected["columns"]
    assert found["outside"] == expected["outside"]
    assert found["distortion"] == pytest.approx(expected["distortion"], rel=1e-6)


def test_functions_without_dispatch():
    torch = load("torch")
    codes = put(torch, np.array([[0, 1], [2, 4]]))
    assert isinstance(codes_module.token_ids(codes, (3, 5)), np.ndarray)
    assert isinstance(metrics.code_entropy(codes), np.ndarray)
