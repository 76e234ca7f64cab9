"""`xlstm-export bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bundle.engine_record import ACTIVATIONS
from .errors import ErrorKind, UserError
from .options import (
    ActivationsOption,
    BundleArgument,
    ConfigOption,
    CustomOpsOption,
    JsonOption,
    RuntimeOption,
    SelectOption,
    SetOption,
    chosen_custom_ops,
)
from .terminal import print_result, progress


def bench(
    bundle: BundleArgument,
    batch: Annotated[str, typer.Option(metavar="N,...", help="The numbers of sequences side by side.")] = "1",
    steps: Annotated[int, typer.Option(min=1, help="The number of steps, or of windows, to time.")] = 200,
    prompt: Annotated[
        int,
        typer.Option(min=0, help="The positions of a prompt to time, or of each window. 0 times no prompt."),
    ] = 512,
    threads: Annotated[
        int | None, typer.Option(min=1, help="The threads of everything that is timed. By default what each takes.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="PEER,...",
            help="Time these in turns with it: `upstream` and `compiled` PyTorch, `transformers`' own ONNX export.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT",
            help="What the peers are made of: the bundle's checkpoint, or the configuration of its random weights.",
        ),
    ] = None,
    config: ConfigOption = None,
    select: SelectOption = None,
    settings: SetOption = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw tokens a second under the limit.")] = None,
    runtime: RuntimeOption = "onnxruntime",
    custom_ops: CustomOpsOption = None,
    activations: ActivationsOption = ACTIVATIONS,
    json: JsonOption = False,
) -> None:
    """Time steps, beside PyTorch and others, as a fraction of what the memory allows, and a prompt; or windows."""
    from .benchmark import BenchOptions, Source, parse_peers, render, run_bench, save_roofline, to_json
    from .whole_file import write_whole

    source = None
    if checkpoint is not None:
        random = bundle.manifest.source.sha256 is None
        said = None if config is None else str(config.resolve())
        source = Source(str(checkpoint.resolve()), said, select, tuple(settings or ()), random)
    options = BenchOptions(
        runtime,
        _batches(batch),
        steps,
        prompt,
        threads,
        parse_peers(against) if against else (),
        source,
        chosen_custom_ops(custom_ops),
        activations,
        chosen_custom_ops(None),
    )
    with progress() as stage:
        result = run_bench(bundle, options, stage)
    if plot is not None:
        write_whole(plot, lambda path: save_roofline(result, path))
    print_result(to_json(result) if json else None, lambda: render(result))


def _batches(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(ErrorKind.argument, f"--batch is {text!r}: give positive numbers, such as 1,8,32.")
    return tuple(dict.fromkeys(map(int, parts)))
