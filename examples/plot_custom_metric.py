"""
A metric of your own
====================

The metric decides which codeword is nearest.  `VectorQuantizer` learns under squared
Euclidean, cosine and Manhattan distance.  Under any other metric of SciPy, or a
function of two vectors, it assigns samples to a table that you give it:
``learning="fixed"``.

Here the table has three prototypes of each handwritten digit, and a test digit gets the
label of its nearest prototype.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvq import VectorQuantizer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=500, random_state=0)

# %%
# Prototypes, by k-means within every class
# -----------------------------------------

prototypes = np.vstack(
    [
        VectorQuantizer(3, n_init=5, random_state=0)
        .fit(X_train[y_train == digit])
        .full_codebook()
        for digit in range(10)
    ]
)
labels = np.repeat(np.arange(10), 3)

# %%
# The metrics
# -----------
# A callable takes two vectors and returns a number.  It is called from Python for every
# pair, so it is slow: 15,000 pairs here take a fraction of a second.  Names of SciPy
# run compiled.


def chi_squared(a, b):
    """Compare two histograms: differences count for less where there is much."""
    total = a + b
    return ((a - b) ** 2 / np.where(total > 0, total, 1)).sum()


def within_a_pixel(a, b):
    """Squared Euclidean distance at the best shift by up to one column."""
    a, b = a.reshape(8, 8), b.reshape(8, 8)
    padded = np.pad(a, ((0, 0), (1, 1)))
    return min(((padded[:, i : i + 8] - b) ** 2).sum() for i in range(3))


metrics = ["sqeuclidean", "cosine", "manhattan", "jensenshannon"]
metrics += [chi_squared, within_a_pixel]
accuracy = {}
for metric in metrics:
    vq = VectorQuantizer(30, metric=metric, learning="fixed", init=prototypes)
    codes = vq.fit(X_train[:100]).transform(X_test).ravel()
    name = metric if isinstance(metric, str) else metric.__name__
    accuracy[name] = (labels[codes] == y_test).mean()
    print(f"{name:>15}: {accuracy[name]:.3f} of the digits are recognised")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
grid = prototypes.reshape(10, 3, 8, 8).transpose(1, 2, 0, 3).reshape(24, 80)
left.imshow(grid, cmap="gray_r")
left.set_title("three prototypes of each digit")
left.axis("off")
right.plot(list(accuracy.values()), list(accuracy), "o")
right.grid(axis="x")
right.set_title("how often a metric finds the digit")
right.set(xlabel="accuracy on test digits")
# What the picture shows: On the left three blurred prototypes of each digit, on the
# right the accuracy of six metrics, the highest for the one that allows a shift by a
# pixel.
plt.show()
