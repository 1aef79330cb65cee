"""
Serving a codec
===============

A codec is fitted in one place and encodes rows in another, one by one as they come.
What goes over is one file without code.  The server tells which codec it has, how long
a row takes, and what is wrong with rows that it cannot encode.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

import skvq
from skvq import ProductQuantizer
from skvq.io import FormatError, codec_info

# %%
# Where the codec is fitted
# -------------------------
# The file says what it holds, and by which versions it was made.  Its id is a name of
# its content: whoever knows it knows that a server has this codec and no other.

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
X = load_digits().data.astype(np.float32)
codec = make_pipeline(PCA(32, random_state=0), ProductQuantizer(8, 64, random_state=0))
codec.fit(X[:1400])
skvq.save(codec, folder / "digits.skvq", details={"trained on": "1400 digits"})

info = codec_info(folder / "digits.skvq")
print(info["steps"], info["bits_per_sample"], "bits", info["details"])
print(info["versions"])

# %%
# Where rows are encoded
# ----------------------
# A row comes as a line of JSON, and so does the answer.  `load` runs nothing that is in
# the file, and `transform` checks every row before it encodes it.

SERVER = """
import json, sys, time
import skvq
from skvq.io import codec_info

path = sys.argv[1]
codec = skvq.load(path)
print(json.dumps({"id": codec_info(path)["id"]}), flush=True)
for line in sys.stdin:
    row = json.loads(line)
    began = time.perf_counter()
    try:
        answer = {"codes": codec.transform([row])[0].tolist()}
    except (TypeError, ValueError) as error:
        answer = {"error": str(error).splitlines()[0]}
    answer["seconds"] = time.perf_counter() - began
    print(json.dumps(answer), flush=True)
"""
(folder / "server.py").write_text(SERVER, encoding="utf-8")
server = subprocess.Popen(
    [sys.executable, folder / "server.py", folder / "digits.skvq"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the same packages
)


def ask(row):
    """Return the server's answer to a row."""
    print(json.dumps(row), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


print("the expected codec:", json.loads(server.stdout.readline())["id"] == info["id"])
answers = [ask(row.tolist()) for row in X[1400:]]
codes = np.array([answer["codes"] for answer in answers])
print("the same codes as here:", np.array_equal(codes, codec.transform(X[1400:])))

# %%
# What it refuses
# ---------------
# Rows that are too short, have holes, or are no numbers; and files that are damaged.

digit = X[1400].tolist()
for row in (digit[:63], [*digit[:63], float("nan")], [*digit[:63], "eight"]):
    print(ask(row)["error"])
server.communicate()  # the end of its input is the end of it

content = bytearray((folder / "digits.skvq").read_bytes())
content[len(content) // 2] ^= 1
(folder / "damaged.skvq").write_bytes(content)
try:
    skvq.load(folder / "damaged.skvq")
except FormatError as error:
    print(str(error).replace(str(folder), "..."))
scratch.cleanup()

# %%
# How long a row takes
# --------------------
# The codes of a single row, beside the share that a row has in a batch of all of them.

began = time.perf_counter()
codec.transform(X[1400:])
in_batch = (time.perf_counter() - began) / len(X[1400:]) * 1e6
alone = np.array([answer["seconds"] for answer in answers[20:]]) * 1e6  # once warm
middle, late = np.percentile(alone, [50, 99])
print(
    f"alone {middle:.0f} us, 99 of 100 within {late:.0f} us; in a batch {in_batch:.1f}"
)

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
ax.hist(alone, bins=np.geomspace(alone.min(), alone.max(), 40), color="0.6")
ax.axvline(middle, color="black", label=f"median: {middle:.0f} us")
ax.axvline(late, color="black", ls="--", label=f"99 of 100: {late:.0f} us")
ax.axvline(in_batch, color="black", ls=":", label=f"in a batch: {in_batch:.1f} us")
ax.set(xlabel="microseconds for a row", ylabel="rows", xscale="log")
ax.set_title("A row that is encoded alone takes longer than one in a batch")
figure.legend(loc="outside lower center", ncols=3)
# What the picture shows: Histogram of the time for one row, on a logarithmic axis, with
# lines at the median and at the ninety-ninth of a hundred, and far to the left the time
# of a row in a batch.
plt.show()
