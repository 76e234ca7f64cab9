"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bundle import Bundle
from .bundle.engine_record import Activations, RuntimeName
from .bundle.manifest import Dtype
from .operators.names import Definitions

BundleArgument = Annotated[
    Bundle,
    typer.Argument(metavar="DIR", parser=Bundle.open, help="The bundle: a folder that `xlstm-export onnx` wrote."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The model's configuration (YAML or JSON), when the checkpoint has none."
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select",
        metavar="KEYS",
        help="The model to take where the checkpoint holds several, such as `ema_model`; `inspect` lists them.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the model that the checkpoint does not tell, or tells wrongly. May be given several times.",
    ),
]
CustomOpsOption = Annotated[
    str | None,
    typer.Option(
        "--custom-ops",
        metavar="LIB|none",
        help="The custom-op library for ONNX Runtime. By default the one that is found is used; `doctor` shows it.",
    ),
]
StateDtypeOption = Annotated[
    Dtype,
    typer.Option(
        help="What the memories of the mLSTM are stored in between steps. Half precision halves what they move; "
        "`validate` tells whether the model bears it."
    ),
]
DefinitionsOption = Annotated[
    Definitions,
    typer.Option(
        help="How the mLSTM is computed without our kernels: in ONNX's own operators (`standard`), or by an operator "
        "that ONNX Runtime has, which is faster (`linear-attention`)."
    ),
]
ActivationsOption = Annotated[
    Activations,
    typer.Option(
        help="What ONNX Runtime multiplies quantised weights with on a CPU: `int8` rounds each product's inputs "
        "and is fast, `float32` does not and is exact."
    ),
]
RuntimeOption = Annotated[RuntimeName, typer.Option(help="What runs the bundle.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print data instead of tables.")]


def chosen_custom_ops(option: str | None) -> Path | None:
    """The library that `--custom-ops` stands for."""
    from .native.locate import ONNXRUNTIME_LIBRARY, choose_library

    return choose_library(ONNXRUNTIME_LIBRARY, option)
