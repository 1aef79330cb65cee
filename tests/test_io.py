import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from sklearn.decomposition import PCA
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, StandardScaler

import skvq
from skvq import ProductQuantizer, QuantizedFeatures, VectorQuantizer
from skvq.codes import pack
from skvq.io import (
    CodeReader,
    CodeWriter,
    FormatError,
    atomic_write,
    codec_info,
    load,
    load_codes,
    save,
    save_codes,
)

X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
SIZES = [(256,), (16, 16), (5, 5, 5), (2048, 3, 1), (1, 1), (2,) * 70, (2**32, 7)]


def codes_for(sizes, n_samples, seed=0):
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, size, n_samples, dtype=np.uint64) for size in sizes]
    return np.stack(columns, axis=1)


@pytest.fixture
def codec_file(tmp_path):
    pq = ProductQuantizer(2, 16, random_state=0).fit(X)
    save(pq, tmp_path / "codec", details={"note": "x"})
    return tmp_path / "codec"


@pytest.fixture
def codes_file(tmp_path):
    save_codes(tmp_path / "codes", codes_for((5, 9), 100), (5, 9))
    return tmp_path / "codes"


# -- atomic_write ------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_raises_leaves_nothing(tmp_path, error):
    (tmp_path / "old").write_text("old")
    for name in ("old", "new"):
        with pytest.raises(error), atomic_write(tmp_path / name) as file:
            file.write(b"half")
            raise error
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OSError, match="not a regular file"), atomic_write(path):
            raise AssertionError("opened")
    assert (tmp_path / "pipe").is_fifo()


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_write(tmp_path / "file"):
        pass
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


# -- codecs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: VectorQuantizer(8, random_state=0),
        lambda: ProductQuantizer(3, 4, random_state=0),
        lambda: make_pipeline(
            StandardScaler(), PCA(4), "passthrough", VectorQuantizer(8)
        ),
        lambda: make_pipeline(make_pipeline(StandardScaler()), VectorQuantizer(8)),
    ],
)
def test_codecs_come_back(tmp_path, make):
    estimator = make().fit(X)
    save(estimator, tmp_path / "codec")
    again = load(tmp_path / "codec")
    codes = estimator.transform(X)
    np.testing.assert_array_equal(again.transform(X), codes)
    np.testing.assert_array_equal(
        again.inverse_transform(codes), estimator.inverse_transform(codes)
    )


def test_a_codec_tells_what_it_is(tmp_path):
    pipeline = make_pipeline(StandardScaler(), ProductQuantizer(2, [8, 3])).fit(X)
    save(pipeline, tmp_path / "codec", details={"rows": 300, "names": ["a", "b"]})
    info = codec_info(tmp_path / "codec")
    assert info["steps"] == ["StandardScaler", "ProductQuantizer"]
    assert info["n_features"] == 6
    assert info["codebook_sizes"] == [8, 3]
    assert info["bits_per_sample"] == pytest.approx(3 + np.log2(3))
    assert info["versions"]["skvq"] == skvq.__version__
    assert info["details"] == {"rows": 300, "names": ["a", "b"]}
    assert len(bytes.fromhex(info["id"])) == 16


def test_the_codec_file_is_as_documented(codec_file):
    content = codec_file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:end])["__metadata__"]
    text = json.loads(metadata["skvq"])
    assert list(text)[:3] == ["digest", "data", "version"] and text["version"] == 4
    assert text["data"] == hashlib.sha256(content[end:]).hexdigest()
    header = content[:end].replace(text["digest"].encode(), b"0" * 64)
    assert text["digest"] == hashlib.sha256(header).hexdigest()
    assert codec_info(codec_file)["id"] == text["digest"][:32]
    assert text["details"] == {"note": "x"}
    names = {entry["class"] for entry in text["objects"]}
    assert {"skvq.ProductQuantizer", "skvq.nearest.Table"} <= names
    arrays = safetensors.numpy.load_file(codec_file)
    table = arrays["quantizers_.1._table_.codewords"]
    np.testing.assert_array_equal(table, load(codec_file).codebooks_[1])


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (PCA(), TypeError, "not PCA"),
        (
            make_pipeline(VectorQuantizer(4), PCA()),
            TypeError,
            "not a pipeline of VectorQuantizer, PCA",
        ),
        (QuantizedFeatures(VectorQuantizer(4)), NotFittedError, "not fitted"),
        (VectorQuantizer(4), NotFittedError, "not fitted"),
        (
            make_pipeline(Binarizer(), VectorQuantizer(2)).fit(X),
            TypeError,
            "Binarizer has no inverse_transform",
        ),
    ],
)
def test_what_is_no_codec_is_refused(tmp_path, estimator, error, message):
    with pytest.raises(error, match=message):
        save(estimator, tmp_path / "codec")
    assert not list(tmp_path.iterdir())


def test_what_would_not_be_read_back_is_not_written(tmp_path):
    vq = VectorQuantizer(2, init="splitting").fit([[0.0], [1.0]])
    with pytest.raises(TypeError, match="details='note'; expected a mapping"):
        save(vq, tmp_path / "codec", details="note")
    with pytest.raises(ValueError, match="The 'tol' parameter of VectorQuantizer"):
        save(vq.set_params(tol="tight"), tmp_path / "codec")
    assert not list(tmp_path.iterdir())


def test_details_must_be_json(tmp_path):
    vq = VectorQuantizer(4, random_state=0).fit(X)
    for details, error in [({"X": X}, TypeError), ({"x": float("nan")}, ValueError)]:
        with pytest.raises(error):
            save(vq, tmp_path / "codec", details=details)
    assert not list(tmp_path.iterdir())


def test_another_version_is_a_warning(tmp_path, monkeypatch):
    vq = VectorQuantizer(4, random_state=0).fit(X)
    with monkeypatch.context() as patch:
        patch.setattr("skvq.base.__version__", "999")
        save(vq, tmp_path / "codec")
    with pytest.warns(InconsistentVersionWarning, match=r"skvq 999"):
        load(tmp_path / "codec")


# -- codes -------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("method", ["columns", "radix"])
@pytest.mark.parametrize("row_aligned", [False, True])
@pytest.mark.parametrize("bitorder", ["big", "little"])
@pytest.mark.parametrize("n_samples", [0, 1, 8, 37])
def test_codes_come_back(tmp_path, sizes, method, row_aligned, bitorder, n_samples):
    codes = codes_for(sizes, n_samples)
    path = tmp_path / "codes"
    layout = {"method": method, "row_aligned": row_aligned, "bitorder": bitorder}
    save_codes(path, codes, sizes, **layout)
    again = load_codes(path)
    np.testing.assert_array_equal(again, codes)
    with CodeReader(path) as reader:
        assert (reader.sizes, reader.method) == (sizes, method)
        assert len(reader) == reader.n_samples == n_samples
        assert (reader.row_aligned, reader.bitorder) == (row_aligned, bitorder)
        assert reader.codec_id is None
        packed = pack(codes, sizes, **layout)
        np.testing.assert_array_equal(reader.memory_map(), packed)
        for start, stop in [(0, 0), (0, n_samples), (n_samples // 3, n_samples)]:
            np.testing.assert_array_equal(reader.read(start, stop), codes[start:stop])


def test_the_code_file_is_as_documented(tmp_path):
    codes, sizes = codes_for((5, 9), 10), (5, 9)
    path = tmp_path / "codes"
    save_codes(path, codes, sizes, method="radix", codec_id="ab" * 16)
    content = path.read_bytes()
    fields = struct.unpack_from("<8sHBBIQII16s2Q", content)
    packed = pack(codes, sizes, method="radix", row_aligned=False).tobytes()
    header = bytearray(content[:64])
    header[28:32] = bytes(4)
    assert fields == (
        b"\x89skvqC\r\n",
        1,
        1,
        0,
        2,
        10,
        zlib.crc32(packed),
        zlib.crc32(header),
        b"\xab" * 16,
        5,
        9,
    )
    assert content[64:] == packed and len(packed) == -(-10 * 6 // 8)


@pytest.mark.parametrize("row_aligned", [False, True])
@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 11], [8, 16], [0, 0, 7, 99]])
def test_pieces_of_any_size_make_the_same_file(tmp_path, cuts, row_aligned):
    codes, sizes = codes_for((5, 9, 2), 100), (5, 9, 2)
    settings = {"row_aligned": row_aligned, "codec_id": "00" * 15 + "01"}
    save_codes(tmp_path / "whole", codes, sizes, **settings)
    with CodeWriter(tmp_path / "pieces", sizes, **settings) as writer:
        for piece in np.split(codes, cuts):
            writer.write(piece)
        assert writer.n_samples == 100
    content = (tmp_path / "pieces").read_bytes()
    assert content == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("row_aligned", [False, True])
def test_any_rows_can_be_read(tmp_path, row_aligned):
    codes = codes_for((5, 9, 2), 43)
    save_codes(tmp_path / "codes", codes, (5, 9, 2), row_aligned=row_aligned)
    with CodeReader(tmp_path / "codes") as reader:
        for start in range(44):
            for stop in range(start, 44):
                found = reader.read(start, stop)
                np.testing.assert_array_equal(found, codes[start:stop])
        np.testing.assert_array_equal(reader.read(5), codes[5:])
        pieces = list(reader.chunks(5))
        assert [len(piece) for piece in pieces] == [8, 8, 8, 8, 8, 3]
        np.testing.assert_array_equal(np.vstack(pieces), codes)
        for rows in [(-1, 3), (3, 2), (0, 44)]:
            with pytest.raises(IndexError, match="43 rows"):
                reader.read(*rows)


@pytest.mark.parametrize("row_aligned", [False, True])
def test_slices_of_any_step(tmp_path, row_aligned, monkeypatch):
    codes = codes_for((5, 9, 2), 43)
    save_codes(tmp_path / "codes", codes, (5, 9, 2), row_aligned=row_aligned)
    monkeypatch.setattr("skvq.io._CHUNK_BYTES", 30)
    ends = (None, -99, -7, 0, 5, 42, 99)
    with CodeReader(tmp_path / "codes") as reader:
        for step in (None, 1, 3, 50, -1, -4):
            for start in ends:
                for stop in ends:
                    rows = slice(start, stop, step)
                    np.testing.assert_array_equal(reader[rows], codes[rows])
        np.testing.assert_array_equal(reader[np.int64(-2)], codes[-2])
        for row in (43, -44):
            with pytest.raises(IndexError, match="43 rows"):
                reader[row]


@pytest.mark.parametrize("row_aligned", [False, True])
@pytest.mark.parametrize("near", [0, 3, 1000])
def test_rows_by_their_numbers(tmp_path, row_aligned, near, monkeypatch):
    codes = codes_for((5, 9, 2), 43)
    save_codes(tmp_path / "codes", codes, (5, 9, 2), row_aligned=row_aligned)
    monkeypatch.setattr("skvq.io._CHUNK_BYTES", 30)
    monkeypatch.setattr("skvq.io._NEAR_ROWS", near)
    with CodeReader(tmp_path / "codes") as reader:
        for rows in (
            [5, 1, 1, -1, 42, 0],
            np.array([[3]], np.uint8)[0],
            np.arange(43)[::-1],
            np.arange(43) % 3 == 1,
            np.zeros(43, bool),
        ):
            np.testing.assert_array_equal(reader[rows], codes[rows])
        assert reader[[]].shape == (0, 3) and reader[[]].dtype == np.uint8
        for rows in ([0, 43], [-44], np.ones(42, bool)):
            with pytest.raises(IndexError, match=r"\b43\b"):
                reader[rows]
        for rows in ([0.5], "a", (0, 1), (slice(0, 5), 0), [[0]], None):
            with pytest.raises(TypeError, match="are an int, a slice, a sequence"):
                reader[rows]


LAYOUTS = [
    {"method": method, "row_aligned": row_aligned, "bitorder": bitorder}
    for method in ("columns", "radix")
    for row_aligned in (False, True)
    for bitorder in ("big", "little")
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str([*layout.values()]))
def test_rows_are_appended(tmp_path, layout, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    codes, sizes, path = codes_for((5, 9, 2), 60), (5, 9, 2), tmp_path / "codes"
    save_codes(tmp_path / "whole", codes, sizes, **layout)
    for cuts in ([13], [8, 8, 30], [0, 1, 2, 59]):
        path.unlink(missing_ok=True)
        for piece in np.split(codes, cuts):
            with CodeWriter(path, sizes, append=True, **layout) as writer:
                writer.write(piece)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str([*layout.values()]))
def test_appends_that_do_not_end(tmp_path, layout, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    codes, sizes, path = codes_for((5, 9, 2), 60), (5, 9, 2), tmp_path / "codes"
    save_codes(path, codes[:13], sizes, **layout)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with CodeWriter(path, sizes, append=True, **layout) as writer:
            writer.write(codes[13:])
            writer._file.flush()
            raise KeyboardInterrupt
    assert path.read_bytes() == before
    with CodeWriter(path, sizes, append=True, **layout) as writer:
        writer.write(codes[13:])
        writer._file.flush()
        (tmp_path / "killed").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(load_codes(path), codes)
    with pytest.raises(FormatError, match="damaged"):
        load_codes(tmp_path / "killed")
    with CodeWriter(tmp_path / "killed", sizes, append=True, **layout):
        pass
    assert (tmp_path / "killed").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (5, 8)}, r"sizes=\(5, 8\), but .* has \(5, 9\)"),
        ({"method": "radix"}, "method='radix'"),
        ({"row_aligned": True}, "row_aligned=True"),
        ({"bitorder": "little"}, "bitorder='little'"),
        ({"codec_id": "ab" * 16}, "codec_id='abab"),
    ],
)
def test_rows_of_another_kind_are_not_appended(codes_file, settings, message):
    before = codes_file.read_bytes()
    with pytest.raises(ValueError, match=message):
        CodeWriter(codes_file, **{"sizes": (5, 9), "append": True, **settings})
    codes_file.write_bytes(before[:-1])
    with pytest.raises(FormatError, match="damaged"):
        CodeWriter(codes_file, (5, 9), append=True)


def test_what_raises_leaves_no_codes(tmp_path):
    path = tmp_path / "codes"
    with pytest.raises(KeyboardInterrupt), CodeWriter(path, (4,)) as writer:
        writer.write(np.zeros((20, 1), dtype=int))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (np.array([[4]]), ValueError, "4 codewords"),
        (np.array([[-1]]), ValueError, "4 codewords"),
        (np.zeros((9, 2), int), ValueError, "2 columns"),
        (np.zeros((1, 2), int), ValueError, "2 columns"),
        (np.zeros(3, int), ValueError, "2-d"),
        (np.zeros((3, 1)), TypeError, "integers"),
    ],
)
def test_wrong_codes_are_refused_at_once(tmp_path, codes, error, message):
    # Within the block: not first when the file is closed.
    with pytest.raises(AssertionError, match="seen"):
        with CodeWriter(tmp_path / "codes", (4,)) as writer:
            with pytest.raises(error, match=message):
                writer.write(codes)
            raise AssertionError("seen")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sizes": ()}, ValueError, "sizes"),
        ({"sizes": (0,)}, ValueError, "sizes"),
        ({"sizes": (2.5,)}, TypeError, "sizes"),
        ({"method": "huffman"}, ValueError, "method"),
        ({"bitorder": "middle"}, ValueError, "bitorder"),
        ({"codec_id": "abc"}, ValueError, "32 hexadecimal digits"),
        ({"codec_id": 3}, ValueError, "32 hexadecimal digits"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        CodeWriter(tmp_path / "codes", **{"sizes": (4,), **settings})
    assert not list(tmp_path.iterdir())


def test_any_changed_byte_of_codes_is_found(codes_file):
    content = codes_file.read_bytes()
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 0x10
        codes_file.write_bytes(changed)
        with pytest.raises(FormatError, match=r"damaged|version|not a skvq code file"):
            load_codes(codes_file)


def test_truncated_codes_are_found(codes_file):
    content = codes_file.read_bytes()
    for n_bytes in range(len(content)):
        codes_file.write_bytes(content[:n_bytes])
        with pytest.raises(FormatError):
            load_codes(codes_file)
    codes_file.write_bytes(content + b"\0")
    with pytest.raises(FormatError, match="damaged"):
        load_codes(codes_file)


def test_a_file_cut_while_it_is_read_is_found(codes_file):
    # More than a buffer may hold.
    save_codes(codes_file, np.zeros((2**20, 1), dtype=np.uint8), (256,))
    with CodeReader(codes_file) as reader:
        os.truncate(codes_file, 2**19)
        with pytest.raises(FormatError, match="ends too early"):
            reader.read()


def test_a_header_of_nonsense_asks_for_no_memory(codes_file):
    for n_columns, message in [
        (2**22, "ends within its header"),
        (2**32 - 1, "4294967295 columns"),
    ]:
        content = bytearray(codes_file.read_bytes())
        struct.pack_into("<I", content, 12, n_columns)
        codes_file.write_bytes(content)
        with pytest.raises(FormatError, match=message):
            load_codes(codes_file)


def test_sizes_that_no_codebook_has_are_damage(codes_file):
    content = bytearray(codes_file.read_bytes())
    struct.pack_into("<Q", content, 48, 0)
    struct.pack_into("<I", content, 28, 0)
    struct.pack_into("<I", content, 28, zlib.crc32(content[:64]))
    codes_file.write_bytes(content)
    with pytest.raises(FormatError, match="its column 0 has 0 codewords"):
        load_codes(codes_file)


def test_kinds_are_told_apart(codec_file, codes_file):
    with pytest.raises(FormatError, match="not a skvq codec file: it holds codes"):
        load(codes_file)
    with pytest.raises(FormatError, match="not a skvq code file: it holds a codec"):
        load_codes(codec_file)
    other = codec_file.with_name("other")
    other.write_bytes(b"\x93NUMPY, or so")
    with pytest.raises(FormatError, match="does not begin as one"):
        load_codes(other)
    with pytest.raises(FileNotFoundError):
        load(codec_file.with_name("none"))
