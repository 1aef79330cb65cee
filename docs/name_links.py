"""Make links of names that are set as code, and of what identifies a paper.

`VectorQuantizer`, `skvq.codes.pack`, `code_report(codes, sizes)` and `KMeans` lead to
their places in the reference, here or in the one of their library, while the pages stay
as readable elsewhere.  What is not a documented name is left as it is.  So it is with
papers: doi:10.1109/TIT.1982.1056489 and arXiv 2404.02905 are written as they are here.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.transforms.post_transforms import SphinxPostTransform

_CALL = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)
_PAPER = re.compile(r"\bdoi:(10\.[^\s,;]*[^\s,;.)])|\barXiv (\d{4}\.\d{4,5})")
_NO_LINKS = nodes.reference | nodes.title | nodes.literal_block | addnodes.pending_xref
_KINDS = ("class", "function", "exception", "method", "data", "attribute", "module")


class NameLinks(SphinxPostTransform):
    """Wrap literals that are names of the reference in references to them."""

    default_priority = 5  # before Sphinx resolves references

    def run(self, **kwargs):
        """Look at each literal of the page."""
        for node in list(self.document.findall(nodes.literal)):
            if _may_be_link(node):
                name = self._documented(node.astext())
                if name is not None:
                    self._wrap(node, name)

    def _wrap(self, node, name):
        reference = addnodes.pending_xref(
            "",
            refdomain="py",
            reftype="obj",
            reftarget=name,
            refexplicit=True,
            refwarn=False,
            refdoc=self.env.docname,
        )
        node.replace_self(reference)
        reference += node

    def _documented(self, text):
        match = _CALL.fullmatch(text)
        if match is None:
            return None
        name, is_call = match[1], match[2] is not None
        full, short = self._names()
        for candidate in (name, f"skvq.{name}"):
            if "." in name and candidate in full:
                return candidate
        # Words such as `scan` may be parameters and much else.
        if is_call or name[0].isupper() or "_" in name:
            return short.get(name)
        return None

    def _names(self):
        if not hasattr(self.env, "skvq_names"):
            own = {
                name
                for name, entry in self.env.get_domain("py").objects.items()
                if entry.objtype in _KINDS
            }
            others = {
                name
                for kind in _KINDS
                for name in InventoryAdapter(self.env).main_inventory.get(
                    f"py:{kind}", {}
                )
            }
            short = {name.rsplit(".", 1)[1]: name for name in others if _is_class(name)}
            # Those of a class belong to many classes.
            tops = [name for name in own if not _is_class(name.rpartition(".")[0])]
            short |= {name.rpartition(".")[2]: name for name in tops}
            self.env.skvq_names = own | others, short
        return self.env.skvq_names


class PaperLinks(SphinxPostTransform):
    """Lead from the identifier of a paper to the paper."""

    default_priority = 5

    def run(self, **kwargs):
        """Look at each piece of text of the page."""
        for node in list(self.document.findall(nodes.Text)):
            if _may_be_link(node) and _PAPER.search(node):
                node.parent.replace(node, self._parts(str(node)))

    @staticmethod
    def _parts(text):
        parts, end = [], 0
        for match in _PAPER.finditer(text):
            doi, arxiv = match.groups()
            address = f"doi.org/{doi}" if doi else f"arxiv.org/abs/{arxiv}"
            parts.append(nodes.Text(text[end : match.start()]))
            parts.append(
                nodes.reference(
                    "", match[0], refuri=f"https://{address}", internal=False
                )
            )
            end = match.end()
        return [*parts, nodes.Text(text[end:])]


def _may_be_link(node):
    parent = node.parent
    while parent is not None:
        if isinstance(parent, _NO_LINKS):
            return False
        parent = parent.parent
    return True


def _is_class(name):
    return name.rpartition(".")[2][:1].isupper()


def _forget(app, env):
    # What was read again may have other names.
    if hasattr(env, "skvq_names"):
        del env.skvq_names


def setup(app):
    """Take part in the builds of Sphinx."""
    app.add_post_transform(NameLinks)
    app.add_post_transform(PaperLinks)
    app.connect("env-updated", _forget)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
