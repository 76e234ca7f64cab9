"""Bundle → engine: all around the builder's process. The engine appears whole, with its sidecar, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..bundle.engine_record import FOLDER, BuildOptions, EngineRecord, FileHash, hash_bundle, parse_tensor, sidecar_of
from ..bundle.manifest import MODEL_FILE, Manifest, read_manifest
from ..cache import cache_folder
from ..checksum import sha256
from ..errors import ErrorKind, UserError
from ..native.locate import find_tensorrt_plugins
from ..nvidia.flavours import require_installed
from ..progress import Stage, no_progress
from .targets import BatchRange, batch_range, check_dtype, engine_name, input_profiles, max_chunk_of, parse_targets
from .worker import BuildRequest

_PERMILLE = 1000
_LAST_LINES = 12


def build_engine(
    bundle: Path,
    runtime: str,
    *,
    targets: tuple[str, ...] = (),
    plugins: Path | None = None,
    use_plugins: bool = True,
    batch: str | None = None,
    max_chunk: int | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    timing_cache: Path | None = None,
    stage: Stage = no_progress,
) -> EngineRecord:
    """Build an engine into `bundle/engines/`.

    Args:
        bundle: a folder written by `xlstm-export onnx`.
        runtime: `tensorrt-rtx`, which needs no GPU when `targets` are named, or `tensorrt`, which builds on the GPU.
        targets: for TensorRT-RTX, the compute capabilities to run on (`sm86`), or `current`; none is
            `targets.DEFAULT_RTX_TARGETS`. TensorRT always builds for the current GPU.
        plugins: TensorRT's plugin library. It is copied beside the engine, which needs it then. None takes the one
            that `xlstm-export plugins build` made, if any. TensorRT-RTX has no plugin layers.
        use_plugins: False compiles the cells' definitions for TensorRT too.
        batch: `LEAST:TUNED:MOST` or a number, when the bundle's batch is dynamic; None is `targets.DEFAULT_BATCH`.
        max_chunk: the most positions of one pass of a prompt; None is `targets.DEFAULT_MAX_CHUNK`. A bundle of mode
            `both` gives one engine with two optimisation profiles, so that weights exist once on the device.
        version_compatible: the engine also runs on later versions of TensorRT.
        hardware_compatible: the engine also runs on other GPUs from Ampere on (TensorRT).
        timing_cache: folder for TensorRT's measurements of kernels; None is this user's cache folder.

    Returns:
        The record, which lies beside the engine as `<engine>.json`; the engine is `engines/<record.engine.name>`.

    Raises:
        UserError: impossible request, missing runtime or GPU, or a failure of the parser or builder.
            Nothing is left behind, and an engine of the same name stays as it was.
    """
    manifest = read_manifest(bundle)
    targets = parse_targets(runtime, targets)
    check_dtype(runtime, targets, manifest.dtype)
    _check_options(runtime, plugins, version_compatible, hardware_compatible)
    sizes = batch_range(manifest, batch)
    max_chunk = max_chunk_of(manifest, targets, max_chunk)
    _check_files(bundle, manifest)
    require_installed(runtime)
    if runtime == "tensorrt" and use_plugins and plugins is None:
        plugins = find_tensorrt_plugins()
    folder = bundle / FOLDER
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=folder))
    except OSError as error:
        raise UserError(ErrorKind.argument, f"cannot write an engine into {folder}: {error.strerror}.") from None
    try:
        request = BuildRequest(
            runtime=runtime,
            model=str((bundle / MODEL_FILE).resolve()),
            engine=str((work / "plan").resolve()),
            targets=targets,
            profiles=input_profiles(manifest, sizes, max_chunk),
            plugins=str(plugins.resolve()) if plugins else None,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            products_as_sums="sm75" in targets,
            timing_cache=str(timing_cache or cache_folder() / "timing"),
        )
        result = _run_worker(request, stage)
        return _publish(bundle, manifest, sizes, max_chunk, request, result, work, plugins)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _check_options(runtime: str, plugins: Path | None, version_compatible: bool, hardware_compatible: bool) -> None:
    if runtime == "tensorrt-rtx":
        if plugins is not None:
            raise UserError(
                ErrorKind.argument,
                "TensorRT-RTX has no plugin layers and compiles the cells' definitions: leave --plugins out.",
            )
        if version_compatible:
            raise UserError(
                ErrorKind.argument, "TensorRT-RTX builds no version-compatible engines: build again after an upgrade."
            )
        if hardware_compatible:
            raise UserError(
                ErrorKind.unavailable, "for TensorRT-RTX name the GPUs with --target instead of --hardware-compatible."
            )
    elif plugins is not None and not plugins.is_file():
        raise UserError(
            ErrorKind.unavailable, f"no plugin library at {plugins}. Build it with `xlstm-export plugins build`."
        )


def _check_files(bundle: Path, manifest: Manifest) -> None:
    missing = [name for name in (MODEL_FILE, *manifest.weight_files) if not (bundle / name).is_file()]
    if missing:
        raise UserError(
            ErrorKind.bundle, f"{bundle} lacks {', '.join(missing)}: it was not copied whole. Copy or export it again."
        )


def _run_worker(request: BuildRequest, stage: Stage) -> dict[str, Any]:
    """Run the builder's process and pass its progress on; return its `done` event."""
    at, last = "starting", None
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        with subprocess.Popen(
            _worker_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True, encoding="utf-8"
        ) as process:
            try:
                process.stdin.write(json.dumps(asdict(request)))
                process.stdin.close()
                tick, ticked = None, 0
                for line in process.stdout:
                    last = json.loads(line)
                    match last["event"]:
                        case "stage":
                            if tick:
                                tick(_PERMILLE - ticked)
                            at, ticked = last["title"].lower(), 0
                            tick = stage(last["title"], _PERMILLE)
                        case "progress":
                            now = int(last["fraction"] * _PERMILLE)
                            tick(now - ticked)
                            ticked = now
                if tick and last["event"] == "done":
                    tick(_PERMILLE - ticked)
            except BrokenPipeError:
                pass  # it died before it read its request; its exit code tells
            except BaseException:
                process.kill()
                raise
        noise.seek(0)
        printed = noise.read()
    match last["event"] if last else None:
        case "done":
            return last
        case "failed":
            raise UserError(ErrorKind.runtime, last["message"])
        case "crashed":
            raise UserError(ErrorKind.runtime, f"building failed while {at}:\n{last['traceback'].rstrip()}")
    raise UserError(ErrorKind.runtime, _death_report(request.runtime, process.returncode, at, printed))


def _worker_command() -> list[str]:
    """The child imports what this process imports, and nothing from the current folder."""
    paths = json.dumps([path for path in sys.path if path])
    start = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
    return [sys.executable, "-c", f"{start}; from xlstm_export.engines import worker; worker.main()", paths]


def _death_report(runtime: str, code: int, at: str, printed: str) -> str:
    """Why a process that ended without a word may have ended."""
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else f"signal {-code}"
    hint = " The machine ran out of memory, most likely." if code == -9 else ""
    tail = "\n  ".join(printed.split("\n")[-_LAST_LINES:]).rstrip()
    return f"the {runtime} builder ended while {at} ({how}).{hint}" + (f" It printed last:\n  {tail}" if tail else "")


def _publish(
    bundle: Path,
    manifest: Manifest,
    sizes: BatchRange,
    max_chunk: int | None,
    request: BuildRequest,
    result: dict[str, Any],
    work: Path,
    plugins: Path | None,
) -> EngineRecord:
    """Write the sidecar, then move everything to its place; the engine comes last."""
    import onnx
    import polygraphy

    targets = tuple(result["targets"])
    name = engine_name(request.runtime, result["version"], targets, manifest.dtype, sizes, max_chunk)
    plan = work / "plan"
    model_hash, manifest_hash = hash_bundle(bundle)
    library = None
    if plugins is not None:
        library = FileHash(plugins.name, sha256(plugins))
        shutil.copyfile(plugins, work / plugins.name)
    record = EngineRecord(
        engine=FileHash(name, sha256(plan)),
        engine_bytes=plan.stat().st_size,
        runtime=request.runtime,
        runtime_version=result["version"],
        targets=targets,
        gpu=result["gpu"],
        dtype=manifest.dtype,
        batch=(sizes.min, sizes.opt, sizes.max),
        profiles=tuple(profile.name for profile in request.profiles),
        max_chunk=max_chunk,
        tensors=tuple(map(parse_tensor, result["tensors"])),
        model=model_hash,
        manifest=manifest_hash,
        plugins=library,
        options=BuildOptions(
            version_compatible=request.version_compatible,
            hardware_compatible=request.hardware_compatible,
            tf32=result["tf32"],
            stripped_functions=result["stripped_functions"],
            products_as_sums=request.products_as_sums,
        ),
        seconds=result["seconds"],
        producer={"xlstm-export": __version__, "onnx": onnx.__version__, "polygraphy": polygraphy.__version__},
    )
    engine = bundle / FOLDER / name
    sidecar = sidecar_of(engine)
    (work / sidecar.name).write_text(record.to_json(), "utf-8")
    if library is not None:
        os.replace(work / library.name, engine.with_name(library.name))
    os.replace(work / sidecar.name, sidecar)
    os.replace(plan, engine)
    return record
