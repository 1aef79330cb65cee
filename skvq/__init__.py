"""Vector quantization for scikit-learn: every scheme, one contract.

A quantizer maps x to the nearest row of a codebook.  The modules are named after the
four questions that a quantizer answers: what shape the codebook has (`vector`,
`product`), where it comes from (`learning`), how the argmin is computed (`nearest`),
and what is judged (`model_selection`).
"""

__version__ = "0.1.0.dev0"

from skvq.features import QuantizedFeatures
from skvq.product import ProductQuantizer
from skvq.vector import VectorQuantizer

__all__ = ["ProductQuantizer", "QuantizedFeatures", "VectorQuantizer", "__version__"]
