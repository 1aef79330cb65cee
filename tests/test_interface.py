"""The interface is what it was, or a change of it is written down.

``interface/current.txt`` holds every public name with its signature, and
``interface/released.txt`` that of the last release.
"""

import inspect
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from interface import write
from interface.write import CURRENT, RELEASED, interface, lines_of, untold

import skvq
from skvq import VectorQuantizer

ROOT = Path(__file__).parent.parent


def differences(stored, found):
    """What a stored snapshot has too much, and too little."""
    return [f"- {line}" for line in stored if line not in found] + [
        f"+ {line}" for line in found if line not in stored
    ]


def test_the_snapshot_is_that_of_the_code():
    changed = differences(lines_of(CURRENT.read_text(encoding="utf-8")), interface())
    assert not changed, "\n".join(
        [
            "The interface is not that of tests/interface/current.txt.  If it is meant "
            "to change, run python tests/interface/write.py, and tell CHANGELOG.md:",
            *changed,
        ]
    )


def test_another_default_is_seen(monkeypatch):
    monkeypatch.setitem(VectorQuantizer.__init__.__kwdefaults__, "max_iter", 26)
    assert differences(lines_of(CURRENT.read_text(encoding="utf-8")), interface()) == [
        "- skvq.VectorQuantizer(max_iter=25)",
        "+ skvq.VectorQuantizer(max_iter=26)",
    ]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        # A default, a place, a name of a parameter; a method, a function, an option.
        (("(1: n_codewords=256)", "(1: n_codewords=512)"), "n_codewords"),
        (("ProductQuantizer(2: n_code", "ProductQuantizer(n_code"), "n_codewords"),
        (("Quantizer(tol=0.0001)", "Quantizer(tolerance=0.0001)"), "tolerance"),
        (("VectorQuantizer.quantize(X)", "VectorQuantizer.q(X)"), "quantize"),
        (("codes.match(old, new)", "codes.match(new, old)"), "match"),
        (("skvq fit --seed", "skvq fit --state"), "--seed"),
        (("skvq.VectorQuantizer.n_iter_\n", ""), "n_iter_"),
    ],
)
def test_a_change_is_seen_and_has_to_be_told(change, name):
    text = CURRENT.read_text(encoding="utf-8")
    old, new = lines_of(text), lines_of(text.replace(*change))
    assert differences(old, new)
    page = "# Changes\n\n## Unreleased\n\n- {}.\n\n## 0.1.0\n\n- `" + name + "`\n"
    assert name in untold(old, new, page.format("Something else"))
    every = " ".join(untold(old, new, page.format("")))
    assert untold(old, new, page.format(every)) == []
    # Before the first release there is nothing that has changed.
    assert untold([], new, page) == []


def test_the_changelog_names_what_has_changed_since_the_release():
    released = lines_of(RELEASED.read_text(encoding="utf-8"))
    current = lines_of(CURRENT.read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    names = untold(released, current, changelog)
    assert not names, f"Under Unreleased, CHANGELOG.md lacks {', '.join(names)}"


def listed(page):
    """The names and modules that the reference has a page for, or names in its text."""
    lines = re.findall(r"^   (skvq\S*)$", page, re.M)
    modules = page.partition("\nThe modules\n")[2]
    of_modules = set(re.findall(r"^   (skvq\S*)$", modules, re.M))
    return set(lines) - of_modules, of_modules, set(re.findall(r"`(skvq\S+)`", page))


def missing(exported, page):
    """Public names that the page lacks, and names of the page that are not public."""
    names, _, in_text = listed(page)
    values = {name for name in exported if name.rpartition(".")[2] != "__version__"}
    return sorted(values - names - in_text), sorted(names - values)


def test_what_modules_export_is_what_the_reference_has():
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    exported = write.public_names()
    lacks, has_more = missing(exported, page)
    assert not lacks, f"docs/api.rst lacks {', '.join(lacks)}"
    assert not has_more, f"docs/api.rst has {', '.join(has_more)}, which is not public"
    assert sorted(listed(page)[1]) == sorted(write.modules())
    assert missing([*exported, "skvq.nearest.settle"], page)[0] == [
        "skvq.nearest.settle"
    ]
    assert missing(exported[:-1], page)[1] == [exported[-1]]


def test_public_modules_are_there_after_import_skvq():
    modules = [name for name in write.modules() if name != "skvq"]
    lines = ["import sys, skvq", "assert 'skvq.losses' not in sys.modules"]
    lines += [f"assert {name}.__name__ == '{name}'" for name in modules]
    lines += ["assert 'metrics' in dir(skvq) and 'save' in dir(skvq)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'metric'"):
        skvq.metric  # noqa: B018
    for name in modules:
        assert import_module(name) is getattr(skvq, name.partition(".")[2])


def test_the_tables_of_the_page_have_every_parameter():
    made = runpy.run_path(str(ROOT / "docs" / "interface_tables.py"))
    text = made["tables"](CURRENT.read_text(encoding="utf-8"))
    head, *rows = re.findall(r"^\|(.*)\|$", text.partition("## Fitted")[0], re.M)
    columns = [cell.strip() for cell in head.split("|")]
    cells = {}
    for row in rows[1:]:
        name, *defaults = (cell.strip().strip("`") for cell in row.split("|"))
        cells[name] = dict(zip(columns[1:], defaults, strict=True))
    for name in skvq.__all__:
        if inspect.isclass(getattr(skvq, name)):
            column = name.removesuffix("Quantizer")
            expected = {
                parameter.name: "needed"
                if parameter.default is parameter.empty
                else repr(parameter.default)
                for parameter in inspect.signature(
                    getattr(skvq, name)
                ).parameters.values()
            }
            found = {row: of[column] for row, of in cells.items() if of[column]}
            assert found == expected
