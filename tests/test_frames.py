"""Data frames: columns of lists, the output of `quantize`, and codes with an index."""

import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone

from skvq import (
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.codes import one_hot, pack, token_ids
from skvq.io import rows, save_codes
from skvq.metrics import code_report, distortion

pl = pytest.importorskip("polars")

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
PQ = ProductQuantizer(2, 3, random_state=0).fit(X)
PL_LIST, PL_ARRAY = pl.List(pl.Float32), pl.Array(pl.Float32, 2)


def arrow():
    return pytest.importorskip("pyarrow")


class Column:
    """What `datasets` returns for the name of a column, as far as it is used."""

    def __init__(self, name, table, form=None):
        self.column_name, self._table, self._form = name, table, form
        self.source = self

    def __len__(self):
        return len(self._table)

    def __iter__(self):
        return iter(self._table[self.column_name].to_pylist())

    def select_columns(self, name):
        return Column(name, self._table.select([name]))

    def with_format(self, form):
        return Column(self.column_name, self._table, form)

    def __getitem__(self, key):
        assert self._form == "arrow"
        return self._table[key]


def fixed_lists():
    pa = arrow()
    return pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4)


def chunks(pa):
    lists = fixed_lists().cast(pa.list_(pa.float32()))
    return pa.chunked_array([lists[:5], lists[5:5], lists[5:]])


def backed(pa):
    of_type = pd.ArrowDtype(pa.list_(pa.float32()))
    return pd.Series(X.tolist(), name="emb", dtype=of_type)


# The rows of X as a column, and what the column is called.
COLUMNS = {
    "polars Array": lambda: pl.Series("emb", X),
    "polars List": lambda: pl.Series("emb", X).cast(PL_LIST),
    "polars chunks": lambda: pl.concat([pl.Series("emb", X[:5]), pl.Series("", X[5:])]),
    "polars frame": lambda: pl.DataFrame({"emb": X}),
    "pandas arrays": lambda: pd.Series(list(X), index=range(12, 0, -1), name="emb"),
    "pandas frame": lambda: pd.DataFrame({"emb": list(X)}),
    "objects": lambda: np.fromiter(X, dtype=object, count=len(X)),
    "fixed lists": fixed_lists,
    "lists": lambda: fixed_lists().cast(arrow().list_(arrow().float32())),
    "large lists": lambda: fixed_lists().cast(arrow().large_list(arrow().float32())),
    "chunks": lambda: chunks(arrow()),
    "table": lambda: arrow().table({"emb": fixed_lists()}),
    "batch": lambda: arrow().RecordBatch.from_pydict({"emb": fixed_lists()}),
    "pandas on arrow": lambda: backed(arrow()),
    "datasets": lambda: Column(
        "emb", arrow().table({"id": X[:, 0], "emb": chunks(arrow())})
    ),
}
NAMELESS = {"objects", "fixed lists", "lists", "large lists", "chunks"}
each_column = pytest.mark.parametrize("kind", COLUMNS)


# -- columns of lists ------------------------------------------------------------------


@each_column
def test_rows_of_a_column(kind):
    found = rows(COLUMNS[kind]())
    assert type(found) is np.ndarray and found.dtype == np.float32
    assert_array_equal(found, X)


def test_sequences_and_matrices():
    assert_array_equal(rows(X.tolist()), X.astype(np.float64))
    assert_array_equal(rows(tuple(X)), X)
    assert rows(X) is X
    mixed = rows(pd.Series([[1, 2], np.array([0.5, 1.0])]))
    assert mixed.tolist() == [[1.0, 2.0], [0.5, 1.0]]


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f2", "f4", "f8"])
def test_dtypes_are_kept(dtype):
    numbers = np.arange(6).reshape(3, 2).astype(dtype)
    pa = arrow()
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 2)
    for column in (pl.Series(numbers), pd.Series(list(numbers)), list(numbers), fixed):
        found = rows(column)
        assert found.dtype == numbers.dtype
        assert_array_equal(found, numbers)


def test_without_a_copy_where_that_can_be():
    series = pl.Series("emb", X)
    memory = series.to_numpy(allow_copy=False)
    for column in (series, series.to_frame()):
        assert np.shares_memory(rows(column), memory)
    # Where Polars does not copy the values of a list column itself, as old versions do.
    column = series.cast(PL_LIST)
    one, two = (column.explode().to_numpy(allow_copy=False) for _ in range(2))
    if np.shares_memory(one, two):
        assert np.shares_memory(rows(column), one)
    assert np.shares_memory(rows(series[3:7]), memory)
    assert_array_equal(rows(series[3:7]), X[3:7])


def test_without_a_copy_of_arrow():
    pa = arrow()
    flat = pa.array(X.ravel())
    memory = flat.to_numpy()
    fixed = pa.FixedSizeListArray.from_arrays(flat, 4)
    lists = pa.ListArray.from_arrays(pa.array(range(0, 49, 4), pa.int32()), flat)
    for column in (fixed, lists, pa.chunked_array([fixed]), pa.table({"emb": fixed})):
        assert np.shares_memory(rows(column), memory)
        part = column[3:7]
        assert np.shares_memory(rows(part), memory)
        assert_array_equal(rows(part), X[3:7])


# What the message says of lists.
BAD_LISTS = {
    "row 1 of {} is a list of length 1, and row 0 one of length 2": [[1.0, 2.0], [3.0]],
    "row 1 of {} is missing": [[1.0, 2.0], None],
    "row 1 of {} has a missing value in place 0": [[1.0], [None]],
    "{} holds lists of lists": [[[1.0]], [[2.0]]],
    "{} holds empty lists": [[], []],
}
# And of columns.
BAD_COLUMNS = [
    ("column 'emb' has no rows", pl.Series("emb", [], dtype=PL_ARRAY)),
    ("column 'emb' has no rows", pd.Series([], dtype=object, name="emb")),
    ("the column has no rows", []),
    ("row 1 of column 'emb' is missing", pl.Series("emb", [[1, 2], None], PL_ARRAY)),
    ("missing value in place 0", pl.Series("emb", [[1, 2], [None, 2]], PL_ARRAY)),
    (
        "'emb' holds lists of lists",
        pl.Series("emb", [[[1]]], pl.Array(pl.Int8, (1, 1))),
    ),
    ("row 0 of column 'emb' is 1.5; expected a list", pd.Series([1.5], name="emb")),
    ("row 0 of the column is 'word'; expected a list", ["word"]),
    ("column 'emb' holds lists of <U1", pd.Series([["a"], ["b"]], name="emb")),
    ("column 'emb' holds lists of String", pl.Series("emb", [["a"], ["b"]])),
    ("row 1 of column 'emb' is missing", pd.Series([[1.0], pd.NaT], name="emb")),
    ("missing value in place 1", pd.Series([[1, pd.NA], [1, 2]])),
    ("the column is a masked array", np.ma.array(np.eye(2), mask=np.eye(2))),
    (
        "the column is a masked array",
        pd.Series([np.ones(2), np.ma.array([1.0, 2.0], mask=[False, True])]),
    ),
    ("row 1 of column 'emb' is missing", pd.Series([[1.0], pd.NA], name="emb")),
    (
        "a table of 2 columns, of which lists are in 'emb'",
        pl.DataFrame({"id": [1, 2], "emb": [[1.0], [2.0]]}),
    ),
    (
        "a table of 2 columns, of which lists are in 'emb'",
        pd.DataFrame({"id": [1, 2], "emb": [[1.0], [2.0]]}),
    ),
    (
        "a table of 2 columns, of which lists are in none",
        pd.DataFrame({"a": [], "b": []}),
    ),
]


@pytest.mark.parametrize(("message", "values"), BAD_LISTS.items())
def test_bad_lists_are_named_by_row(message, values):
    columns = [pl.Series("emb", values), pd.Series(values, name="emb"), values]
    for name, column in zip(["'emb'", "'emb'", None], columns, strict=True):
        called = f"column {name}" if name else "the column"
        with pytest.raises(ValueError, match=re.escape(message.format(called))):
            rows(column)
    pa = arrow()
    whole = pa.array(values)
    halves = [pa.array(values[:1], whole.type), pa.array(values[1:], whole.type)]
    for column in (whole, pa.chunked_array(halves)):
        with pytest.raises(ValueError, match=message.format("the column")):
            rows(column)


@pytest.mark.parametrize(("message", "column"), BAD_COLUMNS)
def test_bad_columns_are_named(message, column):
    with pytest.raises(ValueError, match=re.escape(message)):
        rows(column)


def test_what_is_no_column():
    with pytest.raises(TypeError, match=r"a builtins.int; expected a column"):
        rows(3)
    with pytest.raises(TypeError, match=r"LazyFrame; .*: collect\(\) it first"):
        rows(pl.LazyFrame({"emb": [[1.0]]}))
    for column in (np.array(3.0), sparse.csr_array(np.eye(2))):
        with pytest.raises(TypeError, match="expected a column"):
            rows(column)


def test_collections_of_dask_are_not_computed():
    da, dd = (pytest.importorskip(f"dask.{one}") for one in ("array", "dataframe"))
    frame = dd.from_pandas(pd.DataFrame({"emb": [[1.0], [2.0]]}), npartitions=2)
    for column in (da.ones((4, 2)), frame, frame["emb"]):
        with pytest.raises(TypeError, match=r": compute\(\) it first"):
            rows(column)


@pytest.mark.parametrize(
    ("name", "written"),
    [(0, "0"), (("a", "b"), "('a', 'b')"), ('5"', "'5\"'"), ("it's", '"it\'s"')],
)
def test_the_line_to_write_is_python(name, written):
    # Of two columns, since pandas makes a table of the first of two names.
    frame = pd.DataFrame([[[1.0], 2], [[3.0], 4]], columns=range(2))
    frame.columns = pd.Index([name, ("a", "c")], tupleize_cols=False)
    with pytest.raises(ValueError, match=re.escape(f"skvq.io.rows(df[{written}])")):
        VectorQuantizer(2).fit(frame)


def test_a_column_of_tensors_is_named():
    pa = arrow()
    lists = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), (2,)), lists
    )
    assert_array_equal(rows(tensors), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="X is a column of lists"):
        VectorQuantizer(2).fit(tensors)
    with pytest.raises(ValueError, match="the column 'emb', which holds lists"):
        VectorQuantizer(2).fit(pa.table({"emb": tensors}))


@each_column
def test_estimators_name_a_column_of_lists(kind):
    column = COLUMNS[kind]()
    how = "X" if kind in NAMELESS else 'df["emb"]'
    for call in (
        clone(PQ).fit,
        PQ.transform,
        PQ.quantize,
        PQ.score,
        QuantizedNeighbors(clone(PQ)).fit,
        QuantizedFeatures(clone(PQ)).fit,
        VectorQuantizer(2, learning="ema").partial_fit,
        lambda column: distortion(column, X),
    ):
        with pytest.raises(ValueError, match=r"X (is|has)") as caught:
            call(column)
        message = str(caught.value)
        assert "\n" not in message and f"skvq.io.rows({how})" in message
        assert "lists" in message and (how == "X" or "column 'emb'" in message)


def test_tables_with_a_column_of_lists_among_others():
    two = {"id": np.arange(12), "emb": list(X)}
    twice = pd.concat([pd.DataFrame(two)] * 2, axis=1)
    missing = pd.DataFrame({"id": np.arange(12), "emb": [None, *X[1:]]})
    for frame in (pd.DataFrame(two), twice, missing, pl.DataFrame(two | {"emb": X})):
        with pytest.raises(ValueError, match=r'column .emb.*rows\(df\["emb"\]\)'):
            PQ.transform(frame)


def test_other_columns_of_objects_are_scikit_learns():
    numbers = pd.DataFrame(X).astype(object)
    assert_array_equal(PQ.transform(numbers), PQ.transform(X))
    with pytest.raises(ValueError, match="could not convert string to float"):
        clone(PQ).fit(pd.DataFrame({"a": ["x", "y"]}))
    with pytest.raises(ValueError, match="could not convert string to float"):
        clone(PQ).fit(pd.Series(["x", "y"]))


# -- the output of quantize ------------------------------------------------------------

FRAME = pd.DataFrame(X, columns=list("abcd"), index=[f"row {i}" for i in range(12)])


def test_quantize_keeps_names_and_index():
    plain = PQ.quantize(X)
    fitted = clone(PQ).set_output(transform="pandas").fit(FRAME)
    found = fitted.quantize(FRAME)
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(plain, columns=FRAME.columns, index=FRAME.index)
    )
    assert list(fitted.transform(FRAME).index) == list(found.index)
    # The way back is an array, as scikit-learn's are.
    assert type(fitted.inverse_transform(fitted.transform(FRAME))) is np.ndarray
    found = fitted.set_output(transform="polars").quantize(FRAME)
    assert found.equals(pl.DataFrame(plain, schema=list("abcd")))
    assert type(fitted.set_output(transform="default").quantize(FRAME)) is np.ndarray


def test_quantize_without_names():
    with sklearn.config_context(transform_output="pandas"):
        found = PQ.quantize(X)
        assert list(found.columns) == ["x0", "x1", "x2", "x3"]
        assert_array_equal(found.to_numpy(), PQ.inverse_transform(PQ.transform(X)))
        # Of a transformer, they are those of its own, and so is the index.
        features = QuantizedFeatures(clone(PQ)).fit(FRAME)
        pd.testing.assert_frame_equal(
            features.transform(FRAME).set_axis(list("abcd"), axis=1),
            pd.DataFrame(found.to_numpy(), columns=list("abcd"), index=FRAME.index),
        )


def test_parts_do_not_mind_the_container():
    """What a scheme asks of its parts are arrays, whatever the configuration."""
    nested = ProductQuantizer(2, quantizer=UniformQuantizer(4)).fit(X)
    expected = nested.quantize(X)
    with sklearn.config_context(transform_output="polars"):
        again = clone(nested).fit(X)
        assert_array_equal(again.quantize(X).to_numpy(), expected)
        assert again.score(X) == nested.score(X)


# -- codes in data frames --------------------------------------------------------------


def test_token_ids_and_indicators_keep_the_index():
    codes, sizes = PQ.transform(X), PQ.codebook_sizes_
    frame = pd.DataFrame(codes, columns=["a", "b"], index=FRAME.index)
    ids = token_ids(frame, sizes)
    pd.testing.assert_series_equal(
        ids, pd.Series(token_ids(codes, sizes), index=FRAME.index, name="token_id")
    )
    marked = one_hot(frame, sizes, sparse=False, dtype=np.float32)
    names = ["a_0", "a_1", "a_2", "b_0", "b_1", "b_2"]
    dense = one_hot(codes, sizes, sparse=False, dtype=np.float32)
    pd.testing.assert_frame_equal(
        marked, pd.DataFrame(dense, columns=names, index=FRAME.index)
    )
    assert_array_equal(one_hot(frame, sizes).toarray(), dense)
    frame = pl.DataFrame(codes, schema=["a", "b"])
    assert token_ids(frame, sizes).equals(pl.Series("token_id", ids.to_numpy()))
    assert one_hot(frame, sizes, sparse=False).columns == names
    assert type(pack(frame, sizes)) is np.ndarray


def test_codes_in_tables_without_an_adapter_are_arrays():
    codes, sizes = PQ.transform(X), PQ.codebook_sizes_
    table = arrow().table({"a": codes[:, 0], "b": codes[:, 1]})
    assert type(token_ids(table, sizes)) is np.ndarray
    assert type(one_hot(table, sizes, sparse=False)) is np.ndarray


@pytest.mark.parametrize("make", [pd.Series, pl.Series])
def test_a_column_of_codes_is_refused_by_its_name(make, tmp_path):
    quantizer = ProductQuantizer(2, 4, random_state=0).fit(X)
    codes = quantizer.transform(X)
    column, sizes = make(name="codes", **_held(make, codes)), quantizer.codebook_sizes_
    message = r"codes is the column 'codes', .* skvq.io.rows\(df\[\"codes\"\]\)"
    for call in (
        quantizer.inverse_transform,
        lambda column: pack(column, sizes),
        lambda column: token_ids(column, sizes),
        lambda column: code_report(column, sizes),
        lambda column: save_codes(tmp_path / "codes", column, sizes),
    ):
        with pytest.raises(ValueError, match=message):
            call(column)
    assert_array_equal(
        quantizer.inverse_transform(rows(column)), quantizer.inverse_transform(codes)
    )


def _held(make, codes):
    return {"data" if make is pd.Series else "values": list(codes)}
