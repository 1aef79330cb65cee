"""
Embeddings in data frames
=========================

Data frames keep an embedding as a list in each row.  Here such a column of 256 bytes a
row becomes one of eight bytes, which stays beside the other columns, and is decoded
again for the rows that a query has chosen: in pandas by their index, in Polars after a
join.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
from sklearn.datasets import load_digits

from skvq import ProductQuantizer
from skvq.codes import token_ids
from skvq.io import rows

# %%
# pandas
# ------
# The pixels of digits stand for embeddings; the names of the scans are the index.

digits = load_digits()
names = [f"scan-{i:04}" for i in range(len(digits.target))]
df = pd.DataFrame(
    {"digit": digits.target, "emb": list(digits.data.astype(np.float32))}, index=names
)
print(df.head(3))

# %%
# Estimators take matrices, and tell what makes one of such a column.

pq = ProductQuantizer(8, 256, random_state=0)
try:
    pq.fit(df["emb"])
except ValueError as error:
    print(error)

# %%
# With the index of the frame, all that is made of the matrix has it: codes, token ids,
# and the reconstructions of `quantize`, which have the names of the features as well.

X = pd.DataFrame(rows(df["emb"]), index=df.index).add_prefix("pixel")
pq.set_output(transform="pandas").fit(X)
codes = pq.transform(X)
print(codes.head(3))
print(pq.quantize(X).iloc[:3, :5].round(1))

# %%
# As lists, the codes are one column.  Where there are no more than 2^63 sums of codes,
# a number does as well: of the first two tables, here.

df["codes"] = list(codes.to_numpy())
df["token"] = token_ids(codes.iloc[:, :2], pq.codebook_sizes_[:2])
df = df.drop(columns="emb")
print(df.head(3))

# %%
# Back: `inverse_transform` returns arrays, as those of scikit-learn do.

chosen = df[df["digit"] == 3].sample(6, random_state=1)
decoded = pq.inverse_transform(rows(chosen["codes"]))
decoded = pd.DataFrame(decoded, index=chosen.index)
print(decoded.shape)

# %%
# Polars
# ------
# Its columns of type Array are matrices without a copy, and so are those of type List
# if they are in one piece.

table = pl.DataFrame({"scan": names, "emb": digits.data.astype(np.float32)})
coded = pl.DataFrame({"scan": names, "codes": codes.to_numpy()})
print(table["emb"].dtype, "->", coded["codes"].dtype)
print(np.shares_memory(rows(table["emb"]), table["emb"].to_numpy()))

wanted = pl.DataFrame({"scan": ["scan-0900", "scan-0007"], "why": ["blurred", "asked"]})
found = wanted.join(coded, on="scan", how="left")
again = pq.inverse_transform(rows(found["codes"]))
print(found)
print(bool((again == pq.quantize(X).loc[found["scan"]].to_numpy()).all()))

# %%
# What the query has chosen: the lists as they were, their codes, and what these stand
# for.

figure, axes = plt.subplots(
    len(chosen), 3, figsize=(7, 6), width_ratios=[1, 5, 1], layout="constrained"
)
figure.suptitle("Six rows of a table: their lists, their codes, and these decoded")
for name, (left, middle, right) in zip(chosen.index, axes, strict=True):
    for ax, pixels in ((left, X.loc[name]), (right, decoded.loc[name])):
        ax.imshow(pixels.to_numpy().reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    cells = chosen.loc[name, "codes"]
    middle.imshow(cells[None], cmap="cividis", vmin=0, vmax=255, aspect="auto")
    for j, code in enumerate(cells):
        colour = "white" if code < 128 else "black"
        middle.text(j, 0, code, ha="center", va="center", color=colour)
    left.set_ylabel(name, rotation=0, ha="right", va="center")
titles = ("256 bytes", "8 bytes", "back")
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
# What the picture shows: Six rows of a table, each with the picture of a digit, the
# eight numbers of its code, and the slightly blurred digit that they decode to.
plt.show()
