"""What the documentation shows runs, and what it links to is there."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import skvq

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(skvq.__path__, "skvq.")
    # Compiled libraries look like modules, and are none.
    if not module.name.endswith("__main__") and ".native._" not in module.name
    # It imports torch.
    if module.name != "skvq.interop.torch_modules"
]
# What examples import that is not needed otherwise.
PEERS = ("faiss", "nanopq", "torch")
# What is there from some version of scikit-learn on, and needs no package else.
CALLBACKS = "sklearn.callback"
ESTIMATORS = [name for name in skvq.__all__ if inspect.isclass(getattr(skvq, name))]


@pytest.mark.parametrize("name", ["skvq", *MODULES])
def test_doctests(name):
    package, _, peer = name.rpartition(".")
    if package == "skvq.interop" and peer in PEERS:
        pytest.importorskip(peer)
    failed, _ = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS
    )
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """One after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for peer in PEERS:
            if f"import {peer}" in block:
                pytest.importorskip(peer)
        if f"from {CALLBACKS} import" in block:
            pytest.importorskip(CALLBACKS)
            pytest.importorskip("rich")
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_readme_has_its_two_commands():
    shell = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    assert len(shell) == 2
    assert shell[0].strip().endswith("python -m skvq demo")
    assert shell[1].strip().endswith("pytest")


def test_the_reference_has_every_public_name():
    """The site makes a page for each line of the themes, and for each module."""
    reference = (ROOT / "docs" / "api.rst").read_text()
    listed = set(re.findall(r"^   (skvq\S*)$", reference, re.M))
    for name in ["skvq", *MODULES]:
        if "._" not in name and hasattr(importlib.import_module(name), "__all__"):
            module = importlib.import_module(name)
            assert name in listed
            for item in module.__all__:
                # Classes and functions have a line, constants are named at least.
                if inspect.isclass(getattr(module, item)) or inspect.isfunction(
                    getattr(module, item)
                ):
                    assert f"{name}.{item}" in listed
                elif item != "__version__":
                    assert f"`{name}.{item}`" in reference
    for module in {getattr(skvq, name).__module__ for name in ESTIMATORS}:
        for name, function in inspect.getmembers(
            importlib.import_module(module), inspect.isfunction
        ):
            if function.__module__ == module and not name.startswith("_"):
                assert f"{module}.{name}" in listed


def test_public_names_are_documented():
    for name in ESTIMATORS:
        # Without the indentation, which the compiler strips from Python 3.13 on.
        text = inspect.getdoc(getattr(skvq, name))
        for section in ("Parameters", "Attributes", "Examples"):
            assert re.search(rf"^{section}\n-+$", text, re.M), (name, section)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_parameter_is_described_under_its_name(name):
    text = inspect.getdoc(getattr(skvq, name))
    section = re.search(r"^Parameters\n-+\n(.*?)\n\n\S+\n-+\n", text, re.M | re.S)[1]
    described = re.findall(r"^(\w[\w, ]*) : ", section, re.M)
    parameters = list(inspect.signature(getattr(skvq, name)).parameters)
    assert [one for names in described for one in names.split(", ")] == parameters


@pytest.mark.parametrize("name", ["skvq", *MODULES])
def test_the_source_of_a_class_is_its_own(name):
    """Some name another module than that of their file, and have no source there."""
    for item in getattr(importlib.import_module(name), "__all__", []):
        value = getattr(importlib.import_module(name), item)
        if inspect.isclass(value):
            try:
                source = inspect.getsource(value)
            except OSError:
                continue
            assert f"class {value.__name__}" in source


# What has no identifier, or none that could be verified.
WITHOUT_IDENTIFIER = (
    "The Art of Computer Programming",
    "Improving Bag-of-Features",
    "Sufficient conditions for achieving minimum distortion",
    "Quantization distortion in pulse-count modulation",
)


def references(text):
    """The entries of a list of papers, each of which cites a title in quotes."""
    entries = re.split(r"\n\s*\n|\n(?=\s*\.\. \[)|\n(?=\s*(?:\d+\.|-) )", text)
    return [" ".join(entry.split()) for entry in entries if '"' in entry]


def check_identifiers(entries):
    assert entries
    for entry in entries:
        known = any(title in entry for title in WITHOUT_IDENTIFIER)
        assert known or re.search(r"doi:10\.|arXiv \d{4}\.\d{4,5}|https://", entry), (
            entry
        )


def test_papers_that_docstrings_cite_have_identifiers():
    found = []
    for name in ["skvq", *MODULES]:
        module = importlib.import_module(name)
        for item in getattr(module, "__all__", []):
            text = inspect.getdoc(getattr(module, item)) or ""
            match = re.search(
                r"^References\n-+\n(.*?)(\n\n\w+\n-+\n|\Z)", text, re.M | re.S
            )
            if match and not isinstance(getattr(module, item), (str, frozenset)):
                found += references(match[1])
    check_identifiers(found)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "\n## Source" in p.read_text()], ids=lambda p: p.name
)
def test_papers_that_pages_cite_have_identifiers(page):
    text = re.split(r"\n## Sources?\n", page.read_text())[1]
    check_identifiers(references(re.split(r"\n#|\n```", text)[0]))
