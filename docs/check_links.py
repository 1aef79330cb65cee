"""Check that every link within the built site leads to a page, and to a place on it.

Sphinx checks what it resolves itself; this also sees links that are written as HTML, in
the theme's menus, and those to anchors.  ``python docs/check_links.py BUILT_SITE``
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Note what the tag links to, and what can link to it."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken(site: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    site = site.resolve()
    templates = site / "_static"
    pages = {
        path: Page(path)
        for path in site.rglob("*.html")
        if not path.is_relative_to(templates)
    }
    lines = []
    for path, page in pages.items():
        for link in sorted(page.links):
            if urlsplit(link).scheme or link.startswith("//"):
                continue  # outside
            address, anchor = urldefrag(link)
            name = unquote(urlsplit(address).path)
            target = (path.parent / name).resolve() if name else path
            if not target.exists():
                lines.append(f"{path}: there is no {link}")
            elif anchor and target in pages:
                if unquote(anchor) not in pages[target].anchors:
                    lines.append(f"{path}: there is no place {link}")
    return lines


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(bool(found))
