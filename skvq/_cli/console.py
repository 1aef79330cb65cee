"""What the commands say: errors in one line, progress, tables, JSON."""

import argparse
import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from skvq._deprecation import declare, message_of_old

logger = logging.getLogger("skvq.cli")

# Seconds between two changes of a progress bar, and its cells.
_REFRESH = 0.1
_BAR = 24


def program() -> str:
    """Return the name that the user has called."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return "skvq" if name in {"skvq", "skvq.exe"} else "python -m skvq"


class CommandError(Exception):
    """What the user is told in one line, with the exit status.

    Parameters
    ----------
    message : str
        The line.
    status : int, default=2
        The exit status: 2 for what the user asked, 1 for what went wrong since.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


class Terminated(BaseException):
    """The process has been asked to end."""


class Parser(argparse.ArgumentParser):
    """An argument parser that says in one line what is wrong."""

    def __init__(self, **settings: Any) -> None:
        # An abbreviation that works today is ambiguous with the options of tomorrow.
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """End the process.

        Parameters
        ----------
        message : str
            What is wrong.
        """
        self.exit(2, f"{self.prog}: error: {first_line(message)}\n")


class _OldOption(argparse.Action):
    """An option under its old name."""

    def __init__(
        self,
        option_strings: list[str],
        new: argparse.Action,
        since: str,
        **settings: Any,
    ) -> None:
        super().__init__(option_strings, **settings)
        self._new, self._since = new, since

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        what, new = f"{parser.prog} {option_string}", self._new
        told = message_of_old(what, new.option_strings[0], self._since)
        sys.stderr.write(f"{parser.prog}: warning: {told}\n")
        new(parser, namespace, values, new.option_strings[0])
        new.required = False  # it has been given


def add_old_option(
    parser: argparse._ActionsContainer, old: str, new: argparse.Action, since: str
) -> None:
    """Let an option work under an old name for two minor versions.

    Parameters
    ----------
    parser : ArgumentParser or group of it
        Where the option is.
    old : str
        The old name, such as "--state".
    new : Action
        What `add_argument` has returned for the new one.
    since : str
        The first version that has the new name.
    """
    declare(old, since)
    parser.add_argument(
        old,
        action=_OldOption,
        new=new,
        since=since,
        dest=new.dest,
        nargs=new.nargs,
        type=new.type or str,
        choices=new.choices,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def first_line(message: object) -> str:
    """Return the first line that says something."""
    lines = [line.strip() for line in str(message).splitlines()]
    return next((line for line in lines if line), "")


@contextmanager
def user_errors(context: str) -> Iterator[None]:
    """Turn what the library says of its input into an error of the user.

    Parameters
    ----------
    context : str
        What the message is about: a file, a scheme.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise CommandError(f"{context}: {first_line(error)}") from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals that ask to end, where one has done so and is being answered.

    Launchers pass on what the terminal has sent already, so that it comes twice.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# -- progress ----------------------------------------------------------------------


class Progress:
    """Tells on stderr what is being done, where somebody may be looking.

    Parameters
    ----------
    shown : bool, optional
        Whether to tell; None: if stderr is a terminal.
    """

    def __init__(self, shown: bool | None) -> None:
        # What is no terminal keeps every line: there, a few will do.
        self._terminal = sys.stderr.isatty()
        self.shown = self._terminal if shown is None else shown
        self._on_line = 0

    @contextmanager
    def step(self, label: str) -> Iterator[list[str]]:
        """Show a step of unknown length, and then what came out and what it took.

        Parameters
        ----------
        label : str
            What is being done.

        Yields
        ------
        results : list of str
            Empty; what is appended is shown when the step is done.
        """
        logger.info("%s", label)
        began = time.perf_counter()
        self._write(f"{label} ...")
        results: list[str] = []
        try:
            yield results
        except BaseException:
            self._end_line()
            raise
        seconds = time.perf_counter() - began
        logger.info("%s: done in %.2f s", label, seconds)
        self._write(f" {', '.join([*results, f'{seconds:.1f} s'])}")
        self._end_line()

    def line(self, text: str) -> None:
        """Show a line.

        Parameters
        ----------
        text : str
            The line.
        """
        logger.info("%s", text)
        self._write(f"{text}\n")

    def rows(
        self, label: str, chunks: Iterator[Any], n_rows: int
    ) -> Iterator[tuple[int, Any]]:
        """Yield pieces of rows, each with its first row, and show how far they are.

        Parameters
        ----------
        label : str
            What is being done.
        chunks : iterator of arrays
            Pieces of rows.
        n_rows : int
            Rows of all pieces.
        """
        logger.info("%s: %d rows", label, n_rows)
        began = shown_at = time.perf_counter()
        done = tenths = 0
        try:
            for chunk in chunks:
                yield done, chunk
                done += len(chunk)
                now = time.perf_counter()
                if self._terminal and now - shown_at >= _REFRESH:
                    shown_at = now
                    self._rewrite(_bar(label, done, n_rows, now - began))
                elif not self._terminal and done < n_rows:
                    if 10 * done // n_rows > tenths:
                        tenths = 10 * done // n_rows
                        self._write(_bar(label, done, n_rows, now - began) + "\n")
        except BaseException:
            self._end_line()
            raise
        seconds = time.perf_counter() - began
        logger.info("%s: %d rows in %.2f s", label, done, seconds)
        self._rewrite(f"{label}: {done:,} rows in {seconds:.1f} s")
        self._end_line()

    def _write(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(text)
            sys.stderr.flush()
            self._on_line = 0 if text.endswith("\n") else self._on_line + len(text)

    def _rewrite(self, line: str) -> None:
        if not self._terminal:
            self._write(line)
            return
        padded = line.ljust(self._on_line)
        self._on_line = 0
        self._write("\r" + padded)
        self._on_line = len(padded)

    def _end_line(self) -> None:
        if self._on_line:
            self._write("\n")


def _bar(label: str, done: int, total: int, seconds: float) -> str:
    share = done / total
    cells = "#" * int(_BAR * share)
    left = seconds * (1 - share) / share
    return (
        f"{label} [{cells:{_BAR}}] {share:4.0%} of {total:,} rows, {_clock(left)} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# -- results -----------------------------------------------------------------------


def say(text: str) -> None:
    """Write a line to stdout.

    Parameters
    ----------
    text : str
        The line, or several.
    """
    sys.stdout.write(text + "\n")
    # Now: a second signal may end the process before it does so itself.
    sys.stdout.flush()


def say_json(value: Any) -> None:
    """Write a value to stdout as JSON.

    Parameters
    ----------
    value : object
        Numbers that are not finite become null, since JSON has none.
    """
    say(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def markdown_table(rows: Sequence[Sequence[str]], *, n_text: int = 1) -> list[str]:
    """Return the lines of a markdown table.

    Parameters
    ----------
    rows : sequence of sequence of str
        The cells; the first row is the header.
    n_text : int, default=1
        Columns of text, which come first; the others are numbers.

    Returns
    -------
    lines : list of str
        All of one length.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < n_text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = ["-" * width for width in widths[:n_text]]
    rule += ["-" * (width - 1) + ":" for width in widths[n_text:]]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def listing(items: Mapping[str, str]) -> list[str]:
    """Return the lines of a list of names and values.

    Parameters
    ----------
    items : mapping of str to str
        Values by name.

    Returns
    -------
    lines : list of str
        One for each, the values below each other.
    """
    width = max(map(len, items))
    return [f"{name:{width}}  {_printable(value)}" for name, value in items.items()]


def _printable(text: str) -> str:
    # What a file says of itself must neither break a line nor command a terminal.
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def describe_sizes(sizes: Sequence[int]) -> str:
    """Return codebook sizes in few words: ``8 x 256``.

    Parameters
    ----------
    sizes : sequence of int
        V_1..V_m.

    Returns
    -------
    text : str
        Runs of one size are put together.
    """
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    if len(runs) > 8:
        return f"{len(sizes)} of {min(sizes)} to {max(sizes)}"
    return ", ".join(f"{n} x {size}" if n > 1 else str(size) for n, size in runs)


def bytes_of(path: Path) -> str:
    """Return the name of a file and its size.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    text : str
        Name and size.
    """
    return f"{path}, {path.stat().st_size:,} bytes"
