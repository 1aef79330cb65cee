"""Codec files of versions before 4; no other module unpickles."""

import hashlib
import struct
from typing import Any, BinaryIO, NamedTuple

from skvq import _layouts
from skvq._codec.container import load_json
from skvq._codec.description import Description, check_description
from skvq._files import (
    PICKLE_MAGIC,
    FormatError,
    PathLike,
    check_magic,
    check_size,
    check_version,
)

_NEWEST = 3
_HEADER = struct.Struct("<8sHHIQ32s")
_DIGEST_OFFSET = 24


class Pickled(NamedTuple):
    """The content of such a file."""

    description: Description
    digest: str
    content: bytes
    version: int


def read_pickled(path: PathLike, file: BinaryIO) -> Pickled:
    """Read a file without unpickling it.

    Parameters
    ----------
    path : path-like
        Named in the messages.
    file : binary file
        The file.

    Returns
    -------
    pickled : Pickled

    Raises
    ------
    FormatError
        If it is not such a file, or is damaged.
    """
    file.seek(0)
    start = file.read(_HEADER.size)
    check_magic(path, start, PICKLE_MAGIC, "codec")
    if len(start) < _HEADER.size:
        raise FormatError(f"{path} is damaged: it ends within its header")
    _, version, zero, n_description, n_pickle, digest = _HEADER.unpack(start)
    check_version(path, version, _NEWEST)
    # Checked before a damaged length is read.
    check_size(path, file, _HEADER.size + n_description + n_pickle)
    file.seek(_HEADER.size)
    text, content = file.read(n_description), file.read(n_pickle)
    covered = start[:_DIGEST_OFFSET] if version > 1 else b""
    if zero:
        raise FormatError(f"{path} is damaged, or too new: its bytes 10 and 11 are set")
    if hashlib.sha256(covered + text + content).digest() != digest:
        raise FormatError(f"{path} is damaged: its checksum does not match")
    try:
        description = check_description(load_json(text))
    except ValueError as error:
        raise FormatError(f"{path} is damaged: its description {error}") from error
    return Pickled(description, digest.hex(), content, version)


def unpickle(pickled: Pickled) -> Any:
    """Unpickle the estimator, which runs any code that the pickle contains.

    Parameters
    ----------
    pickled : Pickled
        A file from a trusted source.

    Returns
    -------
    estimator : object
        With today's attributes.
    """
    return _layouts.loads(pickled.content)
