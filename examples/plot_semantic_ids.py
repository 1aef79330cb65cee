"""
Semantic ids
============

A recommender that generates items needs a name for each of them, made of a few tokens
[1]_.  Residual codes of the items' embeddings are such names: the first token says what
an item is about, the others what kind of it.  Items that are alike share a beginning,
so that what a model learns of some of them helps with the others.  But a name has to be
that of one item only, and embeddings of near items have the same codes.

Here the items are titles of a made-up shop, of a few hundred words in a hierarchy.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skvq import ResidualQuantizer
from skvq.codes import UniqueIds, from_vocabulary, offsets
from skvq.display import CodeUsageDisplay
from skvq.metrics import code_report, collision_rate, duplicate_rate, imbalance_factor

# %%
# Items
# -----
# A title names a department, a thing of it and some of its qualities.

DEPARTMENTS = {
    "kitchen": ("pan pot knife bowl kettle jug whisk", "steel copper glass cast iron"),
    "garden": ("spade rake hose trowel shears bench", "ash folding galvanised teak"),
    "office": ("pen notebook stapler lamp folder desk", "lined recycled gel ruled"),
    "sport": ("racket ball shoe glove net helmet", "carbon light indoor trail"),
    "music": ("guitar drum flute string stand amp", "maple acoustic electric brass"),
    "camping": ("tent stove mat lantern rope hammock", "nylon ultralight waterproof"),
    "bathroom": ("towel brush mirror shelf soap mat", "cotton bamboo round scented"),
    "toys": ("train puzzle doll kite blocks robot", "wooden magnetic wind-up soft"),
}
COMMON = "small large blue red green black classic pro mini set new two".split()

rng = np.random.default_rng(0)


def title(department):
    """Return a title of a department."""
    things, qualities = (words.split() for words in DEPARTMENTS[department])
    words = [department, rng.choice(things), *rng.choice(qualities, 2, replace=False)]
    return " ".join([*words, *rng.choice(COMMON, 2, replace=False)])


names = list(DEPARTMENTS)
titles = sorted({title(names[i]) for i in rng.integers(0, len(names), 6_000)})
embed = make_pipeline(
    TfidfVectorizer(token_pattern=r"\S+"), TruncatedSVD(32, random_state=0)
)
X = embed.fit_transform(titles)
print(f"{len(titles)} items, such as {titles[7]!r}")

# %%
# Codes
# -----
# Three tokens of 64 make 262,144 names, some 45 times as many as there are items, and
# still many of them share one: items come in clusters, and most names are near none.
# ``balance=True`` gives each codeword a price, by which all of them are used alike, and
# no token is much more frequent than the others.

for balance in (None, True):
    codec = ResidualQuantizer(3, 64, balance=balance, random_state=0).fit(X)
    codes = codec.transform(X)
    print(
        f"balance={balance}: {duplicate_rate(codes):.1%} of the items add no name of "
        f"their own, {collision_rate(codes):.1%} are not alone with theirs; "
        f"error {codec.distortion_:.4f}"
    )
    print(code_report(codes, codec.codebook_sizes_), end="\n\n")

# %%
# Unique ids
# ----------
# `encode_best` finds several codes of each item, and `UniqueIds` lets the items choose:
# first those to whom the second choice would be the most expensive.  Of an item whose
# candidates are all taken, twice as many are asked for.

ids = UniqueIds(codec.codebook_sizes_)
ids.assign(
    *codec.encode_best(X, 8), widen=lambda rows, n: codec.encode_best(X[rows], n)
)
errors = ((X - codec.inverse_transform(ids.ids_)) ** 2).sum(axis=1)
print(
    f"unique ids: {collision_rate(ids.ids_):.1%} share one, {ids.moved_.mean():.1%} of "
    f"the items have moved, with {ids.width_} candidates at most; error "
    f"{errors.mean():.4f}, imbalance of the tokens "
    f"{imbalance_factor(ids.ids_, ids.sizes_).round(2)}"
)

# %%
# The first tokens are still those of the neighbourhood.  These are the items that begin
# as one of them does: with its first token, and with its first two.

item = titles.index(next(name for name in titles if name.startswith("music guitar")))
for length in (1, 2):
    same = (ids.ids_[:, :length] == ids.ids_[item, :length]).all(axis=1)
    some = rng.permutation(np.flatnonzero(same))[:4]
    print(
        f"\n{same.sum()} items begin with {ids.ids_[item, :length].tolist()}, such as"
    )
    for row in some:
        print(f"    {ids.ids_[row].tolist()}  {titles[row]}")

departments = np.array([names.index(one.split()[0]) for one in titles])
counts = np.zeros((64, len(names)))
for k in range(len(names)):
    counts[:, k] = np.bincount(ids.ids_[departments == k, 0], minlength=64)
print(
    f"\nthe first token alone tells the department of "
    f"{counts.max(axis=1).sum() / len(titles):.0%} of the items"
)

order = np.argsort(counts.argmax(axis=1), kind="stable")
shares = counts[order] / counts.sum(axis=0)
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
mesh = ax.pcolormesh(shares.T, cmap="cividis", edgecolors="white", linewidth=0.3)
figure.colorbar(mesh, label="share of the department")
ax.set(xlabel="first token, in the order of departments", xticks=[])
ax.set_title("Each first token belongs to one department, or nearly so")
ax.set_yticks(np.arange(len(names)) + 0.5, labels=names)
# What the picture shows: Shares of eight departments among the first tokens, as bright
# fields that form a staircase, since nearly every token belongs to one department.
plt.show()

# %%
# Items that come later
# ---------------------
# They get names that are free, and the others keep theirs.  A model writes tokens of
# one vocabulary, and what it has written is looked up: -1 stands for no item.

new = embed.transform([title("music") + " limited" for _ in range(20)])
added = ids.add(
    *codec.encode_best(new, 8), widen=lambda rows, n: codec.encode_best(new[rows], n)
)
tokens = added + offsets(codec.codebook_sizes_)
print(f"\nnew items: tokens {tokens[0].tolist()}, {tokens[1].tolist()}, ...")
written = from_vocabulary(tokens, codec.codebook_sizes_)
written[1] = (written[1] + 1) % 64
print(f"rows of what was written: {ids.row_of(written)[:3].tolist()}, ...")

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
figure.suptitle("Every codeword of the three tables is in use")
for j, ax in enumerate(axes):
    column = ids.ids_[:, j : j + 1]
    CodeUsageDisplay.from_codes(column, [64], name=f"token {j + 1}", ax=ax)
# What the picture shows: Use of the codewords of three tables, from the most to the
# least used: three falling curves that reach to the right edge.
plt.show()

# %%
# .. [1] S. Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS
#    2023.
