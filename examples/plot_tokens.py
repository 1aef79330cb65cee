"""
Tokens for a sequence model
===========================

A language model of pictures needs words.  A quantizer makes them: a picture is cut in
patches, and the code of each patch is a token.  Two numbers tell how good a vocabulary
is: the error of what the tokens decode to, and how much of the vocabulary is in use. A
token that never comes up is an output of the model for nothing.

Here the pictures are handwritten digits, the patches have 4 x 4 pixels, and every
vocabulary has about 240 words.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skvq import FiniteScalarQuantizer, VectorQuantizer
from skvq.codes import token_ids
from skvq.display import CodeUsageDisplay
from skvq.grid import recommended_levels
from skvq.metrics import code_usage, distortion, perplexity

images = load_digits().images.astype(np.float32)
patches = images.reshape(-1, 2, 4, 2, 4).swapaxes(2, 3).reshape(-1, 16)
train, test = patches[: 4 * 1200], patches[4 * 1200 :]

# %%
# Vocabularies
# ------------
# FSQ has a codebook that nobody learns: here 8 x 6 x 5 levels of three features, which
# PCA makes, at unit scale.  "tanh" is the squash of the paper; "cdf" learns the
# distribution of each feature.  `token_ids` turns a row of codes into one token.

levels = recommended_levels(8)
tokenizers = {
    "one table": VectorQuantizer(240, random_state=0),
    "FSQ, tanh": make_pipeline(PCA(3, whiten=True), FiniteScalarQuantizer(levels)),
    "FSQ, cdf": make_pipeline(
        PCA(3, whiten=True), FiniteScalarQuantizer(levels, bound="cdf")
    ),
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


figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharey=True)
for ax, (name, tokenizer) in zip(axes, tokenizers.items(), strict=True):
    codes = tokenizer.fit(train).transform(test)
    quantizer = tokenizer if name == "one table" else tokenizer[-1]
    sizes = quantizer.codebook_sizes_
    n_tokens = int(np.prod(sizes))
    tokens = token_ids(codes, sizes)
    print(
        f"{name}: {n_tokens} tokens, {code_usage(tokens[:, None], [n_tokens])[0]:.0%} "
        f"in use, perplexity {perplexity(tokens[:, None])[0]:.0f}, "
        f"error {distortion(test, tokenizer.inverse_transform(codes)) / 16:.2f} a pixel"
    )
    train_tokens = token_ids(tokenizer.transform(train), sizes)
    hesitation = bigram_perplexity(
        train_tokens.reshape(-1, 4), tokens.reshape(-1, 4), n_tokens
    )
    print(f"    a model of pairs hesitates between {hesitation:.0f} tokens")
    CodeUsageDisplay.from_codes(tokens[:, None], [n_tokens], name=name, ax=ax)
plt.show()
