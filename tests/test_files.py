"""Files that are damaged or hostile, and files that are replaced."""

import errno
import hashlib
import json
import os
import pickle
import stat
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline

from skvq import BinaryQuantizer, VectorQuantizer
from skvq.__main__ import main
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

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
REFUSED = (FormatError, OSError)
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
if hasattr(os, "geteuid") and os.geteuid() == 0:
    as_root = pytest.mark.skipif(False, reason="")
else:
    as_root = pytest.mark.skipif(True, reason="only root gives files away")

# Written by version 0.1.0.dev0: the frames that have to be read for good.
OLD_CODES = bytes.fromhex(
    "89736b7671430d0a010001000200000003000000000000001107ecbfa30293e6"
    "abababababababababababababababab03000000000000000500000000000000"
    "4b80"
)
OLD_CODEC = bytes.fromhex(
    "89736b76714d0d0a01000000e00000006e01000000000000ab5b6cc0f7620f288d35e0fa5c75b3dd"
    "79244210837dcf34f916ecda86f398ac7b227374657073223a205b2242696e6172795175616e7469"
    "7a6572225d2c20226e5f6665617475726573223a20322c2022636f6465626f6f6b5f73697a657322"
    "3a205b322c20325d2c2022626974735f7065725f73616d706c65223a20322e302c20227665727369"
    "6f6e73223a207b22736b7671223a2022302e312e302e64657630222c20227363696b69742d6c6561"
    "726e223a2022312e392e31222c20226e756d7079223a2022322e342e36222c2022707974686f6e22"
    "3a2022332e31312e37227d2c202264657461696c73223a207b226e6f7465223a20226f6c64227d7d"
    "80059563010000000000008c0b736b76712e62696e617279948c0f42696e6172795175616e74697a"
    "65729493942981947d94288c0973706865726963616c94898c057363616c65944740000000000000"
    "008c06726164697573948c04756e6974948c0d7261646975735f6c6576656c73944d00018c0e6e5f"
    "66656174757265735f696e5f944b028c067363616c655f948c136e756d70792e5f636f72652e6e75"
    "6d65726963948c0b5f66726f6d627566666572949394289610000000000000000000000000000040"
    "0000000000000040948c056e756d7079948c0564747970659493948c02663894898887945294284b"
    "038c013c944e4e4e4affffffff4affffffff4b007494624b0285948c014394749452948c085f7261"
    "646975735f944e8c0f636f6465626f6f6b5f73697a65735f944b024b0286948c0b646973746f7274"
    "696f6e5f94473ff80000000000008c0d5f736b76715f76657273696f6e948c0a302e312e302e6465"
    "76309475622e"
)


def codes_bytes(
    sizes=(3, 5), n_samples=0, body=b"", *, method=0, flags=0, n_codes=None, rest=None
):
    """A file of codes with checksums that are right, whatever it claims."""
    n_codes = len(sizes) if n_codes is None else n_codes
    fields = 1, method, flags, n_codes, n_samples, zlib.crc32(body), 0, bytes(16)
    header = bytearray(struct.pack("<8sHBBIQII16s", b"\x89skvqC\r\n", *fields))
    header += struct.pack(f"<{len(sizes)}Q", *sizes)
    header += bytes(-len(header) % 64) if rest is None else rest
    struct.pack_into("<I", header, 28, zlib.crc32(header))
    return bytes(header) + body


def codec_bytes(text, content, version=2, zero=0):
    """A codec file with a checksum that is right."""
    head = struct.pack(
        "<8sHHIQ", b"\x89skvqM\r\n", version, zero, len(text), len(content)
    )
    covered = head if version > 1 else b""
    return head + hashlib.sha256(covered + text + content).digest() + text + content


def parts(content):
    """Description, as an object, and pickle of a codec file."""
    start = 56 + struct.unpack_from("<I", content, 12)[0]
    return json.loads(content[56:start]), content[start:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def new_codec(folder):
    save(BinaryQuantizer(scale=2.0).fit(X), folder / "new")
    return (folder / "new").read_bytes()


@pytest.fixture(scope="module")
def new_codes(folder):
    save_codes(folder / "new", [[0, 4], [2, 1], [1, 3]], (3, 5), codec_id="ab" * 16)
    return (folder / "new").read_bytes()


def read_codes(content, folder):
    """Read a file of codes in every way; all refuse it, or none does."""
    path = folder / "codes"
    path.write_bytes(content)
    found = []
    for read in (load_codes, by_chunks, by_rows):
        try:
            found.append(read(path))
        except REFUSED:
            found.append(None)
    loaded, chunks, rows = found
    if chunks is not None and loaded is not None:
        np.testing.assert_array_equal(loaded, chunks)
        np.testing.assert_array_equal(loaded, rows)
    return loaded


def by_chunks(path):
    with CodeReader(path) as reader:
        return np.concatenate([np.empty((0, len(reader.sizes))), *reader.chunks()])


def by_rows(path):
    with CodeReader(path) as reader:
        reader.memory_map()
        return reader.read()


def read_codec(content, folder):
    path = folder / "codec"
    path.write_bytes(content)
    try:
        codec_info(path)
        return load(path, allow_pickle=True)
    except REFUSED:
        return None


# -- old files -------------------------------------------------------------------------


def test_old_codes_load(folder):
    (folder / "old").write_bytes(OLD_CODES)
    assert load_codes(folder / "old").tolist() == [[0, 4], [2, 1], [1, 3]]
    with CodeReader(folder / "old") as reader:
        assert reader.codec_id == "ab" * 16
        assert (reader.method, reader.sizes) == ("radix", (3, 5))


def test_old_codecs_load(folder):
    (folder / "old").write_bytes(OLD_CODEC)
    info = codec_info(folder / "old")
    assert info["id"] == "ab5b6cc0f7620f288d35e0fa5c75b3dd"
    assert info["steps"] == ["BinaryQuantizer"]
    assert info["details"] == {"note": "old"}
    pytest.importorskip("numpy._core.numeric")  # where the pickle has its array from
    with pytest.raises(FormatError, match=r"version 1 .*allow_pickle=True"):
        load(folder / "old")
    quantizer = load(folder / "old", allow_pickle=True)
    assert quantizer.inverse_transform([[0, 1]]).tolist() == [[-2.0, 2.0]]


# -- damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["old", "new"])
def test_every_flipped_bit_and_every_cut_of_codes_is_found(which, folder, new_codes):
    content = OLD_CODES if which == "old" else new_codes
    assert read_codes(content, folder) is not None
    for changed in damaged(content, len(content)):
        (folder / "codes").write_bytes(changed)
        with pytest.raises(FormatError):
            load_codes(folder / "codes")


def test_every_flipped_bit_and_every_cut_of_an_old_codec_is_found(folder, monkeypatch):
    # Nothing is unpickled before the checksum is right.
    monkeypatch.setattr("pickle.loads", lambda content: pytest.fail("unpickled"))
    monkeypatch.setattr("skvq._layouts.loads", lambda content: pytest.fail("unpickled"))
    # Behind its header, a file is nothing but what the checksum is of.
    for changed in damaged(OLD_CODEC, 58):
        (folder / "codec").write_bytes(changed)
        with pytest.raises(FormatError):
            load(folder / "codec", allow_pickle=True)


def damaged(content, n_whole):
    """Yield content with one bit changed, all bits of the first bytes, and cut."""
    for i in range(len(content)):
        for bit in range(8) if i < n_whole else [i % 8]:
            changed = bytearray(content)
            changed[i] ^= 1 << bit
            yield bytes(changed)
    for n_bytes in range(0, len(content), 1 if n_whole == len(content) else 7):
        yield content[:n_bytes]
    yield content + b"\0"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89skvqC\r\n\1\0"]))
def test_any_bytes_end_in_codes_or_are_refused(folder, content, start):
    read_codes(start + content, folder)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89skvqM\r\n\2\0\0\0", OLD_CODEC])
)
def test_any_bytes_end_in_a_codec_or_are_refused(folder, content, start):
    if content or start != OLD_CODEC:
        assert read_codec(start + content, folder) is None


EXTREMES = [0, 1, 2, 7, 8, 9, 255, 256]
EXTREMES += [2**k + i for k in (16, 30, 31, 32, 53, 63) for i in (-1, 0, 1)]
EXTREMES += [2**64 - 1]


@given(
    sizes=st.lists(
        st.one_of(st.integers(1, 9), st.sampled_from(EXTREMES)), min_size=1, max_size=9
    ),
    n_samples=st.sampled_from(EXTREMES).filter(lambda n: not 2**16 < n <= 2**30),
    body=st.binary(max_size=20),
    method=st.integers(0, 3),
    flags=st.one_of(st.integers(0, 3), st.integers(0, 255)),
    n_codes=st.one_of(st.none(), st.sampled_from(EXTREMES).filter(lambda n: n < 2**32)),
)
@example((1,), 2**31, b"", 0, 0, None)
@example((1,), 2**64 - 1, b"", 1, 1, None)
@example((1,) * 8, 2**63 - 1, b"", 0, 1, None)
@example((2,), 2**64 - 1, b"", 0, 0, None)
@example((2**32,) * 9, 2**63, b"", 1, 1, None)
def test_any_header_ends_in_codes_or_is_refused(
    folder, sizes, n_samples, body, method, flags, n_codes
):
    content = codes_bytes(
        sizes, n_samples, body, method=method, flags=flags, n_codes=n_codes
    )
    codes = read_codes(content, folder)
    if codes is not None:  # then these bytes are the only ones that say so
        layout = {"method": ("columns", "radix")[method], "row_aligned": flags & 1 == 1}
        layout["bitorder"] = ("big", "little")[flags >> 1]
        assert pack(codes, sizes[: codes.shape[1]], **layout).tobytes() == body


REFUSED_HEADERS = {
    "2^31 rows of no bits": codes_bytes((1,), 2**31),
    "2^40 rows of no bits": codes_bytes((1, 1), 2**40, flags=1),
    "2^63 rows of no bits": codes_bytes((1,), 2**63, method=1),
    "2^64 - 1 rows of no bits": codes_bytes((1, 1, 1), 2**64 - 1),
    "2^15 rows of 2^15 + 1 codes of no bits": codes_bytes((1,) * (2**15 + 1), 2**15),
    "as many rows as memory": codes_bytes((2,), 2**63),
    "a product beyond 2^64": codes_bytes((2**32,) * 8, 2**61, bytes(8)),
    "another column than there are": codes_bytes((3, 5), n_codes=2**31),
    "no columns": codes_bytes((3, 5), n_codes=0),
    "flags": codes_bytes((3, 5), 1, b"\0", flags=4),
    "more flags": codes_bytes((3, 5), 1, b"\0", flags=0x81),
    "method": codes_bytes((3, 5), 1, b"\0", method=2),
    "padding": codes_bytes((3,), rest=bytes(7) + b"\1"),
    "a size of 2^32 + 1": codes_bytes((2**32 + 1,)),
    "a size of 2^64 - 1": codes_bytes((2**64 - 1,)),
    "no bits, yet a byte": codes_bytes((1,), 3, b"\0"),
}


@pytest.mark.parametrize("what", REFUSED_HEADERS)
def test_what_a_header_claims_costs_nothing(what, tmp_path):
    content = REFUSED_HEADERS[what]
    path = tmp_path / "codes"
    path.write_bytes(content)
    for read in (load_codes, by_chunks, by_rows):
        tracemalloc.start()
        with pytest.raises(FormatError, match=r"damaged") as caught:
            read(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20 + 20 * len(content)
        assert len(str(caught.value)) < 300


def test_codes_that_few_bytes_stand_for_are_read_in_pieces(tmp_path):
    # Half a megabyte that asks for eight gigabytes.
    sizes, n_samples = (2,) + (1,) * 2**16, 2**17
    path = tmp_path / "codes"
    path.write_bytes(codes_bytes(sizes, n_samples, bytes(n_samples // 8)))
    with pytest.raises(FormatError, match="CodeReader reads it in pieces"):
        load_codes(path)
    with CodeReader(path) as reader:
        assert reader.read(8, 16).shape == (8, 2**16 + 1)


def test_codes_of_no_bits_have_a_limit_for_writers_too(tmp_path, monkeypatch):
    monkeypatch.setattr("skvq.io._MAX_WITHOUT_BITS", 20)
    save_codes(tmp_path / "codes", np.zeros((10, 2), int), (1, 1))
    assert load_codes(tmp_path / "codes").tolist() == [[0, 0]] * 10
    save_codes(tmp_path / "more", np.zeros((100, 2), int), (1, 2))  # these have bits
    for n_rows in (11, 16):
        with pytest.raises(ValueError, match=f"{n_rows} rows of 2 codes that take no"):
            save_codes(tmp_path / "none", np.zeros((n_rows, 2), int), (1, 1))
    monkeypatch.setattr("skvq.io._MAX_COLUMNS", 3)
    with pytest.raises(ValueError, match="4 columns; a file of codes has at most 3"):
        CodeWriter(tmp_path / "none", (2,) * 4)
    assert sorted(os.listdir(tmp_path)) == ["codes", "more"]


def test_too_little_memory_is_an_error_of_the_system(
    tmp_path, new_codes, new_codec, monkeypatch
):
    (tmp_path / "codes").write_bytes(new_codes)
    (tmp_path / "codec").write_bytes(new_codec)

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("skvq.io.load_objects", fail)
    monkeypatch.setattr("skvq.io.unpack", fail)
    for read, name in [
        (load_codes, "codes"),
        (by_chunks, "codes"),
        (by_rows, "codes"),
        (load, "codec"),
    ]:
        with pytest.raises(OSError, match=f"{name}'") as caught:
            read(tmp_path / name)
        assert caught.value.errno == errno.ENOMEM


def test_a_map_of_a_file_that_was_cut_is_refused(tmp_path):
    save_codes(tmp_path / "codes", np.zeros((2**16, 1), int), (256,))
    with CodeReader(tmp_path / "codes") as reader:
        os.truncate(tmp_path / "codes", 2**15)
        with pytest.raises(FormatError, match="ends too early"):
            reader.memory_map()


def test_a_file_that_is_no_codec_is_not_read_to_its_end(tmp_path):
    for start in (b"", OLD_CODEC[:8], OLD_CODEC[:24] + bytes(8)):
        with (tmp_path / "large").open("wb") as file:
            file.write(start)
            file.truncate(2**40)  # holes take no space
        for read in (codec_info, load, load_codes):
            with pytest.raises(FormatError):
                read(tmp_path / "large")


# -- descriptions ----------------------------------------------------------------------


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


WRONG_VALUES = {
    "steps": [None, [], "VectorQuantizer", [1], {}],
    "n_features": [0, -1, 1.5, True, "2", 2**63],
    "codebook_sizes": [None, [], [0], [2.0], [True], ["2"], [2**32 + 1], 4, [[2]]],
    "bits_per_sample": [None, "2", -1, True, 1e300, 10**400],
    "versions": [None, [], {"skvq": 1}],
    "details": [None, [], "x", {"a": nested(70)}],
}


@pytest.mark.parametrize("key", WRONG_VALUES)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_descriptions_are_checked(key, version, folder):
    description, content = parts(OLD_CODEC)
    assert check_description(description, content, version, folder) is None
    for value in WRONG_VALUES[key]:
        wrong = {**description, key: value}
        message = check_description(wrong, content, version, folder)
        assert "damaged: its description" in message
    del description[key]
    message = check_description(description, content, version, folder)
    assert f"not an object with the keys {', '.join(WRONG_VALUES)}" in message


def check_description(description, content, version, folder):
    """Return the message with which a codec of this description is refused."""
    text = description
    if not isinstance(text, bytes):
        text = json.dumps(description).encode()
    path = folder / "described"
    path.write_bytes(codec_bytes(text, content, version))
    try:
        codec_info(path)
    except FormatError as error:
        with pytest.raises(FormatError):
            load(path, allow_pickle=True)
        return str(error)
    return None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b"\xff\xfe",
        '{"a": 1}'.encode("utf-16"),
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b'{"steps": NaN}',
        b"1" * 10**5,
        b'"\xf0\x28\x8c\x28"',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_description_is_damage(text, folder):
    message = check_description(text, parts(OLD_CODEC)[1], 2, folder)
    assert "damaged: its description" in message


def test_a_description_cannot_overrule_the_id(folder):
    description, content = parts(OLD_CODEC)
    for extra in ({"id": "00" * 16}, {"more": 1}):
        message = check_description({**description, **extra}, content, 1, folder)
        assert "not an object with the keys" in message


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(list(WRONG_VALUES)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        min_size=1,
    )
)
def test_any_description_is_read_or_refused(folder, changes):
    description, content = parts(OLD_CODEC)
    check_description({**description, **changes}, content, 2, folder)


def test_the_border_of_description_and_pickle_is_covered(folder):
    # Blanks after an object are JSON, so the border could be at any of them.
    description, content = parts(OLD_CODEC)
    text = json.dumps(description).encode() + b"  "
    changed = bytearray(codec_bytes(text, content))
    struct.pack_into("<IQ", changed, 12, len(text) - 1, len(content) + 1)
    (folder / "border").write_bytes(changed)
    with pytest.raises(FormatError, match="its checksum does not match"):
        codec_info(folder / "border")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (PCA(), "not PCA"),
        ({}, "not dict"),
        (VectorQuantizer(4), "not fitted"),
        (Pipeline.__new__(Pipeline), "AttributeError"),
        (VectorQuantizer(4, random_state=0).fit(X), "the codec has .4."),
    ],
)
def test_a_pickle_of_something_else_is_damage(estimator, message, folder):
    text = json.dumps(parts(OLD_CODEC)[0]).encode()
    (folder / "other").write_bytes(codec_bytes(text, pickle.dumps(estimator)))
    codec_info(folder / "other")
    with pytest.raises(FormatError, match=message):
        load(folder / "other", allow_pickle=True)


def test_details_that_could_not_be_read_are_not_written(tmp_path):
    quantizer = BinaryQuantizer().fit(X)
    save(quantizer, tmp_path / "codec", details={"a": nested(60)})
    assert codec_info(tmp_path / "codec")["details"] == {"a": nested(60)}
    for depth in (62, 10**5):
        with pytest.raises(ValueError, match="nests more than"):
            save(quantizer, tmp_path / "none", details={"a": nested(depth)})
    assert os.listdir(tmp_path) == ["codec"]


# -- replacing a file ------------------------------------------------------------------


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", X)
    return tmp_path


def writers():
    from skvq._cli import demo

    quantizer = BinaryQuantizer(scale=1.0).fit(X)
    save(quantizer, "codec")
    save_codes("codes", quantizer.transform(X), (2, 2, 2))
    return {
        "save": lambda path: save(quantizer, path),
        "save_codes": lambda path: save_codes(path, np.zeros((9, 1), int), (2,)),
        "fit": lambda path: main(["fit", "X.npy", "vq:4", "-o", path]),
        "encode": lambda path: main(["encode", "X.npy", "codec", "-o", path]),
        ".npy": lambda path: main(["encode", "X.npy", "codec", "-o", f"{path}.npy"]),
        "decode": lambda path: main(["decode", "codes", "codec", "-o", f"{path}.npy"]),
        ".csv": lambda path: main(["decode", "codes", "codec", "-o", f"{path}.csv"]),
        "demo": lambda path: demo._write(Path(path), b"picture"),
    }


WRITERS = ["save", "save_codes", "fit", "encode", ".npy", "decode", ".csv"]
WRITERS += ["demo"]


@posix
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_keeps_permissions_and_takes_the_longest_names(writer, here):
    write = writers()[writer]
    before = set(os.listdir())
    name = "n" * (os.pathconf(here, "PC_NAME_MAX") - 4)
    assert not write(name)
    (name,) = set(os.listdir()) - before  # and no other file
    content = Path(name).read_bytes()
    for mode in (0o600, 0o640, 0o444, 0o777):
        os.chmod(name, mode)
        Path(name).open("ab").close() if mode & 0o200 else None
        assert not write(name.removesuffix(".npy").removesuffix(".csv"))
        assert mode_of(name) == mode
    assert Path(name).read_bytes() == content
    assert set(os.listdir()) - before == {name}


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_new_files_follow_the_umask(mask, here):
    before = os.umask(mask)
    try:
        with atomic_write("new") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert mode_of("new") == 0o666 & ~mask


@posix
def test_what_is_secret_is_so_while_it_is_written(here):
    Path("secret").touch(0o600)
    with atomic_write("secret") as file:
        (temporary,) = Path().glob(".skvq-*.tmp")
        assert mode_of(temporary) == 0o600
        file.write(b"x")
    os.chmod("secret", 0o4750)
    with atomic_write("secret"):
        pass
    assert mode_of("secret") == 0o750  # data run as nobody


@posix
@as_root
def test_owner_and_group_are_kept(here):
    Path("file").touch()
    os.chown("file", 12345, 23456)
    os.chmod("file", 0o640)
    with atomic_write("file"):
        pass
    status = os.stat("file")
    assert (status.st_uid, status.st_gid, mode_of("file")) == (12345, 23456, 0o640)


@posix
@as_root
@pytest.mark.parametrize(("given_away", "mode"), [(True, 0o664), (False, 0o644)])
def test_another_group_gets_no_more_than_anybody(given_away, mode, here, monkeypatch):
    Path("file").touch()
    os.chown("file", 12345, 23456)
    os.chmod("file", 0o664)
    chown = os.fchown

    def refuse(descriptor, owner, group):
        if owner != -1 or not given_away:
            raise PermissionError
        chown(descriptor, owner, group)

    monkeypatch.setattr(os, "fchown", refuse)
    with atomic_write("file"):
        pass
    assert mode_of("file") == mode


def test_links_stay_and_what_they_lead_to_is_replaced(here):
    os.mkdir("other")
    Path("other/target").write_text("old")
    os.chmod("other/target", 0o600)
    os.symlink("other/target", "link")
    os.symlink("link", "far")
    os.symlink("other/none", "dangling")
    for name in ("far", "dangling"):
        with atomic_write(name) as file:
            file.write(b"new")
        assert os.path.islink(name)
        assert Path(name).read_text() == "new"
    assert mode_of("other/target") == 0o600
    assert os.path.islink("link")
    assert sorted(os.listdir("other")) == ["none", "target"]


@posix
def test_a_file_is_on_the_disk_before_it_has_its_name(here, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            events.append("sync of the directory")
        else:
            events.append(f"sync of {status.st_size} bytes")
        sync(descriptor)

    def rename(old, new):
        events.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    for close in (False, True):
        events.clear()
        with atomic_write("file") as file:
            file.write(b"x" * 100)  # in a buffer still
            if close:
                file.close()
        assert events == ["sync of 100 bytes", "rename", "sync of the directory"]


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_directories_that_cannot_be_synced(number, here, monkeypatch):
    sync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)), atomic_write("file"):
            pass
    else:
        with atomic_write("file"):
            pass
    assert os.listdir().count("file") == 1


def test_what_cannot_be_synced_is_not_renamed(here, monkeypatch):
    Path("file").write_text("old")

    def fsync(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        with atomic_write("file") as file:
            file.write(b"new")
    assert Path("file").read_text() == "old"
    assert sorted(os.listdir()) == ["X.npy", "file"]


def test_a_writer_that_cannot_begin_leaves_nothing(here, monkeypatch):
    def fail(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skvq.io._Header.to_bytes", fail)
    writer = CodeWriter("codes", (4,))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        writer.__enter__()
    assert os.listdir() == ["X.npy"]  # while the writer is still there


# -- loops and names that are too long -------------------------------------------------


@posix
@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("name", ["loop", "loop/file", "n" * 300])
def test_names_that_lead_nowhere(name, write, here):
    os.symlink("loop", "loop")
    functions = [codec_info, load, load_codes, CodeReader]
    if write:
        functions = [
            lambda path: save_codes(path, [[0]], (2,)),
            lambda path: save(BinaryQuantizer().fit(X), path),
        ]
    for function in functions:
        with pytest.raises(OSError) as caught:
            function(name)
        assert caught.value.errno in (errno.ELOOP, errno.ENAMETOOLONG)
    assert os.path.islink("loop")
    assert sorted(os.listdir()) == ["X.npy", "loop"]


@posix
@pytest.mark.parametrize("name", ["loop", "n" * 300])
@pytest.mark.parametrize(
    "command",
    [
        "fit {0} vq:4 -o new",
        "fit {0}.csv vq:4 -o new",
        "fit {0}.npz vq:4 -o new",
        "fit X.npy vq:4 -o {0}",
        "fit X.npy vq:4 -o {0}/new",
        "encode {0} codec -o new",
        "encode X.npy {0} -o new",
        "encode X.npy codec -o {0}",
        "encode X.npy codec -o {0}.npy",
        "decode {0} codec -o new.npy",
        "decode codes {0} -o new.npy",
        "decode codes codec -o {0}.npy",
        "decode codes codec -o {0}.csv",
        "info {0}",
        "info {0}.npy",
        "compare {0}.npy --bits 4",
        "compare X.npy --bits 4 --plot {0}.png",
        "demo --output {0}",
    ],
)
def test_loops_are_told_in_one_line(command, name, here, capsys):
    quantizer = BinaryQuantizer(scale=1.0).fit(X)
    save(quantizer, "codec")
    save_codes("codes", quantizer.transform(X), (2, 2, 2))
    if name == "loop":
        for suffix in ("", ".npy", ".npz", ".csv", ".png"):
            os.symlink(f"loop{suffix}", f"loop{suffix}")
    before = sorted(os.listdir())
    assert main(command.format(name).split()) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1 and "error: " in err
    assert sorted(os.listdir()) == before


@posix
def test_the_demo_looks_at_its_files_before_it_works(here, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    monkeypatch.setattr("skvq._cli.demo._run", lambda *_: pytest.fail("works"))
    for name in ("vq-16-2x2.codec", "picture.png"):
        path = os.path.join("skvq-demo", name)
        os.makedirs("skvq-demo", exist_ok=True)
        os.symlink(name, path)
        assert main(["demo"]) == 2
        assert f"cannot write {path}: " in capsys.readouterr().err
        os.unlink(path)


# -- what is told of files -------------------------------------------------------------


def test_details_of_other_programs_are_no_trouble(here, capsys):
    quantizer = BinaryQuantizer(scale=1.0).fit(X)
    for details in [
        {"scheme": 3, "fitted_rows": "many", "rows": None, "distortion": "little"},
        {"fitted_rows": 3, "columns": [1, 2, 3]},
        {"columns": ["a"], "seed": {}},
        {"columns": "abc", "distortion": 3},
    ]:
        save(quantizer, "codec", details=details)
        assert main(["info", "codec"]) == 0
        assert main(["encode", "X.npy", "codec", "-o", "codes"]) == 0
        assert main(["decode", "codes", "codec", "-o", "Y.csv"]) == 0
        assert np.loadtxt("Y.csv", delimiter=",").shape == X.shape
    capsys.readouterr()


def test_what_a_file_says_commands_no_terminal(here, capsys):
    quantizer = BinaryQuantizer(scale=1.0).fit(X)
    save(quantizer, "codec", details={"scheme": "a\n\x1b[31mb\ud800", "seed": "\x07"})
    assert main(["info", "codec"]) == 0
    out = capsys.readouterr().out
    assert "a\\n\\x1b[31mb\\ud800" in out
    assert out.replace("\n", "").isprintable()
