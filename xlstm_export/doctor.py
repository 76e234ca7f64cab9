"""What this machine has for xlstm-export, what each missing thing would give, and how to get it.

Nothing here fails: a probe that does is a finding. What prints, hangs or may crash when it is loaded (runtimes, the
CUDA driver) is loaded in a process of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import own_process
from .errors import UserError
from .extras import extras_required, install
from .nvidia.cuda_versions import driver_runs, drivers_for
from .nvidia.flavours import INSTALL
from .version import __version__

Status = Literal["here", "absent", "broken"]

PROBE_SECONDS = 8.0
"""After this long a probe's process is ended and its subject is called broken."""


@dataclass(frozen=True)
class Finding:
    """One thing that is here or not."""

    area: str
    name: str
    status: Status
    detail: str
    """Version and place; for what is broken, the reason."""
    gives: str
    """What it gives, or would give."""
    remedy: str = ""
    """How to get or mend it; empty where nothing can be done or nothing needs to be."""


def diagnose() -> list[Finding]:
    """Look at everything, side by side; a second or two."""
    looks: list[Callable[[], Iterable[Finding]]] = [
        _onnxruntime,
        _tensorrt_rtx,
        _tensorrt,
        _gpus,
        _native,
        _packages,
        _upstream_packages,
    ]
    with ThreadPoolExecutor(len(looks)) as pool:
        return [finding for found in pool.map(_safely, looks) for finding in found]


def _safely(look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except Exception as error:  # a doctor that dies helps nobody
        return [Finding("Other", look.__name__.strip("_"), "broken", f"could not be looked at: {error!r}", "")]


# Runtimes and GPUs: asked in processes of their own.


def _onnxruntime() -> Iterable[Finding]:
    area, cpu, cuda = "Runtimes", "ONNX Runtime, CPU", "ONNX Runtime, CUDA"
    gives = {cpu: "runs every bundle, on any machine", cuda: "runs bundles on an NVIDIA GPU"}
    gpu = "pip uninstall onnxruntime; pip install 'xlstm-export[gpu]'"  # two packages, one module
    answer = ask("onnxruntime")
    if "error" in answer:
        absent = answer.get("kind") == "unavailable"
        status: Status = "absent" if absent else "broken"
        yield Finding(area, cpu, status, "" if absent else answer["error"], gives[cpu], install("run"))
        return
    for name, provider in ((cpu, "CPUExecutionProvider"), (cuda, "CUDAExecutionProvider")):
        works = answer["providers"].get(provider)
        if works is True:
            yield Finding(area, name, "here", answer["version"], gives[name])
        elif works is None and not answer["gpus"]:
            yield Finding(area, name, "absent", "no NVIDIA GPU", gives[name])
        elif works is None:
            yield Finding(area, name, "absent", f"{answer['version']} was built without it", gives[name], gpu)
        else:
            yield Finding(area, name, "broken", works, gives[name], "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def _tensorrt_rtx() -> Iterable[Finding]:
    gives = "builds engines for RTX GPUs ahead of time, without one; runs them where there is one"
    yield _flavour("TensorRT-RTX", "tensorrt-rtx", gives)


def _tensorrt() -> Iterable[Finding]:
    gives = "builds and runs engines on data-centre and Jetson GPUs, with the fused kernels as plugins"
    yield _flavour("TensorRT", "tensorrt", gives)


def _flavour(name: str, runtime: str, gives: str) -> Finding:
    answer = ask(runtime)
    if answer.get("installed") is False:
        return Finding("Runtimes", name, "absent", "", gives, INSTALL[runtime])
    if "error" in answer:
        return Finding("Runtimes", name, "broken", answer["error"], gives)
    return Finding("Runtimes", name, "here", answer["version"], gives)


def _gpus() -> Iterable[Finding]:
    area, gives = "GPUs", "runs engines and the CUDA kernels"
    answer = ask("gpus")
    if "error" in answer:
        yield Finding(area, "NVIDIA GPU", "absent", answer["error"], gives)
    for gpu in answer.get("gpus", []):
        detail = f"{gpu['target']}, {gpu['gigabytes']:.0f} GB, driver for CUDA {answer['driver']}"
        yield Finding(area, gpu["name"], "here", detail, gives)


# Compilers, headers and libraries: looked for on disk.


def _native() -> Iterable[Finding]:
    from .native import locate, toolchain

    area = "Native kernels"
    driver = functools.cache(lambda: ask("gpus").get("driver"))  # only where a library needs one, and once
    yield _library("ONNX Runtime custom ops", locate.ONNXRUNTIME_LIBRARY, "ONNX Runtime", driver)
    yield _library("TensorRT plugins", locate.TENSORRT_PLUGINS, "TensorRT engines", driver)
    tools = (
        ("C++ compiler", toolchain.cxx_compiler, "builds both libraries and the C++ runtime"),
        ("CMake", toolchain.cmake, "builds both libraries and the C++ runtime"),
        ("Ninja", toolchain.ninja, "faster builds"),
        ("nvcc", toolchain.cuda_compiler, "builds the CUDA kernels"),
        ("Google Highway", toolchain.highway_headers, "builds the CPU kernels"),
        ("ONNX Runtime headers", toolchain.onnxruntime_headers, "builds the custom ops and the C++ runtime"),
        ("TensorRT headers", toolchain.tensorrt_headers, "builds the plugins"),
    )
    for name, find, gives in tools:
        tool = find()
        if tool.path is None:
            yield Finding(area, name, "absent", "", gives, tool.remedy)
        else:
            yield Finding(area, name, "here", f"{tool.path} ({tool.origin})", gives)


_RENEW = {"xlstm-export-cuda": "pip install -U xlstm-export-cuda"}


def _library(name: str, file: str, runtime: str, ask_driver: Callable[[], str | None]) -> Finding:
    from .native import build_info, locate

    area, gives, build = "Native kernels", f"runs the cells as fused kernels in {runtime}", "xlstm-export plugins build"
    place = locate.find_place(file)
    if place is None:
        return Finding(area, name, "absent", "", gives, build)
    where = f"{place.folder / file} ({place.origin})"
    try:
        versions = build_info.build_info(place.folder / file)
    except UserError as error:
        return Finding(area, name, "broken", str(error), gives, build)
    if (of := versions.get("xlstm")) != __version__:
        reason = f"{where} is of version {of}; this is xlstm-export {__version__}"
        return Finding(area, name, "broken", reason, gives, _RENEW.get(place.origin, build))
    cuda = versions.get("cuda")
    if cuda is None:
        return Finding(area, name, "here", where, gives)
    needs = f"{where}, built with CUDA {cuda}: needs {drivers_for(cuda)}"
    driver = ask_driver()
    if driver is None or driver_runs(driver, cuda):
        return Finding(area, name, "here", needs, gives)
    reason = f"{needs}; this machine's is for CUDA {driver}, so that the CUDA kernels cannot run"
    remedy = f"CUDACXX=NVCC {build}, with the nvcc of CUDA {driver}; or a newer driver"
    return Finding(area, name, "broken", reason, gives, remedy)


def _packages() -> Iterable[Finding]:
    yield Finding("Python", "Python", "here", f"{platform.python_version()} ({sys.executable})", "")
    yield _package("torch", "reads checkpoints, traces the model", install("export"))
    yield _package("onnx", "writes bundles", install("export"))
    yield _package("polygraphy", "drives TensorRT and TensorRT-RTX", install("export"))
    yield _package("tokenizers", "text in and out of models with a tokenizer.json", install("tokenizers"))


def _upstream_packages() -> Iterable[Finding]:
    if importlib.util.find_spec("torch") is None:  # then they are out of reach, and so is the list of them
        return
    from .checkpoints.families import FAMILIES

    for name in dict.fromkeys(package for family in FAMILIES for package in family.packages):
        families = " and ".join(family.name for family in FAMILIES if name in family.packages)
        gives = f"what the upstream model of {families} needs, for `validate`"
        yield _package(name, gives, install("reference"))


def _package(name: str, gives: str, remedy: str) -> Finding:
    try:
        return Finding("Python", name, "here", metadata.version(name), gives)
    except metadata.PackageNotFoundError:
        return Finding("Python", name, "absent", "", gives, remedy)


# What runs in the probes' processes.


def ask(subject: str) -> dict[str, Any]:
    """Answer of `PROBES[subject]` from a process of its own; `{"error": ...}` when it has none."""
    try:
        done = subprocess.run(
            own_process.command("xlstm_export.doctor:answer", subject),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_SECONDS:.0f} seconds"}
    try:
        return json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()
        return {"error": f"its process ended with code {done.returncode}: {last[-1] if last else 'without a word'}"}


def answer() -> None:
    """In the probe's process: print the answer to `sys.argv[1]` as JSON; whatever else is printed goes to stderr."""
    out = own_process.take_stdout()
    try:
        with extras_required():
            result = PROBES[sys.argv[1]]()
    except UserError as error:
        result = {"error": str(error), "kind": error.kind.name}
    except Exception as error:
        result = {"error": " ".join(str(error).split()) or repr(error)}
    out.write(json.dumps(result))
    out.flush()
    os._exit(0)  # no destructor of a half-working runtime


def _probe_onnxruntime() -> dict[str, Any]:
    """Providers that ran a model, or why they did not. CUDA is asked for only where the driver has a device."""
    import numpy as np
    import onnxruntime as ort

    from .bundle.graph_file import FLOAT, ModelProto
    from .nvidia.driver import list_gpus

    negation = ModelProto(ir_version=10)
    negation.opset_import.add(version=21)
    negation.graph.name = "negation"
    negation.graph.node.add(op_type="Neg", input=["x"], output=["y"])
    for name, side in (("x", negation.graph.input), ("y", negation.graph.output)):
        tensor = side.add(name=name).type.tensor_type
        tensor.elem_type = FLOAT
        tensor.shape.dim.add(dim_value=1)
    model = negation.SerializeToString()
    gpus = len(list_gpus())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    providers: dict[str, bool | str] = {}
    for provider in ("CPUExecutionProvider", "CUDAExecutionProvider"):
        if provider not in ort.get_available_providers() or provider.startswith("CUDA") and not gpus:
            continue
        try:
            session = ort.InferenceSession(model, options, providers=[provider])
            right = session.run(None, {"x": np.ones(1, np.float32)})[0] == -1
            chosen = session.get_providers()[0]
            providers[provider] = bool(right) if chosen == provider else f"ONNX Runtime fell back to {chosen}"
        except Exception as error:
            providers[provider] = " ".join(str(error).split())
    return {"version": ort.__version__, "providers": providers, "gpus": gpus}


def _probe_flavour(runtime: str) -> dict[str, Any]:
    from .nvidia.flavours import import_flavour, is_installed

    if not is_installed(runtime):
        return {"installed": False}
    return {"version": import_flavour(runtime).__version__}


def _probe_gpus() -> dict[str, Any]:
    from .nvidia.driver import CudaDriver

    try:
        driver = CudaDriver()
    except OSError as error:
        return {"error": str(error)}
    gpus = [{"name": g.name, "target": g.target, "gigabytes": g.memory_bytes / 1e9} for g in driver.gpus()]
    return {"driver": driver.version(), "gpus": gpus}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "onnxruntime": _probe_onnxruntime,
    "tensorrt-rtx": lambda: _probe_flavour("tensorrt-rtx"),
    "tensorrt": lambda: _probe_flavour("tensorrt"),
    "gpus": _probe_gpus,
}


def render(findings: Iterable[Finding]) -> RenderableType:
    """One table, by area: what is here with its version, what is not with how to get it."""
    marks = {"here": Text("✓", "green"), "absent": Text("–", "dim"), "broken": Text("✗", "red")}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, ratio in (("", None), ("", None), ("found, or how to get it", 3), ("gives", 2)):
        table.add_column(title, ratio=ratio, overflow="fold")
    area = None
    for finding in findings:
        if finding.area != area:
            area = finding.area
            table.add_row("", Text(area, "bold"))
        found = Text(_short(finding.detail))
        if finding.remedy:
            found.append(("\n" if finding.detail else "") + finding.remedy, "cyan")
        table.add_row(marks[finding.status], Text(f"  {finding.name}"), found, Text(finding.gives, "dim"))
    return Group(table)


def _short(detail: str) -> str:
    """Paths below the home folder with a tilde."""
    home = os.path.expanduser("~")
    return detail.replace(home + os.sep, f"~{os.sep}") if home != "~" else detail
