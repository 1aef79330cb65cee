"""Fitted quantizers in other libraries, and theirs as quantizers here.

A codec consists of tables and the rule by which they are searched.  A quantizer that is
converted to faiss, nanopq or torch keeps its tables and has a search by the same rule:
reconstructions are equal, and so are codes unless two codewords are equally near.  What
another library does differently, or not at all, is an error that says so.

The libraries are imported when a function is called.
"""

from skvq.interop.arrays import to_arrays
from skvq.interop.faiss import from_faiss, to_faiss
from skvq.interop.nanopq import from_nanopq, to_nanopq
from skvq.interop.torch import to_torch

__all__ = [
    "from_faiss",
    "from_nanopq",
    "to_arrays",
    "to_faiss",
    "to_nanopq",
    "to_torch",
]
