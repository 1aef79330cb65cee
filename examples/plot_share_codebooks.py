"""
One table for all, or a table for each
======================================

With ``share_codebook=True`` the slices of a product quantizer learn one table from all
of them.  That is fewer numbers to store, and more samples to learn each from: M times
as many.  With few samples, or slices that look alike, it even makes less error on new
data.  The slices here are the 8 x 8 blocks of 16 x 16 blocks of a photograph.

Photograph: flower.jpg of scikit-learn's samples, by vultilion
(https://www.flickr.com/photos/vultilion/6056698931/), CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/), cut and quantized.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skvq import ProductQuantizer
from skvq.metrics import distortion

grey = load_sample_image("flower.jpg").mean(axis=2).astype(np.float32)[:416, :640]
blocks = grey.reshape(26, 16, 40, 16).transpose(0, 2, 1, 3)
# Pixels of an 8 x 8 block must stand side by side, to make a slice.
X = blocks.reshape(-1, 2, 8, 2, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 256)
X = X[np.random.default_rng(0).permutation(len(X))]
train, test = X[:-240], X[-240:]

sizes = [75, 150, 300, 600, 800]
errors = {}
for shared in (False, True):
    errors[shared] = []
    for n_samples in sizes:
        pq = ProductQuantizer(4, 64, share_codebook=shared, random_state=0)
        pq.fit(train[:n_samples])
        errors[shared].append(distortion(test, pq.quantize(test)) / 256)
    # A shared table stands in codebooks_ four times, but it is stored once.
    numbers = sum(table.size for table in {id(t): t for t in pq.codebooks_}.values())
    found = ", ".join(f"{error:.1f}" for error in errors[shared])
    print(f"share_codebook={shared}: {numbers:,} numbers, test error {found}")

# Colours that colour-blind readers can tell apart (Petroff 2021); marks differ as well.
plt.style.use("petroff10")
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
ax.plot(sizes, errors[False], "o-", label="a table for each slice, 16,384 numbers")
ax.plot(sizes, errors[True], "s-", label="one table for all slices, 4,096 numbers")
ax.set(xlabel="training samples", ylabel="mean squared error per pixel, new blocks")
ax.set_title("One table for all slices makes less error on new blocks")
ax.set_ylim(bottom=0)
ax.legend()
# What the picture shows: Error on new blocks against the number of training samples:
# two falling curves, that of one table for all slices below that of a table for each.
plt.show()
