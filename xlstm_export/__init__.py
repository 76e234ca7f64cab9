"""Deployment compiler for xLSTM: checkpoint to ONNX to engine."""

__version__ = "0.1.0"
