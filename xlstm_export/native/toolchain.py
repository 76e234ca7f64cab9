"""What compiles the native libraries: compilers and headers, each found in the order system, pip packages, fetched.

Nothing is run and nothing heavy is imported: looking is a matter of milliseconds.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..cache import cache_folder
from ..errors import ErrorKind, UserError

CUDA_PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl")
"""Together a complete CUDA compiler; `pip install` them where there is no CUDA toolkit."""


@dataclass(frozen=True)
class Tool:
    """A compiler, a program or a folder of headers: where it is, or where it was looked for.

    `origin` is `system`, `pip` or `fetched`. `remedy` says how to get it.
    """

    name: str
    path: Path | None
    origin: str
    tried: tuple[Path, ...]
    remedy: str

    def require(self) -> Path:
        """Its path.

        Raises:
            UserError: it was not found. The message says where it was looked for and how to get it.
        """
        if self.path is not None:
            return self.path
        places = "".join(f"\n  {path}" for path in self.tried)
        raise UserError(ErrorKind.unavailable, f"Not found: {self.name}. {self.remedy}\nLooked for:{places}")


def headers_folder(name: str) -> Path:
    """Where the scripts put fetched headers: `onnxruntime`, `highway`, `tensorrt`."""
    return cache_folder() / "include" / name


def cxx_compiler() -> Tool:
    """The C++ compiler: `CXX`, or the first of c++, g++ and clang++."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return _program("a C++ compiler", names, (), "Install one (Debian, Ubuntu: apt-get install g++) or set CXX.")


def cmake() -> Tool:
    """CMake, 3.24 or newer."""
    return _program("CMake", ["cmake"], _pip_folder("cmake", "data/bin"), "Run `pip install cmake`.")


def ninja() -> Tool:
    """Ninja; CMake can do without."""
    return _program("Ninja", ["ninja"], _pip_folder("ninja", "data/bin"), "Run `pip install ninja`.")


def cuda_compiler() -> Tool:
    """nvcc: `CUDACXX`, the one on PATH, under CUDA_HOME or /usr/local/cuda, or of the pip packages `CUDA_PACKAGES`."""
    names = [os.environ["CUDACXX"]] if os.environ.get("CUDACXX") else ["nvcc"]
    homes = [Path(os.environ[key]) for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    remedy = f"Install CUDA 13, or run `pip install {' '.join(CUDA_PACKAGES)}`, or build with --no-cuda."
    system = [home / "bin" for home in (*homes, Path("/usr/local/cuda"))]
    return _program("the CUDA compiler nvcc", names, _pip_folder("nvidia", "cu13/bin"), remedy, system)


def onnxruntime_headers() -> Tool:
    """The folder with onnxruntime_cxx_api.h."""
    below = ("include", "include/onnxruntime", "include/onnxruntime/core/session")
    return _headers(
        "ONNX Runtime's C headers",
        "onnxruntime_cxx_api.h",
        ("ONNXRUNTIME_ROOT",),
        below,
        (),
        "onnxruntime",
        "Set ONNXRUNTIME_ROOT to an installation, or run scripts/fetch_debian_headers.py onnxruntime.",
    )


def highway_headers() -> Tool:
    """The folder with hwy/highway.h."""
    return _headers(
        "Google Highway's headers",
        "hwy/highway.h",
        (),
        ("include",),
        (),
        "highway",
        "Install them (Debian, Ubuntu: apt-get install libhwy-dev), or run scripts/fetch_debian_headers.py highway.",
    )


def tensorrt_headers() -> Tool:
    """The folder with NvInferRuntime.h."""
    return _headers(
        "TensorRT's headers",
        "NvInferRuntime.h",
        ("TensorRT_ROOT", "TENSORRT_ROOT"),
        ("include",),
        _pip_folder("kernel_lens", "include/tensorrt"),
        "tensorrt",
        "Set TENSORRT_ROOT to an installation, or run scripts/fetch_tensorrt_headers.py.",
    )


def _headers(
    name: str, file: str, variables: Iterable[str], below: Iterable[str], pip: Iterable[Path], fetched: str, remedy: str
) -> Tool:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    roots = [Path(os.environ[key]) for key in variables if os.environ.get(key)]
    roots += [Path("/usr/local"), Path("/usr"), *(Path("/usr/local") / part for part in ("tensorrt", "cuda"))]
    below = list(below)
    system = [root / folder for root in roots for folder in below]
    system += [Path("/usr/include") / multiarch] if multiarch else []
    places = [(path, "system") for path in system]
    places += [(path, "pip") for path in pip]
    places += [(headers_folder(fetched), "fetched")]
    for path, origin in places:
        if (path / file).is_file():
            return Tool(name, path, origin, (), remedy)
    return Tool(name, None, "", tuple(dict.fromkeys(path / file for path, _ in places)), remedy)


def _program(name: str, commands: Iterable[str], pip: Iterable[Path], remedy: str, system: Iterable[Path] = ()) -> Tool:
    commands, tried = list(commands), []
    for command in commands:
        if found := shutil.which(command):
            return Tool(name, Path(found), "system", (), remedy)
        tried.append(Path(command))
    # Beside the interpreter: a virtual environment that was not activated.
    folders = [(path, "system") for path in system]
    folders += [(path, "pip") for path in (Path(sys.executable).parent, *pip)]
    for folder, origin in folders:
        for command in commands:
            if found := shutil.which(command, path=str(folder)):
                return Tool(name, Path(found), origin, (), remedy)
            tried.append(folder / command)
    return Tool(name, None, "", tuple(dict.fromkeys(tried)), remedy)


def _pip_folder(module: str, below: str) -> Iterator[Path]:
    """Folders below an installed package, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location) / below
