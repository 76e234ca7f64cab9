"""Names and versions of our operators, as they stand in every ONNX file. C++ has them in `plugins/cells/contract.h`."""

from __future__ import annotations

DOMAIN = "ai.xlstm"
VERSION = 1
MLSTM_CELL = "MLSTMCell"
SLSTM_CELL = "SLSTMCell"
CELLS = (MLSTM_CELL, SLSTM_CELL)
"""What the TensorRT plugin has; the operators around them are expanded into their definitions there."""
CAUSAL_CONV = "CausalConv"
MLSTM_PROJECTIONS = "MLSTMProjections"
GATED_HEAD_NORM = "GatedHeadNorm"
SKIP_GATED_HEAD_NORM = "SkipGatedHeadNorm"
OPSET = 21
"""Of standard ONNX, for graphs and definitions."""
PLUGIN_ATTRIBUTES = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
"""On every cell: TensorRT's parser finds the plugin by them."""
