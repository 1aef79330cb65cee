"""The command line: ``skvq``, or ``python -m skvq``."""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from skvq import __version__
from skvq._cli import codec, compare, demo, info
from skvq._cli.console import (
    CommandError,
    Parser,
    Terminated,
    first_line,
    program,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; None: those of the process.

    Returns
    -------
    status : int
        0; 2 for what the user asked, or for no arguments at all, which shows the help;
        1 for what went wrong since; 130 if interrupted, 143 if terminated.

    Raises
    ------
    SystemExit
        If the arguments cannot be parsed (2), or for ``--help`` and ``--version`` (0).
    """
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        # To stderr, and with a status, since a script that ends up here is wrong.
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(argv)
    prefix = f"{program()} {arguments.command}"
    try:
        with _terminable(), _logging(arguments), _warnings_in_one_line(prefix):
            arguments.run(arguments)
            # Now, where a failure can still be told.
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter must not flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if getattr(arguments, "traceback", False):
            traceback.print_exc()
        status, message = _explain(error, arguments)
        sys.stderr.write(f"{prefix}: {message}\n")
        return status
    return 0


def _explain(error: BaseException, arguments: argparse.Namespace) -> tuple[int, str]:
    """Return the exit status and the line for what went wrong."""
    if isinstance(error, Terminated):
        return 128 + signal.SIGTERM, "terminated"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, CommandError):
        return error.status, f"error: {first_line(error)}"
    if isinstance(error, OSError):
        return 1, f"error: {first_line(error)}"
    if isinstance(error, MemoryError):
        return 1, "error: not enough memory; --rows takes a sample"
    how = "; --traceback shows where" if hasattr(arguments, "traceback") else ""
    return 1, f"error: {type(error).__name__}: {first_line(error)} (unexpected{how})"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program(),
        description="Vector quantization for scikit-learn.",
        epilog=f"'{program()} COMMAND --help' tells what a command takes.",
    )
    parser.add_argument("--version", action="version", version=f"skvq {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    common = _common_options()
    codec.add_commands(commands, common)
    compare.add_command(commands, common)
    info.add_command(commands, common)
    demo.add_command(commands)
    return parser


def _common_options() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    group = common.add_argument_group("what to tell")
    group.add_argument("--json", action="store_true", help="write the result as JSON")
    group.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="tell on stderr how far it is; default: if that is a terminal",
    )
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log every step on stderr; twice: every update of a codebook also",
    )
    group.add_argument(
        "--traceback", action="store_true", help="on an error, show where it was"
    )
    return common


# -- what a command runs in --------------------------------------------------------


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that half-written files are deleted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _logging(arguments: argparse.Namespace) -> Iterator[None]:
    """Log what skvq does, if asked to."""
    verbose = getattr(arguments, "verbose", 0)
    if not verbose:
        yield
        return
    logger = logging.getLogger("skvq")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _warnings_in_one_line(prefix: str) -> Iterator[None]:
    """Show warnings without the line of code that they come from."""

    def show(
        message: Any,
        category: Any,
        filename: Any,
        lineno: Any,
        file: Any = None,
        line: Any = None,
    ) -> None:
        sys.stderr.write(f"{prefix}: warning: {first_line(message)}\n")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
