"""The page "You have X, write Y": both sides of each row give the same.

Libraries that are installed are asked themselves.  Of the others, what their published
code computes is written down here in NumPy, under their names.
"""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.preprocessing import KBinsDiscretizer

from skvq import UniformQuantizer
from skvq.metrics import distortion

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "from_other_libraries.md"
DATA = Path(__file__).parent / "data"
with np.load(DATA / "tokenizers.npz") as _stored:
    STORED = dict(_stored)


# -- what other libraries compute ------------------------------------------------------


def nearest(X, table):
    return ((X[:, None].astype(float) - table) ** 2).sum(axis=2).argmin(axis=1)


class VectorQuantize:
    """Of vector-quantize-pytorch, in eval mode."""

    def __init__(self, table):
        self.codebook = table

    def __call__(self, z):
        indices = nearest(z, self.codebook)
        return self.codebook[indices], indices, np.zeros(1)

    def get_output_from_indices(self, indices):
        return self.codebook[indices]


class ResidualVQ:
    """A stage for each table, greedily; fewer indices are those of the first stages."""

    def __init__(self, tables):
        self.codebooks = tables

    def __call__(self, z):
        indices, left = [], z
        for table in self.codebooks:
            indices.append(nearest(left, table))
            left = left - table[indices[-1]]
        return z - left, np.stack(indices, axis=1), np.zeros(len(indices))

    def get_output_from_indices(self, indices):
        return sum(t[i] for t, i in zip(self.codebooks, indices.T, strict=False))


class FSQ:
    """Squashed, rounded, and numbered with the first feature least significant."""

    def __init__(self, levels):
        self.levels = np.array(levels)

    def __call__(self, z):
        half = (self.levels - 1) * 1.001 / 2
        offset = np.where(self.levels % 2 == 0, 0.5, 0.0)
        rounded = np.round(np.tanh(z + np.arctanh(offset / half)) * half - offset)
        basis = np.cumprod([1, *self.levels[:-1]])
        digits = (rounded + self.levels // 2).astype(int)
        return rounded / (self.levels // 2), digits @ basis


class LFQ:
    """Signs, and numbered with the first feature most significant."""

    def __init__(self, dim):
        self.mask = 2 ** np.arange(dim - 1, -1, -1)

    def __call__(self, z):
        return np.where(z > 0, 1.0, -1.0), (z > 0).astype(int) @ self.mask


def quantize_embeddings(embeddings, precision, ranges=None):
    """Of sentence-transformers."""
    packed = np.packbits(embeddings > 0, axis=-1)
    if precision == "ubinary":
        return packed
    if precision == "binary":
        return (packed.astype(int) - 128).astype(np.int8)
    low, high = ranges
    steps = (high - low) / 255
    whole = np.clip(np.floor((embeddings - low) / steps), 0, 255)
    if precision == "uint8":
        return whole.astype(np.uint8)
    return (whole - 128).astype(np.int8)


class SymbolicAggregateApproximation:
    """Of tslearn: a last axis for the dimensions of a series, of which there is one."""

    def __init__(self, n_segments, alphabet_size_avg):
        self.n_segments, self.size = n_segments, alphabet_size_avg

    def transform(self, series):
        self.length = series.shape[1] // self.n_segments
        means = series.reshape(len(series), self.n_segments, -1).mean(axis=2)
        edges = norm.ppf(np.arange(1, self.size) / self.size)
        return np.searchsorted(edges, means, side="right")[..., None]

    def inverse_transform(self, letters):
        middles = norm.ppf(np.arange(1, 2 * self.size, 2) / (2 * self.size))
        return np.repeat(middles[letters], self.length, axis=1)


class ResidualCodec:
    """Of ColBERT, on the host and without its packing."""

    def __init__(self, centroids, nbits):
        self.centroids, self.nbits = centroids, nbits

    def compress_into_codes(self, embs):
        return (self.centroids @ embs.T).argmax(axis=0)

    def lookup_centroids(self, codes):
        return self.centroids[codes]

    def error(self, rest):
        """The squared error of its buckets, before it is brought to unit norm."""
        shares = np.arange(2**self.nbits) / 2**self.nbits
        edges = np.quantile(rest, shares[1:])
        values = np.quantile(rest, shares + 0.5 / 2**self.nbits)
        return distortion(rest, values[np.searchsorted(edges, rest)])


def standing_in(title, names):
    """Return what the tables of a section name beside its lines."""
    if title == "vector-quantize-pytorch":
        tables = names["tables"]
        return {
            "their_vq": VectorQuantize(tables[0]),
            "their_rvq": ResidualVQ(tables),
            "their_fsq": FSQ([8, 5, 5]),
            "their_lfq": LFQ(3),
        }
    if title.startswith("quantize_embeddings"):
        return {"quantize_embeddings": quantize_embeddings}
    if title.startswith("SAX"):
        return {"theirs": SymbolicAggregateApproximation(8, 6)}
    if title.endswith("ColBERT"):
        centroids = names["ours"].quantizers_[0].codebooks_[0]
        return {"theirs": ResidualCodec(centroids, nbits=2)}
    return {}


# -- the page --------------------------------------------------------------------------


def sections():
    """Return the parts of the page by their titles: lines to run, and rows."""
    found = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.M):
        title = part.partition("\n")[0]
        blocks = re.findall(r"^```python\n(.*?)^```", part, re.M | re.S)
        rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", part, re.M)
        # Of a table, all rows but the header and the rule.
        n_rows = len(re.findall(r"^\| [`\w]", part, re.M)) - part.count("\n| --- ")
        assert len(rows) == n_rows, f"{title}: a row that is not read"
        found[title] = SimpleNamespace(blocks=blocks, rows=rows)
    return found


SECTIONS = sections()
ROWS = [
    pytest.param(title, *row, id=f"{title}: {row[0]}")
    for title, section in SECTIONS.items()
    for row in section.rows
]
_ran: dict[str, dict] = {}


def names_of(title):
    """Return what the lines of a section leave, after those of the sections before."""
    if not _ran:
        names: dict = {"__name__": "page"}
        for each, section in SECTIONS.items():
            source = "\n".join(section.blocks)
            try:
                exec(compile(source, each, "exec"), names)
            except ImportError:
                _ran[each] = {}
                continue
            _ran[each] = names | standing_in(each, names)
    if not _ran[title]:
        pytest.skip("the library is not installed")
    return _ran[title]


@pytest.mark.parametrize(("title", "theirs", "ours"), ROWS)
def test_both_sides_of_a_row(title, theirs, ours):
    names = names_of(title)
    with warnings.catch_warnings():
        # Of KBinsDiscretizer in scikit-learn 1.7 and 1.8: another default is to come.
        warnings.filterwarnings("ignore", "The current default", FutureWarning)
        theirs, ours = eval(theirs, names), eval(ours, names)
    if isinstance(ours, BaseEstimator):  # which are to be trained at as many bits
        ours.fit(names["X"][:200])
        code_size = getattr(theirs, "code_size", None) or theirs.sa_code_size()
        assert np.ceil(ours.bits_per_sample_ / 8) == code_size
        return
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    assert theirs.shape == ours.shape
    if theirs.dtype.kind in "iu":
        assert_array_equal(ours, theirs)
    else:
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_page_has_rows_of_every_library():
    counts = {title: len(section.rows) for title, section in SECTIONS.items()}
    assert [title for title, count in counts.items() if not count] == [
        "# You have X, write Y"
    ]
    assert len(counts) == 9


# -- what stands in for other libraries ------------------------------------------------


def test_stand_ins_give_what_the_libraries_gave():
    """The stored tokens are those of trained modules of vector-quantize-pytorch."""
    values, tokens = FSQ([8, 5, 3, 6])(STORED["fsq/X"])
    assert_array_equal(tokens, STORED["fsq/tokens"])
    assert_allclose(values, STORED["fsq/X_quant"], rtol=1e-5)
    assert_array_equal(LFQ(6)(STORED["lfq/X"])[1], STORED["lfq/tokens"])
    with np.load(DATA / "residual_vq.npz") as stored:
        quantized, indices, _ = ResidualVQ(stored["tables"])(stored["X"])
        assert_array_equal(indices, stored["codes"])
        assert_allclose(quantized, stored["quantized"], rtol=1e-4, atol=1e-5)


def test_levels_of_the_rest_are_better_than_buckets():
    names = names_of("The residual codec of ColBERT")
    units, codes = names["units"], names["codes"]
    rest = units - names["theirs"].lookup_centroids(codes[:, 0])
    assert names["ours"].distortion_ < 0.9 * names["theirs"].error(rest)


def test_levels_are_never_worse_than_bins_of_kmeans():
    X = names_of("scikit-learn's KBinsDiscretizer")["X"][:, :2]
    bins = KBinsDiscretizer(6, encode="ordinal", strategy="kmeans").fit(X)
    theirs = distortion(X, bins.inverse_transform(bins.transform(X)))
    assert UniformQuantizer(6, levels="lloyd-max").fit(X).distortion_ < theirs
