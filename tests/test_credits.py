"""What is shown or carried of others is credited: photographs, data, parts of sites."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from skvq._cli import demo
from skvq._version import __version__

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = {
    "china.jpg": "danielbuechele/6061409035",
    "flower.jpg": "vultilion/6056698931",
}
LICENCE = "creativecommons.org/licenses/by/2.0/"
# All pictures that pages show, and the photographs that can be seen in them.
PICTURES = {
    "docs/images/demo.png": ["china.jpg"],
    "generated/pictures/photograph.png": ["china.jpg"],
    # Cells of schemes, which have a page of this name, and plots of what was measured.
    **{
        f"generated/pictures/{page.stem}.png": []
        for page in ROOT.glob("docs/schemes/*.md")
    },
    "generated/figures/*.svg": [],
    "images/curves.png": [],
}
# In Markdown, its directives and definitions, reStructuredText and HTML.
SHOWN = re.compile(
    r"(?:\]\(|\]: |\} |:: |:img-[\w-]+: |src=[\"']?)<?"
    r"([\w./:-]+\.(?:png|jpe?g|svg|gif|webp))\b"
)
SOURCES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "examples" / "GALLERY_HEADER.rst",
    *sorted(ROOT.glob("examples/*.py")),
]
# The page that shows the pictures of all examples.
GALLERY = "GALLERY_HEADER.rst"
THIRD_PARTY = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")


def credited(text):
    """Return the photographs that a paragraph credits with all that has to be said."""
    found = set()
    for paragraph in re.split(r"\n(?:#|:::.*)?\s*\n", text):
        words = " ".join(re.sub(r"(?m)^# ", "", paragraph).split())
        licensed = LICENCE in words and "CC BY 2.0" in words
        if licensed and re.search("(cut and|described and|is) quantized", words):
            for photograph, place in PHOTOGRAPHS.items():
                # The name itself, and not as a part of the address.
                author = rf"(?<![/\w]){place.partition('/')[0]}\b"
                linked = f"flickr.com/photos/{place}" in words
                if linked and photograph in words and re.search(author, words):
                    found.add(photograph)
    return found


def code(text, name):
    """Return the code of a page, or of an example without what is text there."""
    if not name.endswith(".py"):
        return "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S))
    return re.sub(r'\A"""(.*?)"""|^#[^\n]*$', "", text, flags=re.M | re.S)


def loaded(text, name):
    """Return the photographs that a page or an example loads.

    Both, where it is not the call itself that says which.
    """
    of_code = code(text, name)
    found = set(re.findall(rf"\b(?:{'|'.join(PHOTOGRAPHS)})", of_code))
    # Whatever stands for the name, and whatever the function is called.
    unnamed = re.sub(
        r"^(>>> )?from sklearn\.datasets import (?:[\w, ]+|\([\w,\s]+\))$"
        r"|\bload_sample_image\(\s*(?:image_name=)?([\"'])\w+\.jpg\2,?\s*\)",
        lambda found: "" if " as " not in found[0] else found[0],
        of_code,
        flags=re.M,
    )
    return set(PHOTOGRAPHS) if "load_sample_image" in unnamed else found


def shown_pictures(text, name):
    """Return the pictures that a page shows: where each stands, and its photographs.

    None for one that is not known.
    """
    for picture in SHOWN.finditer("" if name.endswith(".py") else text):
        # Relative to the page, or to the site.
        place = re.sub(r"^(?:\.\.?/|/)+", "", picture[1])
        known = [made for known, made in PICTURES.items() if fnmatch(place, known)]
        yield picture, known[0] if known else None


def shown_text(text, name):
    """Return the text of a page, or what the page of an example shows as text."""
    if not name.endswith(".py"):
        return text
    head = re.match(r'"""(.*?)"""', text, re.S)
    blocks = re.findall(r"^# %%\n((?:#.*\n)+)", text, re.M)
    return "\n\n".join([*(head.groups() if head else ()), *blocks])


def uncredited(text, name):
    """Return the photographs of which a page or an example lacks the credit."""
    missing = loaded(text, name) - credited(shown_text(text, name))
    if name.endswith(".py") and "imshow(" in text:
        # Below the last picture.
        below = text.rpartition("plt.show()\n")[2]
        missing |= loaded(text, name) - credited(shown_text(below, name))
    for picture, photographs in shown_pictures(text, name):
        assert photographs is not None, f"{picture[1]} is not in PICTURES"
        below = text[picture.end() :].split("\n\n")[:3]
        missing |= set(photographs) - credited("\n\n".join(below))
    if name == GALLERY:
        missing |= set(PHOTOGRAPHS) - credited(text)
    return sorted(missing)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_photographs_have_their_credit(source):
    """Pages and examples that show a photograph say whose it is, below the picture."""
    assert uncredited(source.read_text(encoding="utf-8"), source.name) == []


def test_photographs_are_found():
    """Some of what shows a photograph, so that the test above has something to find."""
    shows = {
        source.name
        for source in SOURCES
        if loaded(text := source.read_text(encoding="utf-8"), source.name)
        or any(made for _, made in shown_pictures(text, source.name))
    }
    assert {"README.md", "index.md", "plot_faiss.py", "plot_colour_palette.py"} < shows


README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "examples" / "plot_colour_palette.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "name", "old", "new"),
    [
        (README, "README.md", "danielbuechele/6061409035", "danielbuechele"),
        (README, "README.md", '"china.jpg"', "A photograph"),
        (README, "README.md", "by\n[danielbuechele]", "by\n[somebody]"),
        (README, "README.md", "(https://creativecommons.org/licenses/by/2.0/)", ""),
        (README, "README.md", "cut and quantized", "in small"),
        (README, "README.md", "\n\nPhotograph:", "\n\nA.\n\nB.\n\nPhotograph:"),
        (EXAMPLE, "plot.py", "vultilion/6056698931", "vultilion"),
        (EXAMPLE, "plot.py", "cut and quantized", "in small"),
        (EXAMPLE, "plot.py", "# %%\n# Photograph", "# Photograph"),
        (EXAMPLE + "plt.show()\n", "plot.py", "", ""),
        (EXAMPLE, "plot.py", 'image("flower.jpg")', "images().images[0]"),
        # Which photograph is loaded is not always said in the call.
        (EXAMPLE, "plot.py", '"flower.jpg"', "NAME"),
        (EXAMPLE, "plot.py", '("flower.jpg")', '(image_name="china.jpg")'),
        (EXAMPLE, "plot.py", '("flower.jpg")', '(*["china.jpg"])'),
        (EXAMPLE, "plot.py", '("flower.jpg")', '("china.jpg")'),
        (EXAMPLE, "plot.py", 'load_sample_image("flower.jpg")', 'imread("china.jpg")'),
        (
            EXAMPLE,
            "plot.py",
            "import load_sample_image\n",
            "import load_sample_image as l\n",
        ),
        ("A page.\n\n```python\nload_sample_image(name)\n```\n", "page.md", "", ""),
        ("A page.\n", GALLERY, "", ""),
    ],
)
def test_a_credit_that_is_missing_is_found(text, name, old, new):
    assert old in text
    broken = text.replace(old, new)
    if "images()" in new:
        broken = broken.replace("load_sample_image", "load_sample_images")
    assert uncredited(broken, name)


@pytest.mark.parametrize(
    "shown",
    [
        "![Pagoda.](docs/images/pagoda.png)",
        "![Pagoda.][one]\n\n[one]: images/pagoda.jpg",
        '<img alt="Pagoda." src="docs/images/pagoda.png">',
        "```{image} generated/pictures/pagoda.png\n:alt: Pagoda.\n```",
        "```{eval-rst}\n.. image:: images/pagoda.webp\n```",
    ],
)
def test_a_picture_of_which_nobody_says_what_it_is_made_of_is_found(shown):
    with pytest.raises(AssertionError, match=r"pagoda\.\w+ is not in PICTURES"):
        uncredited(shown, "page.md")


def test_the_demo_credits_its_photograph():
    """In what it prints, in the file beside the picture, and in the picture itself."""
    assert credited(demo._CREDIT) == {"china.jpg"}
    for part in ("china.jpg", "danielbuechele", "CC BY 2.0", "cut and quantized"):
        assert part in demo._CREDIT_IN_PICTURE


# -- the page of parts of others -------------------------------------------------------


def carried():
    """Return what the repository, the site and the wheels have of others."""
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("docs/_static", "docs/images", "docs/inventories", "tests/data")
        for path in (ROOT / folder).rglob("*")
        # What skvq has written itself is a source.
        if path.suffix not in (".py", ".css", ".pyc", ".txt", "")
    }
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    packages = re.findall(r'\bfiles\("([\w-]+)"\)', settings)
    theme = re.search(r'^html_theme = "(\w+)"', settings, re.M)[1]
    return found | {*packages, theme.replace("_", "-")}


def not_named(page, names):
    """Return the names that no code of a page has, or no pattern of it."""
    patterns = re.findall(r"`([^`]+)`", page)
    return sorted(
        name
        for name in names
        if not any(fnmatch(name, pattern) for pattern in patterns)
    )


def test_the_page_of_parts_of_others_names_each():
    names = carried()
    assert {"docs/inventories/numpy.inv", "django-static-mathjax"} < names
    assert not_named(THIRD_PARTY, names) == []
    rows = {row for row in THIRD_PARTY.splitlines() if row.startswith('| "')}
    for photograph, place in PHOTOGRAPHS.items():
        assert any(photograph in row and place in row for row in rows)
    assert LICENCE in THIRD_PARTY
    # What the compiler adds to wheels.
    for part in ("zig", "musl", "MinGW-w64", "libgcc"):
        assert part in THIRD_PARTY


def test_a_part_that_is_not_named_is_found():
    planted = {"docs/_static/logo.svg", "tests/data/faces.npz", "some-theme"}
    assert not_named(THIRD_PARTY, carried() | planted) == sorted(planted)
    without = THIRD_PARTY.replace("`docs/inventories/numpy.inv`", "an inventory")
    assert not_named(without, carried()) == ["docs/inventories/numpy.inv"]


# -- what citations say ----------------------------------------------------------------

CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def check_citation(text, version):
    """Raise if a citation lacks what the format asks for, or is of another version."""
    fields = dict(re.findall(r"^([\w-]+): *(.*)$", text, re.M))
    assert {"cff-version", "message", "title", "authors"} <= set(fields)
    assert fields["cff-version"] == "1.2.0"
    assert fields["version"] == version
    assert fields["license"] == "BSD-3-Clause"
    names = re.findall(r"^  - name: (.+)$", text, re.M)
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert names == re.findall(r"^Copyright \(c\) \d{4}, (.+)$", licence, re.M)


def test_the_citation_is_of_this_version_and_of_the_holders_of_the_licence():
    check_citation(CITATION, __version__)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cff-version: 1.2.0", "cff-version: 1.1.0"),
        ("message:", "words:"),
        ("name: the skvq developers", "name: A. N. Other"),
        (f"version: {__version__}", "version: 99.0"),
    ],
)
def test_another_citation_is_found(old, new):
    assert old in CITATION
    with pytest.raises(AssertionError):
        check_citation(CITATION.replace(old, new), __version__)
