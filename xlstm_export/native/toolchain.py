"""What compiles the native libraries: compilers and headers, each found in the order system, pip packages, fetched.

Nothing is run and nothing heavy is imported: looking is a matter of milliseconds. As a program, it prints the folder of
headers, fetched if need be: `python -m xlstm_export.native.toolchain highway`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress
from .headers import HIGHWAY, ONNXRUNTIME, TENSORRT, Package, fetch_headers

CUDA_PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl")
"""Together a complete CUDA compiler; `pip install` them where there is no CUDA toolkit."""


@dataclass(frozen=True)
class Tool:
    """A compiler, a program or a folder of headers: where it is, or where it was looked for.

    `origin` is `system`, `pip` or `fetched`. `remedy` says how to get it. `package` is what it can be fetched from.
    """

    name: str
    path: Path | None
    origin: str
    tried: tuple[Path, ...]
    remedy: str
    package: Package | None = None

    def obtain(self, stage: Stage = no_progress) -> Path:
        """Its path; headers that are not here are fetched.

        Raises:
            UserError: it was not found and cannot be fetched. The message says why, and how to get it.
        """
        if self.path is None and self.package is not None:
            try:
                return fetch_headers(self.package, stage)
            except UserError as error:
                raise UserError(error.kind, f"{error}\n{self.remedy}") from error
        return self.require()

    def require(self) -> Path:
        """Its path.

        Raises:
            UserError: it was not found. The message says where it was looked for and how to get it.
        """
        if self.path is not None:
            return self.path
        places = "".join(f"\n  {path}" for path in self.tried)
        raise UserError(ErrorKind.unavailable, f"Not found: {self.name}. {self.remedy}\nLooked for:{places}")


def cxx_compiler() -> Tool:
    """The C++ compiler: `CXX`, or the first of c++, g++ and clang++."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return _program("a C++ compiler", names, (), "Install one (Debian, Ubuntu: apt-get install g++) or set CXX.")


def cmake() -> Tool:
    """CMake, 3.24 or newer: this environment's first, since a system's is often older."""
    return _program("CMake", ["cmake"], _pip_folder("cmake", "data/bin"), "Run `pip install cmake`.", pip_first=True)


def ninja() -> Tool:
    """Ninja; CMake can do without."""
    return _program("Ninja", ["ninja"], _pip_folder("ninja", "data/bin"), "Run `pip install ninja`.", pip_first=True)


def cuda_compiler() -> Tool:
    """nvcc: `CUDACXX`, the one on PATH, under CUDA_HOME or /usr/local/cuda, or of the pip packages `CUDA_PACKAGES`."""
    names = [os.environ["CUDACXX"]] if os.environ.get("CUDACXX") else ["nvcc"]
    homes = [Path(os.environ[key]) for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    pip = f"run `pip install {' '.join(CUDA_PACKAGES)}` (CUDA 13)"
    remedy = f"Install the CUDA that the driver is for, or {pip}, or build with --no-cuda."
    system = [home / "bin" for home in (*homes, Path("/usr/local/cuda"))]
    return _program("the CUDA compiler nvcc", names, _pip_folder("nvidia", "cu13/bin"), remedy, system)


def cuobjdump() -> Tool:
    """The program that lists what is in compiled CUDA code."""
    remedy = "Install CUDA, or run `pip install nvidia-cuda-cuobjdump`."
    pip = _pip_folder("nvidia", "cu13/bin")
    return _program("cuobjdump", ["cuobjdump"], pip, remedy, [Path("/usr/local/cuda/bin")])


def onnxruntime_headers() -> Tool:
    """The folder with onnxruntime_cxx_api.h."""
    return _headers(
        ONNXRUNTIME.title,
        "onnxruntime_cxx_api.h",
        variables=("ONNXRUNTIME_ROOT",),
        below=("include", "include/onnxruntime", "include/onnxruntime/core/session"),
        package=ONNXRUNTIME,
        install="Set ONNXRUNTIME_ROOT to an installation",
    )


def highway_headers() -> Tool:
    """The folder with hwy/highway.h."""
    install = "Install them (Debian, Ubuntu: apt-get install libhwy-dev)"
    return _headers(HIGHWAY.title, "hwy/highway.h", package=HIGHWAY, install=install)


def tensorrt_headers() -> Tool:
    """The folder with NvInferRuntime.h."""
    return _headers(
        TENSORRT.title,
        "NvInferRuntime.h",
        variables=("TensorRT_ROOT", "TENSORRT_ROOT"),
        pip=_pip_folder("kernel_lens", "include/tensorrt"),
        package=TENSORRT,
        install="Set TENSORRT_ROOT to an installation",
    )


def cuda_headers() -> Tool:
    """The folder with cuda_runtime_api.h."""
    return _headers(
        "CUDA's headers",
        "cuda_runtime_api.h",
        variables=("CUDA_HOME", "CUDA_PATH"),
        pip=_pip_folder("nvidia", "cu13/include"),
        install="Install CUDA, or run `pip install nvidia-cuda-runtime`",
    )


def json_headers() -> Tool:
    """The folder with nlohmann/json.hpp."""
    return _headers(
        "The headers of nlohmann-json",
        "nlohmann/json.hpp",
        pip=_pip_folder("nlohmann_json", "include"),
        install="Run `pip install nlohmann-json` (Debian, Ubuntu: apt-get install nlohmann-json3-dev)",
    )


HEADERS: dict[str, tuple[str, Callable[[], Tool]]] = {
    "onnxruntime": ("XLSTM_ONNXRUNTIME_INCLUDE_DIR", onnxruntime_headers),
    "highway": ("XLSTM_HIGHWAY_INCLUDE_DIR", highway_headers),
    "tensorrt": ("TensorRT_INCLUDE_DIR", tensorrt_headers),
    "cuda": ("XLSTM_CUDA_INCLUDE_DIR", cuda_headers),
    "json": ("XLSTM_JSON_INCLUDE_DIR", json_headers),
}
"""By the name that `plugins/cmake/XlstmHeaders.cmake` has for them: its variable, and how to find them."""


def _headers(
    name: str,
    file: str,
    install: str,
    variables: Iterable[str] = (),
    below: Iterable[str] = ("include",),
    pip: Iterable[Path] = (),
    package: Package | None = None,
) -> Tool:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    roots = [Path(os.environ[key]) for key in variables if os.environ.get(key)]
    roots += [Path("/usr/local"), Path("/usr"), *(Path("/usr/local") / part for part in ("tensorrt", "cuda"))]
    below = list(below)
    system = [root / folder for root in roots for folder in below]
    system += [Path("/usr/include") / multiarch] if multiarch else []
    places = [(path, "system") for path in system]
    places += [(path, "pip") for path in pip]
    places += [(package.folder, "fetched")] if package else []
    remedy = f"{install}; `xlstm-export plugins build` fetches them where there are none." if package else f"{install}."
    for path, origin in places:
        if (path / file).is_file():
            return Tool(name, path, origin, (), remedy, package)
    return Tool(name, None, "", tuple(dict.fromkeys(path / file for path, _ in places)), remedy, package)


def _program(
    name: str,
    commands: Iterable[str],
    pip: Iterable[Path],
    remedy: str,
    system: Iterable[Path] = (),
    pip_first: bool = False,
) -> Tool:
    """The first command there is: on PATH, in folders of the system, beside the interpreter or in pip packages."""
    on_path: list[tuple[Path | None, str]] = [(None, "system"), *((path, "system") for path in system)]
    # Beside the interpreter: a virtual environment that was not activated.
    of_pip: list[tuple[Path | None, str]] = [(path, "pip") for path in (Path(sys.executable).parent, *pip)]
    commands, tried = list(commands), []
    for folder, origin in of_pip + on_path if pip_first else on_path + of_pip:
        for command in commands:
            if found := shutil.which(command, path=str(folder) if folder else None):
                return Tool(name, Path(found), origin, (), remedy)
            tried.append(folder / command if folder else Path(command))
    return Tool(name, None, "", tuple(dict.fromkeys(tried)), remedy)


def _pip_folder(module: str, below: str) -> Iterator[Path]:
    """Folders below an installed package, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location) / below


def _main() -> None:
    parser = argparse.ArgumentParser(description="Print the folder of some headers; fetch them if need be.")
    parser.add_argument("name", choices=HEADERS)
    _, find = HEADERS[parser.parse_args().name]
    try:
        print(find().obtain())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _main()
