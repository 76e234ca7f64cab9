"""The process that builds: the only place where TensorRT's builder and parser are loaded.

Two flavours of TensorRT must not meet in one process, and a parser that aborts must not take the command line down.
So `build.py` starts this module in its own interpreter, gives it one `BuildJob` as JSON on standard input, and
reads events, one JSON object a line, from its standard output. Whatever the libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ..errors import ErrorKind, UserError
from ..nvidia.driver import Gpu, list_gpus
from ..nvidia.flavours import import_flavour, load_plugins, make_logger, start
from ..operators.names import CELLS, DOMAIN
from ..own_process import take_stdout
from .progress import PhaseTree
from .rewrite import plugin_needs_stripping, with_plain_products, with_products_as_sums, without_functions
from .targets import CURRENT, Profile, TensorProfile

Emit = Callable[..., None]


@dataclass(frozen=True)
class BuildJob:
    """All that the worker is told. Paths are absolute."""

    runtime: str
    model: str
    engine: str
    """Where to write the engine."""
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]
    plugins: str | None
    version_compatible: bool
    hardware_compatible: bool
    products_as_sums: bool
    timing_cache: str | None
    """A folder; TensorRT only."""

    @staticmethod
    def parse(text: str) -> BuildJob:
        data = json.loads(text)
        data["profiles"] = tuple(
            Profile(p["name"], tuple(map(TensorProfile.parse, p["tensors"]))) for p in data["profiles"]
        )
        data["targets"] = tuple(data["targets"])
        return BuildJob(**data)


def build(job: BuildJob, emit: Emit) -> None:
    """Parse, configure, build, write. Events: `stage`, `progress`, and last `done` with what the sidecar needs.

    Raises:
        UserError: no GPU where one is needed, the parser or the builder refused.
    """
    started = time.monotonic()
    gpu = _gpu_for(job)
    emit("stage", title="Reading the model")
    if job.runtime == "tensorrt-rtx":
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read once, when Polygraphy is imported
    trt = import_flavour(job.runtime)
    logger = make_logger(trt)
    builder = start(trt.Builder, logger, trt.__version__)
    if job.plugins is not None:
        load_plugins(trt.get_plugin_registry(), trt.__version__, logger.errors, Path(job.plugins))
    stripped = job.plugins is not None and plugin_needs_stripping(trt.__version__)

    # Precision is what the ONNX file says. TensorRT 11 knows nothing else, whether or not it still has the flag.
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    model = with_plain_products(read_graph(Path(job.model)))
    if stripped:
        model = without_functions(model)
    if job.products_as_sums:
        model = with_products_as_sums(model)
    # The path is only where external weights are looked for.
    if not parser.parse(model.SerializeToString(), job.model):
        raise UserError(ErrorKind.runtime, _parser_report(job, trt, parser, logger))
    if job.plugins is not None:
        require_plugin_layers(job, trt, network, model)

    emit("stage", title="Building the engine")
    cache = _timing_cache(job, trt, gpu)
    config = _configure(job, trt, builder, network, cache, emit)
    plan = _serialize(builder, network, config, cache)
    if plan is None:
        reason = "\n  ".join(logger.errors) or "no reason given"
        hint = ""
        if "Myelin" in reason or "nternal error" in reason.lower():
            hint = (
                "\nThe builder failed inside itself. Another --dtype, --batch or version of it may build the engine; "
                "--runtime onnxruntime runs the bundle as it is."
            )
        message = f"{job.runtime} {trt.__version__} could not build the engine:\n  {reason}{hint}"
        raise UserError(ErrorKind.runtime, message)

    emit("stage", title="Writing the engine")
    with open(job.engine, "wb") as file:
        file.write(memoryview(plan))
    names = [network.get_input(i) for i in range(network.num_inputs)]
    names += [network.get_output(i) for i in range(network.num_outputs)]
    emit(
        "done",
        version=trt.__version__,
        targets=[gpu.target] if gpu else list(job.targets),
        gpu=gpu.name if gpu else None,
        tensors=[_describe(tensor, job.profiles) for tensor in names],
        tf32=config.get_flag(trt.BuilderFlag.TF32),
        stripped_functions=stripped,
        seconds=round(time.monotonic() - started, 3),
    )


def read_graph(path: Path) -> onnx.ModelProto:
    """The model without its external weights, after a look that they are all there.

    Raises:
        UserError: not an ONNX file, or weights missing or truncated.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise UserError(
            ErrorKind.bundle, f"{path} is not an ONNX file, or is damaged. Export the bundle again."
        ) from None
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in tensor.external_data}
            file = path.with_name(where["location"])
            end = int(where.get("offset", 0)) + int(where.get("length", 0))
            if not file.is_file() or file.stat().st_size < end:
                raise UserError(
                    ErrorKind.bundle,
                    f"{file} is truncated: it ends before its tensor {tensor.name}. Copy or export it again.",
                )
    return model


def require_plugin_layers(job: BuildJob, trt: ModuleType, network: Any, model: onnx.ModelProto) -> None:
    """The parser made a plugin of every cell. Where its lookup fails it may take the definition and say nothing.

    Raises:
        UserError: some cells would run as their definitions.
    """
    cells = sum(node.domain == DOMAIN and node.op_type in CELLS for node in model.graph.node)
    layers = (network.get_layer(index) for index in range(network.num_layers))
    plugins = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)
    if plugins < cells:
        raise UserError(
            ErrorKind.runtime,
            f"{job.runtime} {trt.__version__} took the plugin for {plugins} of the {cells} cells of {job.model}, and "
            f"the slower definition for the others. Look at {job.plugins} with `xlstm-export plugins check`, or build "
            "with --plugins none.",
        )


def _gpu_for(job: BuildJob) -> Gpu | None:
    """The GPU that the engine is built on, or None when it is built ahead of time."""
    if job.runtime == "tensorrt-rtx" and CURRENT not in job.targets:
        return None
    gpus = list_gpus()
    if not gpus:
        hint = "Run this on the machine that the engine is for, or use --runtime tensorrt-rtx"
        if job.runtime == "tensorrt-rtx":
            hint = "Name the GPUs to build for"
        raise UserError(
            ErrorKind.unavailable,
            f"{job.runtime} builds for the GPU of this machine, and the CUDA driver finds none here. "
            f"{hint} with --target sm89 (or others), which needs no GPU.",
        )
    return gpus[0]


def _parser_report(job: BuildJob, trt: ModuleType, parser: Any, logger: Any) -> str:
    """What the parser says, one line for each error, with the node it happened at."""
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        lines.append(f"{node}{error.desc()}")
    lines = list(dict.fromkeys(lines or logger.errors)) or ["no reason given"]
    return f"{job.runtime} {trt.__version__} cannot parse {job.model}:\n  " + "\n  ".join(lines[:10])


def _configure(job: BuildJob, trt: ModuleType, builder: Any, network: Any, cache: Path | None, emit: Emit) -> Any:
    from polygraphy.backend.trt import Profile as TrtProfile
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    options: dict[str, Any] = {"progress_monitor": _monitor(trt, emit)}
    if any(profile.tensors for profile in job.profiles):
        options["profiles"] = [TrtProfile() for _ in job.profiles]
        for shapes, profile in zip(options["profiles"], job.profiles, strict=True):
            for tensor in profile.tensors:
                shapes.add(tensor.name, tensor.min, tensor.opt, tensor.max)
    if job.runtime == "tensorrt-rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        if job.targets == (CURRENT,):
            options["use_gpu"] = True
        else:
            options["compute_capabilities"] = [(int(t[2:-1]), int(t[-1])) for t in job.targets]
        config = CreateConfigRTX(**options)(builder, network)
    else:
        from polygraphy.backend.trt import CreateConfig

        options["version_compatible"] = job.version_compatible
        if job.hardware_compatible:
            options["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        options["load_timing_cache"] = str(cache) if cache else None
        config = CreateConfig(**options)(builder, network)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 shall mean float32
    return config


def _timing_cache(job: BuildJob, trt: ModuleType, gpu: Gpu | None) -> Path | None:
    """TensorRT's measurements of kernels: of one version on one kind of GPU. TensorRT-RTX ignores such a cache."""
    if job.runtime != "tensorrt" or job.timing_cache is None or gpu is None:
        return None
    kind = "".join(c if c.isalnum() else "-" for c in gpu.name.lower())
    return Path(job.timing_cache) / f"tensorrt-{trt.__version__}-{kind}-{gpu.target}.timing"


def _serialize(builder: Any, network: Any, config: Any, cache: Path | None) -> Any:
    """The plan, or None on failure."""
    if cache is None:
        return builder.build_serialized_network(network, config)
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException

    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        return EngineBytesFromNetwork((builder, network), lambda *_: config, save_timing_cache=str(cache))()
    except PolygraphyException:  # it only says that there is no engine; the logger has the reason
        return None


def _monitor(trt: Any, emit: Emit) -> Any:
    tree, told = PhaseTree(), [0.0]

    def tell(fraction: float) -> None:
        if fraction >= told[0] + 0.005:
            told[0] = fraction
            emit("progress", fraction=round(fraction, 3))

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            tree.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            tell(tree.step(name, step))
            return True  # False would cancel the build

        def phase_finish(self, name: str) -> None:
            tell(tree.finish(name))

    return Monitor()


def _describe(tensor: Any, profiles: tuple[Profile, ...]) -> dict:
    return {
        "name": tensor.name,
        "mode": "input" if tensor.is_network_input else "output",
        "dtype": DTYPE_NAMES.get(tensor.dtype.name, tensor.dtype.name.lower()),
        "shape": list(tensor.shape),
        "profiles": [asdict(p) for profile in profiles for p in profile.tensors if p.name == tensor.name],
    }


DTYPE_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}


def main() -> None:
    """Serve one job. Exit code 0 after `done` or `failed`."""
    events = take_stdout()
    lock = threading.Lock()  # TensorRT reports progress from its own threads

    def emit(event: str, **values: Any) -> None:
        with lock:
            events.write(json.dumps({"event": event} | values) + "\n")

    job = BuildJob.parse(sys.stdin.read())
    try:
        build(job, emit)
    except UserError as error:
        emit("failed", kind=error.kind.name, message=str(error))
    except OSError as error:
        emit("failed", kind=ErrorKind.argument.name, message=f"{job.engine} cannot be written: {error.strerror}.")
    except Exception:
        emit("crashed", traceback=traceback.format_exc())
    events.flush()
    # TensorRT's destructors at interpreter exit have nothing left to do that is worth a crash.
    os._exit(0)


if __name__ == "__main__":
    main()
