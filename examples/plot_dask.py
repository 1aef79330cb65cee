"""
Rows on several workers
=======================

A photograph is cut in patches, which are the chunks of a Dask array; a cluster of two
workers learns a codebook for them, encodes them lazily, and decodes them.  The table is
the one that a single process learns from all patches in memory, to the last bit.
"""

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_sample_image

from skvq import ProductQuantizer
from skvq.images import from_blocks, to_blocks
from skvq.metrics import psnr

photograph = load_sample_image("flower.jpg")[:424, :640]

# %%
# A chunk is a strip of the photograph, whose patches are made where they are needed.
# Chunks of zarr or Parquet files are read in the same way.

SIDE = 4
strips = da.from_array(photograph, chunks=(40, -1, -1))
n_patches = tuple(rows * 640 // SIDE**2 for rows in strips.chunks[0])
patches = strips.map_blocks(
    to_blocks,
    SIDE,
    drop_axis=2,
    chunks=(n_patches, (SIDE * SIDE * 3,)),
    dtype=np.uint8,
)
print(patches)

# %%
# `fit` computes at once.  `transform` and `inverse_transform` say what they would
# return.  Here the workers are threads; elsewhere, give the address of a scheduler.

cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False)
client = Client(cluster)
pq = ProductQuantizer(6, 64, random_state=0).fit(patches)
codes = pq.transform(patches)
print(codes)

# %%
# The same table as in memory: partial sums are joined in an order that does not depend
# on the chunks.

X = patches.compute()
alone = ProductQuantizer(6, 64, random_state=0).fit(X)
same = [(a == b).all() for a, b in zip(pq.codebooks_, alone.codebooks_, strict=True)]
assert all(same) and pq.distortion_ == alone.distortion_

# %%
# What the codes stand for, at 36 bits for 48 numbers of 8 bits.

decoded = pq.inverse_transform(codes).compute()
quantized = from_blocks(decoded, photograph.shape, SIDE, dtype=np.uint8)
client.close()
cluster.close()

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
figure.suptitle("A photograph, and what the codes of the workers' patches decode to")
value = psnr(X, pq.quantize(X), data_range=255)
for ax, image, title in (
    (axes[0], photograph, "24 bits per pixel"),
    (axes[1], quantized, f"2.25 bits per pixel, {value:.1f} dB"),
):
    ax.imshow(image)
    ax.set_title(title)
    ax.axis("off")
# What the picture shows: A photograph of a flower at 24 bits per pixel, and beside it
# what the codes decode to, which looks alike.
plt.show()

# %%
# Photograph: flower.jpg of scikit-learn's samples, by vultilion
# (https://www.flickr.com/photos/vultilion/6056698931/), CC BY 2.0
# (https://creativecommons.org/licenses/by/2.0/), cut and quantized.
