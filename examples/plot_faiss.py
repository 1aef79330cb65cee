"""
The same codec in faiss
=======================

Blocks of a photograph are coded by a residual quantizer that is fitted here, stored and
searched as codes in faiss, and decoded on either side: tables, codes and
reconstructions are the same.
"""

import faiss
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skvq import ResidualQuantizer
from skvq.images import to_blocks
from skvq.interop import from_faiss, to_faiss

SIDE = 8
grey = load_sample_image("china.jpg").mean(axis=2).astype(np.float32)[:424, :640]
X = to_blocks(grey, SIDE)

rq = ResidualQuantizer(4, 64, beam_size=4, random_state=0).fit(X)
print(
    f"{X.shape[0]} blocks of {X.shape[1]} pixels, {rq.bits_per_sample_:.0f} bits each"
)

# %%
# The index has the tables and the beam of the quantizer.  What `add` stores are codes,
# three bytes each.

index = to_faiss(rq)
index.add(X)
decoded = index.reconstruct_n(0, index.ntotal)
print(type(index).__name__, "of", index.code_size, "bytes a row")
print("largest difference of reconstructions:", np.abs(decoded - rq.quantize(X)).max())

# %%
# And back: an index that was trained in faiss is a quantizer here.

again = from_faiss(index)
same = (again.transform(X) == rq.transform(X)).all(axis=1).mean()
print(f"{again}: {100 * same:.1f}% of rows have the same codes")

# %%
# The search compares queries as they are with rows as they are decoded.  Above, the
# blocks that are nearest to a query in truth; below, those that the codes find.

queries = X[np.argsort(X.var(axis=1))[[-150, -1200]]]  # blocks with something in them
exact = faiss.IndexFlatL2(X.shape[1])
exact.add(X)
figure, axes = plt.subplots(4, 9, figsize=(9, 5), layout="constrained")
figure.suptitle("Two queries, and the nearest blocks by pixels and by codes of 3 bytes")
for i, query in enumerate(queries):
    for j, (name, rows) in enumerate((("pixels", exact), ("codes", index))):
        _, found = rows.search(query[None], 8)
        shown = [query, *X[found[0]]]
        for ax, block in zip(axes[2 * i + j], shown, strict=True):
            ax.imshow(block.reshape(SIDE, SIDE), cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
        axes[2 * i + j, 0].set_ylabel(name)
axes[0, 0].set_title("query")
# What the picture shows: Two grey blocks of a photograph, and for each a row of the
# blocks that are nearest by pixels above a row of those that are nearest by codes.
plt.show()

# %%
# Photograph: china.jpg of scikit-learn's samples, by danielbuechele
# (https://www.flickr.com/photos/danielbuechele/6061409035/), CC BY 2.0
# (https://creativecommons.org/licenses/by/2.0/), cut and quantized.
