"""`xlstm-export compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bundle import Bundle
from .bundle.engine_record import ACTIVATIONS
from .options import ActivationsOption, CustomOpsOption, JsonOption, RuntimeOption, chosen_custom_ops
from .terminal import print_result, progress


def compare(
    bundles: Annotated[
        list[Bundle],
        typer.Argument(metavar="DIR DIR...", parser=Bundle.open, help="Bundles of one model."),
    ],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text to read, for bits per byte. By default random tokens.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="The number of tokens to read, in each of 4 rows.")] = 2000,
    threads: Annotated[int | None, typer.Option(min=1, help="The threads that are timed. By default all.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw size, quality and speed.")] = None,
    runtime: RuntimeOption = "onnxruntime",
    custom_ops: CustomOpsOption = None,
    activations: ActivationsOption = ACTIVATIONS,
    json: JsonOption = False,
) -> None:
    """Put variants of a model side by side: size on disk, what they predict, and speed, measured in turns."""
    from .comparison import CompareOptions, compare_bundles, render, save_plot, to_json
    from .whole_file import write_whole

    options = CompareOptions(
        text,
        steps,
        runtime=runtime,
        threads=threads,
        custom_ops=chosen_custom_ops(custom_ops),
        activations=activations,
        library=chosen_custom_ops(None),
    )
    with progress() as stage:
        result = compare_bundles(bundles, options, stage)
    if png is not None:
        write_whole(png, lambda path: save_plot(result, path))
    print_result(to_json(result) if json else None, lambda: render(result))
