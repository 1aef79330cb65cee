"""
Learning from a large file
==========================

Three learners of `VectorQuantizer` have `partial_fit`: they see one batch at a time,
and keep a running state of the size of the codebook.  Here the samples are the 8 x 8
blocks of a photograph at every position, in a file that is memory-mapped: 266,000 rows
of 64 numbers, of which no more than 2,000 are in memory at a time.

Photograph: china.jpg of scikit-learn's samples, by danielbuechele
(https://www.flickr.com/photos/danielbuechele/6061409035/), CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/), cut and quantized.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skvq import VectorQuantizer
from skvq.metrics import distortion

# %%
# The file
# --------
# Written piece by piece; in practice it is there already.

grey = load_sample_image("china.jpg").mean(axis=2).astype(np.float32)
blocks = np.lib.stride_tricks.sliding_window_view(grey, (8, 8))
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "blocks.npy"
n_rows = blocks.shape[0] * blocks.shape[1]
order = np.random.default_rng(0).permutation(n_rows)
shape = (n_rows, 64)
file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
for start in range(0, n_rows, 20_000):
    where = np.unravel_index(order[start : start + 20_000], blocks.shape[:2])
    file[start : start + 20_000] = blocks[where].reshape(-1, 64)
del file

# %%
# The stream
# ----------
# Rows of a stream should come in an order that has nothing to do with what they hold:
# a learner that first sees only sky puts all its codewords there.  This file is
# shuffled.  The last 5,000 rows are kept for judging.

X = np.load(path, mmap_mode="r")
test = np.asarray(X[-5_000:])
n_train = 100_000
learners = {
    "minibatch": VectorQuantizer(256, learning="minibatch", random_state=0),
    "ema": VectorQuantizer(256, learning="ema", decay=0.95, random_state=0),
    "sgd": VectorQuantizer(256, learning="sgd", learning_rate=0.1, random_state=0),
}
seen = np.arange(2_000, n_train + 1, 2_000)
errors = {name: [] for name in learners}
for stop in seen:
    for name, learner in learners.items():
        learner.partial_fit(X[stop - 2_000 : stop])
        errors[name].append(distortion(test, learner.quantize(test)))

# %%
# Beside k-means that holds 20,000 of the rows in memory, and passes over them up to 25
# times.

batch = VectorQuantizer(256, random_state=0).fit(X[:20_000])
reference = distortion(test, batch.quantize(test))
for name, curve in errors.items():
    print(f"{name}: {curve[-1] / reference:.3f} times the error of k-means")

# Colours that colour-blind readers can tell apart (Petroff 2021); lines differ as well.
plt.style.use("petroff10")
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for (name, curve), line in zip(errors.items(), ("-", "--", "-."), strict=True):
    ax.plot(seen, curve, line, label=name)
ax.axhline(reference, color="0.5", linestyle=":", label="k-means on 20,000 rows")
ax.set(xlabel="rows seen", ylabel="mean squared error of a test block")
ax.set_title("Learners that see each row once come close to k-means")
ax.legend()
# What the picture shows: Error against rows seen for three learners, which fall towards
# a dotted line, the error of k-means on 20,000 rows.
plt.show()

# %%
# Codes of the whole file need no more memory than the codes take: `transform` cuts a
# memory map in blocks of rows.

codes = learners["minibatch"].transform(X)
print(f"{codes.shape[0]:,} codes, {codes.nbytes:,} bytes for {X.nbytes:,}")
del X
folder.cleanup()
