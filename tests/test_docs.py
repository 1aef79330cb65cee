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
    """The site makes a page for all that is in `__all__` of the modules it lists."""
    listed = re.findall(
        r"^   (skvq\S*)$", (ROOT / "docs" / "api.rst").read_text(), re.M
    )
    for name in ["skvq", *MODULES]:
        if "._" not in name and hasattr(importlib.import_module(name), "__all__"):
            assert name in listed
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
