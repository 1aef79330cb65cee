"""Figures for other eyes: what they show in words, colours, and contrast."""

import ast
import importlib.util
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from coloraide import Color

from skvq.display import _cell_colours

matplotlib.use("agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent


def module(path):
    """Import a script of the documentation or the benchmarks."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


# -- what a figure shows, in a sentence ------------------------------------------------

# What the build of the site writes there is not looked at.
BUILT = {"_build", "gallery", "generated"}
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "docs/**/*.rst", "examples/*.rst")
    for path in sorted(ROOT.glob(pattern))
    if not BUILT & set(path.relative_to(ROOT).parts)
]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
GALLERY = module(ROOT / "docs" / "gallery_pictures.py")


def check_sentence(text):
    """Raise unless a text is one sentence that can say something."""
    assert re.fullmatch(r"[A-Z0-9].*\.", text), f"no sentence: {text!r}"
    assert not re.search(r"[.!?] +[A-Z]", text), f"several sentences: {text!r}"
    assert 6 <= len(text.split()) <= 45, f"too short or too long: {text!r}"


def shown(page):
    """Return a page without its code, in which nothing is a picture."""

    def kept(block):
        return block[0] if block[2].startswith("{") else ""

    page = re.sub(
        r"^ *(`{3,}|~{3,})(.*)\n(?:.*\n)*? *\1$", kept, page, flags=re.MULTILINE
    )
    return re.sub(r"(?<!`)`[^`\n]*(?:!\[|<img)[^`\n]*`(?!`)", "", page)


def pictures(page):
    """Return the alternative text of each picture of a page; None if it has none."""
    page = shown(f"{page}\n")
    found = re.findall(r"!\[([^\]]*)\]", page)
    kinds = [
        r"^ *(`{3,}|~{3,}|:{3,})\{(?:image|figure)\}.*\n(?P<options>(?:.*\n)*?) *\1$",
        r"^ *:img-(?:top|bottom|background): .*\n(?P<options>(?: *:.*\n)*)",
        # Of reStructuredText, also as a substitution.
        r"^ *\.\. +(?:\|[^|]+\| +)?(?:image|figure):: .*\n(?P<options>(?: +:.*\n)*)",
    ]
    for one in (one for kind in kinds for one in re.finditer(kind, page, re.M)):
        alternative = re.search(r"^ *:(?:img-)?alt: *(.*)$", one["options"], re.M)
        found.append(alternative[1] if alternative else None)
    for attributes in re.findall(r"<img\b([^>]*)>", page):
        alternative = re.search(r"\balt=([\"'])(.*?)\1", attributes, re.S)
        found.append(" ".join(alternative[2].split()) if alternative else None)
    return found


def check_page(page):
    """Raise unless each picture of a page has its sentence."""
    for text in pictures(page):
        assert text, "a picture without alternative text"
        check_sentence(text)


def check_example(code):
    """Raise unless an example says of each figure what it shows."""
    shown = GALLERY.sentences(code)
    assert len(shown) == code.count("plt.show()"), "a figure without its sentence"
    for text in shown:
        check_sentence(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_of_pages_have_a_sentence(page):
    check_page(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_figures_of_examples_have_a_sentence(example):
    check_example(example.read_text(encoding="utf-8"))


def test_all_kinds_of_pictures_are_found():
    found = {page.name: len(pictures(page.read_text("utf-8"))) for page in PAGES}
    assert found["README.md"] == 1
    assert found["benchmarks.md"] == 6
    assert found["binary.md"] == 1
    assert sum(found.values()) > 30
    cards = (ROOT / "docs" / "schemes" / "index.md").read_text("utf-8")
    assert len(pictures(cards)) == cards.count(":img-top:") == 13


SENTENCE = "Cells of signs in the plane: the four quadrants."


@pytest.mark.parametrize(
    "page",
    [
        "![](a.png)",
        "![A picture](a.png)",
        "![Cells of signs in the plane, four. They are quadrants.](a.png)",
        "```{image} a.png\n:class: cells\n```\n",
        "```{image} a.png\n:alt:\n```\n",
        ":::{figure} a.png\n:alt: The cells, of which there are four\n:::\n",
        "::::{grid-item-card} Signs\n:img-top: a.png\n:link: a\n::::\n",
        f"```{{image}} a.png\n:alt: {' and'.join([SENTENCE[:-1]] * 9)}.\n```\n",
        "![][cells]\n\n[cells]: a.png",
        "![cells]\n\n[cells]: a.png",
        '<img src="a.png">',
        "<p><img\n  src='a.png' alt=''\n></p>",
        '<img src="a.png" alt="A picture">',
        ".. image:: a.png\n",
        ".. image:: a.png",
        ".. figure:: a.png\n   :width: 10\n\n   Cells of signs.\n",
        ".. |cells| image:: a.png\n   :alt: Cells\n",
        "```{eval-rst}\n.. image:: a.png\n   :width: 10\n```\n",
        "- A list.\n\n  ```{image} a.png\n  :width: 10\n  ```\n",
    ],
)
def test_a_picture_without_its_sentence_is_found(page):
    kept = (
        f"![{SENTENCE}](a.png)\n\n```{{image}} a.png\n:alt: {SENTENCE}\n```\n\n"
        f'<img alt="{SENTENCE}" src="a.png">\n\n![{SENTENCE}][cells]\n\n'
        f".. image:: a.png\n   :alt: {SENTENCE}\n\n"
        f"```{{eval-rst}}\n.. image:: a.png\n   :alt: {SENTENCE}\n```\n"
    )
    assert pictures(kept) == [SENTENCE] * 6
    check_page(kept)
    check_page("`![](a.png)` is Markdown.\n\n```sh\necho '<img src=a>'\n```\n")
    with pytest.raises(AssertionError):
        check_page(page)


def test_a_figure_without_its_sentence_is_found():
    comment = SENTENCE.replace("plane: ", "plane:\n# ")
    shown = f"# What the picture shows: {comment}\nplt.show()\n"
    check_example(f"import this\n{shown}")
    assert GALLERY.sentences(shown) == [SENTENCE]
    for code in ("plt.show()\n", f"{shown}plt.show()\n", shown.replace(".\n", "\n")):
        with pytest.raises(AssertionError):
            check_example(code)


# -- colours ---------------------------------------------------------------------------

# Kinds of colour blindness, as Machado, Oliveira and Fernandes (2009) simulate them.
BLIND = ("protan", "deutan", "tritan")
# Of colours that tell lines apart; 1 is about what an eye sees side by side.
LEAST_DIFFERENCE = 10.0
DRAWING = [
    *sorted(ROOT.glob("skvq/**/*.py")),
    *sorted(ROOT.glob("docs/*.py")),
    *EXAMPLES,
    *sorted(ROOT.glob("benchmarks/*.py")),
]
# Colour maps whose lightness grows or falls along them, for all eyes.
# "binary" is the name of a scheme, too.
MAPS = {"viridis", "cividis", "gray", "gray_r", "binary"}
PALETTE = "petroff10"


def seen(colour, kind):
    """Return a colour as it is seen, by a kind of colour blindness or without."""
    colour = Color(matplotlib.colors.to_hex(colour))
    return colour if kind is None else colour.filter(kind, method="machado")


def least_difference(colours):
    """Return the least difference of two of the colours, for any eyes (CIEDE2000)."""
    return min(
        seen(a, kind).delta_e(seen(b, kind), method="2000")
        for kind in (None, *BLIND)
        for a, b in combinations(colours, 2)
    )


def is_ordered(name):
    """Return whether lightness grows or falls all along a colour map, for any eyes."""
    colours = plt.colormaps[name](np.linspace(0, 1, 17))
    for kind in (None, *BLIND):
        lightness = [seen(colour, kind).convert("lab-d65")["l"] for colour in colours]
        steps = np.diff(lightness)
        if not ((steps > 0).all() or (steps < 0).all()):
            return False
    return True


# As strings, and as attributes and functions of matplotlib.
NAMES = "|".join(map(re.escape, sorted(plt.colormaps, key=len, reverse=True)))
ASKED = re.compile(
    rf"[\"']({NAMES})[\"']|\b(?:cm|colormaps|plt|pyplot)\.({NAMES})\b"
    rf"|\bmatplotlib\.cm import .*\b({NAMES})\b"
)


def maps_of(code):
    """Return the names of colour maps that stand in a script."""
    return {next(filter(None, names)) for names in ASKED.findall(code)}


# What draws lines and marks, the words for a colour, and those for the rest of a style.
DRAWS = (
    "axhline axvline bar barh errorbar fill_between hist hlines loglog plot scatter"
    " semilogx semilogy stairs stem step vlines"
).split()
COLOURING = "c color colors ec edgecolor edgecolors fc facecolor facecolors mec mfc"
COLOURING = {*COLOURING.split(), "markeredgecolor", "markerfacecolor"}
STYLING = ("linestyle", "ls", "marker", "dashes", "hatch")
# A colour in a short format, such as "r--".
MARKS = r"[-.:,ov^<>1-4sp8P*hH+xXDd|_]*"
FORMAT = re.compile(rf"{MARKS}([bgrcmykw]|C\d)?{MARKS}")
# As pale as the ground: areas, which have borders.
PALE = 88
# Below this chroma, a grey.
GREY = 15


def is_colour(value):
    """Return whether a value says a colour by more than one letter or a grey."""
    short = isinstance(value, str) and re.fullmatch(r"[a-z]|[\d.]+|none", value)
    return matplotlib.colors.is_color_like(value) and not short


def strings(node):
    """Return the constant strings of a script, and the words of those of colours."""
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            words = one.value.split()
            yield from words if all(map(is_colour, words)) else [one.value]


def drawn(tree):
    """Return the calls that draw, each with its keywords and its short format.

    What is called without anything to draw is a method of a display.
    """
    for call in ast.walk(tree):
        name = getattr(call, "func", None)
        if isinstance(name, ast.Attribute) and name.attr in DRAWS and call.args:
            last = getattr(call.args[-1], "value", None)
            keywords = {word.arg: word.value for word in call.keywords}
            yield keywords, last if isinstance(last, str) else ""


def letter(short):
    """Return the colour of a short format; None if it has none."""
    found = FORMAT.fullmatch(short)
    return found and found[1]


def named(tree):
    """Return the colours that a script names, as matplotlib reads them."""
    yield from filter(is_colour, strings(tree))
    coloured = []
    for keywords, short in drawn(tree):
        yield from filter(None, [letter(short)])
        coloured += [keywords[word] for word in COLOURING & set(keywords)]
    for value in coloured:
        yield from (one for one in strings(value) if one in set("bgrcmy"))
        for one in ast.walk(value):
            numbers = [
                getattr(part, "value", None) for part in getattr(one, "elts", ())
            ]
            yield from filter(is_colour, [tuple(numbers)])
    # Letters that a loop goes over.
    for one in ast.walk(tree):
        if isinstance(one, ast.For | ast.comprehension):
            for text in strings(one.iter):
                yield from text if set(text) <= set("bgrcmykw") else ()


def hues(code):
    """Return the colours of a script that are neither grey nor pale."""
    tree = ast.parse(code)
    hexes = {matplotlib.colors.to_hex(one) for one in named(tree)}
    if hexes and f'"{PALETTE}"' in code:
        hexes |= {matplotlib.colors.to_hex(one) for one in palettes()[PALETTE]}
    found = {one: Color(one).convert("lch-d65") for one in hexes}
    return sorted(
        one
        for one, lch in found.items()
        if lch["lightness"] < PALE and lch["chroma"] > GREY
    )


def check_lines(code):
    """Raise if what a script draws is told apart by colours that not all can see."""
    pairs = [
        pair
        for pair in combinations(hues(code), 2)
        if least_difference(pair) < LEAST_DIFFERENCE
    ]
    assert not pairs, f"colours that not all can tell apart: {pairs}"
    if "legend(" not in code:
        return
    styled = re.search(rf'(style\.use\(|color_sequences\[)"{PALETTE}"', code)
    styles = []
    for keywords, short in drawn(ast.parse(code)):
        own = COLOURING & set(keywords)
        assert styled or own or letter(short) or None in keywords, (
            f'something drawn without plt.style.use("{PALETTE}") or a colour of its own'
        )
        if (own or letter(short)) and "label" in keywords:
            words = sorted({*own, *STYLING} & set(keywords))
            styles.append(
                (short, *((one, ast.unparse(keywords[one])) for one in words))
            )
    assert len(styles) == len(set(styles)), "two of one colour and the same dashes"


def palettes():
    """Return the colours that drawings tell things apart by."""
    figures = module(ROOT / "docs" / "figures.py")
    curves = (ROOT / "benchmarks" / "curves.py").read_text(encoding="utf-8")
    with plt.style.context(PALETTE):
        cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    return {
        "figures": [figures.SKVQ, figures.FAISS, figures.LINE],
        "curves": re.search(r'^_COLOURS = "(.*)"\.split', curves, re.M)[1].split(),
        PALETTE: cycle,
    }


@pytest.mark.parametrize("name", ["figures", "curves", PALETTE])
def test_colours_can_be_told_apart_by_all(name):
    assert least_difference(palettes()[name]) >= LEAST_DIFFERENCE


@pytest.mark.parametrize(
    "colours", [["#d62728", "#2ca02c"], ["tab:orange", "tab:green"]]
)
def test_red_beside_green_is_found(colours):
    assert least_difference(colours) < LEAST_DIFFERENCE
    cycle = plt.colormaps["tab10"].colors
    assert least_difference(cycle) < LEAST_DIFFERENCE


@pytest.mark.parametrize("script", DRAWING, ids=lambda path: path.stem)
def test_colour_maps_are_of_those_that_all_can_read(script):
    assert maps_of(script.read_text(encoding="utf-8")) <= MAPS


def test_colour_maps_are_ordered():
    assert all(is_ordered(name) for name in MAPS)
    for name in ("hsv", "jet", "rainbow", "RdYlGn", "tab20"):
        assert not is_ordered(name)


@pytest.mark.parametrize(
    "planted",
    [
        "ax.imshow(cells, cmap='hsv')",
        "ax.imshow(cells, None, 'hsv')",
        "ax.imshow(cells, cmap=plt.cm.hsv)",
        "ax.imshow(cells, cmap=matplotlib.colormaps.get_cmap('hsv'))",
        'ax.plot(x, color=plt.colormaps["hsv"](1))',
        'plt.set_cmap("hsv")',
        "plt.hsv()",
        'plt.rcParams["image.cmap"] = "hsv"',
        'NAME = "hsv"',
        "from matplotlib.cm import gray, hsv",
        'def draw(cmap: Any = "hsv"):\n    pass',
    ],
)
def test_another_colour_map_is_found(planted):
    assert maps_of(f"{planted}\n") - MAPS == {"hsv"}


@pytest.mark.parametrize("script", DRAWING, ids=lambda path: path.stem)
def test_what_is_drawn_has_colours_for_all(script):
    check_lines(script.read_text(encoding="utf-8"))


STYLED = f'plt.style.use("{PALETTE}")\n'
LINES = "ax.plot(x, a, label='a')\nax.plot(x, b, label='b')\nax.legend()\n"


def test_colours_for_all_pass():
    check_lines(STYLED + LINES)
    check_lines(LINES.replace("a,", "a, color='black',").replace("b,", "b, 'k--',"))
    check_lines(LINES.replace("a,", "a, c='#0072b2',").replace("b,", "b, c='#d55e00',"))
    check_lines(STYLED + "ax.axvline(1, color='0.5', ls=':')\n" + LINES)


@pytest.mark.parametrize(
    ("styled", "of_a", "of_b"),
    [
        ("", "", ""),
        ("", "color='black'", ""),
        ("", "color='black'", "color='black'"),
        ("", "color='black', ls='--'", "color='black', ls='--'"),
        ("", "color='red'", "color='green'"),
        (STYLED, "color='red'", "color='green'"),
        (STYLED, "color='#ff0000'", ""),
        ("", "'r-'", "'g--'"),
        ("", "c='r'", "c='g'"),
        ("", "color=(1, 0, 0)", "color=(0, 0.5, 0)"),
        ("", "color='tab:red'", "color='tab:green'"),
        ("", "color='C2'", "color='C3'"),
        ('RED, GREEN = "#d62728 #2ca02c".split()\n', "c=RED", "c=GREEN"),
        ("for c in 'rg':\n    pass\n", "color=c", "color=c, ls=':'"),
        ("for y, c in zip(ys, 'rg'):\n    pass\n", "color=c", "color=c, ls=':'"),
    ],
)
def test_colours_that_not_all_tell_apart_are_found(styled, of_a, of_b):
    code = LINES.replace("a,", f"a, {of_a}," if of_a else "a,")
    with pytest.raises(AssertionError, match=r"colour"):
        check_lines(styled + code.replace("b,", f"b, {of_b}," if of_b else "b,"))


# -- contrast --------------------------------------------------------------------------

# WCAG 2.1: of text (1.4.3), and of what figures are made of (1.4.11).
TEXT, GRAPHICS = 4.5, 3.0
CONTRAST = module(ROOT / "docs" / "check_contrast.py")


def test_cells_have_borders_that_can_be_seen():
    """Cells are told apart by their borders, so that their colours need not differ."""
    pictures = module(ROOT / "docs" / "pictures.py")
    for tint in pictures.TINTS:
        for drawn in (pictures.BORDER, pictures.CODEWORD):
            assert CONTRAST.contrast(drawn, tint) >= GRAPHICS
    numbers = np.repeat(np.arange(40), 4)[None].repeat(3, axis=0)
    for name in ("viridis", "cividis"):
        painted = _cell_colours(numbers, name)[1]
        inside, border = painted[1::4], painted[4::4]
        assert len(np.unique(border, axis=0)) == 1
        for colour in inside:
            pair = (matplotlib.colors.to_hex(each) for each in (border[0], colour))
            assert CONTRAST.contrast(*pair) >= GRAPHICS


def test_words_on_pictures_can_be_read():
    """White words stand on a box that is dark on the lightest photograph."""
    source = (ROOT / "docs" / "pictures.py").read_text(encoding="utf-8")
    box = re.search(r'"facecolor": "black", "alpha": ([.\d]+)', source)
    lightest = 1 - float(box[1])
    ground = matplotlib.colors.to_hex((lightest,) * 3)
    assert CONTRAST.contrast("white", ground) >= TEXT


THEME = """
html[data-theme=light]{--pst-color-primary:#0a7d91;--pst-color-link:var(--pst-color-primary);
--pst-color-link-higher-contrast:#085d6c;--pst-color-text-base:#222832;
--pst-color-text-muted:#48566b;--pst-color-heading:var(--pst-color-text-base);
--pst-color-link-hover:#8045e5;--pst-color-inline-code:#912583;
--pst-color-on-surface:#222832;--pst-color-background:#fff;
--pst-color-on-background:#fff;--pst-color-surface:#f3f4f5}
html[data-theme=dark]{--pst-color-link:#3fb1c5;--pst-color-text-base:#ced6dd;
--pst-color-text-muted:#9ca4af;--pst-color-heading:var(--pst-color-text-base);
--pst-color-link-hover:#9c5ffd;--pst-color-inline-code:#f3c7ee;
--pst-color-on-surface:#f3f4f5;--pst-color-background:#14181e;
--pst-color-on-background:#222832;--pst-color-surface:#29313d}
"""
OWN = (ROOT / "docs" / "_static" / "skvq.css").read_text(encoding="utf-8")


def test_text_of_the_site_can_be_read():
    """The build compares the theme that it has; this is what the site adds to one."""
    assert CONTRAST.low_pairs(THEME + OWN) == []
    # As the theme comes, links on grey and dark links under the pointer cannot.
    assert [line[:-6] for line in CONTRAST.low_pairs(THEME)] == [
        "light: link on surface",
        "dark: link-hover on on-background",
        "dark: link-hover on surface",
    ]
    assert CONTRAST.unknown_colours(OWN) == []


@pytest.mark.parametrize(
    "own", ["#8a8a8a", "var(--pst-color-border)", "rgb(200 200 200)"]
)
def test_text_that_cannot_be_read_is_found(own):
    assert CONTRAST.unknown_colours(f"{OWN}\n.credit {{ color: {own}; }}")
    muted = 'html[data-theme="light"] { --pst-color-text-muted: #8a8a8a; }'
    assert len(CONTRAST.low_pairs(THEME + OWN + muted)) == 3


def test_tokens_of_code_that_cannot_be_read_are_found():
    css = "".join(
        f'html[data-theme="{theme}"] .highlight '
        f"{{ background: {ground}; color: {text} }}"
        f'html[data-theme="{theme}"] .highlight .k {{ color: {keyword} }} /* Keyword */'
        for theme, ground, text, keyword in (
            ("light", "#fefefe", "#080808", "#6730C5"),
            ("dark", "#2b2b2b", "#f8f8f2", "#dcc6e0"),
        )
    )
    assert CONTRAST.low_tokens(css) == []
    (line,) = CONTRAST.low_tokens(css.replace("#6730C5", "#c0a0ff"))
    assert ".k: 2." in line


def test_the_check_of_contrast_refuses_what_is_no_site(tmp_path, capsys):
    for arguments in ([], [str(tmp_path)], [str(tmp_path), "twice"]):
        assert CONTRAST.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
