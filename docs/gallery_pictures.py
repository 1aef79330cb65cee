"""Take the figures of examples, with the sentence that says what each shows.

Where an example shows a figure, a comment above ``plt.show()`` begins with "What the
picture shows:"; it is the alternative text.  Without it, the build fails.
"""

import re

# A comment of one or more lines, and the call below it.
SHOWN = re.compile(
    r"^# What the picture shows: (.*\n(?:# .*\n)*)plt\.show\(\)$", re.MULTILINE
)


def sentences(code):
    """Return what the pictures of an example, or of a part of one, show."""
    return [" ".join(text.replace("\n# ", " ").split()) for text in SHOWN.findall(code)]


def described(block, block_vars, gallery_conf):
    """Return the figures of a code block as reStructuredText."""
    # Here, since the sentences are read without it, too.
    from sphinx_gallery.scrapers import matplotlib_scraper

    taken = matplotlib_scraper(block, block_vars, gallery_conf)
    shown = iter(sentences(block[1]))
    described = re.sub(
        r"(?m)^( *:alt: ).*$", lambda found: found[1] + next(shown, ""), taken
    )
    if re.search(r"(?m)^ *:alt: *$", described) or next(shown, None) is not None:
        raise ValueError(
            f"{block_vars['src_file']}, line {block[2]}: each figure needs a "
            "comment '# What the picture shows: ...' above plt.show(), and each "
            "comment a figure."
        )
    return described


def _get_sg_image_scraper():
    """Return the function by which sphinx-gallery knows this module."""
    return described
