"""A user's own `nn.Module` with xLSTM blocks in it: its states lifted, and how it runs found out."""

from .inputs import NetworkInput, parse_inputs
from .load import digest, load_module, source_file
from .streaming import Verdict, decide

__all__ = ["NetworkInput", "Verdict", "decide", "digest", "load_module", "parse_inputs", "source_file"]
