"""What can be proven of the TensorRT (10, 11) path without TensorRT and without a GPU.

TensorRT-RTX's bindings stand in for TensorRT's: builder, network, parser and configuration have the same Python API.
The one thing added is a target for the build, since there is no GPU. Kernels, engines and plugins of TensorRT itself
are not proven by this.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from xlstm_export.bundle import Bundle
from xlstm_export.engines import EngineRequest, build_engine
from xlstm_export.engines.targets import input_profiles, parse_batch
from xlstm_export.errors import UserError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install tensorrt-rtx"
)

STAND_IN = """
import importlib.util, json, sys
import tensorrt_rtx

arguments = json.loads(sys.argv[1])
tensorrt_rtx.__version__ = arguments["version"]
sys.modules["tensorrt"] = sys.modules.pop("tensorrt_rtx")
importlib.util.find_spec = lambda name: object()

from xlstm_export.engines import worker
from xlstm_export.nvidia.driver import Gpu

worker.list_gpus = lambda: [Gpu(0, "Stand-in GPU", (8, 9), 1 << 34)]
worker.load_plugins = lambda registry, version, errors, library: print("loaded", library)
configure = worker._configure


def configure_ahead_of_time(request, trt, *rest):
    config = configure(request, trt, *rest)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return config


worker._configure = configure_ahead_of_time
request = worker.BuildJob.parse(json.dumps(arguments["request"]))
try:
    worker.build(request, lambda event, **values: print(json.dumps({"event": event} | values)))
except worker.UserError as error:
    print("refused:", error)
"""


def run_builder(bundle, folder, version, plugins=None):
    """The builder's lines, as `tensorrt` of that version."""
    manifest = Bundle.open(bundle).manifest
    profiles = [asdict(p) for p in input_profiles(manifest, parse_batch("1:1:4"), 32)]
    request = {
        "runtime": "tensorrt",
        "model": str(bundle / "model.onnx"),
        "engine": str(folder / "plan"),
        "targets": ["current"],
        "profiles": profiles,
        "plugins": plugins,
        "version_compatible": False,
        "hardware_compatible": True,
        "products_as_sums": False,
        "timing_cache": str(folder / "timing"),
    }
    arguments = json.dumps({"version": version, "request": request})
    done = subprocess.run([sys.executable, "-c", STAND_IN, arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_rtx
def test_engine_timing_cache_and_gpu_are_written_and_told(export_variant, tmp_path):
    bundle = export_variant("a-mixed")[2]
    done = json.loads(run_builder(bundle, tmp_path, "11.4.0.106")[-1])
    assert done["event"] == "done" and not done["tf32"] and not done["stripped_functions"]
    assert (done["version"], done["targets"], done["gpu"]) == ("11.4.0.106", ["sm89"], "Stand-in GPU")
    assert (tmp_path / "plan").stat().st_size > (bundle / "model.weights").stat().st_size
    assert (tmp_path / "timing" / "tensorrt-11.4.0.106-stand-in-gpu-sm89.timing").is_file()
    assert {t["name"] for t in done["tensors"]} >= {"tokens", "logits", "blocks.0.mlstm.C", "blocks.0.mlstm.C.next"}


@needs_rtx
@pytest.mark.parametrize(("version", "stripped"), [("10.3.0", True), ("10.14.1", True), ("10.15.0", False)])
def test_definitions_are_stripped_only_where_the_parser_would_prefer_them_to_the_plugin(
    version, stripped, export_variant, tmp_path
):
    """Without definitions and, here, without plugins, the parser must miss every cell, and find every weight. With
    them it parses, and what it made of the cells is looked at."""
    lines = run_builder(export_variant("a-mixed")[2], tmp_path, version, plugins="/plugins.so")
    assert "loaded /plugins.so" in lines
    if stripped:
        assert any(line.startswith(f"refused: tensorrt {version} cannot parse") for line in lines)
        missed = [line for line in lines if "Plugin not found" in line]
        assert [line.split()[1] for line in missed] == [
            "blocks.0.mlstm/MLSTMCell",
            "blocks.1.slstm/SLSTMCell",
            "blocks.2.mlstm/MLSTMCell",
        ]
    else:
        message = lines[-1]
        assert message.startswith(f"refused: tensorrt {version} took the plugin for 0 of the 3 cells of ")
        assert "`xlstm-export plugins check`" in message and not (tmp_path / "plan").exists()


def test_engine_whose_cells_are_all_plugins_is_built(export_variant):
    from xlstm_export.engines.worker import BuildJob, read_graph, require_plugin_layers

    layers = ["CONSTANT", "PLUGIN_V3", "PLUGIN_V3", "MATRIX_MULTIPLY", "PLUGIN_V3"]
    network = SimpleNamespace(num_layers=len(layers), get_layer=lambda i: SimpleNamespace(type=layers[i]))
    trt = SimpleNamespace(__version__="10.15.0", LayerType=SimpleNamespace(PLUGIN_V3="PLUGIN_V3"))
    model = export_variant("a-mixed")[2] / "model.onnx"
    job = BuildJob("tensorrt", str(model), "plan", ("current",), (), "/plugins.so", False, False, False, None)
    require_plugin_layers(job, trt, network, read_graph(model))
    layers[1] = "CONSTANT"
    with pytest.raises(UserError, match="the plugin for 2 of the 3 cells"):
        require_plugin_layers(job, trt, network, read_graph(model))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_machine_without_tensorrt_is_told_what_to_install(export_variant):
    with pytest.raises(UserError, match=r"tensorrt is not installed here: pip install 'xlstm-export\[tensorrt\]'"):
        build_engine(Bundle.open(export_variant("b-single")[2]), EngineRequest("tensorrt"))


NAMES = {
    "Runtime": ["deserialize_cuda_engine", "get_plugin_registry", "engine_host_code_allowed"],
    "ICudaEngine": ["create_execution_context"],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3"],
    "IPluginRegistry": ["get_creator", "load_library"],
    "ILogger": ["ERROR", "log"],
}
RTX_NAMES = {
    "ICudaEngine": ["create_runtime_config"],
    "IRuntimeConfig": ["create_runtime_cache", "set_runtime_cache"],
    "IRuntimeCache": ["serialize", "deserialize"],
    "ComputeCapability": ["SM75", "SM80", "SM86", "SM89", "SM120", "SM121", "CURRENT"],
}


@pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt", "tensorrt_lean_bindings"])
def test_session_calls_only_what_the_bindings_have(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    names = NAMES | (RTX_NAMES if module == "tensorrt_rtx" else {})
    program = f"import json, {module} as t\n" + (
        f"print(json.dumps([c + '.' + n for c, ns in {names!r}.items() for n in ns if not hasattr(getattr(t, c), n)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
