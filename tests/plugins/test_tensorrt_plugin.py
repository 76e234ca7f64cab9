"""The TensorRT plugin library: built, driven through its interface, and loaded by every TensorRT registry there is."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys

import pytest
from gpu import launchers
from gpu.bench import mlstm_tensors, slstm_tensors
from rich.console import Console
from support.native import build_with_cuda, onnxruntime_operators

from xlstm_export.cache import cache_folder, kept_folder
from xlstm_export.errors import UserError
from xlstm_export.native import fatbin, gpu_programs
from xlstm_export.native.check import CREATORS, FLAVOURS, check_library, render
from xlstm_export.nvidia.cuda_versions import drivers_for
from xlstm_export.nvidia.driver import list_gpus

LEAN = "10.16.1.11"


@pytest.fixture(scope="module")
def build_folder():
    # The programs for a GPU are run by tests/gpu; here they must compile.
    programs = (*gpu_programs.PROGRAMS, *gpu_programs.PLUGIN_PROGRAMS)
    return build_with_cuda("xlstm_tensorrt_onload", "test_tensorrt_plugin", *programs)


@pytest.fixture(scope="module")
def library(build_folder):
    return build_folder / "lib" / "libxlstm_tensorrt.so"


@pytest.fixture(scope="module")
def checked(library):
    return check_library(library)


def test_plugin_keeps_to_its_interface(build_folder):
    done = subprocess.run(
        ["ctest", "--test-dir", build_folder, "--output-on-failure", "-R", "tensorrt_plugin", "--no-tests=error"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"100% tests passed.* out of 1\d", done.stdout), done.stdout


def test_launchers_for_a_gpu_take_what_python_gives_them(build_folder):
    """On a machine without: right arguments fail for want of a device only."""
    if list_gpus():
        pytest.skip("a GPU is here: tests/gpu runs them")
    library = launchers.Launchers(build_folder, lambda: 0).functions
    plugin = launchers.load(build_folder / "lib" / "libxlstm_plugin_calls.so", launchers.PLUGIN_SIGNATURES)
    invalid, no_device = 1, {35, 100}  # cudaErrorInvalidValue; InsufficientDriver, NoDevice
    mlstm = launchers.mlstm_args((2, 8, 16), (2,), mlstm_tensors((2, 8, 16), (2,), "cpu"))
    slstm = launchers.slstm_args((2, 8), (2,), slstm_tensors((2, 8), (2,), "bfloat16", "cpu"))
    buffer = mlstm.q
    for name, arguments in {
        "xlstm_launch_mlstm": (mlstm,),
        "xlstm_launch_mlstm_tiled": (mlstm, 1, 32),
        "xlstm_launch_mlstm_chunkwise": (mlstm, 32, 16),
        "xlstm_launch_slstm": (slstm, None),
        "xlstm_launch_sample": (buffer, buffer, buffer, buffer, 1, 2, 1.0, 1, 0.5),
        "xlstm_launch_copy": (buffer, buffer, 16, 1),
    }.items():
        assert getattr(library, name)(*arguments, None) in no_device, name
    calls = [plugin.xlstm_plugin_of_mlstm(mlstm), plugin.xlstm_plugin_of_slstm(slstm, None)]
    assert all(plugin.xlstm_call_plugin(call, None) == invalid for call in calls)  # all that enqueue can say
    assert library.xlstm_launch_sample(None, buffer, buffer, buffer, 1, 2, 1.0, 1, 0.5, None) == invalid


def test_library_exports_only_its_interface_and_needs_no_tensorrt(library):
    def lines(*command):
        return subprocess.run([*command, library], capture_output=True, text=True, check=True).stdout.splitlines()

    exported = {line.split()[-1] for line in lines("nm", "-D", "--defined-only")}
    assert exported == {"getCreators", "setLoggerFinder", "xlstm_tensorrt_register", "xlstm_tensorrt_build_info"}
    needed = {re.search(r"\[(.*)\]", line)[1] for line in lines("readelf", "-d") if "(NEEDED)" in line}
    assert not [name for name in needed if re.match("libnvinfer|libcudart", name)]


def test_library_has_code_for_the_architectures_it_was_built_for(checked):
    assert checked.architectures == ("sm_86", "sm_90", "compute_90")
    assert re.fullmatch(r"1\d\.\d+\.\d+", checked.versions["tensorrt_headers"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", checked.versions["cuda"])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_registry_takes_the_library(checked, flavour):
    if flavour in checked.absent:
        pytest.skip(f"{flavour} is not installed ({' or '.join(FLAVOURS[flavour])})")
    (registry,) = (r for r in checked.registries if r.flavour == flavour)
    assert registry.problem is None
    assert [(c.name, c.version, c.namespace) for c in registry.creators] == list(CREATORS)
    fields = [[name for name, _ in creator.fields] for creator in registry.creators]
    assert fields == [["q_scale", "k_scale", "gate_soft_cap", "eps"], ["forget_clamp"]]
    assert all(creator.found for creator in registry.creators)


_CREATE = """
import importlib, json, sys
import numpy as np
trt = importlib.import_module(sys.argv[1])
registry = trt.get_plugin_registry()
assert registry.get_creator("MLSTMCell", "1", "ai.xlstm") is None, "registered before it was loaded"
assert registry.load_library(sys.argv[2]) is not None
creator = registry.get_creator("MLSTMCell", "1", "ai.xlstm")

def create(phase, **values):
    types = {int: (np.int32, trt.PluginFieldType.INT32), float: (np.float32, trt.PluginFieldType.FLOAT32)}
    arrays = {name: np.array([value], types[type(value)][0]) for name, value in values.items()}
    fields = [trt.PluginField(name, arrays[name], types[type(value)][1]) for name, value in values.items()]
    return creator.create_plugin("node", trt.PluginFieldCollection(fields), phase)

build, runtime = trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME
stored = dict(format_version=1, q_scale=0.5, k_scale=1.0, gate_soft_cap=15.0, eps=1e-6)
plugin = create(build, q_scale=0.5)
print(json.dumps({
    "outputs": plugin.get_capability_interface(trt.PluginCapabilityType.BUILD).num_outputs,
    "name": plugin.get_capability_interface(trt.PluginCapabilityType.CORE).plugin_name,
    "from an engine": create(runtime, **stored) is not None,
    "from a later engine": create(runtime, **{**stored, "format_version": 2}) is not None,
    "negative eps": create(build, eps=-1.0) is not None,
}))
"""


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_lean_bindings", "tensorrt_rtx"])
def test_registry_creates_the_plugin_that_was_asked_for(library, module):
    """Fields, phases and capability interfaces across the binary interface of a real TensorRT."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    done = subprocess.run([sys.executable, "-c", _CREATE, module, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "outputs": 4,
        "name": "MLSTMCell",
        "from an engine": True,
        "from a later engine": False,
        "negative eps": False,
    }
    assert "format version 2, this library reads version 1: rebuild the engine" in done.stderr
    assert "node: attribute eps = -1" in done.stderr


def test_registering_by_hand_is_refused_across_major_versions(library, checked):
    """The registry's own interface differs between TensorRT 10 and 11; loading through it does not depend on that."""
    lean = importlib.util.find_spec("tensorrt_lean_libs")
    if lean is None:
        pytest.skip("tensorrt_lean_libs is not installed")
    program = (
        "import ctypes, glob, sys\n"
        "ctypes.CDLL(glob.glob(sys.argv[1] + '/libnvinfer_lean.so*')[0], mode=ctypes.RTLD_GLOBAL)\n"
        "library = ctypes.CDLL(sys.argv[2])\n"
        "print(library.xlstm_tensorrt_register(None), library.xlstm_tensorrt_register(None))\n"
    )
    folder = lean.submodule_search_locations[0]
    done = subprocess.run([sys.executable, "-c", program, folder, library], capture_output=True, text=True)
    (version,) = (r.version for r in checked.registries if r.flavour == "TensorRT lean runtime")
    if checked.versions["tensorrt_headers"].split(".")[0] == version.split(".")[0]:
        assert done.stdout.split() == ["0", "0"], done.stderr  # the second call finds what the first registered
    else:
        assert done.stdout.split() == ["-1", "-1"], done.stderr
        assert "load it with IPluginRegistry::loadLibrary, or rebuild it" in done.stderr


@pytest.fixture(scope="module")
def lean_runtime(checked):
    """The lean runtime of the TensorRT that the library's headers are of; kept for later runs."""
    if checked.versions["tensorrt_headers"].split(".")[0] != LEAN.split(".")[0]:
        pytest.skip(f"the library is not built for TensorRT {LEAN}")

    def make(scratch):
        wanted = [f"tensorrt-lean-cu13-{part}=={LEAN}" for part in ("libs", "bindings")]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--target", scratch / "lean", *wanted], check=True, timeout=600)
        return scratch / "lean"

    folder = cache_folder() / "tensorrt" / f"lean-{LEAN}-python-{sys.version_info.major}.{sys.version_info.minor}"
    return kept_folder(folder, make)


_OPEN = """
import ctypes, os, sys
import tensorrt_lean_bindings as tensorrt
registry = tensorrt.get_plugin_registry()
def known():
    return [registry.get_creator(name, "1", "ai.xlstm") is not None for name in ("MLSTMCell", "SLSTMCell")]
def hidden():
    try:
        ctypes.CDLL(None).getPluginRegistry
    except AttributeError:
        return True
print(hidden(), known())
library = ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW | os.RTLD_LOCAL)
print(known())
"""


def test_opening_the_second_library_registers_the_plugins(build_folder, library, lean_runtime):
    """As Triton does: TensorRT opened for its back end alone, then the library named by `plugins`, nothing called."""
    environment = os.environ | {"PYTHONPATH": f"{lean_runtime}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for opened, after in {"libxlstm_tensorrt.so": [False, False], "libxlstm_tensorrt_onload.so": [True, True]}.items():
        command = [sys.executable, "-c", _OPEN, build_folder / "lib" / opened]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.stdout == f"True [False, False]\n{after}\n", done.stderr


def test_second_library_says_so_where_there_is_no_tensorrt(build_folder, library):
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    command = [sys.executable, "-c", program, build_folder / "lib" / "libxlstm_tensorrt_onload.so"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "no plugin registry of TensorRT" in done.stderr


def test_check_refuses_what_is_no_plugin_library(tmp_path, library):
    with pytest.raises(UserError, match="is not there"):
        check_library(tmp_path / "missing.so")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(UserError, match="is not a library of xlstm-export"):
        check_library(tmp_path / "text.so")
    with pytest.raises(UserError, match="is not a TensorRT plugin library"):
        check_library(onnxruntime_operators())
    with pytest.raises(ValueError, match="ELF"):
        fatbin.architectures(tmp_path / "text.so")


def test_rendered_check_names_every_registry(checked):
    console = Console(width=400, file=io.StringIO())
    console.print(render(checked))
    printed = console.file.getvalue()
    assert drivers_for(checked.versions["cuda"]) in printed
    for registry in checked.registries:
        assert f"{registry.flavour} {registry.version}: loads" in printed
    for expected in ("sm_86, sm_90, compute_90", "ai.xlstm::SLSTMCell version 1 (forget_clamp: float32)"):
        assert expected in printed or not checked.registries
