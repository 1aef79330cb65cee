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
from interface.write import (
    CURRENT,
    RELEASED,
    given_up,
    interface,
    lines_of,
    untold,
)

import skvq
from skvq import VectorQuantizer
from skvq._compat import StrOptions
from skvq._deprecation import DECLARED

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


def test_other_values_and_other_bases_are_seen(monkeypatch):
    monkeypatch.setitem(
        VectorQuantizer._parameter_constraints,
        "learning",
        [StrOptions({"lloyd", "minibatch", "fixed", "adam"})],
    )
    monkeypatch.setattr(
        write.skvq.io, "FormatError", type("FormatError", (OSError,), {})
    )
    found = differences(lines_of(CURRENT.read_text(encoding="utf-8")), interface())
    assert found == [
        "- skvq.VectorQuantizer(learning): 'ema'",
        "- skvq.VectorQuantizer(learning): 'sgd'",
        "- skvq.io.FormatError: ValueError",
        "+ skvq.VectorQuantizer(learning): 'adam'",
        "+ skvq.io.FormatError: OSError",
    ]


PAGE = "# Changes\n\n## Unreleased\n\n### Changed\n\n{}\n\n## 0.1.0\n\n{}\n"
VQ = "`VectorQuantizer` with "


@pytest.mark.parametrize(
    ("change", "names", "told", "not_told"),
    [
        # A default, a place, a name of a parameter.
        (
            ("(1: n_codewords=256)", "(1: n_codewords=512)"),
            [f"{VQ}`n_codewords`"],
            "- `VectorQuantizer(n_codewords=512)`.",
            "- `VectorQuantizer`.\n- `n_codewords` of `MultiScaleQuantizer`.",
        ),
        (
            ("ProductQuantizer(2: n_code", "ProductQuantizer(n_code"),
            ["`ProductQuantizer` with `n_codewords`"],
            "- `n_codewords` of\n  `ProductQuantizer` has to be named.",
            "- n_codewords of `ProductQuantizer`.",
        ),
        (
            ("ScaledQuantizer(scaling='least", "ScaledQuantizer(scaling='most"),
            ["`ScaledQuantizer` with `scaling`"],
            "- `scaling` of `ScaledQuantizer`.",
            "- A page on the scaling of rows.",
        ),
        (
            ("VectorQuantizer(init='k-means++')", "VectorQuantizer(init='random')"),
            ["`VectorQuantizer` with `init`"],
            '- `VectorQuantizer` starts with `init="random"`.',
            "- `KroneckerQuantizer(init=)` takes it.\n- `VectorQuantizer(n_init=)`.",
        ),
        (
            ("VectorQuantizer(tol=0.0001)", "VectorQuantizer(tolerance=0.0001)"),
            [f"{VQ}`tol`", f"{VQ}`tolerance`"],
            "- `tol` of `VectorQuantizer` is `tolerance`.",
            "- `tol` of `KroneckerQuantizer` is `tolerance`.",
        ),
        # A method, an attribute, a function.
        (
            ("skvq.ProductQuantizer.fit(X, y=", "skvq.ProductQuantizer.fit(Y, y="),
            ["`ProductQuantizer` with `fit`"],
            "- `ProductQuantizer.fit` takes `Y`.",
            "- A fit is fitted.\n- `VectorQuantizer.fit`.",
        ),
        (
            ("skvq.VectorQuantizer.n_iter_\n", ""),
            [f"{VQ}`n_iter_`"],
            "- `VectorQuantizer` has no `n_iter_` any more.",
            "- `VectorQuantizer` has no `n_iter`.",
        ),
        (
            ("codes.match(old, new)", "codes.match(new, old)"),
            ["`codes.match`"],
            "- `skvq.codes.match`.",
            "- `match` of `codes`, `skvq.mycodes.match`, `codes.matched`.",
        ),
        # A value of an option, one of a function, a class of an error.
        (
            ("skvq.VectorQuantizer(learning): 'ema'\n", ""),
            [f"{VQ}`learning` with `ema`"],
            '- `VectorQuantizer(learning="ema")` is gone.',
            '- `VectorQuantizer(learning="ema-2")` is new.',
        ),
        (
            ("codes.pack(method): 'radix'", "codes.pack(method): 'mixed'"),
            [
                "`codes.pack` with `method` with `mixed`",
                "`codes.pack` with `method` with `radix`",
            ],
            '- `method="radix"` of `codes.pack` is `"mixed"`.',
            "- `codes.pack` has another `method`, `mixed`.\n- `radix`.",
        ),
        (
            ("io.FormatError: ValueError", "io.FormatError: OSError"),
            ["`FormatError` with `OSError`", "`FormatError` with `ValueError`"],
            "- `io.FormatError` is no `ValueError`, but an `OSError`.",
            "- `io.FormatError` is no ValueError.",
        ),
        # The command line.
        (
            ("skvq fit --seed", "skvq fit --state"),
            ["`fit` with `--seed`", "`fit` with `--state`"],
            "- `skvq fit --seed` is `--state`.",
            "- `skvq compare --seed` is `--state`.",
        ),
        (
            ("scheme tcq", "scheme trellis"),
            ["`tcq`", "`trellis`"],
            "- `tcq`: `trellis`",
            "",
        ),
        # What is new or gone as a whole, or is alike in all.
        (
            ("skvq.VectorQuantizer(dead_codes", "skvq.VectorQuantizer(idle"),
            [f"{VQ}`dead_codes`", f"{VQ}`idle`"],
            "- `dead_codes` of `VectorQuantizer` is `idle`.",
            "- `dead_codes` is `idle`.",
        ),
        (
            ("skvq.TrellisQuantizer", "skvq.PathQuantizer"),
            ["`PathQuantizer`", "`TrellisQuantizer`"],
            "- `TrellisQuantizer` is `PathQuantizer`.",
            "- `PathQuantizer`.",
        ),
        (
            ("Quantizer(backend='auto')", "Quantizer(backend='numpy')"),
            ["`BaseQuantizer` with `backend`"],
            "- All with the contract of `BaseQuantizer`: `backend`.",
            "- `backend` of `VectorQuantizer`.",
        ),
        (
            ("Quantizer.quantize(X)", "Quantizer.q(X)"),
            ["`BaseQuantizer` with `q`", "`BaseQuantizer` with `quantize`"],
            "- `quantize` of `BaseQuantizer` is `q`.",
            "- `quantize` is `q`.",
        ),
    ],
)
def test_a_change_is_seen_and_has_to_be_told(change, names, told, not_told):
    text = CURRENT.read_text(encoding="utf-8")
    old, new = lines_of(text), lines_of(text.replace(*change))
    assert differences(old, new)
    assert untold(old, new, PAGE.format("- Else.", told)) == names
    assert untold(old, new, PAGE.format(told, "")) == []
    assert untold(old, new, PAGE.format(not_told, ""))
    # Before the first release there is nothing that has changed.
    assert untold([], new, PAGE) == []


def test_the_changelog_names_what_has_changed_since_the_release():
    released = lines_of(RELEASED.read_text(encoding="utf-8"))
    current = lines_of(CURRENT.read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    names = untold(released, current, changelog)
    assert not names, "No entry under Unreleased of CHANGELOG.md has, as code:\n" + (
        "\n".join(names)
    )


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (("ProductQuantizer(widths=None)", "ProductQuantizer(sizes=None)"), "widths"),
        (("skvq.VectorQuantizer.n_iter_\n", ""), "n_iter_"),
        (("skvq.codes.match(", "skvq.codes.matched("), "match"),
        (("skvq.VectorQuantizer(learning): 'ema'\n", ""), "ema"),
        (("skvq.TrellisQuantizer", "skvq.PathQuantizer"), "TrellisQuantizer"),
        (("skvq fit --seed", "skvq fit --state"), "--seed"),
    ],
)
def test_a_name_that_goes_is_missed_unless_it_works_on(change, gone):
    text = CURRENT.read_text(encoding="utf-8")
    assert change[0] in text
    released, current = lines_of(text), lines_of(text.replace(*change))
    assert given_up(released, current, ["other"]) == [gone]
    assert given_up(released, current, [f"Some.{gone}", "other"]) == []


def test_names_of_the_release_work_on():
    released = lines_of(RELEASED.read_text(encoding="utf-8"))
    current = lines_of(CURRENT.read_text(encoding="utf-8"))
    gone = given_up(released, current, [old.name for old in DECLARED])
    assert not gone, f"gone without a warning (skvq/_deprecation.py): {', '.join(gone)}"


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
    exported = sorted({*skvq.__all__, *(name.partition(".")[2] for name in modules)})
    lines += [f"assert dir(skvq) == {exported}"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'metric'"):
        skvq.metric  # noqa: B018
    for name in modules:
        assert import_module(name) is getattr(skvq, name.partition(".")[2])
    # Checkers of types, which run none of this, are told of the same.
    source = (ROOT / "skvq" / "__init__.py").read_text(encoding="utf-8")
    told = re.findall(r"^    from skvq import (\w+) as \1$", source, re.M)
    assert [f"skvq.{name}" for name in told] == modules


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
