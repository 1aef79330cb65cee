"""Codebooks that are made ready for searches once, and kept with what was made."""

import copy
import pickle
import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skvq import nearest as engine
from skvq.nearest import Columns, Table, Tables
from skvq.nearest import tables as of_tables

METRICS = ["sqeuclidean", "cosine", "inner_product", "manhattan", "canberra"]


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(1, 1, (60, 6)).astype(np.float32)


@pytest.fixture
def codebooks():
    rng = np.random.default_rng(1)
    return [rng.normal(1, 1, (9, 6)).astype(np.float32) for _ in range(3)]


GIVEN = np.zeros((60, 3), int)
BEGUN = np.arange(120).reshape(60, 2, 1) % 9

# Each search, in X and in the codebooks, of which it takes what it needs.
SEARCHES = {
    **{
        f"nearest-{metric}": lambda X, t, metric=metric: engine.nearest(X, t[0], metric)
        for metric in METRICS
    },
    "nearest-float64": lambda X, t: engine.nearest(X.astype(float), t[0]),
    "nearest-bias": lambda X, t: engine.nearest(X, t[0], bias=np.arange(9.0)),
    "product": lambda X, t: engine.nearest_product(np.hstack([X, X, X]), t),
    "product-bias": lambda X, t: engine.nearest_product(
        np.hstack([X, X, X]), t, bias=[np.arange(9.0)] * 3
    ),
    "greedy": lambda X, t: engine.nearest_best(X, t, 1),
    "beam": lambda X, t: engine.nearest_best(X, t, 4, n_best=2),
    "begun": lambda X, t: engine.nearest_best(X, t, 4, begin=BEGUN),
    "weights": lambda X, t: engine.nearest_best(X, t, 4, stage_weights=[1, 1, 1]),
    "beam-bias": lambda X, t: engine.nearest_best(X, t, 4, bias=[np.arange(9.0)] * 3),
    "improve": lambda X, t: engine.improve_sums(X, t, GIVEN, n_rounds=3),
    "kronecker": lambda X, t: engine.nearest_kronecker(
        np.repeat(X, 36, axis=1), t, return_distances=True
    ),
}

every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def assert_same(found, expected):
    found, expected = (
        each if isinstance(each, tuple) else (each,) for each in (found, expected)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


@every_search
def test_every_search_takes_them(search, rows, codebooks):
    expected = search(rows, codebooks)
    tables = Tables(codebooks)
    for _ in range(2):
        assert_same(search(rows, tables), expected)
    assert_same(search(rows, [Table(each) for each in codebooks]), expected)
    # Whatever else has been searched in them.
    for other in SEARCHES.values():
        other(rows, tables)
    assert_same(search(rows, tables), expected)


MAKERS = ["make_core", "first_of_distinct", "coarse_centre", "unit_rows", "unique_rows"]


@pytest.fixture
def made(monkeypatch):
    """Names of what makes codebooks ready, each time that it is called."""
    calls = []
    for name in MAKERS:
        own = getattr(of_tables, name)

        def counted(*args, own=own, name=name, **kwargs):
            if name != "unit_rows" or args[1] != "X":
                calls.append(name)
            return own(*args, **kwargs)

        for module in _modules():
            if getattr(module, name, None) is own:
                monkeypatch.setattr(module, name, counted)
    return calls


def _modules():
    from skvq.nearest.searches import beam, flat, improve, kronecker, product

    return of_tables, beam, flat, improve, kronecker, product


ONCE = [name for name in SEARCHES if "bias" not in name and name != "weights"]


@pytest.mark.parametrize("name", ONCE)
def test_nothing_is_made_twice(name, rows, codebooks, made):
    tables = Tables(codebooks)
    SEARCHES[name](rows, tables)
    if name not in ("nearest-manhattan", "nearest-canberra"):
        assert made
    made.clear()
    SEARCHES[name](rows, tables)
    assert made == []


def test_a_bias_needs_nothing_of_the_codebook_anew(rows, codebooks, made):
    table = Table(codebooks[0])
    engine.nearest(rows, table)
    made.clear()
    engine.nearest(rows, table, bias=np.arange(9.0))
    engine.nearest(rows, table, bias=np.zeros(9))
    assert made == []


def test_tables_share_what_each_table_has(rows, codebooks, made):
    each = [Table(codebook) for codebook in codebooks]
    for table in each:
        engine.nearest(rows, table)
    made.clear()
    engine.nearest_product(np.hstack([rows] * 3), Tables(each))
    assert made == []


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
@every_search
def test_copies_have_the_codewords_alone(search, again, rows, codebooks):
    tables = Tables(codebooks)
    expected = search(rows, tables)
    other = again(tables)
    if isinstance(other, bytes):
        # What was made is not carried along.
        assert len(other) < 3000
        other = pickle.loads(other)
    assert len(other) == 3
    for table, codebook in zip(other, codebooks, strict=True):
        assert_array_equal(table.codewords, codebook)
        assert not table.codewords.flags.writeable
    if again is not copy.copy:
        assert not other._forms
        assert not any(table._forms for table in other)
    assert_same(search(rows, other), expected)


def test_codewords_are_read_only(codebooks):
    table = Table(codebooks[0])
    for each in (table, pickle.loads(pickle.dumps(table)), copy.deepcopy(table)):
        with pytest.raises(ValueError, match="read-only"):
            each.codewords[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            each.codewords += 1


def test_the_codewords_are_the_tables_own(rows, codebooks):
    """What happens to the array that was given does not reach the table."""
    table, tables = Table(codebooks[0]), Tables(codebooks)
    before = [table.codewords.copy(), *(each.codewords.copy() for each in tables)]
    codebooks[0][:] = 0
    after = [table.codewords, *(each.codewords for each in tables)]
    for one, other in zip(after, before, strict=True):
        assert_array_equal(one, other)
        assert not one.flags.writeable
    codebooks[1].flags.writeable = False
    # One that cannot be written into is not copied,
    assert Table(codebooks[1]).codewords is codebooks[1]
    # ... unless it only views one that can.
    view = codebooks[2][:]
    view.flags.writeable = False
    table = Table(view)
    codebooks[2][0] = 99
    assert (table.codewords[0] != 99).all()


def test_columns_are_their_own():
    """What happens to the arrays that were given does not reach columns."""
    X, shared = np.array([[1.5, 1.5], [0.5, 2.5]]), np.array([1.0, 2.0])
    edges, tables = Columns([shared, shared]), Columns([[0.0, 5.0, 9.0], shared])
    alphabet = np.arange(8.0)
    alphabets = Columns([alphabet] * 3)
    paths = engine.Trellis.ungerboeck(4)
    searches = [
        lambda: engine.cells_between(X, edges),
        lambda: engine.entries(np.array([[1, 0], [2, 1]]), tables),
        lambda: engine.viterbi(np.eye(3), alphabets, [2] * 3, paths, ends="free")[0],
    ]
    before = [search() for search in searches]
    shared += 1
    alphabet *= 2
    for columns in (edges, tables, alphabets):
        for again in (columns, pickle.loads(pickle.dumps(columns))):
            assert len({id(each) for each in again.arrays}) < 3
            for each in again.arrays:
                assert not each.flags.writeable
        # What is asked of them for the first time sees what was given, too.
        columns._forms.clear()
    for search, expected in zip(searches, before, strict=True):
        assert_array_equal(search(), expected)
    # One that cannot be written into is not copied.
    shared.flags.writeable = False
    assert Columns([shared]).arrays[0] is shared


def test_a_table_is_an_array_of_its_codewords(codebooks):
    table = Table(codebooks[0])
    assert table.shape == (9, 6)
    assert len(table) == 9
    assert table.dtype == np.float32
    assert_array_equal(np.asarray(table), codebooks[0])
    assert np.asarray(table, dtype=np.float64).dtype == np.float64
    np.asarray(table)[0] = 5  # a copy
    assert_array_equal(table.codewords, codebooks[0])


@pytest.mark.parametrize(
    ("codewords", "message"),
    [
        (np.ones(3), "two dimensions"),
        (np.full((2, 3), "a"), "real numbers"),
        (np.ma.masked_less(np.ones((2, 3)), 2), "mask"),
    ],
)
def test_what_is_no_codebook(codewords, message):
    with pytest.raises(ValueError, match=message):
        Table(codewords)
    with pytest.raises(ValueError, match=r"codebooks\[1\].*" + message):
        Tables([np.ones((2, 3)), codewords])


@every_search
def test_two_threads_may_both_make_what_is_needed(search, rows, codebooks):
    expected = search(rows, codebooks)
    for _ in range(5):
        tables, barrier, found = Tables(codebooks), threading.Barrier(2), []

        def run(tables=tables, barrier=barrier, found=found):
            barrier.wait()
            found.append(search(rows, tables))

        workers = [threading.Thread(target=run) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(found) == 2
        for each in found:
            assert_same(each, expected)


def test_of_two_makers_one_wins():
    """The second to end returns what the first has made."""
    table, barrier, found = Table(np.eye(2)), threading.Barrier(2), []

    def make():
        barrier.wait(timeout=10)
        return object()

    workers = [
        threading.Thread(target=lambda: found.append(table.form("key", make)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found[0] is found[1]
    assert table.form("key", make) is found[0]


def test_what_failed_is_not_kept(rows, codebooks):
    table = Table(np.where(np.arange(9)[:, None] == 4, 0, codebooks[0]))
    for _ in range(2):
        with pytest.raises(ValueError, match="row 4 of the codebook is zero"):
            engine.nearest(rows, table, "cosine")
    engine.nearest(rows, table)


def test_few_forms_are_kept():
    tables = Tables([np.eye(4), np.eye(4)])
    for beam_size in range(1, 40):
        engine.nearest_best(np.ones((3, 4)), tables, beam_size)
    assert len(tables._forms) <= 16
    assert all(len(table._forms) <= 16 for table in tables)
