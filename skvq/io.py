r"""Codecs and codes in files: written whole or not at all, and checked when read.

========================  ==========================================================
`save_codec`              write a fitted quantizer, or a pipeline that ends in one
`load_codec`              read it back
`codec_info`              what a codec file says of itself, without unpickling it
`save_codes`              write codes, packed in as few bits as they need
`load_codes`              read them back
`CodeWriter`              write codes of any number of rows, in pieces
`CodeReader`              read any rows of a file of codes
`atomic_write`            open a file that appears only when it is complete
========================  ==========================================================

A codec file holds a pickle: load only what you trust.  A file of codes holds numbers
only.  Both begin with a header, little-endian, whose first eight bytes also tell a
file that went through a text mode or lost its eighth bit.

File of codes, version 1:

======  =====  =====================================================================
offset  bytes  content
======  =====  =====================================================================
0       8      ``89 73 6B 76 71 43 0D 0A`` (``\x89skvqC\r\n``)
8       2      version, 1
10      1      method of packing: 0 columns, 1 radix
11      1      flags: bit 0, whether each row starts on a byte of its own; the others
               are zero
12      4      m, the number of code columns, 1 to 2^22
16      8      number of rows
24      4      CRC-32 of the packed codes
28      4      CRC-32 of all before the packed codes, with these four bytes zero
32      16     id of the codec, see `codec_info`; zero if it is not known
48      8 m    V_1..V_m, the number of codewords of each column, 1 to 2^32
...            zeros up to the next multiple of 64
...            the codes, as `skvq.codes.pack` packs them
======  =====  =====================================================================

Where every V_j is 1, codes take no bits, and nothing but the header says how many rows
there are: such a file holds at most 2^30 codes.

Codec file, version 3:

======  =====  =====================================================================
offset  bytes  content
======  =====  =====================================================================
0       8      ``89 73 6B 76 71 4D 0D 0A`` (``\x89skvqM\r\n``)
8       2      version, 3
10      2      zero
12      4      J, bytes of the description
16      8      P, bytes of the pickle
24      32     SHA-256 of all else; its first half is the codec's id
56      J      description, a JSON object in UTF-8, of no more than 64 levels
56 + J  P      the estimator, pickled
======  =====  =====================================================================

Versions 1 and 2, of skvq 0.1, are still read: their estimators had other attributes,
and are converted.  In version 1 the checksum is that of the description and the pickle,
without the 24 bytes before.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> import numpy as np
>>> from skvq import ProductQuantizer
>>> from skvq.io import codec_info, load_codec, load_codes, save_codec, save_codes
>>> X = np.random.default_rng(0).normal(size=(1000, 8))
>>> pq = ProductQuantizer(4, 16, random_state=0).fit(X)
>>> with tempfile.TemporaryDirectory() as folder:
...     save_codec(Path(folder, "pq.skvq"), pq)
...     save_codes(Path(folder, "X.codes"), pq.transform(X), pq.codebook_sizes_)
...     Path(folder, "X.codes").stat().st_size  # 128 + 1000 * 16 / 8
...     codec_info(Path(folder, "pq.skvq"))["bits_per_sample"]
...     again = load_codec(Path(folder, "pq.skvq"))
...     codes = load_codes(Path(folder, "X.codes"))
2128
16.0
>>> bool((again.inverse_transform(codes) == pq.quantize(X)).all())
True
"""

import errno
import hashlib
import json
import math
import os
import pickle
import platform
import secrets
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skvq._version import __version__
from skvq.codes import Method, pack, packed_bits, smallest_dtype, unpack

__all__ = [
    "CodeReader",
    "CodeWriter",
    "FormatError",
    "atomic_write",
    "codec_info",
    "load_codec",
    "load_codes",
    "save_codec",
    "save_codes",
]

PathLike = str | os.PathLike[str]

_CODEC_VERSION = 3
_CODEC_MAGIC = b"\x89skvqM\r\n"
_CODEC_HEADER = struct.Struct("<8sHHIQ32s")
_DIGEST_OFFSET = 24
# What a description nests, details included: less than what a parser can.
_MAX_DEPTH = 64
_CODES_VERSION = 1
_CODES_MAGIC = b"\x89skvqC\r\n"
_CODES_HEADER = struct.Struct("<8sHBBIQII16s")
_CRC_OFFSET = 28
_ALIGNMENT = 64
_METHODS: tuple[Method, ...] = ("columns", "radix")
_NO_ID = bytes(16)
# Columns of codes: no more than a reader can afford to look at before it knows more.
_MAX_COLUMNS = 2**22
# Codes that take no bits, so that no byte of the file vouches for them.
_MAX_WITHOUT_BITS = 2**30
# What codes may take in memory at once, whatever the size of their file; and beyond, in
# sizes of the file.  Codes of 2 codewords or more take at most 32.
_ALWAYS_LOADED = 2**30
_MAX_EXPANSION = 1024
# Bytes of packed codes that are read at a time.
_CHUNK_BYTES = 2**22


class FormatError(ValueError):
    """A file is not what it should be: of another kind, damaged, or too new."""


# -- writing -----------------------------------------------------------------------


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only when it is complete.

    It is written under another name in the same directory, and renamed when the block
    ends and all of it is on the disk.  If the block raises, it is deleted, and a file
    that was there before stays.  A process that is killed may leave it behind: files
    named ``.skvq-``, 16 hexadecimal digits, ``.tmp`` can be deleted when nobody writes.

    A file that is replaced hands on its permissions: the bits for reading, writing and
    executing, and owner and group where the process may set them; where it may not set
    the group, another group gets the bits of all others.  New files have the usual
    permissions.

    Parameters
    ----------
    path : path-like
        Name of the file; that of a link means the file that it points to.

    Yields
    ------
    file : binary file
        Open for writing; it can be read and sought as well.

    Raises
    ------
    OSError
        If the file cannot be written, or is no regular file: a device, a directory
        or a loop of links must not be replaced.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skvq.io import atomic_write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder, "notes")) as file:
    ...         _ = file.write(b"complete")
    ...         before = Path(folder, "notes").exists()
    ...     before, Path(folder, "notes").read_bytes()
    (False, b'complete')
    """
    before = _regular_file(path)
    target = Path(os.path.realpath(path))
    # Short, since the target may have the longest name that there can be.
    temporary = target.with_name(f".skvq-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = _create(temporary, path, 0o666 if before is None else 0o600)
        try:
            # Of a duplicate, so that whoever closes the file doesn't take ours.
            with open(os.dup(descriptor), "w+b") as file:
                yield file
            if before is not None:
                _keep_permissions(descriptor, before)
            # On the disk before it has its name: else a crash of the machine could
            # leave the name, and no content.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
        _sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _regular_file(path: PathLike) -> os.stat_result | None:
    """Return the status of a file that may be replaced; None if there is none."""
    try:
        # Not of the resolved name: that of a loop of links is a name like any other.
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"'{path}' is not a regular file")
    return status


def _create(temporary: Path, path: PathLike, mode: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(temporary, flags, mode)
    except OSError as error:  # of a name that nobody has asked for
        raise OSError(error.errno, error.strerror, str(path)) from error


def _keep_permissions(descriptor: int, before: os.stat_result) -> None:
    """Give a file the owner, as far as we may, and the bits of the one it replaces."""
    if sys.platform == "win32":
        return
    mode = stat.S_IMODE(before.st_mode) & 0o777
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError:
            if not _has_group(descriptor, before.st_gid):
                # Another group gets no more than anybody.
                mode = mode & 0o707 | (mode & 0o007) << 3
    if stat.S_IMODE(own.st_mode) != mode:
        os.fchmod(descriptor, mode)


def _has_group(descriptor: int, group: int) -> bool:
    """Give a file to a group; return whether it belongs to it."""
    try:
        os.fchown(descriptor, -1, group)
    except OSError:
        return False
    return True


def _sync_directory(folder: Path) -> None:
    """Wait until the names in a directory are on the disk, where that can be asked."""
    if sys.platform == "win32":  # directories cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # one that may be written, and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


# -- codecs ------------------------------------------------------------------------


def save_codec(
    path: PathLike, estimator: Any, details: Mapping[str, Any] | None = None
) -> None:
    """Write a fitted codec to a file.

    Parameters
    ----------
    path : path-like
        Name of the file; one of that name is replaced.
    estimator : quantizer or Pipeline
        Fitted; of a pipeline, the last step is the quantizer.
    details : mapping, optional
        Anything else that `codec_info` shall tell, as JSON can hold it.

    Raises
    ------
    TypeError
        If the estimator is no quantizer and no pipeline that ends in one, or `details`
        cannot be written as JSON.
    ValueError
        If `details` holds numbers that are not finite, or nests more than 62 levels.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    OSError
        If the file cannot be written.

    See Also
    --------
    load_codec : The way back, and what is to be trusted.
    """
    description = _describe(estimator, details)
    content = pickle.dumps(estimator, protocol=pickle.HIGHEST_PROTOCOL)
    header = _CODEC_HEADER.pack(
        _CODEC_MAGIC, _CODEC_VERSION, 0, len(description), len(content), bytes(32)
    )[:_DIGEST_OFFSET]
    digest = _digest(header, description, content)
    with atomic_write(path) as file:
        file.write(header + digest + description)
        file.write(content)


def _digest(*parts: bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()


def load_codec(path: PathLike) -> Any:
    """Read a codec from a file.

    .. warning::
        The file holds a pickle, and unpickling can run any code.  Load only files from
        sources that you trust.  The checksum in the file tells damage, not malice.

    Parameters
    ----------
    path : path-like
        File that `save_codec` has written.

    Returns
    -------
    estimator : quantizer or Pipeline
        The fitted estimator.

    Raises
    ------
    FormatError
        If the file is no codec, is damaged, or needs what is not installed.
    OSError
        If the file cannot be read.

    Warns
    -----
    sklearn.exceptions.InconsistentVersionWarning
        If it was written by another version of scikit-learn, or of skvq that is no
        older than 0.2: what older ones have written is converted.
    """
    with _enough_memory(path):
        info, content, version = _read_codec(path)
        try:
            estimator = _unpickled(content, version)
            sizes = [int(size) for size in _quantizer_of(estimator).codebook_sizes_]
        except (MemoryError, Warning):  # a warning: where the user made them errors
            raise
        except Exception as error:  # unpickling raises whatever a class's code raises
            raise FormatError(
                f"{path} cannot be unpickled: {type(error).__name__}: {error}"
            ) from error
    if sizes != info["codebook_sizes"]:
        raise FormatError(
            f"{path} is damaged: its description tells of codebooks of "
            f"{info['codebook_sizes']} codewords, the codec has {sizes}"
        )
    return estimator


def codec_info(path: PathLike) -> dict[str, Any]:
    """Read what a codec file says of itself; nothing in it is run.

    Parameters
    ----------
    path : path-like
        File that `save_codec` has written.

    Returns
    -------
    info : dict
        "id", a name of the content in hexadecimal, which files of codes refer to;
        "steps", the classes; "n_features"; "codebook_sizes"; "bits_per_sample";
        "versions", of skvq and what it needs; "details", those of `save_codec`.

    Raises
    ------
    FormatError
        If the file is no codec, or is damaged.
    OSError
        If the file cannot be read.
    """
    with _enough_memory(path):
        return _read_codec(path)[0]


def _read_codec(path: PathLike) -> tuple[dict[str, Any], bytes, int]:
    with Path(path).open("rb") as file:
        start = file.read(_CODEC_HEADER.size)
        _check_magic(path, start, _CODEC_MAGIC, "codec")
        if len(start) < _CODEC_HEADER.size:
            raise FormatError(f"{path} is damaged: it ends within its header")
        fields = _CODEC_HEADER.unpack(start)
        _, version, zero, n_description, n_pickle, digest = fields
        _check_version(path, version, _CODEC_VERSION)
        # Before anything is read that a damaged number asks for.
        _check_size(path, file, _CODEC_HEADER.size + n_description + n_pickle)
        file.seek(_CODEC_HEADER.size)
        text, content = file.read(n_description), file.read(n_pickle)
    covered = start[:_DIGEST_OFFSET] if version > 1 else b""
    if zero:
        raise FormatError(f"{path} is damaged, or too new: its bytes 10 and 11 are set")
    if _digest(covered, text, content) != digest:
        raise FormatError(f"{path} is damaged: its checksum is another")
    try:
        description = _parse_description(text)
    except ValueError as error:
        raise FormatError(f"{path} is damaged: its description {error}") from error
    return {"id": digest[:16].hex(), **description}, content, version


def _unpickled(content: bytes, version: int) -> Any:
    if version > 2:
        return pickle.loads(content)
    from skvq import _layouts  # all schemes, which nobody else needs here

    return _layouts.loads(content)


@contextmanager
def _enough_memory(path: PathLike) -> Iterator[None]:
    """Say of what there is too little memory, as the system would say it."""
    try:
        yield
    except MemoryError as error:
        reason = os.strerror(errno.ENOMEM)
        raise OSError(errno.ENOMEM, reason, str(path)) from error


# What a codec file says of itself


def _describe(estimator: Any, details: Mapping[str, Any] | None) -> bytes:
    quantizer = _quantizer_of(estimator)
    description = {
        "steps": [type(step).__name__ for step in _steps(estimator)],
        "n_features": _n_features(estimator),
        "codebook_sizes": [int(size) for size in quantizer.codebook_sizes_],
        "bits_per_sample": float(quantizer.bits_per_sample_),
        "versions": {
            "skvq": __version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "details": dict(details or {}),
    }
    try:
        text = json.dumps(description, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(f"details nests more than {_MAX_DEPTH - 2} levels") from None
    try:
        _parse_description(text)
    except ValueError as error:
        raise ValueError(f"what describes the codec {error}") from error
    return text


def _parse_description(text: bytes) -> dict[str, Any]:
    """Return a description; raise a ValueError unless it is one."""
    try:
        found = json.loads(text.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nests more than {_MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(found, dict) or found.keys() != _DESCRIPTION.keys():
        raise ValueError(f"is no object with the keys {', '.join(_DESCRIPTION)}")
    for key, is_valid in _DESCRIPTION.items():
        if not is_valid(found[key]):
            raise ValueError(f"has {key} that are not valid")
    if _depth(found) > _MAX_DEPTH:
        raise ValueError(f"nests more than {_MAX_DEPTH} levels")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _is_whole(value: Any, largest: int) -> bool:
    return type(value) is int and 1 <= value <= largest


def _are_strings(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


# Each key of a description, and what it must hold.
_DESCRIPTION: dict[str, Callable[[Any], bool]] = {
    "steps": lambda v: isinstance(v, list) and len(v) > 0 and _are_strings(v),
    "n_features": lambda v: v is None or _is_whole(v, sys.maxsize),
    "codebook_sizes": lambda v: (
        isinstance(v, list) and len(v) > 0 and all(_is_whole(V, 2**32) for V in v)
    ),
    "bits_per_sample": lambda v: type(v) in (int, float) and 0 <= v < 2**53,
    "versions": lambda v: isinstance(v, dict) and _are_strings(v.values()),
    "details": lambda v: isinstance(v, dict),
}


def _depth(value: Any) -> int:
    """Return how many levels of lists and objects there are, one in the other."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _steps(estimator: Any) -> list[Any]:
    if not isinstance(estimator, Pipeline):
        return [estimator]
    steps = [step for _, step in estimator.steps]
    return [step for step in steps if step is not None and step != "passthrough"]


def _quantizer_of(estimator: Any) -> Any:
    """Return the quantizer whose codes the estimator's `transform` gives; check it."""
    steps = _steps(estimator)
    names = [type(step).__name__ for step in steps]
    if not steps or not hasattr(steps[-1], "quantize"):
        what = f"a pipeline of {', '.join(names)}" if len(names) != 1 else names[0]
        raise TypeError(
            f"a codec is a quantizer, or a pipeline that ends in one, not {what}"
        )
    check_is_fitted(steps[-1])
    for name, step in zip(names, steps, strict=True):
        if not hasattr(step, "inverse_transform"):
            raise TypeError(
                f"{name} has no inverse_transform: codes could not be decoded through "
                "it"
            )
    return steps[-1]


def _n_features(estimator: Any) -> int | None:
    # Some transformers, and pipelines that begin with one, don't keep it.
    n_features = getattr(estimator, "n_features_in_", None)
    return None if n_features is None else int(n_features)


def _check_magic(path: PathLike, content: bytes, expected: bytes, kind: str) -> None:
    if content[:8] == expected:
        return
    other = {_CODES_MAGIC: "codes", _CODEC_MAGIC: "a codec"}.get(content[:8])
    found = f"it holds {other}" if other else "it does not begin as one"
    raise FormatError(f"{path} is not a skvq {kind} file: {found}")


def _check_version(path: PathLike, version: int, newest: int) -> None:
    if not 1 <= version <= newest:
        known = "version 1" if newest == 1 else f"versions 1 to {newest}"
        raise FormatError(
            f"{path} has version {version} of its format; skvq {__version__} reads "
            f"{known}"
        )


def _check_size(path: PathLike, file: BinaryIO, expected: int) -> None:
    size = file.seek(0, os.SEEK_END)
    if size != expected:
        raise FormatError(
            f"{path} is damaged: it has {size} bytes, and should have {expected}"
        )


# -- codes -------------------------------------------------------------------------


def save_codes(
    path: PathLike,
    codes: ArrayLike,
    sizes: Sequence[int],
    *,
    method: Method = "columns",
    row_aligned: bool = False,
    codec_id: str | None = None,
) -> None:
    """Write codes to a file.

    Parameters
    ----------
    path : path-like
        Name of the file; one of that name is replaced.
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them.
    sizes : sequence of int, length n_codes
        The `codebook_sizes_` of the quantizer.
    method : {"columns", "radix"}, default="columns"
        See `skvq.codes.pack`.
    row_aligned : bool, default=False
        Whether each row starts on a byte of its own.
    codec_id : str, optional
        The "id" of `codec_info`, for whoever decodes to compare.

    Raises
    ------
    TypeError, ValueError
        If `skvq.codes.pack` cannot pack them, or `codec_id` is not valid.
    OSError
        If the file cannot be written.
    """
    with CodeWriter(
        path, sizes, method=method, row_aligned=row_aligned, codec_id=codec_id
    ) as writer:
        writer.write(codes)


def load_codes(path: PathLike) -> NDArray[Any]:
    """Read all codes of a file, and check them.

    Parameters
    ----------
    path : path-like
        File that `save_codes` or `CodeWriter` has written.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes)
        In the smallest unsigned dtype that holds the largest size.

    Raises
    ------
    FormatError
        If the file holds no codes, is damaged, or is so small that the memory for its
        codes is not worth trying: 1 GiB, and more than 1,024 times the file.  Columns
        of one codeword, which take no bits, can do that; `CodeReader` reads them.
    OSError
        If the file cannot be read, or there is too little memory for its codes.
    """
    with CodeReader(path) as reader, _enough_memory(path):
        dtype = smallest_dtype(max(reader.sizes))
        shape = reader.n_samples, len(reader.sizes)
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes > max(_ALWAYS_LOADED, _MAX_EXPANSION * reader._file_size):
            raise FormatError(
                f"{path} is damaged, or not to be loaded at once: its codes would take "
                f"{n_bytes} bytes, more than {_MAX_EXPANSION} times its size; "
                "CodeReader reads it in pieces"
            )
        if n_bytes > sys.maxsize:
            raise MemoryError
        codes = np.empty(shape, dtype=dtype)
        start = 0
        for chunk in reader.chunks():
            codes[start : start + len(chunk)] = chunk
            start += len(chunk)
    return codes


class _Header(NamedTuple):
    """What stands before packed codes."""

    sizes: tuple[int, ...]
    method: Method
    row_aligned: bool
    n_samples: int
    crc: int
    codec_id: bytes
    n_bits: int  # of a row

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed codes."""
        if self.row_aligned:
            return self.n_samples * -(-self.n_bits // 8)
        return -(-self.n_samples * self.n_bits // 8)

    def check_rows(self) -> None:
        """Raise a ValueError if no byte vouches for the rows, and they are too many."""
        n_codes = self.n_samples * len(self.sizes)
        if not self.n_bits and n_codes > _MAX_WITHOUT_BITS:
            raise ValueError(
                f"{self.n_samples} rows of {len(self.sizes)} codes that take no bits, "
                f"more than {_MAX_WITHOUT_BITS} in all"
            )

    def to_bytes(self) -> bytes:
        header = bytearray(
            _CODES_HEADER.pack(
                _CODES_MAGIC,
                _CODES_VERSION,
                _METHODS.index(self.method),
                int(self.row_aligned),
                len(self.sizes),
                self.n_samples,
                self.crc,
                0,
                self.codec_id,
            )
        )
        header += np.array(self.sizes, dtype="<u8").tobytes()
        header += bytes(-len(header) % _ALIGNMENT)
        struct.pack_into("<I", header, _CRC_OFFSET, zlib.crc32(header))
        return bytes(header)


class CodeWriter:
    """Write codes to a file in pieces, in bounded memory.

    A context manager: the file is there when the block has ended, and not at all if it
    raised.

    Parameters
    ----------
    path : path-like
        Name of the file; one of that name is replaced.
    sizes : sequence of int, length n_codes
        The `codebook_sizes_` of the quantizer.
    method : {"columns", "radix"}, default="columns"
        See `skvq.codes.pack`.
    row_aligned : bool, default=False
        Whether each row starts on a byte of its own.
    codec_id : str, optional
        The "id" of `codec_info`, for whoever decodes to compare.

    Raises
    ------
    TypeError, ValueError
        If the sizes, the method or the id are not valid.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from skvq.io import CodeReader, CodeWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with CodeWriter(Path(folder, "codes"), sizes=(8, 4)) as writer:
    ...         writer.write(np.array([[7, 3], [0, 1]]))
    ...         writer.write(np.array([[5, 2]]))
    ...     with CodeReader(Path(folder, "codes")) as reader:
    ...         reader.n_samples, reader.read(1, 3).tolist()
    (3, [[0, 1], [5, 2]])
    """

    def __init__(
        self,
        path: PathLike,
        sizes: Sequence[int],
        *,
        method: Method = "columns",
        row_aligned: bool = False,
        codec_id: str | None = None,
    ):
        n_bits = packed_bits(sizes, method)  # checks both
        if len(sizes) > _MAX_COLUMNS:
            raise ValueError(
                f"sizes has {len(sizes)} columns; a file of codes has at most "
                f"{_MAX_COLUMNS}"
            )
        self._header = _Header(
            tuple(int(size) for size in sizes),
            method,
            bool(row_aligned),
            n_samples=0,
            crc=0,
            codec_id=_NO_ID if codec_id is None else _id_bytes(codec_id),
            n_bits=n_bits,
        )
        self._atomic = atomic_write(path)

    def __enter__(self) -> Self:
        """Open the file."""
        with ExitStack() as stack:
            self._file = stack.enter_context(self._atomic)
            self._file.write(self._header.to_bytes())
            stack.pop_all()  # it goes on until our own exit
        self._rest = np.empty((0, len(self._header.sizes)), dtype=np.uint8)
        return self

    def __exit__(self, *raised) -> None:
        """Complete the file, or drop it if the block raised."""
        if raised[0] is not None:
            self._atomic.__exit__(*raised)
            return
        # What fails in here must drop it as well.
        with ExitStack() as stack:
            stack.push(self._atomic)
            self._append(self._rest)
            self._file.seek(0)
            self._file.write(self._header.to_bytes())

    @property
    def n_samples(self) -> int:
        """Number of rows written."""
        return self._header.n_samples + len(self._rest)

    def write(self, codes: ArrayLike) -> None:
        """Append codes.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes)
            Codes as `transform` returns them.

        Raises
        ------
        TypeError, ValueError
            If `skvq.codes.pack` cannot pack them, or they take no bits and are more
            than 2**30 in all.
        """
        codes = np.asarray(codes)
        # What does not fill bytes waits for the rows that share them.
        if len(self._rest):
            codes = np.concatenate([self._rest, codes])
        whole = len(codes) if self._header.row_aligned else len(codes) // 8 * 8
        self._append(codes[:whole])
        self._rest = codes[whole:].copy()
        self._pack(self._rest)  # fails now, not when the file is closed

    def _pack(self, codes: NDArray[Any]) -> bytes:
        header = self._header
        return pack(
            codes, header.sizes, method=header.method, row_aligned=header.row_aligned
        ).tobytes()

    def _append(self, codes: NDArray[Any]) -> None:
        header, packed = self._header, self._pack(codes)
        header = header._replace(
            n_samples=header.n_samples + len(codes), crc=zlib.crc32(packed, header.crc)
        )
        header.check_rows()
        self._file.write(packed)
        self._header = header


def _id_bytes(codec_id: str) -> bytes:
    try:
        content = bytes.fromhex(codec_id)
    except (TypeError, ValueError):
        content = b""
    if len(content) != len(_NO_ID):
        raise ValueError(
            f"codec_id must be 32 hexadecimal digits, the id of codec_info, got "
            f"{codec_id!r}"
        )
    return content


class CodeReader:
    """Read any rows of a file of codes, in bounded memory.

    A context manager, which closes the file.

    Parameters
    ----------
    path : path-like
        File that `save_codes` or `CodeWriter` has written.

    Attributes
    ----------
    n_samples : int
        Number of rows.
    sizes : tuple of int
        Number of codewords of each code column.
    method : {"columns", "radix"}
        How they are packed.
    row_aligned : bool
        Whether each row starts on a byte of its own.
    n_bits : int
        Bits that a row takes, before any padding.
    codec_id : str or None
        The id of the codec, if it is known.

    Raises
    ------
    FormatError
        If the file holds no codes, or its header is damaged.
    OSError
        If the file cannot be read.

    See Also
    --------
    CodeWriter : The way here, with an example.
    """

    def __init__(self, path: PathLike):
        self._path = path
        self._file = Path(path).open("rb")
        try:
            self._header, self._offset = _read_codes_header(path, self._file)
        except BaseException:
            self._file.close()
            raise
        self._file_size = self._offset + self._header.n_bytes
        self.n_samples = self._header.n_samples
        self.sizes = self._header.sizes
        self.method = self._header.method
        self.row_aligned = self._header.row_aligned
        self.n_bits = self._header.n_bits
        known = self._header.codec_id != _NO_ID
        self.codec_id = self._header.codec_id.hex() if known else None

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *raised) -> None:
        """Close the file."""
        self.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.n_samples

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read some rows; the checksum, which is that of all, is not checked.

        Parameters
        ----------
        start : int, default=0
            The first row.
        stop : int, optional
            The row after the last; None: the end of the file.

        Returns
        -------
        codes : ndarray of shape (stop - start, n_codes)
            In the smallest unsigned dtype that holds the largest size.

        Raises
        ------
        IndexError
            If the file does not have these rows.
        FormatError
            If they are damaged.
        OSError
            If they cannot be read, or there is too little memory for them.
        """
        stop = self.n_samples if stop is None else stop
        if not 0 <= start <= stop <= self.n_samples:
            raise IndexError(
                f"rows {start} to {stop} are not within the {self.n_samples} rows of "
                f"{self._path}"
            )
        # Eight rows of a stream fill whole bytes.
        first = start if self.row_aligned else start // 8 * 8
        last = stop if self.row_aligned else min(-(-stop // 8) * 8, self.n_samples)
        with _enough_memory(self._path):
            codes = self._unpack(self._read_packed(first, last), last - first)
        return codes[start - first : stop - first]

    def chunks(self, n_rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Read all rows, piece by piece, and check them.

        Parameters
        ----------
        n_rows : int, optional
            Rows of a piece, rounded up to a multiple of 8; by default those of 4 MB.

        Yields
        ------
        codes : ndarray of shape (n_rows, n_codes)
            The next rows; the last piece may be shorter.

        Raises
        ------
        FormatError
            If the file is damaged; the checksum speaks only after the last piece.
        """
        if n_rows is None:
            n_rows = max(
                1, 8 * _CHUNK_BYTES // max(1, self.n_bits, 8 * len(self.sizes))
            )
        n_rows = -(-max(1, n_rows) // 8) * 8
        crc = 0
        for start in range(0, self.n_samples, n_rows):
            stop = min(start + n_rows, self.n_samples)
            with _enough_memory(self._path):
                packed = self._read_packed(start, stop)
                codes = self._unpack(packed, stop - start)
            crc = zlib.crc32(packed, crc)
            yield codes
        if crc != self._header.crc:
            raise FormatError(f"{self._path} is damaged: its checksum is another")

    def memory_map(self) -> NDArray[np.uint8]:
        """Map the packed codes into memory, read-only.

        Returns
        -------
        packed : ndarray of uint8
            As `skvq.codes.pack` returns it: with `row_aligned`, one row for each
            sample.

        Raises
        ------
        FormatError
            If the file has become shorter.
        OSError
            If it cannot be mapped.
        """
        n_bytes = self._header.n_bytes
        shape = (self.n_samples, -(-self.n_bits // 8)) if self.row_aligned else n_bytes
        if not n_bytes:  # nothing cannot be mapped
            return np.empty(shape, dtype=np.uint8)
        try:
            return np.memmap(
                self._path, dtype=np.uint8, mode="r", offset=self._offset, shape=shape
            )
        except ValueError as error:
            raise FormatError(f"{self._path} is damaged: it ends too early") from error

    def _read_packed(self, start: int, stop: int) -> bytes:
        """Read rows that fill whole bytes, or end with the file."""
        if self.row_aligned:
            width = -(-self.n_bits // 8)
            begin, end = start * width, stop * width
        else:
            begin, end = start * self.n_bits // 8, -(-stop * self.n_bits // 8)
        self._file.seek(self._offset + begin)
        packed = self._file.read(end - begin)
        if len(packed) != end - begin:
            raise FormatError(f"{self._path} is damaged: it ends too early")
        return packed

    def _unpack(self, packed: bytes, n_samples: int) -> NDArray[Any]:
        array = np.frombuffer(packed, dtype=np.uint8)
        if self.row_aligned:
            array = array.reshape(n_samples, -(-self.n_bits // 8))
        try:
            return unpack(
                array,
                self.sizes,
                method=self.method,
                row_aligned=self.row_aligned,
                n_samples=n_samples,
            )
        except ValueError as error:
            raise FormatError(f"{self._path} is damaged: {error}") from error


def _read_codes_header(path: PathLike, file: BinaryIO) -> tuple[_Header, int]:
    """Read and check the header; return it and the offset of the packed codes."""
    start = file.read(_CODES_HEADER.size)
    _check_magic(path, start, _CODES_MAGIC, "code")
    if len(start) < _CODES_HEADER.size:
        raise FormatError(f"{path} is damaged: it ends within its header")
    fields = _CODES_HEADER.unpack(start)
    _, version, method, flags, n_codes, n_samples, crc, header_crc, codec_id = fields
    _check_version(path, version, _CODES_VERSION)
    # Before anything is read that a damaged number asks for.
    if not 1 <= n_codes <= _MAX_COLUMNS:
        raise FormatError(f"{path} is damaged: it has {n_codes} columns of codes")
    end = _CODES_HEADER.size + 8 * n_codes
    offset = -(-end // _ALIGNMENT) * _ALIGNMENT
    file.seek(0)
    header = bytearray(file.read(offset))
    if len(header) < offset:
        raise FormatError(f"{path} is damaged: it ends within its header")
    struct.pack_into("<I", header, _CRC_OFFSET, 0)
    if zlib.crc32(header) != header_crc:
        raise FormatError(f"{path} is damaged: the checksum of its header is another")
    if method >= len(_METHODS) or flags > 1 or any(header[end:]):
        raise FormatError(
            f"{path} is damaged, or too new: its header has method {method}, flags "
            f"{flags:#x}, or bytes that should be zero"
        )
    sizes = np.frombuffer(header, "<u8", n_codes, _CODES_HEADER.size)
    wrong = np.flatnonzero((sizes < 1) | (sizes > 2**32))
    if wrong.size:
        raise FormatError(
            f"{path} is damaged: its column {wrong[0]} has {sizes[wrong[0]]} codewords"
        )
    known = tuple(sizes.tolist()), _METHODS[method]
    n_bits = packed_bits(*known)
    found = _Header(*known, flags == 1, n_samples, crc, codec_id, n_bits)
    try:
        found.check_rows()
    except ValueError as error:
        raise FormatError(f"{path} is damaged: it has {error}") from error
    _check_size(path, file, offset + found.n_bytes)
    return found, offset
