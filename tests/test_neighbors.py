"""The search over codes, against all distances from the reconstructions."""

import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import Isomap
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import BY_NAME, each, mixture, pq, rq

import skvq
from skvq import (
    BinaryQuantizer,
    KroneckerQuantizer,
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
    VectorQuantizer,
    neighbors,
)
from skvq import nearest as engine
from skvq.codes import pack

METRICS = ("euclidean", "sqeuclidean", "cosine", "inner_product")
# Of every way in which codes are summed and packed.
NAMES = [
    "vq-two-bytes",
    "pq-defaults",
    "pq-sizes",
    "pq-of-rq",
    "rq-defaults",
    "aq-searched",
    "multiscale-pairs",
    "uniform-two-bytes",
    "fsq-defaults",
    "binary-defaults",
    "binary-spherical-learned",
    "binary-spherical-float32",
]


def rows(*names):
    return each([BY_NAME[name] for name in names])


def search_in(row, metric="euclidean", n_neighbors=5, **parameters):
    """Return a search in the codes of a row of the table, and its samples."""
    frozen = FrozenEstimator(row.fitted())
    search = QuantizedNeighbors(frozen, n_neighbors, metric=metric, **parameters)
    return search.fit(row.data(seed=1)), row.data(seed=1)


def all_distances(queries, rows, metric):
    pairs = np.repeat(queries, len(rows), axis=0), np.tile(rows, (len(queries), 1))
    found = engine.paired(*pairs, "sqeuclidean" if metric == "euclidean" else metric)
    found = found.reshape(len(queries), len(rows))
    return np.sqrt(found) if metric == "euclidean" else found


def assert_nearest(found, distances):
    """Assert that these are the smallest distances, the lower index first of equals."""
    values, indices = found
    k, n = indices.shape[1], len(indices)
    atol = 1e-6 * np.abs(distances[np.isfinite(distances)]).max()
    expected = np.sort(distances, axis=1)[:, :k]
    assert values.dtype == np.float64
    assert indices.dtype == np.intp
    assert_allclose(values, expected, rtol=1e-6, atol=atol)
    assert_array_equal(np.take_along_axis(distances, indices, axis=1), values)
    assert (np.diff(values, axis=1) >= 0).all()
    equal = np.diff(values, axis=1) == 0
    assert (np.diff(indices, axis=1)[equal] > 0).all()
    assert all(len(set(row)) == k for row in indices.tolist()), n


@pytest.mark.parametrize("metric", METRICS)
@rows(*NAMES)
def test_of_reconstructions_the_nearest_are_found(row, metric):
    search, X = search_in(row, metric)
    queries = row.data(9, seed=2)
    decoded = search.quantizer_.quantize(X)
    distances = all_distances(queries, decoded, metric)
    assert_nearest(search.kneighbors(queries), distances)
    if row.name == "pq-defaults":
        assert_nearest(search.kneighbors(queries, len(X)), distances)


@rows("pq-defaults", "rq-defaults", "aq-searched")
def test_rows_are_no_neighbours_of_their_own(row):
    search, X = search_in(row)
    decoded = search.quantizer_.quantize(X)
    distances = all_distances(decoded, decoded, "euclidean")
    np.fill_diagonal(distances, np.inf)
    assert_nearest(search.kneighbors(), distances)
    # ... by the rows themselves, where they are there, as scikit-learn has it.
    search.set_params(rerank=len(X)).fit(X)
    found, exact = search.kneighbors(), NearestNeighbors().fit(X).kneighbors()
    assert_array_equal(found[1], exact[1])
    assert_allclose(found[0], exact[0], rtol=1e-4)


def test_of_many_equal_rows_each_is_left_out_and_the_first_come_first():
    grid = UniformQuantizer(4, clip_range=(-1.0, 1.0))
    search = QuantizedNeighbors(grid, 3).fit(np.full((30, 2), 0.25))
    distances, indices = search.kneighbors()
    assert_array_equal(distances, 0)
    expected = [[i for i in range(4) if i != j][:3] for j in range(30)]
    assert_array_equal(indices, expected)
    assert_array_equal(search.kneighbors([[0.5, 0.0]])[1], [[0, 1, 2]])


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_compared_again_is_right(metric, tmp_path):
    X, queries = BY_NAME["pq-even"].data(seed=1), BY_NAME["pq-even"].data(20, seed=2)
    exact = np.argsort(all_distances(queries, X, metric), axis=1, kind="stable")
    np.save(tmp_path / "X.npy", X)
    there = np.load(tmp_path / "X.npy", mmap_mode="r")
    coarse = QuantizedNeighbors(pq(), 10, metric=metric).fit(X)
    n_found = []
    for rerank in (None, 10, 40, 320):
        search = clone(coarse).set_params(rerank=rerank)
        found = search.fit(there).kneighbors(queries)[1]
        n_found.append((found[:, :, None] == exact[:, None, :10]).sum())
        if rerank is not None:
            assert np.shares_memory(search._rows_, there)
    assert n_found == sorted(n_found)
    assert_array_equal(found, exact[:, :10])
    # The same of codes, with the rows beside them.
    again = QuantizedNeighbors(search.quantizer_, 10, metric=metric, rerank=320)
    again.fit_codes(search.quantizer_.transform(X), X=there)
    assert_array_equal(again.kneighbors(queries)[1], found)


@rows("pq-sizes", "rq-defaults", "binary-spherical-learned")
def test_codes_may_come_in_any_form(row, tmp_path):
    search, X = search_in(row)
    queries, quantizer = X[:50], search.quantizer_
    expected = search.kneighbors(queries)
    codes = quantizer.transform(X)
    packed = pack(codes, quantizer.codebook_sizes_)
    packed.tofile(tmp_path / "codes")
    there = np.memmap(tmp_path / "codes", np.uint8, "r", shape=packed.shape)
    for given, parameters in (
        (codes, {}),
        (codes.astype(np.int64).tolist(), {}),
        (packed, {"packed": True}),
        (there, {"packed": True}),
        (np.asfortranarray(packed), {"packed": True}),
    ):
        for taken in (quantizer, FrozenEstimator(quantizer)):
            again = QuantizedNeighbors(taken).fit_codes(given, **parameters)
            assert vars(again.quantizer_) is vars(quantizer)
            assert again.n_features_in_ == X.shape[1]
            assert again.n_samples_fit_ == len(X)
            for a, b in zip(again.kneighbors(queries), expected, strict=True):
                assert_array_equal(a, b)


@rows("rq-defaults")
def test_tiles_make_no_difference(row, monkeypatch):
    search, X = search_in(row, rerank=20)
    expected = [search.kneighbors(X), search.kneighbors()]
    monkeypatch.setattr(neighbors, "_QUERY_ELEMENTS", 5000)
    monkeypatch.setattr(neighbors, "_ROW_ELEMENTS", 500)
    search, _ = search_in(row, rerank=20)
    found = [search.kneighbors(X), search.kneighbors()]
    for a, b in zip(np.ravel(expected), np.ravel(found), strict=True):
        assert a == b


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 1e3), ("float64", 1e7)])
def test_far_from_the_origin_digits_are_kept(dtype, offset):
    X = (mixture(400) + offset).astype(dtype)
    for quantizer in (pq(), rq(), rq(2, quantizer=ProductQuantizer(2, 8))):
        search = QuantizedNeighbors(quantizer, 10).fit(X)
        decoded = search.quantizer_.quantize(X).astype(np.float64)
        # Distances of equal rows are equal, so those that differ are told apart.
        distances = all_distances(X[:30], decoded, "euclidean")
        assert_nearest(search.kneighbors(X[:30]), distances)


@pytest.mark.parametrize("exponent", [-80, 60])
def test_scales_near_the_ends_of_the_dtype(exponent):
    X = np.ldexp(mixture(200), exponent)
    for quantizer in (pq(), rq()):
        search = QuantizedNeighbors(quantizer, 3, metric="sqeuclidean").fit(X)
        decoded = search.quantizer_.quantize(X)
        distances = all_distances(X[:30], decoded, "sqeuclidean")
        assert_nearest(search.kneighbors(X[:30]), distances)


# -- as scikit-learn's -----------------------------------------------------------------


@rows("pq-defaults")
def test_graph(row):
    search, X = search_in(row, n_neighbors=3)
    distances, indices = search.kneighbors(X)
    graph = search.kneighbors_graph(X, mode="distance")
    assert scipy.sparse.issparse(graph)
    assert graph.format == "csr"
    assert graph.shape == (len(X), len(X))
    assert_array_equal(graph.indices.reshape(-1, 3), indices)
    assert_array_equal(graph.data.reshape(-1, 3), distances)
    graph = search.kneighbors_graph(n_neighbors=2)
    assert_array_equal(graph.sum(axis=1), 2)
    assert_array_equal(graph.diagonal(), 0)
    # The row itself is one more.
    assert_array_equal(np.diff(search.transform(X).indptr), 4)
    assert len(search.get_feature_names_out()) == len(X)
    with pytest.raises(ValueError, match="mode='distances'"):
        search.kneighbors_graph(X, mode="distances")


def test_pipelines_of_graphs():
    X, y = mixture(120), np.arange(120) % 2
    X[y == 1] += 20
    search = QuantizedNeighbors(pq(3, 32), 5, rerank=40)
    classifier = make_pipeline(
        StandardScaler(), search, KNeighborsClassifier(5, metric="precomputed")
    )
    grid = {"quantizedneighbors__quantizer__n_codewords": [4, 16]}
    model = GridSearchCV(classifier, grid, cv=3).fit(X, y)
    assert model.best_score_ > 0.9
    clusters = make_pipeline(search, DBSCAN(eps=9, metric="precomputed"))
    assert set(clusters.fit_predict(X)) >= {0, 1}
    embedded = make_pipeline(
        search.set_params(n_neighbors=90), Isomap(n_neighbors=80, metric="precomputed")
    ).fit_transform(X)
    assert embedded.shape == (120, 2)


def test_it_is_cloned_pickled_and_told_of_names(tmp_path):
    frame = pd.DataFrame(mixture(100), columns=list("abcdef"))
    for search in (
        QuantizedNeighbors(rq()).fit(frame),
        QuantizedNeighbors(rq(), rerank=9).fit(frame),
    ):
        assert_array_equal(search.feature_names_in_, frame.columns)
        expected = search.kneighbors(frame)
        joblib.dump(search, tmp_path / "search")
        for copy in (
            pickle.loads(pickle.dumps(search)),
            joblib.load(tmp_path / "search"),
        ):
            for a, b in zip(copy.kneighbors(frame), expected, strict=True):
                assert_array_equal(a, b)
        with pytest.raises(NotFittedError):
            clone(search).kneighbors(frame)
    quantizer = rq().fit(frame)
    again = QuantizedNeighbors(quantizer).fit_codes(quantizer.transform(frame))
    again.kneighbors(frame)  # without a warning
    with pytest.raises(ValueError, match="sparse"):
        search.set_output(transform="pandas").transform(frame)


def test_a_fit_that_fails_changes_nothing():
    X = mixture(60)
    search = QuantizedNeighbors(pq()).fit(X)
    state = joblib.hash(search)
    with pytest.raises(ValueError, match="NaN"):
        search.fit(np.where(np.arange(60)[:, None] == 9, np.nan, X))
    quantizer = search.quantizer
    with pytest.raises(ValueError, match="codes"):
        search.set_params(quantizer=search.quantizer_).fit_codes(np.full((3, 3), 9))
    assert joblib.hash(search.set_params(quantizer=quantizer)) == state
    for name in ("kneighbors", "transform"):
        for bad in (X[:, :-1], X[0], X + 1j, scipy.sparse.csr_array(X), X[:0]):
            with pytest.raises((ValueError, TypeError)):
                getattr(search, name)(bad)


@pytest.mark.parametrize("wrap", [lambda one: one, FrozenEstimator])
def test_a_quantizer_that_is_fitted_anew_is_another(wrap):
    X = mixture(60)
    quantizer = pq().fit(X)
    search = QuantizedNeighbors(wrap(quantizer), rerank=None)
    if wrap is FrozenEstimator:
        search.fit(X)
    else:
        search.fit_codes(quantizer.transform(X))
    found = search.kneighbors(X)
    quantizer.fit(X[::-1] * 3 + 1)
    for one, other in zip(search.kneighbors(X), found, strict=True):
        assert_array_equal(one, other)


FITTED = pq().fit(mixture(50))
CODES = FITTED.transform(mixture(50))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, X: s.kneighbors(X, 51), "Expected n_neighbors <= n_samples_fit"),
        (lambda s, X: s.kneighbors(None, 50), "Expected n_neighbors < n_samples_fit"),
        (lambda s, X: s.kneighbors(X, 0), "n_neighbors=0"),
        (lambda s, X: s.kneighbors(X, 2.0), "n_neighbors=2.0"),
        (lambda s, X: s.set_params(rerank=9).kneighbors(X), "rerank=9 needs the rows"),
        (lambda s, X: s.set_params(rerank=0).fit(X), "'rerank'"),
        (lambda s, X: s.set_params(metric="manhattan").fit(X), "'metric'"),
        (lambda s, X: s.set_params(quantizer=NearestNeighbors()).fit(X), "'quantizer'"),
        (lambda s, X: s.fit_codes(CODES), "not fitted"),
        (
            lambda s, X: s.set_params(quantizer=KroneckerQuantizer()).fit(X),
            "no distance_table, .*: its reconstruction is a product",
        ),
        (lambda s, X: s.set_params(quantizer=SphericalQuantizer()).fit(X), "angles"),
        (
            lambda s, X: s.set_params(
                quantizer=ProductQuantizer(
                    quantizer=BinaryQuantizer(spherical=True, radius="uniform")
                )
            ).fit(X),
            "codes a length of its own",
        ),
        (
            lambda s, X: s.set_params(quantizer=FrozenEstimator(FITTED)).fit(X[:, 1:]),
            "X has 5 features, but the frozen quantizer was fitted on 6",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(call, message):
    X = mixture(50)
    with pytest.raises((ValueError, NotFittedError), match=message):
        call(QuantizedNeighbors(pq()).fit(X), X)


@pytest.mark.parametrize(
    ("codes", "parameters", "message"),
    [
        (CODES[:, :2], {}, "codes"),
        (CODES + 4, {}, "codes"),
        (CODES[:0], {}, "rows|sample"),
        (CODES, {"packed": True}, r"codes have dtype uint8 and shape \(50, 3\)"),
        (CODES[:, :1] + 0.5, {"packed": True}, "codes have dtype float"),
        (np.full((9, 1), 3, np.uint8), {"packed": True}, "padding bits"),
    ],
)
def test_codes_that_are_refused(codes, parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        QuantizedNeighbors(FITTED).fit_codes(codes, **parameters)


@pytest.mark.parametrize(
    ("X", "message"),
    [(None, "give them to fit_codes"), (mixture(49), "49 rows"), (CODES, "features")],
)
def test_rows_that_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        QuantizedNeighbors(FITTED, rerank=5).fit_codes(CODES, X=X)


def test_zero_rows_have_no_direction():
    X = mixture(50)
    search = QuantizedNeighbors(pq(), metric="cosine", rerank=9)
    with pytest.raises(ValueError, match="zero vectors: row 0"):
        search.fit(X).kneighbors(np.zeros((1, 6)))
    X[7] = 0
    with pytest.raises(ValueError, match="zero vectors: row 7"):
        search.fit(X)


def test_collections_of_dask_are_refused():
    array = pytest.importorskip("dask.array")
    X = mixture(50)
    search = QuantizedNeighbors(pq()).fit(X)
    with pytest.raises(TypeError, match="fit_codes"):
        search.kneighbors(array.from_array(X))
    with pytest.raises(TypeError, match="fit_codes"):
        search.fit(array.from_array(X))


# -- what quantizers answer ------------------------------------------------------------


def test_tables_of_samples_that_are_refused():
    X = mixture(50)
    for method, given in (("distance_table", X), ("row_terms", CODES)):
        with pytest.raises(NotFittedError):
            getattr(pq(), method)(given)
        for metric in ("euclidean", None, ["cosine"]):
            with pytest.raises(ValueError, match="expected one of sqeuclidean, cosine"):
                getattr(FITTED, method)(given, metric)
    with pytest.raises(ValueError, match="queries: X has 5 features"):
        FITTED.distance_table(X[:, 1:])
    with pytest.raises(ValueError, match=r"queries: .*NaN"):
        FITTED.distance_table(np.full((1, 6), np.nan))
    with pytest.raises(ValueError, match="zero vectors: row 1"):
        FITTED.distance_table(np.array([[1.0] * 6, [0.0] * 6]), "cosine")
    with pytest.raises(ValueError, match="overflow: scale X"):
        FITTED.distance_table(np.full((1, 6), 1e200))
    with pytest.raises(ValueError, match="codes"):
        FITTED.row_terms(CODES[:, 1:])
    residual = rq().fit(X)
    codes = residual.transform(X)
    with pytest.raises(ValueError, match="decodes 3"):
        residual.row_terms(codes[:, :2])
    assert residual.row_terms(codes[:0])[1].shape == (0,)
    grid = UniformQuantizer(2**32, clip_range=(-1, 1)).fit(X)
    with pytest.raises(ValueError, match="would take"):
        grid.distance_table(X)


def test_terms_take_four_bytes_where_they_can():
    X = mixture(300)
    for scale, expected in ((1.0, "float32"), (2.0**-80, "float64")):
        for dtype in ("float32", "float64"):
            samples = (X * scale).astype(dtype)
            quantizer = rq(2, fit_beam_size=1).fit(samples)
            codes = quantizer.transform(samples)
            (factor, offset), (other, _) = (
                quantizer.row_terms(codes, metric)
                for metric in ("sqeuclidean", "cosine")
            )
            assert factor is None
            assert offset.dtype == (expected if dtype == "float32" else "float64")
            assert other.dtype == dtype


# -- beside faiss, and in little memory ------------------------------------------------


@pytest.mark.parametrize("n_bits", [8, 4])
def test_neighbours_are_those_of_faiss(n_bits):
    faiss = pytest.importorskip("faiss")
    X, queries = mixture(3000, 16, seed=1), mixture(60, 16, seed=2)
    search = QuantizedNeighbors(pq(8, 2**n_bits), 10).fit(X)
    index = faiss.IndexPQ(16, 8, n_bits)
    index.pq.centroids.clear()
    tables = np.stack(search.quantizer_.codebooks_).astype(np.float32)
    faiss.copy_array_to_vector(tables.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add(X)
    theirs, indices = index.search(queries, 10)
    ours, found = search.kneighbors(queries)
    assert_allclose(np.square(ours), theirs, rtol=1e-4, atol=1e-4)
    # The same, except where the next one is as far.
    theirs = np.c_[theirs, index.search(queries, 11)[0][:, -1]]
    gaps = np.diff(theirs, axis=1)
    alone = (gaps > 1e-4) & (np.c_[np.ones(60), gaps[:, :-1]] > 1e-4)
    assert alone.mean() > 0.5
    assert_array_equal(found[alone], indices[alone])


MEASURE = """
import sys, threading
import numpy as np
from skvq import QuantizedNeighbors, UniformQuantizer

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line[:7] == "RssAnon")

X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
grid = UniformQuantizer(256).fit(X)
codes = np.memmap(sys.argv[1], np.uint8, "r").reshape(-1, 8)
most, done = [resident()], threading.Event()

def watch():
    while not done.wait(0.002):
        most.append(resident())

watcher = threading.Thread(target=watch)
watcher.start()
QuantizedNeighbors(grid, 100).fit_codes(codes, packed=True).kneighbors(X[:1])
done.set()
watcher.join()
print(codes.nbytes, 1024 * (max(most) - most[0]), 1024 * max(most))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_of_a_search_in_a_map(tmp_path):
    with open(tmp_path / "codes", "wb") as file:
        file.truncate(10**8)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "codes")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size, growth, most = map(int, done.stdout.split())
    assert size == 10**8
    assert growth < 10**8
    assert most < 2 * 10**8


def test_directions_and_buckets_of_what_is_left(tmp_path):
    """One estimator: cosine codewords, shared levels of the rest; kept and searched."""
    X = mixture(300, 8)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    codec = ResidualQuantizer(
        quantizer=[
            ("direction", VectorQuantizer(16, metric="cosine", random_state=0)),
            ("rest", UniformQuantizer(4, levels="lloyd-max", share_levels=True)),
        ]
    ).fit(X)
    skvq.save(codec, tmp_path / "codec")
    codec = skvq.load(tmp_path / "codec")
    assert len({id(table) for table in codec.codebooks_[1:]}) == 1
    assert 0 < codec.distortion_ < 0.3 * VectorQuantizer(16).fit(X).distortion_
    search = QuantizedNeighbors(codec, 5, metric="inner_product")
    distances, indices = search.fit_codes(codec.transform(X)).kneighbors(X[:20])
    products = -X[:20].astype(np.float64) @ codec.quantize(X).astype(np.float64).T
    assert_allclose(distances, np.sort(products, axis=1)[:, :5], rtol=1e-6)
    assert_allclose(np.take_along_axis(products, indices, axis=1), distances, rtol=1e-6)


def test_rows_beside_codes_are_kept_for_a_rerank_that_is_set_later():
    X = mixture(300, 8)
    quantizer = pq(4).fit(X)
    codes = quantizer.transform(X)
    later = QuantizedNeighbors(quantizer, 5).fit_codes(codes, X=X)
    at_once = QuantizedNeighbors(quantizer, 5, rerank=50).fit_codes(codes, X=X)
    assert_array_equal(
        later.kneighbors(X[:9])[1],
        QuantizedNeighbors(quantizer, 5).fit_codes(codes).kneighbors(X[:9])[1],
    )
    assert_array_equal(
        later.set_params(rerank=50).kneighbors(X[:9]), at_once.kneighbors(X[:9])
    )
