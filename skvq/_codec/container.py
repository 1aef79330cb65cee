"""Bytes of a codec file: a header and tensors, as safetensors has them, and digests.

A file is N, the length of the header, in 8 bytes; the header, a JSON object padded with
blanks; and the tensors, one after the other.  The header names the dtype, the shape and
the place of each tensor, and holds one text of our own, the description: another JSON
object.  Two of its entries are SHA-256 digests in hexadecimal.  "data" is that of all
bytes after the header.  "digest" is that of N and the header, with zeros in place of
itself; as it covers "data", it covers every byte of the file.

A header can be written in many ways, but only the one that `render` writes is read,
which is that of safetensors.  So blanks, repeated keys and the order of the entries
carry no meaning, and a change of bytes that nobody looks at is found.
"""

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import safetensors.numpy

from skvq._files import FormatError, PathLike, check_size

# The key of the description in the header.
_KEY = "skvq"
_NO_DIGEST = "0" * 64
# In the order in which they stand in a file; tensors of one dtype are ordered by name.
_DTYPES = {
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "F16": "<f2",
    "U16": "<u2",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
# By NumPy's names.
DTYPES = {np.dtype(dtype).name: np.dtype(dtype) for dtype in _DTYPES.values()}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_RANKS = {name: rank for rank, name in enumerate(_DTYPES)}
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.]{1,256}")
# Files of safetensors may have no longer header.
_MAX_HEADER = 100_000_000
# The deepest nesting of a description, details included: less than a parser's limit.
_MAX_DEPTH = 64
# Number of bytes read at a time.
_CHUNK_BYTES = 2**22


class Tensor(NamedTuple):
    """The entry of a tensor in a header."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    begin: int  # place of its first byte after the header
    end: int


@dataclass(frozen=True)
class Container:
    """A file whose header has been read and checked, but whose tensors have not.

    Attributes
    ----------
    description : dict
        The description without its digests.
    tensors : dict of str to Tensor
        By name, in the order of the file.
    digest : str
        The digest of the header.
    data_digest : str
        The digest of the tensors.
    begin : int
        Number of bytes before the tensors.
    """

    description: dict[str, Any]
    tensors: dict[str, Tensor]
    digest: str
    data_digest: str
    begin: int


def dtype_name(dtype: np.dtype) -> str | None:
    """Return safetensors' name of a dtype; None if a file cannot hold it."""
    return _NAMES.get(dtype.newbyteorder("<"))


def pack(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a file.

    Parameters
    ----------
    description : mapping
        Values that JSON can hold.
    arrays : mapping of str to ndarray
        Contiguous, of dtypes that have a `dtype_name`.

    Returns
    -------
    content : bytes

    Raises
    ------
    ValueError
        If the description is too large, is nested too deep, or holds numbers that are
        not finite.
    """
    tensors = _places(
        {name: arrays[name] for name in sorted(arrays, key=_rank(arrays))}
    )
    data = hashlib.sha256()
    for name in tensors:
        data.update(_bytes_of(arrays[name]))
    described = {"digest": _NO_DIGEST, "data": data.hexdigest(), **description}
    described["digest"] = _digest(described, tensors)
    header = render(described, tensors)
    if len(header) - 8 > _MAX_HEADER:
        raise ValueError(
            f"what describes the codec takes {len(header)} bytes, more than "
            f"{_MAX_HEADER}"
        )
    _parse(header[8:])  # raise now for a header that could not be read
    metadata = {_KEY: _dumps(described)}
    content = safetensors.numpy.save(dict(arrays), metadata=metadata)
    if not content.startswith(header):
        raise RuntimeError(
            f"safetensors {safetensors.__version__} writes another header than those "
            "that skvq reads: install another version of it"
        )
    return content


def _rank(arrays: Mapping[str, np.ndarray]) -> Any:
    return lambda name: (_RANKS[str(dtype_name(arrays[name].dtype))], name)


def _places(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    tensors, begin = {}, 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        dtype = str(dtype_name(array.dtype))
        tensors[name] = Tensor(dtype, tuple(array.shape), begin, end)
        begin = end
    return tensors


def _bytes_of(array: np.ndarray) -> Any:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8).data


def render(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the length and the header of a file, as safetensors writes them.

    Parameters
    ----------
    description : mapping
        Values that JSON can hold.
    tensors : mapping of str to Tensor
        In the order of the file.

    Returns
    -------
    header : bytes
    """
    header: dict[str, Any] = {"__metadata__": {_KEY: _dumps(description)}}
    for name, (dtype, shape, begin, end) in tensors.items():
        places = [begin, end]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": places}
    text = _dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError(f"nests more than {_MAX_DEPTH} levels") from None


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a header that does not hold one yet."""
    header = render({**description, "digest": _NO_DIGEST}, tensors)
    return hashlib.sha256(header).hexdigest()


# -- reading ---------------------------------------------------------------------------


def read_header(path: PathLike, file: BinaryIO) -> Container:
    """Read the bytes before the tensors, and check them.

    Parameters
    ----------
    path : path-like
        Named in the messages.
    file : binary file
        The file; no more is read than it has.

    Returns
    -------
    container : Container

    Raises
    ------
    FormatError
        If there is no header, or its digest does not match.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    n_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= n_bytes <= min(_MAX_HEADER, size - 8):
        raise FormatError(f"{path} is damaged: it ends within its header")
    text = file.read(n_bytes)
    if len(text) < n_bytes:
        raise FormatError(f"{path} is damaged: it ends within its header")
    try:
        description, tensors = _parse(text)
        if render(description, tensors)[8:] != text:
            raise ValueError("is not as skvq would write it")
        digest = description.pop("digest", None)
        if _digest({"digest": digest, **description}, tensors) != digest:
            raise ValueError("has a checksum that does not match")
    except ValueError as error:
        raise FormatError(
            f"{path} is damaged, or not a skvq codec file: its header {error}"
        ) from error
    expected = 8 + n_bytes + max((tensor.end for tensor in tensors.values()), default=0)
    check_size(path, file, expected)
    data_digest = description.pop("data", None)
    return Container(description, tensors, digest, data_digest, 8 + n_bytes)


def _parse(text: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and tensors of a header; a ValueError if it is not valid."""
    header = load_json(text)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.keys() != {_KEY}:
        raise ValueError(f"has no description of its own, under {_KEY!r}")
    if not isinstance(metadata[_KEY], str):
        raise ValueError("has a description that is not a text")
    description = load_json(metadata[_KEY].encode(errors="surrogatepass"))
    if not isinstance(description, dict):
        raise ValueError("has a description that is not an object")
    return description, _checked_tensors(header)


def load_json(text: bytes) -> Any:
    """Return the value of a JSON text; a ValueError if it is not, or nests too deep."""
    try:
        found = json.loads(text.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nests more than {_MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if _depth(found) > _MAX_DEPTH:
        raise ValueError(f"nests more than {_MAX_DEPTH} levels")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _depth(value: Any) -> int:
    """Return how deep lists and objects are nested."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _checked_tensors(header: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a header; raise unless they follow without a gap."""
    tensors: dict[str, Tensor] = {}
    place = 0
    for name, entry in header.items():
        tensor = _checked_tensor(name, entry)
        n_bytes = math.prod(tensor.shape) * np.dtype(_DTYPES[tensor.dtype]).itemsize
        if tensor.begin != place or tensor.end != place + n_bytes:
            raise ValueError(f"has tensors with gaps, or of other sizes, at {name!r}")
        tensors[name], place = tensor, tensor.end
    return tensors


def _checked_tensor(name: str, entry: Any) -> Tensor:
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or entry.keys() != keys:
        raise ValueError(f"has an entry {name!r} that is not a tensor")
    dtype, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = isinstance(shape, list) and isinstance(places, list) and len(places) == 2
    if not numbers or not all(_is_length(number) for number in [*shape, *places]):
        raise ValueError(f"has a tensor {name!r} without a shape or a place")
    if not isinstance(dtype, str) or dtype not in _DTYPES or len(shape) > 32:
        raise ValueError(f"has a tensor {name!r} of a kind that is not known")
    if not _TENSOR_NAME.fullmatch(name):
        raise ValueError("has a tensor of a name that is not valid")
    return Tensor(dtype, tuple(shape), *places)


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value <= sys.maxsize


def read_arrays(
    path: PathLike, file: BufferedReader, container: Container, verify: bool
) -> dict[str, np.ndarray]:
    """Read the tensors into memory.

    Parameters
    ----------
    path : path-like
        Named in the messages.
    file : binary file
        The file from which the header was read.
    container : Container
        The header.
    verify : bool
        Whether their digest is checked.

    Returns
    -------
    arrays : dict of str to ndarray
        By name.

    Raises
    ------
    FormatError
        If the digest does not match, or the file ends too early.
    """
    file.seek(container.begin)
    found, digest = {}, hashlib.sha256()
    for name, tensor in container.tensors.items():
        array = np.empty(tensor.shape, dtype=_DTYPES[tensor.dtype])
        view = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(view), _CHUNK_BYTES):
            part = view[start : start + _CHUNK_BYTES]
            if file.readinto(part) != len(part):
                raise FormatError(f"{path} is damaged: it ends too early")
            if verify:
                digest.update(part)
        found[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    if verify:
        _check_data(path, container, digest.hexdigest())
    return found


def map_arrays(
    path: PathLike, file: BinaryIO, container: Container, verify: bool
) -> dict[str, np.ndarray]:
    """Map the tensors into memory, read-only.

    Parameters
    ----------
    path : path-like
        Named in the messages.
    file : binary file
        The file from which the header was read.
    container : Container
        The header.
    verify : bool
        Whether their digest is checked, which reads all of them.

    Returns
    -------
    arrays : dict of str to ndarray
        By name; views of one map.

    Raises
    ------
    FormatError
        If the digest does not match, or the file ends too early.
    """
    n_bytes = max((tensor.end for tensor in container.tensors.values()), default=0)
    mapped: Any = np.empty(0, dtype=np.uint8)
    if n_bytes:  # an empty range cannot be mapped
        try:
            mapped = np.memmap(file, np.uint8, "r", container.begin, (n_bytes,))
        except ValueError as error:
            raise FormatError(f"{path} is damaged: it ends too early") from error
    mapped = np.asarray(mapped)
    if verify:
        digest = hashlib.sha256()
        for start in range(0, n_bytes, _CHUNK_BYTES):
            digest.update(mapped[start : start + _CHUNK_BYTES].data)
        _check_data(path, container, digest.hexdigest())
    found = {}
    for name, tensor in container.tensors.items():
        array = mapped[tensor.begin : tensor.end].view(_DTYPES[tensor.dtype])
        found[name] = array.reshape(tensor.shape)
    return found


def _check_data(path: PathLike, container: Container, digest: str) -> None:
    if digest != container.data_digest:
        raise FormatError(
            f"{path} is damaged: the checksum of its tensors does not match"
        )
