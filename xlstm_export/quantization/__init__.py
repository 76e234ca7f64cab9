"""Bundle → bundle with weights in 8 or 4 bits: standard QDQ, block by block, tensor by tensor.

The work is in `quantize`, whose imports are heavy.
"""

from .options import KEPT, Method, QuantizeOptions, WeightFormat

__all__ = ["KEPT", "Method", "QuantizeOptions", "WeightFormat"]
