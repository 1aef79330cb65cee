"""Dask's collections: the same bits as in memory, and nothing computed unasked."""

import pickle
import re
import subprocess
import sys
import warnings
from contextlib import ExitStack

import dask
import dask.array as da
import dask.bag as bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask.delayed import Delayed
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from table import BY_NAME, LEARNERS, mixture, pq, rq, tables_of, vq

import skvq
import skvq.display
from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    QuantizedFeatures,
    SphericalQuantizer,
    UniformQuantizer,
    codes,
    metrics,
    nearest,
)
from skvq.learning import partitions
from skvq.learning import rows as seam
from skvq.learning.partitions import dask_rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Those that take hundreds of passes, by themselves.
LONG = [BY_NAME[name] for name in ("rq-defaults", "aq-shared", "rq-rate")]
# What the versions of Dask may change is seen in a few.
SOME = {"vq-defaults", "pq-shared", "rq-beam", "uniform-quantile", "features-vq"}


def each_learner(rows):
    marked = [
        pytest.param(
            row,
            id=row.name,
            marks=[]
            if row.name in SOME
            else [pytest.mark.thorough if row in LONG else pytest.mark.long],
        )
        for row in rows
    ]
    return pytest.mark.parametrize("row", marked)


# Whole blocks, or what has to be cut anew; all columns, or some.
CHUNKS = [(300, 6), (64, 6), (50, 4), ((7, 0, 200, 93), 3)]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def tiny_blocks(monkeypatch):
    monkeypatch.setattr("skvq.learning.rows.BLOCK_ELEMENTS", 64 * 6)


def lazy(X, chunks=(64, -1)):
    """Return an array that tells when it is computed."""
    if X.ndim == 1 or X.shape[1] != 6:
        chunks = -1 if X.ndim == 1 else (chunks[0], -1)
    return da.from_array(X, chunks=chunks)


def counted(X, computed, chunk=64):
    """Return an array whose chunks are noted when they are computed."""

    def load(block_info=None):
        ((start, stop), _) = block_info[None]["array-location"]
        computed.append(start)
        return X[start:stop]

    lengths = [min(chunk, len(X) - start) for start in range(0, len(X), chunk)]
    return da.map_blocks(
        load, chunks=(tuple(lengths), (X.shape[1],)), dtype=X.dtype, meta=X[:0]
    )


def distortion(estimator):
    # Its own, or that of what a transformer holds.
    own = hasattr(estimator, "distortion_")
    return (estimator if own else estimator.quantizer_).distortion_


def assert_same(a, b):
    for one, other in zip(tables_of(a), tables_of(b), strict=True):
        assert one.tobytes() == other.tobytes()
        assert type(one) is type(other)
    assert distortion(a) == distortion(b)


# -- fits ------------------------------------------------------------------------------


@each_learner([*LEARNERS, *LONG])
def test_a_fit_has_the_bits_of_one_in_memory(row, tiny_blocks, tmp_path):
    X = row.data(300)
    weights = np.arange(len(X)) % 4 * 0.5
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = row.make().fit(mapped, sample_weight=weights)
    # Every cut of the rows of some; of others the one that leaves no block whole.
    for i, chunks in enumerate(CHUNKS if row.name in SOME else CHUNKS[-1:], 1):
        w = lazy(weights) if i % 2 else weights
        assert_same(row.make().fit(lazy(X, chunks), sample_weight=w), expected)
    if row.name in SOME:
        assert_same(row.make().fit(lazy(X)), row.make().fit(X))


@pytest.mark.parametrize(
    "weights",
    [
        np.full(300, 3.0),
        np.full(300, 0.9999999999999),
        np.where(np.arange(300) < 130, 0, 7.0),
        np.where(np.arange(300) < 130, 1, 1e300),
        np.where(np.arange(300) % 2, 1e-300, 1e300),
        np.select([np.arange(300) % 2 == 1, np.arange(300) < 5], [1e-300, 1e300], 1),
        np.arange(300) % 3,
        np.ones(300, bool),
    ],
    ids=[
        "equal",
        "almost one",
        "none in some",
        "huge",
        "too small beside others",
        "too small beside some",
        "integers",
        "bools",
    ],
)
def test_weights_are_in_the_same_unit(weights, tiny_blocks):
    X = mixture(300)
    expected = vq().fit(X, sample_weight=weights)
    found = vq().fit(lazy(X), sample_weight=lazy(weights))
    assert_same(found, expected)
    score = expected.score(X, sample_weight=weights)
    assert found.score(lazy(X), sample_weight=weights) == pytest.approx(
        score, rel=1e-14
    )


def test_fitted_attributes_are_numpys(tiny_blocks):
    X = mixture(300)
    estimator = pq().fit(lazy(X))
    copy = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(copy.transform(X), estimator.transform(X))
    assert b"dask" not in pickle.dumps(estimator)


def test_whole_blocks_are_not_cut_anew(tiny_blocks):
    X = mixture(300)
    array = lazy(X, ((0, 128, 64, 64, 44), 6))
    rows, _ = dask_rows(array, None)
    assert [part.n_blocks for part in rows.source._parts] == [0, 2, 1, 1, 1]
    assert_same(vq().fit(array), vq().fit(X))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, np.float16, bool])
def test_dtypes(dtype, tiny_blocks):
    X = np.abs(mixture(300)).astype(dtype)
    assert_same(vq().fit(lazy(X)), vq().fit(X))


def test_chunks_are_in_the_dtype_that_the_array_names(tiny_blocks):
    X = mixture(300)
    array = lazy(X).map_blocks(lambda x: x.astype(np.float64), dtype=np.float32)
    assert_same(vq().fit(array), vq().fit(X))


@pytest.mark.parametrize(
    "declared, made, what",
    [
        (np.int64, lambda x: np.where(x > 5, np.nan, x), "float32.*declares int64"),
        (np.uint8, lambda x: (100 * x).astype(int), "int64.*declares uint8"),
        (np.float32, lambda x: x + 1j, "complex64.*declares float32"),
        (np.float32, lambda x: x.astype(object), "object.*declares float32"),
    ],
    ids=["not a number", "narrow", "complex", "objects"],
)
def test_no_dtype_is_declared_that_changes_values(declared, made, what, tiny_blocks):
    meta = np.ones((0, 6), declared)
    array = lazy(mixture(300)).map_blocks(made, dtype=declared, meta=meta)
    with pytest.raises(TypeError, match=f"chunk of dtype {what}"):
        vq().fit(array)


@pytest.mark.parametrize(
    "made, shape",
    [
        (lambda x: x[:-5], "(59, 6)"),
        (lambda x: x[:0], "(0, 6)"),
        (lambda x: np.append(x, x[:5], axis=0), "(69, 6)"),
        (lambda x: x[:, :5], "(64, 5)"),
    ],
    ids=["fewer", "none", "more", "narrower"],
)
def test_chunks_have_the_shape_that_the_array_declares(made, shape, tiny_blocks):
    X = mixture(300)
    array = da.map_blocks(made, lazy(X), chunks=lazy(X).chunks, meta=X[:0])
    words = f"chunk of shape {shape}, from row 0 on, where it declares (64, 6)"
    with pytest.raises(ValueError, match=re.escape(words)):
        vq().fit(array)
    weights = lazy(np.ones(300)).rechunk(64).map_blocks(lambda w: w[:-5], dtype=float)
    words = "chunk of 59 weights, from number 0 on, where it declares 64"
    with pytest.raises(ValueError, match=words):
        vq().fit(lazy(X), sample_weight=weights)


def test_a_pipeline_and_a_grid(tiny_blocks):
    X = mixture(300)
    grid = {"n_codewords": [2, 5]}
    found = GridSearchCV(vq(), grid, cv=3).fit(lazy(X))
    expected = GridSearchCV(vq(), grid, cv=3).fit(X)
    assert_array_equal(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    pipeline = make_pipeline(QuantizedFeatures(vq(8)), pq()).fit(lazy(X))
    expected = make_pipeline(QuantizedFeatures(vq(8)), pq()).fit(X)
    assert_array_equal(pipeline.transform(lazy(X)).compute(), expected.transform(X))


def test_batches_are_chunks_in_their_order():
    X, weights = mixture(300), np.arange(300) % 3 + 0.5
    row = BY_NAME["vq-minibatch"]
    found = row.make().partial_fit(lazy(X, (70, 4)), sample_weight=lazy(weights))
    expected = row.make()
    for start in range(0, 300, 70):
        cut = slice(start, start + 70)
        expected.partial_fit(X[cut], sample_weight=weights[cut])
    assert_same(found, expected)
    frame = dd.from_pandas(pd.DataFrame(X, columns=list("abcdef")), npartitions=3)
    found = row.make().partial_fit(frame)
    assert list(found.feature_names_in_) == list("abcdef")
    unknown = frame.to_dask_array()
    assert_same(row.make().partial_fit(unknown), found)
    with pytest.raises(ValueError, match="unknown lengths"):
        row.make().partial_fit(unknown, sample_weight=weights)
    with pytest.raises(ValueError, match="expected one for each"):
        row.make().partial_fit(unknown, sample_weight=lazy(weights))


@pytest.mark.parametrize(
    "X, error, words",
    [
        (da.ones((10, 2))[:, 0], ValueError, "Expected 2D array, got 1D array"),
        (da.ones((10, 2))[None], ValueError, "Expected 2D array, got 3D array"),
        (da.ones((10, 2))[:0], ValueError, r"0 sample\(s\)"),
        (da.ones((10, 2))[da.zeros(10) > 0], ValueError, r"0 sample\(s\)"),
        (dask.delayed(np.ones((3, 2))), TypeError, "dask.delayed.Delayed"),
        (bag.from_sequence([[1, 2], [3, 4]], npartitions=1), TypeError, "dask.bag"),
    ],
    ids=["vector", "cube", "empty", "all left out", "delayed", "bag"],
)
def test_collections_that_are_no_batches(X, error, words):
    estimator = BY_NAME["vq-minibatch"].make()
    with pytest.raises(error, match=words):
        estimator.partial_fit(X)
    assert not hasattr(estimator, "n_features_in_")


def test_a_batch_that_fails_changes_nothing():
    X = mixture(300)
    estimator = BY_NAME["vq-minibatch"].make().partial_fit(X)
    before = pickle.dumps(estimator)
    X[250, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        estimator.partial_fit(lazy(X))
    assert pickle.dumps(estimator) == before


# -- what is seen in the first pass ----------------------------------------------------


@each_learner(LEARNERS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_rows_that_are_not_finite_are_named(row, value, tiny_blocks):
    X = row.data(300)
    X[211, 1] = X[290, 0] = value
    what = "NaN" if np.isnan(value) else "infinity"
    words = f"Input X contains {what}: in row 211, column 1."
    weights = np.where(np.arange(300) == 211, 0, 1)
    for w in (None, weights):
        estimator = row.make()
        with pytest.raises(ValueError, match=re.escape(words)):
            estimator.fit(lazy(X), sample_weight=w)
        assert not hasattr(estimator, "n_features_in_")


def test_few_blocks_are_looked_at_where_few_are_asked_for(tiny_blocks):
    X, computed = mixture(300), []
    rows, _ = dask_rows(counted(X, computed), None)
    before = len(computed)
    (found,) = seam.run(_first_rows(rows))
    assert_array_equal(found, X[:3])
    assert computed[before:] == [0]


def _first_rows(rows):
    return (
        yield rows.gather(
            seam.picked, np.arange(3), most=3, blocks=rows.blocks_between(0, 3)
        )
    )


def test_rows_are_seen_once_a_pass(tiny_blocks):
    X, computed = mixture(300), []
    UniformQuantizer(8).fit(counted(X, computed))
    # The range and the distortion; finite or not is seen in the first of them.
    assert len(computed) == 2 * 5


def test_workers_that_differ_are_told_of(tiny_blocks, monkeypatch):
    engines = iter(["one", "another"] * 100)
    monkeypatch.setattr(
        "skvq.learning.partitions._engine", lambda backend: next(engines)
    )
    with pytest.warns(ConvergenceWarning, match=r"different ways.*: another; one\."):
        vq().fit(lazy(mixture(300)))


def test_fits_at_once_leave_the_configuration_as_it_is(tiny_blocks):
    """... whichever of them ends first."""
    key, X = "distributed.admin.large-graph-warning-threshold", mixture(300)
    with dask.config.set({key: "7MB"}):
        one, other = ExitStack(), ExitStack()
        one.enter_context(partitions._large_tables)
        other.enter_context(partitions._large_tables)
        assert dask.config.get(key) == "1TB"
        one.close()
        assert dask.config.get(key) == "1TB"
        vq().fit(lazy(X))
        other.close()
        assert dask.config.get(key) == "7MB"


def test_held_rows_are_made_once(tiny_blocks):
    X, computed = mixture(300), []
    rows, _ = dask_rows(counted(X, computed), None)
    held = rows.view(seam.scaled, 2.0).held()
    before = len(computed)
    for _ in range(3):
        (low, high) = seam.run(_extremes(held))
        assert_array_equal(low, 2 * X.min(axis=0))
        assert_array_equal(high, 2 * X.max(axis=0))
    assert len(computed) == before


def _extremes(rows):
    return (yield rows.fold(seam.extremes, join=seam.wider))


def test_many_rows_are_not_held(tiny_blocks, monkeypatch):
    monkeypatch.setattr("skvq.learning.partitions.HELD_BYTES", 300 * 6 * 4 - 1)
    rows, _ = dask_rows(lazy(mixture(300)), None)
    view = rows.view(seam.scaled, 2.0)
    assert view.held() is view


def test_nothing_large_is_named_or_copied(tiny_blocks):
    """... into the names of tasks, or into each of them."""
    X = mixture(300)
    table = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    graphs = []
    with dask.config.set(delayed_optimize=lambda graph, keys: _seen(graph, graphs)):
        vq(40, init=table, max_iter=2).fit(lazy(X))
    for graph in graphs:
        large = [key for key, task in graph.items() if _bytes(task) > table.nbytes]
        assert len([key for key in large if "skvq" in str(key)]) <= 1
        assert all(len(str(key)) < 200 for key in graph)


def _seen(graph, graphs):
    graphs.append(dict(graph))
    return graph


def _bytes(task):
    return len(pickle.dumps(task))


def test_weights_of_the_client_are_put_beside_the_rows_once(tiny_blocks):
    graphs, weights = [], np.random.default_rng(0).random(300)
    with dask.config.set(delayed_optimize=lambda graph, keys: _seen(graph, graphs)):
        vq(init="random", max_iter=2).fit(lazy(mixture(300)), sample_weight=weights)
    assert graphs
    for graph in graphs:
        assert not any(
            isinstance(task, np.ndarray) and len(task) == 300 and task.ndim == 1
            for task in map(_given, graph.values())
        )


def _given(task):
    return getattr(task, "value", task)


def test_what_comes_back_is_as_large_as_a_sum(tiny_blocks, monkeypatch):
    """... however many partitions there are."""
    sizes, compute = {}, Delayed.compute

    def noted(self, **kwargs):
        found = compute(self, **kwargs)
        sizes[n].append(len(pickle.dumps(found)))
        return found

    monkeypatch.setattr(Delayed, "compute", noted)
    for n in (640, 6400):
        sizes[n] = []
        vq(8, init="random", max_iter=3).fit(lazy(mixture(n), (64, 6)))
    # But for numbers: one or the other digit more.
    assert max(sizes[6400]) <= 1.1 * max(sizes[640])


# -- what is lazy ----------------------------------------------------------------------


@each_learner(LEARNERS)
def test_lazy_results_are_what_is_computed(row):
    X = row.data(300, seed=3)
    estimator = row.fitted()
    for chunks in CHUNKS:
        array = lazy(X, chunks)
        for method in ("transform", "quantize"):
            if not hasattr(estimator, method):
                continue
            found, expected = getattr(estimator, method)(array), None
            expected = getattr(estimator, method)(X)
            _assert_lazily(found, expected, array)
    if row.codes:
        given = estimator.transform(X)
        found = estimator.inverse_transform(da.from_array(given, chunks=(70, 1)))
        _assert_lazily(found, estimator.inverse_transform(given), None)


def _assert_lazily(found, expected, array):
    assert isinstance(found, da.Array)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found._meta.dtype == expected.dtype and found._meta.ndim == 2
    if array is not None:
        assert found.chunks[0] == array.chunks[0]
    computed = found.compute()
    assert computed.dtype == expected.dtype
    assert_array_equal(computed, expected)
    for block in found.blocks:
        assert block.compute().shape[1] == found.shape[1]


def test_nothing_is_computed_before_it_is_asked_for():
    X, computed = mixture(300), []
    array = counted(X, computed)
    estimator = pq().fit(X)
    found = estimator.transform(array), estimator.quantize(array)
    back = estimator.inverse_transform(found[0])
    QuantizedFeatures(pq()).fit(X).transform(array)
    assert computed == []
    assert_array_equal(back.compute(), estimator.quantize(X))


def test_what_was_fitted_then_answers():
    X = mixture(300)
    estimator = vq().fit(X)
    expected = estimator.quantize(X)
    found = estimator.quantize(lazy(X))
    estimator.fit(X + 10)
    assert_array_equal(found.compute(), expected)


def test_unknown_lengths():
    X = mixture(300)
    estimator = pq().fit(X)
    array = lazy(X)
    some = array[array[:, 0] > 0]
    found = estimator.transform(some)
    assert np.isnan(found.shape[0])
    assert_array_equal(found.compute(), estimator.transform(X[X[:, 0] > 0]))
    none = array[array[:, 0] > 1e9]
    assert estimator.transform(none).compute().shape == (0, 3)


def test_dataframes():
    X = pd.DataFrame(mixture(300), columns=list("abcdef"))
    frame = dd.from_pandas(X, npartitions=4)
    estimator = pq().fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimator.transform(frame)
        assert_array_equal(found.compute(), estimator.transform(X))
    assert_array_equal(
        estimator.inverse_transform(
            dd.from_pandas(pd.DataFrame(estimator.transform(X)), npartitions=3)
        ).compute(),
        estimator.quantize(X),
    )
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(frame[list("bacdef")])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        estimator.transform(frame.to_dask_array())
    with pytest.raises(ValueError, match=r"to_dask_array\(lengths=True\)"):
        pq().fit(frame)
    assert_same(pq().fit(frame.to_dask_array(lengths=True)), pq().fit(X.to_numpy()))


@pytest.mark.parametrize(
    "changed",
    [
        lambda X: X.astype("Float32"),
        lambda X: X.assign(a=X.a.astype(int).astype("Int16")),
        lambda X: X.assign(a=X.a > 0),
        lambda X: X.assign(a=(X.a > 0).astype("boolean"), b=X.b.astype("float64")),
    ],
    ids=["nullable", "some nullable", "bool beside float", "nullable bool"],
)
def test_dataframes_of_which_pandas_makes_objects(changed):
    X = pd.DataFrame(mixture(300), columns=list("abcdef"))
    estimator, X = pq().fit(X), changed(X)
    found = estimator.transform(dd.from_pandas(X, npartitions=4))
    assert_array_equal(found.compute(), estimator.transform(X))


def test_an_invalid_code_raises_when_it_is_computed():
    estimator = vq().fit(mixture(300))
    found = estimator.inverse_transform(da.from_array([[0], [1], [9]], chunks=1))
    with pytest.raises(ValueError, match=r"codes\[0, 0\] = 9 is not a code"):
        found.compute()


def test_a_row_that_is_not_finite_raises_when_it_is_computed():
    X = mixture(300)
    estimator = vq().fit(X)
    X[7, 2] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        estimator.transform(lazy(X)).compute()


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_dataframes_would_compute_all_rows(container):
    X = mixture(300)
    for estimator in (vq().fit(X), QuantizedFeatures(vq()).fit(X)):
        with config_context(transform_output=container):
            with pytest.raises(ValueError, match=r"set_output\(transform='default'\)"):
                estimator.transform(lazy(X))
        array = estimator.transform(lazy(X))
        with config_context(transform_output=container):
            assert isinstance(array.compute(), np.ndarray)
        estimator.set_output(transform=container)
        with pytest.raises(ValueError, match=r"set_output\(transform='default'\)"):
            estimator.transform(lazy(X))
        estimator.set_output(transform="default")
        estimator.transform(lazy(X))


def test_scores(tiny_blocks):
    X, weights = mixture(300), np.arange(300) % 4
    for estimator in (vq().fit(X), vq(metric="cosine").fit(X), rq().fit(X)):
        for w in (None, weights):
            found = estimator.score(lazy(X, (50, 4)), sample_weight=w)
            assert type(found) is float
            assert found == estimator.score(X, sample_weight=w)


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: vq(metric="cityblock"), "metric='cityblock' learns from all rows"),
        (lambda: vq(metric="manhattan"), "metric='manhattan' learns from all rows"),
        (lambda: vq(init="splitting"), "init='splitting' learns from all rows"),
        (lambda: vq(learning="minibatch"), "learning='minibatch'.*partial_fit"),
        (lambda: vq(learning="ema"), "learning='ema'.*partial_fit"),
        (lambda: vq(learning="sgd"), "learning='sgd'.*partial_fit"),
        (lambda: pq(quantizer=vq(init="splitting")), "its part, .*init='splitting'"),
        (lambda: rq(quantizer=vq(learning="ema")), "its part, .*partial_fit"),
        (lambda: UniformQuantizer(4, levels="lloyd-max"), "levels='lloyd-max'"),
        (lambda: FiniteScalarQuantizer(4, squash="cdf"), "squash='cdf'"),
        (lambda: SphericalQuantizer(4, radius="learned"), "radius='learned'"),
        (
            lambda: BinaryQuantizer(spherical=True, radius="learned"),
            "radius='learned'",
        ),
        (lambda: QuantizedFeatures(vq(init="splitting")), "init='splitting'"),
    ],
)
def test_learners_of_all_rows(make, words):
    X, computed = mixture(300), []
    estimator = make()
    with pytest.raises(ValueError, match=words):
        estimator.fit(counted(X, computed))
    assert computed == [] and not hasattr(estimator, "n_features_in_")
    estimator.fit(X).transform(lazy(X)).compute()


def test_all_rows_do_not_come_by_another_way(tiny_blocks, monkeypatch):
    monkeypatch.setattr("skvq.learning.rows.HELD_BYTES", 100)
    rows, _ = dask_rows(lazy(mixture(300)), None)
    with pytest.raises(ValueError, match="needed in memory"):
        seam.run(seam.in_memory(rows))


X_LAZY = da.ones((10, 2), chunks=5)


@pytest.mark.parametrize(
    "X, error, words",
    [
        (X_LAZY[X_LAZY[:, 0] > 0], ValueError, r"compute_chunk_sizes\(\)"),
        (X_LAZY[:, 0], ValueError, "Expected 2D array, got 1D array"),
        (X_LAZY.astype(complex), ValueError, "dtype complex128"),
        (X_LAZY.astype(object), ValueError, "dtype object"),
        (X_LAZY[:1], ValueError, r"1 sample\(s\)"),
        (X_LAZY[:0], ValueError, r"0 sample\(s\)"),
        (X_LAZY[:, :0], ValueError, r"0 feature\(s\)"),
        (dask.delayed(np.ones((3, 2))), TypeError, "dask.delayed.Delayed"),
        (X_LAZY.map_blocks(np.ma.masked_array), ValueError, "chunks of numpy.ma"),
        (
            X_LAZY.map_blocks(np.ma.masked_array, meta=np.ones((0, 0))),
            TypeError,
            "MaskedArray",
        ),
    ],
)
def test_arrays_that_are_no_rows(X, error, words):
    with pytest.raises(error, match=words):
        vq(2).fit(X)


def test_other_numbers_of_features():
    X = mixture(300)
    for method in ("transform", "quantize", "score"):
        with pytest.raises(ValueError, match="expecting 6 features"):
            getattr(vq().fit(X), method)(lazy(X[:, :5]))
    features = QuantizedFeatures(vq()).fit(X)
    assert_array_equal(features.inverse_transform(lazy(X)).compute(), X)
    with pytest.raises(ValueError, match="expecting 6 features"):
        features.inverse_transform(lazy(X[:, :5]))
    with pytest.raises(ValueError, match="decodes 3 columns"):
        pq().fit(X).inverse_transform(da.zeros((5, 2), dtype=int))
    with pytest.raises(TypeError, match=r"codes is a dask\.delayed"):
        pq().fit(X).inverse_transform(dask.delayed(X))


@pytest.mark.parametrize(
    "weights, words",
    [
        (np.ones(299), "expected (300,)"),
        (np.ones((300, 2)), "expected (300,)"),
        (np.where(np.arange(300) == 211, -1, 1), "sample_weight[211] = -1"),
        (np.where(np.arange(300) == 211, np.nan, 1), "sample_weight[211] = nan"),
        (np.where(np.arange(300) == 211, np.inf, 1), "sample_weight[211] = inf"),
        (np.zeros(300), "All sample_weight are zero"),
        (np.full(300, "a"), "expected real numbers"),
    ],
)
def test_weights_that_are_none(weights, words, tiny_blocks):
    with pytest.raises(ValueError, match=re.escape(words)):
        vq().fit(lazy(mixture(300)), sample_weight=da.from_array(weights, chunks=64))
    with pytest.raises(ValueError, match=re.escape(words)):
        vq().fit(lazy(mixture(300)), sample_weight=weights)


def test_kinds_of_weights(tiny_blocks):
    X, weights = mixture(300), np.arange(300) % 4 * 0.5
    expected = vq().fit(X, sample_weight=weights)
    for made in (
        list,
        pd.Series,
        lambda w: pd.Series(w, dtype="Float64"),
        lambda w: w.astype(object),
        lambda w: pd.Series(w, index=np.arange(300)[::-1]),
    ):
        assert_same(vq().fit(lazy(X), sample_weight=made(weights)), expected)
    series = dd.from_pandas(pd.Series(weights), npartitions=3)
    with pytest.raises(ValueError, match=r"to_dask_array\(lengths=True\)"):
        vq().fit(lazy(X), sample_weight=series)
    known = series.to_dask_array(lengths=True)
    assert_same(vq().fit(lazy(X), sample_weight=known), expected)
    with pytest.raises(TypeError, match=r"sample_weight is a dask\.delayed"):
        vq().fit(lazy(X), sample_weight=dask.delayed(weights))
    masked = np.ma.masked_equal(weights, 1.5)
    for given in (masked, da.from_array(masked, chunks=50)):
        with pytest.raises(ValueError, match="sample_weight is a masked array"):
            vq().fit(lazy(X), sample_weight=given)


def test_weights_of_dask_for_rows_in_memory():
    with pytest.raises(TypeError, match="compute"):
        vq().fit(mixture(300), sample_weight=da.ones(300))


ARRAY = da.ones((10, 2), dtype=int, chunks=5)


@pytest.mark.parametrize(
    "function, arguments",
    [
        (metrics.distortion, (ARRAY, ARRAY)),
        (metrics.psnr, (ARRAY, ARRAY)),
        (metrics.perplexity, (ARRAY,)),
        (metrics.code_usage, (ARRAY, [2, 2])),
        (metrics.collision_rate, (ARRAY,)),
        (metrics.duplicate_rate, (ARRAY,)),
        (codes.disambiguate, (ARRAY,)),
        (codes.pack, (ARRAY, [2, 2])),
        (codes.unpack, (ARRAY, [2, 2])),
        (codes.token_ids, (ARRAY, [2, 2])),
        (codes.from_token_ids, (ARRAY[:, 0], [2, 2])),
        (codes.one_hot, (ARRAY, [2, 2])),
        (nearest.nearest, (ARRAY, np.ones((2, 2)))),
        (nearest.paired, (ARRAY, ARRAY)),
        (skvq.binary.hamming_distances, (ARRAY.astype(np.uint8),)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_functions_name_map_blocks(function, arguments):
    with pytest.raises(TypeError, match="map_blocks"):
        function(*arguments)


def test_few_rows_do_not_keep_those_that_they_were_chosen_from(tiny_blocks):
    X, w = mixture(300), np.arange(300) % 3
    rows, _ = dask_rows(lazy(X), lazy(w))
    held = seam.run(rows.chosen(_every_tenth)).held()
    for part in dask.compute(*(one.x for one in held.source._parts)):
        assert part.X is part.weights is part.heavy is None
    (found, weights) = seam.run(seam.in_memory(held))
    kept = np.flatnonzero(w)
    assert_array_equal(found, X[kept[kept % 10 == 0]])
    assert_array_equal(weights, w[kept[kept % 10 == 0]])


def _every_tenth(block):
    numbers = np.flatnonzero(np.arange(300) % 3)[block.first :][: block.n_rows]
    return np.flatnonzero(numbers % 10 == 0)


def test_weights_of_this_machine_are_neither_hashed_nor_sent_again(
    tiny_blocks, monkeypatch
):
    X, weights, persisted = mixture(300), np.arange(300) % 4 * 1.0, []
    persist = da.Array.persist

    def noted(self, **kwargs):
        persisted.append(self.chunks)
        return persist(self, **kwargs)

    monkeypatch.setattr(da.Array, "persist", noted)
    hashed, tokenize = [], da.core.tokenize

    def spied(*args, **kwargs):
        # A copy, in some versions.
        hashed.extend(one for one in args if isinstance(one, np.ndarray))
        return tokenize(*args, **kwargs)

    array = counted(X, [])
    monkeypatch.setattr("dask.array.core.tokenize", spied)
    rows, _ = dask_rows(array, weights)
    assert hashed == []
    assert persisted == [((64, 64, 64, 64, 44),)]
    chunks = dask.compute(*rows.source._parts[1][1:2])
    assert_array_equal(chunks[0], weights[64:128])


def test_a_number_is_the_weight_of_each(tiny_blocks):
    X = mixture(300)
    assert_same(vq().fit(lazy(X), sample_weight=2.0), vq().fit(X, sample_weight=2.0))


def test_displays_name_map_blocks():
    X = mixture(300)
    for display, estimator, array in (
        (skvq.display.CodeUsageDisplay, vq().fit(X), lazy(X)),
        (skvq.display.CodebookDisplay, vq().fit(X[:, :2]), lazy(X[:, :2])),
        (skvq.display.RateDistortionDisplay, vq().fit(X), lazy(X)),
    ):
        with pytest.raises(TypeError, match="map_blocks"):
            display.from_estimator(estimator, array)


def test_weights_of_this_machine_for_batches():
    X, weights = mixture(300), np.arange(300) % 3 + 0.5
    row = BY_NAME["vq-minibatch"]
    found = row.make().partial_fit(lazy(X, (70, 6)), sample_weight=weights)
    expected = row.make().partial_fit(lazy(X, (70, 6)), sample_weight=lazy(weights))
    assert_same(found, expected)


def test_methods_name_map_blocks():
    X = mixture(300)
    residual = rq().fit(X)
    zeros = da.zeros((3, 6), dtype=int)
    for method in (
        lambda: list(residual.staged_score(lazy(X))),
        lambda: list(residual.staged_inverse_transform(residual.transform(lazy(X)))),
        lambda: FiniteScalarQuantizer(4).fit(X).bounded_values(lazy(X)),
        lambda: FiniteScalarQuantizer(4).fit(X).code_values(zeros),
    ):
        with pytest.raises(TypeError, match="map_blocks"):
            method()


class Dataset:
    """What gives its rows in batches, as those of Parquet files do."""

    def to_batches(self):
        return iter([])


@pytest.mark.parametrize(
    "X, what",
    [
        ((x for x in np.ones((3, 2))), "a generator"),
        (iter([1]), "a list_iterator"),
        ([np.ones((3, 2)), np.ones((3, 2))], "a list of matrices"),
        ((np.ones((3, 2)),), "a tuple of matrices"),
        (Dataset(), "Dataset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_gives_parts_of_a_matrix(X, what):
    with pytest.raises(ValueError, match=f"{what}.*partial_fit.*dask.array.from_"):
        vq().fit(X)


def test_dask_is_not_imported_without_its_collections():
    code = (
        "import sys, numpy as np, skvq; X = np.ones((4, 2)); X[0] = 0; "
        "vq = skvq.VectorQuantizer(2).fit(X); vq.transform(X); vq.score(X); "
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
