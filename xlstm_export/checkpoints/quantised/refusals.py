"""What is said of a quantised checkpoint that is not read."""

from __future__ import annotations

from ...errors import ErrorKind, UserError
from ..files.settings import Settings
from ..files.weights import Weights

REMEDY = "Give the original checkpoint, and quantise its bundle with `xlstm-export quantize`."


def refuse(settings: Settings, key: str, value: object) -> UserError:
    """The error for a setting of `quantization_config`."""
    return UserError(
        ErrorKind.checkpoint,
        f"{settings.source} has {settings.section}{key} = {value}, which is not read. Read are gptq and gptq_v2, "
        "auto-round in GPTQ's layout (auto_round:auto_gptq), and compressed-tensors in the formats pack-quantized and "
        f"int-quantized, with weights of 4 or 8 bits and float activations. {REMEDY}",
    )


def refuse_tensor(weights: Weights, name: str, problem: str) -> UserError:
    """The error for a tensor."""
    return UserError(ErrorKind.checkpoint, f"{weights.where(name)} {problem}. {REMEDY}")
