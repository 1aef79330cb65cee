"""
Embeddings, compressed and searched
===================================

Texts have embeddings of 64 numbers, 256 bytes in float32.  Coded in 4 to 16 bytes they
are searched as they are, without being decoded: how many of the ten nearest texts does
a search over codes find?  Beside it is what shorter numbers do at as many bytes.
"""

import inspect
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.discovery import all_estimators, all_functions

from skvq import ProductQuantizer, QuantizedNeighbors
from skvq.metrics import recall_at_k

# %%
# The texts
# ---------
# Those that come with scikit-learn: the paragraphs of its docstrings.  What they have
# in common with each other is in 64 components of their weighted words.

texts = {}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of modules that are to be removed
    documented = [*all_estimators(), *all_functions()]
for name, documented_object in documented:
    for paragraph in re.split(r"\n\s*\n", inspect.getdoc(documented_object) or ""):
        text = " ".join(paragraph.split())
        if len(text) >= 80 and not text.startswith((">>>", "..")):
            texts.setdefault(text, name)

words = TfidfVectorizer(sublinear_tf=True, stop_words="english", max_features=4000)
embed = make_pipeline(words, TruncatedSVD(64, random_state=0), Normalizer())
X = embed.fit_transform(texts).astype(np.float32)
X = np.random.default_rng(0).permutation(X)
rows, queries = X[300:], X[:300]
print(f"{len(rows)} texts of {rows.shape[1]} numbers, {rows[0].nbytes} bytes each")

# %%
# The search
# ----------
# `QuantizedNeighbors` encodes the rows, and compares a query, which stays as it is,
# with the codes.  With `rerank`, the best 40 are compared again as they were.

true = NearestNeighbors(n_neighbors=10).fit(rows).kneighbors(queries)[1]

n_bytes = [4, 8, 16]
searches = ("codes", "codes, then 40 rows again", "as many bytes of components")
recall = {name: [] for name in searches}
for m in n_bytes:
    pq = ProductQuantizer(m, 256, random_state=0)
    by_codes = QuantizedNeighbors(pq, 10, rerank=40).fit(rows)
    again = by_codes.kneighbors(queries, return_distance=False)
    by_codes.set_params(rerank=None)
    coded = by_codes.kneighbors(queries, return_distance=False)
    # Components, of 4 bytes each.
    pca = PCA(m // 4, random_state=0).fit(rows)
    of_few = NearestNeighbors(n_neighbors=10).fit(pca.transform(rows))
    few = of_few.kneighbors(pca.transform(queries), return_distance=False)
    for name, found in zip(searches, (coded, again, few), strict=True):
        recall[name].append(recall_at_k(true, found, k=10, n_true=10))

print(f"{'bytes of a row':>28}", *(f"{m:5}" for m in n_bytes))
print(f"{'a part of the embedding':>28}", *(f" 1/{256 // m:<2}" for m in n_bytes))
for name, found in recall.items():
    print(f"{name:>28}", *(f"{share:5.2f}" for share in found))

# %%
# In 8 bytes, a 32nd of the embedding, the codes alone lead to most of the neighbours.

colours = plt.colormaps["cividis"]([0.0, 0.5, 0.8])
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for (name, found), colour, marker in zip(recall.items(), colours, "os^", strict=True):
    ax.plot(n_bytes, found, marker + "-", color=colour, label=name)
ax.plot(256, 1, "k*", markersize=12, label="the embeddings, in float32")
ax.set(xlabel="bytes of a row", ylabel="share of the ten nearest found", xscale="log")
# The title is the alternative text of the picture, too.
ax.set(title="Codes of 8 bytes find most of what 256 bytes would", ylim=(0, 1.05))
ax.set_xticks([*n_bytes, 256], [f"{m}\n1/{256 // m}" for m in n_bytes] + ["256"])
ax.minorticks_off()
ax.legend(loc="lower right")
# What the picture shows: Share of the ten nearest texts found against bytes of a row:
# codes find most, codes with another look at 40 rows find nearly all, and as many bytes
# of components find few.
plt.show()
