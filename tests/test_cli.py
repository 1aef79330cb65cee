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
from skvq._cli import codec, compare, console, schemes, sources
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
    assert (outcome.status, outcome.err) == (0, "")
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
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    assert "ragged.parquet" in fail("fit", "ragged.parquet", "vq:2", "-o", "b")
    parquet.write_table(pa.table({"a": [1, None]}), "missing.parquet")
    assert "missing values" in fail("fit", "missing.parquet", "vq:2", "-o", "b")
    Path("bad.parquet").write_bytes(b"PAR1 and so on")
    assert "cannot read bad.parquet" in fail("info", "bad.parquet")


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
    "uniform:16,4,range=(0,1)": (
        "UniformQuantizer",
        {"n_levels": [16, 4], "feature_range": (0, 1)},
    ),
    "fsq:8,6,5": ("FiniteScalarQuantizer", {"levels": [8, 6, 5]}),
    "fsq:4,bound=none": ("FiniteScalarQuantizer", {"levels": 4, "bound": "none"}),
    "binary": ("BinaryQuantizer", {}),
    "binary,spherical=true": ("BinaryQuantizer", {"spherical": True}),
    "spherical:16": ("SphericalQuantizer", {"n_levels": 16}),
    "rq:8x256,beam=5": (
        "ResidualQuantizer",
        {"n_stages": 8, "n_codewords": 256, "beam_size": 5},
    ),
    "aq:4x16": ("AdditiveQuantizer", {"n_codebooks": 4, "n_codewords": 16}),
    "kronecker:16,32,factors=(2,3)": (
        "KroneckerQuantizer",
        {"n_codewords": [16, 32], "factor_sizes": (2, 3)},
    ),
    "multiscale:64,shape=(4,4)": (
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


def test_aliases_are_of_parameters_and_hide_none():
    for entry in schemes.SCHEMES:
        assert set(entry.aliases.values()) <= set(entry.accepted)
        assert not set(entry.aliases) & set(entry.accepted)


def test_what_stands_in_front_takes_the_parameters_of_its_part():
    opq = schemes.build("opq:4x16,rotation=pca,max_iter=3,n_jobs=2", 7)
    assert (opq.rotation, opq.max_iter, opq.random_state) == ("pca", 3, 7)
    assert isinstance(opq, skvq.RotatedQuantizer)
    assert (opq.quantizer.n_subspaces, opq.quantizer.n_codewords) == (4, 16)
    assert opq.quantizer.n_jobs == 2 and opq.quantizer.random_state is None
    nested = schemes.build("rotated:(scaled:(binary,scale=1),scale=unbiased)", 7)
    assert isinstance(nested.quantizer, skvq.ScaledQuantizer)
    assert nested.quantizer.quantizer.scale == 1
    for text, message in {
        "opq:4x16,depth=3": "opq has no parameter 'depth'; it has backend, max_iter",
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
        ("PQ:8x256", "cannot read 'PQ:8x256'"),
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
        ("pq:8x256,beam=5", "pq has no parameter 'beam'; it has .*share_codebook"),
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
    out = succeed("compare", "X.npy", "--bits", "4", "8", "--test-size", "0.2")
    rows = table(out)
    assert {"vq:16", "pq:2x4", "vq:256", "pq:2x16"} <= set(rows)
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
    assert float(rows["vq:16"]["distortion"]) < float(rows["pq:2x4"]["distortion"])
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
        ("uniform", 64, "uniform,bits=64,levels=lloyd-max"),
        ("uniform", 4, "uniform,bits=4,levels=lloyd-max"),
        ("uniform,range=quantile", 40, "uniform,bits=40,range=quantile"),
        ("pca+tcq", 64, "pca+tcq,bits=64"),
        ("pca+step", 64, "pca+step:64"),
        ("opq", 64, "opq:8x256"),
        ("opq", 200, None),
        ("fsq", 32, "fsq:4,bound=cdf"),
        ("fsq,bound=none", 32, "fsq:4,bound=none"),
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
            "pca:8,whiten=true+uniform,bits=16,levels=lloyd-max",
        ),
        ("pca:4+pq", 64, None),
        ("pca+uniform", 32, "pca+uniform,bits=32,levels=lloyd-max"),
        ("standard+uniform", 32, "standard+uniform,bits=32,levels=lloyd-max"),
        ("standard+fsq", 16, "standard+fsq:2,bound=cdf"),
    ],
)
def test_families_are_sized_to_budgets(family, bits, expected):
    if expected is None:
        with pytest.raises(compare.Unsuitable):
            compare._sized(family, bits, 16, 600)
    else:
        assert compare._sized(family, bits, 16, 600) == expected


@pytest.mark.long
def test_no_family_is_worse_than_the_mean():
    X = np.random.default_rng(0).normal(size=(2_000, 8))
    np.save("N.npy", X)
    facts = json.loads(succeed("compare", "N.npy", "--bits", "8", "16", "--json"))
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
    assert outcome.status == 0 and outcome.err == ""
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


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.long
def test_signals_end_it_in_one_line(number, status, line, X):
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
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err == f"python -m skvq fit: {line}\n"
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
    assert re.search(r"^\[2/2\] pq:2x4 \.\.\. \d+\.\d s$", outcome.err, re.M)


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
