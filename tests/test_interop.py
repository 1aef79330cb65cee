"""Quantizers from and to faiss and nanopq: the same tables, codes and reconstructions.

Tables are given, not learned, wherever it is not the learning that is asked about.
"""

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from table import BY_NAME, mixture

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    RotatedQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.interop import from_faiss, from_nanopq, to_faiss, to_nanopq

X = mixture(200, 8)


@pytest.fixture
def faiss():
    library = pytest.importorskip("faiss")
    library.omp_set_num_threads(1)
    return library


@pytest.fixture
def nanopq():
    return pytest.importorskip("nanopq")


def tables(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [2 * rng.normal(size=shape).astype(np.float32) for shape in shapes]


def in_bits(codes, sizes):
    """Codes as faiss packs them: each in log2 V bits, the lowest bit first."""
    bits = [
        codes[:, [j]].astype(np.int64) >> np.arange(int(np.log2(size))) & 1
        for j, size in enumerate(sizes)
    ]
    return np.packbits(np.hstack(bits).astype(bool), axis=1, bitorder="little")


def assert_exchanged(estimator, index):
    """Codes and reconstructions are the same here, there, and back again."""
    codes = estimator.transform(X)
    packed = index.sa_encode(X)
    assert_array_equal(packed, in_bits(codes, estimator.codebook_sizes_))
    assert_allclose(index.sa_decode(packed), estimator.quantize(X), atol=2e-6)
    again = from_faiss(index)
    assert type(again) is type(estimator)
    assert_array_equal(again.transform(X), codes)
    assert_allclose(again.inverse_transform(codes), estimator.quantize(X), atol=2e-6)
    assert again.codebook_sizes_ == estimator.codebook_sizes_
    assert np.isnan(again.distortion_)


@pytest.mark.parametrize(
    "metric", ["sqeuclidean", "euclidean", "cosine", "manhattan", "chebyshev"]
)
def test_flat(faiss, metric):
    (table,) = tables((16, 8))
    if metric == "cosine":
        table /= np.linalg.norm(table, axis=1, keepdims=True)
    vq = VectorQuantizer.from_codebooks([table], metric=metric)
    index = to_faiss(vq)
    assert_array_equal(index.search(X, 1)[1], vq.transform(X))
    assert_array_equal(index.reconstruct_n(0, 16), table)
    again = from_faiss(index)
    assert_array_equal(again.transform(X), vq.transform(X))
    assert_array_equal(again.codebooks_[0], table)


def test_flat_by_products(faiss):
    index = faiss.IndexFlatIP(8)
    index.add(tables((16, 8))[0])
    vq = from_faiss(index)
    assert (vq.metric, vq.learning) == ("inner_product", "fixed")
    assert_array_equal(index.search(X, 1)[1], vq.transform(X))


@pytest.mark.parametrize("size", [2, 16, 256])
def test_product(faiss, size):
    pq = ProductQuantizer.from_codebooks(tables(*[(size, 2)] * 4))
    assert_exchanged(pq, to_faiss(pq))


def test_product_of_double_precision(faiss):
    pq = ProductQuantizer.from_codebooks(
        [t.astype(float) for t in tables(*[(4, 2)] * 4)]
    )
    index = to_faiss(pq)
    again = from_faiss(index.pq)
    assert again.codebooks_[0].dtype == np.float32
    assert_array_equal(again.transform(X), pq.transform(X.astype(float)))


@pytest.mark.parametrize("beam_size", [1, 5])
def test_residual(faiss, beam_size):
    given = tables((16, 8), (4, 8), (8, 8))
    rq = ResidualQuantizer.from_codebooks(given, beam_size=beam_size)
    index = to_faiss(rq)
    assert_exchanged(rq, index)
    assert from_faiss(index.rq).beam_size == index.rq.max_beam_size == beam_size


def test_additive(faiss):
    """The same codes are the same rows; each side searches for its own."""
    aq = AdditiveQuantizer.from_codebooks(tables(*[(16, 8)] * 3))
    index, codes = to_faiss(aq), aq.transform(X)
    assert_allclose(index.sa_decode(in_bits(codes, (16,) * 3)), aq.quantize(X), 1e-6)
    theirs = index.sa_decode(index.sa_encode(X))
    errors = [np.square(X - decoded).sum() for decoded in (aq.quantize(X), theirs)]
    assert errors[0] <= errors[1] * 1.01
    for again in (from_faiss(index), from_faiss(index.lsq)):
        assert type(again) is AdditiveQuantizer
        assert_allclose(again.inverse_transform(codes), aq.quantize(X), 1e-6)


@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize("clip_range", ["minmax", (-3.5, 4.25)])
def test_scalar(faiss, size, clip_range):
    # Ends of ranges that both sides compute without rounding.
    rows = np.round(X * 16) / 16
    grid = UniformQuantizer(size, clip_range=clip_range).fit(rows)
    index = to_faiss(grid)
    off_the_edges = X + np.float32(0.0123)
    packed = index.sa_encode(off_the_edges)
    codes = grid.transform(off_the_edges)
    assert_array_equal(packed, in_bits(codes, grid.codebook_sizes_))
    assert_allclose(index.sa_decode(packed), grid.inverse_transform(codes), atol=2e-6)
    again = from_faiss(index)
    assert_array_equal(again.transform(off_the_edges), codes)
    assert_allclose(again.inverse_transform(codes), index.sa_decode(packed), atol=2e-6)


@pytest.mark.parametrize(
    ("qtype", "size"),
    [
        ("QT_8bit", 256),
        ("QT_6bit", 64),
        ("QT_4bit", 16),
        ("QT_8bit_uniform", 256),
        ("QT_4bit_uniform", 16),
    ],
)
def test_scalar_that_faiss_has_trained(faiss, qtype, size):
    index = faiss.IndexScalarQuantizer(8, getattr(faiss.ScalarQuantizer, qtype))
    rows = np.round(X * 16) / 16
    index.train(rows)
    grid = from_faiss(index)
    # Rows beyond the range as well, and its ends.
    some = np.vstack([rows[:1] - 99, X + np.float32(0.0123), rows[:1] + 99])
    packed = index.sa_encode(some)
    assert_array_equal(packed, in_bits(grid.transform(some), (size,) * 8))
    assert_allclose(index.sa_decode(packed), grid.quantize(some), atol=2e-6)
    assert_array_equal(from_faiss(index.sq).transform(some), grid.transform(some))


def rotation(n_components=8, seed=3):
    square = np.random.default_rng(seed).normal(size=(8, 8))
    return np.linalg.qr(square)[0][:n_components].astype(np.float32)


ROTATED = {
    "product": lambda: ProductQuantizer.from_codebooks(tables(*[(16, 2)] * 4)),
    "cut": lambda: ProductQuantizer.from_codebooks(tables(*[(16, 2)] * 3)),
    "residual": lambda: ResidualQuantizer.from_codebooks(
        tables((16, 8), (8, 8)), beam_size=3
    ),
}


@pytest.mark.parametrize("mean", [None, np.arange(8) / 4])
@pytest.mark.parametrize("part", ROTATED)
def test_rotated(faiss, part, mean):
    part = ROTATED[part]()
    est = RotatedQuantizer.from_codebooks(
        part.codebooks_,
        quantizer=part,
        rotation=rotation(part.n_features_in_),
        mean=mean,
    )
    index = to_faiss(est)
    assert_exchanged(est, index)
    again = from_faiss(index)
    assert type(again.quantizer_) is type(part)
    assert_allclose(again.components_, est.components_, atol=1e-7)
    assert_allclose(again.mean_, est.mean_, atol=1e-6)


@pytest.mark.parametrize("transform", ["OPQMatrix", "PCAMatrix", "chain"])
def test_rotation_that_faiss_has_learned(faiss, transform):
    inner = faiss.IndexPQ(8, 4, 4)
    first = faiss.PCAMatrix(8, 8)
    if transform == "OPQMatrix":
        first = faiss.OPQMatrix(8, 4)
        first.niter = 2
    index = faiss.IndexPreTransform(first, inner)
    if transform == "chain":
        index.prepend_transform(faiss.CenteringTransform(8))
    rows = mixture(700, 8, seed=2)
    index.train(rows)
    est = from_faiss(index)
    packed = index.sa_encode(X)
    assert_array_equal(packed, in_bits(est.transform(X), (16,) * 4))
    assert_allclose(index.sa_decode(packed), est.quantize(X), atol=1e-5)


def test_rotations_that_are_none(faiss):
    scaled = faiss.PCAMatrix(8, 8, -0.5)
    wider = faiss.RandomRotationMatrix(8, 12)
    normal = faiss.NormalizationTransform(8)
    for step, width, message in [
        (scaled, 8, "rows that are not orthonormal"),
        (wider, 12, "a RandomRotationMatrix from 8 to 12 features"),
        (normal, 8, "a NormalizationTransform from 8 to 8"),
    ]:
        index = faiss.IndexPreTransform(step, faiss.IndexPQ(width, 4, 4))
        index.train(mixture(700, 8, seed=2))
        with pytest.raises(ValueError, match=message):
            from_faiss(index)
    est = RotatedQuantizer(VectorQuantizer(4)).fit(X)
    with pytest.raises(ValueError, match=r"ProductQuantizer\(1\) has the same codes"):
        to_faiss(est)


def test_rows_of_an_index_are_codes(faiss):
    index = faiss.IndexPQ(8, 4, 8)
    given = tables(*[(256, 2)] * 4)
    faiss.copy_array_to_vector(np.concatenate(given).ravel(), index.pq.centroids)
    index.is_trained = True
    index.add(X)
    stored = faiss.vector_to_array(index.codes).reshape(index.ntotal, -1)
    pq = from_faiss(index)
    assert_array_equal(pq.transform(X), stored)
    assert_array_equal(pq.inverse_transform(stored), index.reconstruct_n(0, len(X)))


def test_what_faiss_has_no_place_for(faiss):
    one_wide = ProductQuantizer.from_codebooks(tables((4, 2), (4, 3)))
    odd = ProductQuantizer.from_codebooks(tables((3, 2), (3, 2)))
    unequal = AdditiveQuantizer.from_codebooks(tables((4, 8), (8, 8)))
    single = ResidualQuantizer.from_codebooks(tables((4, 8), (1, 8)))
    weighted = ResidualQuantizer.from_codebooks(
        tables((4, 8), (4, 8)), beam_size=2, stage_weights=[1, 2]
    )
    alone = AdditiveQuantizer.from_codebooks(
        tables((4, 8), (4, 8)), assignment="independent"
    )
    lengths = VectorQuantizer.from_codebooks(tables((4, 8)), metric="cosine")
    strange = VectorQuantizer.from_codebooks(tables((4, 8)), metric="correlation")
    large = VectorQuantizer.from_codebooks([np.array([[1e300], [0.0]])])
    for estimator, message in [
        (one_wide, "tables of 2, 3 features; faiss takes one number for all"),
        (odd, "a table of 3 codewords; faiss takes powers of two"),
        (unequal, "tables of 2, 3 bits"),
        (single, "a table of 1 codewords"),
        (weighted, "stage_weights=None or beam_size=1"),
        (alone, "assignment='independent'"),
        (lengths, "no unit vectors"),
        (strange, "metric='correlation' has no counterpart"),
        (large, r"codebooks_\[0\] has numbers too large for float32"),
        (UniformQuantizer(8).fit(X), "n_levels=8: .* 16, 64, 256 of them"),
        (UniformQuantizer([16] * 7 + [64]).fit(X), "equal cells"),
        (UniformQuantizer(16, levels="lloyd-max").fit(X), "levels='lloyd-max'"),
        (BY_NAME["pq-of-pq"].fitted(), r"has ProductQuantizer\(.* as a part"),
        (BY_NAME["rq-of-binary"].fitted(), r"has BinaryQuantizer\(\) as a part"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_faiss(estimator)
    with pytest.raises(TypeError, match="BinaryQuantizer has no counterpart in faiss"):
        to_faiss(BinaryQuantizer().fit(X))


def test_what_has_no_place_here(faiss):
    empty, full = faiss.IndexFlat(4), faiss.IndexFlat(4, faiss.METRIC_Canberra)
    full.add(np.ones((2, 4), np.float32))
    half = faiss.IndexScalarQuantizer(4, faiss.ScalarQuantizer.QT_fp16)
    for index, error, message in [
        (empty, ValueError, "a IndexFlat.*, has no rows"),
        (full, ValueError, "has the metric .* expected one of METRIC_L2"),
        (half, ValueError, "expected one of QT_8bit"),
        (faiss.IndexPQ(8, 4, 8), ValueError, "a IndexPQ, is not trained"),
        (faiss.ResidualQuantizer(8, 2, 4), ValueError, "is not trained"),
        (faiss.ScalarQuantizer(4, 0), ValueError, "is not trained"),
        (faiss.IndexLSH(8, 16), TypeError, "IndexLSH; expected one of IndexFlat"),
        (X, TypeError, "ndarray; expected one of"),
    ]:
        with pytest.raises(error, match=message):
            from_faiss(index)


# -- nanopq ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 256, 300])
def test_nanopq(nanopq, size):
    pq = ProductQuantizer.from_codebooks(tables(*[(size, 2)] * 4))
    peer = to_nanopq(pq)
    codes = peer.encode(X)
    assert_array_equal(codes, pq.transform(X))
    assert codes.dtype == pq.transform(X).dtype
    assert_array_equal(peer.decode(codes), pq.quantize(X))
    again = from_nanopq(peer)
    assert_array_equal(again.transform(X), codes)
    assert to_nanopq(again) == peer


def test_what_nanopq_learned(nanopq):
    peer = nanopq.PQ(M=4, Ks=8, verbose=False).fit(X, iter=1)
    pq = from_nanopq(peer)
    assert (pq.n_subspaces, pq.n_codewords) == (4, 8)
    assert_array_equal(pq.transform(X), peer.encode(X))


@pytest.mark.parametrize("mean", [None, np.arange(8) / 4])
def test_rotated_in_nanopq(nanopq, mean):
    part = ROTATED["product"]()
    est = RotatedQuantizer.from_codebooks(
        part.codebooks_, quantizer=part, rotation=rotation(), mean=mean
    )
    peer = to_nanopq(est)
    codes = peer.encode(X)
    assert_array_equal(codes, est.transform(X))
    assert_allclose(peer.decode(codes), est.quantize(X), atol=1e-5)
    again = from_nanopq(peer)
    assert_array_equal(again.transform(X), codes)
    assert_allclose(again.quantize(X), est.quantize(X), atol=1e-5)
    assert_array_equal(again.mean_, np.zeros(8))


def test_rotations_of_rotations_in_nanopq(nanopq):
    part = RotatedQuantizer(ROTATED["product"](), rotation="pca")
    est = RotatedQuantizer(part, rotation="random", random_state=0).fit(X)
    with pytest.raises(TypeError, match="an OPQ of nanopq has one rotation"):
        to_nanopq(est)


def test_rotation_that_nanopq_has_learned(nanopq):
    peer = nanopq.OPQ(M=4, Ks=8, verbose=False)
    peer.fit(X, pq_iter=1, rotation_iter=2)
    est = from_nanopq(peer)
    assert (est.quantizer.n_subspaces, est.quantizer.n_codewords) == (4, 8)
    assert_array_equal(est.transform(X), peer.encode(X))
    assert_allclose(est.quantize(X), peer.decode(peer.encode(X)), atol=1e-5)


def test_what_nanopq_has_no_place_for(nanopq):
    for shapes, message in [
        ([(4, 2), (4, 3)], "tables of 2, 3 features; nanopq"),
        ([(4, 2), (8, 2)], "tables of 4, 8 codewords; nanopq"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_nanopq(ProductQuantizer.from_codebooks(tables(*shapes)))
    with pytest.raises(TypeError, match="VectorQuantizer has no counterpart in nanopq"):
        to_nanopq(BY_NAME["vq-normal"].fitted())
    with pytest.raises(ValueError, match="not fitted"):
        from_nanopq(nanopq.OPQ(M=2, verbose=False))
    with pytest.raises(ValueError, match="5 components of 8 features; nanopq"):
        to_nanopq(RotatedQuantizer(BY_NAME["pq-even"].make(), n_components=5).fit(X))
    with pytest.raises(TypeError, match="BinaryQuantizer has no counterpart in nanopq"):
        to_nanopq(RotatedQuantizer(BinaryQuantizer()).fit(X))
    with pytest.raises(TypeError, match="ndarray; expected a nanopq"):
        from_nanopq(X)
    with pytest.raises(ValueError, match="not fitted"):
        from_nanopq(nanopq.PQ(M=2, verbose=False))


# -- what both ask first ---------------------------------------------------------------


@pytest.mark.parametrize("convert", [to_faiss, to_nanopq])
def test_fitted_quantizers_are_taken(convert):
    with pytest.raises(NotFittedError):
        convert(ProductQuantizer())
    with pytest.raises(
        TypeError, match="LinearRegression; expected a fitted quantizer"
    ):
        convert(LinearRegression())


@pytest.mark.parametrize(
    ("convert", "package"),
    [
        (to_faiss, "faiss-cpu"),
        (from_faiss, "faiss-cpu"),
        (to_nanopq, "nanopq"),
        (from_nanopq, "nanopq"),
    ],
)
def test_what_is_missing_is_named(convert, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package.partition("-")[0], None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        convert(ProductQuantizer.from_codebooks(tables((4, 2), (4, 2))))
