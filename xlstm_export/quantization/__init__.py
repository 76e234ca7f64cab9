"""Bundle → bundle with weights in 8 or 4 bits: standard QDQ, block by block, tensor by tensor."""

from .options import Method, QuantizeOptions, WeightFormat
from .quantize import quantize_bundle

__all__ = ["Method", "QuantizeOptions", "WeightFormat", "quantize_bundle"]
