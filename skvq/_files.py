"""Files that are written completely or not at all, and recognised when read."""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from skvq._version import __version__

PathLike = str | os.PathLike[str]

CODES_MAGIC = b"\x89skvqC\r\n"
# The first bytes of codec files before version 4.
PICKLE_MAGIC = b"\x89skvqM\r\n"


class FormatError(ValueError):
    """A file is not in the expected format: another kind, damaged, or too new."""


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only when it is complete.

    It is written under another name in the same directory, and renamed once the block
    has ended and all of it is on the disk.  If the block raises, it is deleted, and a
    file that existed before stays.  A process that is killed may leave it behind: files
    named ``.skvq-``, 16 hexadecimal digits, ``.tmp`` can be deleted when nobody writes.

    A file that is replaced passes on its permissions: the bits for reading, writing and
    executing, and owner and group where the process may set them.  Where it may not set
    the group, another group gets the bits of all others.  New files have the usual
    permissions.

    Parameters
    ----------
    path : path-like
        Name of the file; the name of a link means the file that it points to.

    Yields
    ------
    file : binary file
        Open for writing; it can also be read and sought.

    Raises
    ------
    OSError
        If the file cannot be written, or is not a regular file: a device, a directory
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
    # A short name, since the target may have the longest possible name.
    temporary = target.with_name(f".skvq-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = _create(temporary, path, 0o666 if before is None else 0o600)
        try:
            # Open a duplicate, so that closing the file does not close our descriptor.
            with open(os.dup(descriptor), "w+b") as file:
                yield file
            if before is not None:
                _keep_permissions(descriptor, before)
            # The content must be on the disk before the rename: otherwise a crash of
            # the machine could leave the name without the content.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
        _sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _regular_file(path: PathLike) -> os.stat_result | None:
    """Return the status of a file that may be replaced; None if it does not exist."""
    try:
        # The name is not resolved first: a resolved loop of links looks like any name.
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
    except OSError as error:  # about a name that the user has not asked for
        raise OSError(error.errno, error.strerror, str(path)) from error


def _keep_permissions(descriptor: int, before: os.stat_result) -> None:
    """Give a file the owner, where possible, and the bits of the file it replaces."""
    if sys.platform == "win32":
        return
    mode = stat.S_IMODE(before.st_mode) & 0o777
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError:
            if not _has_group(descriptor, before.st_gid):
                # Another group gets the rights of all others, no more.
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
    """Wait until the names in a directory are on the disk, where that is possible."""
    if sys.platform == "win32":  # directories cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # the directory may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def enough_memory(path: PathLike) -> Iterator[None]:
    """Raise memory errors in the block as errors about a file."""
    try:
        yield
    except MemoryError as error:
        reason = os.strerror(errno.ENOMEM)
        raise OSError(errno.ENOMEM, reason, str(path)) from error


def is_container(start: bytes) -> bool:
    """Return whether the first bytes of a file, 9 or more, are those of safetensors.

    They are the length of a header, less than 4 GiB, and a brace.
    """
    return start[4:9] == b"\0\0\0\0{"


def kind_of(start: bytes) -> str | None:
    """Return the kind of a file by its first bytes, 9 or more; None: another kind."""
    if start[:8] == CODES_MAGIC:
        return "codes"
    if start[:8] == PICKLE_MAGIC or is_container(start):
        return "a codec"
    return None


def check_magic(path: PathLike, content: bytes, expected: bytes, kind: str) -> None:
    """Raise unless the first bytes of a file are those of a kind."""
    if content[:8] == expected:
        return
    other = kind_of(content)
    found = f"it holds {other}" if other else "it does not begin as one"
    raise FormatError(f"{path} is not a skvq {kind} file: {found}")


def check_version(path: PathLike, version: int, newest: int) -> None:
    """Raise unless this version of a format can be read."""
    if not 1 <= version <= newest:
        known = "version 1" if newest == 1 else f"versions 1 to {newest}"
        raise FormatError(
            f"{path} has version {version} of its format; skvq {__version__} reads "
            f"{known}"
        )


def check_size(path: PathLike, file: BinaryIO, expected: int) -> None:
    """Raise unless a file has the expected number of bytes."""
    size = file.seek(0, os.SEEK_END)
    if size != expected:
        raise FormatError(
            f"{path} is damaged: it has {size} bytes, and should have {expected}"
        )
