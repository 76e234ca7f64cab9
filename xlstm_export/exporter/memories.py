"""The mLSTM's memories in half precision.

Of a model's states only the memory C of the mLSTM is large (DK x DV a head; n is DK, m is one number, the sLSTM's
states and the windows of convolutions are as wide as the model), so it alone decides what a token moves. The others
stay float32: an error in m is a factor of exp(m) on all that the cell knows, and n is what h is divided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from ..bundle import StateTensor
from ..bundle.manifest import Dtype
from ..errors import ErrorKind, UserError
from ..operators.names import DOMAIN, MLSTM_CELL
from ..operators.schemas import with_stored_memory

_C, _C_NEXT = 5, 1
"""Of the cell's inputs, and of its outputs."""


def store_memories(model: ir.Model, states: Sequence[StateTensor], dtype: Dtype) -> tuple[StateTensor, ...]:
    """The states with the memories in `dtype`, in the graph too, whose cells then widen and round them.

    Args:
        model: has the states among its inputs and outputs.
        states: marked `in_place` where one cell alone reads the state and writes its next value.

    Raises:
        UserError: it is half precision, and there is no mLSTM whose memory could be stored in it.
    """
    if dtype == "float32":
        return tuple(states)
    alone = {state.input for state in states if state.in_place}
    stored = set()
    for node in model.graph:
        if (node.domain, node.op_type) != (DOMAIN, MLSTM_CELL):
            continue
        before, after = node.inputs[_C], node.outputs[_C_NEXT]
        if before is not None and before.name in alone:
            before.dtype = after.dtype = ir.DataType[dtype.upper()]
            stored.add(before.name)
    if not stored:
        raise UserError(
            ErrorKind.argument,
            f"--state-dtype {dtype} is for the memory of an mLSTM that is kept from pass to pass, and this model has "
            "none. Leave it out.",
        )
    key = (DOMAIN, MLSTM_CELL, "")
    definition = with_stored_memory(ir.serde.serialize_function(model.functions[key]))
    model.functions[key] = ir.serde.deserialize_function(definition)
    return tuple(replace(state, dtype=dtype) if state.input in stored else state for state in states)
