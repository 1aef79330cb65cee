"""
Tokens for a sequence model
===========================

A language model of pictures needs words.  A quantizer makes them: a picture is cut in
patches, and the code of each patch is a token.  Two numbers tell how good a vocabulary
is: the error of what the tokens decode to, and how much of the vocabulary is in use. A
token that never comes up is an output of the model for nothing.

Here the pictures are handwritten digits, cut in 2 x 2 patches of 4 x 4 pixels, and
every vocabulary has about 240 words.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skvq import (
    FiniteScalarQuantizer,
    MultiScaleQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from skvq.codes import from_vocabulary, offsets, token_ids
from skvq.display import CodeUsageDisplay
from skvq.finite import recommended_levels
from skvq.metrics import code_report, code_usage, distortion, perplexity

images = load_digits().images.astype(np.float32)
maps = images.reshape(-1, 2, 4, 2, 4).swapaxes(2, 3).reshape(-1, 2 * 2 * 16)
train, test = maps[:1200], maps[1200:]

# %%
# Vocabularies
# ------------
# FSQ has a codebook that nobody learns: here 8 x 6 x 5 levels of three features, which
# PCA makes, at unit scale.  "tanh" is the squash of the paper; "cdf" learns the
# distribution of each feature.  A residual quantizer has two codes of 16 for a patch.
# `token_ids` turns a row of codes into one token.
#
# The multi-scale quantizer takes whole pictures, as maps of 2 x 2 patches: its first
# token says how the patches are on average, and the other four what is missing.

levels = recommended_levels(8)
tokenizers = {
    "one table": VectorQuantizer(240, random_state=0),
    "FSQ, tanh": make_pipeline(PCA(3, whiten=True), FiniteScalarQuantizer(levels)),
    "FSQ, cdf": make_pipeline(
        PCA(3, whiten=True), FiniteScalarQuantizer(levels, squash="cdf")
    ),
    "residual": ResidualQuantizer(2, 16, beam_size=4, random_state=0),
    "multi-scale": MultiScaleQuantizer((2, 2, 16), (1, 2), 240, random_state=0),
}

# %%
# A sequence model, the smallest there is
# ---------------------------------------
# It predicts a token from the one before in the same picture, by counting pairs.  Its
# perplexity on new pictures, in tokens, is the number of words it hesitates between.


def bigram_perplexity(train_tokens, test_tokens, n_tokens):
    """Fit pair counts on sequences, and return the perplexity on others."""
    # A share of every prediction is that of the token alone, so that none is zero.
    alone = np.bincount(train_tokens.ravel(), minlength=n_tokens) + 1.0
    alone /= alone.sum()
    pairs = np.zeros((n_tokens, n_tokens))
    before, after = train_tokens[:, :-1].ravel(), train_tokens[:, 1:].ravel()
    np.add.at(pairs, (before, after), 1)
    model = (pairs + 20 * alone) / (pairs.sum(axis=1, keepdims=True) + 20)
    surprise = -np.log(model[test_tokens[:, :-1], test_tokens[:, 1:]])
    return np.exp(surprise.mean())


def tokenize(name, tokenizer, pictures):
    """Return a row of tokens for each picture, and the size of the vocabulary."""
    if name == "multi-scale":  # has one table, and sequences already
        return tokenizer.transform(pictures).astype(int), tokenizer.codebook_sizes_[0]
    codes = tokenizer.transform(pictures.reshape(-1, 16))
    quantizer = tokenizer[-1] if name.startswith("FSQ") else tokenizer
    sizes = quantizer.codebook_sizes_
    return token_ids(codes, sizes).reshape(len(pictures), -1), int(np.prod(sizes))


# Colours that colour-blind readers can tell apart (Petroff 2021); lines differ as well.
plt.style.use("petroff10")
figure, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
figure.suptitle("How often the words of five vocabularies come up")
axes[1, 2].axis("off")
for ax, (name, tokenizer) in zip(axes.flat, tokenizers.items(), strict=False):
    width = 64 if name == "multi-scale" else 16
    tokenizer.fit(train.reshape(-1, width))
    samples = test.reshape(-1, width)
    decoded = tokenizer.inverse_transform(tokenizer.transform(samples))
    tokens, n_tokens = tokenize(name, tokenizer, test)
    column = tokens.reshape(-1, 1)
    hesitation = bigram_perplexity(
        tokenize(name, tokenizer, train)[0], tokens, n_tokens
    )
    error = distortion(samples, decoded) / width
    print(
        f"{name:11} {tokens.shape[1]} tokens of {n_tokens} for a picture, "
        f"{code_usage(column, [n_tokens])[0]:4.0%} in use, perplexity "
        f"{perplexity(column)[0]:3.0f}, error {error:5.2f} a pixel; "
        f"a model of pairs hesitates between {hesitation:.0f}"
    )
    CodeUsageDisplay.from_codes(column, [n_tokens], name=name, ax=ax)
# What the picture shows: Use of the words of five vocabularies, from the most to the
# least used: curves that fall, and end before the right edge where words are never
# used.
plt.show()

# %%
# Several codes for a patch, in one vocabulary
# --------------------------------------------
# A row of codes need not become one token: where a product of sizes is too large for
# the output of a model, each code is a token of its own.  Codes of different columns
# mean different things, so each column gets numbers of its own: an offset, the sum of
# the sizes before it.  A picture is a sequence of 4 x 3 tokens here, of 3 x 32 words,
# in place of 4 tokens of 32,768.
#
# The report says whether the vocabulary is in use, stage by stage, and after how many
# tokens patches are told apart.

sizes = (32, 32, 32)
stages = ResidualQuantizer(3, sizes, beam_size=4, random_state=0)
stages.fit(train.reshape(-1, 16))


def sequences(pictures):
    """Return a row of tokens for each picture."""
    codes = stages.transform(pictures.reshape(-1, 16))
    return (codes + offsets(sizes)).reshape(len(pictures), -1)


train_tokens, test_tokens = sequences(train), sequences(test)
report = code_report(stages.transform(test.reshape(-1, 16)), sizes)
print(report)
CodeUsageDisplay.from_report(report, name="Three stages, all of whose words are in use")
# What the picture shows: Use of the words of three stages, from the most to the least
# used: curves that reach to the right edge, since all words are in use.
plt.show()

# %%
# What a model of the sequence gains
# ----------------------------------
# Tokens that were drawn one by one, each stage by its shares, would take the entropies
# of the columns.  A model that takes fewer bits on new pictures has found structure:
# which patches are neighbours, and which second codes go with a first one.

alone = np.mean([column["entropy"] for column in report["columns"]])
pairs = np.log2(bigram_perplexity(train_tokens, test_tokens, sum(sizes)))
print(f"bits of a token: {alone:.2f} drawn alone, {pairs:.2f} by a model of pairs")

# %%
# And back: take the offsets away, and decode.

first = from_vocabulary(test_tokens[:1].reshape(-1, len(sizes)), sizes)
patches = stages.inverse_transform(first).reshape(2, 2, 4, 4)
figure, axes = plt.subplots(1, 2, figsize=(5, 3), layout="constrained")
figure.suptitle("A digit before and after its tokens")
for ax, picture, title in (
    (axes[0], test[0].reshape(2, 2, 4, 4), "picture"),
    (axes[1], patches, "decoded from 12 tokens"),
):
    ax.imshow(picture.swapaxes(1, 2).reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    ax.set(title=title, xticks=[], yticks=[])
# What the picture shows: A handwritten digit of 8 by 8 pixels, and beside it a slightly
# blurred one, which its twelve tokens decode to.
plt.show()

# sphinx_gallery_thumbnail_number = 3
