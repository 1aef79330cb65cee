"""What has gone wrong in other libraries, by their public reports: right here.

A growing table.  A row has the library, its report, what went wrong there, and a
function that holds an input of that kind and the right answer.  A row is added for a
report that has been read, and only if the answer could be wrong here.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances, exact_distances
from sklearn.exceptions import ConvergenceWarning
from table import mixture
from threadpoolctl import threadpool_limits

import skvq
from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    RotatedQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.codes import pack, unpack
from skvq.io import FormatError, load_codes
from skvq.metrics import distortion
from skvq.nearest import nearest


class Report(NamedTuple):
    """A report, and the function that says what is right.

    Attributes
    ----------
    where : str
        Repository and number.
    wrong : str
        What went wrong there.
    check : callable
        Takes a seed.
    """

    where: str
    wrong: str
    check: object


REPORTS = []


def report(where, wrong):
    """Add a row to the table."""

    def add(check):
        REPORTS.append(Report(where, wrong, check))
        return check

    return add


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def lloyd(table, **parameters):
    """K-means from given codewords, until nothing changes."""
    parameters = {"max_iter": 100, "tol": 0, **parameters}
    return VectorQuantizer(len(table), init=np.asarray(table), **parameters)


def assert_centres_are_means(quantizer, X):
    """Each codeword is the mean of the rows that have its code, and the nearest."""
    codes, table = quantizer.transform(X).ravel(), quantizer.codebooks_[0]
    assert_array_equal(codes, distances(X, table).argmin(axis=1))
    for code in np.unique(codes):
        assert_allclose(table[code], X[codes == code].mean(axis=0), rtol=1e-6)


# -- k-means of scikit-learn -----------------------------------------------------------


@report("scikit-learn/scikit-learn#28055", "relocation of empty clusters never ends")
def relocation_ends(seed):
    X = [[100, 100], [100, 102], [106, 100], [107, 101], [107, 101], [108, 100.0]]
    init = [[98, 104], [103, 100], [109, 102], [110, 100], [111, 100], [112, 100.0]]
    quantizer = lloyd(init, max_iter=10_000)
    with pytest.warns(ConvergenceWarning, match="distinct"):
        quantizer.fit(X)
    assert quantizer.distortion_ == 0
    assert quantizer.n_iter_ < 20


@report(
    "scikit-learn/scikit-learn#34134",
    "labels_ are not those of the centres after a relocation",
)
def labels_follow_relocation(seed):
    X = column(1, 2, 3)
    quantizer = lloyd(column(4, 0, 1), max_iter=10).fit(X)
    assert_centres_are_means(quantizer, X)
    assert_allclose(quantizer.distortion_, -quantizer.score(X), atol=1e-12)
    assert quantizer.distortion_ == 0
    assert_array_equal(quantizer.code_counts_[0], [1, 1, 1])


@report("scikit-learn/scikit-learn#12506", "centres are not the means of their labels")
def centres_are_means(seed):
    X = mixture(500, 4, seed, dtype=np.float64)
    quantizer = VectorQuantizer(5, random_state=seed, tol=0, max_iter=300).fit(X)
    assert_centres_are_means(quantizer, X)


@report("scikit-learn/scikit-learn#10847", "the sum of all rows changes")
def sums_are_kept(seed):
    X = np.random.default_rng(seed).normal(size=(400, 2))
    quantizer = VectorQuantizer(8, random_state=seed, tol=0, max_iter=300).fit(X)
    assert_allclose(quantizer.quantize(X).sum(axis=0), X.sum(axis=0), atol=1e-8)


@report("scikit-learn/scikit-learn#20216", "a seed gives other labels at each fit")
def seeds_fix_labels(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(1800, 2))
    X[:700] += 3
    X[1200:] += [3, -3]
    expected = VectorQuantizer(3, random_state=10).fit(X).transform(X)
    for n_threads in (1, 2, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            found = VectorQuantizer(3, random_state=10).fit(X).transform(X)
        assert_array_equal(found, expected)


@report("scikit-learn/scikit-learn#9287", "another number of jobs gives other labels")
def jobs_change_nothing(seed):
    X = np.array([[1, 2], [1, 4], [1, 0], [4, 2], [4, 4], [4, 0.0]])
    with parallel_config(backend="threading"):  # starts at once
        found = [
            ProductQuantizer(2, 2, n_jobs=n_jobs, random_state=seed).fit(X).transform(X)
            for n_jobs in (1, 2)
        ]
    assert_array_equal(*found)
    labels = VectorQuantizer(2, random_state=seed, n_init=60).fit(X).transform(X)
    assert_array_equal(labels[:3], labels[:1].repeat(3, axis=0))
    assert_array_equal(labels[3:], labels[3:4].repeat(3, axis=0))


@report("scikit-learn/scikit-learn#7705", "k-means++ looks beyond the end, float32")
def sums_of_probabilities_end_within(seed):
    rows = [[33790.3671875, 14420.83203125, -2311.5], [506.07305908, 1.25, 7.5]]
    X = np.repeat(np.array(rows, np.float32), 2000, axis=0)
    X += np.random.default_rng(seed).normal(size=X.shape).astype(np.float32) / 256
    for init in ("k-means++", "random"):
        quantizer = VectorQuantizer(5, init=init, random_state=seed).fit(X)
        assert np.isfinite(quantizer.codebooks_[0]).all()
        assert quantizer.distortion_ < 1


@report("scikit-learn/scikit-learn#16529", "weights make finite rows NaN")
def weights_of_any_size(seed):
    X = mixture(100, 8, seed, dtype=np.float64)
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(100) < 0.7, 0.0, 10.0 ** rng.uniform(-12, 3, 100))
    for n in (2, 20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            quantizer = VectorQuantizer(n, random_state=seed)
            quantizer.fit(X, sample_weight=weights)
        assert np.isfinite(quantizer.codebooks_[0]).all()
        assert np.isfinite(quantizer.distortion_)


@report(
    "scikit-learn/scikit-learn#13486",
    "a codeword that is moved to a row of another weight is not that row",
)
def weighted_rows_are_reached(seed):
    X = column(0, 1, 2, 3, 1000)
    weights = [1.0, 1, 1, 1, 1e-3]
    quantizer = lloyd(column(0, 1, 2, 3, -50)).fit(X, sample_weight=weights)
    assert_allclose(np.sort(quantizer.codebooks_[0].ravel()), X.ravel())
    assert quantizer.distortion_ == 0


@report("scikit-learn/scikit-learn#30750", "weights of mini-batches are not repeats")
def weights_of_batches_are_repeats(seed):
    X = np.repeat(column(0, 10), 60, axis=0)
    weights = np.where(X[:, 0] == 0, 9.0, 1.0)
    X += np.random.default_rng(seed).normal(size=X.shape)
    repeated = np.repeat(X, weights.astype(int), axis=0)
    parameters = {"learning": "minibatch", "batch_size": 30, "max_iter": 100}
    one = VectorQuantizer(1, random_state=seed, **parameters)
    mean = np.average(X[:, 0], weights=weights)
    found = one.fit(X, sample_weight=weights).codebooks_[0][0, 0]
    again = one.fit(repeated).codebooks_[0][0, 0]
    assert found == pytest.approx(mean, abs=0.15)
    assert again == pytest.approx(mean, abs=0.15)


@report("scikit-learn/scikit-learn#10099", "fewer distinct rows are not told")
def few_rows_are_told(seed):
    X = np.repeat(np.eye(3), 5, axis=0)
    with pytest.warns(ConvergenceWarning, match="3 distinct"):
        quantizer = VectorQuantizer(8, random_state=seed).fit(X)
    assert quantizer.distortion_ == 0


@report("scikit-learn/scikit-learn#9354", "distances of float32 lose their last digits")
def distances_of_near_rows(seed):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(50, 5)) + 1e4).astype(np.float32)
    table = (rng.normal(size=(30, 5)) + 1e4).astype(np.float32)
    exact = exact_distances(X, table)
    codes, found = nearest(X, table)
    assert_array_equal(codes, exact.argmin(axis=1))
    assert_allclose(found, exact.min(axis=1).astype(float), rtol=1e-4)


@report(
    "uxlfoundation/scikit-learn-intelex#25", "the inertia of near rows is zero, float32"
)
def distortion_of_near_rows(seed):
    X = np.array([[-1.0001], [-0.9999], [0.9999], [1.0001]], dtype=np.float32)
    quantizer = lloyd([[-1.0], [1.0]]).fit(X)
    about = X - quantizer.quantize(X)
    assert_allclose(quantizer.distortion_, np.square(about).mean(), rtol=1e-3)
    assert_allclose(quantizer.distortion_, 1e-8, rtol=1e-3)


@report("scikit-learn/scikit-learn#28827", "errors of uint8 wrap around")
def errors_of_bytes(seed):
    X = np.array([[0], [16], [255]], dtype=np.uint8)
    quantizer = VectorQuantizer.from_codebooks([np.array([[16.0], [250.0]])])
    assert_allclose(-quantizer.score(X), (256 + 0 + 25) / 3)
    assert_allclose(distortion(X[:1], X[1:2]), 256)


# -- bins of scikit-learn --------------------------------------------------------------


def optimal_levels(n_levels, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some have fewer values than levels
        quantizer = UniformQuantizer(n_levels, levels="lloyd-max").fit(X)
    return quantizer, quantizer.transform(X).ravel()


@report("scikit-learn/scikit-learn#19416", "many equal values leave too few bins")
def equal_values_take_one_level(seed):
    _, codes = optimal_levels(3, column(0, 0, 0, 0, 0, 1, 1, 1, 2, 3))
    assert_array_equal(codes, [0, 0, 0, 0, 0, 1, 1, 1, 2, 2])


@report("scikit-learn/scikit-learn#19433", "all values are in the first bin")
def rare_values_have_levels(seed):
    _, codes = optimal_levels(3, column(*[0] * 8, 1, 2))
    assert_array_equal(codes, [0] * 8 + [1, 2])


@report("scikit-learn/scikit-learn#25594", "two values are in one bin of three")
def two_values_and_three_levels(seed):
    X = column(-1, -1, 1, 1, 1)
    quantizer, codes = optimal_levels(3, X)
    assert len(set(codes[:2])) == len(set(codes[2:])) == 1
    assert codes[0] != codes[-1]
    assert_array_equal(quantizer.quantize(X), X)


@report("scikit-learn/scikit-learn#13194", "edges of close values do not ascend")
def more_levels_than_values(seed):
    X = column(0.05, 0.05, 0.95)
    quantizer, codes = optimal_levels(10, X)
    assert_array_equal(codes, [0, 0, 1])
    assert_array_equal(quantizer.quantize(X), X)


@report("scikit-learn/scikit-learn#21708", "the inverse of removed bins is NaN")
def reconstructions_are_finite(seed):
    X = np.zeros((60, 3))
    X[-1] = [1e-9, 1, 0]
    for levels in ("uniform", "lloyd-max"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantizer = UniformQuantizer(20, levels=levels).fit(X)
        assert np.isfinite(quantizer.quantize(X)).all()
        assert abs(quantizer.quantize(X)[:, 2]).max() == 0


@report("scikit-learn/scikit-learn#30924", "a value at an edge is in the bin below")
def values_at_edges(seed):
    X = column(*np.arange(11) / 10)
    quantizer = UniformQuantizer(5).fit(X)
    codes = quantizer.transform(X).ravel()
    table = quantizer.codebooks_[0]
    exact = exact_distances(X, table)
    chosen = exact[np.arange(11), codes]
    # A value between two levels has one of both; the ends have those of the ends.
    assert (chosen - exact.min(axis=1) <= 1e-15).all()
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert codes[0] == 0
    assert codes[-1] == 4


# -- SciPy -----------------------------------------------------------------------------


@report("scipy/scipy#2279", "k-means minimises distances, not their squares")
def squares_are_minimised(seed):
    X = column(-2, -1, 1, 2, 9)
    quantizer = lloyd(X[1:3]).fit(X)
    assert_allclose(quantizer.codebooks_[0], [[0], [9]], atol=1e-12)
    assert_allclose(quantizer.distortion_, 2)


@report("scipy/scipy#24069", "the distortion is that of other centres")
def distortion_is_of_the_tables(seed):
    rows = [[8.0, 1e-5, 1e-5, 1e-5]] + [[1e-5] * 4] * 51 + [[0.0, 1e-5, 1e-5, 1e-5]]
    X = np.array(rows) / np.std(rows, axis=0).clip(1e-3)
    for n_init in (1, 5):
        quantizer = VectorQuantizer(3, n_init=n_init, random_state=seed).fit(X)
        exact = exact_distances(X, quantizer.codebooks_[0]).min(axis=1).mean()
        assert_allclose(quantizer.distortion_, float(exact), rtol=1e-9, atol=1e-14)
        assert_allclose(-quantizer.score(X), float(exact), rtol=1e-9, atol=1e-14)


@report("scipy/scipy#11462", "k-means++ fails on more features than rows")
def more_features_than_rows(seed):
    X = np.random.default_rng(seed).normal(size=(5, 1000))
    for init in ("k-means++", "random", "splitting", "progressive"):
        quantizer = VectorQuantizer(2, init=init, random_state=seed).fit(X)
        assert quantizer.transform(X).shape == (5, 1)
        assert_centres_are_means(quantizer, X)


@report("scipy/scipy#1773", "means of integers are integers")
def means_of_integers(seed):
    for dtype in (np.int64, np.uint8, np.int8, np.float64):
        quantizer = VectorQuantizer(1, random_state=seed)
        quantizer.fit(np.array([[1], [2]], dtype=dtype))
        assert_allclose(quantizer.codebooks_[0], [[1.5]])


@report("scipy/scipy#3702", "distances begin at 2^31, and larger ones are wrong")
def large_distances(seed):
    X = np.array([[1e12, 0], [0, -3e12]])
    table = np.array([[-1e12, 1], [5e11, 3], [2e12, -3e12]])
    codes, found = nearest(X, table)
    exact = exact_distances(X, table).astype(float)
    assert_array_equal(codes, exact.argmin(axis=1))
    assert_allclose(found, exact.min(axis=1))


# -- Faiss -----------------------------------------------------------------------------


@report("facebookresearch/faiss#3245", "of positions on the Earth another is nearest")
def positions_on_earth(seed):
    query = np.array([[4208848.0, 2334863.5, 4171170.2]], dtype=np.float32)
    table = np.array(
        [[4208292.0, 2335623.5, 4171305.0], [4208843.5, 2334869.5, 4171171.5]],
        dtype=np.float32,
    )
    # Enough of them that products of matrices would be used.
    far = np.random.default_rng(seed).normal(size=(500, 3)) * 1e5 + table[0]
    far = far[exact_distances(query, far)[0] > 1e4]
    table = np.vstack([table, far]).astype(np.float32)
    codes, found = nearest(np.repeat(query, 100, axis=0), table)
    assert_array_equal(codes, np.ones(100))
    assert_allclose(np.sqrt(found), 7.603453, rtol=0.01)


@report("facebookresearch/faiss#5285", "a common offset changes the order")
def offsets_change_nothing(seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-100, 100, (200, 4)).astype(np.float32)
    table = rng.integers(-100, 100, (60, 4)).astype(np.float32)
    codes, found = nearest(X, table)
    for offset in (2.0**16, -(2.0**20)):  # sums are exact
        again, moved = nearest(X + np.float32(offset), table + np.float32(offset))
        assert_array_equal(again, codes)
        assert_allclose(moved, found)


@report("facebookresearch/faiss#5327", "columns of zeros change distances")
def zeros_change_nothing(seed):
    rng = np.random.default_rng(seed)
    X = (rng.integers(-9, 9, (50, 3)) + 2.0**20).astype(np.float32)
    table = (rng.integers(-9, 9, (20, 3)) + 2.0**20).astype(np.float32)
    codes, found = nearest(X, table)
    wide = [np.pad(rows, ((0, 0), (0, 61))) for rows in (X, table)]
    again, of_wide = nearest(*wide)
    assert_array_equal(again, codes)
    assert_allclose(of_wide, found)


@report("facebookresearch/faiss#297", "squared distances are negative")
def distances_are_not_negative(seed):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(300, 20)) * 10.0 ** rng.uniform(-3, 4, 20)).astype(np.float32)
    codes, found = nearest(X, X)
    assert (found == 0).all()
    assert_array_equal(X[codes], X)


@report("facebookresearch/faiss#563", "distances depend on the number of queries")
def batches_change_nothing(seed):
    rng = np.random.default_rng(seed)
    table = rng.random((2000, 64), dtype=np.float32)
    table[:, 0] += np.arange(2000) / 1000
    codes, found = nearest(table[:300], table)
    for n in (1, 5, 20, 21):
        some, of_some = nearest(table[:n], table)
        assert_array_equal(some, codes[:n])
        assert_array_equal(of_some, found[:n])


@report("facebookresearch/faiss#3720", "ten distinct rows are not ten centroids")
def as_many_codewords_as_rows(seed):
    rows = np.random.default_rng(seed).normal(size=(10, 2))
    X = np.vstack([rows, rows])
    quantizer = VectorQuantizer(10, random_state=seed).fit(X)
    assert_array_equal(np.sort(quantizer.transform(X).ravel()), np.arange(10).repeat(2))
    assert_allclose(quantizer.quantize(X), X, rtol=1e-12)


@report("facebookresearch/faiss#237", "fewer rows than centroids are an error")
def fewer_rows_than_codewords(seed):
    X = np.random.default_rng(seed).normal(size=(111, 128)).astype(np.float32)
    with pytest.warns(ConvergenceWarning):
        quantizer = ProductQuantizer(8, 256, random_state=seed).fit(X)
    assert_allclose(quantizer.quantize(X), X, rtol=1e-5, atol=1e-5)


@report("facebookresearch/faiss#2285", "codes of six bits are read as bytes")
def codes_of_six_bits(seed):
    X = np.random.default_rng(seed).random((1000, 10), dtype=np.float32)
    quantizer = ProductQuantizer(5, 64, random_state=seed).fit(X)
    codes = quantizer.transform(X[:9])
    assert codes.shape == (9, 5)
    assert codes.max() < 64
    packed = pack(codes, quantizer.codebook_sizes_, row_aligned=True)
    assert packed.shape == (9, 4)  # 30 bits
    sizes = quantizer.codebook_sizes_
    assert_array_equal(unpack(packed, sizes, n_samples=9, row_aligned=True), codes)


@report("facebookresearch/faiss#5381", "a constant row is divided by zero")
def constant_rows(seed):
    X = mixture(60, 16, seed)
    X[:3] = [[0.0], [2.5], [-1e30]]
    for inner in (BinaryQuantizer(), UniformQuantizer(4)):
        scaled = skvq.ScaledQuantizer(inner)
        decoded = scaled.fit(X[3:]).quantize(X)
        assert np.isfinite(decoded).all()
        assert_array_equal(decoded[0], 0)


@report("facebookresearch/faiss#1189", "all codes are decoded to the same row")
def small_values_keep_their_codes(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(64, 32)) / 50 + 1e-3
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    quantizer = UniformQuantizer(256).fit(X)
    decoded = quantizer.inverse_transform(quantizer.transform(X))
    assert_array_equal(nearest(X, decoded)[0], np.arange(64))
    assert abs(decoded - X).max() <= np.ptp(X, axis=0).max() / 255


@report("facebookresearch/faiss#5400", "lengths in a file are believed")
def lengths_in_files_are_checked(seed):
    from test_files import codes_bytes

    for n_samples in (2**20, 2**40, 2**63):
        content = codes_bytes((256, 256), n_samples, bytes(6))
        path = LATEST.folder / "codes"
        path.write_bytes(content)
        with pytest.raises(FormatError, match="damaged"):
            load_codes(path)


# -- hnswlib and others ----------------------------------------------------------------


@report("nmslib/hnswlib#34", "the distance to the first item is out of range")
def cosine_distances(seed):
    X = np.array(
        [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1.0]]
    )
    codec = VectorQuantizer.from_codebooks([X], metric="cosine")
    found, rows = codec_neighbors(codec, X, 8)
    assert_array_equal(rows[:, 0], np.arange(8))
    angles = np.arccos(np.clip(1 - found, -1, 1)) / np.pi * 4
    assert_allclose(angles[0], [0, 1, 1, 2, 2, 3, 3, 4], atol=1e-6)


def codec_neighbors(codec, X, n_neighbors):
    search = QuantizedNeighbors(codec, n_neighbors, metric="cosine").fit(X)
    return search.kneighbors(X)


@report("nmslib/hnswlib#313", "a row is found more than once")
def rows_are_found_once(seed):
    X = mixture(200, 6, seed)
    codec = ProductQuantizer(3, 16, random_state=seed)
    _, rows = QuantizedNeighbors(codec, 20).fit(X).kneighbors(X[:10])
    assert all(len(set(found)) == 20 for found in rows.tolist())


@report("nmslib/hnswlib#677", "counts in a file that disagree overflow the heap")
def counts_in_files_agree(seed):
    from test_files import codes_bytes

    for body in (bytes(1), bytes(7), bytes(9)):
        path = LATEST.folder / "codes"
        path.write_bytes(codes_bytes((256, 256), 4, body))
        with pytest.raises(FormatError, match="damaged"):
            load_codes(path)


@report("NVIDIA/cuml#2050", "NaN in the rows gives centroids of zeros")
def nans_are_refused(seed):
    X = mixture(50, 3, seed)
    X[7, 1] = np.nan
    for quantizer in (VectorQuantizer(4), VectorQuantizer(4, learning="minibatch")):
        with pytest.raises(ValueError, match="NaN"):
            quantizer.fit(X)


@report("lance-format/lance#575", "a cluster that is empty ends the process")
def empty_clusters_are_filled(seed):
    X = np.repeat(np.arange(20.0), 30)[:, None] + np.zeros(4)
    X[:, 1] = 0
    start = np.full((16, 4), 1e6)
    start[0] = X.mean(axis=0)
    quantizer = lloyd(start).fit(X)
    assert (quantizer.code_counts_[0] > 0).all()
    assert quantizer.distortion_ < 2


@report("ClickHouse/ClickHouse#119117", "an offset of 10^5 makes half of codes wrong")
def probes_between_two_codewords(seed):
    probes = np.linspace(0, 1, 101)[:-1, None].astype(np.float32)
    table = np.array([[0.0], [1.0]], np.float32) + np.float32(1e5)
    X = probes + np.float32(1e5)
    exact = exact_distances(X, table)
    assert_array_equal(nearest(X, table)[0], exact.argmin(axis=1))


# -- nanopq and vector-quantize-pytorch ------------------------------------------------


@report("matsui528/nanopq#18", "decoded rows are compared in another basis")
def decoded_rows_are_in_the_basis_of_rows(seed):
    X = np.random.default_rng(seed).random((100, 12)).astype(np.float32)
    inner = ProductQuantizer(4, 10)
    rotated = RotatedQuantizer(inner, random_state=seed).fit(X)
    decoded = rotated.inverse_transform(rotated.transform(X))
    error = np.square(X - decoded.astype(float)).sum(axis=1).mean()
    assert_allclose(error, rotated.distortion_, rtol=1e-4)
    assert error < np.square(X - X.mean(axis=0)).sum(axis=1).mean() / 2


@report(
    "lucidrains/vector-quantize-pytorch#224", "codes do not give the quantized rows"
)
def codes_give_the_quantized_rows(seed):
    X = np.random.default_rng(seed).normal(size=(300, 16)).astype(np.float32)
    quantizer = VectorQuantizer(64, random_state=seed).fit(X)
    decoded = quantizer.inverse_transform(quantizer.transform(X))
    assert_array_equal(decoded, quantizer.quantize(X))
    assert_array_equal(decoded, quantizer.codebooks_[0][quantizer.transform(X).ravel()])


@report(
    "lucidrains/vector-quantize-pytorch#71", "indices of stages do not sum to the rows"
)
def stages_sum_to_the_rows(seed):
    X = np.random.default_rng(seed).normal(size=(300, 16))
    quantizer = ResidualQuantizer(3, 16, random_state=seed).fit(X)
    codes = quantizer.transform(X)
    tables = zip(quantizer.codebooks_, codes.T, strict=True)
    expected = sum(table[stage] for table, stage in tables)
    assert_allclose(quantizer.quantize(X), expected, rtol=1e-9, atol=1e-9)


@report("lucidrains/vector-quantize-pytorch#111", "groups of stages cannot be decoded")
def groups_of_stages(seed):
    X = np.random.default_rng(seed).normal(size=(100, 4))
    stages = ResidualQuantizer(2, 5)
    quantizer = ProductQuantizer(2, quantizer=stages, random_state=seed).fit(X)
    codes = quantizer.transform(X)
    assert codes.shape == (100, 4)
    assert_array_equal(quantizer.inverse_transform(codes), quantizer.quantize(X))


@report("lucidrains/vector-quantize-pytorch#207", "indices of levels are negative")
def codes_of_levels_are_in_range(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(500, 4)) * 10.0 ** rng.uniform(-3, 6, (500, 1))
    X[0] = [-1e150, 1e150, -0.0, 5e-324]
    quantizer = FiniteScalarQuantizer((8, 8, 8, 8)).fit(X)
    codes = quantizer.transform(X)
    assert codes.min() >= 0
    assert codes.max() < 8
    assert_array_equal(quantizer.inverse_transform(codes), quantizer.quantize(X))


@report(
    "lucidrains/vector-quantize-pytorch#107", "an index is the size of the codebook"
)
def ids_of_levels_are_in_range(seed):
    levels = (8, 8, 8, 6, 5)
    X = np.random.default_rng(seed).normal(size=(2000, 5)).astype(np.float16) * 9
    codes = FiniteScalarQuantizer(levels).fit(X).transform(X)
    assert (codes.max(axis=0) < np.array(levels)).all()
    places = np.cumprod([1, *levels[:-1]])
    ids = codes.astype(np.int64) @ places
    assert 0 <= ids.min() <= ids.max() < 15360


# -- the table -------------------------------------------------------------------------


class LATEST:
    """Where the running row may write."""

    folder = None


@pytest.mark.parametrize("peer", REPORTS, ids=lambda peer: peer.where)
def test_what_went_wrong_elsewhere_is_right(peer, seed, tmp_path, monkeypatch):
    monkeypatch.setattr(LATEST, "folder", tmp_path)
    peer.check(seed)


def test_the_table_has_each_report_once():
    places = [peer.where for peer in REPORTS]
    assert len(set(places)) == len(places) >= 20
