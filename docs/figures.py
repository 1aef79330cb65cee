"""Draw the figures that pages list: ``draw(FOLDER)``.

Each is drawn from ``benchmarks/figures.json``, from which the tables of the pages are
made as well (``python benchmarks/tables.py``), so that the two cannot differ.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

# The benchmarks are no package.
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import _figures

# Of a palette that colour-blind readers can tell apart; the marks differ as well.
SKVQ, FAISS, LINE = "#0072b2", "#d55e00", "#4a4a4a"


def draw_ratios(shown, stored, path):
    """Draw how many times as fast as faiss each row is."""
    kept = [
        (_figures.words(group, name, case), _figures.number(case, "faiss"))
        for group, name, case in shown.cases(stored)
        if "faiss" in case["sides"]
    ]
    figure, ax = plt.subplots(figsize=(6.4, 0.8 + 0.27 * len(kept)))
    for place, (_, ratio) in enumerate(kept):
        ax.plot([1, ratio], [place, place], color="#c8c8c8", linewidth=1)
        ax.plot(ratio, place, "o", color=SKVQ)
        ax.annotate(
            f"{ratio:.3g}",
            (ratio, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
        )
    ax.axvline(1, color=LINE, linewidth=1)
    ax.set_xscale("log")
    ticks = (0.5, 1, 2, 4, 8, 16, 32)
    ax.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.4, 32)
    ax.set_yticks(range(len(kept)), labels=[words for words, _ in kept], fontsize=9)
    ax.set_ylim(len(kept) - 0.4, -0.6)
    ax.set_xlabel("faiss's time over skvq's: right of the line, skvq is faster")
    ax.grid(axis="x", color="#ececec")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def draw_recall(shown, stored, path):
    """Draw recall at several sizes, a group of two marks for each kind of codes."""
    sizes = _figures.RECALL_AT
    figure, axes = plt.subplots(1, len(sizes), figsize=(8, 2.2), sharey=True)
    kinds = {name: case["recall"] for _, name, case in shown.cases(stored)}
    for ax, size in zip(axes, sizes, strict=True):
        for owner, colour, mark, shift in (
            ("skvq", SKVQ, "o", -0.13),
            ("faiss", FAISS, "D", 0.13),
        ):
            values = [recall[owner][str(size)] for recall in kinds.values()]
            places = [place + shift for place in range(len(kinds))]
            ax.plot(values, places, mark, color=colour, label=owner)
        ax.set(xlim=(0, 1), title=f"recall@{size}")
        ax.set_yticks(range(len(kinds)), labels=list(kinds))
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
    stored = _figures.load()
    for shown in _figures.SHOWN:
        if not shown.is_measured(stored):
            continue
        of_recall = shown.groups == ("recall",)
        drawn = draw_recall if of_recall else draw_ratios
        drawn(shown, stored, folder / f"{shown.name}.svg")
