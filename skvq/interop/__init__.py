"""Fitted quantizers in other libraries, and theirs as quantizers here.

A codec is its tables and the rule by which it searches them.  What goes over to faiss,
nanopq or torch has the same tables, and a search by the same rule: reconstructions are
equal, and codes are where no two codewords are equally near.  What another library does
otherwise, or not at all, is an error that says so.

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
