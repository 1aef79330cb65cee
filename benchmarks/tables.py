"""Measure what README and the documentation show, and renew their tables and figures.

    python benchmarks/tables.py
    python benchmarks/tables.py --only flat,product
    python benchmarks/tables.py --avx2
    python benchmarks/tables.py --pages

What is measured replaces its records in `figures.json`, the others stay: each has its
own machine, versions and commit.  Then all pages take their tables and figures from the
file; the last command does this alone.  --avx2 holds all sides to AVX2.  With
--quick nothing is written, if no folder is named.
"""

import _common  # isort: split

import sys
from pathlib import Path

import _figures

from skvq.nearest.native import status


def groups():
    """Return what measures each group; needs the peers."""
    import estimators
    import native
    import search

    return {
        **native.GROUPS,
        **{name: estimators.GROUPS[name] for name in ("transform", "fit", "row")},
        "scans": search.GROUPS["speed"],
        "recall": search.GROUPS["recall"],
    }


def data_of(group):
    """Return on what a group is measured."""
    if group == "recall":
        (data, *_) = _common.data_sets(["dsift100k"], quick=True)
        return f"queries among the rows of {data.name}"
    if group == "scans":
        return f"{_common.data_words()}, and noisy copies of them"
    return _common.data_words()


def measure():
    """Measure the chosen groups, and renew file and pages."""
    from _race import options, run

    choice = groups()
    parser = options(__doc__, choice, repeats=21)
    parser.add_argument(
        "--pages",
        action="store_true",
        help="measure nothing, and fill the pages from the file; stands alone",
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help="a copy of README.md, docs, benchmarks",
    )
    arguments = parser.parse_args()
    if arguments.threads != 1:
        parser.error(f"argument --threads: {arguments.threads}; the pages show one")
    if arguments.pages:
        parser.error("argument --pages: stands alone")
    into = arguments.into or (None if arguments.quick else _figures.ROOT)
    if into is not None and not (into / "benchmarks").is_dir():
        parser.error(f"argument --into: {into} has no folder benchmarks")
    results = run("Tables of the documentation", choice, arguments)
    if not results:
        return
    instructions = _figures.SETS[status().level]
    origins = {
        group: _common.about(data_of(group), arguments.threads) for group in results
    }
    figures = _figures.renewed(_figures.load(), instructions, results, origins)
    if into is None:
        for shown in _figures.SHOWN:
            if set(shown.groups) & set(results) and shown.instructions == instructions:
                text = _figures.markdown(shown, figures)
                print(f"\n{shown.page}, {shown.name}:\n\n{text}")
    else:
        _figures.store(figures, into / "benchmarks" / _figures.FILE.name)
        _figures.fill(figures, into)


def main():
    try:
        if sys.argv[1:] == ["--pages"]:
            _figures.fill(_figures.load())
        else:
            measure()
    except _figures.PageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
