"""What a plugin library is, and what every TensorRT that is installed makes of it.

Each TensorRT flavour gets a process of its own (`registry_probe.py`). None of it needs a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from ..errors import ErrorKind, UserError
from ..nvidia.cuda_versions import drivers_for
from ..operators.names import CELLS, DOMAIN, VERSION
from . import fatbin
from .build_info import build_info

CREATORS = tuple((name, str(VERSION), DOMAIN) for name in CELLS)
"""Name, version and namespace under which the nodes of an exported graph look their plugins up."""

# Python module: what it is. Several names of one flavour: the first that is installed.
FLAVOURS = {
    "TensorRT": ("tensorrt",),
    "TensorRT lean runtime": ("tensorrt_lean", "tensorrt_lean_bindings"),
    "TensorRT-RTX": ("tensorrt_rtx",),
}
_TIMEOUT_S = 120  # loading a full TensorRT from a cold disk


@dataclass(frozen=True)
class Creator:
    """A plugin creator as a registry lists it; `fields` are (name, type) pairs."""

    name: str
    version: str
    namespace: str
    fields: tuple[tuple[str, str], ...]
    found: bool
    """Whether the registry finds it by name, version and namespace, as a parser would."""


@dataclass(frozen=True)
class Registry:
    """What one TensorRT flavour's registry holds after loading the library, or why it could not be asked."""

    flavour: str
    version: str | None
    creators: tuple[Creator, ...]
    problem: str | None

    @property
    def passed(self) -> bool:
        """All our creators are there and can be looked up."""
        names = {(c.name, c.version, c.namespace) for c in self.creators if c.found}
        return self.problem is None and names.issuperset(CREATORS)


@dataclass(frozen=True)
class Check:
    """The library itself, and one entry for each TensorRT flavour that is installed."""

    library: Path
    size: int
    versions: dict[str, str]
    """Versions it was built with: `xlstm`, `tensorrt_headers`, `cuda`."""
    architectures: tuple[str, ...]
    """`sm_NN`: machine code; `compute_NN`: PTX, compiled by the driver for what is newer."""
    registries: tuple[Registry, ...]
    absent: tuple[str, ...]
    """Flavours that are not installed."""

    @property
    def passed(self) -> bool:
        """Every registry that is installed takes the library. True where none is."""
        return all(registry.passed for registry in self.registries)


def check_library(library: Path) -> Check:
    """Look into a plugin library and load it into every registry that is installed.

    Raises:
        UserError: there is no such file, or it is not a TensorRT plugin library of this project.
    """
    library = library.resolve()
    if not library.is_file():
        raise UserError(ErrorKind.unavailable, f"{library} is not there. Build it with `xlstm-export plugins build`.")
    registries, absent = [], []
    versions = build_info(library)
    if "tensorrt_headers" not in versions:
        raise UserError(ErrorKind.unavailable, f"{library} is not a TensorRT plugin library.")
    for flavour, modules in FLAVOURS.items():
        module = next((name for name in modules if importlib.util.find_spec(name)), None)
        if module is None:
            absent.append(flavour)
        else:
            registries.append(_ask_registry(flavour, module, library))
    try:
        architectures = fatbin.architectures(library)
    except ValueError as error:
        raise UserError(ErrorKind.unavailable, f"{library}: {error}.") from error
    return Check(library, library.stat().st_size, versions, architectures, tuple(registries), tuple(absent))


def render(check: Check) -> RenderableType:
    """The check as lines for a terminal."""
    versions = ", ".join(f"{key.replace('_', ' ')} {version}" for key, version in check.versions.items())
    lines = [
        Text.assemble((str(check.library), "bold"), f"  {check.size / 1e6:.1f} MB"),
        Text(f"  built with     {versions}"),
        Text(f"  needs          {drivers_for(check.versions['cuda'])}"),
        Text(f"  device code    {', '.join(check.architectures) or 'none'}"),
    ]
    for registry in check.registries:
        verdict = ("loads", "green") if registry.passed else ("does not load", "red")
        lines.append(Text.assemble(f"  {registry.flavour} {registry.version or 'version unknown'}: ", verdict))
        if registry.problem:
            lines.append(Text(f"    {registry.problem}"))
        for creator in registry.creators:
            fields = ", ".join(f"{name}: {kind.lower()}" for name, kind in creator.fields)
            line = Text(f"    {creator.namespace}::{creator.name} version {creator.version} ({fields})")
            lines.append(line if creator.found else line.append("  cannot be looked up", "red"))
    lines += [Text(f"  {flavour}: not installed here", "dim") for flavour in check.absent]
    return Group(*lines)


def _ask_registry(flavour: str, module: str, library: Path) -> Registry:
    probe = Path(__file__).with_name("registry_probe.py")
    try:
        done = _run([sys.executable, str(probe), module, str(library)])
    except subprocess.TimeoutExpired:
        return Registry(flavour, None, (), f"no answer within {_TIMEOUT_S} s")
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        return Registry(flavour, None, (), lines[-1] if lines else f"the process ended with code {done.returncode}")
    answer = json.loads(done.stdout.splitlines()[-1])
    creators = tuple(
        Creator(c["name"], c["version"], c["namespace"], tuple((n, t) for n, t in c["fields"]), c["found"])
        for c in answer["creators"]
    )
    problem = None if answer["loaded"] else "the registry refused the library"
    return Registry(flavour, answer["version"], creators, problem)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
