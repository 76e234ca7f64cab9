"""`doctor` tells what is here, and does not fall over what is not."""

import importlib.util
import io
import sys
import time

import onnxruntime
import pytest
from rich.console import Console

from xlstm_export import doctor
from xlstm_export.doctor import Finding, diagnose, render
from xlstm_export.native import locate


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
    assert not {"tensorrt", "tensorrt_rtx"} & sys.modules.keys(), "probes belong into processes of their own"


def test_native_libraries_are_found_where_plugins_build_puts_them(monkeypatch, tmp_path):
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(tmp_path))
    assert by_name(doctor._native(), "TensorRT plugins").status == "absent"
    (tmp_path / locate.TENSORRT_PLUGINS).touch()
    found = by_name(doctor._native(), "TensorRT plugins")
    assert found.status == "here" and str(tmp_path) in found.detail


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
