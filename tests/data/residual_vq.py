"""Make `residual_vq.npz`: codes that vector-quantize-pytorch finds in given tables.

Run with vector-quantize-pytorch 1.32.0 and torch; the tests only read what it wrote.
"""

from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import ResidualVQ

rng = np.random.default_rng(0)
tables = rng.normal(size=(3, 16, 8)) * np.array([1, 0.5, 0.25])[:, None, None]
tables, X = tables.astype(np.float32), rng.normal(size=(100, 8)).astype(np.float32)
peer = ResidualVQ(dim=8, num_quantizers=3, codebook_size=16).eval()
for layer, table in zip(peer.layers, tables, strict=True):
    layer._codebook.embed.data.copy_(torch.from_numpy(table)[None])
    layer._codebook.initted.data.fill_(True)
with torch.no_grad():
    quantized, codes, _ = peer(torch.from_numpy(X)[None])
np.savez_compressed(
    Path(__file__).with_suffix(".npz"),
    tables=tables,
    X=X,
    codes=codes[0].numpy().astype(np.uint8),
    quantized=quantized[0].numpy(),
)
