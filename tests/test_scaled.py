"""The scaled scheme: against transcriptions of its formulas, and what it promises."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ortho_group
from table import mixture

from skvq import (
    BinaryQuantizer,
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.coding.radius import LogRadius
from skvq.io import load, save
from skvq.learning.scalar import standard_levels

SCALINGS = ["least_squares", "unbiased", "norm"]


def gaussian_levels(n_bits):
    levels = standard_levels("gaussian", 2**n_bits).astype(np.float32)
    return UniformQuantizer(levels=[levels], share_levels=True)


def signs():
    return BinaryQuantizer(scale=1)


def product():
    return ProductQuantizer(2, 8, random_state=0)


def fixed(*codewords):
    return VectorQuantizer(
        len(codewords), init=np.array(codewords, float), learning="fixed"
    )


def transcription(X, decode, scaling):
    """Return scales and reconstructions, all in float64; `decode` quantizes u."""
    X = X.astype(np.float64)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    Q = decode(np.sqrt(X.shape[1]) * X / norms).astype(np.float64)
    inner = (Q * X).sum(axis=1, keepdims=True)
    s = {
        "least_squares": inner / (Q * Q).sum(axis=1, keepdims=True),
        "unbiased": norms**2 / inner,
        "norm": norms / np.sqrt(X.shape[1]),
    }[scaling]
    return s[:, 0], s * Q


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("part", [gaussian_levels(2), signs(), product()])
def test_reconstructions_are_those_of_the_formulas(part, scaling):
    X = mixture(200, 8, dtype=np.float64)
    sq = ScaledQuantizer(part, scaling=scaling, n_scale_bits="float32").fit(X)
    scales, expected = transcription(X, sq.quantizer_.quantize, scaling)
    assert_allclose(sq.quantize(X), expected, rtol=2e-7)
    eight = ScaledQuantizer(part, scaling=scaling).fit(X)
    assert eight.codebook_sizes_ == (*sq.quantizer_.codebook_sizes_, 256)
    step = np.log(scales.max() / scales.min()) / 254
    assert_allclose(eight.quantize(X), expected, rtol=1.01 * step / 2)
    levels = eight.codebooks_[-1][:, 0]
    assert levels[0] == 0
    assert_allclose(levels[[1, -1]], [scales.min(), scales.max()], rtol=1e-12)
    assert_allclose(np.diff(np.log(levels[1:])), step, rtol=1e-6)


def test_least_squares_has_the_least_error():
    X = mixture(100, 6)
    errors = {
        scaling: -ScaledQuantizer(scaling=scaling, n_scale_bits="float32")
        .fit(X)
        .score(X)
        for scaling in SCALINGS
    }
    assert errors["least_squares"] < min(errors["unbiased"], errors["norm"])


@pytest.mark.parametrize("n_bits", [1, 3, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_of_scales_are_the_nearest_by_ratio(n_bits, dtype):
    code = LogRadius.between(0.03, 70.0, 2**n_bits, dtype)
    values = np.exp(np.random.default_rng(0).normal(size=500) * 4)
    (levels,) = code.codec.tables(np.float64)
    gaps = abs(np.log(values)[:, None] - np.log(levels[1:, 0]))
    assert_array_equal(code.encode(values)[:, 0], 1 + gaps.argmin(axis=1))
    assert_array_equal(code.encode(np.array([0.0, 1e-300, 1e300]))[:, 0] > 0, [0, 1, 1])
    assert code.encode(np.array([1e300]))[0, 0] == 2**n_bits - 1


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n_scale_bits", [1, 5, "float32"])
def test_rows_of_zeros_come_back_as_zeros(scaling, n_scale_bits):
    X = mixture(50, 6)
    X[[3, 7]] = 0
    X[7] = -X[7]  # negative zeros
    part = VectorQuantizer(4, metric="cosine", random_state=0)  # takes none itself
    for quantizer in (None, part, signs()):
        sq = ScaledQuantizer(quantizer, scaling=scaling, n_scale_bits=n_scale_bits).fit(
            X
        )
        found = sq.quantize(X)
        assert_array_equal(found[[3, 7]], 0)
        assert not np.signbit(found[[3, 7]]).any()
        assert found[[0, 1, 2]].any(axis=1).all()


@pytest.mark.parametrize("n_scale_bits", [4, "float32"])
def test_all_rows_zero(n_scale_bits):
    with pytest.warns(UserWarning) if n_scale_bits == 4 else _nothing():
        sq = ScaledQuantizer(n_scale_bits=n_scale_bits).fit(np.zeros((4, 3)))
    assert_array_equal(sq.quantize(np.zeros((2, 3))), 0)
    assert np.isfinite(sq.quantize(np.ones((2, 3)))).all()


def _nothing():
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize("scaling", ["least_squares", "unbiased"])
def test_no_scale_serves_a_codeword_that_points_away(scaling):
    X = np.array([[1.0, 1.0], [-1.0, -2.0], [1.0, -1.0], [3.0, 4.0]])
    sq = ScaledQuantizer(fixed([1, 1]), scaling=scaling).fit(X)
    assert_array_equal(sq.transform(X)[1:3, -1], 0)
    assert_array_equal(sq.quantize(X)[1:3], 0)
    assert_allclose(sq.quantize(X)[0], X[0], rtol=0.01)
    nothing = ScaledQuantizer(fixed([0, 0], [1, 1]), scaling=scaling).fit(X)
    found = nothing.quantize(X)
    assert np.isfinite(found).all()
    assert_array_equal(found[nothing.transform(X)[:, 0] == 0], 0)


def test_the_part_does_not_see_how_long_rows_are():
    X = mixture(60, 6)
    sq = ScaledQuantizer(n_scale_bits="float32").fit(X)
    codes, found = sq.transform(X), sq.quantize(X)
    for power in (-80.0, -20.0, 20.0, 60.0):
        factor = np.float32(2.0**power)
        assert_array_equal(sq.transform(X * factor)[:, :-2], codes[:, :-2])
        assert_allclose(sq.quantize(X * factor), found * factor, rtol=1e-6)
    far = X.astype(np.float64) * 1e150
    assert_allclose(
        ScaledQuantizer().fit(far).quantize(far), found.astype(float) * 1e150, rtol=0.02
    )
    with pytest.raises(ValueError, match="scale of a sample overflows"):
        ScaledQuantizer(scaling="norm").fit(np.full((3, 9), 1.7e308))


def test_codes_do_not_depend_on_the_batch():
    X = mixture(300, 7)
    for part in (None, product().set_params(n_subspaces=1), signs()):
        sq = ScaledQuantizer(part).fit(X)
        codes = sq.transform(X)
        assert_array_equal(np.concatenate([sq.transform(x[None]) for x in X]), codes)


def test_memory_maps_and_dask_give_the_same_bits(tmp_path):
    da = pytest.importorskip("dask.array")
    X = mixture(500, 6)
    weights = np.random.default_rng(0).integers(0, 3, 500).astype(float)
    np.save(tmp_path / "X.npy", X)
    for part in (None, signs(), product()):
        reference = ScaledQuantizer(part).fit(X, sample_weight=weights)
        for given in (
            np.load(tmp_path / "X.npy", mmap_mode="r"),
            da.from_array(X, chunks=(90, 6)),
        ):
            other = ScaledQuantizer(part).fit(given, sample_weight=weights)
            for a, b in zip(reference.codebooks_, other.codebooks_, strict=True):
                assert_array_equal(a, b, strict=True)
            assert other.distortion_ == reference.distortion_


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("n_scale_bits", [6, "float32"])
@pytest.mark.parametrize(
    "part", [None, product(), ResidualQuantizer(2, 4, random_state=0)]
)
def test_searches_are_brute_force_over_reconstructions(part, n_scale_bits, metric):
    X, queries = mixture(200, 6), mixture(9, 6, seed=1)
    sq = ScaledQuantizer(part, n_scale_bits=n_scale_bits)
    search = QuantizedNeighbors(sq, n_neighbors=5, metric=metric).fit(X)
    decoded = search.quantizer_.quantize(X).astype(np.float64)
    product = queries.astype(np.float64) @ decoded.T
    norms = np.linalg.norm(decoded, axis=1)
    expected = {
        "sqeuclidean": np.square(queries[:, None] - decoded).sum(axis=2),
        "inner_product": -product,
        "cosine": 1 - product / norms / np.linalg.norm(queries, axis=1)[:, None],
    }[metric]
    distances, _ = search.kneighbors(queries)
    assert_allclose(distances, np.sort(expected, axis=1)[:, :5], rtol=1e-4, atol=2e-5)


def test_parts_with_a_length_of_their_own_have_no_table():
    part = BinaryQuantizer(spherical=True, radius="float32")
    sq = ScaledQuantizer(part).fit(mixture(50))
    with pytest.raises(AttributeError, match="codes a length of its own"):
        sq.distance_table  # noqa: B018
    with pytest.raises(AttributeError, match="the range of the scales"):
        sq.partial_fit  # noqa: B018


def test_codebooks_are_those_of_the_part_and_the_scale(tmp_path):
    X = mixture(100)
    for n_scale_bits in (3, "float32"):
        sq = ScaledQuantizer(signs(), n_scale_bits=n_scale_bits).fit(X)
        n_own = len(sq.codebooks_) - 6
        given = ScaledQuantizer.from_codebooks(
            sq.codebooks_, quantizer=signs(), n_scale_bits=n_scale_bits
        )
        assert_array_equal(given.transform(X), sq.transform(X), strict=True)
        assert np.isnan(given.distortion_) and given.n_features_in_ == 6
        assert sq.bits_per_sample_ == pytest.approx(
            6 + (3 if n_own == 1 else np.log2(0x7F80) + 16)
        )
        save(sq, tmp_path / "codec.skvq")
        assert_array_equal(load(tmp_path / "codec.skvq").transform(X), sq.transform(X))
    implied = ScaledQuantizer.from_codebooks(
        [*sq.codebooks_[:6], [[0.0], [1.0], [1.0], [4.0]]], quantizer=signs()
    )
    assert implied.n_scale_bits == 2
    assert implied.quantize([[8.0] * 6]).tolist() == [[4.0] * 6]


@pytest.mark.parametrize(
    ("scale_table", "parameters", "match"),
    [
        ([[1.0], [2.0]], {}, "zero, and others in ascending order"),
        ([[0.0], [2.0], [3.0]], {}, "shape \\(3, 1\\)"),
        ([[0.0, 1.0], [2.0, 3.0]], {}, "shape \\(2, 2\\)"),
        ([[0.0], [2.0]], {"n_scale_bits": 3}, "n_scale_bits=1"),
        ([[0.0], [2.0]], {"n_scale_bits": "float32"}, "n_scale_bits='float32'"),
    ],
)
def test_tables_that_are_no_scales_are_refused(scale_table, parameters, match):
    tables = [[[-1.0], [1.0]]] * 3
    with pytest.raises(ValueError, match=match):
        ScaledQuantizer.from_codebooks(
            [*tables, scale_table], quantizer=signs(), **parameters
        )
    with pytest.raises(ValueError, match="expected those of the part"):
        ScaledQuantizer.from_codebooks([scale_table], quantizer=signs())


@pytest.mark.parametrize("value", [0, 17, 2.5, "float16", True, None])
def test_bits_of_the_scale_are_checked(value):
    with pytest.raises(ValueError, match="n_scale_bits"):
        ScaledQuantizer(n_scale_bits=value).fit(mixture(9))


def test_alignments_are_cosines():
    X = mixture(40, 6, dtype=np.float64)
    X[5] = 0
    sq = ScaledQuantizer(gaussian_levels(1), scaling="unbiased").fit(X)
    found, decoded = sq._alignments(X), sq.quantize(X)
    norms = np.linalg.norm(X, axis=1) * np.linalg.norm(decoded, axis=1)
    expected = (X * decoded).sum(axis=1) / np.where(norms > 0, norms, 1)
    assert_allclose(found, np.where(norms > 0, expected, 1))
    assert ScaledQuantizer().fit(X)._alignments(X) is None


def test_unbiased_inner_products_are_right_in_the_mean(seed):
    """Over rotations; that of "norm" and of least squares is not, at one bit."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 32))
    y += x
    turns = ortho_group.rvs(32, size=2_000, random_state=seed)
    rows = x @ turns
    for part in (signs(), gaussian_levels(2)):
        errors = {}
        for scaling in SCALINGS:
            sq = ScaledQuantizer(part, scaling=scaling, n_scale_bits="float32").fit(
                rows
            )
            products = np.einsum("nd,nd->n", sq.quantize(rows), y @ turns)
            gaps = products - x @ y
            errors[scaling] = gaps.mean() / (gaps.std() / np.sqrt(len(gaps)))
        assert abs(errors["unbiased"]) < 3
        assert errors["least_squares"] < -10
        if isinstance(part, UniformQuantizer):
            assert errors["norm"] < -10  # signs of scale one are no centroids


@pytest.mark.parametrize(
    ("n_bits", "expected"), [(1, 0.3609), (2, 0.1160), (3, 0.0340), (4, 0.0093)]
)
def test_turboquant_has_the_published_errors(n_bits, expected, seed):
    X = (
        np.random.default_rng(seed + n_bits)
        .normal(size=(3_000, 128))
        .astype(np.float32)
    )
    turbo = RotatedQuantizer(
        ScaledQuantizer(gaussian_levels(n_bits), scaling="norm"),
        rotation="random",
        random_state=seed,
    )
    error = -turbo.fit(X).score(X) / X.var(axis=0).sum()
    # The mean of few rows has some error of its own.
    assert error == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("n_bits", [1, 2, 4])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_compositions_are_their_transcriptions(n_bits, scaling):
    X = mixture(400, 32, dtype=np.float64)
    composed = RotatedQuantizer(
        ScaledQuantizer(gaussian_levels(n_bits), scaling=scaling),
        rotation="random",
        random_state=0,
    ).fit(X)
    Z = (X - composed.mean_) @ composed.components_.T
    levels = standard_levels("gaussian", 2**n_bits)
    edges = (levels[1:] + levels[:-1]) / 2
    _, found = transcription(Z, lambda U: levels[np.searchsorted(edges, U)], scaling)
    expected = np.square(Z - found).sum(axis=1).mean()
    assert composed.distortion_ <= 1.01 * expected


def test_rabitq_is_within_its_bound(seed):
    X, queries = mixture(400, 64, seed), mixture(50, 64, seed + 1)
    rabitq = RotatedQuantizer(
        ScaledQuantizer(signs(), scaling="unbiased"),
        rotation="random",
        random_state=seed,
    ).fit(X)
    bound = rabitq.inner_product_error_bound(X, queries)
    about = queries.astype(np.float64)
    errors = abs(about @ (rabitq.quantize(X) - X).T)
    assert 0 < (errors > bound).mean() < 0.08
    with pytest.raises(ValueError, match="unbiased"):
        RotatedQuantizer(ScaledQuantizer(), rotation="random").fit(
            X
        ).inner_product_error_bound(X, queries)


@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
def test_a_rotation_within_is_searched_as_well(metric):
    X, queries = mixture(100), mixture(5, seed=1)
    sq = ScaledQuantizer(RotatedQuantizer(product(), random_state=0)).fit(X)
    table, codes = sq.distance_table(queries, metric), sq.transform(X)
    factor, offset = sq.row_terms(codes, metric)
    begins = np.append(0, np.cumsum(sq.codebook_sizes_[:-2]))
    found = factor * table[:, begins + codes[:, :-1].astype(int)].sum(axis=2)
    decoded = sq.inverse_transform(codes).astype(np.float64)
    expected = -(queries.astype(np.float64) @ decoded.T)
    if metric == "sqeuclidean":
        found = found + offset
        expected = 2 * expected + np.square(decoded).sum(axis=1)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
