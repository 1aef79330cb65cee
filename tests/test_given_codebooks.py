"""Codebooks from elsewhere: the codes of their makers, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from table import mixture

from skvq import (
    AdditiveQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    SphericalQuantizer,
    VectorQuantizer,
)

DATA = Path(__file__).parent / "data"


def tables_of(n_tables=3, size=16, width=6, seed=0, dtype=np.float32):
    """Tables of falling size, as stages have them."""
    rng = np.random.default_rng(seed)
    scales = 0.5 ** np.arange(n_tables)
    return [(s * rng.normal(size=(size, width))).astype(dtype) for s in scales]


def rows_of(width, n=300, seed=1):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


# -- the codes of peers ----------------------------------------------------------------


@pytest.mark.parametrize("beam_size", [1, 5])
def test_faiss_finds_the_same_sums(beam_size):
    faiss = pytest.importorskip("faiss")
    tables, X = tables_of(3, 256), rows_of(6)
    peer = faiss.ResidualQuantizer(6, 3, 8)
    faiss.copy_array_to_vector(np.concatenate(tables).ravel(), peer.codebooks)
    peer.is_trained, peer.max_beam_size = True, beam_size
    own = ResidualQuantizer.from_codebooks(tables, beam_size=beam_size)
    codes = own.transform(X)
    assert_array_equal(codes, peer.compute_codes(X))
    assert_allclose(own.inverse_transform(codes), peer.decode(codes), atol=1e-6)


def test_faiss_finds_the_same_products():
    faiss = pytest.importorskip("faiss")
    tables, X = tables_of(3, 256, 4), rows_of(12)
    peer = faiss.ProductQuantizer(12, 3, 8)
    faiss.copy_array_to_vector(np.concatenate(tables).ravel(), peer.centroids)
    own = ProductQuantizer.from_codebooks(tables)
    assert_array_equal(own.transform(X), peer.compute_codes(X))


def test_nanopq_finds_the_same_products():
    nanopq = pytest.importorskip("nanopq")
    tables, X = tables_of(3, 16, 4), rows_of(12)
    peer = nanopq.PQ(3, 16, verbose=False)
    peer.codewords, peer.Ds, peer.Ks = np.stack(tables), 4, 16
    own = ProductQuantizer.from_codebooks(peer.codewords)
    assert_array_equal(own.transform(X), peer.encode(X))


def test_a_tokenizer_of_residuals_finds_the_same():
    """vector-quantize-pytorch's ResidualVQ; see residual_vq.py for how it was run."""
    with np.load(DATA / "residual_vq.npz") as case:
        own = ResidualQuantizer.from_codebooks(case["tables"])
        assert_array_equal(own.transform(case["X"]), case["codes"])
        assert_array_equal(own.quantize(case["X"]), case["quantized"])


# -- what tables leave open ------------------------------------------------------------


def test_cosine_leaves_codewords_as_they_are():
    (table,), X = tables_of(1), rows_of(6)
    table *= np.arange(1, 17)[:, None]
    own = VectorQuantizer.from_codebooks([table], metric="cosine")
    cosines = X @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T
    codes = own.transform(X)
    assert_array_equal(codes[:, 0], cosines.argmax(axis=1))
    assert_array_equal(own.inverse_transform(codes), table[codes[:, 0]])


@pytest.mark.parametrize("given_sums", [False, True])
def test_a_stream_of_moving_averages_goes_on(given_sums):
    (table,), rng = tables_of(1, 4), np.random.default_rng(0)
    counts = rng.uniform(5, 9, 4)
    sums = counts[:, None] * (table + rng.normal(size=table.shape)).astype(np.float64)
    own = VectorQuantizer.from_codebooks(
        [table],
        learning="ema",
        decay=0.9,
        dead_codes="keep",
        counts=counts,
        sums=sums if given_sums else None,
    )
    if not given_sums:
        sums = counts[:, None] * table.astype(np.float64)
    for seed in (2, 3):
        X = rows_of(6, 50, seed)
        codes = own.transform(X)[:, 0]
        own.partial_fit(X)
        one_hot = np.eye(4)[codes]
        counts = 0.9 * counts + 0.1 * one_hot.sum(axis=0)
        sums = 0.9 * sums + 0.1 * one_hot.T @ X
        assert_allclose(own.codebooks_[0], sums / counts[:, None], rtol=1e-5)


@pytest.mark.parametrize("learning", ["minibatch", "sgd", "ema"])
def test_a_stream_starts_from_given_tables(learning):
    (table,), X = tables_of(1, 4), rows_of(6)
    own = VectorQuantizer.from_codebooks([table], learning=learning)
    by_init = VectorQuantizer(4, init=table, learning=learning).partial_fit(X)
    assert_array_equal(own.partial_fit(X).codebooks_[0], by_init.codebooks_[0])


def test_shared_tables_are_told_by_identity_or_by_the_parameter():
    (table,), X = tables_of(1), rows_of(6)
    for tables, parameters in (
        ([table, table], {}),
        ([table, table.copy()], {"share_codebook": True}),
    ):
        own = ResidualQuantizer.from_codebooks(tables, **parameters)
        assert own.codebooks_[0] is own.codebooks_[1]
        assert own.share_codebook
        assert own.quantizers_[0] is own.quantizers_[1]
    apart = ResidualQuantizer.from_codebooks([table, table.copy()])
    assert not apart.share_codebook
    assert_array_equal(apart.transform(X), own.transform(X))


def test_sizes_follow_from_the_tables():
    tables = [np.eye(4)[:n, :w] for n, w in ((2, 3), (4, 3), (3, 2))]
    own = ProductQuantizer.from_codebooks(tables)
    assert (own.n_subspaces, own.n_codewords, own.n_features_in_) == (3, (2, 4, 3), 8)
    own = KroneckerQuantizer.from_codebooks(tables[:2])
    assert (own.factor_sizes, own.n_codewords, own.n_features_in_) == (
        (3, 3),
        (2, 4),
        9,
    )
    own = AdditiveQuantizer.from_codebooks(tables[:2], random_state=3)
    assert (own.n_codebooks, own.n_codewords, own.n_features_in_) == (2, (2, 4), 3)
    nested = ProductQuantizer.from_codebooks(
        tables_of(4), quantizer=ResidualQuantizer(2, beam_size=3)
    )
    assert (nested.n_subspaces, nested.n_features_in_) == (2, 12)
    assert [part.n_stages for part in nested.quantizers_] == [2, 2]
    assert nested.quantizers_[0].beam_size == 3


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("u1", "f4"), (">f4", "f4")],
)
def test_the_dtype_is_that_of_the_tables(dtype, computed):
    table = np.arange(12).reshape(4, 3).astype(dtype)
    own = VectorQuantizer.from_codebooks([table])
    assert own.codebooks_[0].dtype == np.dtype(computed)
    assert own.quantize(np.ones((2, 3))).dtype == np.dtype(computed)


def test_the_given_tables_may_be_written_to_afterwards():
    (table,) = tables_of(1)
    own = VectorQuantizer.from_codebooks([table])
    before = own.codebooks_[0].copy()
    table[:] = 0
    assert_array_equal(own.codebooks_[0], before)


# -- convolutions ----------------------------------------------------------------------


def test_biases_and_kernels_of_a_pyramid():
    from test_multiscale import slow_encode

    rng = np.random.default_rng(0)
    shape, grids = (4, 5, 3), [(1, 1), (2, 3), (4, 5)]
    (table,) = tables_of(1, 12, 3)
    kernels = 0.2 * rng.normal(size=(2, 3, 3, 3, 3))
    biases = 0.3 * rng.normal(size=(2, 3))
    own = MultiScaleQuantizer.from_codebooks(
        [table], map_shape=shape, scales=grids, kernels=kernels, biases=biases
    )
    assert own.n_smoothers == 2
    assert_allclose(own.biases_, biases, rtol=1e-6)
    X = mixture(20, 60)
    for x, codes, quantized in zip(X, own.transform(X), own.quantize(X), strict=True):
        expected, sums = slow_encode(
            x.reshape(shape), grids, table, kernels, (0, 0, 1), 0.5, biases
        )
        assert_array_equal(codes, expected)
        assert_allclose(quantized, sums[-1], rtol=1e-4, atol=1e-4)


def test_cosine_tokens_of_a_pyramid():
    (table,) = tables_of(1, 12, 3)
    X = mixture(20, 12)
    X[0] = 0
    own = MultiScaleQuantizer.from_codebooks(
        [table], map_shape=(4, 3), scales=[4], metric="cosine"
    )
    tokens = X.reshape(-1, 3)
    cosines = tokens @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T
    assert_array_equal(own.transform(X).ravel(), cosines.argmax(axis=1))
    assert_array_equal(own.quantize(X)[1], table[cosines.argmax(axis=1)[4:8]].ravel())
    with pytest.raises(ValueError, match="metric='cosine' cannot be learned"):
        own.fit(X)


# -- what is refused -------------------------------------------------------------------

W, V = tables_of(2)


@pytest.mark.parametrize(
    ("cls", "codebooks", "parameters", "message"),
    [
        (VectorQuantizer, W, {}, r"codebooks has shape \(16, 6\); expected a seq"),
        (VectorQuantizer, "W", {}, "codebooks='W'; expected a sequence"),
        (VectorQuantizer, [], {}, "codebooks is empty"),
        (VectorQuantizer, [W[0]], {}, r"codebooks\[0\]"),
        (VectorQuantizer, [W[:0]], {}, r"codebooks\[0\]"),
        (VectorQuantizer, [W * np.nan], {}, r"codebooks\[0\].*NaN"),
        (VectorQuantizer, [[["a"]]], {}, r"codebooks\[0\]"),
        (VectorQuantizer, [W + 1j], {}, r"codebooks\[0\]"),
        (VectorQuantizer, [W, V], {}, "has 2 tables, but VectorQuantizer has one"),
        (VectorQuantizer, [W], {"n_codewords": 8}, "n_codewords=8, but the given"),
        (VectorQuantizer, [W], {"counts": np.ones(16)}, "learning='lloyd' learns from"),
        (VectorQuantizer, [W * 0], {"metric": "cosine"}, r"row 0 of codebooks\[0\]"),
        (
            VectorQuantizer,
            [W],
            {"learning": "ema", "counts": np.ones(3)},
            r"counts has shape \(3,\); expected \(16,\)",
        ),
        (
            VectorQuantizer,
            [W],
            {"learning": "ema", "counts": -np.ones(16)},
            "counts ranges from -1.0 to -1.0",
        ),
        (
            VectorQuantizer,
            [W],
            {"learning": "ema", "sums": W},
            "sums are given without",
        ),
        (
            VectorQuantizer,
            [W],
            {"learning": "ema", "counts": np.ones(16), "sums": W[:3]},
            "sums has shape",
        ),
        (ResidualQuantizer, [W, V[:, :3]], {}, r"have \[6, 3\] features"),
        (AdditiveQuantizer, [W, V[:, :3]], {}, r"have \[6, 3\] features"),
        (ResidualQuantizer, [W, V], {"n_stages": 3}, "n_stages=3, but the given"),
        (ResidualQuantizer, [W, V], {"share_codebook": True}, r"\[1\] differs from"),
        (
            ProductQuantizer,
            [W, V, W],
            {"quantizer": ResidualQuantizer(2)},
            "has 3 tables, but each part.* has 2",
        ),
        (
            KroneckerQuantizer,
            [np.ones((3000, 2))] * 3,
            {},
            "multiply to more than",
        ),
        (KroneckerQuantizer, [W, V], {"factor_sizes": (2, 3)}, "factor_sizes="),
        (MultiScaleQuantizer, [W], {}, "map_shape=None: codebooks do not tell"),
        (
            MultiScaleQuantizer,
            [W],
            {"map_shape": (4, 5)},
            "has 6 features.* 5 channels",
        ),
        (MultiScaleQuantizer, [W], {"map_shape": ("a", 6)}, "map_shape=.* integers of"),
        (MultiScaleQuantizer, [W], {"map_shape": (np.nan, 6)}, "map_shape=.* integers"),
        (
            MultiScaleQuantizer,
            [W],
            {"map_shape": (10**9, 6)},
            r"map_shape=\(10+, 6\) .* more than 64 times the table",
        ),
        (
            MultiScaleQuantizer,
            [np.zeros((2, 6))],
            {"map_shape": (4, 6), "metric": "cosine"},
            r"row 0 of codebooks\[0\] is zero",
        ),
        (
            MultiScaleQuantizer,
            [W, W],
            {"map_shape": (4, 6)},
            "has 2 tables, but there are 7 tokens",
        ),
        (
            MultiScaleQuantizer,
            [W] * 6 + [V],
            {"map_shape": (4, 6)},
            r"MultiScaleQuantizer takes one table .*codebooks\[6\] differs",
        ),
        (
            MultiScaleQuantizer,
            [W],
            {"map_shape": (4, 6), "biases": np.ones((1, 6))},
            "biases are given without kernels",
        ),
        (
            MultiScaleQuantizer,
            [W],
            {"map_shape": (4, 6), "kernels": np.ones((1, 3, 3, 6, 6))},
            r"kernels has shape \(1, 3, 3, 6, 6\); expected \('n_smoothers', 3, 1",
        ),
        (
            MultiScaleQuantizer,
            [W],
            {"map_shape": (4, 6), "n_smoothers": 2},
            "n_smoothers=2, but kernels is None",
        ),
    ],
)
def test_what_does_not_fit_is_refused(cls, codebooks, parameters, message):
    with pytest.raises(ValueError, match=message):
        cls.from_codebooks(codebooks, **parameters)


@pytest.mark.parametrize("cls", [ResidualQuantizer, AdditiveQuantizer])
@pytest.mark.parametrize("places", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_a_table_in_some_places_keeps_its_columns(cls, places):
    rng = np.random.default_rng(5)
    X, *tables = rng.normal(size=(30, 3)), *rng.normal(size=(2, 4, 3))
    quantizer = cls.from_codebooks([tables[i] for i in places], beam_size=64)
    distances = cdist(X, quantizer.full_codebook())
    found = np.linalg.norm(X - quantizer.quantize(X), axis=1)
    assert_allclose(found, distances.min(axis=1))


def test_a_product_in_all_stages_keeps_its_columns():
    X, W = np.random.default_rng(6).normal(size=(2, 30, 4))
    tables = [W[:4, :2], W[:4, 2:]] * 2
    quantizer = ResidualQuantizer.from_codebooks(
        tables, quantizer=ProductQuantizer(2), beam_size=256
    )
    distances = cdist(X, quantizer.full_codebook())
    found = np.linalg.norm(X - quantizer.quantize(X), axis=1)
    assert_allclose(found, distances.min(axis=1))


def test_one_part_of_several_tables_serves_all_slices():
    X = mixture(60)
    shared = ProductQuantizer(
        2, quantizer=ResidualQuantizer(2, 4), share_codebook=True, random_state=0
    ).fit(X)
    again = ProductQuantizer.from_codebooks(
        shared.codebooks_, quantizer=ResidualQuantizer(2), share_codebook=True
    )
    assert again.quantizers_[0] is again.quantizers_[1]
    assert_array_equal(again.transform(X), shared.transform(X))
    with pytest.raises(ValueError, match="share_codebook=True takes one table in all"):
        ProductQuantizer.from_codebooks(
            [W, W, W, V], quantizer=ResidualQuantizer(2), share_codebook=True
        )


def test_a_table_of_some_slices_goes_on_as_one_of_each():
    X, (one, other) = mixture(60, 6), np.random.default_rng(7).normal(size=(2, 4, 2))
    pq = ProductQuantizer.from_codebooks(
        [one, other, one], quantizer=VectorQuantizer(learning="ema")
    )
    assert pq.codebooks_[0] is pq.codebooks_[2]
    pq.partial_fit(X)
    for j, start in enumerate((one, other, one)):
        alone = VectorQuantizer.from_codebooks([start], learning="ema")
        alone.partial_fit(X[:, 2 * j :][:, :2])
        assert_array_equal(pq.codebooks_[j], alone.codebooks_[0])


def test_a_formula_has_no_tables_to_be_given():
    with pytest.raises(
        AttributeError, match="SphericalQuantizer has no from_codebooks"
    ):
        SphericalQuantizer.from_codebooks([W])
