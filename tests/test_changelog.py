"""The changes stand by kind, and name all that is public."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
KINDS = ["Added", "Changed", "Results change", "Fixed"]
# What stands above the first head of a kind would belong to none.
RELEASE = re.compile(r"Unreleased|\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)")
# A text that keeps all rules, for plantings.
KEPT = """# Changes

Words about the whole.

## Unreleased

### Added

- `VectorQuantizer`, `codes.pack`.

### Fixed

- A fault.

## 0.1.0 (2030-01-31)

### Changed

- `skvq.load` reads more.
"""


def public_names():
    """Return the names of the reference, which another test compares with `__all__`."""
    lines = re.findall(r"^   skvq\.([\w.]+)$", REFERENCE, re.M)
    constants = re.findall(r"`skvq\.([\w.]+)`", REFERENCE)
    return {*lines, *constants}


def named(text):
    """Return the dotted names that stand as code, less the package's own."""
    spans = re.findall(r"`([^`]+)`", " ".join(text.split()))
    names = {
        name
        for span in spans
        for name in re.findall(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*", span)
    }
    return {name.removeprefix("skvq.") for name in names}


def check_kinds(text):
    """Raise if heads are others than the kinds, in their order, or have no entry."""
    title, *releases = re.split(r"^## (.*)\n", text, flags=re.M)
    assert title.startswith("# Changes\n")
    assert "\n#" not in title, "a head stands above the first release"
    heads = releases[::2]
    assert heads[0] == "Unreleased"
    assert "Unreleased" not in heads[1:]
    for head, body in zip(heads, releases[1::2], strict=True):
        assert RELEASE.fullmatch(head), f"{head}: expected 0.1.0 (2030-01-31)"
        before, *kinds = re.split(r"^### (.*)\n", body, flags=re.M)
        assert not before.strip(), f"{head}: an entry without a kind"
        assert kinds[::2] == [kind for kind in KINDS if kind in kinds[::2]], (
            f"{head}: {kinds[::2]}; expected {KINDS}, or some of them"
        )
        for kind, entries in zip(kinds[::2], kinds[1::2], strict=True):
            lines = entries.strip().splitlines()
            assert lines and lines[0].startswith("- "), f"{head}, {kind}: no entry"
            for line in lines:
                assert re.match(r"- \S|  \S", line), f"{head}, {kind}: {line!r}"


def missing(text, names):
    """Return the public names that no entry has as code."""
    return sorted(names - named(text))


def test_changes_stand_by_kind():
    check_kinds(CHANGES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("### Fixed", "### Mended"),
        ("### Added", "### Fixed"),
        ("### Fixed\n\n- A fault.", "- A fault.\n\n### Fixed"),
        ("## Unreleased\n", "## Unreleased\n\n- Something.\n"),
        ("- A fault.\n", ""),
        ("- A fault.\n", "A fault.\n"),
        ("## Unreleased", "## 0.2.0 (2031-01-31)"),
        ("## 0.1.0 (2030-01-31)", "## The first edition"),
        ("## 0.1.0 (2030-01-31)", "## Unreleased"),
        ("Words", "### Added\n\nWords"),
    ],
)
def test_a_break_of_the_order_is_found(old, new):
    check_kinds(KEPT)
    assert old in KEPT
    with pytest.raises(AssertionError):
        check_kinds(KEPT.replace(old, new))


def test_changes_name_all_that_is_public():
    assert missing(CHANGES, public_names()) == []


def test_a_name_that_is_missing_is_found():
    names = {"VectorQuantizer", "codes.pack", "load"}
    assert missing(KEPT, names) == []
    # A part of another name, words that are not code, and another module's do not do.
    assert missing(KEPT, names | {"Vector", "fault", "metrics.pack"}) == [
        "Vector",
        "fault",
        "metrics.pack",
    ]
    name = "nearest.cells_between"
    assert missing(CHANGES.replace(f"`{name}`", "`cells`"), public_names()) == [name]
