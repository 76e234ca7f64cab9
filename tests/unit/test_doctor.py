"""`doctor` tells what is here, and does not fall over what is not."""

import importlib.util
import io
import subprocess
import sys
import time

import onnxruntime
import pytest
from rich.console import Console

from xlstm_export import doctor
from xlstm_export.doctor import Finding, diagnose, render
from xlstm_export.native import build_info, locate
from xlstm_export.version import __version__


def text_of(findings):
    console = Console(width=160, file=io.StringIO())
    console.print(render(findings))
    return console.file.getvalue()


@pytest.fixture(scope="module")
def findings():
    return diagnose()


def by_name(findings, name):
    (finding,) = [f for f in findings if f.name == name]
    return finding


def test_cpu_runtime_is_found_by_running_it(findings):
    found = by_name(findings, "ONNX Runtime, CPU")
    assert (found.status, found.detail) == ("here", onnxruntime.__version__)


def test_every_finding_says_what_it_gives_and_every_absent_one_how_to_get_it(findings):
    for finding in findings:
        assert finding.gives or finding.name == "Python", finding
        if finding.status == "absent":
            assert finding.remedy or finding.detail, finding
    assert {f.area for f in findings} == {"Runtimes", "GPUs", "Native kernels", "Python"}


def test_tensorrt_is_told_from_tensorrt_rtx(findings):
    for name, module in (("TensorRT-RTX", "tensorrt_rtx"), ("TensorRT", "tensorrt")):
        found = by_name(findings, name)
        if importlib.util.find_spec(module) is None:
            assert found.status == "absent" and "pip install" in found.remedy
        else:
            assert found.status in ("here", "broken")


def test_probes_run_in_processes_of_their_own():
    """In a fresh interpreter, since another test may have imported these modules into this one."""
    program = (
        "import sys; from xlstm_export.doctor import diagnose; diagnose(); "
        "print(*{'tensorrt', 'tensorrt_rtx', 'onnxruntime'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@pytest.fixture
def library_with_cuda(monkeypatch, tmp_path):
    """Finds a plugin library that says which CUDA it was built with, where the driver is for another, or absent."""

    def pretend(cuda, driver):
        monkeypatch.setenv(locate.FOLDER_VARIABLE, str(tmp_path))
        (tmp_path / locate.TENSORRT_PLUGINS).touch()
        monkeypatch.setattr(build_info, "build_info", lambda path: {"xlstm": __version__, "cuda": cuda})
        answers = {"gpus": {"driver": driver, "gpus": []} if driver else {"error": "no NVIDIA driver"}}
        monkeypatch.setattr(doctor, "ask", answers.get)
        return by_name(doctor._native(), "TensorRT plugins")

    return pretend


@pytest.mark.parametrize(
    ("cuda", "driver", "needs"),
    [
        ("13.5.37", "13.0", "CUDA 13 (580 or newer)"),
        ("12.6.85", "13.0", "CUDA 12 (525 or newer)"),
        ("12.6.85", "12.2", "CUDA 12 (525 or newer)"),  # minor versions are compatible
        ("13.5.37", None, "CUDA 13 (580 or newer)"),
        ("15.0.1", "15.0", "CUDA 15"),
    ],
)
def test_library_is_found_where_plugins_build_puts_it_with_the_driver_it_needs(
    library_with_cuda, tmp_path, cuda, driver, needs
):
    found = library_with_cuda(cuda, driver)
    assert found.status == "here" and not found.remedy
    assert found.detail.startswith(str(tmp_path)) and found.detail.endswith(f"needs an NVIDIA driver for {needs}")


def test_library_that_this_machines_driver_is_too_old_for_is_broken_and_can_be_built_for_it(library_with_cuda):
    found = library_with_cuda("13.5.37", "12.6")
    assert found.status == "broken"
    assert "(580 or newer); this machine's is for CUDA 12.6" in found.detail
    assert found.remedy.startswith("CUDACXX=") and "plugins build, with the nvcc of CUDA 12.6" in found.remedy


def test_library_of_another_version_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / locate.ONNXRUNTIME_LIBRARY).touch()
    monkeypatch.setattr(build_info, "build_info", lambda path: {"xlstm": "0.0.9"})
    found = by_name(doctor._native(), "ONNX Runtime custom ops")
    assert (found.status, found.remedy) == ("broken", "xlstm-export plugins build")
    assert f"{tmp_path / locate.ONNXRUNTIME_LIBRARY} ({locate.FOLDER_VARIABLE}) is of version 0.0.9" in found.detail


def test_absent_library_can_be_built_and_one_that_does_not_open_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(tmp_path))
    absent = by_name(doctor._native(), "TensorRT plugins")
    assert (absent.status, absent.remedy) == ("absent", "xlstm-export plugins build")
    (tmp_path / locate.TENSORRT_PLUGINS).touch()
    broken = by_name(doctor._native(), "TensorRT plugins")
    assert broken.status == "broken" and str(tmp_path) in broken.detail and "file too short" in broken.detail


@pytest.mark.parametrize(
    ("probe", "error"),
    [
        ("import os; os.abort()", "ended with code -6"),
        ("import time; time.sleep(60)", "no answer within"),
        ("print('noise before'); raise ValueError('went wrong')", "went wrong"),
    ],
)
def test_probe_that_crashes_hangs_or_fails_is_a_broken_finding(probe, error, monkeypatch):
    """The subject's import stands for what a half-installed runtime may do."""
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 2.0 if "sleep" in probe else 20.0)
    run = doctor.subprocess.run

    def harmed(command, **options):
        program = command[2].replace(
            "; answer()", f"; from xlstm_export import doctor; doctor.PROBES['x'] = lambda: exec({probe!r}); answer()"
        )
        return run([*command[:2], program, command[3], "x"], **options)

    monkeypatch.setattr(doctor.subprocess, "run", harmed)
    started = time.monotonic()
    assert error in doctor.ask("x")["error"]
    assert time.monotonic() - started < 15
    assert doctor._flavour("TensorRT", "x", "gives").status == "broken"


def test_gpu_and_cuda_provider_that_work_are_shown(monkeypatch):
    answers = {
        "gpus": {"driver": "13.1", "gpus": [{"name": "A GPU", "target": "sm89", "gigabytes": 24.0}]},
        "onnxruntime": {
            "version": "1.2",
            "gpus": 1,
            "providers": {"CPUExecutionProvider": True, "CUDAExecutionProvider": True},
        },
    }
    monkeypatch.setattr(doctor, "ask", answers.get)
    assert [f.detail for f in doctor._gpus()] == ["sm89, 24 GB, driver for CUDA 13.1"]
    assert [f.status for f in doctor._onnxruntime()] == ["here", "here"]
    answers["onnxruntime"]["providers"]["CUDAExecutionProvider"] = "libcudnn.so.9: cannot open shared object file"
    cuda = by_name(doctor._onnxruntime(), "ONNX Runtime, CUDA")
    assert cuda.status == "broken" and "libcudnn" in cuda.detail and "cudnn" in cuda.remedy


def test_a_look_that_raises_does_not_take_the_others_along(monkeypatch):
    def _packages():
        raise OSError("disk gone")

    monkeypatch.setattr(doctor, "_packages", _packages)
    monkeypatch.setattr(doctor, "ask", lambda subject: {"error": "not asked"})
    broken = by_name(diagnose(), "packages")
    assert broken.status == "broken" and "disk gone" in broken.detail


def test_table_shows_status_place_and_remedy():
    text = text_of(
        [
            Finding("Runtimes", "One", "here", "1.0", "runs"),
            Finding("Runtimes", "Two", "absent", "", "would run", "pip install two"),
            Finding("GPUs", "Three", "broken", "no [driver]", "computes"),
        ]
    )
    assert text.count("Runtimes") == 1 and "GPUs" in text
    for line in ("✓    One", "–    Two", "✗    Three"):
        assert line in text
    for word in ("1.0", "pip install two", "no [driver]", "would run"):
        assert word in text
