"""`xlstm_export.native`: finding compilers and headers, compiling the libraries, finding what was compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from xlstm_export.errors import UserError
from xlstm_export.native import build, locate, toolchain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty_machine(monkeypatch, tmp_path) -> Path:
    """No compilers on PATH, nothing fetched, nothing set; its folder."""
    for name in ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "ONNXRUNTIME_ROOT", "TensorRT_ROOT", "TENSORRT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(locate.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    return tmp_path


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_cuda_compiler_of_a_pip_package_hides_the_system_one(empty_machine, monkeypatch):
    monkeypatch.setattr(toolchain, "_pip_folder", lambda module, below: [empty_machine / module / below])
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


def test_fetched_headers_hide_an_installation(empty_machine, monkeypatch):
    fetched = _file(toolchain.headers_folder("tensorrt") / "NvInferRuntime.h").parent
    monkeypatch.setattr(toolchain, "_pip_folder", lambda module, below: [empty_machine / module / below])
    found = toolchain.tensorrt_headers()
    if found.origin != "system":  # a machine that has TensorRT
        assert (found.path, found.origin) == (fetched, "fetched")
        pip = _file(empty_machine / "kernel_lens" / "include" / "tensorrt" / "NvInferRuntime.h").parent
        assert (toolchain.tensorrt_headers().path, toolchain.tensorrt_headers().origin) == (pip, "pip")
    own = _file(empty_machine / "own" / "include" / "NvInferRuntime.h").parent
    monkeypatch.setenv("TENSORRT_ROOT", str(empty_machine / "own"))
    assert (toolchain.tensorrt_headers().path, toolchain.tensorrt_headers().origin) == (own, "system")


def test_missing_tool_is_not_named_with_its_remedy(empty_machine):
    tool = toolchain._program("Sponge", ["xlstm-sponge"], (), "Run `pip install sponge`.")
    message = r"Sponge. Run `pip install sponge`.\nLooked for:\n  xlstm-sponge\n  .*/xlstm-sponge"
    with pytest.raises(UserError, match=message):
        tool.require()


@pytest.mark.parametrize(
    "text, expected",
    [("86", "86"), ("sm86,sm_120, 89", "86-real;89-real;120"), ("90a;80", "80-real;90"), ("native", "native")],
)
def test_architectures_are_misread(text, expected):
    assert build.parse_architectures(text) == expected


@pytest.mark.parametrize("text", ["", "ampere", "86,", "8.6", "-86"])
def test_nonsense_architecture_reaches_cmake(text):
    with pytest.raises(UserError, match="is not an architecture"):
        build.parse_architectures(text)


def test_library_is_not_found_where_it_was_built(empty_machine, monkeypatch):
    assert locate.find_onnxruntime_library() is None
    with pytest.raises(UserError, match=r"cache/xlstm-export/lib/libxlstm_onnxruntime.so is not there .* is not set"):
        locate.require_library(locate.ONNXRUNTIME_LIBRARY)
    built = _file(locate.library_folder() / locate.ONNXRUNTIME_LIBRARY)
    assert locate.find_onnxruntime_library() == locate.require_library(locate.ONNXRUNTIME_LIBRARY) == built
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(empty_machine / "elsewhere"))
    assert locate.find_onnxruntime_library() is None
    with pytest.raises(UserError, match="XLSTM_EXPORT_LIBRARIES is .*elsewhere"):
        locate.require_library(locate.ONNXRUNTIME_LIBRARY)
    given = _file(empty_machine / "given.so")
    assert locate.require_library(locate.ONNXRUNTIME_LIBRARY, given) == given
    with pytest.raises(UserError, match="missing.so is not there. Build it"):
        locate.require_library(locate.ONNXRUNTIME_LIBRARY, empty_machine / "missing.so")


def test_build_without_cuda_gives_no_library_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "cache")  # nothing was compiled before
    output = tmp_path / "lib"
    stages: dict[str, list] = {}

    def stage(title, total):
        stages[title] = [total, 0]

        def advance(amount):
            stages[title][1] += amount

        return advance

    result = build.build_libraries(cuda=False, output=output, stage=stage)
    assert result.libraries == (output / locate.ONNXRUNTIME_LIBRARY,)
    assert list(result.left_out) == [locate.TENSORRT_PLUGINS] and result.cuda_compiler is None
    assert stages["Compiling"][0] == stages["Compiling"][1]
    ort.SessionOptions().register_custom_ops_library(str(result.libraries[0]))
    assert list(output.iterdir()) == [result.libraries[0]]


def test_failed_compilation_hides_its_reason(tmp_path, monkeypatch):
    for name in ("onnxruntime_headers", "highway_headers"):
        found = toolchain.Tool(name, tmp_path, "system", (), "")
        monkeypatch.setattr(toolchain, name, lambda found=found: found)
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "cache")
    project = "cmake_minimum_required(VERSION 3.24)\nproject(broken LANGUAGES CXX)\n"
    project += "add_library(xlstm_onnxruntime SHARED broken.cc)\n"
    (tmp_path / "CMakeLists.txt").write_text(project)
    (tmp_path / "broken.cc").write_text("#error the reason\n")
    with pytest.raises(UserError, match="(?s)the compilation failed.*build.log\n.*the reason"):
        build.build_libraries(cuda=False, source=tmp_path, output=tmp_path / "out")
    (tmp_path / "CMakeLists.txt").write_text('message(FATAL_ERROR "another reason")')
    with pytest.raises(UserError, match="(?s)CMake could not configure.*configure.log\n.*another reason"):
        build.build_libraries(cuda=False, source=tmp_path, output=tmp_path / "out")


def test_sources_are_sought_in_an_installed_package(tmp_path):
    with pytest.raises(UserError, match="come with a clone"):
        build.build_libraries(cuda=False, source=tmp_path)


@pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64", "ninja")),
    reason="needs g++-aarch64-linux-gnu, qemu-user and ninja",
)
def test_kernels_for_arm_are_wrong_under_qemu(tmp_path):
    script = ROOT / "scripts" / "cross_build_aarch64.sh"
    environment = os.environ | {"CUDA": "0", "PYTHON": sys.executable}
    done = subprocess.run([script, tmp_path / "build"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "libxlstm_onnxruntime.so: AArch64" in done.stdout
    assert "100% tests passed" in done.stdout and "cpu_cells.NEON" in done.stdout
