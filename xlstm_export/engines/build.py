"""Bundle → engine: all around the builder's process. The engine appears whole, with its sidecar, or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import own_process
from ..bundle import Bundle, Engine, EngineRecord
from ..bundle.engine_record import FOLDER, BuildOptions, EngineTensor, FileHash, sidecar_of
from ..cache import cache_folder
from ..checksum import sha256
from ..errors import ErrorKind, UserError
from ..nvidia.flavours import require_installed
from ..progress import Stage, no_progress
from ..version import __version__
from .request import EnginePlan, EngineRequest, plan_engine
from .worker import BuildJob

_log = logging.getLogger(__name__)

_PLAN = "plan"
_PERMILLE = 1000
_LAST_LINES = 12


def build_engine(bundle: Bundle, request: EngineRequest, stage: Stage = no_progress) -> Engine:
    """Build an engine into the bundle's folder `engines`, with its sidecar beside it.

    A bundle of mode `both` gives one engine with two optimisation profiles, so that weights exist once on the device.

    Raises:
        UserError: an impossible request, a missing runtime or GPU, or a failure of the parser or builder.
            Nothing is left behind, and an engine of the same name stays as it was.
    """
    plan = plan_engine(bundle, request)
    bundle.require_complete()
    require_installed(plan.runtime)
    folder = bundle.path / FOLDER
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=folder))
    except OSError as error:
        raise UserError(ErrorKind.argument, f"cannot write an engine into {folder}: {error.strerror}.") from None
    try:
        result = _run_worker(_job(bundle, plan, work / _PLAN), stage)
        return _publish(bundle, plan, result, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _job(bundle: Bundle, plan: EnginePlan, engine: Path) -> BuildJob:
    return BuildJob(
        runtime=plan.runtime,
        model=str(bundle.model_file.resolve()),
        engine=str(engine.resolve()),
        targets=plan.targets,
        profiles=plan.profiles,
        plugins=str(plan.plugins.resolve()) if plan.plugins else None,
        version_compatible=plan.version_compatible,
        hardware_compatible=plan.hardware_compatible,
        products_as_sums=plan.products_as_sums,
        timing_cache=str(cache_folder() / "timing"),
    )


def _run_worker(job: BuildJob, stage: Stage) -> dict[str, Any]:
    """Run the builder's process and pass its progress on; return its `done` event."""
    events = _Events(stage)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        with subprocess.Popen(
            own_process.command("xlstm_export.engines.worker:main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            encoding="utf-8",
        ) as process:
            assert process.stdin is not None and process.stdout is not None  # pipes
            try:
                process.stdin.write(json.dumps(asdict(job)))
                process.stdin.close()
                for line in process.stdout:
                    events.take(json.loads(line))
            except BrokenPipeError:
                pass  # it died before it read its request; its exit code tells
            except BaseException:
                process.kill()
                raise
        noise.seek(0)
        printed = noise.read()
    _log.debug("the builder's process printed:\n%s", printed)
    at, last = events.at, events.last
    match last.get("event"):
        case "done":
            return last
        case "failed":
            raise UserError(ErrorKind[last["kind"]], last["message"])
        case "crashed":
            raise UserError(ErrorKind.runtime, f"building failed while {at}:\n{last['traceback'].rstrip()}")
    raise UserError(ErrorKind.runtime, _death_report(job.runtime, process.returncode, at, printed))


class _Events:
    """What the builder's process tells, one event after another; its progress goes to a `Stage`."""

    def __init__(self, stage: Stage):
        self._stage, self._advance, self._done = stage, no_progress("", None), _PERMILLE
        self.at = "starting"
        self.last: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> None:
        self.last = event
        match event["event"]:
            case "stage":
                self._reach(_PERMILLE)
                self.at = event["title"].lower()
                self._advance, self._done = self._stage(event["title"], _PERMILLE), 0
            case "progress":
                self._reach(int(event["fraction"] * _PERMILLE))
            case "done":
                self._reach(_PERMILLE)

    def _reach(self, permille: int) -> None:
        self._advance(permille - self._done)
        self._done = permille


def _death_report(runtime: str, code: int, at: str, printed: str) -> str:
    """Why a process that ended without a word may have ended."""
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else f"signal {-code}"
    hint = " The machine ran out of memory, most likely." if code == -9 else ""
    tail = "\n  ".join(printed.split("\n")[-_LAST_LINES:]).rstrip()
    return f"the {runtime} builder ended while {at} ({how}).{hint}" + (f" It printed last:\n  {tail}" if tail else "")


def _publish(bundle: Bundle, plan: EnginePlan, result: dict[str, Any], work: Path) -> Engine:
    """Write the sidecar, then move everything to its place; the engine comes last."""
    import onnx
    import polygraphy

    targets = tuple(result["targets"])
    name = plan.engine_name(result["version"], targets, bundle.manifest.dtype)
    model_hash, manifest_hash = bundle.hashes
    library = None
    if plan.plugins is not None:
        library = FileHash(plan.plugins.name, sha256(plan.plugins))
        shutil.copyfile(plan.plugins, work / library.name)
    record = EngineRecord(
        engine=FileHash(name, sha256(work / _PLAN)),
        engine_bytes=(work / _PLAN).stat().st_size,
        runtime=plan.runtime,
        runtime_version=result["version"],
        targets=targets,
        gpu=result["gpu"],
        dtype=bundle.manifest.dtype,
        batch=(plan.batch.min, plan.batch.opt, plan.batch.max),
        profiles=tuple(profile.name for profile in plan.profiles),
        max_chunk=plan.max_chunk,
        tensors=tuple(map(EngineTensor.parse, result["tensors"])),
        model=model_hash,
        manifest=manifest_hash,
        plugins=library,
        options=BuildOptions(
            version_compatible=plan.version_compatible,
            hardware_compatible=plan.hardware_compatible,
            tf32=result["tf32"],
            stripped_functions=result["stripped_functions"],
            products_as_sums=plan.products_as_sums,
        ),
        seconds=result["seconds"],
        producer={"xlstm-export": __version__, "onnx": onnx.__version__, "polygraphy": polygraphy.__version__},
    )
    engine = bundle.path / FOLDER / name
    sidecar = sidecar_of(engine)
    (work / sidecar.name).write_text(record.to_json(), "utf-8")
    if library is not None:
        os.replace(work / library.name, engine.with_name(library.name))
    os.replace(work / sidecar.name, sidecar)
    os.replace(work / _PLAN, engine)
    return Engine(engine, record)
