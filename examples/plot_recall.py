"""
Recall against bits, for all schemes
====================================

How often a search over codes finds the row that is nearest to a query, for every scheme
at several budgets.  The rows are descriptors of places in a photograph, like those of
SIFT: histograms of the directions in which it gets brighter.

Photograph: china.jpg of scikit-learn's samples, by danielbuechele
(https://www.flickr.com/photos/danielbuechele/6061409035/), CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/), described and quantized.
"""

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.metrics import recall_at_k

# %%
# Descriptors
# -----------
# A cell of 4 x 4 pixels has a histogram of 8 directions; 4 x 4 cells are a descriptor
# of 128 numbers, of length one, in which no number counts for too much.


def descriptors(image):
    """Return the descriptors (n, 128) of all places of a picture, 4 pixels apart."""
    down, right = np.gradient(image.mean(axis=2))
    direction = np.arctan2(down, right) / (2 * np.pi) * 8 % 8
    histogram = np.zeros((*direction.shape, 8))
    for k in range(8):
        # A direction between two of the eight counts for both.
        gap = np.abs((direction - k + 4) % 8 - 4)
        histogram[..., k] = np.hypot(down, right) * np.clip(1 - gap, 0, None)
    height, width = (n // 4 for n in direction.shape)
    pixels = histogram[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 8)
    cells = pixels.sum(axis=(1, 3))
    found = sliding_window_view(cells, (4, 4), axis=(0, 1)).reshape(-1, 128)
    for most in (0.2, 1.0):
        found = found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)
        found = found.clip(0, most)
    return found.astype(np.float32)


X = descriptors(load_sample_image("china.jpg"))
X = np.random.default_rng(0).permutation(X)
rows, queries = X[:3000], X[3000:3500]
true = NearestNeighbors(n_neighbors=1).fit(rows).kneighbors(queries)[1]

# %%
# The schemes
# -----------
# Those that quantize features one by one come after PCA, as many components as the
# budget has codes for: distances are then those in its space, which a pipeline would
# give to both sides.  All learn from the rows that they encode, some of them in few
# rounds, for a quick figure.

seed = {"random_state": 0}
few = {"max_iter": 10}
schemes = {
    "naive": [VectorQuantizer(V, **few, **seed) for V in (16, 64, 256)],
    "product": [ProductQuantizer(m, 64, **seed) for m in (2, 4, 8, 16)],
    "residual": [
        ResidualQuantizer(m, 16, fit_beam_size=5, beam_size=5, **seed)
        for m in (3, 6, 12)
    ],
    "additive": [
        AdditiveQuantizer(m, 16, max_iter=3, ridge=0.1, **seed) for m in (3, 6)
    ],
    "multi-scale": [
        MultiScaleQuantizer((4, 4, 8), scales, 64, max_iter=3, **seed)
        for scales in ((1, 2), (1, 2, 4))
    ],
    "Kronecker": [KroneckerQuantizer((16, 8), V, **few, **seed) for V in (16, 64)],
    "levels, behind PCA": [
        (k, UniformQuantizer(4, levels="lloyd-max", feature_distribution="gaussian"))
        for k in (8, 16, 32, 64)
    ],
    "FSQ, behind PCA": [
        (k, FiniteScalarQuantizer(4, squash="cdf")) for k in (8, 16, 32, 64)
    ],
    "signs, behind PCA": [(k, BinaryQuantizer()) for k in (16, 32, 64, 128)],
    "angles, behind PCA": [
        (k, SphericalQuantizer(4, angles="density", radius="learned"))
        for k in (8, 16, 32, 64)
    ],
}

# %%
# A search over codes
# -------------------
# `QuantizedNeighbors` searches in the codes of most of them.  Products of codewords and
# angles have no table of distances: there, the reconstructions are searched.


def found_by(quantizer, rows, queries):
    """Return the indices of the 10 nearest rows, and the bits that a row takes."""
    if hasattr(quantizer, "distance_table"):
        search = QuantizedNeighbors(quantizer, 10).fit(rows)
        bits = search.quantizer_.bits_per_sample_
    else:
        decoded = quantizer.fit(rows).quantize(rows)
        search = NearestNeighbors(n_neighbors=10).fit(decoded)
        bits = quantizer.bits_per_sample_
    return search.kneighbors(queries, return_distance=False), bits


# Colours that colour-blind readers can tell apart (Petroff 2021); marks differ as well.
plt.style.use("petroff10")
figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
figure.suptitle("The more bits a row has, the more often codes lead to the nearest row")
for ax, k in zip(axes, (1, 10), strict=True):
    ax.set(title=f"recall@{k}", xlabel="bits of a row", xscale="log")
    ax.set_xticks([4, 8, 16, 32, 64, 128], [4, 8, 16, 32, 64, 128])

for (name, quantizers), marker in zip(schemes.items(), "os^vDPX<>*", strict=True):
    points = []
    for quantizer in quantizers:
        both = rows, queries
        if isinstance(quantizer, tuple):
            n_components, quantizer = quantizer
            pca = PCA(n_components, random_state=0).fit(rows)
            both = pca.transform(rows), pca.transform(queries)
        found, bits = found_by(quantizer, *both)
        points.append((bits, *(recall_at_k(true, found, k=k) for k in (1, 10))))
    print(f"{name:20}", *(f"{b:4.0f} bits: {a:.2f} {c:.2f}" for b, a, c in points))
    for column, ax in enumerate(axes):
        bits, *shares = zip(*points, strict=True)
        ax.plot(bits, shares[column], marker + "-", label=name)
axes[0].set_ylabel("share of the queries")
axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
# What the picture shows: Recall at 1 and at 10 against the bits of a row for ten
# schemes, all of them rising; residual and additive codes find most for their bits.
plt.show()
