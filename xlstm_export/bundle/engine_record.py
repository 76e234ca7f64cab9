"""The sidecar of an engine: a JSON file beside it that says what it is, what made it, and what it fits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from ..checksum import sha256
from ..errors import ErrorKind, UserError
from .manifest import FILE_NAME, MODEL_FILE, Mode

FORMAT = "xlstm-engine"
FORMAT_VERSION = 2
FOLDER = "engines"
"""Of a bundle."""


ProfileName = Literal["decode", "prefill"]
PROFILES: dict[Mode, tuple[ProfileName, ...]] = {
    "step": ("decode",),
    "prefill": ("prefill",),
    "both": ("decode", "prefill"),
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
    def parse(data: dict) -> TensorProfile:
        """From plain values, as `asdict` gives them."""
        return TensorProfile(data["name"], *(tuple(data[key]) for key in ("min", "opt", "max")))


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
    runtime: str
    runtime_version: str
    targets: tuple[str, ...]
    """Compute capabilities, `sm89`."""
    gpu: str | None
    """Name of the GPU it was built on; None: built ahead of time."""
    dtype: str
    batch: tuple[int, int, int]
    """Least, tuned for, most."""
    profiles: tuple[ProfileName, ...]
    """The optimisation profiles in their order: `decode` (one position), `prefill` (1 to `max_chunk`)."""
    max_chunk: int | None
    """The most positions of one pass; None without the profile `prefill`."""
    tensors: tuple[EngineTensor, ...]
    model: FileHash
    manifest: FileHash
    plugins: FileHash | None
    """The plugin library that the engine needs; a file of this name lies beside the engine."""
    options: BuildOptions
    seconds: float
    """Time of the build."""
    producer: dict[str, str]
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        ordered = {"format": self.format, "format_version": self.format_version}
        return json.dumps(ordered | asdict(self), indent=2) + "\n"

    def fits(self, bundle: Path) -> bool:
        """Whether the bundle is still the one it was built from, byte for byte in graph and manifest.

        The manifest names the checksum of the weights' source, so that other weights are another manifest.
        """
        return all(
            (bundle / file.name).is_file() and sha256(bundle / file.name) == file.sha256
            for file in (self.model, self.manifest)
        )


def sidecar_of(engine: Path) -> Path:
    """`x.engine` → `x.engine.json`."""
    return engine.with_name(engine.name + ".json")


def hash_bundle(bundle: Path) -> tuple[FileHash, FileHash]:
    """Of `model.onnx` and of the manifest."""
    return tuple(FileHash(name, sha256(bundle / name)) for name in (MODEL_FILE, FILE_NAME))


def read_record(engine: Path) -> EngineRecord:
    """Read and check the sidecar of an engine.

    Raises:
        UserError: no such engine or sidecar, or not one of this format.
    """
    path = sidecar_of(engine)
    if not engine.is_file():
        raise UserError(ErrorKind.unavailable, f"no engine at {engine}. Build one with `xlstm-export build`.")
    if not path.is_file():
        raise UserError(
            ErrorKind.bundle, f"{engine} has no {path.name} beside it. Copy that file too, or build the engine again."
        )
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.get("format") != FORMAT or data.get("format_version") != FORMAT_VERSION:
            raise UserError(
                ErrorKind.bundle, f"{path} is not a version {FORMAT_VERSION} {FORMAT} file. Build the engine again."
            )
        record = _parse(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(ErrorKind.bundle, f"{path} is damaged ({error!r}). Build the engine again.") from None
    if (size := engine.stat().st_size) != record.engine_bytes:
        raise UserError(
            ErrorKind.bundle,
            f"{engine} has {size:,} bytes, not {record.engine_bytes:,}. Copy it whole, or build it again.",
        )
    return record


def _parse(data: dict) -> EngineRecord:
    values = {f.name: data[f.name] for f in fields(EngineRecord)}
    for name in ("engine", "model", "manifest"):
        values[name] = FileHash(**data[name])
    values["plugins"] = FileHash(**data["plugins"]) if data["plugins"] else None
    values["options"] = BuildOptions(**data["options"])
    values["targets"] = tuple(data["targets"])
    low, tuned, high = data["batch"]
    values["batch"] = (int(low), int(tuned), int(high))
    values["tensors"] = tuple(map(parse_tensor, data["tensors"]))
    values["profiles"] = tuple(data["profiles"])
    if values["profiles"] not in PROFILES.values():
        raise TypeError("profiles")
    if (values["max_chunk"] is None) == ("prefill" in values["profiles"]):
        raise TypeError("max_chunk")
    for name, kind in (("engine_bytes", int), ("runtime", str), ("runtime_version", str), ("seconds", (int, float))):
        if not isinstance(values[name], kind):
            raise TypeError(name)
    return EngineRecord(**values)


def parse_tensor(data: dict) -> EngineTensor:
    """From plain values, as `asdict` gives them."""
    profiles = tuple(map(TensorProfile.parse, data["profiles"]))
    return EngineTensor(data["name"], data["mode"], data["dtype"], tuple(data["shape"]), profiles)


def list_engines(bundle: Path) -> list[tuple[Path, EngineRecord]]:
    """The engines in a bundle that have a readable sidecar, newest first."""
    found = []
    for engine in (bundle / FOLDER).glob("*.engine"):
        try:
            found.append((engine, read_record(engine)))
        except UserError:
            continue
    return sorted(found, key=lambda item: item[0].stat().st_mtime_ns, reverse=True)


def find_engine(bundle: Path, runtime: str, batch: int, engine: Path | None = None) -> tuple[Path, EngineRecord]:
    """The engine to run a bundle with: `engine`, or else the newest in the bundle that fits it.

    Raises:
        UserError: there is none, or it is for another runtime, another bundle or other batch sizes.
    """
    if engine is None:
        candidates = [item for item in list_engines(bundle) if item[1].runtime == runtime]
        if not candidates:
            raise UserError(
                ErrorKind.unavailable, f"{bundle} holds no engine for {runtime}. {_build_hint(bundle, runtime)}"
            )
        problems = [_misfit(bundle, runtime, batch, record) for _, record in candidates]
        good = [item for item, problem in zip(candidates, problems, strict=True) if problem is None]
        if good:
            return good[0]
        engine, problem = candidates[0][0], problems[0]
    else:
        record = read_record(engine)
        problem = _misfit(bundle, runtime, batch, record)
        if problem is None:
            return engine, record
    raise UserError(ErrorKind.bundle, f"{engine.name} {problem}. {_build_hint(bundle, runtime)}")


def _misfit(bundle: Path, runtime: str, batch: int, record: EngineRecord) -> str | None:
    low, _, high = record.batch
    if record.runtime != runtime:
        return f"is an engine for {record.runtime}, not for {runtime}"
    if not low <= batch <= high:
        return f"takes batches {low} to {high}, not {batch}"
    if not record.fits(bundle):
        return f"was built from another export than the one in {bundle}"
    return None


def _build_hint(bundle: Path, runtime: str) -> str:
    return f"Build one with `xlstm-export build {bundle} --runtime {runtime}`."
