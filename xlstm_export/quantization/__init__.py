"""Bundle → bundle with weights in 8 or 4 bits: standard QDQ, block by block, tensor by tensor."""

from .options import Method, QuantizeOptions, WeightFormat
from .quantize import quantize_bundle
from .stored import attach_stored

__all__ = ["Method", "QuantizeOptions", "WeightFormat", "attach_stored", "quantize_bundle"]
