"""`xlstm_export.native`: finding or fetching what compiles, compiling the libraries, finding what was compiled."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import onnxruntime as ort
import pytest
from support.paths import ROOT

from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.native import build, cmake, headers, locate, toolchain
from xlstm_export.version import __version__

VARIABLES = ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "ONNXRUNTIME_ROOT", "TensorRT_ROOT", "TENSORRT_ROOT")


@pytest.fixture
def empty_machine(monkeypatch, tmp_path) -> Path:
    """No compilers on PATH, nothing fetched, nothing set; its folder."""
    for name in (*VARIABLES, locate.FOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(locate, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setattr(toolchain, "_pip_folder", lambda module, below: [tmp_path / module / below])
    return tmp_path


@pytest.fixture
def package(monkeypatch, tmp_path) -> headers.Package:
    """A wheel with headers in a folder that pip looks into, and in no index; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "holder-1.0-py3-none-any.whl", "w") as wheel:
        for name in ("holder/include/a.h", "holder/include/deep/b.h", "holder/include/c.txt", "holder/d.h"):
            wheel.writestr(name, f"// {name}\n")
        wheel.writestr("holder-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: holder\nVersion: 1.0\n")
        wheel.writestr("holder-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return _package(tmp_path / "holder-1.0-py3-none-any.whl", "holder/include/")


def _package(file: Path, root: str, **options: str) -> headers.Package:
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    return headers.Package("The headers", "holder", "1.0", checksum, root, "", **options)


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_cuda_compiler_of_the_system_comes_before_that_of_a_pip_package(empty_machine, monkeypatch):
    pip = _program(empty_machine / "nvidia" / "cu13" / "bin" / "nvcc")
    if not Path("/usr/local/cuda/bin/nvcc").exists():
        assert (toolchain.cuda_compiler().path, toolchain.cuda_compiler().origin) == (pip, "pip")
    home = _program(empty_machine / "cuda" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(empty_machine / "cuda"))
    assert (toolchain.cuda_compiler().path, toolchain.cuda_compiler().origin) == (home, "system")
    on_path = _program(empty_machine / "bin" / "nvcc")
    assert toolchain.cuda_compiler().path == on_path
    chosen = _program(empty_machine / "chosen" / "nvcc")
    monkeypatch.setenv("CUDACXX", str(chosen))
    assert toolchain.cuda_compiler().path == chosen


def test_cmake_of_the_virtual_environment_comes_before_the_one_on_path(empty_machine):
    on_path = _program(empty_machine / "bin" / "cmake")
    assert (toolchain.cmake().path, toolchain.cmake().origin) == (on_path, "system")
    own = _program(empty_machine / "venv" / "bin" / "cmake")
    assert (toolchain.cmake().path, toolchain.cmake().origin) == (own, "pip")


def test_headers_of_an_installation_come_before_pip_packages_and_these_before_fetched_ones(empty_machine, monkeypatch):
    fetched = _file(headers.TENSORRT.folder / "NvInferRuntime.h").parent
    found = toolchain.tensorrt_headers()
    if found.origin != "system":  # a machine that has TensorRT
        assert (found.path, found.origin) == (fetched, "fetched")
        pip = _file(empty_machine / "kernel_lens" / "include" / "tensorrt" / "NvInferRuntime.h").parent
        assert (toolchain.tensorrt_headers().path, toolchain.tensorrt_headers().origin) == (pip, "pip")
    own = _file(empty_machine / "own" / "include" / "NvInferRuntime.h").parent
    monkeypatch.setenv("TENSORRT_ROOT", str(empty_machine / "own"))
    assert (toolchain.tensorrt_headers().path, toolchain.tensorrt_headers().origin) == (own, "system")


def test_missing_tool_is_named_with_its_remedy(empty_machine):
    tool = toolchain._program("Sponge", ["xlstm-sponge"], (), "Run `pip install sponge`.")
    message = r"Sponge. Run `pip install sponge`.\nLooked for:\n  xlstm-sponge\n  .*/xlstm-sponge"
    with pytest.raises(UserError, match=message):
        tool.require()


def test_headers_are_taken_out_of_a_wheel_once(package, monkeypatch):
    titles = []
    folder = headers.fetch_headers(package, lambda title, total: titles.append(title))
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["a.h", "deep/b.h"] and titles == ["Fetching The headers"]
    assert (folder / "deep" / "b.h").read_text() == "// holder/include/deep/b.h\n"
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert headers.fetch_headers(package) == folder


def test_headers_are_taken_out_of_a_source_distribution_without_running_any_of_it(package, tmp_path):
    (tmp_path / "holder-1.0-py3-none-any.whl").unlink()
    contents = {
        "pyproject.toml": '[build-system]\nrequires = ["nothing-such"]\nbuild-backend = "made_up"\n',
        "made_up.py": "raise SystemExit('it was run')",
        "setup.py": "raise SystemExit('it was run')",
        "PKG-INFO": "Metadata-Version: 2.1\nName: holder\nVersion: 1.0\n",
        "include/a.h": "// a\n",
    }
    with tarfile.open(tmp_path / "holder-1.0.tar.gz", "w:gz") as archive:
        for name, text in contents.items():
            member = tarfile.TarInfo(f"holder-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    package = _package(tmp_path / "holder-1.0.tar.gz", "holder-1.0/include/", backend="made_up")
    assert (headers.fetch_headers(package) / "a.h").read_text() == "// a\n"


def test_nothing_is_kept_of_a_package_that_is_not_what_it_was(package):
    changed = dataclasses.replace(package, sha256="0" * 64)
    with pytest.raises(UserError, match="pip could not download holder==1.0, .* DO NOT MATCH THE HASHES") as caught:
        headers.fetch_headers(changed)
    assert caught.value.kind is ErrorKind.unavailable and not changed.folder.exists()


def test_headers_that_cannot_be_fetched_are_named_with_what_to_install(package, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    tool = toolchain.Tool("headers", None, "", (), "Install them.", package)
    with pytest.raises(UserError, match="(?s)pip could not download holder==1.0, which holds .*Install them."):
        tool.obtain()


@pytest.mark.parametrize(
    "targets, expected",
    [
        (["86"], "86"),
        (["sm86", "sm_120", "8.9"], "86-real;89-real;120"),
        (["current"], "native"),
        ([], None),
    ],
)
def test_targets_are_spelled_as_those_of_engines(targets, expected):
    assert build.cuda_architectures(targets) == expected


@pytest.mark.parametrize("target", ["ampere", "-86", "90a", "sm8"])
def test_nonsense_target_is_refused(target):
    with pytest.raises(UserError, match="is not a compute capability"):
        build.build_libraries([target])


def _nvcc(path: Path, *architectures: int) -> Path:
    """Says which architectures it compiles for, and can do nothing else."""
    listed = "".join(f"compute_{number}\n" for number in architectures)
    _program(path).write_text(f"#!/bin/sh\n[ $1 = --list-gpu-arch ] && echo '{listed}'\n")
    return path


@pytest.mark.parametrize(
    "known, built, left_out",
    [
        (
            (50, 52, 60, 70, 72, 75, 80, 86, 87, 89, 90),
            "75-real;80-real;86-real;87-real;89-real;90",
            "100, sm110, sm120",
        ),
        (
            (75, 80, 86, 87, 89, 90, 100, 101, 120),
            "75-real;80-real;86-real;87-real;89-real;90-real;100-real;120",
            "110",
        ),
        ((110, 75, 120, 121), "75-real;110-real;120", "80, sm86, sm87, sm89, sm90, sm100"),
        ((80,), "80", "75, sm86, sm87, sm89, sm90, sm100, sm110, sm120"),
    ],
    ids=["12.6", "like 12.8", "some", "one"],
)
def test_architectures_of_a_release_are_those_that_the_compiler_knows(tmp_path, known, built, left_out):
    nvcc = _nvcc(tmp_path / "nvcc", *known)
    script = tmp_path / "script.cmake"
    module = cmake.sources() / "cmake" / "XlstmArchitectures.cmake"
    script.write_text(f'include({module})\nxlstm_release_architectures({nvcc} found)\nmessage("found ${{found}}")\n')
    done = subprocess.run([toolchain.cmake().require(), "-P", script], capture_output=True, text=True, check=True)
    assert done.stderr == f"found {built}\n"
    assert f"nvcc does not know sm{left_out}, which are left out" in done.stdout


def test_compiler_is_asked_for_its_architectures_before_it_has_to_compile(tmp_path, monkeypatch):
    monkeypatch.setattr(cmake, "cache_folder", lambda: tmp_path)
    options = {"XLSTM_CUDA": "ON", "XLSTM_BUILD_RUNTIME": "OFF"}
    with pytest.raises(UserError, match="does not know sm75, sm80, sm86, sm87, sm89, sm90, sm110, sm120"):
        cmake.configure(options | {"CMAKE_CUDA_COMPILER": _nvcc(tmp_path / "nvcc", 100)})
    with pytest.raises(UserError, match="(?s)names no architecture of a release.*--target sm87"):
        cmake.configure(options | {"CMAKE_CUDA_COMPILER": _nvcc(tmp_path / "old" / "nvcc", 50)})


def test_target_without_cuda_is_refused():
    with pytest.raises(UserError, match="--target with --no-cuda"):
        build.build_libraries(["sm86"], cuda=False)


def test_library_is_found_where_it_was_built(empty_machine, monkeypatch):
    name = locate.ONNXRUNTIME_LIBRARY
    assert locate.find_library(name) is None
    built = f"cache/xlstm-export/lib/{__version__}/libxlstm_onnxruntime.so is not there"
    with pytest.raises(UserError, match=rf"{built}, nor is .*/prebuilt/lib/libxlstm_onnxruntime.so \(.* is not set\)"):
        locate.require_library(name)
    in_wheel = _file(locate.PREBUILT / "lib" / name)
    assert locate.find_place(name) == locate.Place(in_wheel.parent, "wheel")
    with_cuda = _file(empty_machine / "packages" / locate.CUDA_MODULE / "lib" / name)
    importlib.invalidate_caches()
    assert locate.find_place(name) == locate.Place(with_cuda.parent, "xlstm-export-cuda")
    built = _file(locate.library_folder() / name)
    assert locate.find_library(name) == locate.require_library(name) == built
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(empty_machine / "elsewhere"))
    assert locate.find_library(name) is None
    with pytest.raises(UserError, match="XLSTM_EXPORT_LIBRARIES is .*elsewhere"):
        locate.require_library(name)
    given = _file(empty_machine / "given.so")
    assert locate.require_library(name, given) == given
    with pytest.raises(UserError, match="missing.so is not there. Build it"):
        locate.require_library(name, empty_machine / "missing.so")


def test_build_without_cuda_gives_a_library_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(cmake, "cache_folder", lambda: tmp_path / "cache")  # nothing was compiled before
    output = tmp_path / "lib"
    stages: dict[str, list] = {}

    def stage(title, total):
        stages[title] = [total, 0]

        def advance(amount):
            stages[title][1] += amount

        return advance

    result = build.build_libraries(cuda=False, output=output, stage=stage)
    assert result.libraries == (output / locate.ONNXRUNTIME_LIBRARY,)
    assert list(result.left_out) == [locate.TENSORRT_PLUGINS, locate.TENSORRT_ONLOAD]
    assert stages["Compiling"][0] == stages["Compiling"][1]
    ort.SessionOptions().register_custom_ops_library(str(result.libraries[0]))
    assert list(output.iterdir()) == [result.libraries[0]]


def test_library_whose_headers_are_nowhere_is_left_out_with_the_reason(tmp_path, monkeypatch):
    def headers_are(name: str, path: Path | None) -> None:
        tool = toolchain.Tool(name, path, "system", (), f"Get {name}.")
        monkeypatch.setitem(toolchain.HEADERS, name, (name, lambda: tool))

    def build_nothing(options: dict[str, object], targets: list[str], stage: object) -> Path:
        assert targets == ["xlstm_tensorrt", "xlstm_tensorrt_onload"] and "XLSTM_BUILD_ORT_OPERATORS" not in options
        for name in (locate.TENSORRT_PLUGINS, locate.TENSORRT_ONLOAD):
            _file(tmp_path / "lib" / name)
        (tmp_path / "configure.log").write_text("-- something\n-- note: nvcc does not know sm110.\n")
        return tmp_path

    monkeypatch.setattr(cmake, "build", build_nothing)
    monkeypatch.setattr(cmake, "cuda_options", lambda architectures: {})
    headers_are("highway", None)
    headers_are("onnxruntime", tmp_path)
    headers_are("tensorrt", tmp_path)
    result = build.build_libraries(output=tmp_path / "out")
    assert result.libraries == tuple(
        tmp_path / "out" / name for name in (locate.TENSORRT_PLUGINS, locate.TENSORRT_ONLOAD)
    )
    assert list(result.left_out) == [locate.ONNXRUNTIME_LIBRARY]
    assert result.notes == ("nvcc does not know sm110.",)
    assert "Get highway." in result.left_out[locate.ONNXRUNTIME_LIBRARY]
    with pytest.raises(UserError, match="(?s)nothing to build:.*Get highway."):
        build.build_libraries(cuda=False)


def test_message_of_a_failed_build_shows_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(cmake, "cache_folder", lambda: tmp_path / "cache")
    project = "cmake_minimum_required(VERSION 3.24)\nproject(broken LANGUAGES CXX)\n"
    project += "add_library(broken SHARED broken.cc)\n"
    (tmp_path / "CMakeLists.txt").write_text(project)
    (tmp_path / "broken.cc").write_text("#error the reason\n")
    with pytest.raises(UserError, match="(?s)the compilation failed.*build.log\n.*the reason"):
        cmake.build({}, ["broken"], source=tmp_path)
    (tmp_path / "CMakeLists.txt").write_text('message(FATAL_ERROR "another reason")')
    with pytest.raises(UserError, match="(?s)CMake could not configure.*configure.log\n.*another reason"):
        cmake.build({}, ["broken"], source=tmp_path)


def test_runtime_alone_needs_neither_cuda_nor_highway(tmp_path, monkeypatch):
    monkeypatch.setattr(cmake, "cache_folder", lambda: tmp_path)
    folder = cmake.configure(cmake.header_options(["json", "onnxruntime"]) | _without("highway", "cuda", "tensorrt"))
    assert "Back ends of libxlstm_runtime: ONNX Runtime\n" in (folder / "configure.log").read_text()


@pytest.mark.parametrize(
    "options, missing",
    [({"XLSTM_BUILD_ORT_OPERATORS": "ON"}, "highway"), ({"XLSTM_RUNTIME_TRT": "ON"}, "tensorrt"), ({}, "json")],
)
def test_headers_that_cmake_misses_are_named_with_a_remedy_that_works(tmp_path, monkeypatch, options, missing):
    monkeypatch.setattr(cmake, "cache_folder", lambda: tmp_path)
    others = [name for name in toolchain.HEADERS if name != missing]
    variable, find = toolchain.HEADERS[missing]
    with pytest.raises(UserError) as caught:
        cmake.configure(options | cmake.header_options(others) | _without(missing))
    message = " ".join(str(caught.value).split())
    assert f"-D{variable}=<their folder>" in message
    assert f"python -m xlstm_export.native.toolchain {missing}" in message
    command = [sys.executable, "-m", "xlstm_export.native.toolchain", missing]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(printed) == find().path


def _without(*names: str) -> dict[str, object]:
    """Options for which CMake finds no such headers, even where the system has them."""
    return {toolchain.HEADERS[name][0]: f"{toolchain.HEADERS[name][0]}-NOTFOUND" for name in names} | {
        "CMAKE_FIND_USE_CMAKE_SYSTEM_PATH": "OFF",
        "CMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH": "OFF",
    }


@pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64", "readelf")),
    reason="needs g++-aarch64-linux-gnu, qemu-user and binutils",
)
def test_kernels_for_arm_are_right_under_qemu(tmp_path):
    script = ROOT / "scripts" / "cross_build_aarch64.py"
    command = [sys.executable, script, "--no-cuda", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "libxlstm_onnxruntime.so: AArch64" in done.stdout
    assert "100% tests passed" in done.stdout and "cpu_cells.NEON" in done.stdout
    assert (tmp_path / locate.ONNXRUNTIME_LIBRARY).is_file()
