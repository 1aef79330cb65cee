r"""Codecs and codes in files: written completely or not at all, and checked when read.

========================  ==========================================================
`save`                    write a fitted quantizer, or a pipeline that ends in one
`load`                    read it back
`codec_info`              read the description of a codec file
`decode`                  decode codes, also through steps that only encode
`save_codes`              write codes, packed in as few bits as they need
`load_codes`              read them back
`CodeWriter`              write codes of any number of rows, in pieces
`CodeReader`              read any rows of a file of codes
`atomic_write`            open a file that appears only when it is complete
`rows`                    make a matrix of a column that holds a list in each row
========================  ==========================================================

`save` and `load` are also available as `skvq.save` and `skvq.load`.  Neither kind of
file holds code: whatever the bytes of a file are, reading it gives a codec of known
classes, codes, a `FormatError` or an OSError.

A codec file of version 4 is a safetensors file.  Its header has one entry of metadata,
"skvq", a JSON object:

==================  ================================================================
key                 content
==================  ================================================================
"digest"            SHA-256 of the length of the header and the header, with 64
                    zeros in place of itself; its first half is the codec's id
"data"              SHA-256 of all bytes after the header
"version"           4
"steps"             the entries that `codec_info` returns under these names
"n_features"
"codebook_sizes"
"bits_per_sample"
"versions"
"details"
"objects"           the estimator: a list of classes and their attributes, each
                    after those that it refers to; arrays are tensors of the file
==================  ================================================================

The header must be, byte for byte, the one that safetensors writes for its content.

Files of versions 1 to 3, from earlier versions of skvq, hold a pickle; `load` reads
them only with ``allow_pickle=True``.

A file of codes is little-endian.  Its first eight bytes reveal whether it went through
a text mode or lost its eighth bits.  Version 1:

======  =====  =====================================================================
offset  bytes  content
======  =====  =====================================================================
0       8      ``89 73 6B 76 71 43 0D 0A`` (``\x89skvqC\r\n``)
8       2      version, 1
10      1      method of packing: 0 columns, 1 radix
11      1      flags: bit 0, whether each row starts on a byte of its own; bit 1,
               whether the least significant bits come first; the others are zero
12      4      m, the number of code columns, 1 to 2^22
16      8      number of rows
24      4      CRC-32 of the packed codes
28      4      CRC-32 of all bytes before the packed codes, these four being zero
32      16     id of the codec, see `codec_info`; zero if it is not known
48      8 m    V_1..V_m, the number of codewords of each column, 1 to 2^32
...            zeros up to the next multiple of 64
...            the codes, as `skvq.codes.pack` packs them
======  =====  =====================================================================

If every V_j is 1, codes take no bits, and only the header says how many rows there are;
such a file holds at most 2^30 codes.

Version 2 holds codes of an `skvq.codes.EntropyCoder`, where each row takes its own
number of bits:

======  =====  =====================================================================
offset  bytes  content
======  =====  =====================================================================
0       48     as above, with version 2, method 2, no CRC-32 at 24, and flags whose bit
               0 says whether tables are conditional; the CRC-32 at 28 covers all bytes
               before the coded rows
48      8      bytes of the coded rows
56      8      t, bytes of the tables
64      8 m    V_1..V_m
...     t      frequencies of all columns, 4 bytes each, in one stream of zlib
...            zeros up to the next multiple of 64
...            the coded rows: for each time that the file was written to, the bytes of
               `skvq.codes.EntropyCoder.encode`, described in `skvq._ans`
======  =====  =====================================================================

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> import numpy as np
>>> from skvq import ProductQuantizer
>>> from skvq.io import codec_info, load, load_codes, save, save_codes
>>> X = np.random.default_rng(0).normal(size=(1000, 8))
>>> pq = ProductQuantizer(4, 16, random_state=0).fit(X)
>>> with tempfile.TemporaryDirectory() as folder:
...     save(pq, Path(folder, "pq.skvq"))
...     save_codes(Path(folder, "X.codes"), pq.transform(X), pq.codebook_sizes_)
...     Path(folder, "X.codes").stat().st_size  # 128 + 1000 * 16 / 8
...     codec_info(Path(folder, "pq.skvq"))["bits_per_sample"]
...     again = load(Path(folder, "pq.skvq"))
...     codes = load_codes(Path(folder, "X.codes"))
2128
16.0
>>> bool((again.inverse_transform(codes) == pq.quantize(X)).all())
True
"""

from __future__ import annotations

import math
import operator
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from skvq._ans import Segment, Writer, open_segment
from skvq._checks import columns_in_words
from skvq._code_checks import check_codes
from skvq._codec import (
    VERSION,
    check_codec,
    check_description,
    container,
    describe,
    load_objects,
    save_objects,
)
from skvq._columns import refuse_list_columns, rows_of
from skvq._files import (
    CODES_MAGIC,
    FormatError,
    PathLike,
    atomic_write,
    check_magic,
    check_size,
    check_version,
    enough_memory,
    is_container,
)
from skvq._pipelines import find_codec
from skvq._typing import MatrixLike, Sizes, VectorLike
from skvq.codes import (
    BitOrder,
    EntropyCoder,
    Method,
    pack,
    packed_bits,
    smallest_dtype,
    unpack,
)

__all__ = [
    "CodeReader",
    "CodeWriter",
    "FormatError",
    "atomic_write",
    "codec_info",
    "decode",
    "load",
    "load_codes",
    "rows",
    "save",
    "save_codes",
]

_PACKED, _CODED = 1, 2  # versions
_CODES_HEADER = struct.Struct("<8sHBBIQII16s")
_CRC_OFFSET = 28
# In version 2: number of bytes of the coded rows, and of the tables.
_MORE_HEADER = struct.Struct("<QQ")
_ALIGNMENT = 64
_METHODS: tuple[Method | Literal["entropy"], ...] = ("columns", "radix", "entropy")
_ORDERS: tuple[BitOrder, ...] = ("big", "little")
_NO_ID = bytes(16)
# The most columns of codes: a reader must afford to look at them before it knows more.
_MAX_COLUMNS = 2**22
# The most codes that take no bits, so that no byte of the file confirms them.
_MAX_WITHOUT_BITS = 2**30
# Codes may always take this much memory at once; beyond, they may take this many times
# the size of the file.  Codes of 2 codewords or more take at most 32 times its size.
_ALWAYS_LOADED = 2**30
_MAX_EXPANSION = 1024
# Number of bytes of packed codes that are read at a time.
_CHUNK_BYTES = 2**22
# Rows between two that are wanted, up to which it is quicker to read them as well.
_NEAR_ROWS = 256


# -- codecs ------------------------------------------------------------------------


def save(
    estimator: Any, path: PathLike, *, details: Mapping[str, Any] | None = None
) -> None:
    """Write a fitted codec to a file that holds no code.

    Parameters
    ----------
    estimator : quantizer, QuantizedFeatures or Pipeline
        Fitted; a pipeline must end in one of the others.  It may be wrapped in a
        FrozenEstimator.  Steps of a pipeline may be StandardScaler, MinMaxScaler,
        MaxAbsScaler, RobustScaler, QuantileTransformer, Normalizer, PCA,
        IncrementalPCA, TruncatedSVD, GaussianRandomProjection or VarianceThreshold.
    path : path-like
        Name of the file; an existing file is replaced.
    details : mapping, optional
        Any further entries for `codec_info`; values that JSON can hold.

    Raises
    ------
    TypeError
        If the estimator is not a codec, or contains what a file cannot hold: code, such
        as a metric of your own, or objects of other classes; or if `details` cannot be
        written as JSON.
    ValueError
        If `details` holds numbers that are not finite, or is nested more than 62 deep.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : The inverse, with an example.
    """
    description = describe(estimator, details)
    objects, arrays = save_objects(estimator)
    try:
        content = container.pack(
            {"version": VERSION, **description, "objects": objects}, arrays
        )
    except ValueError as error:
        raise ValueError(f"what describes the codec {error}") from error
    with atomic_write(path) as file:
        file.write(content)


def load(
    path: PathLike,
    *,
    verify: bool = True,
    mmap: bool = False,
    allow_pickle: bool = False,
) -> Any:
    """Read a codec from a file, without running code from it.

    Parameters
    ----------
    path : path-like
        A file written by `save`.
    verify : bool, default=True
        Whether the whole file is read and compared with its checksum.  False: only the
        header is, which covers everything but the numbers in the tables.
    mmap : bool, default=False
        Whether the tables stay in the file, mapped into memory; all arrays of the
        estimator are then read-only.  The file must not be changed meanwhile; `save`
        replaces it by another one, which does no harm.
    allow_pickle : bool, default=False
        Whether to read files of versions 1 to 3, which hold a pickle.  Unpickling can
        run any code, and their checksum detects damage, not malice: set it for files
        from sources that you trust, and save them anew.

    Returns
    -------
    estimator : quantizer, QuantizedFeatures or Pipeline
        The fitted estimator.

    Raises
    ------
    FormatError
        If the file is not a codec, is damaged, holds an unknown class, or holds a
        pickle that is not allowed.
    OSError
        If the file cannot be read.

    Warns
    -----
    sklearn.exceptions.InconsistentVersionWarning
        If it was written by another version of scikit-learn or of skvq.

    See Also
    --------
    save : Writes the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import skvq
    >>> X = np.random.default_rng(0).normal(size=(1000, 8))
    >>> pq = skvq.ProductQuantizer(4, 16, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     skvq.save(pq, Path(folder, "pq.skvq"))
    ...     again = skvq.load(Path(folder, "pq.skvq"))
    >>> bool((again.transform(X) == pq.transform(X)).all())
    True
    """
    with enough_memory(path), Path(path).open("rb") as file:
        return _loaded(path, file, verify, mmap, allow_pickle)


def _loaded(
    path: PathLike, file: BufferedReader, verify: bool, mmap: bool, allow_pickle: bool
) -> Any:
    if not is_container(file.read(9)):
        return _load_pickle(path, file, allow_pickle)
    found, description, objects = _read_header(path, file)
    read = container.map_arrays if mmap else container.read_arrays
    arrays = read(path, file, found, verify)
    return _checked(path, description, lambda: load_objects(objects, arrays))


def _load_pickle(path: PathLike, file: BinaryIO, allow_pickle: bool) -> Any:
    from skvq._codec import pickled

    found = pickled.read_pickled(path, file)
    if not allow_pickle:
        raise FormatError(
            f"{path} has version {found.version} of the format of codec files, which "
            "holds a pickle, and unpickling can run any code: if you trust where it "
            "comes from, load it with allow_pickle=True, and save it anew"
        )
    return _checked(path, found.description, lambda: pickled.unpickle(found))


def _checked(path: PathLike, description: dict[str, Any], make: Any) -> Any:
    """Return the codec made from a file; raise a FormatError unless they agree."""
    try:
        estimator = make()
        check_codec(estimator, description)
    except (MemoryError, Warning):  # warnings, if the user made them errors
        raise
    except Exception as error:  # classes may raise any exception
        raise FormatError(
            f"{path} cannot be read as a codec: {type(error).__name__}: {error}"
        ) from error
    return estimator


def _read_header(
    path: PathLike, file: BinaryIO
) -> tuple[container.Container, dict[str, Any], Any]:
    """Return the header of a file, its description, and its objects."""
    found = container.read_header(path, file)
    version = found.description.get("version")
    if type(version) is not int:
        raise FormatError(f"{path} is damaged: its version is not valid")
    check_version(path, version, VERSION)
    try:
        description = check_description(found.description, ("version", "objects"))
    except ValueError as error:
        raise FormatError(f"{path} is damaged: its description {error}") from error
    return found, description, found.description["objects"]


def codec_info(path: PathLike) -> dict[str, Any]:
    """Read the description of a codec file, without making the estimator.

    Parameters
    ----------
    path : path-like
        A file written by `save`.

    Returns
    -------
    info : dict
        "id", a hexadecimal name of the content, which files of codes refer to; "steps",
        the classes; "n_features"; "codebook_sizes"; "bits_per_sample"; "versions" of
        skvq and its dependencies; "details", as given to `save`.

    Raises
    ------
    FormatError
        If the file is not a codec, or its header is damaged.
    OSError
        If the file cannot be read.
    """
    with enough_memory(path), Path(path).open("rb") as file:
        if is_container(file.read(9)):
            found, description, _ = _read_header(path, file)
            digest = found.digest
        else:
            from skvq._codec import pickled

            old = pickled.read_pickled(path, file)
            description, digest = old.description, old.digest
    return {"id": digest[:32], **description}


def decode(estimator: Any, codes: MatrixLike) -> Any:
    """Decode codes, as far back as the steps of a pipeline lead.

    This is the estimator's `inverse_transform`, if it has one.  A `Normalizer` has
    none: the length that it removes is in no code.  Such a step leaves the rows
    unchanged, so that rows of length one go back through the steps before it.

    Parameters
    ----------
    estimator : quantizer, QuantizedFeatures or Pipeline
        A fitted codec.
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as its `transform` returns them.

    Returns
    -------
    X_quant : ndarray of shape (n_samples, n_features)
        The reconstructions.

    Raises
    ------
    TypeError
        If the estimator is not a codec.
    ValueError
        If a code is not an integer in the range of its column.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import Normalizer
    >>> from skvq import VectorQuantizer
    >>> from skvq.io import decode
    >>> X = np.array([[0.0, 2.0], [0.0, 4.0], [3.0, 0.0]])
    >>> codec = make_pipeline(Normalizer(), VectorQuantizer(2, random_state=0)).fit(X)
    >>> decode(codec, codec.transform(X)).tolist()
    [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    """
    return find_codec(estimator, at_end=True).decode(codes)


# -- codes -------------------------------------------------------------------------


def save_codes(
    path: PathLike,
    codes: MatrixLike,
    sizes: Sizes,
    *,
    method: Method = "columns",
    row_aligned: bool = False,
    bitorder: BitOrder = "big",
    codec_id: str | None = None,
    coder: EntropyCoder | None = None,
) -> None:
    """Write codes to a file.

    Parameters
    ----------
    path : path-like
        Name of the file; an existing file is replaced.
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them.
    sizes : sequence of int, length n_codes
        The `codebook_sizes_` of the quantizer.
    method : {"columns", "radix"}, default="columns"
        See `skvq.codes.pack`.
    row_aligned : bool, default=False
        Whether each row starts on a byte of its own.
    bitorder : {"big", "little"}, default="big"
        Which bits come first, see `skvq.codes.pack`.
    codec_id : str, optional
        The "id" of `codec_info`, which readers can compare.
    coder : EntropyCoder, optional
        A coder of the same sizes, with its frequencies, which the file then holds:
        frequent codes take fewer bits.  The parameters of packing keep their defaults.

    Raises
    ------
    TypeError, ValueError
        If `skvq.codes.pack` cannot pack them, or `codec_id` or `coder` is not valid.
    OSError
        If the file cannot be written.
    """
    with CodeWriter(
        path,
        sizes,
        method=method,
        row_aligned=row_aligned,
        bitorder=bitorder,
        codec_id=codec_id,
        coder=coder,
    ) as writer:
        writer.write(codes)


def load_codes(path: PathLike) -> NDArray[Any]:
    """Read all codes of a file and check them.

    Parameters
    ----------
    path : path-like
        A file written by `save_codes` or `CodeWriter`.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes)
        In the smallest unsigned dtype that holds the largest size.

    Raises
    ------
    FormatError
        If the file holds no codes, is damaged, or its codes would take more than 1 GiB
        and more than 1,024 times the file's size.  Columns of one codeword, which take
        no bits, can do that; `CodeReader` reads them.
    OSError
        If the file cannot be read, or there is too little memory for its codes.
    """
    with CodeReader(path) as reader, enough_memory(path):
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
    """The part of a file before packed or coded rows."""

    sizes: tuple[int, ...]
    method: Any
    row_aligned: bool
    bitorder: BitOrder
    n_samples: int
    crc: int
    codec_id: bytes
    n_bits: int | None  # bits of a row; None: each row has its own number
    coder: EntropyCoder | None = None
    n_coded: int = 0  # number of bytes of the coded rows
    tables: bytes = b""  # the coder's tables, as in the file

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed codes, or of the coded rows."""
        return self.n_coded if self.n_bits is None else self.bytes_of(self.n_samples)

    @property
    def layout(self) -> dict[str, Any]:
        """Keyword arguments for `skvq.codes.pack` and `unpack`."""
        return {
            "method": self.method,
            "row_aligned": self.row_aligned,
            "bitorder": self.bitorder,
        }

    def bytes_of(self, n_samples: int) -> int:
        """Return the number of bytes that the first rows take, packed."""
        assert self.n_bits is not None
        if self.row_aligned:
            return n_samples * -(-self.n_bits // 8)
        return -(-n_samples * self.n_bits // 8)

    def whole(self, n_samples: int) -> int:
        """Return how many of the first rows fill bytes not shared with other rows."""
        return n_samples if self.row_aligned else n_samples // 8 * 8

    def check_rows(self) -> None:
        """Raise a ValueError if rows take no bytes, and there are too many of them."""
        n_codes = self.n_samples * len(self.sizes)
        if self.n_bits == 0 and n_codes > _MAX_WITHOUT_BITS:
            raise ValueError(
                f"{self.n_samples} rows of {len(self.sizes)} codes that take no bits, "
                f"more than {_MAX_WITHOUT_BITS} in all"
            )

    def to_bytes(self) -> bytes:
        flags = self.row_aligned + 2 * _ORDERS.index(self.bitorder)
        if self.coder is not None:
            flags = int(self.coder.conditional)
        header = bytearray(
            _CODES_HEADER.pack(
                CODES_MAGIC,
                _PACKED if self.coder is None else _CODED,
                _METHODS.index(self.method),
                flags,
                len(self.sizes),
                self.n_samples,
                self.crc,
                0,
                self.codec_id,
            )
        )
        if self.coder is not None:
            header += _MORE_HEADER.pack(self.n_coded, len(self.tables))
        header += np.array(self.sizes, dtype="<u8").tobytes()
        header += self.tables
        header += bytes(-len(header) % _ALIGNMENT)
        struct.pack_into("<I", header, _CRC_OFFSET, zlib.crc32(header))
        return bytes(header)


class CodeWriter:
    """Write codes to a file in pieces, in bounded memory.

    It is a context manager: the file exists once the block has ended, and not at all if
    the block raised.  A file that is appended to then has either all new rows or none.

    Parameters
    ----------
    path : path-like
        Name of the file; an existing file is replaced.
    sizes : sequence of int, length n_codes
        The `codebook_sizes_` of the quantizer.
    method : {"columns", "radix"}, default="columns"
        See `skvq.codes.pack`.
    row_aligned : bool, default=False
        Whether each row starts on a byte of its own.
    bitorder : {"big", "little"}, default="big"
        Which bits come first, see `skvq.codes.pack`.
    codec_id : str, optional
        The "id" of `codec_info`, which readers can compare.
    coder : EntropyCoder, optional
        A coder of the same sizes, with its frequencies, which the file then holds:
        frequent codes take fewer bits.  The parameters of packing keep their defaults.
    append : bool, default=False
        Whether to add rows to an existing file, in place; all other arguments must be
        as in the file.  A process that is killed meanwhile leaves a file that readers
        refuse; appending again, even no rows, restores it.  Only one process may append
        at a time, while none reads.  Coded rows are appended in whole blocks, so many
        rows at a time cost less.

    Raises
    ------
    TypeError, ValueError
        If the sizes, the method, the order, the id or the coder are not valid, or
        differ from those of a file that is appended to.
    sklearn.exceptions.NotFittedError
        If the coder has no frequencies.
    ImportError
        If there is a coder, and constriction is not installed.
    FormatError
        If a file that is appended to holds no codes, or its header is damaged.

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

    _file: BinaryIO

    def __init__(
        self,
        path: PathLike,
        sizes: Sizes,
        *,
        method: Method = "columns",
        row_aligned: bool = False,
        bitorder: BitOrder = "big",
        codec_id: str | None = None,
        coder: EntropyCoder | None = None,
        append: bool = False,
    ) -> None:
        n_bits = packed_bits(sizes, method=method)  # checks both
        if bitorder not in _ORDERS:
            raise ValueError(f"bitorder must be 'big' or 'little', got {bitorder!r}")
        if len(sizes) > _MAX_COLUMNS:
            raise ValueError(
                f"sizes has {len(sizes)} columns; a file of codes has at most "
                f"{_MAX_COLUMNS}"
            )
        self._path = path
        self._header = _Header(
            tuple(int(size) for size in sizes),
            method,
            bool(row_aligned),
            bitorder,
            n_samples=0,
            crc=0,
            codec_id=_NO_ID if codec_id is None else _id_bytes(codec_id),
            n_bits=n_bits,
        )
        self._coded: Writer | None = None
        if coder is not None:
            self._header = _with_coder(self._header, coder)
            self._coded = coder._writer()
        self._appends = bool(append) and Path(path).exists()
        self._writing = atomic_write(path)
        if self._appends:
            with Path(path).open("rb") as file:
                found, _ = _read_codes_header(path, file, longer=True)
            _check_appendable(path, found, self._header)
            self._writing = self._appending()

    def __repr__(self) -> str:
        return (
            f"<CodeWriter of {os.fspath(self._path)!r}: "
            f"{columns_in_words(self._header.sizes)}, {self._header.method!r}>"
        )

    def __enter__(self) -> Self:
        """Open the file."""
        self._rest = np.empty((0, len(self._header.sizes)), dtype=np.uint8)
        with ExitStack() as stack:
            self._file = stack.enter_context(self._writing)
            if not self._appends:
                self._file.write(self._header.to_bytes())
            stack.pop_all()  # the contexts stay open until our own exit
        return self

    def __exit__(self, *raised: Any) -> None:
        """Complete the file; drop it, or the rows added, if the block raised."""
        if raised[0] is not None:
            self._writing.__exit__(*raised)
            return
        # If anything here fails, the file must be dropped as well.
        with ExitStack() as stack:
            stack.push(self._writing)
            if self._coded is None:
                self._append(self._rest)
            elif self._coded.n_rows or not self._appends:
                self._put(self._coded.end(), self._coded.n_rows)
            if self._appends:  # rows first: else a crash could leave none
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.seek(0)
            self._file.write(self._header.to_bytes())

    @contextmanager
    def _appending(self) -> Iterator[BinaryIO]:
        """Open the file after its rows; restore it if the block raises."""
        with Path(self._path).open("r+b") as file:
            old, offset = _read_codes_header(self._path, file, longer=True)
            end = place = offset + old.n_bytes
            last, self._header = b"", old
            if self._coded is None:
                whole = old.whole(old.n_samples)
                place = offset + old.bytes_of(whole)
                file.seek(place)
                last = _without_padding(file.read(end - place), old)
                file.seek(place)
                file.write(last)
                crc = old.crc if whole == old.n_samples else _crc(file, offset, place)
                self._rest = _unpacked(self._path, old, last, old.n_samples - whole)
                self._header = old._replace(n_samples=whole, crc=crc)
            file.truncate(end)
            file.seek(place)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                file.seek(place)
                file.write(last)
                file.truncate(end)
                file.seek(0)
                file.write(old.to_bytes())
                raise

    @property
    def n_samples(self) -> int:
        """Number of rows written."""
        n_waiting = len(self._rest) if self._coded is None else self._coded.n_rows
        return self._header.n_samples + n_waiting

    def write(self, codes: MatrixLike) -> None:
        """Append codes.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes)
            Codes as `transform` returns them.

        Raises
        ------
        TypeError, ValueError
            If `skvq.codes.pack` cannot pack them, or if they take no bits and there are
            more than 2**30 in all.
        """
        if self._coded is not None:
            _, found = check_codes(codes, self._header.sizes)
            self._put(self._coded.add(found))
            return
        refuse_list_columns(codes, "codes")
        codes = np.asarray(codes)
        # Rows that do not fill whole bytes wait for those that share them.
        if len(self._rest):
            codes = np.concatenate([self._rest, codes])
        whole = self._header.whole(len(codes))
        self._append(codes[:whole])
        self._rest = codes[whole:].copy()
        self._pack(self._rest)  # raises now, not when the file is closed

    def _pack(self, codes: NDArray[Any]) -> bytes:
        return pack(codes, self._header.sizes, **self._header.layout).tobytes()

    def _put(self, coded: bytes, n_rows: int = 0) -> None:
        """Write coded rows; with the last of their bytes, their number."""
        header = self._header
        self._file.write(coded)
        self._header = header._replace(
            n_samples=header.n_samples + n_rows, n_coded=header.n_coded + len(coded)
        )

    def _append(self, codes: NDArray[Any]) -> None:
        header, packed = self._header, self._pack(codes)
        header = header._replace(
            n_samples=header.n_samples + len(codes), crc=zlib.crc32(packed, header.crc)
        )
        header.check_rows()
        self._file.write(packed)
        self._header = header


def _with_coder(header: _Header, coder: EntropyCoder) -> _Header:
    """Return the header of coded rows; raise if the coder does not suit them."""
    if not isinstance(coder, EntropyCoder):
        raise TypeError(f"coder={coder!r}; expected a skvq.codes.EntropyCoder")
    if coder.sizes != header.sizes:
        raise ValueError(
            f"coder has sizes {coder.sizes}, the codes have {header.sizes}"
        )
    if header.layout != {"method": "columns", "row_aligned": False, "bitorder": "big"}:
        raise ValueError(
            f"{header.layout} is how codes are packed: with a coder they are not"
        )
    frequencies = np.concatenate([table.ravel() for table in coder.frequencies_])
    tables = zlib.compress(frequencies.astype("<u4").tobytes(), 9)
    return header._replace(method="entropy", n_bits=None, coder=coder, tables=tables)


def _check_appendable(path: PathLike, found: _Header, given: _Header) -> None:
    """Raise unless rows of one file can be appended to another."""
    for name in ("sizes", "method", "row_aligned", "bitorder"):
        if getattr(found, name) != getattr(given, name):
            raise ValueError(
                f"{name}={getattr(given, name)!r}, but {path}, which is appended to, "
                f"has {getattr(found, name)!r}"
                + "; CodeReader(path).coder is its coder"
                * (found.coder is not None)
            )
    if found.coder is not None and given.coder is not None:
        if found.coder.model_id_ != given.coder.model_id_:
            raise ValueError(
                f"coder has other frequencies than {path}, which is appended to: "
                "CodeReader(path).coder has those"
            )
    if given.codec_id not in (_NO_ID, found.codec_id):
        raise ValueError(
            f"codec_id={given.codec_id.hex()!r}, but {path}, which is appended to, "
            f"has {found.codec_id.hex()!r}"
        )


def _without_padding(last: bytes, header: _Header) -> bytes:
    """Return the bytes of the last rows; what follows them was never completed."""
    assert header.n_bits is not None
    n_bits = (header.n_samples - header.whole(header.n_samples)) * header.n_bits
    if not n_bits % 8:
        return last
    kept = (1 << n_bits % 8) - 1
    if header.bitorder == "big":
        kept <<= -n_bits % 8
    return last[:-1] + bytes([last[-1] & kept])


def _crc(file: BinaryIO, begin: int, end: int) -> int:
    """Return the CRC-32 of a range of bytes of a file."""
    file.seek(begin)
    crc = 0
    for start in range(begin, end, _CHUNK_BYTES):
        crc = zlib.crc32(file.read(min(_CHUNK_BYTES, end - start)), crc)
    return crc


def _unpacked(
    path: PathLike, header: _Header, packed: bytes, n_samples: int
) -> NDArray[Any]:
    """Return the codes of some rows; a FormatError if their bytes are not valid."""
    array: NDArray[np.uint8] = np.frombuffer(packed, dtype=np.uint8)
    if header.row_aligned:
        assert header.n_bits is not None
        array = array.reshape(n_samples, -(-header.n_bits // 8))
    try:
        return unpack(array, header.sizes, n_samples=n_samples, **header.layout)
    except ValueError as error:
        raise FormatError(f"{path} is damaged: {error}") from error


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

    It is a context manager that closes the file.

    Parameters
    ----------
    path : path-like
        A file written by `save_codes` or `CodeWriter`.

    Attributes
    ----------
    n_samples : int
        Number of rows.
    sizes : tuple of int
        Number of codewords of each code column.
    method : {"columns", "radix", "entropy"}
        The method of packing; or "entropy" for coded rows.
    row_aligned : bool
        Whether each row starts on a byte of its own.
    bitorder : {"big", "little"}
        Which bits come first.
    n_bits : int or None
        Bits that a row takes, without padding; None: each row takes its own number.
    bits_per_row : float
        Size of the file after its header, divided by the number of rows: for coded rows
        their bits, the index of blocks and the checksums.  NaN if there are no rows.
    coder : EntropyCoder or None
        The coder, with the frequencies in the file.
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
    CodeWriter : The inverse, with an example.
    """

    bits_per_row: float
    codec_id: str | None
    coder: EntropyCoder | None
    method: Any
    n_bits: int | None
    n_samples: int
    row_aligned: bool
    sizes: tuple[int, ...]

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._file = Path(path).open("rb")
        try:
            self._header, self._offset = _read_codes_header(path, self._file)
            self._segments = self._open_segments() if self._header.coder else []
        except BaseException:
            self._file.close()
            raise
        self._file_size = self._offset + self._header.n_bytes
        self.n_samples = self._header.n_samples
        self.sizes = self._header.sizes
        self.method = self._header.method
        self.row_aligned = self._header.row_aligned
        self.bitorder = self._header.bitorder
        self.n_bits = self._header.n_bits
        self.coder = self._header.coder
        n_bits = 8 * self._header.n_bytes
        self.bits_per_row = n_bits / self.n_samples if self.n_samples else math.nan
        known = self._header.codec_id != _NO_ID
        self.codec_id = self._header.codec_id.hex() if known else None

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *raised: Any) -> None:
        """Close the file."""
        self.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.n_samples

    def __repr__(self) -> str:
        closed = ", closed" * self._file.closed
        return (
            f"<CodeReader of {os.fspath(self._path)!r}: {self.n_samples} rows, "
            f"{columns_in_words(self.sizes)}, {self.bits_per_row:.4g} bits a row, "
            f"{self.method!r}{closed}>"
        )

    def __getitem__(self, rows: int | slice | VectorLike) -> NDArray[Any]:
        """Return the codes of a row, of a slice of any step, of row numbers or a mask.

        Row numbers may come in any order and several times; negative ones count from
        the end.  Between rows that are near each other all are read.
        """
        if isinstance(rows, SupportsIndex) and np.ndim(rows) == 0:
            row = operator.index(rows)
            row += self.n_samples * (row < 0)
            return self.read(row, row + 1)[0]
        if not isinstance(rows, slice):
            return self._read_listed(self._row_numbers(rows))
        picked = range(*rows.indices(self.n_samples))
        forward = picked if picked.step > 0 else picked[::-1]
        if forward.step == 1:
            codes = self.read(forward.start, max(forward.start, forward.stop))
        else:
            codes = self._read_apart(forward)
        return codes if forward is picked else codes[::-1]

    def _row_numbers(self, rows: Any) -> NDArray[np.int64]:
        """Return valid numbers of rows, none of them negative."""
        numbers = np.asarray(rows)
        if numbers.ndim == 1 and numbers.dtype.kind == "b":
            if len(numbers) != self.n_samples:
                raise IndexError(
                    f"a mask of {len(numbers):,} rows, but the file has "
                    f"{self.n_samples:,}"
                )
            return np.flatnonzero(numbers)
        if not numbers.size:
            numbers = numbers.astype(np.int64)
        many = numbers.ndim == 1 and not isinstance(rows, tuple)
        if not many or numbers.dtype.kind not in "iu":
            raise TypeError(
                "rows of a CodeReader are an int, a slice, a sequence of ints or a "
                f"mask, not {rows!r}"
            )
        outside = (numbers < -self.n_samples) | (numbers >= self.n_samples)
        if outside.any():
            row = numbers[np.argmax(outside)]
            raise IndexError(f"row {row:,} of a file of {self.n_samples:,} rows")
        numbers = numbers.astype(np.int64)
        return np.where(numbers < 0, numbers + self.n_samples, numbers)

    def _read_listed(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows by their numbers: those near each other at once."""
        wanted, places = np.unique(numbers, return_inverse=True)
        shape = len(wanted), len(self.sizes)
        codes = np.empty(shape, dtype=smallest_dtype(max(self.sizes)))
        ends = np.append(np.flatnonzero(np.diff(wanted) > _NEAR_ROWS) + 1, len(wanted))
        start = 0
        while start < len(wanted):
            last = wanted[start] + self._rows_of_piece()
            stop = min(
                ends[np.searchsorted(ends, start, "right")],
                np.searchsorted(wanted, last),
            )
            found = self.read(int(wanted[start]), int(wanted[stop - 1]) + 1)
            codes[start:stop] = found[wanted[start:stop] - wanted[start]]
            start = int(stop)
        return codes[places]

    def _read_apart(self, picked: range) -> NDArray[Any]:
        """Read rows that are not consecutive, in pieces of bounded size."""
        shape = len(picked), len(self.sizes)
        codes = np.empty(shape, dtype=smallest_dtype(max(self.sizes)))
        n_rows = max(1, self._rows_of_piece() // picked.step)
        for first in range(0, len(picked), n_rows):
            piece = picked[first : first + n_rows]
            found = self.read(piece[0], piece[-1] + 1)
            codes[first : first + len(piece)] = found[:: picked.step]
        return codes

    def _rows_of_piece(self) -> int:
        """Return the number of rows that are read at a time."""
        n_bits = max(1, self.n_bits or 0, 8 * len(self.sizes))
        return max(1, 8 * _CHUNK_BYTES // n_bits)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read some rows; the checksum of the whole file is not checked.

        Coded rows have a checksum for each block, which is checked.

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
        if self.coder is not None:
            with enough_memory(self._path):
                return self._read_coded(start, stop)
        # Eight rows of a stream fill whole bytes.
        first = start if self.row_aligned else start // 8 * 8
        last = stop if self.row_aligned else min(-(-stop // 8) * 8, self.n_samples)
        with enough_memory(self._path):
            codes = self._unpack(self._read_packed(first, last), last - first)
        return codes[start - first : stop - first]

    def chunks(self, n_rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Read all rows, piece by piece, and check them.

        Parameters
        ----------
        n_rows : int, optional
            Number of rows in a piece, rounded up to a multiple of 8, or of the rows in
            a block; by default those of 4 MB.

        Yields
        ------
        codes : ndarray of shape (n_rows, n_codes)
            The next rows; the last piece may be shorter.

        Raises
        ------
        FormatError
            If the file is damaged; the checksum is compared after the last piece.
        """
        if n_rows is None:
            n_rows = self._rows_of_piece()
        unit = max((segment.block_rows for segment in self._segments), default=8)
        n_rows = -(-max(1, n_rows) // unit) * unit
        if self.coder is not None:
            for start in range(0, self.n_samples, n_rows):
                yield self.read(start, min(start + n_rows, self.n_samples))
            return
        crc = 0
        for start in range(0, self.n_samples, n_rows):
            stop = min(start + n_rows, self.n_samples)
            with enough_memory(self._path):
                packed = self._read_packed(start, stop)
                codes = self._unpack(packed, stop - start)
            crc = zlib.crc32(packed, crc)
            yield codes
        if crc != self._header.crc:
            raise FormatError(f"{self._path} is damaged: its checksum does not match")

    def memory_map(self) -> NDArray[np.uint8]:
        """Map the packed codes into memory, read-only.

        Returns
        -------
        packed : ndarray of uint8
            As `skvq.codes.pack` returns them: with `row_aligned`, one row per sample.

        Raises
        ------
        FormatError
            If the file has become shorter.
        OSError
            If it cannot be mapped.
        ValueError
            If its rows are coded, so that a row has no fixed place.
        """
        if self.n_bits is None:
            raise ValueError(
                f"{self._path} holds coded rows, which are not packed: read() them"
            )
        n_bytes = self._header.n_bytes
        shape = (self.n_samples, -(-self.n_bits // 8)) if self.row_aligned else n_bytes
        if not n_bytes:  # an empty range cannot be mapped
            return np.empty(shape, dtype=np.uint8)
        try:
            return np.memmap(
                self._path, dtype=np.uint8, mode="r", offset=self._offset, shape=shape
            )
        except ValueError as error:
            raise FormatError(f"{self._path} is damaged: it ends too early") from error

    def _read_packed(self, start: int, stop: int) -> bytes:
        """Read rows that fill whole bytes or end with the file."""
        begin, end = self._header.bytes_of(start), self._header.bytes_of(stop)
        self._file.seek(self._offset + begin)
        packed = self._file.read(end - begin)
        if len(packed) != end - begin:
            raise FormatError(f"{self._path} is damaged: it ends too early")
        return packed

    def _open_segments(self) -> list[Segment]:
        """Return one segment for each time that the file was written to."""
        found: list[Segment] = []
        place = self._offset + self._header.n_bytes
        coder = self._header.coder
        assert coder is not None
        try:
            while place > self._offset:
                found.append(open_segment(coder._fitted(), self._read_bytes, place))
                place = found[-1].start
            if place < self._offset:
                raise ValueError("its blocks begin in its header")
            if sum(segment.n_rows for segment in found) != self._header.n_samples:
                raise ValueError("its blocks have another number of rows than it says")
        except ValueError as error:
            raise FormatError(f"{self._path} is damaged: {error}") from error
        return found[::-1]

    def _read_bytes(self, begin: int, end: int) -> bytes:
        self._file.seek(begin)
        data = self._file.read(end - begin)
        if len(data) < end - begin:
            raise ValueError("it ends too early")
        return data

    def _read_coded(self, start: int, stop: int) -> NDArray[Any]:
        shape = stop - start, len(self.sizes)
        codes = np.empty(shape, dtype=smallest_dtype(max(self.sizes)))
        first = 0
        for segment in self._segments:
            low, high = max(start, first), min(stop, first + segment.n_rows)
            if low < high:
                try:
                    found = segment.rows(low - first, high - first)
                except ValueError as error:
                    raise FormatError(f"{self._path} is damaged: {error}") from error
                codes[low - start : high - start] = found
            first += segment.n_rows
        return codes

    def _unpack(self, packed: bytes, n_samples: int) -> NDArray[Any]:
        return _unpacked(self._path, self._header, packed, n_samples)


def _read_codes_header(
    path: PathLike, file: BinaryIO, *, longer: bool = False
) -> tuple[_Header, int]:
    """Read and check the header; return it and the offset of the packed codes.

    The file may be longer than the header says, if an append was interrupted.
    """
    start = file.read(_CODES_HEADER.size)
    check_magic(path, start, CODES_MAGIC, "code")
    if len(start) < _CODES_HEADER.size:
        raise FormatError(f"{path} is damaged: it ends within its header")
    fields = _CODES_HEADER.unpack(start)
    _, version, method, flags, n_codes, n_samples, crc, header_crc, codec_id = fields
    check_version(path, version, _CODED)
    # Checked before a damaged number is used as a length.
    if not 1 <= n_codes <= _MAX_COLUMNS:
        raise FormatError(f"{path} is damaged: it has {n_codes} columns of codes")
    place, n_coded, n_tables = _CODES_HEADER.size, 0, 0
    if version == _CODED:
        more = file.read(_MORE_HEADER.size)
        if len(more) < _MORE_HEADER.size:
            raise FormatError(f"{path} is damaged: it ends within its header")
        n_coded, n_tables = _MORE_HEADER.unpack(more)
        place += len(more)
    end = place + 8 * n_codes + n_tables
    offset = -(-end // _ALIGNMENT) * _ALIGNMENT
    if offset > file.seek(0, os.SEEK_END):
        raise FormatError(f"{path} is damaged: it ends within its header")
    file.seek(0)
    header = bytearray(file.read(offset))
    struct.pack_into("<I", header, _CRC_OFFSET, 0)
    if zlib.crc32(header) != header_crc:
        raise FormatError(f"{path} is damaged: its header's checksum does not match")
    methods, n_flags = ((2,), 2) if version == _CODED else ((0, 1), 4)
    if method not in methods or flags >= n_flags or any(header[end:]):
        raise FormatError(
            f"{path} is damaged, or too new: its header has method {method}, flags "
            f"{flags:#x}, or bytes that should be zero"
        )
    sizes = np.frombuffer(header, "<u8", n_codes, place)
    wrong = np.flatnonzero((sizes < 1) | (sizes > 2**32))
    if wrong.size:
        raise FormatError(
            f"{path} is damaged: its column {wrong[0]} has {sizes[wrong[0]]} codewords"
        )
    known = tuple(sizes.tolist())
    if version == _CODED:
        tables = bytes(header[place + 8 * n_codes : end])
        coder = _coder_of(path, known, bool(flags & 1), tables)
        layout = "entropy", False, _ORDERS[0], n_samples, crc, codec_id, None
        found = _Header(known, *layout, coder, n_coded, tables)
    else:
        n_bits = packed_bits(known, method=_METHODS[method])
        packing = _METHODS[method], bool(flags & 1), _ORDERS[flags >> 1]
        found = _Header(known, *packing, n_samples, crc, codec_id, n_bits)
    try:
        found.check_rows()
    except ValueError as error:
        raise FormatError(f"{path} is damaged: it has {error}") from error
    end = offset + found.n_bytes
    if not (longer and file.seek(0, os.SEEK_END) > end):
        check_size(path, file, end)
    return found, offset


def _coder_of(
    path: PathLike, sizes: tuple[int, ...], conditional: bool, tables: bytes
) -> EntropyCoder:
    """Return the coder whose tables a file holds."""
    try:
        n_bytes = 4 * EntropyCoder(sizes, conditional=conditional).n_frequencies
        stream = zlib.decompressobj()
        content = stream.decompress(tables, n_bytes + 1)
        if len(content) != n_bytes or not stream.eof or stream.unused_data:
            raise ValueError("its tables are not as many as its sizes say")
        return EntropyCoder._from_frequencies(
            np.frombuffer(content, "<u4"), sizes, conditional=conditional
        )
    except (ValueError, zlib.error) as error:
        raise FormatError(f"{path} is damaged: {error}") from error


# -- columns of lists --------------------------------------------------------------


def rows(column: Any) -> NDArray[Any]:
    """Make a matrix of a column that holds a list of numbers in each row.

    Data frames keep embeddings so.  Estimators take matrices, a feature in each column.

    Parameters
    ----------
    column : series, array, column or table
        A series of Polars of type Array or List; a series of pandas that holds arrays
        or lists, also one that pyarrow backs; an array of pyarrow of fixed-size or
        other lists, in chunks or not; a column of `datasets`; a sequence of lists or
        arrays; a matrix, which is returned as it is.  Or a table whose only column is
        one of these.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        In the dtype of the numbers; lists of several types have the one that holds them
        all.  The memory is that of the column, and read-only, where one piece of memory
        holds all of its lists: so it is for Polars and pyarrow, if the column is one
        chunk.  Otherwise it is a copy.

    Raises
    ------
    TypeError
        If it is no column, or one that its library has not computed yet.
    ValueError
        If the column has no rows, the lists are empty or not of one length, a list or a
        number is missing or masked, or what they hold are not real numbers.  The
        message names the column and the first such row, counted from zero.

    Examples
    --------
    >>> import pandas as pd
    >>> from skvq.io import rows
    >>> df = pd.DataFrame({"id": [7, 8], "emb": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]})
    >>> rows(df["emb"])
    array([[0., 1., 2.],
           [3., 4., 5.]])
    """
    return rows_of(column)
