"""Names and versions of our operators, as they stand in every ONNX file. C++ has them in `plugins/cells/contract.h`."""

from __future__ import annotations

from typing import Literal

DOMAIN = "ai.xlstm"
VERSION = 1
MLSTM_CELL = "MLSTMCell"
SLSTM_CELL = "SLSTMCell"
CELLS = (MLSTM_CELL, SLSTM_CELL)
"""What the TensorRT plugin has; the other operators are expanded into their definitions there."""
CAUSAL_CONV = "CausalConv"
MLSTM_PROJECTIONS, SLSTM_PROJECTIONS = "MLSTMProjections", "SLSTMProjections"
MLSTM_HEADS = "MLSTMHeads"
HEAD_NORM, GATED_HEAD_NORM, SKIP_GATED_HEAD_NORM = "HeadNorm", "GatedHeadNorm", "SkipGatedHeadNorm"
ADD_LAYER_NORM, ADD_RMS_NORM = "AddLayerNorm", "AddRMSNorm"
GEGLU, SWIGLU = "GEGLU", "SwiGLU"
SOFT_CAP = "SoftCap"
VALID_TOKENS, LAST_POSITIONS = "ValidTokens", "LastPositions"
INT4_ROWS, INT8_ROWS = "GatherInt4Rows", "GatherInt8Rows"
INT4_COLUMNS, INT8_COLUMNS = "GatherInt4Columns", "GatherInt8Columns"
LOOKUPS = (INT4_ROWS, INT8_ROWS, INT4_COLUMNS, INT8_COLUMNS)
"""Rows of a quantised embedding; no kernel of ours runs them."""
LINEAR, LINEAR_WITH_BIAS = "Linear", "LinearWithBias"
LINEARS = (LINEAR, LINEAR_WITH_BIAS)
"""Linear layers; our CPU kernel has weights of any float type."""
QUANTIZED_MATMUL = "QuantizedMatMul"
"""A product with a quantised matrix; our CPU kernel rounds its inputs."""
OPSET = 21
"""Of standard ONNX, for graphs and definitions."""
PLUGIN_ATTRIBUTES = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
"""On every cell: TensorRT's parser finds the plugin by them."""
Definitions = Literal["standard", "linear-attention"]
"""`standard`: of ONNX operators alone. `linear-attention`: the mLSTM by an operator that only ONNX Runtime has."""
