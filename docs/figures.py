"""Draw the figures that pages list: ``draw(FOLDER)``.

A figure is drawn from the table that stands on a page between the comments
``<!-- figures: NAME -->`` and ``<!-- end of NAME -->``, so that the drawing and the
list cannot differ.  ``python benchmarks/tables.py`` measures and rewrites the tables.
"""

import re
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/native.md", "docs/design.md", "docs/benchmarks.md")
# Columns that say what a row is, and those that say how it compares with faiss.
WORDS = ("what", "codes", "queries")
RATIOS = ("x faiss", "compiled, x faiss", "times as fast")
# Of a palette that colour-blind readers can tell apart; the marks differ as well.
SKVQ, FAISS, LINE = "#0072b2", "#d55e00", "#4a4a4a"


class Table(NamedTuple):
    """A table of a page."""

    columns: list[str]
    rows: list[list[str]]

    def column(self, head):
        """Return the cells of a column."""
        place = self.columns.index(head)
        return [row[place] for row in self.rows]


def tables():
    """Return the tables of all pages by the name of their figures."""
    found = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for name, block in re.findall(
            r"<!-- figures: (\S+) -->\n(.*?)<!-- end of \1 -->", text, re.DOTALL
        ):
            lines = [line for line in block.splitlines() if line.startswith("|")]
            if lines:
                head, _, *rows = [
                    [cell.strip() for cell in line.strip("|").split("|")]
                    for line in lines
                ]
                found[name] = Table(head, rows)
    return found


def numbers(cell):
    """Return the numbers of a cell, such as one, or the two ends of a range."""
    return [float(number) for number in re.findall(r"\d*\.?\d+", cell)]


def draw_ratios(table, path, head):
    """Draw how many times as fast as faiss each row is; a range as a line."""
    named = [table.column(words) for words in WORDS if words in table.columns]
    kept = [
        (", ".join(words).removesuffix(" *"), numbers(cell))
        for *words, cell in zip(*named, table.column(head), strict=True)
        if cell
    ]
    figure, ax = plt.subplots(figsize=(6.4, 0.8 + 0.27 * len(kept)))
    for place, (_, ends) in enumerate(kept):
        ax.plot([1, *ends], [place] * (1 + len(ends)), color="#c8c8c8", linewidth=1)
        ax.plot(ends, [place] * len(ends), "o-", color=SKVQ, linewidth=4)
        ax.annotate(
            " to ".join(f"{end:.3g}" for end in ends),
            (max(ends), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
        )
    ax.axvline(1, color=LINE, linewidth=1)
    ax.set_xscale("log")
    ticks = (0.5, 1, 2, 4, 8, 16)
    ax.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.4, 16)
    ax.set_yticks(range(len(kept)), labels=[words for words, _ in kept], fontsize=9)
    ax.set_ylim(len(kept) - 0.4, -0.6)
    ax.set_xlabel("faiss's time over skvq's: right of the line, skvq is faster")
    ax.grid(axis="x", color="#ececec")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def draw_recall(table, path):
    """Draw recall at several sizes, a group of two marks for each kind of codes."""
    sizes = [head.removeprefix("skvq @") for head in table.columns if "skvq" in head]
    figure, axes = plt.subplots(1, len(sizes), figsize=(8, 2.2), sharey=True)
    kinds = table.column("codes")
    for ax, size in zip(axes, sizes, strict=True):
        for owner, colour, mark, shift in (
            ("skvq", SKVQ, "o", -0.13),
            ("faiss", FAISS, "D", 0.13),
        ):
            values = [numbers(cell)[0] for cell in table.column(f"{owner} @{size}")]
            places = [place + shift for place in range(len(kinds))]
            ax.plot(values, places, mark, color=colour, label=owner)
        ax.set(xlim=(0, 1), title=f"recall@{size}")
        ax.set_yticks(range(len(kinds)), labels=kinds)
        ax.grid(color="#ececec")
        ax.set_axisbelow(True)
    axes[0].invert_yaxis()
    axes[0].legend(loc="center right", frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def draw(folder: Path) -> None:
    """Draw all figures into a folder, a file named after each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables().items():
        path = folder / f"{name}.svg"
        ratio = [head for head in RATIOS if head in table.columns]
        if ratio:
            draw_ratios(table, path, ratio[0])
        else:
            draw_recall(table, path)
