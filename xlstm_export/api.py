"""The public face: what `import xlstm_export` gives. The command line calls nothing else that does the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .bundle import Bundle
from .bundle.engine_record import ACTIVATIONS, Activations, RuntimeName
from .bundle.manifest import Dtype, LogitsOf, Mode
from .errors import ErrorKind, UserError
from .extras import extras_required
from .forecasting import Forecaster
from .forecasting.forecast import Forecast
from .native.locate import ONNXRUNTIME_LIBRARY, choose_library
from .progress import Stage, no_progress
from .runtime import Session
from .runtime import open_session as _open_session
from .runtime.generation import Generation, TextGeneration, require_logits
from .runtime.sampling import Sampler, Sampling
from .runtime.tokenizers import open_tokenizer

if TYPE_CHECKING:
    from torch import nn


@extras_required()
def export_network(
    network: nn.Module,
    inputs: Mapping[str, str] | Sequence[str],
    out: str | Path,
    *,
    dtype: Dtype = "float32",
    state_dtype: Dtype = "float32",
    batch: int | None = None,
    mode: Mode | None = None,
    overwrite: bool = False,
    name: str | None = None,
    stage: Stage = no_progress,
) -> Bundle:
    """Write a network of your own, with xLSTM blocks in it, as a bundle.

    Args:
        network: with its weights; it is copied, and run on random inputs to find out how it runs.
        inputs: by the names of `forward`'s arguments, `{"x": "B,S,12:float32"}`: B is the batch, S the time, numbers
            are fixed sizes; float32 where nothing is said.
        out: the bundle's folder, made new.
        dtype: of the projections inside xLSTM blocks; cells, norms and the network's own layers are float32.
        state_dtype: of the mLSTM's memories between two passes; all other states are float32.
        batch: a fixed batch size; None: any.
        mode: None: a stream where the network streams, single steps where no input has time, else windows.
        overwrite: replace an existing bundle.
        name: what the bundle says that it was made from; None: the network's class.
        stage: told of the progress.

    Raises:
        UserError: the network fails, holds nothing of xLSTM, cannot be traced, or does not stream where `mode` wants
            it to. Nothing is left behind.
    """
    command = _call(export_network, locals())
    from .exporter.network import NetworkOptions
    from .exporter.network import export_network as run
    from .networks import parse_inputs

    options = NetworkOptions(dtype, batch, mode, overwrite, state_dtype)
    return run(network, parse_inputs(inputs), Path(out), options, name, stage, command)[0]


@extras_required()
def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    select: str | None = None,
    settings: Mapping[str, object] | None = None,
    dtype: Dtype = "float32",
    state_dtype: Dtype = "float32",
    batch: int | None = None,
    mode: Mode = "both",
    logits: LogitsOf = "last",
    link_weights: bool = False,
    overwrite: bool = False,
    tokenizer: str | Path | None = None,
    stage: Stage = no_progress,
) -> Bundle:
    """Write a checkpoint as a bundle: what `xlstm-export onnx` does.

    Args:
        checkpoint: a file or folder of weights.
        out: the bundle's folder, made new.
        config: the model's configuration (YAML or JSON), when the checkpoint has none.
        select: the keys that lead to the model (`ema_model`), where the checkpoint holds several.
        settings: settings of the model that the checkpoint does not tell, or tells wrongly, by dotted keys:
            `{"slstm_block.feedforward.act_fn": "gelu"}`.
        dtype: of the projections; cells and norms are float32 in any case.
        state_dtype: of the mLSTM's memories between two passes; all other states are float32.
        batch: a fixed batch size; None: any.
        mode: `step`, `prefill` or `both`.
        logits: at each row's `last` position of a pass, or at `all`.
        link_weights: refer to the checkpoint's own bytes instead of copying them.
        overwrite: replace an existing bundle.
        tokenizer: a `tokenizer.json` to put into the bundle instead of the checkpoint's own.
        stage: told of the progress.

    Raises:
        UserError: the checkpoint is not understood, or `out` is in the way. Nothing is left behind.
    """
    command = _call(export, locals())
    from .checkpoints import ReadOptions, open_checkpoint
    from .exporter import ExportOptions, export_bundle
    from .quantization.stored import attach_stored

    tokenizer_file = None if tokenizer is None else Path(tokenizer)
    options = ExportOptions(dtype, batch, mode, logits, link_weights, overwrite, tokenizer_file, state_dtype)
    said = ReadOptions(None if config is None else Path(config), select, settings or {})
    source = open_checkpoint(Path(checkpoint), said)
    return export_bundle(source, Path(out), options, stage, attach_stored, command)


def _call(function: Callable[..., object], given: Mapping[str, object]) -> str:
    """A call of the public face as Python takes it, without what is as by default."""
    written = []
    for argument, parameter in inspect.signature(function).parameters.items():
        value = given[argument]
        if argument == "stage" or value == parameter.default:
            continue
        text = repr(str(value)) if isinstance(value, Path) else repr(value)
        text = type(value).__qualname__ if argument == "network" else text
        written.append(f"{argument}={text}" if parameter.kind is parameter.KEYWORD_ONLY else text)
    return f"xlstm_export.{function.__name__}({', '.join(written)})"


def open_bundle(path: str | Path) -> Bundle:
    """Open a folder that `export` wrote.

    Raises:
        UserError: it is no bundle, or a damaged one.
    """
    return Bundle.open(path)


@extras_required()
def open_session(
    bundle: Bundle,
    *,
    batch: int = 1,
    runtime: RuntimeName = "onnxruntime",
    custom_ops: str | Path | None = None,
    engine: str | Path | None = None,
    activations: Activations = ACTIVATIONS,
) -> Session:
    """A session of `batch` sequences with zero states: feed it, read and write its states, save and load them.

    Args:
        bundle: what to run.
        batch: number of sequences; must be the bundle's own when that is fixed.
        runtime: `onnxruntime` (CUDA where there is a GPU, else the CPU), `tensorrt-rtx` or `tensorrt`.
        custom_ops: the library of our kernels for ONNX Runtime; None: the one that is found (`native.locate`), if any;
            `"none"`: the cells' definitions.
        engine: for the TensorRT runtimes; None takes the bundle's newest that fits.
        activations: what ONNX Runtime multiplies quantised weights with on the CPU: `int8` is fast, `float32` exact.

    Raises:
        UserError: a batch that the bundle was not made for, or a runtime or library that is not here.
    """
    library = None
    if runtime == "onnxruntime":
        library = choose_library(ONNXRUNTIME_LIBRARY, None if custom_ops is None else str(custom_ops))
    return _open_session(bundle, runtime, batch, library, None if engine is None else Path(engine), activations)


@extras_required()
def generate(
    bundle: Bundle,
    prompt: str,
    max_new_tokens: int = 400,
    sampling: Sampling = Sampling(),
    *,
    chunk: int | None = None,
    ignore_eos: bool = False,
    stops: Sequence[str] = (),
    tokenizer: str | Path | None = None,
    runtime: RuntimeName = "onnxruntime",
    custom_ops: str | Path | None = None,
    activations: Activations = ACTIVATIONS,
) -> TextGeneration:
    """Continue a text. Iterate over what this returns for pieces of text, as soon as they are complete.

    Args:
        bundle: a language model with a tokenizer.
        prompt: the text to continue; it is not repeated.
        max_new_tokens: the number of tokens to generate.
        sampling: how tokens are drawn.
        chunk: positions of one pass of the prompt; None: 256, or what an engine was built for.
        ignore_eos: go on where the model ends a text.
        stops: texts, of which the first to appear ends the text before it.
        tokenizer: a `tokenizer.json` to use instead of the bundle's own.
        runtime, custom_ops, activations: as for `open_session`.

    Raises:
        UserError: the bundle has no tokenizer or no logits, the prompt is empty, or the runtime is not here.
    """
    require_logits(bundle.manifest)  # before a missing tokenizer is asked for
    words = open_tokenizer(bundle, None if tokenizer is None else Path(tokenizer))
    session = open_session(
        bundle, batch=bundle.manifest.batch or 1, runtime=runtime, custom_ops=custom_ops, activations=activations
    )
    generation = Generation(session, words.encode(prompt), max_new_tokens, Sampler(sampling), chunk, ignore_eos)
    return TextGeneration(generation, words, stops)


MOST_SERIES = 32
"""Side by side in one session of `forecast`: enough that weights are read once for many."""


@extras_required()
def forecast(
    bundle: Bundle,
    series: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
    horizon: int,
    *,
    quantiles: Sequence[float] | None = None,
    context: int | None = None,
    rollout: int | None = None,
    runtime: RuntimeName = "onnxruntime",
    custom_ops: str | Path | None = None,
    activations: Activations = ACTIVATIONS,
    stage: Stage = no_progress,
) -> Forecast:
    """What comes after each series, as upstream's own forecast has it.

    Args:
        bundle: of a forecaster (TiRex, TiRex-2).
        series: one array of one dimension, several, or several by name; the newest value last, NaN where missing.
        horizon: points to forecast.
        quantiles: some of the model's levels; None: all.
        context: only the newest points of each series that are looked at; None: all, of which the model takes what its
            window holds.
        rollout: of TiRex, patches that one window is used for; more than 1, which is upstream's default, is faster over
            long horizons, and another forecast.
        runtime, custom_ops, activations: as for `open_session`.
        stage: told of the progress.

    Raises:
        UserError: the bundle is no forecaster or has no such quantile, horizon or rollout, a series is not of one
            dimension or has an infinite value, or the runtime is not here.
    """
    if context is not None and context < 1:
        raise UserError(ErrorKind.argument, f"The context is {context}; give 1 or more points.")
    if not isinstance(series, Mapping):
        several = [series] if isinstance(series, np.ndarray) and series.ndim == 1 else series
        series = {f"series {index}": row for index, row in enumerate(several)}
    rows = [np.asarray(row)[-context:] if context else np.asarray(row) for row in series.values()]
    batch = bundle.manifest.batch or min(max(len(rows), 1), MOST_SERIES)
    with open_session(bundle, batch=batch, runtime=runtime, custom_ops=custom_ops, activations=activations) as session:
        forecaster = Forecaster(session)
        levels = forecaster.quantiles if quantiles is None else tuple(quantiles)
        chosen = forecaster.spec.select(levels)
        values = forecaster.forecast(rows, horizon, rollout, stage("Forecasting", len(rows)))
    return Forecast(tuple(series), tuple(rows), levels, values[:, :, chosen])
