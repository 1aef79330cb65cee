"""The figures that pages show: how they are stored, and how they get into the pages.

``figures.json`` has two parts.  "races" holds a record for each group of cases and set
of instructions: on which machine, of which versions and commit, when and on what data
it was measured, and for each case medians and quartiles.  ``tables.py`` writes them.
"said" holds single figures of other scripts, which they write with ``--record``, with
the same words on their origin.  Each of these has a digest of itself, its "seal".
What was measured before the file is marked so; of it, what nobody wrote down is null.

Pages take both.  A table stands between ``<!-- figures: NAME -->`` and ``<!-- end of
NAME -->``.  A figure in a sentence stands between ``<!--f:KEY-->`` and ``<!--/f-->``,
which no reader sees; its key is one of

- ``SET.GROUP.CASE.PEER``, such as ``avx512.product.8x16.faiss``: how many times as
  fast as the peer skvq is.  ``least`` and ``most`` stand for the ends of the group.
- ``SET.GROUP.CASE.of_peak``: the share of the processor's peak, in percent.
- the name of a figure in "said".

Cases whose quartiles are too far apart ("void") have no key, and are passed over by
``least`` and ``most``.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("figures.json")
# The libraries of the compiled engine, in keys and in words.
SETS = {"v3": "avx2", "v4": "avx512", "neon": "neon"}
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
    "scans single": "{} x {} bits, queries one by one",
    "scans together": "{} x {} bits, 100 queries together, each",
}
# Of README's, those that say most.
FIRST = {
    "flat": ["32x256", "128x1024"],
    "product": ["8x16", "16x8"],
    "lloyd": ["32x256"],
    "beams": ["64x5"],
    "additive": ["64x16"],
    "scan": ["8x8"],
}
SEARCHES = ("flat", "product", "lloyd", "beams", "additive", "scan")
BESIDE = {"skvq": "skvq", "faiss": "faiss", "x faiss": "x faiss"}


class PageError(ValueError):
    """A page that cannot be filled; the message says why."""


class Shown(NamedTuple):
    """A table of a page."""

    page: str
    name: str
    instructions: str
    groups: tuple[str, ...]
    columns: dict[str, str]  # what is shown, by the head of its column
    first_only: bool = False

    def is_measured(self, figures):
        """Return whether all that it shows is in the file."""
        return all(
            f"{self.instructions}.{group}" in figures["races"] for group in self.groups
        )

    def cases(self, figures):
        """Return the group, the name and the figures of each row."""
        return [
            (group, name, case)
            for group, record in self.records(figures).items()
            for name, case in record["cases"].items()
            if not self.first_only or name in FIRST[group]
        ]

    def records(self, figures):
        """Return the records of its groups."""
        return {
            group: figures["races"][f"{self.instructions}.{group}"]
            for group in self.groups
        }


RECALL_AT = (1, 10, 100)
SHOWN = [
    Shown("README.md", "first", "avx512", tuple(FIRST), BESIDE, first_only=True),
    Shown(
        "docs/native.md",
        "searches",
        "avx512",
        SEARCHES,
        BESIDE | {"of the peak": "of the peak"},
    ),
    Shown(
        "docs/native.md",
        "searches-avx2",
        "avx2",
        SEARCHES,
        BESIDE | {"of the peak": "of the peak"},
    ),
    Shown(
        "docs/design.md",
        "estimators",
        "avx512",
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
    Shown("docs/benchmarks.md", "scans", "avx2", ("scans",), BESIDE),
    Shown(
        "docs/benchmarks.md",
        "recall",
        "avx2",
        ("recall",),
        {
            f"{side} @{k}": f"{side} {k}"
            for k in RECALL_AT
            for side in ("skvq", "faiss")
        },
    ),
]


# -- the file --------------------------------------------------------------------------


def load(path=FILE):
    """Return what the file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def store(figures, path=FILE):
    """Write a file that shows line by line what a new measurement has changed."""
    text = json.dumps(figures, indent=1)
    # Lists of numbers on one line.
    text = re.sub(
        r"\[\s+([^][{}]*?)\s+\]", lambda one: f"[{' '.join(one[1].split())}]", text
    )
    text = re.sub(
        r'("(?:machine|versions)": )\{\s+([^][{}]*?)\s+\}',
        lambda one: f"{one[1]}{{{' '.join(one[2].split())}}}",
        text,
    )
    path.write_text(text + "\n", encoding="utf-8")


def sealed(record):
    """Return a record with a digest, which tells when it was changed by hand."""
    record = {name: value for name, value in record.items() if name != "seal"}
    text = json.dumps(record, sort_keys=True)
    return record | {"seal": hashlib.sha256(text.encode()).hexdigest()[:16]}


def renewed(figures, instructions, results, origins):
    """Return the figures with the records of some groups in place of their old ones.

    `origins` has what each record says of its measurement, by group.
    """
    new = {
        f"{instructions}.{group}": sealed(
            origins[group] | {"cases": dict(map(stored, cases))}
        )
        for group, cases in results.items()
    }
    return figures | {"races": figures["races"] | new}


def stored(result):
    """Return the name of a case, and what is kept of it."""
    words = [str(part) for part in result.case if isinstance(part, str)]
    numbers = [str(part) for part in result.case if not isinstance(part, str)]
    name = "-".join([*words, *["x".join(numbers)] * bool(numbers)])
    return name, {"numbers": list(map(int, numbers)), **result.kept()}


# -- single figures --------------------------------------------------------------------


def figure(figures, key):
    """Return the text of a key."""
    if key in figures["said"]:
        return figures["said"][key]["figure"]
    *name, case, what = key.split(".")
    group = figures["races"].get(".".join(name))
    if group is None:
        raise PageError(f"figures.json has no figure {key!r}.")
    cases = {
        one: figures
        for one, figures in group["cases"].items()
        if not figures["void"] and measures(figures, what)
    }
    ends = {"least": min, "most": max}
    if case in ends and cases:
        found = ends[case](number(one, what) for one in cases.values())
    elif case in cases:
        found = number(cases[case], what)
    else:
        raise PageError(
            f"figures.json has no figure {key!r}: its cases with {what!r} that are not "
            f"void are {', '.join(cases) or 'none'}."
        )
    return f"{found:.0%}" if what == "of_peak" else two_digits(found)


def measures(case, what):
    """Return whether a case has a number of this name."""
    return bool(case.get("of_peak")) if what == "of_peak" else what in case["sides"]


def number(case, what):
    """Return the share of the peak, or how many times as fast as a peer skvq is."""
    if what == "of_peak":
        return case["of_peak"]
    return case["sides"][what]["median"] / case["sides"]["skvq"]["median"]


def two_digits(value):
    """Return a ratio as a sentence has it."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


# -- tables ----------------------------------------------------------------------------


def words(group, name, case):
    """Return what a case is."""
    named = name.split("-")[:-1] if "-" in name else []
    if not case["numbers"]:
        return name
    return WORDS[" ".join([group, *named])].format(*case["numbers"])


def duration(seconds):
    """Return a time in the unit that suits it."""
    unit, scale = next(
        (unit, scale)
        for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
        if scale * seconds >= 1 or unit == "ns"
    )
    digits = max(0, 2 - len(str(int(scale * seconds))) + 1)
    return f"{scale * seconds:.{digits}f} {unit}"


def cell(case, what):
    """Return what a table shows of a case; nothing if it was not measured."""
    if what == "of the peak":
        return f"{case['of_peak']:.0%}" if case.get("of_peak") else ""
    if what == "distortion":
        return f"{case['distortion']:.3f}" if case.get("distortion") else ""
    if "recall" in case:
        side, depth = what.split()
        return f"{case['recall'][side][depth]:.3f}".lstrip("0")
    peer = what.removeprefix("x ")
    peer = "nanopq" if peer == "others" and "nanopq" in case["sides"] else peer
    if peer not in case["sides"]:
        return ""
    if what == peer:
        return duration(case["sides"][peer]["median"])
    return f"{number(case, peer):.2f}"


def origin(found):
    """Return the line that says where a record comes from."""
    machine = found["machine"]
    threads, faiss = machine["threads"], found["versions"]["faiss-cpu"]
    parts = [
        "One thread" if threads == 1 else f"On {threads} threads",
        machine["processor"],
        machine["instructions"],
        *[f"faiss-cpu {faiss}"] * bool(faiss),
        "float32",
    ]
    return f"{', '.join(parts)}:\n{found['data']}."


def markdown(shown, figures):
    """Return lines that say what was measured, and the table."""
    if not shown.is_measured(figures):
        return "These have not been measured yet."
    origins = {}
    for group, record in shown.records(figures).items():
        origins.setdefault(origin(record), []).append(group)
    lines = [
        line if len(origins) == 1 else f"{', '.join(groups)}: {line}"
        for line, groups in origins.items()
    ]
    cases, rows = shown.cases(figures), []
    for group, name, case in cases:
        what = words(group, name, case) + " *" * case["void"]
        cells = [cell(case, column) for column in shown.columns.values()]
        rows.append(f"| {' | '.join([what, *cells])} |")
    if any("sides" in case for _, _, case in cases):
        lines.append("Times are medians, for one row; of scans, for one query.")
    if any(case["void"] for _, _, case in cases):
        lines.append("\\* Quartiles more than 10% apart.")
    lines += [
        "",
        f"| what | {' | '.join(shown.columns)} |",
        f"| --- {'| ---: ' * len(shown.columns)}|",
    ]
    return "\n".join([*lines, *rows])


# -- pages -----------------------------------------------------------------------------

TABLE = re.compile(r"(<!-- figures: (\S+) -->\n\n)(.*?)(\n\n<!-- end of \2 -->)", re.S)
INLINE = re.compile(r"(<!--f:(\S+?)-->)(.*?)(<!--/f-->)", re.S)


def pages(root=ROOT):
    """Return the pages that may show figures."""
    written = root.glob("docs/**/*.md")
    made = ("_build", "generated", "gallery")
    return [
        root / "README.md",
        root / "benchmarks" / "README.md",
        *sorted(
            path
            for path in written
            if not set(made) & set(path.relative_to(root).parts)
        ),
    ]


def filled(text, figures, page):
    """Return a page with its tables and figures as the file has them.

    Parameters
    ----------
    text : str
        Of the page.
    figures : dict
        As `load` returns.
    page : str
        Its path from the root, by which its tables are known.

    Raises
    ------
    PageError
        If there is no such table or figure, a table of the page is missing, or a line
        begins with a comment, which would end its paragraph.
    """
    here = {shown.name: shown for shown in SHOWN if shown.page == page}
    found = {name for _, name, *_ in TABLE.findall(text)}
    if found != set(here):
        raise PageError(
            f"{page} has tables for {sorted(found)}; expected {sorted(here)}, each "
            "between its two comments and two empty lines."
        )
    text = TABLE.sub(
        lambda match: match[1] + markdown(here[match[2]], figures) + match[4], text
    )
    wrong = re.search(r"^[ >*-]*<!--(?:/f|f:.*)$", text, re.M)
    if wrong:
        raise PageError(
            f"{page}: no line may begin with the comment of a figure: {wrong[0]!r}."
        )
    if text.count("<!--f:") != len(INLINE.findall(text)):
        raise PageError(f"{page}: a figure has no '<!--/f-->'.")
    return INLINE.sub(
        lambda match: match[1] + figure(figures, match[2]) + match[4], text
    )


def fill(figures, root=ROOT):
    """Renew the tables and figures of all pages."""
    for path in pages(root):
        text = path.read_text(encoding="utf-8")
        new = filled(text, figures, path.relative_to(root).as_posix())
        if new != text:
            path.write_text(new, encoding="utf-8")
