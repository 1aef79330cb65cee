"""Records of decisions have their four parts, and a figure that decided."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "decisions"
RECORDS = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "index.md"})
PARTS = [
    "Decision",
    "Alternatives",
    "The figure that decided",
    "What would reopen it",
]
# Half a page.
MOST_WORDS = 320


def check_record(text):
    """Raise if a record lacks a part, an alternative or a figure, or is long."""
    title, *parts = re.split(r"^## (.*)\n", text, flags=re.M)
    assert re.fullmatch(r"# \S.*\n\s*", title)
    assert parts[::2] == PARTS
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    for part, words in found.items():
        assert len(words.split()) >= 10, f"{part} says nothing"
    assert re.search(r"^- ", found["Alternatives"], re.M), "no alternative"
    # Numbers that are part of a name, as in float64 or `2i`, are no figures.
    figures = re.findall(r"(?<![\w.`/-])\$?\.?\d[\d,.]*", found[PARTS[2]])
    assert figures, "no figure"
    assert len(text.split()) <= MOST_WORDS, "more than half a page"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_record_has_its_parts_and_a_figure(record):
    check_record(record.read_text(encoding="utf-8"))


def test_the_page_of_decisions_lists_every_record():
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    names = [record.stem for record in RECORDS]
    assert sorted(re.findall(r"\]\((\w+)\.md\)", page)) == names
    toctree = re.search(r"^```\{toctree\}\n(.*?)^```", page, re.M | re.S)[1]
    assert sorted(line for line in toctree.split("\n") if line in names) == names
    assert len(names) >= 10


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("## Alternatives\n", ""),
        ("## Decision\n", "## Alternatives\n"),
        (r"(?s)(?<=## What would reopen it\n).*", "\nNothing.\n"),
        ("(?m)^- ", "  "),
        (r"(?s)(?<=## The figure that decided\n).*(?=## What)", "Some words. " * 9),
        (r"(?s)(?<=## The figure that decided\n).*(?=## What)", "float64 x86-64 " * 9),
        (r"(?s)\Z", "words " * MOST_WORDS),
    ],
)
def test_a_record_that_lacks_something_is_found(pattern, text):
    record = RECORDS[0].read_text(encoding="utf-8")
    check_record(record)
    broken = re.sub(pattern, text, record)
    assert broken != record
    with pytest.raises(AssertionError):
        check_record(broken)
