"""
Choosing under a budget of bits
===============================

Which codec makes the least error within 24 bits per sample?  A grid search over whole
pipelines answers that, if both numbers are measured in the space of the original
samples: a quantizer's own score, behind a scaler, is in the scaler's units.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skvq import ProductQuantizer, VectorQuantizer
from skvq.model_selection import best_within, neg_bits, neg_reconstruction_error

X = load_digits().data.astype(np.float32)
grids = [
    {
        "before": ["passthrough"],
        "quantizer": [VectorQuantizer(random_state=0)],
        "quantizer__n_codewords": [16, 64, 256],
    },
    {
        "before": ["passthrough", StandardScaler(), PCA()],
        "quantizer": [ProductQuantizer(random_state=0)],
        "quantizer__n_subspaces": [2, 4, 8, 16],
        "quantizer__n_codewords": [4, 16],
    },
]
search = GridSearchCV(
    Pipeline([("before", "passthrough"), ("quantizer", VectorQuantizer())]),
    grids,
    scoring={"err": neg_reconstruction_error, "bits": neg_bits},
    refit=best_within(24),
    cv=2,
).fit(X)
print(search.best_params_)

results = search.cv_results_
bits, error = -results["mean_test_bits"], -results["mean_test_err"]
kinds = [
    f"{type(params['quantizer']).__name__}, "
    + (
        "as it is"
        if params["before"] == "passthrough"
        else f"after {type(params['before']).__name__}"
    )
    for params in results["params"]
]
# Colours that colour-blind readers can tell apart (Petroff 2021); marks differ as well.
plt.style.use("petroff10")
figure, ax = plt.subplots(figsize=(7, 5.5), layout="constrained")
for kind, marker in zip(sorted(set(kinds)), "os^D", strict=True):
    chosen = np.array([other == kind for other in kinds])
    ax.plot(bits[chosen], error[chosen], marker, label=kind)
ax.axvline(24, color="0.4", linestyle=":", label="the budget")
best = search.best_index_
ax.plot(bits[best], error[best], "o", ms=14, mfc="none", mec="k", label="the winner")
ax.set(xlabel="bits per sample", ylabel="mean squared error of a test sample")
ax.set_title("The winner has the least error left of the budget")
figure.legend(loc="outside lower center", ncols=2)
# What the picture shows: Error against bits of all candidates, one mark for each kind,
# with a line at the budget of 24 bits and a ring around the winner, which lies at 16
# bits.
plt.show()
