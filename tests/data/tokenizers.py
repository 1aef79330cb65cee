"""Write ``tokenizers.npz``: codes of vector-quantize-pytorch, for `test_scalar.py`.

It needs vector-quantize-pytorch 1.32.0, and through it torch, which the tests do not:
``python tests/data/tokenizers.py`` in an environment that has it.
"""

from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import FSQ, LFQ, ResidualFSQ, ResidualLFQ

N_ROWS = 32
FSQ_LEVELS = [8, 5, 2, 3, 6]
RESIDUAL_LEVELS = [5, 3, 4]


def samples(n_features, seed):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(1, N_ROWS, n_features)) * 1.5).astype(np.float32)


def stored(quantizer, X):
    """Return samples, tokens and reconstructions, of one sequence."""
    with torch.no_grad():
        quantized, tokens = quantizer.eval()(torch.from_numpy(X))[:2]
    return X[0], tokens[0].numpy().astype(np.int16), quantized[0].numpy()


def cases():
    published = [size for size in FSQ_LEVELS if size > 2]
    X = samples(len(published), 0)
    yield "fsq", stored(FSQ(published), X)
    X = samples(len(FSQ_LEVELS), 1)
    yield "fsq-symmetric", stored(FSQ(FSQ_LEVELS, preserve_symmetry=True), X)
    yield (
        "fsq-clamp",
        stored(FSQ(published, bound_hard_clamp=True), samples(len(published), 2)),
    )
    X = samples(len(RESIDUAL_LEVELS), 3)
    for name, clamp in (("rfsq", True), ("rfsq-tanh", False)):
        quantizer = ResidualFSQ(
            levels=RESIDUAL_LEVELS, num_quantizers=3, bound_hard_clamp=clamp
        )
        yield name, stored(quantizer, X)
    yield "lfq", stored(LFQ(dim=6, codebook_scale=0.5), samples(6, 4))
    X = samples(6, 5)
    yield "rlfq", stored(ResidualLFQ(dim=6, num_quantizers=4, codebook_size=64), X)


if __name__ == "__main__":
    arrays = {"levels": FSQ_LEVELS, "residual_levels": RESIDUAL_LEVELS}
    for name, (X, tokens, quantized) in cases():
        arrays |= {
            f"{name}/X": X,
            f"{name}/tokens": tokens,
            f"{name}/X_quant": quantized,
        }
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
