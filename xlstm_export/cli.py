"""The command line: parse, call, print. Every command imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from .bench_command import bench
from .bundle.engine_record import ACTIVATIONS, EngineRuntime
from .bundle.manifest import Dtype, LogitsOf, Mode
from .compare_command import compare
from .errors import ErrorKind, UserError
from .forecast_command import forecast
from .options import (
    ActivationsOption,
    BundleArgument,
    ConfigOption,
    CustomOpsOption,
    DefinitionsOption,
    JsonOption,
    RuntimeOption,
    SelectOption,
    SetOption,
    StateDtypeOption,
    chosen_custom_ops,
)
from .plugins_command import plugins
from .quantize_command import quantize
from .serve_command import serve
from .terminal import (
    Commands,
    be_verbose,
    command_line,
    err,
    out,
    print_notes,
    print_result,
    progress,
    show_version,
)
from .triton_command import triton
from .web_command import web

if TYPE_CHECKING:
    from .checkpoints import ReadOptions


app = typer.Typer(
    name="xlstm-export",
    cls=Commands,
    help="Deploy xLSTM models: [bold]checkpoint → ONNX → engine[/bold].\n\n"
    "Start with [cyan]xlstm-export onnx CKPT -o DIR[/cyan], then "
    "[cyan]validate[/cyan], [cyan]generate[/cyan] and [cyan]build[/cyan].",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version, and end.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            callback=be_verbose,
            is_eager=True,
            help="Say what is chosen (runtime, libraries, threads), what other programs are called and what runtimes "
            "warn of, and show where an error comes from. It may stand behind a command, too.",
        ),
    ] = False,
) -> None:
    """What comes before a command."""


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(ErrorKind.argument, f"--batch is {text!r}: give a positive number or `dynamic`.")
    return int(text)


def _refuse(options: Mapping[str, object], what: str) -> None:
    """Options that say nothing about what is exported."""
    if given := [name for name, value in options.items() if value]:
        raise UserError(ErrorKind.argument, f"{', '.join(given)}: not for {what}. Leave it out.")


def _is_factory(path: Path) -> bool:
    """Whether it is `package.module:build` or `file.py:build`, and no path."""
    return path.name.rpartition(":")[2].isidentifier() and ":" in path.name and not path.exists()


def _said(config: Path | None, select: str | None, settings: list[str] | None) -> ReadOptions:
    """What the options say about a checkpoint."""
    from .checkpoints import ReadOptions, parse_overrides

    return ReadOptions(config, select, parse_overrides(settings or ()))


@app.command()
def onnx(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT|MODULE:FACTORY",
            help="The checkpoint: a file or folder (.pt, .ckpt, .safetensors, Hugging Face), or a configuration. Or "
            "what makes a network of your own: `package.module:build` or `folder/file.py:build`, which is run.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write the bundle to.")],
    config: ConfigOption = None,
    select: SelectOption = None,
    settings: SetOption = None,
    dtype: Annotated[
        Dtype, typer.Option(help="The dtype of the projections. Cells and norms are float32 in any case.")
    ] = "float32",
    state_dtype: StateDtypeOption = "float32",
    definitions: DefinitionsOption = "standard",
    batch: Annotated[
        str, typer.Option(metavar="N|dynamic", help="The batch size of the graph: a number, or any.")
    ] = "dynamic",
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="`step` takes one token a pass. `prefill` takes a prompt in chunks. `both` is one graph for the two, "
            "and the default. `window` takes whole sequences, and is the default for networks that do not stream."
        ),
    ] = None,
    logits: Annotated[
        LogitsOf, typer.Option(help="Whether logits are given at each row's last position of a pass, or at all.")
    ] = "last",
    link_weights: Annotated[
        bool, typer.Option("--link-weights", help="Refer to the checkpoint's own bytes instead of copying them.")
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A tokenizer.json to put into the bundle instead of the checkpoint's own."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="For a network of your own: the checkpoint with its weights.")
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=AXES:DTYPE",
            help="For a network of your own: an input, such as x=B,S,12:float32. B is the batch, S the time. May be "
            "given several times.",
        ),
    ] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="CKPT is a configuration: make random weights, for benchmarks.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The seed of the random weights.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Write a checkpoint as an ONNX bundle: model.onnx, weights, manifest.json."""
    from .bundle.destination import check_destination

    batch_size = _batch(batch)
    check_destination(output, overwrite)
    if _is_factory(checkpoint):
        others = {"--config": config, "--set": settings, "--tokenizer": tokenizer, "--random-init": random_init}
        others |= {"--link-weights": link_weights, "--logits": logits != "last"}
        _refuse({**others, "--definitions": definitions != "standard"}, "a network of your own")
        how = (dtype, batch_size, mode, overwrite, state_dtype)
        return _export_network(str(checkpoint), weights, select, input_ or [], output, *how)
    _refuse({"--weights": weights, "--input": input_}, "a checkpoint; name MODULE:FACTORY for a network of your own")
    with err.status("Reading the checkpoint"):
        from .checkpoints import open_checkpoint, random_checkpoint
        from .exporter import ExportOptions, export_bundle
        from .quantization.stored import attach_stored

        chosen = (dtype, batch_size, mode or "both", logits, link_weights, overwrite, tokenizer)
        options = ExportOptions(*chosen, state_dtype, definitions)
        said = _said(config, select, settings)
        source = random_checkpoint(checkpoint, seed, said) if random_init else open_checkpoint(checkpoint, said)
    print_notes(source.notes)
    with progress() as stage:
        bundle = export_bundle(source, output, options, stage, attach_stored, command_line())
    from .inspection import inspect_bundle, render

    out.print(render(inspect_bundle(bundle)))
    out.print(f"Wrote [bold]{output}[/bold] ({bundle.manifest.family}, {dtype}).", highlight=False)


def _export_network(
    factory: str, weights: Path | None, select: str | None, inputs: list[str], output: Path, *how: Any
) -> None:
    """`onnx` for a network of the user's own."""
    with err.status("Building the network"):
        from .exporter.network import NetworkOptions, export_network
        from .inspection import inspect_bundle, render
        from .networks import load_module, parse_inputs, source_file

        options, described = NetworkOptions(*how), parse_inputs(inputs)
        network = load_module(factory, weights, select)
    read = [source_file(factory), *([] if weights is None else [weights])]
    with progress() as stage:
        bundle, verdict = export_network(network, described, output, options, factory, stage, command_line(), read)
    if verdict.reason is not None:
        print_notes((f"{verdict.reason}. The bundle takes whole sequences (mode window).",))
    out.print(render(inspect_bundle(bundle)))
    out.print(f"Wrote [bold]{output}[/bold] (network, {bundle.manifest.mode}).", highlight=False)


@app.command()
def validate(
    bundle: BundleArgument,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="CKPT", help="The checkpoint it was made from.")
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            "--module",
            metavar="PACKAGE.MODULE:FACTORY",
            help="For a network of your own: the function that returns the module it was made from, which is run.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="CKPT", help="The weights to load into that module.")
    ] = None,
    config: ConfigOption = None,
    select: SelectOption = None,
    settings: SetOption = None,
    runtime: RuntimeOption = "onnxruntime",
    steps: Annotated[int, typer.Option(min=1, help="The number of steps of the long run.")] = 2000,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text to compare both models on, in bits per byte.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="The number of sequences side by side. By default the bundle's own, or 4."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the random tokens.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="The folder for report.json and drift.png. By default DIR/validation."
        ),
    ] = None,
    custom_ops: CustomOpsOption = None,
    activations: ActivationsOption = ACTIVATIONS,
) -> None:
    """Compare a bundle with the PyTorch model it was made from, step by step. Exit code 1 when they differ."""
    from .validation import ValidationOptions, render, validate_network, write_report
    from .validation import validate as run

    if (checkpoint is None) == (module is None) or (weights is not None and module is None):
        raise UserError(
            ErrorKind.argument,
            "validate needs what the bundle was made from: --checkpoint CKPT, or for a network of your own "
            "--module package.module:factory with its --weights CKPT.",
        )
    options = ValidationOptions(runtime, chosen_custom_ops(custom_ops), steps, text, batch, seed, activations)
    if module is not None:
        from .networks import load_module

        network = load_module(module, weights, select)
        with progress() as stage:
            result = validate_network(bundle, network, options, module, stage)
    elif checkpoint is not None:
        from .checkpoints import open_checkpoint

        source = open_checkpoint(checkpoint, _said(config, select, settings))
        print_notes(source.notes)
        with progress() as stage:
            result = run(bundle, source, options, stage)
    out.print(render(result))
    folder = report or bundle.path / "validation"
    write_report(result, folder)
    out.print(f"Wrote {folder}/report.json and drift.png.", highlight=False)
    raise typer.Exit(0 if result.passed else 1)


@app.command()
def build(
    bundle: BundleArgument,
    runtime: Annotated[EngineRuntime, typer.Option(help="`tensorrt-rtx` builds without a GPU; `tensorrt` needs one.")],
    target: Annotated[
        str | None,
        typer.Option(metavar="SM,...", help="The GPU architectures for tensorrt-rtx, such as sm86,sm89, or `current`."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="The batch range, for a bundle with dynamic batch.")
    ] = None,
    max_chunk: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most positions of one pass: of a chunk of a prompt (by default 256), or of a whole window.",
        ),
    ] = None,
    plugins: Annotated[
        str | None,
        typer.Option(
            "--plugins",
            metavar="LIB|none",
            help="The plugin library for tensorrt. By default the one that is found is used; `doctor` shows it.",
        ),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Let later versions of TensorRT load the engine (tensorrt).")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Let other GPUs from Ampere on run the engine (tensorrt).")
    ] = False,
) -> None:
    """Build an engine from a bundle, with a sidecar that describes it."""
    from .engines import EngineRequest, build_engine, render

    targets = tuple(target.split(",")) if target else ()
    how = (batch, max_chunk, plugins, version_compatible, hardware_compatible)
    request = EngineRequest(runtime, targets, *how)
    with progress() as stage:
        engine = build_engine(bundle, request, stage)
    out.print(render(engine.record))


@app.command()
def generate(
    bundle: BundleArgument,
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "\n",
    max_new_tokens: Annotated[
        int, typer.Option("-n", "--max-new-tokens", min=1, help="The number of tokens to generate.")
    ] = 400,
    temperature: Annotated[float, typer.Option(help="How freely tokens are drawn. 0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k most likely tokens. 0 draws from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the most likely tokens with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="The positions of one pass of the prompt. By default 256, or what the engine was built for."
        ),
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on where the model ends the text.")] = False,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text appears. It may be given repeatedly.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A tokenizer.json to use instead of the bundle's own.")
    ] = None,
    runtime: RuntimeOption = "onnxruntime",
    custom_ops: CustomOpsOption = None,
    activations: ActivationsOption = ACTIVATIONS,
) -> None:
    """Continue a text, printing it as it is generated."""
    from .api import generate as run
    from .runtime.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, seed)
    text = run(
        bundle,
        prompt,
        max_new_tokens,
        sampling,
        chunk=chunk,
        ignore_eos=ignore_eos,
        stops=stop or (),
        tokenizer=tokenizer,
        runtime=runtime,
        custom_ops=custom_ops,
        activations=activations,
    )
    sys.stdout.write(prompt)
    for piece in text:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    err.print(f"[dim]{text.stats}[/dim]", highlight=False)


app.command()(forecast)
app.command()(web)
app.command()(serve)
app.command()(triton)
app.command()(quantize)


app.command()(bench)
app.command()(compare)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="DIR|CKPT", help="A bundle or a checkpoint.")],
    config: ConfigOption = None,
    select: SelectOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a bundle or a checkpoint holds, or the models to choose from where a checkpoint has several."""
    from .inspection import inspect_path, render, to_json

    result = inspect_path(path, config, select, settings or ())
    print_result(to_json(result) if json else None, lambda: render(result))


@app.command()
def doctor() -> None:
    """Show which runtimes, GPUs, compilers and headers are here, and what each missing one would give."""
    from .doctor import diagnose, render

    with err.status("Looking around"):
        findings = diagnose()
    out.print(render(findings))


app.add_typer(plugins, name="plugins", no_args_is_help=True)


def main() -> None:
    """Entry point. A program without standard output or standard error writes to nowhere."""
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    app(prog_name="xlstm-export")


if __name__ == "__main__":
    main()
