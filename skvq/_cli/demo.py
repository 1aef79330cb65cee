"""``demo``: schemes at equal bits per pixel on a photograph."""

import argparse
import math
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline

from skvq import (
    ProductQuantizer,
    RotatedQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq._cli.codec import check_output
from skvq._cli.console import CommandError, markdown_table, say
from skvq.codes import EntropyCoder
from skvq.images import from_blocks, to_blocks
from skvq.io import CodeReader, atomic_write, codec_info, load, save, save_codes
from skvq.metrics import psnr

_FOLDER = "skvq-demo"
_PICTURE = "picture.png"
_CREDIT_FILE = "CREDIT.txt"
_CREDIT = (
    "Photograph: china.jpg of scikit-learn's samples, by danielbuechele,\n"
    "https://www.flickr.com/photos/danielbuechele/6061409035/, CC BY 2.0,\n"
    "https://creativecommons.org/licenses/by/2.0/, cut and quantized."
)
_CREDIT_IN_PICTURE = (
    "Photograph: china.jpg of scikit-learn, by danielbuechele (flickr.com), CC BY 2.0, "
    "cut and quantized"
)
_SEED = 0
# Of pictures in formats of others.
_REFERENCES = "JPEG", "WebP"
# A little less than one bit for each of 64 pixels, since each block of coded rows has a
# length and a checksum.
_CODED_BITS = 63.8

# The figure: pixels of the photograph that a panel shows, and where its middle is, as
# shares of height and width; then pixels of the figure.
_DETAIL = 150, 196
_DETAIL_MIDDLE = 0.28, 0.33
_COLUMNS = 4
# Dots per inch by which sizes in inches are whole numbers of pixels again.
_DPI = 128
_PANEL_WIDTH, _GAP, _TITLE, _FOOT = 392, 6, 24, 20


def add_command(commands: Any) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What `add_subparsers` has returned.
    """
    demo = commands.add_parser(
        "demo",
        help="compare schemes at equal bits per pixel on a photograph",
        description="Compare schemes at equal bits per pixel on a photograph: a table, "
        "a picture, and codecs and codes in files, all in one folder.",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path(_FOLDER),
        metavar="DIR",
        help="folder for all files; it is made if it is not there, where git will "
        "ignore it; default: %(default)s",
    )
    demo.add_argument(
        "--crop",
        type=_crop,
        default="400x640",
        metavar="ROWSxCOLUMNS",
        help="pixels in the middle of the photograph, in multiples of "
        f"{_block_multiple()}; default: %(default)s",
    )
    demo.set_defaults(run=_demo)


def _crop(text: str) -> tuple[int, int]:
    """Parse ROWSxCOLUMNS."""
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    multiple = _block_multiple()
    if any(side < multiple or side % multiple for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected ROWSxCOLUMNS, both multiples of {multiple}, got {text!r}"
        )
    return sides


# Schemes


@dataclass(frozen=True)
class Scheme:
    """A codec for blocks of pixels.

    Parameters
    ----------
    name : str
        What it is, in a few words.
    block : tuple of int
        Rows and columns of a block; a sample is its rows * columns * 3 numbers.
    codec : Pipeline
        Turns samples into codes and back; its last step is the quantizer.
    coded : bool, default=False
        Whether its codes are entropy-coded, and not packed.
    """

    name: str
    block: tuple[int, int]
    codec: Pipeline
    coded: bool = False

    @property
    def label(self) -> str:
        """Name and block."""
        return f"{self.name}, {self.block[0]}x{self.block[1]} blocks"

    @property
    def file_names(self) -> tuple[str, str]:
        """Names of the files of codec and codes."""
        words = re.findall("[a-z0-9]+", self.name.lower())
        stem = f"{'-'.join(words)}-{self.block[0]}x{self.block[1]}"
        return f"{stem}.codec", f"{stem}.codes"


def _scheme(name: str, block: tuple[int, int], *steps: Any) -> Scheme:
    return Scheme(name, block, make_pipeline(*steps))


def _demo_schemes() -> list[Scheme]:
    """List the schemes, unfitted; each spends one bit per pixel."""
    vq, pq = VectorQuantizer, ProductQuantizer
    seed: dict[str, Any] = {"random_state": _SEED}
    return [
        _scheme("VQ 16", (2, 2), vq(16, **seed)),
        _scheme("VQ 256", (2, 4), vq(256, **seed)),
        _scheme("VQ 256 by EMA", (2, 4), vq(256, learning="ema", **seed)),
        _scheme("VQ 1024", (2, 5), vq(1024, **seed)),
        _scheme("PQ 2x256", (4, 4), pq(2, 256, **seed)),
        _scheme("PQ 8x256", (8, 8), pq(8, 256, **seed)),
        _scheme("PCA, PQ 2048 + 32", (4, 4), PCA(24), pq(2, [2048, 32], **seed)),
        _scheme("Rotated PQ 8x256", (8, 8), RotatedQuantizer(pq(8, 256, **seed))),
        Scheme(
            "PCA, one step, coded",
            (8, 8),
            make_pipeline(
                RotatedQuantizer(
                    UniformQuantizer(target_bits=_CODED_BITS), rotation="pca"
                )
            ),
            coded=True,
        ),
    ]


_LEGEND = (
    "VQ V: one table of V codewords. PQ MxV: M tables of V codewords. "
    "PQ V + W: one of V, one of W.\n"
    "Rotated: principal axes, spread over the tables. One step: the same for all axes, "
    "and codes in an entropy-coded file."
)


def _block_multiple() -> int:
    """Return the smallest side that blocks of every scheme cut without a rest."""
    return math.lcm(*chain.from_iterable(scheme.block for scheme in _demo_schemes()))


@dataclass(frozen=True)
class _Result:
    """What a scheme has made of the picture."""

    scheme: Scheme
    codes: np.ndarray
    picture: np.ndarray
    psnr: float
    fit_seconds: float
    encode_seconds: float

    @property
    def codebook_bytes(self) -> int:
        quantizer = self.scheme.codec[-1]
        return sum(table.nbytes for table in quantizer.codebooks_)


@dataclass(frozen=True)
class _Stored:
    """What the files of a scheme hold."""

    picture: np.ndarray
    bits_per_pixel: float


@dataclass(frozen=True)
class _Reference:
    """The picture in a format of others, of no more bytes."""

    name: str
    picture: np.ndarray
    bits_per_pixel: float
    psnr: float


def _demo(arguments: argparse.Namespace) -> None:
    _check_extra()
    folder, schemes = arguments.output, _demo_schemes()
    photograph = _photograph(arguments.crop)
    _make_folder(folder)
    names = [name for scheme in schemes for name in scheme.file_names]
    for name in (*names, _CREDIT_FILE, _PICTURE):
        check_output(folder / name)
    results = []
    for number, scheme in enumerate(schemes, start=1):
        _progress(f"[{number}/{len(schemes)}] {scheme.label}: ")
        results.append(_run(scheme, photograph))
        _progress(f"{results[-1].fit_seconds:.1f} s\n")
    paths = [path for result in results for path in _save(result, photograph, folder)]
    stored = [_read_back(folder, result.scheme.file_names) for result in results]
    for result, found in zip(results, stored, strict=True):
        if not np.array_equal(found.picture, result.picture):
            raise CommandError(
                f"{result.scheme.file_names[1]} reads back to another picture", status=1
            )
    references = [_reference(name, photograph) for name in _REFERENCES]
    paths += [folder / _CREDIT_FILE, folder / _PICTURE]
    _write(paths[-2], f"{_CREDIT}\n".encode())
    _write(paths[-1], _figure(photograph, results, references))
    _report(photograph, results, stored, references, paths)


def _check_extra() -> None:
    """Fail now, not after the work, where the extra is not installed."""
    try:
        import constriction  # noqa: F401
        import matplotlib.figure  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise CommandError(
            "the demo needs constriction, matplotlib and pillow: pip install "
            "'skvq[demo]'"
        ) from error


def _make_folder(folder: Path) -> None:
    """Make the folder where it is not there, and fail now if it cannot be written."""
    try:
        try:
            folder.mkdir()
        except FileExistsError:
            pass
        else:
            # As it is nobody's work; a folder that was there is left as it is.
            _write(folder / ".gitignore", b"*\n")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write to the directory '{folder}': {error.strerror}"
        ) from error


def _photograph(crop: tuple[int, int]) -> np.ndarray:
    """Return the middle of a photograph, uint8 of shape (rows, columns, 3)."""
    whole = load_sample_image("china.jpg")
    if crop[0] > whole.shape[0] or crop[1] > whole.shape[1]:
        raise CommandError(
            f"argument --crop: {crop[0]}x{crop[1]} is more than the photograph has, "
            f"{whole.shape[0]}x{whole.shape[1]}"
        )
    top, left = (whole.shape[0] - crop[0]) // 2, (whole.shape[1] - crop[1]) // 2
    return whole[top : top + crop[0], left : left + crop[1]]


def _run(scheme: Scheme, photograph: np.ndarray) -> _Result:
    """Fit the scheme on the photograph, and encode and decode it."""
    samples = to_blocks(photograph, scheme.block).astype(np.float32)
    began = time.perf_counter()
    scheme.codec.fit(samples)
    fitted = time.perf_counter()
    codes = scheme.codec.transform(samples)
    encoded = time.perf_counter()
    decoded = scheme.codec.inverse_transform(codes)
    picture = from_blocks(decoded, photograph.shape, scheme.block, dtype=np.uint8)
    return _Result(
        scheme,
        codes,
        picture,
        psnr=psnr(photograph, picture),
        fit_seconds=fitted - began,
        encode_seconds=encoded - fitted,
    )


def _reference(name: str, photograph: np.ndarray) -> _Reference:
    """Return the best picture that a format has for one bit per pixel."""
    from PIL import Image

    most = math.prod(photograph.shape[:2]) // 8
    best = None
    for quality in range(1, 101):
        file = BytesIO()
        Image.fromarray(photograph).save(file, name, quality=quality)
        if file.tell() <= most or best is None:
            best = file
    assert best is not None
    picture = np.asarray(Image.open(best).convert("RGB"))
    return _Reference(
        name,
        picture,
        8 * len(best.getvalue()) / math.prod(photograph.shape[:2]),
        psnr(photograph, picture),
    )


# Files


def _save(result: _Result, photograph: np.ndarray, folder: Path) -> list[Path]:
    """Write codec and codes of a scheme, and what is needed to put blocks together."""
    scheme, quantizer = result.scheme, result.scheme.codec[-1]
    codec, codes = (folder / name for name in scheme.file_names)
    details = {"block": list(scheme.block), "picture": list(photograph.shape)}
    save(scheme.codec, codec, details=details)
    save_codes(
        codes,
        result.codes,
        quantizer.codebook_sizes_,
        codec_id=codec_info(codec)["id"],
        coder=(
            EntropyCoder.from_counts(quantizer.code_counts_) if scheme.coded else None
        ),
    )
    return [codec, codes]


def _read_back(folder: Path, names: tuple[str, str]) -> _Stored:
    """Decode a picture from nothing but its two files."""
    codec, codes = (folder / name for name in names)
    details = codec_info(codec)["details"]
    block, shape = tuple(details["block"]), tuple(details["picture"])
    with CodeReader(codes) as reader:
        decoded = load(codec).inverse_transform(reader[:])
        bits = reader.bits_per_row
    picture = from_blocks(decoded, shape, block, dtype=np.uint8)
    return _Stored(picture, bits / math.prod(block))


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


# What the user sees


def _progress(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _report(
    photograph: np.ndarray,
    results: list[_Result],
    stored: list[_Stored],
    references: list[_Reference],
    paths: list[Path],
) -> None:
    width = max(len(path.name) for path in paths)
    listing = [f"{path.name:{width}}  {path.stat().st_size:9,} bytes" for path in paths]
    note = (
        f"The picture has {photograph.shape[0]} x {photograph.shape[1]} pixels, "
        f"{photograph.nbytes:,} bytes. Bits are those of the\n"
        "codes; their files begin with a header, which also tells how frequent coded\n"
        "codes are. To decode, one needs the codebooks as well, learned from this\n"
        "very picture: here in float32, and rotations come on top. JPEG and WebP hold\n"
        "all that they need."
    )
    written = (
        f"Written to '{paths[0].parent}', and read back to the same pictures, bit for "
        "bit:"
    )
    lines = [*_table(results, stored, references), "", _LEGEND, note, _CREDIT]
    say("\n".join([*lines, "", written, *listing, "", f"Picture: {paths[-1]}"]))


def _table(
    results: list[_Result], stored: list[_Stored], references: list[_Reference]
) -> list[str]:
    """Return the lines of a markdown table."""
    header = "scheme", "bits/pixel", "PSNR, dB", "fit, s", "encode, s", "codebooks, kB"
    rows = [
        (
            result.scheme.label,
            f"{found.bits_per_pixel:.3f}",
            f"{result.psnr:.2f}",
            f"{result.fit_seconds:.2f}",
            f"{result.encode_seconds:.3f}",
            f"{result.codebook_bytes / 1000:.1f}",
        )
        for result, found in zip(results, stored, strict=True)
    ]
    rows += [
        (one.name, f"{one.bits_per_pixel:.3f}", f"{one.psnr:.2f}", "", "", "")
        for one in references
    ]
    return markdown_table([header, *rows])


def _figure(
    photograph: np.ndarray, results: list[_Result], references: list[_Reference]
) -> bytes:
    """Draw the same detail of the original and of each reconstruction; return a PNG."""
    from matplotlib.figure import Figure

    rows, columns = _detail(photograph.shape)
    titles = ["original, 24 bits per pixel"]
    titles += [f"{result.scheme.label}: {result.psnr:.2f} dB" for result in results]
    titles += [f"{one.name}: {one.psnr:.2f} dB" for one in references]
    pictures = [photograph, *(result.picture for result in results)]
    pictures += [one.picture for one in references]
    height = _PANEL_WIDTH * (rows.stop - rows.start) // (columns.stop - columns.start)
    n_rows = -(-len(titles) // _COLUMNS)
    # Panels have whole numbers of pixels: what is resampled is blurred.
    total_width = _COLUMNS * (_PANEL_WIDTH + _GAP) + _GAP
    total_height = n_rows * (height + _TITLE) + _GAP + _FOOT
    # Figure has no global state and no window; its canvas draws with Agg.
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)
    for i, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
        row, column = divmod(i, _COLUMNS)
        left = _GAP + column * (_PANEL_WIDTH + _GAP)
        bottom = total_height - (row + 1) * (height + _TITLE)
        axes = figure.add_axes(
            (
                left / total_width,
                bottom / total_height,
                _PANEL_WIDTH / total_width,
                height / total_height,
            )
        )
        axes.imshow(picture[rows, columns], interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(title, fontsize=8.2, pad=3)
    figure.text(_GAP / total_width, _GAP / total_height, _CREDIT_IN_PICTURE, fontsize=7)
    buffer = BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=_DPI,
        metadata={"Copyright": _CREDIT},
        pil_kwargs={"optimize": True},
    )
    return buffer.getvalue()


def _detail(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns that the figure shows."""
    slices = []
    for side, wanted, middle in zip(shape, _DETAIL, _DETAIL_MIDDLE, strict=False):
        length = min(side, wanted)
        start = min(max(0, round(middle * side) - length // 2), side - length)
        slices.append(slice(start, start + length))
    return slices[0], slices[1]
