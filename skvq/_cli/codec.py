"""``fit``, ``encode`` and ``decode``: a codec, codes, and samples in files."""

import argparse
import csv
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from sklearn.pipeline import Pipeline

from skvq._cli import schemes, sources
from skvq._cli.console import (
    CommandError,
    Progress,
    bytes_of,
    describe_sizes,
    first_line,
    listing,
    say,
    say_json,
    user_errors,
)
from skvq._pipelines import find_codec
from skvq.codes import EntropyCoder, packed_bits
from skvq.io import (
    CodeReader,
    CodeWriter,
    FormatError,
    atomic_write,
    codec_info,
    decode,
    load,
    save,
)
from skvq.model_selection import ReconstructionErrorScorer

# Endings that mean other formats than packed codes, and would mislead.
_NOT_CODES = (".npz", ".csv", ".tsv", ".parquet")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Rows of a table that are strings at a time.
_CSV_ROWS = 256
# Of fits, wherever the codes lead back to.
_ERROR = ReconstructionErrorScorer(behind=True)


# -- options -----------------------------------------------------------------------


def positive(text: str) -> int:
    """Read a number of 1 or more.

    Parameters
    ----------
    text : str
        An argument.

    Returns
    -------
    number : int
        The number.
    """
    # The digits of other scripts, signs and underscores are not meant.
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        hint = "; numbers are given one by one, with spaces between" * ("," in text)
        raise argparse.ArgumentTypeError(
            f"expected a whole number above 0, got '{text}'{hint}"
        )
    return int(text)


def seed(text: str) -> int:
    """Read a seed.

    Parameters
    ----------
    text : str
        An argument.

    Returns
    -------
    seed : int
        0 to 2**32 - 1.
    """
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to {2**32 - 1}, got '{text}'"
        )
    return int(text)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the three commands.

    Parameters
    ----------
    commands : object
        What `add_subparsers` has returned.
    common : ArgumentParser
        Parent with the options of every command.
    """
    _add_fit(commands, common)
    _add_encode(commands, common)
    _add_decode(commands, common)


def _add_fit(commands: Any, common: argparse.ArgumentParser) -> None:
    fit = commands.add_parser(
        "fit",
        parents=[common],
        help="learn a codec from data",
        description="Learn a codec from the rows of a file.",
        epilog=schemes.usage(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("data", type=Path, metavar="DATA", help="matrix, samples in rows")
    fit.add_argument("scheme", metavar="SCHEME", help="such as pq:8x256; see below")
    _add_output(fit, "CODEC", "file to write the codec to")
    fit.add_argument(
        "--rows",
        type=positive,
        metavar="N",
        help="fit on a random sample of N rows; default: on all",
    )
    fit.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="S",
        help="seed of the sample and of the scheme; default: %(default)s",
    )
    sources.add_options(fit)
    fit.set_defaults(run=_fit)


def _add_encode(commands: Any, common: argparse.ArgumentParser) -> None:
    encode = commands.add_parser(
        "encode",
        parents=[common],
        help="turn data into codes",
        description="Turn the rows of a file into codes, in bounded memory.",
    )
    encode.add_argument("data", type=Path, metavar="DATA", help="the samples")
    encode.add_argument(
        "codec", type=Path, metavar="CODEC", help="what fit has written"
    )
    _add_output(
        encode, "CODES", "file to write packed codes to; as .npy: an array of codes"
    )
    how = encode.add_mutually_exclusive_group()
    how.add_argument(
        "--entropy",
        action="store_true",
        help="write frequent codes in fewer bits than rare ones, as frequent as they "
        "were when the codec was fitted; needs skvq[entropy]",
    )
    how.add_argument(
        "--entropy-fit",
        action="store_true",
        help="the same, as frequent as they are in DATA, which is read twice",
    )
    how.add_argument(
        "--packing",
        choices=["columns", "radix"],
        default="columns",
        help="columns: whole bits for each code; radix: for each row, which takes less "
        "where numbers of codewords are no powers of two; default: %(default)s",
    )
    sources.add_options(encode)
    _add_allow_pickle(encode)
    encode.set_defaults(run=_encode)


def _add_decode(commands: Any, common: argparse.ArgumentParser) -> None:
    decode = commands.add_parser(
        "decode",
        parents=[common],
        help="turn codes back into data",
        description="Turn codes back into samples, in bounded memory.",
    )
    decode.add_argument(
        "codes", type=Path, metavar="CODES", help="what encode has written"
    )
    decode.add_argument(
        "codec", type=Path, metavar="CODEC", help="what fit has written"
    )
    _add_output(decode, "DATA", "file to write the samples to, .npy, .csv or .tsv")
    decode.add_argument(
        "--force",
        action="store_true",
        help="decode although the codes were made by another codec",
    )
    _add_allow_pickle(decode)
    decode.set_defaults(run=_decode)


def _add_allow_pickle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read CODEC also if an earlier skvq wrote it: it holds a pickle then, "
        "which can run any code",
    )


def _add_output(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, metavar=name, required=True, help=text
    )


def check_output(output: Path, *inputs: Path) -> None:
    """Fail now, not after the work, if a file cannot be written.

    Parameters
    ----------
    output : Path
        The file.
    *inputs : Path
        Files that it must not replace.
    """
    if str(output) == "-":
        raise CommandError("cannot write to '-': only files are written")
    try:
        mode = output.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:  # a loop of links, a name that is too long
        raise CommandError(f"cannot write {output}: {error.strerror}") from error
    folder = os.path.dirname(os.path.realpath(output))
    if not os.path.isdir(folder):
        raise CommandError(f"cannot write {output}: there is no directory {folder}")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"cannot write {output}: {folder} is read-only")
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise CommandError(f"cannot write {output}: it is a directory")
    if not stat.S_ISREG(mode):
        raise CommandError(f"cannot write {output}: it is not a regular file")
    for path in inputs:
        if os.path.exists(path) and output.samefile(path):
            raise CommandError(f"{output} is to be read; write to another file")


# -- fit ---------------------------------------------------------------------------


def _fit(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, arguments.data)
    estimator = schemes.build(arguments.scheme, arguments.seed)
    progress = Progress(arguments.progress)
    source = open_data(arguments)
    X, rows = sample(source, arguments.rows, arguments.seed, progress)
    began = time.perf_counter()
    with progress.step(f"fitting {arguments.scheme} on {len(X):,} rows"):
        with data_errors(source.path, X, rows, arguments.scheme):
            estimator.fit(X)
    seconds = time.perf_counter() - began
    details = {
        "scheme": arguments.scheme,
        "fitted_rows": len(X),
        "rows": source.n_rows,
        "seed": arguments.seed,
        "distortion": _distortion(estimator, X, progress),
        "columns": source.columns,
    }
    with user_errors(arguments.scheme):
        save(estimator, arguments.output, details=details)
    _report_fit(arguments, seconds)


def open_data(arguments: argparse.Namespace) -> sources.Source:
    """Open the file DATA.

    Parameters
    ----------
    arguments : Namespace
        Those of a command with the options of `sources.add_options`.

    Returns
    -------
    source : Source
        With at least one row.
    """
    source = sources.open_source(
        arguments.data,
        key=arguments.key,
        columns=arguments.columns,
        header=arguments.header,
    )
    if not source.n_rows:
        raise CommandError(f"{source.path} has no rows")
    return source


def sample(
    source: sources.Source, n_rows: int | None, seed: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read all rows, or a random sample of them.

    Parameters
    ----------
    source : Source
        The file.
    n_rows : int or None
        Number of rows; None, or more than there are: all.
    seed : int
        Seed of the sample.
    progress : Progress
        Where to tell of it.

    Returns
    -------
    X : ndarray
        The rows, in the order of the file.
    rows : ndarray or None
        Their numbers; None if all.
    """
    if n_rows is None or n_rows >= source.n_rows:
        with progress.step(f"reading {source.n_rows:,} rows"):
            return source.load(), None
    with progress.step(f"reading {n_rows:,} of {source.n_rows:,} rows"):
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(source.n_rows, n_rows, replace=False, shuffle=False))
        return source.take(rows), rows


@contextmanager
def data_errors(
    path: Path, X: np.ndarray, rows: np.ndarray | None, context: str, start: int = 0
) -> Iterator[None]:
    """Say where the data are wrong, if they are what the library refuses.

    Parameters
    ----------
    path : Path
        The file.
    X : ndarray
        Its rows.
    rows : ndarray or None
        Their numbers; None: from `start` on.
    context : str
        What other errors are about.
    start : int, default=0
        Number of the first row.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        check_finite(path, X, rows, start)
        raise CommandError(f"{context}: {first_line(error)}") from error


def check_finite(
    path: Path, X: np.ndarray, rows: np.ndarray | None, start: int = 0
) -> None:
    """Name the first number that is not finite.

    Parameters
    ----------
    path : Path
        The file.
    X : ndarray
        Its rows.
    rows : ndarray or None
        Their numbers; None: from `start` on.
    start : int, default=0
        Number of the first row.
    """
    found = sources.first_not_finite(X)
    if found is not None:
        row, column, value = found
        row = start + row if rows is None else int(rows[row])
        raise CommandError(
            f"{path}: row {row}, column {column} (counted from 0) is {value}"
        )


def _distortion(estimator: Any, X: np.ndarray, progress: Progress) -> float:
    """Return the mean squared error on the rows of the fit, where codes lead back."""
    metric = getattr(estimator, "metric", "sqeuclidean")
    if not isinstance(estimator, Pipeline) and metric == "sqeuclidean":
        return float(estimator.distortion_)
    with progress.step("measuring the distortion"):
        return -_ERROR(estimator, X)


def _report_fit(arguments: argparse.Namespace, seconds: float) -> None:
    info = codec_info(arguments.output)
    if arguments.json:
        say_json({"output": str(arguments.output), "fit_seconds": seconds, **info})
        return
    lines = {"codec": bytes_of(arguments.output), **describe_codec(info)}
    lines["time"] = f"{seconds:.2f} s"
    say("\n".join(listing(lines)))


def describe_codec(info: dict[str, Any]) -> dict[str, str]:
    """Return names and values of what a codec is, for the eye.

    Parameters
    ----------
    info : dict
        What `codec_info` tells.

    Returns
    -------
    lines : dict of str to str
        Values by name.
    """
    sizes = info["codebook_sizes"]
    # Those of `fit`; whoever else writes codecs may call other things by these names.
    scheme, fitted_rows, rows, error = map(
        info["details"].get, ("scheme", "fitted_rows", "rows", "distortion")
    )
    lines = {}
    if isinstance(scheme, str):
        lines["scheme"] = scheme
    lines["steps"] = ", ".join(info["steps"])
    lines["features"] = str(info["n_features"])
    lines["codewords"] = describe_sizes(sizes)
    bits, packed = info["bits_per_sample"], packed_bits(sizes)
    lines["bits per row"] = f"{bits:.6g}" + (f", packed {packed}" * (packed != bits))
    if isinstance(fitted_rows, int) and isinstance(rows, int):
        lines["fitted on"] = f"{fitted_rows:,} of {rows:,} rows"
    if isinstance(error, float):
        lines["distortion"] = f"{error:.6g} per row of the fit"
    return lines


# -- encode ------------------------------------------------------------------------


def _encode(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, arguments.data, arguments.codec)
    suffix = arguments.output.suffix.lower()
    if suffix in _NOT_CODES:
        raise CommandError(
            f"codes are not written as {suffix}: give an .npy file, or any other "
            "ending, such as .codes, for packed codes"
        )
    estimator, info = open_codec(arguments.codec, arguments.allow_pickle)
    source = open_data(arguments)
    check_same_data(source, info, arguments.codec)
    progress = Progress(arguments.progress)
    sizes = info["codebook_sizes"]
    began = time.perf_counter()
    coder = None
    if arguments.entropy or arguments.entropy_fit:
        if suffix == ".npy":
            raise CommandError("an .npy file holds plain codes: give another ending")
        coder = _coder(arguments, estimator, source, progress)
    chunks = _codes_of(estimator, source, progress)
    if suffix == ".npy":
        _write_npy(arguments.output, chunks, source.n_rows)
    else:
        with CodeWriter(
            arguments.output,
            sizes,
            method=arguments.packing,
            codec_id=info["id"],
            coder=coder,
        ) as writer:
            for codes in chunks:
                writer.write(codes)
    seconds = time.perf_counter() - began
    _report_encode(arguments, source, sizes, seconds)


def _coder(
    arguments: argparse.Namespace,
    estimator: Any,
    source: sources.Source,
    progress: Progress,
) -> EntropyCoder:
    """Return the coder for what the codec has counted, or what the data hold."""
    quantizer = find_codec(estimator).quantizer
    counts = getattr(quantizer, "code_counts_", None)
    if arguments.entropy_fit:
        counts = [0] * len(quantizer.codebook_sizes_)
        for codes in _codes_of(estimator, source, progress, "counting"):
            for j, size in enumerate(quantizer.codebook_sizes_):
                counts[j] = counts[j] + np.bincount(codes[:, j], minlength=size)
    elif counts is None:
        raise CommandError(
            f"{arguments.codec} does not tell how frequent its codes are: it was "
            "fitted by an earlier skvq; --entropy-fit counts them in the data"
        )
    try:
        coder = EntropyCoder.from_counts(counts)
        coder.encode(np.empty((0, len(coder.sizes)), dtype=np.uint8))
    except ImportError as error:
        raise CommandError(f"--entropy: {first_line(error)}") from error
    except ValueError as error:
        hint = "" if arguments.entropy_fit else "; --entropy-fit counts in the data"
        raise CommandError(f"--entropy: {first_line(error)}{hint}") from error
    return coder


def open_codec(path: Path, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """Read a codec that gives codes, and what it says of itself; as `read_codec`."""
    estimator, info = read_codec(path, allow_pickle)
    if info["steps"][-1] == "QuantizedFeatures":
        raise CommandError(f"{path} ends in QuantizedFeatures, which gives no codes")
    return estimator, info


def read_codec(path: Path, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """Read a codec and what it says of itself.

    Parameters
    ----------
    path : Path
        The file.
    allow_pickle : bool
        Whether it may hold a pickle.

    Returns
    -------
    estimator : quantizer or Pipeline
        The codec.
    info : dict
        What `codec_info` tells.
    """
    try:
        info = codec_info(path)
        estimator = load(path, allow_pickle=allow_pickle)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except FormatError as error:
        message = first_line(error).replace("allow_pickle=True", "--allow-pickle")
        raise CommandError(message) from error
    return estimator, info


def check_same_data(source: sources.Source, info: dict[str, Any], codec: Path) -> None:
    """Raise unless data have the columns that a codec was fitted on.

    Parameters
    ----------
    source : Source
        The data.
    info : dict
        What `codec_info` tells.
    codec : Path
        The file of the codec.
    """
    if info["n_features"] not in (None, source.n_features):
        raise CommandError(
            f"{source.path} has {source.n_features} columns, {codec} was fitted on "
            f"{info['n_features']}"
        )
    pairs = zip(column_names(info) or [], source.columns or [], strict=False)
    for i, (name, found) in enumerate(pairs):
        if name != found:
            raise CommandError(
                f"column {i} of {source.path} is '{found}', {codec} was fitted on "
                f"'{name}'"
            )


def column_names(info: dict[str, Any]) -> list[str] | None:
    """Return the names of the columns that a codec was fitted on, if it tells any.

    Parameters
    ----------
    info : dict
        What `codec_info` tells; its details may be anybody's.

    Returns
    -------
    names : list of str or None
        One for each feature.
    """
    names = info["details"].get("columns")
    if not isinstance(names, list) or info["n_features"] not in (None, len(names)):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def _codes_of(
    estimator: Any,
    source: sources.Source,
    progress: Progress,
    doing: str = "encoding",
) -> Iterator[np.ndarray]:
    for start, X in progress.rows(doing, source.chunks(), source.n_rows):
        with data_errors(source.path, X, None, str(source.path), start):
            yield estimator.transform(X)


def _write_npy(path: Path, chunks: Iterator[np.ndarray], n_rows: int) -> None:
    with atomic_write(path) as file:
        for i, chunk in enumerate(chunks):
            if i == 0:
                _write_npy_header(file, chunk, n_rows)
            file.write(np.ascontiguousarray(chunk).data)


def _write_npy_header(file: BinaryIO, chunk: np.ndarray, n_rows: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(chunk.dtype),
        "fortran_order": False,
        "shape": (n_rows, chunk.shape[1]),
    }
    np.lib.format.write_array_header_1_0(file, header)


def _report_encode(
    arguments: argparse.Namespace,
    source: sources.Source,
    sizes: list[int],
    seconds: float,
) -> None:
    n_bytes = arguments.output.stat().st_size
    coded = arguments.entropy or arguments.entropy_fit
    bits: float = packed_bits(sizes, method=arguments.packing)
    if coded:
        with CodeReader(arguments.output) as reader:
            bits = reader.bits_per_row
    if arguments.json:
        say_json(
            {
                "output": str(arguments.output),
                "bytes": n_bytes,
                "rows": source.n_rows,
                "packed_bits": None if coded else bits,
                "bits_per_row": bits,
                "encode_seconds": seconds,
            }
        )
        return
    raw = source.n_rows * source.n_features * source.dtype.itemsize
    lines = {
        "codes": bytes_of(arguments.output),
        "rows": f"{source.n_rows:,} of {source.n_features} numbers ({source.dtype})",
        **({"bits per row": f"{bits:.6g}"} if coded else {}),
        "size": f"1 / {raw / n_bytes:.4g} of the data",
        "time": f"{seconds:.2f} s",
    }
    say("\n".join(listing(lines)))


# -- decode ------------------------------------------------------------------------


def _decode(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, arguments.codes, arguments.codec)
    suffix = arguments.output.suffix.lower()
    if suffix != ".npy" and suffix not in _SEPARATORS:
        raise CommandError(
            f"cannot write {arguments.output}: samples are written as "
            f"{', '.join(['.npy', *_SEPARATORS])}"
        )
    estimator, info = open_codec(arguments.codec, arguments.allow_pickle)
    progress = Progress(arguments.progress)
    began = time.perf_counter()
    with _open_codes(arguments, info) as (codes, n_rows):
        numbered = progress.rows("decoding", codes, n_rows)
        samples = _samples_of(estimator, numbered, arguments.codes)
        if suffix == ".npy":
            _write_npy(arguments.output, samples, n_rows)
        else:
            names = column_names(info)
            _write_csv(arguments.output, samples, _SEPARATORS[suffix], names)
    seconds = time.perf_counter() - began
    _report_decode(arguments, n_rows, seconds)


@contextmanager
def _open_codes(
    arguments: argparse.Namespace, info: dict[str, Any]
) -> Iterator[tuple[Iterator[np.ndarray], int]]:
    """Open the file CODES; yield its pieces, and its number of rows."""
    path, sizes = arguments.codes, info["codebook_sizes"]
    # As many rows as their samples may take.
    step = sources.rows_of_chunk(max(info["n_features"] or 0, len(sizes)), 4)
    if path.suffix.lower() == ".npy":
        source = sources.open_source(path)
        if source.dtype.kind not in "iu":
            raise CommandError(f"{path} holds {source.dtype}, codes are integers")
        if source.n_features != len(sizes):
            raise CommandError(
                f"{path} has {source.n_features} columns, {arguments.codec} has "
                f"{len(sizes)} codes"
            )
        n_rows = source.n_rows
        chunks = (
            chunk[i : i + step]
            for chunk in source.chunks()
            for i in range(0, len(chunk), step)
        )
        _check_any(path, n_rows)
        yield chunks, n_rows
        return
    try:
        reader = CodeReader(path)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except FormatError as error:
        raise CommandError(first_line(error)) from error
    with reader:
        _check_same_codec(reader, info, arguments)
        _check_any(path, reader.n_samples)
        yield reader.chunks(step), reader.n_samples


def _check_any(path: Path, n_rows: int) -> None:
    if not n_rows:
        raise CommandError(f"{path} has no rows")


def _check_same_codec(
    reader: CodeReader, info: dict[str, Any], arguments: argparse.Namespace
) -> None:
    codes, codec = arguments.codes, arguments.codec
    if list(reader.sizes) != info["codebook_sizes"]:
        raise CommandError(
            f"{codes} was made with codebooks of {describe_sizes(reader.sizes)} "
            f"codewords, {codec} has {describe_sizes(info['codebook_sizes'])}"
        )
    if reader.codec_id not in (None, info["id"]) and not arguments.force:
        raise CommandError(
            f"{codes} was made by another codec than {codec}; --force decodes it "
            "nevertheless"
        )


def _samples_of(
    estimator: Any, numbered: Iterator[tuple[int, np.ndarray]], path: Path
) -> Iterator[np.ndarray]:
    try:
        for start, codes in numbered:
            context = f"{path}, rows from {start}" if start else f"{path}"
            with user_errors(context):
                samples = decode(estimator, codes)
            yield samples
    except (FormatError, ImportError) as error:
        raise CommandError(first_line(error)) from error


def _write_csv(
    path: Path,
    chunks: Iterator[np.ndarray],
    separator: str,
    names: list[str] | None,
) -> None:
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, delimiter=separator, lineterminator="\n")
        if names:
            writer.writerow(names)
        for chunk in chunks:
            for start in range(0, len(chunk), _CSV_ROWS):
                # As strings, float32 have no more digits than they need.
                writer.writerows(chunk[start : start + _CSV_ROWS].astype(str))
        text.flush()
        text.detach()  # the file is another's to close


def _report_decode(arguments: argparse.Namespace, n_rows: int, seconds: float) -> None:
    if arguments.json:
        say_json(
            {
                "output": str(arguments.output),
                "bytes": arguments.output.stat().st_size,
                "rows": n_rows,
                "decode_seconds": seconds,
            }
        )
        return
    lines = {
        "data": bytes_of(arguments.output),
        "rows": f"{n_rows:,}",
        "time": f"{seconds:.2f} s",
    }
    say("\n".join(listing(lines)))
