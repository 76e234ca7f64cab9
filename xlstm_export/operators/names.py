"""Names and versions of our operators, as they stand in every ONNX file. C++ has them in `plugins/cells/contract.h`."""

from __future__ import annotations

DOMAIN = "ai.xlstm"
VERSION = 1
MLSTM_CELL = "MLSTMCell"
SLSTM_CELL = "SLSTMCell"
INT4_ROWS, INT8_ROWS = "GatherInt4Rows", "GatherInt8Rows"
INT4_COLUMNS, INT8_COLUMNS = "GatherInt4Columns", "GatherInt8Columns"
LOOKUPS = (INT4_ROWS, INT8_ROWS, INT4_COLUMNS, INT8_COLUMNS)
"""Rows of a quantised embedding; no kernel of ours runs them."""
OPSET = 21
"""Of standard ONNX, for graphs and definitions."""
PLUGIN_ATTRIBUTES = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
"""On every node: TensorRT's parser finds the plugin by them."""
