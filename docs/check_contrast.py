"""Check that all text of the built site can be read: ``check_contrast.py BUILT_SITE``.

Of the style sheets it takes the colours of text, links, code and its tokens, and what
they stand on, in the light theme and in the dark one.  By the formula of WCAG 2.1
(success criterion 1.4.3) their contrast has to be at least 4.5.  Each pair below that
is printed, and the exit status is 1; a folder that is no site is an error of status 2.
"""

import re
import sys
from pathlib import Path

from coloraide import Color

LEAST = 4.5
THEMES = ("light", "dark")
# Variables of the theme that text has, and that it stands on.
TEXTS = (
    "text-base",
    "text-muted",
    "heading",
    "link",
    "link-hover",
    "inline-code",
    "on-surface",
)
GROUNDS = ("background", "on-background", "surface")


def rules(css):
    """Yield the selectors and the declarations, by name, of each rule of a sheet."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        pairs = (line.partition(":") for line in body.split(";"))
        yield selectors, {name.strip(): value.strip() for name, _, value in pairs}


def variables(css, theme):
    """Return the variables of a theme, with names that stand for others resolved."""
    found = {}
    for selectors, declared in rules(css):
        parts = [part.strip() for part in selectors.replace('"', "").split(",")]
        if f"html[data-theme={theme}]" in parts:
            found |= {
                name: value for name, value in declared.items() if name.startswith("--")
            }

    def resolved(value):
        name = re.fullmatch(r"var\((--[\w-]+)\)", value)
        return resolved(found[name[1]]) if name else value

    return {name: resolved(value) for name, value in found.items()}


def contrast(text, ground):
    """Return the contrast of two colours."""
    return Color(text).contrast(ground, method="wcag21")


def low_pairs(css):
    """Return a line for each text of the theme that its ground hides."""
    lines = []
    for theme in THEMES:
        named = variables(css, theme)
        for text in TEXTS:
            for ground in GROUNDS:
                colours = (named[f"--pst-color-{name}"] for name in (text, ground))
                found = contrast(*colours)
                if found < LEAST:
                    lines.append(f"{theme}: {text} on {ground}: {found:.2f}")
    return lines


def low_tokens(css):
    """Return a line for each token of code that its ground hides."""
    lines = []
    for theme in THEMES:
        start = f'html[data-theme="{theme}"] .highlight'
        tokens, ground = {}, None
        for selectors, declared in rules(css):
            if selectors.strip() == start:
                ground = declared["background"]
            if selectors.strip().startswith(start) and "color" in declared:
                own = declared.get("background-color", "")
                tokens[selectors.strip()] = declared["color"], own
        for selectors, (text, own) in tokens.items():
            if text == "inherit":
                continue
            found = contrast(text, own if own.startswith("#") else ground)
            if found < LEAST:
                lines.append(f"{selectors}: {found:.2f}")
    return lines


def unknown_colours(css):
    """Return a line for each colour of text that is none of the theme's."""
    return [
        f"{selectors.strip()}: {declared['color']}"
        for selectors, declared in rules(css)
        if "color" in declared
        and declared["color"] not in [f"var(--pst-color-{text})" for text in TEXTS]
    ]


def main(arguments):
    """Print what is hard to read; return the exit status."""
    names = ("styles/pydata-sphinx-theme.css", "skvq.css", "pygments.css")
    sheets = [Path(*arguments[:1], "_static", name) for name in names]
    if len(arguments) != 1 or not all(sheet.is_file() for sheet in sheets):
        sys.stderr.write("check_contrast.py: give it the folder of a built site\n")
        return 2
    theme, own, tokens = (sheet.read_text(encoding="utf-8") for sheet in sheets)
    # What the site says of the theme's colours comes after them.
    found = [*low_pairs(theme + own), *low_tokens(tokens), *unknown_colours(own)]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
