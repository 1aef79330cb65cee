import argparse
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import skvq
from skvq import ProductQuantizer, VectorQuantizer, __main__, metrics
from skvq._cli import cache, codec, compare, console, schemes, sources
from skvq.codes import EntropyCoder
from skvq.io import CodeReader, codec_info, load, load_codes, save, save_codes

Outcome = namedtuple("Outcome", "status out err")
ROOT = Path(skvq.__file__).parents[1]
N_ROWS, N_FEATURES = 500, 6
NAMES = ["a", "b", "c", "d", "e", "f"]


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = __main__.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    return Outcome(status, out.getvalue(), err.getvalue())


def succeed(*arguments):
    """Return the output of a command that has nothing to complain of."""
    outcome = run(*arguments)
    rows = arguments[0] == "compare" and "--no-progress" not in arguments
    err = "" if rows else outcome.err
    assert (outcome.status, err) == (0, ""), outcome
    if rows:
        assert all(re.match(r"\[\d+/\d+\] ", one) for one in outcome.err.splitlines())
    return outcome.out


def fail(*arguments, status=2):
    """Return the only line of output, an error."""
    outcome = run(*arguments)
    assert outcome.status == status, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome.err
    # The options that no command knows are told by the program itself.
    found = re.match(f"python -m skvq( {arguments[0]})?: (.*)\n", outcome.err)
    assert found, outcome.err
    return found[2]


def table(out):
    """Return the rows of the markdown table in the output, by scheme."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert re.fullmatch(r"\| -+ (\| -+: )+\|", lines[1])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:]}


def samples(n_rows=N_ROWS, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, N_FEATURES)) * 3
    X = centres[rng.integers(0, 5, n_rows)] + rng.normal(size=(n_rows, N_FEATURES))
    return X.astype(np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, kept):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kept(tmp_path_factory, monkeypatch):
    """A folder of its own for what `compare` keeps."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "skvq"


@pytest.fixture
def X():
    X = samples()
    np.save("X.npy", X)
    return X


@pytest.fixture
def pq(X):
    """A codec of X, written by the library."""
    pq = ProductQuantizer(2, 16, random_state=0).fit(X)
    save(pq, "pq.skvq")
    return pq


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 4096)  # 64 rows


def nothing_but(*names):
    assert sorted(path.name for path in Path().iterdir()) == sorted(names)


# -- fit, encode, decode, info -----------------------------------------------------


def test_there_and_back(X, small_chunks):
    succeed("fit", "X.npy", "pq:2x16", "-o", "X.skvq")
    succeed("encode", "X.npy", "X.skvq", "-o", "X.codes")
    succeed("decode", "X.codes", "X.skvq", "-o", "Y.npy")
    expected = ProductQuantizer(2, 16, random_state=0).fit(X)
    np.testing.assert_array_equal(load_codes("X.codes"), expected.transform(X))
    Y = np.load("Y.npy")
    np.testing.assert_array_equal(Y, expected.quantize(X))
    assert Y.dtype == expected.quantize(X).dtype
    assert Path("X.codes").stat().st_size == 64 + N_ROWS  # a byte each
    nothing_but("X.npy", "X.skvq", "X.codes", "Y.npy")


@pytest.mark.parametrize("packing", ["columns", "radix"])
def test_codes_are_packed_as_asked(X, packing):
    succeed("fit", "X.npy", "pq:5,5,5", "-o", "X.skvq")
    succeed("encode", "X.npy", "X.skvq", "-o", "X.codes", "--packing", packing)
    assert json.loads(succeed("info", "X.codes", "--json"))["packed_bits"] == (
        9 if packing == "columns" else 7
    )
    codes = load("X.skvq").transform(X)
    np.testing.assert_array_equal(load_codes("X.codes"), codes)


@pytest.mark.parametrize("option", ["--entropy", "--entropy-fit"])
def test_codes_are_coded_by_their_entropy(X, option, small_chunks):
    pytest.importorskip("constriction")
    succeed("fit", "X.npy", "standard+pq:2x16", "-o", "codec")
    text = succeed("encode", "X.npy", "codec", "-o", "codes", option)
    codec = load("codec")
    codes = codec.transform(X)
    with CodeReader("codes") as reader:
        np.testing.assert_array_equal(reader[:], codes)
        assert reader.codec_id == codec_info("codec")["id"]
        bits = reader.bits_per_row
        # X is what the codec was fitted on.
        coder = EntropyCoder.from_counts(codec[-1].code_counts_)
        assert reader.coder.model_id_ == coder.model_id_
    assert f"{bits:.6g}" in text
    succeed("decode", "codes", "codec", "-o", "again.npy")
    np.testing.assert_array_equal(np.load("again.npy"), codec.inverse_transform(codes))
    text = succeed("info", "codes")
    assert f"{bits:.6g} in the mean, coded by their entropy" in text
    facts = json.loads(succeed("info", "codes", "--json"))
    assert (facts["bits_per_row"], facts["packed_bits"]) == (bits, None)
    assert facts["packing"] == "entropy"
    facts = json.loads(
        succeed("encode", "X.npy", "codec", "-o", "codes", option, "--json")
    )
    assert (facts["bits_per_row"], facts["packed_bits"]) == (bits, None)


def test_entropy_that_cannot_be_had(X, pq, monkeypatch):
    encode = "encode", "X.npy", "pq.skvq"
    assert "plain codes" in fail(*encode, "-o", "codes.npy", "--entropy")
    assert "not allowed" in fail(
        *encode, "-o", "codes", "--entropy", "--packing", "radix"
    )
    old = load("pq.skvq")
    del old.code_counts_
    save(old, "old")
    error = fail("encode", "X.npy", "old", "-o", "codes", "--entropy")
    assert "--entropy-fit counts them" in error
    given = ProductQuantizer.from_codebooks(old.codebooks_)
    save(given, "given")
    error = fail("encode", "X.npy", "given", "-o", "codes", "--entropy")
    assert "no code was counted" in error
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert "skvq[entropy]" in fail(*encode, "-o", "codes", "--entropy")
    assert not Path("codes").exists()


def test_coded_codes_are_decoded_with_the_extra_only(X, pq, monkeypatch):
    pytest.importorskip("constriction")
    succeed("encode", "X.npy", "pq.skvq", "-o", "codes", "--entropy")
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert "skvq[entropy]" in fail("decode", "codes", "pq.skvq", "-o", "again.npy")
    assert "entropy" in succeed("info", "codes")


def test_plain_codes(X, pq, small_chunks):
    succeed("encode", "X.npy", "pq.skvq", "-o", "codes.npy")
    codes = np.load("codes.npy")
    np.testing.assert_array_equal(codes, pq.transform(X))
    assert codes.dtype == np.uint8
    succeed("decode", "codes.npy", "pq.skvq", "-o", "Y.npy")
    np.testing.assert_array_equal(np.load("Y.npy"), pq.quantize(X))
    np.save("wide.npy", np.asfortranarray(codes.astype(np.int64)))
    succeed("decode", "wide.npy", "pq.skvq", "-o", "Z.npy")
    np.testing.assert_array_equal(np.load("Z.npy"), pq.quantize(X))


def test_pipelines(X, small_chunks):
    succeed("fit", "X.npy", "standard+pca:4+pq:2x16", "-o", "X.skvq")
    succeed("encode", "X.npy", "X.skvq", "-o", "X.codes")
    succeed("decode", "X.codes", "X.skvq", "-o", "Y.npy")
    codec = load("X.skvq")
    expected = codec.inverse_transform(codec.transform(X))
    np.testing.assert_allclose(np.load("Y.npy"), expected, rtol=1e-5)
    details = codec_info("X.skvq")["details"]
    error = metrics.distortion(X, expected)
    assert details["distortion"] == pytest.approx(error, rel=1e-5)


def test_fit_on_a_sample(X, small_chunks):
    arguments = ["fit", "X.npy", "vq:8", "--rows", "100"]
    succeed(*arguments, "-o", "a")
    succeed(*arguments, "-o", "b", "--seed", "0")
    succeed(*arguments, "-o", "c", "--seed", "1")
    tables = [load(name).codebooks_[0] for name in "abc"]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
    rows = np.sort(np.random.default_rng(0).choice(500, 100, False, shuffle=False))
    expected = VectorQuantizer(8, random_state=0).fit(X[rows])
    np.testing.assert_array_equal(tables[0], expected.codebooks_[0])
    details = codec_info("a")["details"]
    assert (details["fitted_rows"], details["rows"], details["seed"]) == (100, 500, 0)
    assert details["distortion"] == expected.distortion_


def test_a_sample_of_more_rows_is_all(X):
    out = succeed("fit", "X.npy", "vq:8", "-o", "a", "--rows", "1000")
    assert "500 of 500 rows" in out
    expected = VectorQuantizer(8, random_state=0).fit(X)
    np.testing.assert_array_equal(load("a").codebooks_[0], expected.codebooks_[0])


def test_the_same_command_writes_the_same_bytes(X):
    for name in ("a", "b"):
        succeed("fit", "X.npy", "pca+pq:2x8", "-o", name, "--rows", "200")
    assert Path("a").read_bytes() == Path("b").read_bytes()


def test_the_distortion_of_another_metric_is_still_the_squared_error(X):
    succeed("fit", "X.npy", "vq:8,metric=cosine", "-o", "a")
    error = metrics.distortion(X, load("a").quantize(X))
    assert codec_info("a")["details"]["distortion"] == pytest.approx(error)


def test_info(X, small_chunks):
    succeed("fit", "X.npy", "standard+pq:64,3", "-o", "a", "--rows", "100")
    succeed("encode", "X.npy", "a", "-o", "codes")
    text = succeed("info", "a")
    for part in ("standard+pq:64,3", "64, 3", "7.58496, packed 8", "100 of 500"):
        assert part in text
    assert f"skvq {skvq.__version__}" in text and "scikit-learn" in text
    facts = json.loads(succeed("info", "a", "--json"))
    assert facts["kind"] == "codec"
    assert facts["bytes"] == Path("a").stat().st_size
    assert {k: v for k, v in facts.items() if k in codec_info("a")} == codec_info("a")
    text = succeed("info", "codes")
    assert facts["id"] in text and "500" in text and "by columns" in text
    codes = json.loads(succeed("info", "codes", "--json"))
    assert codes["kind"] == "codes" and codes["rows"] == 500
    assert codes["codec_id"] == facts["id"]
    text = succeed("info", "X.npy")
    assert "float32" in text and "500" in text
    data = json.loads(succeed("info", "X.npy", "--json"))
    assert (data["rows"], data["features"], data["dtype"]) == (500, 6, "float32")


def test_info_of_an_archive_lists_its_arrays(X):
    np.savez("X.npz", train=X, labels=np.zeros(3), names=np.array(["a"]))
    text = succeed("info", "X.npz")
    assert re.search(r"^train +500 x 6, float32$", text, re.M)
    assert re.search(r"^labels +no matrix", text, re.M)
    assert json.loads(succeed("info", "X.npz", "--json"))["arrays"]["names"] is None
    assert "float32" in succeed("info", "X.npz", "--key", "train")


def test_info_of_a_codec_and_data_tells_drift(X):
    succeed("fit", "X.npy", "standard+pq:3x8", "-o", "a")
    Y = X[:200] + np.float32([0, 0, 0, 0, 0, 9])
    np.save("Y.npy", Y)
    text = succeed("info", "a", "Y.npy")
    expected = metrics.drift(load("a"), Y)
    assert str(expected) in text and "standard+pq:3x8" in text
    facts = json.loads(succeed("info", "a", "Y.npy", "--json"))
    assert facts["drift"] == expected.as_dict() and facts["kind"] == "codec"
    np.savez("both.npz", X=X, Y=Y)
    keyed = json.loads(succeed("info", "a", "both.npz", "--key", "Y", "--json"))
    assert keyed["drift"] == facts["drift"]
    features = skvq.QuantizedFeatures(skvq.VectorQuantizer(4))
    save(features.fit(X), "features")
    assert "Drift of 200 rows" in succeed("info", "features", "Y.npy")


def test_info_of_data_that_do_not_fit_a_codec(X):
    succeed("fit", "X.npy", "vq:8", "-o", "a")
    np.save("narrow.npy", X[:, :4])
    assert "4 columns" in fail("info", "a", "narrow.npy")
    np.save("nan.npy", np.full((3, N_FEATURES), np.nan))
    assert "row 0, column 0" in fail("info", "a", "nan.npy")
    np.save("empty.npy", np.empty((0, N_FEATURES)))
    assert "no rows" in fail("info", "a", "empty.npy")
    assert "cannot read" in fail("info", "a", "missing.npy")
    assert "X.npy is no codec" in fail("info", "X.npy", "X.npy")


def test_info_runs_nothing(pq, monkeypatch):
    monkeypatch.setattr("pickle.loads", lambda content: pytest.fail("unpickled"))
    assert "pq" not in succeed("info", "pq.skvq").replace("pq.skvq", "")


def test_json_of_every_command(X):
    fitted = json.loads(succeed("fit", "X.npy", "vq:8", "-o", "a", "--json"))
    assert fitted["details"]["scheme"] == "vq:8" and fitted["fit_seconds"] > 0
    encoded = json.loads(succeed("encode", "X.npy", "a", "-o", "codes", "--json"))
    assert encoded["packed_bits"] == 3 and encoded["rows"] == 500
    assert encoded["bytes"] == Path("codes").stat().st_size
    decoded = json.loads(succeed("decode", "codes", "a", "-o", "Y.npy", "--json"))
    assert decoded["bytes"] == Path("Y.npy").stat().st_size


# -- data files --------------------------------------------------------------------


def write_csv(path, X, header=None, separator=","):
    lines = [] if header is None else [separator.join(header)]
    lines += [separator.join(map(repr, row)) for row in X.tolist()]
    Path(path).write_text("\n".join(lines) + "\n")


def write(kind, X):
    """Write X to a file of some kind; return its name and the options to read it."""
    options = []
    if kind == "npy":
        np.save("data.npy", X)
    elif kind == "fortran":
        np.save("data.npy", np.asfortranarray(X))
    elif kind == "big-endian":
        np.save("data.npy", X.astype(X.dtype.newbyteorder(">")))
    elif kind == "npz":
        np.savez("data.npz", X=X)
    elif kind == "npz of several":
        np.savez_compressed("data.npz", X=X, y=np.arange(3))
        options = ["--key", "X"]
    elif kind == "npz, fortran":
        np.savez_compressed("data.npz", X=np.asfortranarray(X))
    elif kind == "csv":
        write_csv("data.csv", X)
    elif kind == "csv with names":
        write_csv("data.csv", X, NAMES)
    elif kind == "tsv":
        write_csv("data.tsv", X, NAMES, "\t")
    elif kind == "semicolons":
        write_csv("data.csv", X, NAMES, ";")
    elif kind == "index":
        rows = np.column_stack([np.arange(len(X)), X])
        write_csv("data.csv", rows, ["", "0", "1", "2", "3", "4", "5"])
        options = ["--columns", "0:5"]
    elif kind == "numbered":
        write_csv("data.csv", X, ["0", "1", "2", "3", "4", "5"])
    (path,) = Path().glob("data.*")
    return path, options


KINDS = [
    "npy",
    "fortran",
    "big-endian",
    "npz",
    "npz of several",
    "npz, fortran",
    "csv",
    "csv with names",
    "tsv",
    "semicolons",
    "index",
    "numbered",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_codes(kind, small_chunks):
    X = samples()
    path, options = write(kind, X)
    succeed("fit", path, "pq:2x16", "-o", "a", "--rows", "300", *options)
    succeed("encode", path, "a", "-o", "codes", *options)
    rows = np.sort(np.random.default_rng(0).choice(500, 300, False, shuffle=False))
    expected = ProductQuantizer(2, 16, random_state=0).fit(X[rows])
    np.testing.assert_array_equal(load_codes("codes"), expected.transform(X))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "f2", "f8"])
def test_dtypes(dtype, small_chunks):
    X = samples() > 0 if dtype == "bool" else (samples() * 10).astype(dtype)
    np.save("X.npy", X)
    succeed("fit", "X.npy", "vq:4", "-o", "a")
    succeed("encode", "X.npy", "a", "-o", "codes")
    expected = VectorQuantizer(4, random_state=0).fit(X).transform(X)
    np.testing.assert_array_equal(load_codes("codes"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_small_and_put_together_the_whole(kind, small_chunks):
    X = samples()
    path, options = write(kind, X)
    names = ["key", "columns"]
    settings = {k: options[1] for k in names if f"--{k}" in options}
    source = sources.open_source(path, **settings)
    assert (source.n_rows, source.n_features) == X.shape
    chunks = list(source.chunks())
    assert max(map(len, chunks)) <= 64
    assert all(chunk.dtype.isnative for chunk in chunks)
    np.testing.assert_array_equal(np.vstack(chunks), X)
    np.testing.assert_array_equal(source.load(), X)
    rows = np.array([0, 63, 64, 65, 300, 499])
    np.testing.assert_array_equal(source.take(rows), X[rows])
    np.testing.assert_array_equal(source.take(rows[:0]), X[:0])


def test_columns_of_a_table(small_chunks):
    X = samples()
    lines = [f'"row {i}",{",".join(map(str, row))}' for i, row in enumerate(X.tolist())]
    header = "name," + ",".join(NAMES)
    Path("X.csv").write_text("\n".join([header, "", *lines]))
    for columns, expected in [
        ("a:f", X),
        ("c,a", X[:, [2, 0]]),
        ("b:c,f", X[:, [1, 2, 5]]),
    ]:
        source = sources.open_source(Path("X.csv"), columns=columns)
        np.testing.assert_array_equal(source.load(), expected)
    assert source.columns == ["b", "c", "f"]
    error = fail("fit", "X.csv", "vq:4", "-o", "a")
    assert "line 3, column 0 (name): 'row 0' is not a number" in error


def test_names_of_columns_are_kept_and_compared():
    X = samples()
    write_csv("X.csv", X, NAMES)
    write_csv("other.csv", X, ["a", "c", "b", "d", "e", "f"])
    write_csv("none.csv", X)
    succeed("fit", "X.csv", "pq:2x16", "-o", "a")
    error = fail("encode", "other.csv", "a", "-o", "codes")
    assert error == "error: column 1 of other.csv is 'c', a was fitted on 'b'"
    succeed("encode", "none.csv", "a", "-o", "codes")
    succeed("decode", "codes", "a", "-o", "Y.csv")
    first, *lines = Path("Y.csv").read_text().splitlines()
    assert first == "a,b,c,d,e,f"
    Y = np.array([line.split(",") for line in lines], dtype=np.float64)
    np.testing.assert_array_equal(Y, load("a").quantize(X.astype(np.float64)))


def test_tables_have_no_more_digits_than_they_need(X):
    np.save("X.npy", np.full((10, 2), 0.1, dtype=np.float32))
    succeed("fit", "X.npy", "vq:1", "-o", "a")
    succeed("encode", "X.npy", "a", "-o", "codes")
    succeed("decode", "codes", "a", "-o", "Y.tsv")
    assert Path("Y.tsv").read_text() == "0.1\t0.1\n" * 10


def test_the_header_can_be_told():
    Path("X.csv").write_text("0,1,2,3\n" * 3)
    assert "2 x" in succeed("info", "X.csv").replace("rows      2", "2 x")
    facts = json.loads(succeed("info", "X.csv", "--json", "--no-header"))
    assert facts["rows"] == 3 and facts["columns"] is None
    Path("X.csv").write_text("7,8\n1,2\n")
    facts = json.loads(succeed("info", "X.csv", "--json", "--header"))
    assert facts["rows"] == 1 and facts["columns"] == ["7", "8"]


def test_parquet(X, small_chunks):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    columns = dict(zip(NAMES, X.T, strict=True))
    flat = pa.table({"id": [f"row {i}" for i in range(len(X))], **columns})
    parquet.write_table(flat, "flat.parquet", row_group_size=150)
    lists = pa.table({"vector": list(X), "id": range(len(X))})
    parquet.write_table(lists, "lists.parquet", row_group_size=150)
    expected = ProductQuantizer(2, 16, random_state=0).fit(X)
    for name, chosen in [("flat", "a:f"), ("lists", "vector")]:
        options = [f"{name}.parquet", "--columns", chosen]
        assert re.search("features +6$", succeed("info", *options), re.M)
        succeed("fit", *options[:1], "pq:2x16", *options[1:], "-o", "a")
        succeed("encode", *options[:1], "a", *options[1:], "-o", "codes")
        np.testing.assert_array_equal(load_codes("codes"), expected.transform(X))
    assert "column 'id' holds string" in fail("info", "flat.parquet")
    ragged = pa.table({"vector": [[1.0, 2.0], [1.0]]})
    parquet.write_table(ragged, "ragged.parquet")
    error = fail("fit", "ragged.parquet", "vq:2", "-o", "b")
    assert "ragged.parquet: row 1 of column 'vector' is a list of length 1" in error
    error = fail("fit", "lists.parquet", "vq:2", "-o", "b")
    assert "column 'vector' holds lists; choose it alone: --columns vector" in error
    parquet.write_table(pa.table({"a": [1, None]}), "missing.parquet")
    assert "missing values" in fail("fit", "missing.parquet", "vq:2", "-o", "b")
    Path("bad.parquet").write_bytes(b"PAR1 and so on")
    assert "cannot read bad.parquet" in fail("info", "bad.parquet")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]] * 80 + [None], "row 80 of column 'emb' is missing"),
        ([[1.0, 2.0]] * 80 + [[1.0, None]], "row 80 of column 'emb' has a missing"),
        ([[1.0, 2.0]] * 80 + [[1.0]], "row 80 of column 'emb' is a list of length 1"),
        ([["a"], ["b"]], "expected real numbers"),
        ([[[1.0]], [[2.0]]], "column 'emb' holds lists of lists"),
        ([[], []], "column 'emb' holds empty lists"),
    ],
)
def test_bad_columns_of_lists_are_named_by_row(small_chunks, rows, message):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    parquet.write_table(pa.table({"emb": rows}), "X.parquet")
    error = fail("fit", "X.parquet", "vq:2", "--columns", "emb", "-o", "b")
    assert message in error


@pytest.mark.parametrize("kind", ["fixed", "of one number"])
def test_columns_of_lists(X, small_chunks, kind):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    X = X if kind == "fixed" else X[:, :1]
    flat = pa.array(np.ascontiguousarray(X).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, X.shape[1])
    parquet.write_table(pa.table({"id": range(len(X)), "emb": lists}), "X.parquet")
    source = sources.open_source(Path("X.parquet"), columns="emb")
    assert source.columns is None and source.dtype == X.dtype
    np.testing.assert_array_equal(source.load(), X)


def test_parquet_without_its_extra(X, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    Path("X.parquet").touch()
    assert fail("info", "X.parquet").endswith("pip install 'skvq[parquet]'")


# -- bounded memory ----------------------------------------------------------------


def peak_of(*arguments):
    tracemalloc.start()
    try:
        succeed(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["npy", "fortran", "npz", "csv"])
@pytest.mark.long
def test_memory_does_not_grow_with_the_file(kind, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 2**16)
    peaks = []
    for n_rows in (4_000, 40_000):
        X = np.round(samples(n_rows), 2)
        np.save("first.npy", X[:1000])
        path, _ = write("npz" if kind == "npz" else kind, X)
        succeed("fit", "first.npy", "pq:2x16", "-o", "a")
        peaks.append(
            [
                peak_of("fit", path, "pq:2x16", "--rows", "500", "-o", "b"),
                peak_of("encode", path, "a", "-o", "codes"),
                peak_of("decode", "codes", "a", "-o", "Y.npy"),
            ]
        )
    # The whole file would be 0.96 MB.
    assert np.all(np.array(peaks[1]) < np.array(peaks[0]) + 300_000), peaks


# -- schemes -----------------------------------------------------------------------


def test_schemes_say_what_they_mean():
    build = schemes.build
    vq = build("vq:16", 3)
    assert isinstance(vq, VectorQuantizer)
    assert (vq.n_codewords, vq.random_state) == (16, 3)
    pq = build("pq:8x256", 0)
    assert (pq.n_subspaces, pq.n_codewords, pq.random_state) == (8, 256, 0)
    assert build("pq:8", 0).n_codewords is None
    assert build("pq:2048,32", 0).n_codewords == [2048, 32]
    assert build("pq:2048,32", 0).n_subspaces == 2
    assert build("pq", 0).n_subspaces == 8
    vq = build("vq:4,learning=ema,decay=0.9,tol=1e-3,random_state=7,n_init=2", 0)
    assert (vq.learning, vq.decay, vq.tol) == ("ema", 0.9, 1e-3)
    assert (vq.random_state, vq.n_init) == (7, 2)
    assert build("vq:4,tol=1e+1", 0).tol == 10
    assert build("vq,random_state=none", 0).random_state is None


def test_schemes_in_schemes():
    pq = schemes.build("pq:4x(vq:16,learning=minibatch),share_codebook=true", 5)
    assert pq.n_subspaces == 4 and pq.share_codebook is True and pq.random_state == 5
    assert pq.quantizer.n_codewords == 16 and pq.quantizer.learning == "minibatch"
    assert pq.quantizer.random_state is None
    deep = schemes.build("pq:2x(pq:2x(vq:4,n_init=3))", 0)
    assert deep.quantizer.quantizer.n_init == 3
    for text in ("pq,quantizer=vq:4", "pq,quantizer=(vq:4)"):
        assert schemes.build(text, 0).quantizer.n_codewords == 4


def test_steps_before_a_scheme():
    pipeline = schemes.build("standard,with_std=false + pca:3,whiten=true+vq:4", 1)
    assert isinstance(pipeline, Pipeline)
    scaler, pca, vq = [step for _, step in pipeline.steps]
    assert isinstance(scaler, StandardScaler) and scaler.with_std is False
    assert isinstance(pca, PCA) and (pca.n_components, pca.whiten) == (3, True)
    assert (pca.random_state, vq.random_state) == (1, 1)
    assert schemes.build("pca,n_components=0.9+vq", 0)[0].n_components == 0.9
    minmax = schemes.build("minmax,feature_range=(-1,1)+vq", 0)[0]
    assert minmax.feature_range == (-1, 1)


OTHERS = {
    "uniform:16": ("UniformQuantizer", {"n_levels": 16}),
    "uniform:16,4,clip_range=(0,1)": (
        "UniformQuantizer",
        {"n_levels": [16, 4], "clip_range": (0, 1)},
    ),
    "fsq:8,6,5": ("FiniteScalarQuantizer", {"n_levels": [8, 6, 5]}),
    "fsq:4,squash=none": ("FiniteScalarQuantizer", {"n_levels": 4, "squash": "none"}),
    "binary": ("BinaryQuantizer", {}),
    "binary,spherical=true": ("BinaryQuantizer", {"spherical": True}),
    "spherical:16": ("SphericalQuantizer", {"n_levels": 16}),
    "rq:8x256,beam_size=5": (
        "ResidualQuantizer",
        {"n_stages": 8, "n_codewords": 256, "beam_size": 5},
    ),
    "aq:4x16": ("AdditiveQuantizer", {"n_codebooks": 4, "n_codewords": 16}),
    "kronecker:16,32,factor_sizes=(2,3)": (
        "KroneckerQuantizer",
        {"n_codewords": [16, 32], "factor_sizes": (2, 3)},
    ),
    "multiscale:64,map_shape=(4,4)": (
        "MultiScaleQuantizer",
        {"n_codewords": 64, "map_shape": (4, 4)},
    ),
}


@pytest.mark.parametrize("text", OTHERS)
def test_every_other_scheme(text):
    name, expected = OTHERS[text]
    estimator = schemes.build(text, 0)
    assert isinstance(estimator, getattr(skvq, name))
    parameters = estimator.get_params()
    assert {key: parameters[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(8,8)", (8, 8)),
        ("[8, 8]", [8, 8]),
        ("(8,)", (8,)),
        ("(8)", 8),
        ("()", ()),
        ("[(2,3),4]", [(2, 3), 4]),
        ("[minmax,'quantile']", ["minmax", "quantile"]),
        ("'a,b'", "a,b"),
        ('"(+"', "(+"),
        ("(binaries,2)", ("binaries", 2)),
        ("{'a': 1}", {"a": 1}),
        ("None", None),
        ("none", None),
        ("True", True),
        ("1e+3", 1000.0),
        ("-1", -1),
        ("-inf", -np.inf),
        ("lloyd-max", "lloyd-max"),
    ],
)
def test_values_are_written_as_in_python(text, value):
    found = schemes._value(text)
    assert found == value and type(found) is type(value)
    (item,) = schemes._split(f"x={text}", ",") if "," not in text else [f"x={text}"]
    assert item == f"x={text}"


def test_every_parameter_has_its_own_name_alone():
    """Each entry takes all parameters of its estimator, by name, and no others."""
    for entry in [*schemes.SCHEMES, *schemes.STEPS]:
        made = entry.make({})
        for each in (made, made.quantizer) if entry.part else (made,):
            for name, value in each.get_params(deep=False).items():
                if isinstance(value, skvq.base.BaseQuantizer):
                    continue
                assert name in entry.accepted
                text = f"{entry.name},{name}={value!r}"
                if entry in schemes.STEPS:
                    built = schemes.build(f"{text}+vq", None)[0]
                else:
                    built = schemes.build(text, None)
                assert (
                    built.get_params()[
                        f"quantizer__{name}" if each is not made else name
                    ]
                    == value
                )
    pq = schemes.build("pq,quantizer=[(vq:4),binary,(pq:2x(vq:8))]", 0)
    assert [type(part).__name__ for part in pq.quantizer] == [
        *("VectorQuantizer", "BinaryQuantizer", "ProductQuantizer")
    ]


def test_what_has_no_parts_takes_no_scheme():
    message = re.escape("'(vq:4)' is not a size; expected aq[:M | MxV | V1,V2,...]")
    with pytest.raises(schemes.SpecError, match=message):
        schemes.build("aq:2x(vq:4)", 0)


@pytest.mark.parametrize(
    "text", ["pq:1x(" * 400 + "pq" + ")" * 400, "vq:4,max_iter=" + "-" * 10**5 + "1"]
)
def test_what_is_too_deep_is_an_error_of_the_specification(text):
    with pytest.raises(schemes.SpecError) as error:
        schemes.build(text, 0)
    assert "cannot read" in str(error.value) or "max_iter" in str(error.value)


def test_a_hint_follows_a_sentence():
    with pytest.raises(schemes.SpecError, match=r"Got 'EMA' instead; did you mean 'e"):
        schemes.build("vq:16,learning=EMA", 0)


def test_what_stands_in_front_takes_the_parameters_of_its_part():
    opq = schemes.build("opq:4x16,rotation=pca,max_iter=3,n_jobs=2", 7)
    assert (opq.rotation, opq.max_iter, opq.random_state) == ("pca", 3, 7)
    assert isinstance(opq, skvq.RotatedQuantizer)
    assert (opq.quantizer.n_subspaces, opq.quantizer.n_codewords) == (4, 16)
    assert opq.quantizer.n_jobs == 2 and opq.quantizer.random_state is None
    nested = schemes.build("rotated:(scaled:(binary,scale=1),scaling=unbiased)", 7)
    assert isinstance(nested.quantizer, skvq.ScaledQuantizer)
    assert nested.quantizer.quantizer.scale == 1
    for text, message in {
        "opq:4x16,depth=3": "opq has no parameter 'depth', as in 'depth=3'; it has",
        "opq:4x16,n_codewords=4": "says twice what n_codewords is",
        "opq:4x16,rotation=upside": "The 'rotation' parameter of RotatedQuantizer",
        "opq:4x16,n_jobs=zero": "The 'n_jobs' parameter of ProductQuantizer",
        "rotated:binary": "it takes one scheme, in parentheses",
    }.items():
        with pytest.raises(schemes.SpecError, match=re.escape(message)):
            schemes.build(text, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''; expected NAME"),
        ("kmeans:8", "unknown scheme 'kmeans'; known: vq, pq"),
        ("PQ:8x256", "unknown scheme 'PQ'; did you mean 'pq' or .*; known: vq, pq"),
        ("ProductQuantizer:8", "unknown scheme .*; did you mean 'pq'"),
        ("8x256", "cannot read '8x256'"),
        ("unifrom:8", "unknown scheme 'unifrom'; did you mean 'uniform'"),
        ("minimax+vq:4", "unknown step 'minimax'; did you mean 'minmax'"),
        ("pca:4", "unknown scheme 'pca'.*pca is a step, which comes before one"),
        ("pq:2x4+vq:4", "unknown step 'pq'.*pq is a scheme, which comes last"),
        ("normalize+vq:4", "unknown step 'normalize'; known: pca, standard"),
        ("vq:4+", "unknown step 'vq'"),
        ("standard+", "cannot read ''"),
        ("vq:", "'' is not a size; expected vq"),
        ("vq:1.5", "'1.5' is not a size"),
        ("vq:-4", "'-4' is not a size"),
        ("vq:4,8", "it takes one size"),
        ("vq:0", "n_codewords.*Got 0"),
        ("pq:8x", "'' is not a size; expected pq"),
        ("pq:8x256x2", "'256x2' is not a size"),
        ("pq:8y256", "'8y256' is not a size"),
        ("pq:4x(vq:4", "parentheses .* do not match"),
        ("pq:4x)vq:4(", "parentheses .* do not match"),
        ("pq:4x(sq:4)", "unknown scheme 'sq'"),
        ("standard:4+vq", "it takes no sizes; expected 'standard' alone"),
        ("pq:8x256,beam=5", "pq has no parameter 'beam', as in 'beam=5'; it has .*sh"),
        ("rq:8x256,beam=5", "rq has no .*; did you mean 'beam_size' or .*; it has"),
        ("kronecker:16,factors=(8,8)", "as in 'factors=.8,8.'; did .*'factor_sizes'"),
        ("multiscale:8,shape=(2,2,1)", "did you mean 'map_shape'"),
        ("uniform,bits=64", "did you mean 'target_bits' or 'total_bits'"),
        ("tcq,states=8", "did you mean 'n_states'"),
        ("vq:4,learning=loyd", "among .* Got 'loyd' instead; did you mean 'lloyd'"),
        ("vq:4,learning='emma'", "did you mean 'ema'"),
        ("vq:4,init='random", "the quotes in .* do not match"),
        ("kronecker:4,factor_sizes=[2,3)", "the parentheses in .* do not match"),
        ("pq:8x256,n_codewords=4", "says twice what n_codewords is"),
        ("pq:4,tol", "'tol' is not a size"),
        ("vq,tol", "cannot read 'tol' .* expected PARAMETER=VALUE"),
        ("vq:4,tol=1e-3,5", "cannot read '5' .* expected PARAMETER=VALUE"),
        ("vq:4,tol=high", "The 'tol' parameter of VectorQuantizer must be"),
        ("vq:4,learning=slow", "The 'learning' parameter .* among"),
        ("pq,quantizer=5", "cannot read '5'"),
    ],
)
def test_bad_schemes_are_told_before_any_work(text, message, X, monkeypatch):
    monkeypatch.setattr(sources, "open_source", lambda *a, **k: pytest.fail("opened"))
    assert re.search(message, fail("fit", "X.npy", text, "-o", "a"))
    nothing_but("X.npy")


def test_the_help_lists_what_there_is():
    outcome = run("fit", "--help")
    assert outcome.status == 0
    for entry in schemes.SCHEMES:
        assert f"  {entry.usage}\n" in outcome.out
    for entry in schemes.STEPS:
        assert entry.usage in outcome.out
    for command in ("encode", "decode", "compare", "info"):
        assert run(command, "--help").status == 0


def test_no_arguments_at_all_show_the_help(monkeypatch):
    asked = run("--help")
    assert asked.status == 0 and asked.err == ""
    for command in ("fit", "encode", "decode", "compare", "info", "demo"):
        assert re.search(f"^    {command} ", asked.out, re.M)
    # A script whose arguments have got lost must not look as if it had worked.
    assert run() == (2, "", asked.out)
    monkeypatch.setattr(sys, "argv", ["skvq"])
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        assert __main__.main() == 2
    assert shown.getvalue().startswith("usage: skvq [-h] [--version] command ...\n")


# -- compare -----------------------------------------------------------------------


def test_compare_agrees_with_the_library(X):
    out = succeed("compare", "X.npy", "--bits", "6", "--test-size", "0.2")
    rows = table(out)
    assert {"vq:64", "pq:2x8", "standard+binary"} <= set(rows)
    train, test = train_test_split(X, test_size=100, random_state=0)
    assert "Fitted on 400 rows of 6 features, judged on 100 others" in out
    for scheme, row in rows.items():
        estimator = schemes.build(scheme, 0).fit(train)
        Y = estimator.inverse_transform(estimator.transform(test))
        assert row["bits"] == f"{metrics.bits_per_sample(estimator):.6g}"
        assert row["distortion"] == f"{metrics.distortion(test, Y):.6g}"
        assert row["SQNR, dB"] == f"{metrics.sqnr(test, Y):.2f}"
        coded = metrics.entropy_bits(estimator, test)
        assert row["coded"] == f"{coded:.2f}"
        assert float(row["fit, s"]) >= 0 and float(row["encode, s"]) >= 0
    assert float(rows["vq:64"]["distortion"]) < float(rows["pq:2x8"]["distortion"])
    nothing_but("X.npy")


def test_compare_as_json(X):
    out = succeed("compare", "X.npy", "--bits", "4", "13", "--json", "--rows", "300")
    facts = json.loads(out)
    assert facts["train_rows"] + facts["test_rows"] == 300
    for result in facts["results"]:
        if result["family"] != "pca+step":  # whose budget is that of its coded bits
            assert result["bits"] <= result["budget"] * (1 + 1e-9)
        assert 0 < result["coded_bits"] < 2 * result["budget"]
        assert result["packed_bits"] >= result["bits"] * (1 - 1e-9)
        assert result["distortion"] > 0
    budgets = [result["budget"] for result in facts["results"]]
    assert budgets == sorted(budgets)
    skipped = {(skip["family"], skip["budget"]) for skip in facts["skipped"]}
    assert ("vq", 13) in skipped


def test_compare_with_a_test_set(X):
    test = samples(50, seed=1)
    np.savez("X.npz", train=X, test=test)
    arguments = ["X.npz", "--key", "train", "--test-key", "test"]
    out = succeed("compare", *arguments, "--schemes", "pq:2x16")
    pq = ProductQuantizer(2, 16, random_state=0).fit(X)
    assert table(out)["pq:2x16"]["distortion"] == f"{-pq.score(test):.6g}"
    np.savez("X.npz", train=X, test=test[:, :3])
    error = fail("compare", *arguments, "--schemes", "pq:2x16")
    assert "'test' has shape (50, 3), and should have 6 columns" in error


def test_compare_takes_families_and_schemes(X):
    names = ["pq", "standard+pq", "vq,max_iter=2", "pq:3x8,share_codebook=true"]
    out = succeed("compare", "X.npy", "--bits", "6", "--schemes", *names)
    assert set(table(out)) == {
        "pq:2x8",
        "standard+pq:2x8",
        "vq:64,max_iter=2",
        "pq:3x8,share_codebook=true",
    }


@pytest.mark.parametrize(
    ("family", "bits", "expected"),
    [
        ("vq", 8, "vq:256"),
        ("vq", 13, None),
        ("vq", 10, None),  # more codewords than rows
        ("pq", 64, "pq:8x256"),
        ("pq", 12, "pq:2x64"),
        ("pq", 20, "pq:128,128,64"),
        ("pq", 96, "pq:12x256"),
        ("pq", 200, None),  # 16 features of 12.5 bits
        ("pq", 1, None),
        ("rq", 20, "rq:128,128,64"),
        ("rq", 200, "rq:25x256"),
        ("kronecker", 16, "kronecker:256"),
        ("kronecker", 15, None),
        ("uniform", 64, "uniform,total_bits=64,levels=lloyd-max"),
        ("uniform", 4, "uniform,total_bits=4,levels=lloyd-max"),
        (
            "uniform,clip_range=quantile",
            40,
            "uniform,total_bits=40,clip_range=quantile",
        ),
        ("pca+tcq", 64, "pca+tcq,total_bits=64"),
        ("pca+step", 64, "pca+step:64"),
        ("opq", 64, "opq:8x256"),
        ("opq", 200, None),
        ("fsq", 32, "fsq:4,squash=cdf"),
        ("fsq,squash=none", 32, "fsq:4,squash=none"),
        ("spherical", 38, "spherical:4,angles=density,radius=learned"),
        ("spherical", 20, None),
        ("binary", 16, "binary"),
        ("binary", 8, None),
        ("pca:8+pq", 64, "pca:8+pq:8x256"),
        ("pca+binary", 12, "pca:12+binary"),
        ("pca+binary", 17, None),
        ("pca:8+binary", 8, "pca:8+binary"),
        ("pca:8+binary", 16, None),  # of 16 features, eight are left
        (
            "pca:8,whiten=true+uniform",
            16,
            "pca:8,whiten=true+uniform,total_bits=16,levels=lloyd-max",
        ),
        ("pca:4+pq", 64, None),
        ("pca+uniform", 32, "pca+uniform,total_bits=32,levels=lloyd-max"),
        ("standard+uniform", 32, "standard+uniform,total_bits=32,levels=lloyd-max"),
        ("standard+fsq", 16, "standard+fsq:2,squash=cdf"),
    ],
)
def test_families_are_sized_to_budgets(family, bits, expected):
    facts = compare.Facts(16, 600)
    if expected is None:
        with pytest.raises(compare.Unsuitable):
            compare._sized(family, bits, facts)
    else:
        assert compare._sized(family, bits, facts) == expected


@pytest.mark.parametrize(
    ("family", "bits", "expected"),
    [
        # Variances 256, 64, 16, ..., a bit apart, which 1 + 2 + 3 bits fill up.
        ("pca+uniform", 5, "pca:3+uniform,total_bits=5,levels=lloyd-max"),
        ("pca+uniform", 7, "pca:4+uniform,total_bits=7,levels=lloyd-max"),
        ("pca+uniform", 64, "pca+uniform,total_bits=64,levels=lloyd-max"),
        ("pca+vq", 5, "pca:3+vq:32"),
        ("pca,whiten=true+vq", 5, "pca:3,whiten=true+vq:32"),
        ("pca:5+vq", 5, "pca:5+vq:32"),
        ("pca,n_components=0.9+vq", 5, "pca,n_components=0.9+vq:32"),
        ("standard+pca+vq", 5, "standard+pca+vq:32"),  # all axes are alike there
        ("pca+pq", 24, "pca:7+pq:3x256"),
        ("pca+pq", 8, "pca:4+pq:2x16"),
        ("pca+kronecker", 10, "pca:4+kronecker:32"),
        # As many bits for each, so that the first axes have the most of them.
        ("pca+fsq", 4, "pca:2+fsq:4,squash=cdf"),
        ("pca+fsq", 20, "pca:4+fsq:32,squash=cdf"),
        (
            "pca+spherical",
            12,
            "pca:3+spherical:4,angles=density,radius=learned",
        ),
        ("pca+binary", 3, "pca:3+binary"),
    ],
)
def test_principal_axes_are_as_many_as_the_budget_has_bits_for(family, bits, expected):
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    scales = 16.0 * 0.5 ** np.arange(8)
    # Of exactly this covariance.
    white = np.linalg.qr(rng.normal(size=(600, 8)) - 0.5)[0]
    white -= white.mean(axis=0)
    white = np.linalg.qr(white)[0] * np.sqrt(600)
    rows = white * scales
    if "standard" not in family:
        rows = rows @ turn
    assert compare._sized(family, bits, compare._facts(rows, None)) == expected


def test_every_table_of_a_product_has_an_axis():
    steep = 1e-30 ** np.arange(8)
    facts = compare.Facts(8, 600, variances=lambda steps: steep)
    assert compare._sized("pca+uniform", 24, facts).startswith("pca:1+")
    assert compare._sized("pca+pq", 24, facts) == "pca:3+pq:3x256"
    assert compare._sized("pca+opq", 8, facts) == "pca:2+opq:2x16"


def test_the_number_of_axes_is_the_best_of_equal_shares():
    variances = 0.6 ** np.arange(12)
    for bits in (3, 8, 13, 24):
        n = compare._n_alike(bits, variances)
        errors = {
            k: 2 * variances[:k].sum() / compare._whole_root(bits, k) ** 2
            + variances[k:].sum()
            for k in range(1, min(bits, 12) + 1)
        }
        assert errors[n] == min(errors.values())


@pytest.mark.parametrize(
    ("family", "bits", "shape", "expected"),
    [
        ("multiscale", 42, (8, 8, 1), "multiscale:4,map_shape=(8,8,1),scales=(1,2,4)"),
        ("multiscale", 20, (8, 8, 1), "multiscale:16,map_shape=(8,8,1),scales=(1,2)"),
        (
            "multiscale",
            200,
            (4, 4, 4),
            "multiscale:736,map_shape=(4,4,4),scales=(1,2,4)",
        ),
        (
            "multiscale",
            40,
            (6, 3, 1),
            "multiscale:21,map_shape=(6,3,1),scales=(1,(2,1),(3,2))",
        ),
        ("multiscale", 24, (8, 2), "multiscale:10,map_shape=(8,2),scales=(1,2,4)"),
        (
            "multiscale,map_shape=(8,8,1),scales=(1,4)",
            34,
            None,
            "multiscale:4,map_shape=(8,8,1),scales=(1,4)",
        ),
        ("multiscale,scales=(1,2),tol=0.1", 10, (2, 2, 4), None),
        ("multiscale", 0.5, (8, 8, 1), None),
        ("multiscale", 42, None, None),
    ],
)
def test_multiscale_is_sized_where_a_shape_is_given(family, bits, shape, expected):
    facts = compare.Facts(64, 6000, shape)
    if family.endswith("tol=0.1"):
        expected = "multiscale:4,map_shape=(2,2,4),scales=(1,2),tol=0.1"
    if expected is None:
        with pytest.raises(compare.Unsuitable):
            compare._sized(family, bits, facts)
        return
    found = compare._sized(family, bits, facts)
    assert found == expected
    schemes.build(found, 0)


def test_compare_with_maps(X, monkeypatch):
    monkeypatch.setattr(compare, "_DEFAULT", ["vq"])
    out = succeed("compare", "X.npy", "--bits", "6", "--map-shape", "3,2", "--json")
    (found,) = [one for one in json.loads(out)["results"] if "multi" in one["family"]]
    assert found["scheme"] == "multiscale:4,map_shape=(3,2,1),scales=(1,(2,1))"
    arguments = ["compare", "X.npy", "--bits", "6", "--map-shape"]
    assert "maps of 4 x 2 do not have the 6 features" in fail(*arguments, "4,2")
    for text in ("0,2", "2,", "a", "1,2,3,4", "(3,2)"):
        assert f"expected H,W for maps, or L for sequences, got '{text}'" in fail(
            *arguments, text
        )


# -- compare: what it tells, and keeps ---------------------------------------------


def test_compare_tells_how_long_it_will_take(X, monkeypatch):
    np.save("N.npy", samples(2_000))
    monkeypatch.setattr(compare, "_FEW_ROWS", 64)
    fits, fit = [], VectorQuantizer.fit

    def counted(self, X, *args, **kwargs):
        fits.append(len(X))
        return fit(self, X, *args, **kwargs)

    monkeypatch.setattr(VectorQuantizer, "fit", counted)
    arguments = ["compare", "N.npy", "--bits", "3", "4", "--schemes", "vq", "pq"]
    outcome = run(*arguments)
    assert outcome.status == 0
    first, second, *rows = outcome.err.splitlines()
    assert re.fullmatch(r"measuring on 128 rows how long .* \.\.\. \d+\.\d s", first)
    assert re.fullmatch(
        r"about (<1|\d+) s in all: vq (<1|\d+) s, pq (<1|\d+) s", second
    )
    assert len(rows) == 4 and all(re.match(r"\[\d/4\] ", row) for row in rows)
    assert sorted(fits) == [63, 125, 1500, 1500]
    # Nobody is told what nobody has asked for.
    fits.clear()
    quiet = run(*arguments, "--no-progress", "--no-cache")
    assert (quiet.status, quiet.err) == (0, "")
    assert set(fits) - {1500} == set()
    assert [table(outcome.out)[s]["distortion"] for s in ("vq:8", "pq:2x4")] == [
        table(quiet.out)[s]["distortion"] for s in ("vq:8", "pq:2x4")
    ]


@pytest.mark.parametrize(
    ("n_rows", "n_few"),
    [(511, None), (640, 20), (4095, 64), (4096, 256), (10**6, 2048)],
)
def test_the_rows_that_times_are_measured_on(n_rows, n_few):
    assert compare._n_few(n_rows) == n_few


def test_what_will_be_taken_is_that_of_every_further_row(monkeypatch):
    def measured(candidate, train, test, seed):
        candidate.fit_seconds = 5 * (len(train) / 200) ** power
        candidate.encode_seconds = len(test) / 1000

    monkeypatch.setattr(compare, "_run_one", measured)
    rows = np.zeros((3200, 2))
    run = compare._Run(argparse.Namespace(seed=0), rows, rows[:800], [])
    for power, factor in [(0.5, 4), (1, 16), (3, 16), (0, 1), (-1, 1)]:  # noqa: B007
        found = compare._predicted(compare.Candidate("vq", "vq", None), run, 100)
        assert found == pytest.approx(5 * factor + 0.8)
    power = 0.75
    told = []
    progress = console.Progress(True)
    monkeypatch.setattr(progress, "line", told.append)
    waiting = [
        compare.Candidate("vq", "vq:8", 3),
        compare.Candidate("vq", "vq:16", 4),
        compare.Candidate("pq", "pq:2x4", 4),
        compare.Candidate("pq", "pq:2x8", 6),
        compare.Candidate("pq:3x4", "pq:3x4", None),
    ]
    monkeypatch.setattr(compare, "_n_few", lambda n_rows: 100)
    with contextlib.redirect_stderr(io.StringIO()):
        compare._estimate(waiting, run, progress)
    # 40.8 s each, times 1 + 2, 1 + 6 / 4 and 1.
    assert told == ["about 4 min in all: vq 2 min, pq 2 min, pq:3x4 41 s"]
    monkeypatch.setattr(compare, "_run_one", lambda *_: "cannot be fitted")
    assert compare._predicted(compare.Candidate("vq", "vq", None), run, 100) is None


def comparison(*more):
    return run("compare", "X.npy", "--bits", "4", "--schemes", "vq", "pq:2x4", *more)


def without_seconds(out):
    rows = table(out)
    return {name: list(row.values())[:-2] for name, row in rows.items()}


def test_a_second_run_goes_on(X, kept, monkeypatch):
    first = comparison()
    assert len(list(kept.iterdir())) == 2
    monkeypatch.setattr(compare, "_measure", lambda *_: pytest.fail("fitted again"))
    second = comparison()
    assert second.status == 0
    assert re.findall(r"known$", second.err, re.M) == ["known"] * 2
    assert table(second.out) == table(first.out)
    assert "2 of 2 are of an earlier run, their times too; --no-cache" in second.out
    cached = json.loads(comparison("--json").out)["results"]
    assert [one["cached"] for one in cached] == [True, True]
    monkeypatch.undo()


def test_what_is_kept_is_of_the_same_rows_seed_and_sources(X, kept, monkeypatch):
    first = comparison()
    before = set(kept.iterdir())
    for change in (
        lambda: comparison("--seed", "1"),
        lambda: comparison("--rows", "499"),
        lambda: comparison("--test-size", "0.3"),
    ):
        assert "known" not in change().err
        assert len(set(kept.iterdir()) - before) == 2
        before = set(kept.iterdir())
    X[17, 2] += 1
    np.save("X.npy", X)
    assert "known" not in comparison().err
    monkeypatch.setattr("skvq._cli.cache._sources", lambda: "others")
    assert "known" not in comparison().err
    n_files = len(list(kept.iterdir()))
    assert "known" not in comparison("--no-cache").err
    assert len(list(kept.iterdir())) == n_files
    assert first.status == 0


def test_another_engine_is_another_state_of_the_sources(tmp_path, monkeypatch):
    for name in ("__init__.py", "engine/__init__.py", "engine/_cpu.so", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    monkeypatch.setattr(skvq, "__file__", str(tmp_path / "__init__.py"))
    first = cache._sources()
    (tmp_path / "notes.txt").write_bytes(b"other")
    assert cache._sources() == first
    (tmp_path / "engine/_cpu.so").write_bytes(b"other")
    assert cache._sources() != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"key": "', '"key": "0'),
        lambda text: text.replace('"sqnr"', '"loudness"'),
        lambda text: re.sub('"sqnr": [0-9.]+', '"sqnr": "high"', text),
        lambda text: re.sub('"sqnr": [0-9.]+', '"sqnr": true', text),
        lambda text: re.sub('"warnings": .*?]', '"warnings": [1]', text),
        lambda text: re.sub('"result": .*}', '"result": null}', text),
    ],
)
def test_what_is_damaged_is_fitted_again(damage, X, kept):
    first = comparison()
    for path in kept.iterdir():
        path.write_text(damage(path.read_text()))
    second = comparison()
    assert second.status == 0 and "known" not in second.err
    assert without_seconds(second.out) == without_seconds(first.out)
    assert "known" in comparison().err


def test_a_folder_that_cannot_be_written_is_no_trouble(X, kept, monkeypatch):
    kept.write_text("a file")
    assert comparison().status == comparison().status == 0
    assert kept.read_text() == "a file"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    assert comparison().status == 0
    assert cache.default_folder() is None


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_folder_is_that_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard forbids
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.default_folder() == tmp_path / ".cache" / "skvq"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.default_folder() == tmp_path / "Library" / "Caches" / "skvq"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.default_folder() == tmp_path / "local" / "skvq" / "Cache"
    monkeypatch.delenv("LOCALAPPDATA")
    assert cache.default_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "skvq"


def test_a_failed_write_keeps_nothing(X, kept, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert comparison().status == 0
    assert list(kept.iterdir()) == []


@pytest.mark.long
def test_a_signal_leaves_what_is_finished(X, kept):
    """The table of what is finished is shown, and the next run goes on from there."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", SLOW, "compare", "X.npy", "--bits", "4"),
            *("--schemes", "pq:2x8", "vq", "pq:2x4"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        # Each row is there when it is done, and not when all are.
        assert process.stderr.readline().startswith("[1/3] pq:2x8 ... 6 bits, dist")
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "[2/3] vq:16 ...\npython -m skvq compare: interrupted\n"
    assert set(table(out)) == {"pq:2x8"}
    assert out.endswith("Not finished: vq:16, pq:2x4\n")
    outcome = run("compare", "X.npy", "--bits", "4", "--schemes", "pq:2x8", "vq")
    assert re.search("^.1/2. pq:2x8 6 bits, .*, known$", outcome.err, re.M)
    assert without_seconds(outcome.out)["pq:2x8"] == without_seconds(out)["pq:2x8"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_interrupted_as_json(number, status, X, monkeypatch):
    def fit(self, *args, **kwargs):
        signal.raise_signal(number)

    # Jobs in the background of a script are born deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(VectorQuantizer, "fit", fit)
    names = "--schemes", "uniform:4", "vq:4", "vq:8"
    outcome = run("compare", "X.npy", "--json", "--plot", "p.png", *names)
    signal.signal(signal.SIGINT, before)
    assert outcome.status == status
    facts = json.loads(outcome.out)
    assert [one["scheme"] for one in facts["results"]] == ["uniform:4"]
    assert facts["unfinished"] == ["vq:4", "vq:8"] and not Path("p.png").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("unheard of"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("where", ["_plot", "_run_one"])
def test_a_late_failure_shows_what_is_finished(error, status, where, X, monkeypatch):
    def failing(*args):
        # The second scheme fails, and what draws both.
        if where == "_plot" or getattr(args[0], "scheme", "") == "vq:8":
            raise error
        return whole(*args)

    pytest.importorskip("matplotlib")
    whole = getattr(compare, where)
    monkeypatch.setattr(compare, where, failing)
    outcome = run("compare", "X.npy", "--plot", "p.png", "--schemes", "vq:4", "vq:8")
    assert outcome.status == status
    expected = {"vq:4", "vq:8"} if where == "_plot" else {"vq:4"}
    assert set(table(outcome.out)) == expected
    assert "Picture" not in outcome.out
    assert ("Not finished: vq:8" in outcome.out) == (where == "_run_one")


def test_the_table_is_written_before_a_second_signal():
    stream = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(stream):
        console.say("a table")
        assert stream.buffer.getvalue() == b"a table\n"


def test_a_signal_that_comes_twice_is_answered_once(X, monkeypatch):
    def fit(self, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    def table(results):
        signal.raise_signal(signal.SIGTERM)
        return drawn(results)

    drawn = compare._table
    monkeypatch.setattr(compare, "_table", table)
    monkeypatch.setattr(VectorQuantizer, "fit", fit)
    before = signal.getsignal(signal.SIGTERM)
    outcome = run("compare", "X.npy", "--schemes", "uniform:4", "vq:4")
    assert outcome.status == 143
    assert "| uniform:4 " in outcome.out and "Not finished: vq:4" in outcome.out
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("folder", [Path("/100%s%d/of it"), None])
def test_the_help_names_any_folder(folder, monkeypatch):
    monkeypatch.setattr(compare, "default_folder", lambda: folder)
    outcome = run("compare", "--help")
    assert outcome.status == 0
    expected = f"default: in {folder}" if folder else "default: they are not kept"
    assert expected in " ".join(outcome.out.split())


@pytest.mark.long
def test_no_family_is_worse_than_the_mean():
    X = np.random.default_rng(0).normal(size=(1_000, 8))
    np.save("N.npy", X)
    arguments = ["--bits", "8", "--json", "--no-progress"]
    facts = json.loads(succeed("compare", "N.npy", *arguments))
    assert {"vq", "uniform", "fsq"} <= {one["family"] for one in facts["results"]}
    variance = X.var(axis=0).sum()
    for result in facts["results"]:
        assert result["distortion"] < 0.8 * variance, result


def test_levels_are_the_most_that_fit():
    for n in range(1, 40):
        for bits in range(1, 16 * n):
            root = compare._whole_root(bits, n)
            assert root**n <= 2**bits < (root + 1) ** n
    assert compare._whole_root(10**6, 3) == 2**16


def test_compare_goes_on_after_what_fails(X):
    np.save("X.npy", np.abs(X[:20]) * 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = run(
            "compare", "X.npy", "--schemes", "vq:4", "vq:2,metric=cosine", "vq:64"
        )
    assert outcome.status == 0
    first, second, third = outcome.err.splitlines()
    assert re.fullmatch(r"\[1/3\] vq:4 \.\.\. 2 bits, distortion 0, \d\.\d s", first)
    assert re.match(r"\[2/3\] vq:2,metric=cosine \.\.\. .*zero.*, \d\.\d s$", second)
    assert third.startswith("[3/3] vq:64 ... 6 bits")
    assert set(table(outcome.out)) == {"vq:4", "vq:64"}
    assert re.search(r"^vq:64: 1 distinct samples are fewer", outcome.out, re.M)
    assert re.search(r"^vq:2,metric=cosine: .*zero", outcome.out, re.M)


def test_compare_of_what_cannot_be_fitted_at_all(X):
    outcome = run(
        "compare", "X.npy", "--bits", "60", "--schemes", "vq", "--plot", "p.png"
    )
    assert outcome.status == 2
    assert outcome.err.endswith("error: no scheme could be fitted\n")
    assert "vq at 60: " in outcome.out
    nothing_but("X.npy")


def test_the_plot_has_a_curve_for_each_family(X, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *a, **k: (figures.append(self), save(self, *a, **k)),
    )
    out = succeed(
        *("compare", "X.npy", "--bits", "4", "8", "--schemes", "pq", "vq", "pq:3x4"),
        *("--plot", "p.png"),
    )
    assert out.endswith("Picture: p.png\n")
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    curves = {line.get_label(): line for line in axes.get_lines()}
    assert {"pq", "vq", "pq:3x4"} < set(curves)
    rates, errors = curves["pq"].get_data()
    np.testing.assert_allclose(rates, [4 / 6, 8 / 6])
    expected = [float(table(out)[s]["distortion"]) / 6 for s in ("pq:2x4", "pq:2x16")]
    np.testing.assert_allclose(errors, expected, rtol=1e-5)
    succeed("compare", "X.npy", "--schemes", "vq:2", "--plot", "p.svg")
    assert "<svg" in Path("p.svg").read_text()


def test_the_plot_needs_matplotlib_and_a_known_ending(X, monkeypatch):
    arguments = ["compare", "X.npy", "--schemes", "vq:2", "--plot"]
    monkeypatch.setattr(sources, "open_source", lambda *a, **k: pytest.fail("opened"))
    if "matplotlib" in sys.modules:
        assert "p.docx should end in one of ." in fail(*arguments, "p.docx")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert fail(*arguments, "p.png").endswith("pip install 'skvq[demo]'")


# -- what is wrong is told in one line ---------------------------------------------


def matrix(value=0.0, shape=(20, N_FEATURES)):
    X = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    X[17 % shape[0], 3 % shape[1]] = value
    return X


BAD_FILES = {
    "none.npy": (None, "cannot read none.npy: No such file or directory"),
    "none.csv": (None, "cannot read none.csv: No such file or directory"),
    "none.npz": (None, "cannot read none.npz: No such file or directory"),
    "X.txt": (b"1,2\n", "X.txt: expected a file that ends in .npy, .npz, .csv"),
    "X": (b"1,2\n", "X: expected a file that ends in"),
    "empty.npy": (b"", "cannot read empty.npy"),
    "empty.csv": (b"\n \n", "cannot read empty.csv: it is empty"),
    "empty.npz": (b"", "cannot read empty.npz"),
    "noise.npy": (b"noise" * 99, "cannot read noise.npy"),
    "noise.npz": (b"noise" * 99, "cannot read noise.npz: File is not a zip file"),
    "noise.csv": (b"\xff\xfe\x00" * 9, "cannot read noise.csv: 'utf-8' codec"),
    "words.csv": (b"a,b\n1,2\n3,x\n", "line 3, column 1 (b): 'x' is not a number"),
    "plain.csv": (b"1,2\n3,4\n5,\n", "line 3, column 1: '' is not a number"),
    "long.csv": (b"1,2\n3,4,5\n", "line 2 has 3 cells, the first has 2"),
    "short.csv": (b"a,b\n\n3,4\n3\n", "line 4 has 1 cells, the first has 2"),
    "unnamed.csv": (b",a\n0,1\n", "column 0 has no name"),
    "header.csv": (b"a,b\n", "header.csv has no rows"),
    "nan.csv": (
        b"1,2\n3,4\n5,nan\n",
        "nan.csv: row 2, column 1 (counted from 0) is nan",
    ),
    "flat.npy": (np.zeros(5), "expected a matrix, samples in rows, got an array of sh"),
    "deep.npy": (np.zeros((5, 2, 2)), "got an array of shape (5, 2, 2)"),
    "rows.npy": (np.zeros((0, 3)), "rows.npy has no rows"),
    "columns.npy": (np.zeros((3, 0)), "it has no columns"),
    "complex.npy": (np.zeros((5, 2), complex), "expected real numbers, got dtype comp"),
    "text.npy": (np.array([["a"]]), "expected real numbers, got dtype <U1"),
    "object.npy": (np.array([[None]]), "cannot read object.npy"),
    "nan.npy": (matrix(np.nan), "nan.npy: row 17, column 3 (counted from 0) is nan"),
    "inf.npy": (matrix(-np.inf), "inf.npy: row 17, column 3 (counted from 0) is -inf"),
    "one.npy": (np.zeros((1, 2)), "vq:2: Found array with 1 sample(s)"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data_files(name):
    content, message = BAD_FILES[name]
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        np.save(name, content, allow_pickle=True)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert message in fail("fit", name, "vq:2", "-o", "a")
    if name not in ("one.npy",):
        assert message in fail("compare", name, "--schemes", "vq:2")
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_sample_names_the_row_of_the_file():
    X = matrix(np.nan, (1000, 4))
    X[:, 2] = np.nan
    np.save("X.npy", X)
    error = fail("fit", "X.npy", "vq:2", "-o", "a", "--rows", "5")
    row = int(re.search(r"row (\d+), column 2", error)[1])
    assert row == np.random.default_rng(0).choice(1000, 5, False, shuffle=False).min()


def test_truncated_files(X, pq):
    for name in ("X.npy", "c.codes", "a.npz"):
        if name == "c.codes":
            succeed("encode", "X.npy", "pq.skvq", "-o", name)
        if name == "a.npz":
            np.savez(name, X=X)
        path = Path(name)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        if name == "c.codes":
            error = fail("decode", name, "pq.skvq", "-o", "Y.npy")
        else:
            error = fail("encode", name, "pq.skvq", "-o", "codes")
        assert name in error
        path.write_bytes(content)
    nothing_but("X.npy", "pq.skvq", "c.codes", "a.npz")


def test_an_npz_that_is_damaged_within(X, pq, small_chunks):
    np.savez("X.npz", X=X)
    content = bytearray(Path("X.npz").read_bytes())
    content[5000] ^= 1
    Path("X.npz").write_bytes(content)
    error = fail("encode", "X.npz", "pq.skvq", "-o", "codes")
    assert "cannot read X.npz: Bad CRC-32" in error
    nothing_but("X.npy", "X.npz", "pq.skvq")


def test_options_of_other_files(X):
    np.savez("X.npz", train=X, test=X)
    write_csv("X.csv", X, NAMES)
    for arguments, message in [
        (["X.npy", "--key", "a"], "--key: X.npy is no .npz file"),
        (["X.npy", "--columns", "a"], "--columns: X.npy has no named columns"),
        (["X.npy", "--header"], "--header: X.npy is no .csv or .tsv file"),
        (["X.npz"], "choose with --key: train, test"),
        (["X.npz", "--key", "x"], "it holds no array 'x', but train, test"),
        (["X.csv", "--columns", "a,z"], "no column 'z'; there are a, b, c, d, e, f"),
        (["X.csv", "--columns", "f:a"], "in 'f:a', the last comes first"),
    ]:
        assert message in fail("fit", arguments[0], "vq:2", "-o", "a", *arguments[1:])


BAD_ARGUMENTS = [
    (["fit"], "the following arguments are required: DATA, SCHEME, -o/--output"),
    (["fit", "X.npy", "vq:2"], "required: -o/--output"),
    (["fit", "X.npy", "vq:2", "-o", "a", "--rows", "0"], "above 0, got '0'"),
    (["fit", "X.npy", "vq:2", "-o", "a", "--rows", "-5"], "--rows"),
    (["fit", "X.npy", "vq:2", "-o", "a", "--rows", "1e3"], "above 0, got '1e3'"),
    (["fit", "X.npy", "vq:2", "-o", "a", "--rows", "1"], "1 sample(s)"),
    (["fit", "X.npy", "vq:2", "-o", "a", "--seed", "x"], "from 0 to 4294967295"),
    (["fit", "X.npy", "vq:2", "-o", "a", "--seed", str(2**32)], "from 0 to 4294967295"),
    (
        ["fit", "X.npy", "vq:2", "-o", "a", "--row", "5"],
        "unrecognized arguments: --row",
    ),
    (["fit", "X.npy", "vq:2", "-o", "no/a"], "there is no directory"),
    (["fit", "X.npy", "vq:2", "-o", "."], "it is a directory"),
    (["fit", "X.npy", "vq:2", "-o", "X.npy"], "X.npy is to be read"),
    (["fit", "X.npy", "vq:2", "-o", "-"], "only files are written"),
    (["fit", "X.npy", "vq:2", "-o", os.devnull], "not a regular file"),
    (["encode", "X.npy", "pq.skvq", "-o", "pq.skvq"], "pq.skvq is to be read"),
    (["encode", "X.npy", "pq.skvq", "-o", "codes.csv"], "not written as .csv"),
    (["encode", "X.npy", "X.npy", "-o", "c"], "not a skvq codec file"),
    (["encode", "X.npy", "none", "-o", "c"], "cannot read none: No such file"),
    (["encode", "X.npy", ".", "-o", "c"], "cannot read .: Is a directory"),
    (["encode", ".", "pq.skvq", "-o", "c"], ".: expected a file that ends in"),
    (
        ["encode", "narrow.npy", "pq.skvq", "-o", "c"],
        "has 2 columns, pq.skvq was fitted",
    ),
    (["decode", "codes", "pq.skvq", "-o", "Y"], "samples are written as .npy, .csv"),
    (["decode", "none", "pq.skvq", "-o", "Y.npy"], "cannot read none: No such file"),
    (["decode", "pq.skvq", "pq.skvq", "-o", "Y.npy"], "it holds a codec"),
    (["decode", "X.npy", "pq.skvq", "-o", "Y.npy"], "X.npy holds float32, codes are"),
    (["decode", "wrong.npy", "pq.skvq", "-o", "Y.npy"], "has 3 columns, pq.skvq has 2"),
    (["decode", "large.npy", "pq.skvq", "-o", "Y.npy"], "codes[4, 1] = 16 is not a"),
    (["compare", "X.npy"], "--bits is missing"),
    (["compare", "X.npy", "--bits", "0"], "above 0, got '0'"),
    (["compare", "X.npy", "--bits", "32,64"], "'32,64'; numbers are given one by one"),
    (["compare", "X.npy", "--bits", "4", "--test-size", "1"], "between 0 and 1"),
    (["compare", "X.npy", "--bits", "4", "--schemes", "svq"], "unknown scheme 'svq'"),
    (["compare", "X.npy", "--bits", "4", "--rows", "2"], "has 2 rows: too few to"),
    (["compare", "X.npy", "--bits", "4", "--test-key", "t"], "X.npy is no .npz file"),
    (["info"], "the following arguments are required: FILE"),
    (["info", "none"], "cannot read none: No such file"),
    (
        ["info", "notes.txt"],
        "is no codec, no file of codes, and does not end as a data",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS, ids=str)
def test_bad_arguments(arguments, message, X, pq):
    np.save("narrow.npy", X[:, :2])
    np.save("wrong.npy", np.zeros((5, 3), dtype=int))
    np.save("large.npy", np.array([[0, 0]] * 4 + [[0, 16]]))
    Path("notes.txt").write_text("notes")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert message in fail(*arguments)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_codes_of_another_codec(X):
    for name, seed in [("a", 0), ("b", 1)]:
        succeed("fit", "X.npy", "pq:2x16", "-o", name, "--seed", seed)
    succeed("fit", "X.npy", "pq:2x8", "-o", "c")
    succeed("encode", "X.npy", "a", "-o", "codes")
    error = fail("decode", "codes", "b", "-o", "Y.npy")
    assert error.startswith("error: codes was made by another codec than b; --force")
    succeed("decode", "codes", "b", "-o", "Y.npy", "--force")
    error = fail("decode", "codes", "c", "-o", "Y.npy", "--force")
    assert "codebooks of 2 x 16 codewords, c has 2 x 8" in error
    save_codes("foreign", load_codes("codes"), (16, 16))  # of unknown origin
    succeed("decode", "foreign", "b", "-o", "Y.npy")


def test_damaged_codes_leave_no_samples(X, pq, small_chunks):
    succeed("encode", "X.npy", "pq.skvq", "-o", "codes")
    content = bytearray(Path("codes").read_bytes())
    content[-1] ^= 1
    Path("codes").write_bytes(content)
    error = fail("decode", "codes", "pq.skvq", "-o", "Y.npy")
    assert error == "error: codes is damaged: its checksum does not match"
    nothing_but("X.npy", "pq.skvq", "codes")


def test_codes_without_rows(pq):
    save_codes("codes", np.zeros((0, 2), int), (16, 16))
    assert (
        fail("decode", "codes", "pq.skvq", "-o", "Y.npy") == "error: codes has no rows"
    )


def test_a_codec_of_another_version_is_a_warning(X, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("skvq.base.__version__", "999")
        succeed("fit", "X.npy", "vq:4", "-o", "a")
    with warnings.catch_warnings():
        warnings.simplefilter("default", InconsistentVersionWarning)
        outcome = run("encode", "X.npy", "a", "-o", "codes")
    assert outcome.status == 0
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("python -m skvq encode: warning: ")


# -- when it goes wrong later ------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left"),
        (MemoryError(), 1, "error: not enough memory; --rows takes a sample"),
        (
            KeyError("x"),
            1,
            "error: KeyError: 'x' (unexpected; --traceback shows where)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_late_failures_leave_nothing(
    error, status, line, X, pq, small_chunks, monkeypatch
):
    def transform(self, X):
        calls.append(len(X))
        if len(calls) > 2:
            raise error
        return whole(self, X)

    calls, whole = [], ProductQuantizer.transform
    monkeypatch.setattr(ProductQuantizer, "transform", transform)
    Path("codes").write_text("old")
    for output in ("codes", "new", "new.npy"):
        calls.clear()
        message = fail("encode", "X.npy", "pq.skvq", "-o", output, status=status)
        assert message.startswith(line)
    assert Path("codes").read_text() == "old"
    nothing_but("X.npy", "pq.skvq", "codes")


def test_the_traceback_on_request(X):
    outcome = run("fit", "none.npy", "vq:2", "-o", "a", "--traceback")
    assert outcome.status == 2
    assert "Traceback" in outcome.err and "FileNotFoundError" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("python -m skvq fit: error: cannot")


def test_a_failed_replacement_leaves_the_old_file(X, monkeypatch):
    def replace(*args):
        raise OSError(13, "Permission denied")

    Path("a").write_text("old")
    monkeypatch.setattr(os, "replace", replace)
    assert "Permission denied" in fail("fit", "X.npy", "vq:2", "-o", "a", status=1)
    assert Path("a").read_text() == "old"
    nothing_but("X.npy", "a")


SLOW = """
import signal, sys, time
# Jobs in the background of a script are born deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from skvq import VectorQuantizer, __main__
fit = VectorQuantizer.fit
def slow(self, *args, **kwargs):
    fit(self, *args, **kwargs)
    print("ready", flush=True)
    time.sleep(60)
VectorQuantizer.fit = slow
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.long
def test_a_signal_ends_it_in_one_line(X):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "fit", "X.npy", "vq:2", "-o", "a"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "python -m skvq fit: terminated\n"
    nothing_but("X.npy")


@pytest.mark.long
def test_as_a_process(X):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call(*arguments, **settings):
        command = [sys.executable, "-m", "skvq", *arguments]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=100, **settings
        )

    done = call("fit", "X.npy", "pca+pq:2x4", "-o", "a")
    assert (done.returncode, done.stderr) == (0, "")
    # What a process has pickled from its __main__, no other could read.
    assert isinstance(load("a"), Pipeline)
    done = call("fit", "X.npy", "pq:2x", "-o", "a")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_reader_who_has_enough(X, pq):
    process = subprocess.Popen(
        [sys.executable, "-m", "skvq", "info", "pq.skvq"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
    assert process.returncode == 1


# -- progress, logging, and what is shown ------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_on_a_terminal(*arguments):
    err = Terminal()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        status = __main__.main([str(argument) for argument in arguments])
    return status, err.getvalue()


def test_progress_is_for_terminals(X, pq, small_chunks, monkeypatch):
    monkeypatch.setattr(console, "_REFRESH", 0)
    arguments = ["encode", "X.npy", "pq.skvq", "-o", "codes"]
    status, err = run_on_a_terminal(*arguments)
    assert status == 0
    first, *others = err.strip("\r\n").split("\r")
    assert re.fullmatch(r"encoding \[### +\]  13% of 500 rows, \d:\d\d left *", first)
    assert len(others) == 8
    assert re.fullmatch(r"encoding: 500 rows in \d+\.\d s *", others[-1])
    # What was longer is wiped out.
    assert len(others[-1]) >= len(others[-2].rstrip())
    assert run_on_a_terminal(*arguments, "--no-progress") == (0, "")


def test_progress_on_request(X, pq, small_chunks):
    outcome = run("encode", "X.npy", "pq.skvq", "-o", "codes", "--progress")
    lines = outcome.err.splitlines()
    assert len(lines) == 8 and "\r" not in outcome.err
    assert lines[0].startswith("encoding [") and "13% of 500 rows" in lines[0]
    assert re.fullmatch(r"encoding: 500 rows in \d+\.\d s", lines[-1])
    outcome = run("compare", "X.npy", "--schemes", "vq:2", "pq:2x4", "--progress")
    assert re.search(
        r"^\[2/2\] pq:2x4 \.\.\. 4 bits, distortion \S+, \d+\.\d s$", outcome.err, re.M
    )


def test_an_error_has_a_line_of_its_own(X, pq, small_chunks, monkeypatch):
    monkeypatch.setattr(console, "_REFRESH", 0)
    X[400, 2] = np.nan
    np.save("X.npy", X)
    for arguments in (["encode", "X.npy", "pq.skvq"], ["fit", "X.npy", "vq:2"]):
        status, err = run_on_a_terminal(*arguments, "-o", "out")
        assert status == 2
        last = err.splitlines()[-1]
        assert last == (
            f"python -m skvq {arguments[0]}: error: X.npy: row 400, column 2 (counted "
            "from 0) is nan"
        )


def test_steps_are_logged_on_request(X):
    outcome = run("fit", "X.npy", "vq:2", "-o", "a", "-v")
    assert outcome.status == 0
    lines = outcome.err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d .* skvq(\.cli)?: ", line) for line in lines)
    assert any("skvq: VectorQuantizer: fitted on 500 x" in line for line in lines)
    assert any("fitting vq:2 on 500 rows: done in" in line for line in lines)
    assert run("fit", "X.npy", "vq:2", "-o", "a").err == ""
    assert "lloyd: update 1" in run("fit", "X.npy", "vq:2", "-o", "a", "-vv").err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0:01"), (59.5, "1:00"), (61, "1:01"), (3725, "1:02:05")],
)
def test_the_time_left(seconds, text):
    assert console._clock(seconds) == text


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((256,), "256"),
        ((256,) * 8, "8 x 256"),
        ((2048, 32, 32), "2048, 2 x 32"),
        (tuple(range(2, 20)), "18 of 2 to 19"),
    ],
)
def test_sizes_in_few_words(sizes, text):
    assert console.describe_sizes(sizes) == text


def test_json_has_no_nan(capsys):
    console.say_json({"a": [float("inf"), 1.5, (float("nan"),)], "b": None})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, [None]], "b": None}


def test_the_program_has_the_name_that_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/skvq", "info"])
    assert console.program() == "skvq"
    monkeypatch.setattr(sys, "argv", ["/usr/lib/skvq/__main__.py"])
    assert console.program() == "python -m skvq"


def test_a_sample_is_drawn_before_it_is_read(X, monkeypatch):
    """Of a file that can be mapped, only the pages of the sample are read."""
    source = sources.open_source(Path("X.npy"))
    monkeypatch.setattr(
        sources.NpySource, "load", lambda self: pytest.fail("read as a whole")
    )
    found, rows = codec.sample(source, 10, 0, console.Progress(False))
    np.testing.assert_array_equal(found, X[rows])
