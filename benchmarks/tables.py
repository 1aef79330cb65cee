"""Measure what README and the documentation show, and renew their tables.

    python benchmarks/tables.py
    python benchmarks/tables.py --avx2

The second holds all sides to AVX2, and renews the table of that alone.  A table stands
between two comments, and is renewed if all that it shows was measured.  With --quick
nothing is written, if no folder is named.
"""

import _common  # isort: split

from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import estimators
import native
from _race import options, run

from skvq.nearest.native import status

ROOT = Path(__file__).parent.parent
GROUPS = native.GROUPS | {
    name: estimators.GROUPS[name] for name in ("transform", "fit", "row")
}
# What a case is, from its numbers.
WORDS = {
    "flat": "nearest, d = {}, V = {}",
    "product": "product codes, {} slices of {}",
    "lloyd": "5 Lloyd iterations, d = {}, V = {}",
    "beams": "residual codes, d = {}, beam {}",
    "additive": "additive codes, d = {}, as near as {} iterations of local search",
    "scan": "10 nearest of 1,000,000 codes, {} x {} bits",
    "transform vector": "transform, VectorQuantizer, d = {}, V = {}",
    "transform product": "transform, ProductQuantizer, d = {}, {} x {}",
    "transform residual": "transform, ResidualQuantizer, d = {}, {} x {}, beam {}",
    "fit vector": "fit, VectorQuantizer, {:,} x {}, V = {}",
    "fit product": "fit, ProductQuantizer, {:,} x {}, {} x {}",
    "fit residual": "fit, ResidualQuantizer, {:,} x {}, {} x {}",
    "fit additive": "fit, AdditiveQuantizer, {:,} x {}, {} x {}",
    "row transform": "one row, ProductQuantizer, d = 128, {} x {}",
    "row nearest": "one row, nearest, d = 128, {} x {}",
    "row nearest_product": "one row, nearest_product, d = 128, {} x {}",
}
# Of README's, those that say most.
FIRST = {
    "flat": [(32, 256), (128, 1024)],
    "product": [(8, 16), (16, 8)],
    "lloyd": [(32, 256)],
    "beams": [(64, 5)],
    "additive": [(64, 16)],
    "scan": [(8, 8)],
}
INSTRUCTIONS = {"v3": "AVX2", "v4": "AVX-512", "neon": "NEON"}


class Figures(NamedTuple):
    """A table of a page."""

    page: str
    name: str
    groups: tuple[str, ...]
    columns: dict[str, str]  # what is shown, by the head of its column
    first_only: bool = False


BESIDE = {"skvq": "skvq", "faiss": "faiss", "x faiss": "x faiss"}
FIGURES = [
    Figures("README.md", "first", tuple(FIRST), BESIDE, first_only=True),
    Figures(
        "docs/native.md",
        "searches",
        tuple(native.GROUPS),
        BESIDE | {"of the peak": "of the peak"},
    ),
    Figures(
        "docs/design.md",
        "estimators",
        ("transform", "fit", "row"),
        {
            "NumPy": "numpy",
            "compiled": "skvq",
            "faiss": "faiss",
            "compiled, x faiss": "x faiss",
            "x scikit-learn or nanopq": "x others",
            "distortion / faiss's": "distortion",
        },
    ),
]


def duration(seconds):
    """Return a time in the unit that suits it."""
    unit, scale = next(
        (unit, scale)
        for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
        if scale * seconds >= 1 or unit == "ns"
    )
    digits = max(0, 2 - len(str(int(scale * seconds))) + 1)
    return f"{scale * seconds:.{digits}f} {unit}"


def cell(result, what):
    """Return what a table shows of a case; nothing if it was not measured."""
    if what == "of the peak":
        return f"{result.of_peak:.0%}" if result.of_peak else ""
    if what == "distortion":
        return f"{result.distortion:.3f}" if result.distortion else ""
    peer = what.removeprefix("x ")
    peer = "nanopq" if peer == "others" and "nanopq" in result.seconds else peer
    if peer not in result.seconds:
        return ""
    if what == peer:
        return duration(result.seconds[peer])
    return f"{result.times_faster(peer):.2f}"


def markdown(figures, results, arguments):
    """Return a line that says what was measured, and the table."""
    rows, n_void = [], 0
    for group in figures.groups:
        for result in results[group]:
            if figures.first_only and result.case not in FIRST[group]:
                continue
            named = [part for part in result.case if isinstance(part, str)]
            words = WORDS[" ".join([group, *named])]
            what = words.format(*result.case[len(named) :]) + " *" * result.is_void
            n_void += result.is_void
            shown = [cell(result, column) for column in figures.columns.values()]
            rows.append(f"| {' | '.join([what, *shown])} |")
    threads = "One thread" if arguments.threads == 1 else f"{arguments.threads} threads"
    lines = [
        f"{threads}, {_common.processor()}, {INSTRUCTIONS[status().level]},"
        f" faiss-cpu {version('faiss-cpu')}, float32:",
        f"{_common.data_words()}.",
        "Times are medians, for one row; of scans, for one query.",
        *["\\* Quartiles more than 10% apart."] * (n_void > 0),
        "",
        f"| what | {' | '.join(figures.columns)} |",
        f"| --- {'| ---: ' * len(figures.columns)}|",
    ]
    return "\n".join([*lines, *rows])


def renew(path, name, text):
    """Put a text between the two comments of a page that have its name."""
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- figures: {name} -->\n\n", f"\n\n<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no place for {name!r}: {begin!r} to {end!r}.")
    path.write_text("".join([before, begin, text, end, after]), encoding="utf-8")


def main():
    parser = options(__doc__, GROUPS, repeats=21)
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="of README.md and docs"
    )
    arguments = parser.parse_args()
    if arguments.avx2:
        arguments.only = [name for name in arguments.only if name in native.GROUPS]
    results = run("Tables of the documentation", GROUPS, arguments)
    into = arguments.into or (None if arguments.quick else ROOT)
    for figures in FIGURES:
        name = figures.name
        if arguments.avx2:
            name += "-avx2"
            if figures.page != "docs/native.md":
                continue
        if set(figures.groups) <= set(results):
            text = markdown(figures, results, arguments)
            if into is None:
                print(f"\n{figures.page}, {name}:\n\n{text}")
            else:
                renew(into / figures.page, name, text)


if __name__ == "__main__":
    main()
