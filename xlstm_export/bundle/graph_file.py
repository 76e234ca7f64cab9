"""ONNX's file format, as far as a bundle is read and run: without the package `onnx`, which bundles are made with.

Protobuf's own parser reads it, by the numbers of the fields in onnx.proto (https://github.com/onnx/onnx). What is not
listed here is passed over, and kept where a message is written again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClassesForFiles

from ..errors import ErrorKind, UserError

FLOAT, BFLOAT16 = 1, 16
"""Of `TensorProto.DataType`."""
EXTERNAL = 1
"""Of `TensorProto.DataLocation`."""
INT_ATTRIBUTE = 2
"""Of `AttributeProto.AttributeType`."""

_PACKAGE = "xlstm.onnx"
# Message: its fields, each with its number and type; * stands for any number of them.
_MESSAGES = {
    "ModelProto": "ir_version 1 int64, graph 7 GraphProto, opset_import 8 OperatorSetIdProto*, "
    "metadata_props 14 StringStringEntryProto*, functions 25 FunctionProto*",
    "OperatorSetIdProto": "domain 1 string, version 2 int64",
    "FunctionProto": "name 1 string, node 7 NodeProto*, domain 10 string",
    "GraphProto": "node 1 NodeProto*, name 2 string, initializer 5 TensorProto*, input 11 ValueInfoProto*, "
    "output 12 ValueInfoProto*, value_info 13 ValueInfoProto*",
    "NodeProto": "input 1 string*, output 2 string*, name 3 string, op_type 4 string, attribute 5 AttributeProto*, "
    "domain 7 string",
    "AttributeProto": "name 1 string, i 3 int64, type 20 int32",
    "TensorProto": "dims 1 int64*, data_type 2 int32, name 8 string, external_data 13 StringStringEntryProto*, "
    "data_location 14 int32",
    "StringStringEntryProto": "key 1 string, value 2 string",
    "ValueInfoProto": "name 1 string, type 2 TypeProto",
    "TypeProto": "tensor_type 1 TensorTypeProto",
    "TensorTypeProto": "elem_type 1 int32, shape 2 TensorShapeProto",
    "TensorShapeProto": "dim 1 DimensionProto*",
    "DimensionProto": "dim_value 1 int64, dim_param 2 string",
}


def _message_classes() -> dict[str, Any]:
    """A class for each message, in a pool of their own: `onnx`, where it is loaded too, has its own."""
    file = FileDescriptorProto(name="xlstm_export/graph_file.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            field_name, number, kind = field.split()
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            added = message.field.add(name=field_name, number=int(number))
            added.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                added.type = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    classes = GetMessageClassesForFiles([file.name], pool)
    return {name: classes[f"{_PACKAGE}.{name}"] for name in _MESSAGES}


_CLASSES = _message_classes()
ModelProto, NodeProto = _CLASSES["ModelProto"], _CLASSES["NodeProto"]
"""As those of `onnx`, with the fields above; what fields hold is made by the field's own `add`."""


def read_graph(path: Path) -> Any:
    """The `ModelProto` in a file, without its external weights.

    Raises:
        UserError: it is not an ONNX file, or is damaged.
    """
    try:
        return ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise UserError(
            ErrorKind.bundle, f"{path} is not an ONNX file, or is damaged. Export the bundle again."
        ) from None
