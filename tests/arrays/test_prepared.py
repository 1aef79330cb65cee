"""Biases, prepared tables and far codewords, on arrays of every library."""

import inspect

import numpy as np
import oracles
import pytest
from arrays.libraries import OWN, library_name, loaded, make, put
from numpy.testing import assert_allclose, assert_array_equal
from test_numerics import GEOMETRIES, KRONECKER, STAGED

from skvq import nearest as engine
from skvq._arrays import to_host
from skvq.nearest import Table, Tables

METRICS = ["sqeuclidean", "cosine", "inner_product", "manhattan", "canberra"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("prepared", [False, True], ids=["array", "Table"])
def test_bias(xp, tiles, metric, prepared):
    X, table = make((300, 5, 40))
    table[20:30] = table[:10]  # equal ones compete
    bias = np.random.default_rng(0).normal(size=40)
    bias[5:8] = np.inf
    distances = oracles.distances(X, table, metric)
    given = Table(put(xp, table)) if prepared else put(xp, table)
    for constants in (bias, put(xp, bias), bias + 2.0**30):
        codes, found = engine.nearest(put(xp, X), given, metric, bias=constants)
        assert library_name(codes) == library_name(found) == xp.__name__
        assert_array_equal(to_host(codes), (distances + bias).argmin(axis=1))
        expected = distances[np.arange(300), to_host(codes)]
        assert_allclose(to_host(found), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="bias contains NaN"):
        engine.nearest(put(xp, X), given, metric, bias=put(xp, bias * np.nan))


@pytest.mark.parametrize("prepared", [False, True], ids=["arrays", "Tables"])
def test_biases_of_products_and_sums(xp, tiles, prepared):
    X, table = make((60, 6, 40))
    rng = np.random.default_rng(0)
    parts, stages = np.split(table, 2, axis=1), np.split(table, 2)
    biases = [rng.normal(size=len(part)) for part in parts]
    biases[1][::4] = np.inf
    short = [bias[:20] for bias in biases]
    expected = engine.nearest_product(X, parts, bias=biases)
    summed, distances = engine.nearest_best(X, stages, 3, n_best=2, bias=short)
    parts, stages = ([put(xp, each) for each in some] for some in (parts, stages))
    if prepared:
        parts, stages = Tables(parts), Tables(stages)
    codes = engine.nearest_product(put(xp, X), parts, bias=biases)
    assert_array_equal(to_host(codes), expected)
    given = [put(xp, bias) for bias in short]
    codes, found = engine.nearest_best(put(xp, X), stages, 3, n_best=2, bias=given)
    assert_array_equal(to_host(codes), summed)
    assert_allclose(to_host(found), distances, rtol=1e-5, atol=1e-6)


def test_tables_serve_every_library(xp):
    """What was made for one library does not come back for another."""
    X, table = make((50, 6, 9))
    tables = Tables([table, table])
    pairs, products = np.hstack([X, X]), np.repeat(X, 6, axis=1)
    given = np.zeros((50, 2), int)
    for rows, pair, product in (
        (X, pairs, products),
        [put(xp, each) for each in (X, pairs, products)],
        (X, pairs, products),
        [put(xp, each) for each in (X, pairs, products)],
    ):
        for metric in METRICS:
            codes, found = engine.nearest(rows, tables[0], metric)
            assert library_name(codes) == library_name(found) == library_name(rows)
            oracles.assert_nearest(to_host(codes), X, table, metric, np.float32)
        codes = engine.nearest_product(pair, tables)
        assert library_name(codes) == library_name(rows)
        oracles.assert_nearest(to_host(codes)[:, 1], X, table, dtype=np.float32)
        for search in (
            engine.nearest_best(rows, tables, 3),
            engine.improve_sums(rows, tables, given, n_rounds=2),
            engine.nearest_kronecker(product, tables, return_distances=True),
        ):
            assert all(library_name(each) == library_name(rows) for each in search)


FAR = """one-far-1e+05 tenth-far-1e+05 far-uint16 two-blobs sentinels-float32
    shared-1e+04 far-float64 shared-float64 on-codewords pairs-2 narrow-3""".split()


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
def test_far_codewords(xp, name, metric):
    X, table = GEOMETRIES[name](np.random.default_rng(0))
    if X.dtype == np.uint16 and xp.__name__ == "torch":
        X, table = X.astype(np.float32), table.astype(np.float32)
    X, share = X[:200], oracles.tolerance(X, table)
    codes, _ = engine.nearest(put(xp, X), put(xp, table), metric)
    exact, slack = oracles.exact_distances(X, table, metric), 0.0
    if X.dtype == np.float64 and metric == "inner_product":
        slack = 2.0**-50 * np.linalg.norm(X, axis=1) * np.linalg.norm(table)
    oracles.assert_exact(to_host(codes), exact, share, slack)
    if metric == "sqeuclidean":
        pair, tables = put(xp, np.hstack([X, X])), [put(xp, table)] * 2
        codes = to_host(engine.nearest_product(pair, tables))
        oracles.assert_exact(codes[:, 0], exact, share)
        oracles.assert_exact(codes[:, 1], exact, share)


@pytest.mark.parametrize("name", ["shared-1e+04", "far-1e+06", "shared-float64"])
def test_sums_beside_far_codewords(xp, name):
    """As on the host, whose codes are those of exact distances."""
    X, tables = STAGED[name](np.random.default_rng(0))
    X, tables = X[:60], [table[j::3] for j, table in enumerate(tables)]
    for options in ({"beam_size": 1}, {"beam_size": 4}):
        expected, _ = engine.nearest_best(X, tables, **options)
        given = [put(xp, table) for table in tables]
        codes, _ = engine.nearest_best(put(xp, X), given, **options)
        assert_array_equal(to_host(codes), expected)


@pytest.mark.parametrize("name", ["far-1e+04", "offset", "duplicates"])
def test_kronecker_products_of_far_rows(xp, name):
    X, tables = KRONECKER[name](np.random.default_rng(0))
    products = np.einsum("ai,bj->abij", *(t.astype(np.longdouble) for t in tables))
    X, exact = X[:100], oracles.exact_distances(X[:100], products.reshape(63, 12))
    codes = engine.nearest_kronecker(put(xp, X), [put(xp, table) for table in tables])[
        0
    ]
    index = to_host(codes)[:, 0] * 7 + to_host(codes)[:, 1]
    oracles.assert_exact(index, exact, oracles.tolerance(X))


class TestOwnBackend:
    """A backend is one short module."""

    def test_it_is_short(self):
        with loaded(OWN):
            from arrays import own_backend

            lines = inspect.getsource(own_backend).splitlines()
        assert len(lines) < 100

    def test_its_arrays_refuse_what_not_all_libraries_know(self):
        with loaded(OWN) as own:
            array = own.asarray(np.eye(3))
        with pytest.raises(TypeError, match="no array of NumPy"):
            np.asarray(array)
        with pytest.raises(TypeError, match="written into"):
            array[0, 0] = 1
        for change in ("__iadd__", "__isub__", "__imul__", "__itruediv__"):
            with pytest.raises(TypeError, match="written into"):
                getattr(array, change)(1)
        with pytest.raises(TypeError, match="as an index"):
            array[array > 0]
        with pytest.raises(TypeError, match="many elements"):
            bool(array > 0)
        with pytest.raises(TypeError, match="beside"):
            array + np.eye(3)
        assert not hasattr(array, "__array_namespace__")
