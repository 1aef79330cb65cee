"""
Codes as features of a classifier
=================================

Codes are names: code 7 is not between 6 and 8.  A classifier that takes them for
quantities learns nonsense.  It can take the codewords that the codes stand for
(`QuantizedFeatures`), or one indicator for every codeword (`OneHotEncoder`).  Here are
both beside the raw pixels, on handwritten digits at 8 to 64 bits instead of 512.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skvq import ProductQuantizer, QuantizedFeatures

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X.astype(np.float32), y, random_state=0
)


def accuracy(*steps):
    """Return the accuracy on the test digits behind some steps."""
    classifier = LogisticRegression(C=0.1, max_iter=2000)
    return make_pipeline(*steps, classifier).fit(X_train, y_train).score(X_test, y_test)


n_subspaces = [2, 4, 8, 16]
results = {"codes as quantities": [], "indicators of codes": [], "codewords": []}
for m in n_subspaces:
    pq = ProductQuantizer(m, 16, random_state=0)
    results["codes as quantities"].append(accuracy(pq, StandardScaler()))
    # A code that no training digit has is none of the indicators.
    encoder = OneHotEncoder(handle_unknown="ignore")
    results["indicators of codes"].append(accuracy(pq, encoder))
    results["codewords"].append(accuracy(QuantizedFeatures(pq), StandardScaler()))
raw = accuracy(StandardScaler())

print(f"{'bits':>20}", *(f"{4 * m:6}" for m in n_subspaces))
for name, found in results.items():
    print(f"{name:>20}", *(f"{share:6.3f}" for share in found))
print(f"{'raw pixels':>20} {raw:6.3f}")

# Colours that colour-blind readers can tell apart (Petroff 2021); marks differ as well.
plt.style.use("petroff10")
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
bits = [4 * m for m in n_subspaces]
for (name, found), marker in zip(results.items(), "osD", strict=True):
    ax.plot(bits, found, marker + "-", label=name)
ax.axhline(raw, color="0.5", linestyle=":", label="raw pixels, 512 bits")
ax.set(xlabel="bits per digit", ylabel="accuracy on test digits", xscale="log")
ax.set_title("Codes mislead a classifier as quantities, and serve it as names")
ax.set_xticks(bits, bits)
ax.minorticks_off()
ax.legend()
# What the picture shows: Accuracy against bits: codewords and indicators of codes come
# near to raw pixels, while codes taken as quantities stay below half of that.
plt.show()
