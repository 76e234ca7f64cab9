"""The command line: parse, call, print. Every command imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .errors import ErrorKind, UserError

app = typer.Typer(
    name="xlstm-export",
    help="Deploy xLSTM models: [bold]checkpoint → ONNX → engine[/bold].\n\n"
    "Start with [cyan]xlstm-export onnx CKPT -o DIR[/cyan], then "
    "[cyan]validate[/cyan], [cyan]generate[/cyan] and [cyan]build[/cyan].",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Mode(str, Enum):
    step = "step"
    prefill = "prefill"
    both = "both"


class LogitsOf(str, Enum):
    last = "last"
    all = "all"


class EngineRuntime(str, Enum):
    tensorrt_rtx = "tensorrt-rtx"
    tensorrt = "tensorrt"


class Runtime(str, Enum):
    onnxruntime = "onnxruntime"
    tensorrt_rtx = "tensorrt-rtx"
    tensorrt = "tensorrt"


BundleArg = Annotated[Path, typer.Argument(metavar="DIR", help="Bundle: a folder written by `xlstm-export onnx`.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Model configuration (yaml or json), when the checkpoint has none."),
]
LibraryOption = Annotated[
    str | None,
    typer.Option(
        "--ort-library", metavar="LIB|none", help="Custom-op library for ONNX Runtime; the built one by default."
    ),
]


@app.command()
def onnx(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT",
            help="Checkpoint file or folder (.pt, .ckpt, .safetensors, Hugging Face), or a configuration.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write the bundle to.")],
    config: ConfigOption = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the projections; cells, norms and states are float32 in any case.")
    ] = Dtype.float32,
    batch: Annotated[str, typer.Option(metavar="N|dynamic", help="Batch size of the graph.")] = "dynamic",
    mode: Annotated[
        Mode, typer.Option(help="step: one token a pass; prefill: a prompt in chunks; both: one graph for the two.")
    ] = Mode.both,
    logits: Annotated[
        LogitsOf, typer.Option(help="At each row's last position of a pass, or at all of them.")
    ] = LogitsOf.last,
    link_weights: Annotated[
        bool, typer.Option("--link-weights", help="Refer to the checkpoint's own bytes instead of copying them.")
    ] = False,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="CKPT is a configuration: make random weights, for benchmarks.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Write a checkpoint as an ONNX bundle: model.onnx, weights, manifest.json."""
    from .exporter.write import check_destination

    batch_size = _batch(batch)
    check_destination(output, overwrite)
    with err.status("Reading the checkpoint"):
        from .checkpoints import open_checkpoint
        from .checkpoints.random_weights import random_checkpoint
        from .exporter.write import export_bundle

        ckpt = random_checkpoint(checkpoint, seed) if random_init else open_checkpoint(checkpoint, config)
    for note in ckpt.notes:
        err.print(f"note: {note}", markup=False, highlight=False)
    with _progress() as stage:
        manifest = export_bundle(
            ckpt, output, dtype.value, batch_size, mode.value, logits.value, link_weights, overwrite, stage
        )
    from .inspection import inspect_bundle, render

    out.print(render(inspect_bundle(output)))
    out.print(f"Wrote [bold]{output}[/bold] ({manifest.family}, {manifest.dtype}).", highlight=False)


@app.command()
def validate(
    bundle: BundleArg,
    checkpoint: Annotated[Path, typer.Option("--checkpoint", metavar="CKPT", help="The checkpoint it was made from.")],
    config: ConfigOption = None,
    runtime: Annotated[Runtime, typer.Option(help="What runs the bundle.")] = Runtime.onnxruntime,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the long run; 2,000 when not given.")] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Text to compare on, in bits per byte.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences side by side; the bundle's own, or 4, when not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Folder for report.json and drift.png.")
    ] = None,
    ort_library: LibraryOption = None,
) -> None:
    """Compare a bundle with the upstream PyTorch model, step by step. Exit code 1 when they differ."""
    from .validation import render, write_report
    from .validation import validate as run

    with _progress() as stage:
        result = run(
            bundle,
            checkpoint,
            config=config,
            runtime=runtime.value,
            steps=steps,
            text=text,
            batch=batch,
            seed=seed,
            ort_library=_ort_library(ort_library),
            stage=stage,
        )
    folder = report or bundle / "validation"
    write_report(result, folder)
    out.print(render(result))
    out.print(f"Wrote {folder}/report.json and drift.png.", highlight=False)
    raise typer.Exit(0 if result.passed else 1)


@app.command()
def build(
    bundle: BundleArg,
    runtime: Annotated[EngineRuntime, typer.Option(help="tensorrt-rtx builds without a GPU; tensorrt needs one.")],
    target: Annotated[
        str | None, typer.Option(metavar="SM,...", help="GPU architectures for tensorrt-rtx (sm86,sm89), or `current`.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="Batch range of a bundle with dynamic batch.")
    ] = None,
    max_chunk: Annotated[
        int | None, typer.Option(min=1, help="Most positions of one pass of a prompt; 256 when not given.")
    ] = None,
    plugins: Annotated[
        str | None,
        typer.Option("--plugins", metavar="LIB|none", help="Plugin library for tensorrt; the built one by default."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Let later versions of TensorRT load the engine (tensorrt).")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Let other GPUs from Ampere on run the engine (tensorrt).")
    ] = False,
) -> None:
    """Build an engine from a bundle, with a sidecar that describes it."""
    from .engines import build_engine, render

    with _progress() as stage:
        record = build_engine(
            bundle,
            runtime.value,
            targets=tuple(target.split(",")) if target else (),
            batch=batch,
            max_chunk=max_chunk,
            plugins=Path(plugins) if plugins not in (None, "none") else None,
            use_plugins=plugins != "none",
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            stage=stage,
        )
    out.print(render(record))


@app.command()
def generate(
    bundle: BundleArg,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "\n",
    max_new_tokens: Annotated[int, typer.Option("-n", "--max-new-tokens", min=1, help="Tokens to generate.")] = 400,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k most likely tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the most likely tokens with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Positions of one pass of the prompt; 256, or the engine's own.")
    ] = None,
    runtime: Annotated[Runtime, typer.Option(help="What runs the bundle.")] = Runtime.onnxruntime,
    ort_library: LibraryOption = None,
) -> None:
    """Continue a text, printing it as it is generated."""
    from .bundle.manifest import read_manifest
    from .runtime import open_session
    from .runtime.generation import Generation
    from .runtime.sampling import Sampler, Sampling
    from .runtime.tokenizers import open_tokenizer

    sampler = Sampler(Sampling(temperature, top_k, top_p, seed))
    manifest = read_manifest(bundle)
    tokenizer = open_tokenizer(bundle, manifest)
    library = _ort_library(ort_library)
    with open_session(bundle, runtime.value, batch=manifest.batch or 1, ort_library=library) as session:
        generation = Generation(session, tokenizer.encode(prompt), max_new_tokens, sampler, chunk)
        sys.stdout.write(prompt)
        for piece in tokenizer.decode_stream(generation):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    s = generation.stats
    err.print(
        f"[dim]{s.prompt_tokens} prompt tokens at {s.prompt_tokens / s.prompt_seconds:,.0f}/s, "
        f"{s.new_tokens} new at {s.new_tokens / s.new_seconds:,.0f}/s[/dim]",
        highlight=False,
    )


@app.command()
def bench(
    bundle: BundleArg,
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time.")] = 200,
    prompt: Annotated[int, typer.Option(min=0, help="Tokens of a prompt to time; 0: none.")] = 512,
    runtime: Annotated[Runtime, typer.Option(help="What runs the bundle.")] = Runtime.onnxruntime,
    ort_library: LibraryOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
) -> None:
    """Time decode steps, as a fraction of what the memory bandwidth allows, and a prompt."""
    from .benchmark import render, time_steps

    with _progress() as stage:
        timing = time_steps(
            bundle, runtime.value, batch, steps, prompt, _ort_library(ort_library), stage("Stepping", steps)
        )
    if json:
        sys.stdout.write(timing.to_json() + "\n")
    else:
        out.print(render(timing))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="DIR|CKPT", help="Bundle or checkpoint.")],
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False,
) -> None:
    """Show what a bundle or a checkpoint holds: family, dimensions, parameters, states, operators, inputs, outputs."""
    from .inspection import inspect_path, render, to_json

    result = inspect_path(path, config)
    if json:
        sys.stdout.write(to_json(result) + "\n")
    else:
        out.print(render(result))


@app.command()
def doctor() -> None:
    """Show which runtimes, GPUs, compilers and headers are here, and what each missing one would give."""
    from .doctor import diagnose, render

    with err.status("Looking around"):
        findings = diagnose()
    out.print(render(findings))


plugins_app = typer.Typer(help="Native kernels: the TensorRT plugin and the ONNX Runtime custom-op library.")
app.add_typer(plugins_app, name="plugins", no_args_is_help=True)


@plugins_app.command("build")
def plugins_build(
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SM,...", help="GPU architectures (sm86,sm89), or `current`; those of a release when not given."
        ),
    ] = None,
    no_cuda: Annotated[bool, typer.Option("--no-cuda", help="Only the CPU kernels, for ONNX Runtime.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where to put them; the user cache by default.")
    ] = None,
) -> None:
    """Compile the libraries and install them where they are found by default. Headers that are missing are fetched."""
    from .native.build import build_libraries

    with _progress() as stage:
        result = build_libraries(target.split(",") if target else (), not no_cuda, output, stage)
    for note in result.notes:
        err.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for library in result.libraries:
        out.print(f"Built {library}", highlight=False, soft_wrap=True)
    for name, reason in result.left_out.items():
        out.print(f"Left out {name}: {reason}", highlight=False, soft_wrap=True)


@plugins_app.command("check")
def plugins_check(
    library: Annotated[
        Path | None, typer.Argument(metavar="LIB", help="Plugin library; the built one when not given.")
    ] = None,
) -> None:
    """Load the TensorRT plugin into every registry that is installed. Exit code 1 when one does not take it."""
    from .native.check import check_library, print_check
    from .native.locate import TENSORRT_PLUGINS, require_library

    check = check_library(require_library(TENSORRT_PLUGINS, library))
    print_check(check)
    raise typer.Exit(0 if check.passed else 1)


def _ort_library(value: str | None) -> Path | None:
    """What `--ort-library` names: nothing given is the built library, if any; `none` is plain ONNX Runtime."""
    from .native.locate import ONNXRUNTIME_LIBRARY, find_onnxruntime_library, require_library

    if value == "none":
        return None
    return require_library(ONNXRUNTIME_LIBRARY, Path(value)) if value else find_onnxruntime_library()


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(ErrorKind.argument, f"--batch is {text!r}: give a positive number or `dynamic`.")
    return int(text)


@contextmanager
def _progress() -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Progress bars on standard error, one for each stage; nothing remains of them."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bars:

        def stage(title: str, total: int | None) -> Callable[[int], None]:
            for done in bars.task_ids:
                bars.remove_task(done)
            task = bars.add_task(title, total=total)
            return lambda amount: bars.advance(task, amount)

        yield stage


def main() -> None:
    """Entry point: a `UserError` becomes one message and exit code 2."""
    try:
        app()
    except UserError as error:
        err.print("[bold red]error:[/bold red] ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # `xlstm-export ... | head`
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
