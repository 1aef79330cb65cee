"""``info``: what a file holds, and how far data are from those of a fit."""

import argparse
from pathlib import Path
from typing import Any

from skvq._cli import sources
from skvq._cli.codec import (
    check_same_data,
    data_errors,
    describe_codec,
    open_data,
    read_codec,
)
from skvq._cli.console import (
    CommandError,
    bytes_of,
    describe_sizes,
    first_line,
    listing,
    say,
    say_json,
)
from skvq._files import kind_of
from skvq._reports import DriftReport
from skvq.io import CodeReader, FormatError, codec_info
from skvq.metrics import drift


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What `add_subparsers` has returned.
    common : ArgumentParser
        Parent with the options of every command.
    """
    info = commands.add_parser(
        "info",
        parents=[common],
        help="tell what a file holds",
        description="Tell what a codec, a file of codes or a data file holds. Nothing "
        "in the file is run. Of a codec and data, tell how far these are from the rows "
        "that it was fitted on.",
    )
    info.add_argument("file", type=Path, metavar="FILE", help="the file")
    info.add_argument(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="after a codec: rows to compare with those of its fit",
    )
    sources.add_options(info)
    info.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> None:
    path = arguments.file
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(9))
        if arguments.data is not None and kind != "a codec":
            raise CommandError(
                f"{path} is no codec; DATA goes with a codec alone, got "
                f"{arguments.data}"
            )
        if kind == "a codec":
            facts, lines = _codec(path)
        elif kind == "codes":
            facts, lines = _codes(path)
        else:
            facts, lines = _data(arguments)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except FormatError as error:
        raise CommandError(first_line(error)) from error
    report = None if arguments.data is None else _drift(arguments)
    if arguments.json:
        found = {} if report is None else {"drift": report.as_dict()}
        say_json({"file": str(path), "bytes": path.stat().st_size, **facts, **found})
        return
    say("\n".join(listing({"file": bytes_of(path), **lines})))
    if report is not None:
        say(f"\n{report}")


def _drift(arguments: argparse.Namespace) -> DriftReport:
    """Compare rows of a file with those that a codec was fitted on."""
    estimator, info = read_codec(arguments.file, allow_pickle=False)
    source = open_data(arguments)
    check_same_data(source, info, arguments.file)
    X = source.load()
    with data_errors(source.path, X, None, str(arguments.file)):
        return drift(estimator, X)


def _codec(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    info = codec_info(path)
    versions = info["versions"].items()
    lines = {"kind": "codec", **describe_codec(info)}
    if "seed" in info["details"]:
        lines["seed"] = str(info["details"]["seed"])
    lines["versions"] = ", ".join(f"{name} {version}" for name, version in versions)
    lines["id"] = info["id"]
    return {"kind": "codec", **info}, lines


def _codes(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with CodeReader(path) as reader:
        facts = {
            "kind": "codes",
            "rows": reader.n_samples,
            "codebook_sizes": list(reader.sizes),
            "packing": reader.method,
            "packed_bits": reader.n_bits,
            "bits_per_row": reader.bits_per_row if reader.n_samples else None,
            "row_aligned": reader.row_aligned,
            "codec_id": reader.codec_id,
        }
    bits = f"{reader.n_bits}, packed by {reader.method}"
    if reader.n_bits is None:
        bits = f"{reader.bits_per_row:.6g} in the mean, coded by their entropy"
    aligned = ", each row on bytes of its own" if facts["row_aligned"] else ""
    lines = {
        "kind": "codes",
        "rows": f"{facts['rows']:,}",
        "codewords": describe_sizes(reader.sizes),
        "bits per row": f"{bits}{aligned}",
        "codec id": reader.codec_id or "unknown",
    }
    return facts, lines


def _archive(path: Path, keys: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    arrays: dict[str, Any] = {}
    lines = {"kind": "data, of which --key chooses an array"}
    for key in keys:
        try:
            source = sources.open_source(path, key=key)
        except CommandError:
            arrays[key], lines[key] = None, "no matrix of numbers"
            continue
        shape, dtype = (source.n_rows, source.n_features), str(source.dtype)
        arrays[key] = {"rows": shape[0], "features": shape[1], "dtype": dtype}
        lines[key] = f"{shape[0]:,} x {shape[1]:,}, {dtype}"
    return {"kind": "data", "arrays": arrays}, lines


def _data(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    if arguments.file.suffix.lower() == ".npz" and arguments.key is None:
        keys = sources.npz_keys(arguments.file)
        if len(keys) > 1:
            return _archive(arguments.file, keys)
    try:
        source = sources.open_source(
            arguments.file,
            key=arguments.key,
            columns=arguments.columns,
            header=arguments.header,
        )
    except CommandError as error:
        if arguments.file.suffix.lower() in sources.SUFFIXES:
            raise
        raise CommandError(
            f"{arguments.file} is no codec, no file of codes, and does not end as a "
            f"data file, in {', '.join(sources.SUFFIXES)}"
        ) from error
    facts = {
        "kind": "data",
        "rows": source.n_rows,
        "features": source.n_features,
        "dtype": str(source.dtype),
        "columns": source.columns,
    }
    lines = {
        "kind": "data",
        "rows": f"{source.n_rows:,}",
        "features": f"{source.n_features:,}",
        "dtype": str(source.dtype),
    }
    if source.columns:
        lines["columns"] = sources.some_names(source.columns)
    return facts, lines
