"""Names that other libraries have for what a quantizer has, and the line to write."""

import re
from functools import cache
from typing import Any

# What KMeans, faiss and nanopq have.  In the lines `quantizer` is the object.
_LINES = {
    "predict": "quantizer.transform(X)[:, 0], the codes of the first column",
    "fit_predict": "quantizer.fit_transform(X)[:, 0], the codes of the first column",
    "labels_": "quantizer.transform(X)[:, 0]; codes of training samples are not kept",
    "cluster_centers_": "quantizer.codebooks_[0], the table of the first code column",
    "inertia_": (
        "quantizer.distortion_ * len(X); distortion_ is the mean over training samples"
    ),
    "n_clusters": (
        "quantizer.codebook_sizes_, the number of codewords of each code column"
    ),
    "encode": "quantizer.transform(X)",
    "decode": "quantizer.inverse_transform(codes)",
    "compute_codes": (
        "skvq.codes.pack(quantizer.transform(X), quantizer.codebook_sizes_), rows of "
        "bytes"
    ),
    "codewords": "quantizer.codebooks_, the tables of all code columns",
    "centroids": "quantizer.codebooks_, the tables of all code columns",
    "train": "quantizer.fit(X)",
    "add": "skvq.QuantizedNeighbors(quantizer).fit(X), which keeps rows for searches",
    "search": (
        "skvq.QuantizedNeighbors(quantizer).fit(X).kneighbors(queries), which gives "
        "distances and row numbers"
    ),
}

# Of several code columns, which tell samples apart only together.
_LINES_OF_COLUMNS = {
    "predict": (
        "skvq.codes.token_ids(quantizer.transform(X), quantizer.codebook_sizes_), one "
        "id of all code columns"
    ),
    "fit_predict": (
        "skvq.codes.token_ids(quantizer.fit_transform(X), quantizer.codebook_sizes_), "
        "one id of all code columns"
    ),
    "labels_": (
        "skvq.codes.token_ids(quantizer.transform(X), quantizer.codebook_sizes_); "
        "codes of training samples are not kept"
    ),
    "cluster_centers_": "quantizer.codebooks_, the tables of all code columns",
}


def line_to_write(cls: Any, name: str) -> str | None:
    """Return what to write in place of an attribute that other libraries have.

    Parameters
    ----------
    cls : type
        The class of a quantizer, which has no such attribute; it says whether it always
        has one code column.
    name : str
        The attribute.

    Returns
    -------
    line : str or None
        The message of an error; None: no library that is known has such a name.
    """
    line = _LINES.get(name)
    if not cls._has_one_column:
        line = _LINES_OF_COLUMNS.get(name, line)
    return line and f"{cls.__name__} has no {name!r}: write {line}."


@cache
def is_set_by_fit(cls: type, name: str) -> bool:
    """Whether the documentation of a class names a fitted attribute."""
    if not name.endswith("_"):
        return False
    # Indented up to Python 3.12; from 3.13 on, compilers strip that.
    documented = re.compile(rf"^ *{re.escape(name)} : ", re.MULTILINE)
    return any(documented.search(one.__doc__ or "") for one in cls.__mro__)
