"""`xlstm-export quantize`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from .bundle import Bundle
from .errors import ErrorKind, UserError
from .options import BundleArgument, CustomOpsOption, chosen_custom_ops
from .quantization import KEPT, Method, QuantizeOptions, WeightFormat
from .terminal import command_line, out, progress

_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(|kB|MB|GB)", text)
    if match is None or float(match[1]) == 0:
        raise UserError(ErrorKind.argument, f"--size is {text!r}: give a size such as 5MB or 1.5GB.")
    return int(float(match[1]) * _UNITS[match[2]])


def quantize(
    bundle: BundleArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write the new bundle to.")
    ],
    weights: Annotated[
        WeightFormat, typer.Option(help="The numbers that matrices become. `float8` (E4M3) is for GPUs, from sm89 on.")
    ],
    block_size: Annotated[
        int, typer.Option(metavar="32|64|128", help="How many weights of one output share a scale.")
    ] = 32,
    method: Annotated[
        Method,
        typer.Option(
            help="`rtn` rounds to nearest, `search` chooses each scale by its error, `gptq` rounds against the "
            "activations of a text."
        ),
    ] = "search",
    keep: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Weights that stay as they are, by name or module, with * and ?. By default gates.",
        ),
    ] = ",".join(KEPT),
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text in the model's language, not the one that you measure with."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="5MB", help="The most bytes of weights: what matters most stays at 8 bits or in float."),
    ] = None,
    bits: Annotated[
        float | None, typer.Option(metavar="4.5", help="The same as bits a weight of the matrices, scales included.")
    ] = None,
    custom_ops: CustomOpsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Write a bundle again with its matrices in 8 or 4 bits."""
    from .quantization.quantize import quantize_bundle

    kept = tuple(keep.split(",")) if keep else ()
    limit = _size(size) if size is not None else None
    library = chosen_custom_ops(custom_ops)
    options = QuantizeOptions(weights, block_size, method, kept, text, limit, bits, library, overwrite)
    with progress() as stage:
        result = quantize_bundle(bundle, output, options, stage, command_line())
    _print_sizes(bundle, result)


def _print_sizes(before: Bundle, after: Bundle) -> None:
    from .inspection import inspect_bundle, render

    out.print(render(inspect_bundle(after)))
    old, new = (sum((b.path / name).stat().st_size for name in b.manifest.weight_files) for b in (before, after))
    out.print(
        f"Wrote [bold]{after.path}[/bold]: {old / 1e6:,.1f} MB of weights became {new / 1e6:,.1f} MB.", highlight=False
    )
