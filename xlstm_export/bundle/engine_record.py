"""The sidecar of an engine: a JSON file beside it that says what it is, what made it, and what it fits (FORMAT.md)."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..errors import ErrorKind, UserError
from .manifest import Dtype, Mode
from .strict_json import Fields, read_json

FORMAT = "xlstm-engine"
FORMAT_VERSION = 2
FOLDER = "engines"
"""Of a bundle."""

_REMEDY = "Build the engine again."

EngineRuntime = Literal["tensorrt-rtx", "tensorrt"]
ENGINE_RUNTIMES: tuple[EngineRuntime, ...] = ("tensorrt-rtx", "tensorrt")
RuntimeName = Literal["onnxruntime", "tensorrt-rtx", "tensorrt"]
"""What runs a bundle."""
Activations = Literal["int8", "float32"]
"""What ONNX Runtime multiplies quantised weights with on the CPU."""
ACTIVATIONS: Activations = "int8"
ProfileName = Literal["decode", "prefill", "window"]
PROFILES: dict[Mode, tuple[ProfileName, ...]] = {
    "step": ("decode",),
    "prefill": ("prefill",),
    "both": ("decode", "prefill"),
    "window": ("window",),
}
"""The optimisation profiles of an engine in their order, by the bundle's mode; the weights are there once."""


@dataclass(frozen=True)
class TensorProfile:
    """Shapes of one input in one optimisation profile."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @staticmethod
    def parse(data: dict[str, Any]) -> TensorProfile:
        """From plain values, as `asdict` gives them."""
        return TensorProfile(data["name"], tuple(data["min"]), tuple(data["opt"]), tuple(data["max"]))


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of the engine; where an input's shape is dynamic (-1), with one profile for each of the
    engine's."""

    name: str
    mode: str
    """`input` or `output`."""
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[TensorProfile, ...]

    @staticmethod
    def parse(data: dict[str, Any]) -> EngineTensor:
        """From plain values, as `asdict` gives them."""
        profiles = tuple(map(TensorProfile.parse, data["profiles"]))
        return EngineTensor(data["name"], data["mode"], data["dtype"], tuple(data["shape"]), profiles)


@dataclass(frozen=True)
class FileHash:
    name: str
    sha256: str


@dataclass(frozen=True)
class BuildOptions:
    """How the engine was asked for."""

    version_compatible: bool
    hardware_compatible: bool
    """Runs on GPUs from Ampere on; TensorRT-RTX has targets instead."""
    tf32: bool
    stripped_functions: bool
    """The cells' definitions were taken out, so that the parser used the plugins."""
    products_as_sums: bool
    """The cells' matrix products were written as sums, for Turing."""


@dataclass(frozen=True)
class EngineRecord:
    """What `<engine>.json` holds; field order is the order in the file."""

    engine: FileHash
    engine_bytes: int
    runtime: EngineRuntime
    runtime_version: str
    targets: tuple[str, ...]
    """Compute capabilities, `sm89`."""
    gpu: str | None
    """Name of the GPU it was built on; None: built ahead of time."""
    dtype: Dtype
    batch: tuple[int, int, int]
    """Least, tuned for, most."""
    profiles: tuple[ProfileName, ...]
    """The optimisation profiles in their order: `decode` (one position), `prefill` (1 to `max_chunk`), or `window`
    (whole sequences of up to `max_chunk`)."""
    max_chunk: int | None
    """The most positions of one pass; None with `decode` alone, and for windows of one length."""
    tensors: tuple[EngineTensor, ...]
    model: FileHash
    manifest: FileHash
    plugins: FileHash | None
    """The plugin library that the engine needs, which runs all its cells; a file of this name lies beside the engine.
    None: the cells run as their definitions."""
    options: BuildOptions
    seconds: float
    """Time of the build."""
    producer: dict[str, str]
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        ordered = {"format": self.format, "format_version": self.format_version}
        return json.dumps(ordered | asdict(self), indent=2) + "\n"

    @property
    def major_version(self) -> int:
        """Of the runtime that built it."""
        return int(self.runtime_version.partition(".")[0])


def sidecar_of(engine: Path) -> Path:
    """`x.engine` → `x.engine.json`."""
    return engine.with_name(engine.name + ".json")


def read_record(engine: Path) -> EngineRecord:
    """Read and check the sidecar of an engine.

    Raises:
        UserError: no such engine or sidecar, or not one of this format, or the engine has another size.
    """
    path = sidecar_of(engine)
    if not engine.is_file():
        raise UserError(ErrorKind.unavailable, f"no engine at {engine}. Build one with `xlstm-export build`.")
    if not path.is_file():
        raise UserError(
            ErrorKind.bundle,
            f"{engine} has no {path.name} beside it. Copy that file too, or build the engine again.",
        )
    record = parse_record(read_json(path, _REMEDY), str(path))
    if (size := engine.stat().st_size) != record.engine_bytes:
        raise UserError(
            ErrorKind.bundle,
            f"{engine} has {size:,} bytes, not {record.engine_bytes:,}. Copy it whole, or build it again.",
        )
    return record


def parse_record(data: Any, where: str) -> EngineRecord:
    """Check the parsed JSON and build the record; `where` names the file in messages."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(ErrorKind.bundle, f'{where} is no sidecar of an engine: no "format": "{FORMAT}". {_REMEDY}')
    version = data.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            ErrorKind.bundle,
            f"{where} has format version {version!r}; this xlstm-export reads version {FORMAT_VERSION}. {_REMEDY}",
        )
    entries = Fields(data, where, _REMEDY)
    entries.require(f.name for f in fields(EngineRecord))
    runtime_version = entries.text("runtime_version")
    if re.match(r"[0-9]{1,9}(\.|\Z)", runtime_version) is None:
        entries.fail(f"runtime_version is {runtime_version!r}, which does not begin with a number")
    batch = entries.counts("batch", 3)
    if not batch[0] <= batch[1] <= batch[2]:
        entries.fail(f"batch is {list(batch)}, which falls")
    profiles = tuple(entries.choice("profiles", map(list, PROFILES.values())))
    if "window" not in profiles and entries.is_null("max_chunk") == ("prefill" in profiles):
        entries.fail("max_chunk and the profile `prefill` go together")
    options = entries.below("options")
    return EngineRecord(
        engine=_file(entries.below("engine")),
        engine_bytes=entries.integer("engine_bytes", 1, 2**63 - 1),
        runtime=entries.choice("runtime", ENGINE_RUNTIMES),
        runtime_version=runtime_version,
        targets=entries.texts("targets"),
        gpu=None if entries.is_null("gpu") else entries.text("gpu"),
        dtype=entries.choice("dtype", ("float32", "float16", "bfloat16")),
        batch=(batch[0], batch[1], batch[2]),
        profiles=profiles,
        max_chunk=None if entries.is_null("max_chunk") else entries.count("max_chunk"),
        tensors=tuple(map(_tensor, entries.each("tensors"))),
        model=_file(entries.below("model")),
        manifest=_file(entries.below("manifest")),
        plugins=None if entries.is_null("plugins") else _file(entries.below("plugins")),
        options=BuildOptions(**{f.name: options.boolean(f.name) for f in fields(BuildOptions)}),
        seconds=entries.number("seconds"),
        producer=entries.mapping("producer"),
    )


def _file(entries: Fields) -> FileHash:
    return FileHash(entries.file_name("name"), entries.sha256("sha256"))


def _tensor(entries: Fields) -> EngineTensor:
    shape = entries.integers("shape", -1)
    profiles = tuple(
        TensorProfile(p.text("name"), *(p.counts(key, len(shape)) for key in ("min", "opt", "max")))
        for p in entries.each("profiles")
    )
    return EngineTensor(
        entries.text("name"), entries.choice("mode", ("input", "output")), entries.text("dtype"), shape, profiles
    )
