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
11      1      flags: bit 0, whether each row starts on a byte of its own
12      4      m, the number of code columns
16      8      number of rows
24      4      CRC-32 of the packed codes
28      4      CRC-32 of all before the packed codes, with these four bytes zero
32      16     id of the codec, see `codec_info`; zero if it is not known
48      8 m    V_1..V_m, the number of codewords of each column
...            zeros up to the next multiple of 64
...            the codes, as `skvq.codes.pack` packs them
======  =====  =====================================================================

Codec file, version 1:

======  =====  =====================================================================
offset  bytes  content
======  =====  =====================================================================
0       8      ``89 73 6B 76 71 4D 0D 0A`` (``\x89skvqM\r\n``)
8       2      version, 1
10      2      zero
12      4      J, bytes of the description
16      8      P, bytes of the pickle
24      32     SHA-256 of description and pickle; its first half is the codec's id
56      J      description, a JSON object in UTF-8
56 + J  P      the estimator, pickled
======  =====  =====================================================================

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

import hashlib
import json
import os
import pickle
import platform
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

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

_VERSION = 1
_CODEC_MAGIC = b"\x89skvqM\r\n"
_CODEC_HEADER = struct.Struct("<8sHHIQ32s")
_CODES_MAGIC = b"\x89skvqC\r\n"
_CODES_HEADER = struct.Struct("<8sHBBIQII16s")
_CRC_OFFSET = 28
_ALIGNMENT = 64
_METHODS: tuple[Method, ...] = ("columns", "radix")
_NO_ID = bytes(16)
# Bytes of packed codes that are read at a time.
_CHUNK_BYTES = 2**22


class FormatError(ValueError):
    """A file is not what it should be: of another kind, damaged, or too new."""


# -- writing -----------------------------------------------------------------------


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only when it is complete.

    It is written under another name in the same directory, and renamed when the block
    ends.  If the block raises, it is deleted, and a file that was there before stays.

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
        If the file cannot be written, or is no regular file: a device or a directory
        must not be replaced.

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
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"'{path}' is not a regular file")
    # tempfile would make it readable by its owner alone.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x+b") as file:
            yield file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    OSError
        If the file cannot be written.

    See Also
    --------
    load_codec : The way back, and what is to be trusted.
    """
    quantizer = _quantizer_of(estimator)
    description = json.dumps(
        {
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
        },
        allow_nan=False,
    ).encode()
    content = pickle.dumps(estimator, protocol=pickle.HIGHEST_PROTOCOL)
    digest = hashlib.sha256(description + content).digest()
    header = _CODEC_HEADER.pack(
        _CODEC_MAGIC, _VERSION, 0, len(description), len(content), digest
    )
    with atomic_write(path) as file:
        file.write(header + description)
        file.write(content)


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
        If it was written by another version of skvq or scikit-learn.
    """
    content = _read_codec(path)[1]
    try:
        estimator = pickle.loads(content)
    except Warning:  # where the user has made warnings errors
        raise
    except Exception as error:  # unpickling raises whatever a class's code raises
        raise FormatError(
            f"{path} cannot be unpickled: {type(error).__name__}: {error}"
        ) from error
    _quantizer_of(estimator)
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
    return _read_codec(path)[0]


def _read_codec(path: PathLike) -> tuple[dict[str, Any], bytes]:
    content = Path(path).read_bytes()
    _check_magic(path, content, _CODEC_MAGIC, "codec")
    if len(content) < _CODEC_HEADER.size:
        raise FormatError(f"{path} is damaged: it ends within its header")
    _, version, _, n_description, n_pickle, digest = _CODEC_HEADER.unpack_from(content)
    _check_version(path, version)
    body = content[_CODEC_HEADER.size :]
    if len(body) != n_description + n_pickle:
        raise FormatError(
            f"{path} is damaged: it has {len(content)} bytes, and should have "
            f"{_CODEC_HEADER.size + n_description + n_pickle}"
        )
    if hashlib.sha256(body).digest() != digest:
        raise FormatError(f"{path} is damaged: its checksum is another")
    info = {"id": digest[:16].hex(), **json.loads(body[:n_description])}
    return info, body[n_description:]


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


def _check_version(path: PathLike, version: int) -> None:
    if version != _VERSION:
        raise FormatError(
            f"{path} has version {version} of its format; skvq {__version__} reads "
            f"version {_VERSION}"
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
        If the file holds no codes, or is damaged.
    OSError
        If the file cannot be read.
    """
    with CodeReader(path) as reader:
        dtype = smallest_dtype(max(reader.sizes))
        codes = np.empty((reader.n_samples, len(reader.sizes)), dtype=dtype)
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

    @property
    def n_bits(self) -> int:
        return packed_bits(self.sizes, self.method)

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed codes."""
        if self.row_aligned:
            return self.n_samples * -(-self.n_bits // 8)
        return -(-self.n_samples * self.n_bits // 8)

    def to_bytes(self) -> bytes:
        header = bytearray(
            _CODES_HEADER.pack(
                _CODES_MAGIC,
                _VERSION,
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
        packed_bits(sizes, method)  # checks both
        self._header = _Header(
            tuple(int(size) for size in sizes),
            method,
            bool(row_aligned),
            n_samples=0,
            crc=0,
            codec_id=_NO_ID if codec_id is None else _id_bytes(codec_id),
        )
        self._atomic = atomic_write(path)

    def __enter__(self) -> Self:
        """Open the file."""
        self._file = self._atomic.__enter__()
        self._file.write(self._header.to_bytes())
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
            If `skvq.codes.pack` cannot pack them.
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
        self._file.write(packed)
        self._header = header._replace(
            n_samples=header.n_samples + len(codes), crc=zlib.crc32(packed, header.crc)
        )


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
            packed = self._read_packed(start, stop)
            crc = zlib.crc32(packed, crc)
            yield self._unpack(packed, stop - start)
        if crc != self._header.crc:
            raise FormatError(f"{self._path} is damaged: its checksum is another")

    def memory_map(self) -> NDArray[np.uint8]:
        """Map the packed codes into memory, read-only.

        Returns
        -------
        packed : ndarray of uint8
            As `skvq.codes.pack` returns it: with `row_aligned`, one row for each
            sample.
        """
        n_bytes = self._header.n_bytes
        shape = (self.n_samples, -(-self.n_bits // 8)) if self.row_aligned else n_bytes
        if not n_bytes:  # nothing cannot be mapped
            return np.empty(shape, dtype=np.uint8)
        return np.memmap(
            self._path, dtype=np.uint8, mode="r", offset=self._offset, shape=shape
        )

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
    _check_version(path, version)
    file_size = file.seek(0, os.SEEK_END)
    offset = -(-(_CODES_HEADER.size + 8 * n_codes) // _ALIGNMENT) * _ALIGNMENT
    if offset > file_size:  # before reading what a damaged number asks for
        raise FormatError(f"{path} is damaged: it ends within its header")
    file.seek(0)
    header = bytearray(file.read(offset))
    struct.pack_into("<I", header, _CRC_OFFSET, 0)
    if zlib.crc32(header) != header_crc or method >= len(_METHODS) or not n_codes:
        raise FormatError(f"{path} is damaged: the checksum of its header is another")
    sizes = np.frombuffer(header, "<u8", n_codes, _CODES_HEADER.size).tolist()
    if not all(1 <= size <= 2**32 for size in sizes):
        raise FormatError(f"{path} is damaged: it has codebooks of sizes {sizes}")
    found = _Header(
        tuple(sizes), _METHODS[method], bool(flags & 1), n_samples, crc, codec_id
    )
    if file_size != offset + found.n_bytes:
        raise FormatError(
            f"{path} is damaged: it has {file_size} bytes, and should have "
            f"{offset + found.n_bytes}"
        )
    return found, offset
