"""scripts/gpu: what can be known without a GPU of how measurements are run, kept and shown."""

from __future__ import annotations

import ctypes
import inspect
import os
import re
import subprocess
import sys
import time
from importlib import import_module

import gpu_check
import pytest
from gpu import carry, checks, claims, counters, launchers, page, plan, records
from gpu.worker import Worker
from support.paths import ROOT

from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.native import cmake, gpu_programs, toolchain

ON = {
    "device": "Some GPU",
    "driver": "580.1",
    "cuda": "13.0",
    "torch": "2.11.0",
    "triton": "3.6.0",
    "commit": "abc1234",
    "date": "2026-11-28",
    "bandwidth": 3.35e12,
}


def record(what: str, result: dict, on: dict = ON, **of) -> records.Record:
    return records.Record(what, of, result, on)


@pytest.fixture
def script(tmp_path):
    """`script(text)`: what a worker is asked for to run it."""

    def write(text: str) -> tuple[str, dict]:
        (tmp_path / "script.py").write_text(text)
        return "runpy:run_path", {"path_name": str(tmp_path / "script.py")}

    return write


# The child process.


def test_child_that_aborts_is_a_failure_with_its_last_words_and_the_next_call_works(script):
    text = "import os, sys\nprint('I->use_empty()` failed: Assertion', file=sys.stderr)\nos.abort()"
    with Worker() as worker:
        assert worker.call("builtins:dict", {"a": 1}, 20) == {"a": 1}
        assert worker.call(*script(text), 20) == {"failure": "SIGABRT: I->use_empty()` failed: Assertion"}
        assert worker.call("os:_exit", {"status": 3}, 20) == {"failure": "exit code 3: it said nothing"}
        assert worker.call("builtins:dict", {"a": 2}, 20) == {"a": 2}


def test_child_that_takes_too_long_is_stopped_with_all_that_it_started(script, tmp_path):
    started = tmp_path / "started"
    text = f"import subprocess\nsubprocess.run(['sh', '-c', 'echo $$ > {started}; sleep 60'])"
    with Worker() as worker:
        start = time.monotonic()
        assert worker.call(*script(text), 2) == {"failure": "stopped after 2 s"}
        assert time.monotonic() - start < 10
        # Gone, or no more than an entry that nobody has collected.
        state = subprocess.run(["ps", "-o", "stat=", "-p", started.read_text().strip()], capture_output=True, text=True)
        assert state.stdout.strip()[:1] in ("", "Z")


def test_exception_is_a_failure_and_whatever_is_printed_is_no_answer(script):
    with Worker() as worker:
        assert worker.call(*script("print('{}')\nraise ValueError('no such\\nthing')"), 20) == {
            "failure": "ValueError: no such"
        }
        assert worker.call("gpu.nowhere:at_all", {}, 20)["failure"].startswith("ModuleNotFoundError")


# The records.


def test_records_are_kept_one_by_one_and_half_a_line_costs_only_itself(tmp_path, capsys):
    path = tmp_path / "new" / "records.jsonl"
    assert records.read(path) == []
    first, second = record("copy", {"kernel": 1e-3}, traffic=8), record("copy", {"failure": "SIGABRT"}, traffic=8)
    records.append(path, first)
    assert records.read(path) == [first] and "copy traffic 8: kernel 0.001" in capsys.readouterr().out
    records.append(path, second)
    with path.open("a") as file:
        file.write('{"what": "copy", "of"')
    assert records.read(path) == [first, second] and records.latest(records.read(path)) == [second]


def test_commit_is_that_of_this_tree():
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", records.commit())


# The page.

STEP = {"cold": 4e-6, "warm": 3.9e-6, "C_in_place": 4.1e-6, "Cnm_in_place": 6e-6, "error_h": 1e-3, "error_states": 1e-7}


def rows(text: str) -> dict[str, list[str]]:
    """Cells of the rows, by their first."""
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def copy_and_step(result: dict, on: dict = ON) -> list[records.Record]:
    traffic = 2 * 4 * 8 * 256 * 512
    copied = record("copy", {"kernel": 3.9e-6, "blocks": 8, "memcpy": 5e-6}, on, traffic=traffic)
    return [copied, record("mlstm_step", result, on, shape="7B", batch=1)]


CLAIM = "mLSTM step, 7B, batch 1: of the speed of a kernel that copies as much"


def test_committed_page_is_made_of_the_committed_records():
    found = records.read(ROOT / "docs" / "gpu-results.jsonl")
    assert (ROOT / "docs" / "gpu-results.md").read_text() == page.render(found)


def test_page_without_records_says_of_every_claim_that_it_is_not_measured():
    found = rows(page.render([]))
    assert all(claim.title in found for claim in claims.all_claims())
    assert {found[claim.title][1] for claim in claims.all_claims()} == {"not measured"}


@pytest.mark.parametrize(
    ("change", "measured", "verdict"),
    [
        ({}, "98%", "reached"),
        ({"cold": 5e-6}, "78%", "**missed**"),
        ({"error_h": 0.1}, "mlstm_step: error_h 1.0e-01, more than 3.9e-03", "**failed**"),
        ({"error_states": float("nan")}, "mlstm_step: error_states nan, more than 3.1e-05", "**failed**"),
        ({"failure": "SIGABRT: a | b"}, "mlstm_step: SIGABRT: a / b", "**failed**"),
    ],
)
def test_verdict_needs_a_measured_time_and_a_right_result(change, measured, verdict):
    text = page.render(copy_and_step(STEP | change))
    assert rows(text)[CLAIM] == ["at least 92%", measured, verdict, "1"]


def test_every_measurement_names_the_run_that_it_is_of():
    later = {**ON, "commit": "def5678", "date": "2026-11-29"}
    text = page.render([*copy_and_step(STEP), *copy_and_step(STEP | {"cold": 3.9e-6}, later)[1:]])
    assert rows(text)[CLAIM] == ["at least 92%", "100%", "reached", "1, 2"]
    assert "1. Some GPU, driver 580.1, CUDA 13.0, PyTorch 2.11.0, Triton 3.6.0, commit abc1234, 2026-11-28" in text
    assert "2. Some GPU, driver 580.1, CUDA 13.0, PyTorch 2.11.0, Triton 3.6.0, commit def5678, 2026-11-29" in text
    other = {**ON, "device": "Another"}
    both = page.render([*copy_and_step(STEP), *copy_and_step(STEP, other)])
    assert both.index("## Some GPU") < both.index("## Another")


def test_failed_peer_is_shown_and_not_held_against_us():
    of = {"batch": 1, "sequence": 512}
    failed = record("triton_prefill", {"failure": "SIGABRT: LLVM"}, **of)
    ours = record("mlstm_prefill", {"cold": 1e-4, "Cnm_in_place": 1e-4, "error_h": 1e-3, "error_states": 1e-5}, **of)
    found = rows(page.render([failed, ours]))
    title = "mLSTM prefill, 7B, batch 1, 512 positions: against `mlstm_kernels`"
    assert found[title] == ["at least 1.30x", "triton_prefill: SIGABRT: LLVM", "", "1"]


def fake_result(what: str, of: dict) -> dict:
    """As the function that measures it returns it."""
    step = {
        "cold": 1e-6,
        "warm": 1e-6,
        "C_in_place": 1e-6,
        "Cnm_in_place": 1e-6,
        "error_h": 1e-3,
        "error_states": 1e-6,
        "stepwise": 1e-3,
    }
    device = {f"{where}_{what}": 1e-6 for where in ("device", "host") for what in ("launcher", "plugin")}
    whole = {"cold": 5e-3, "traffic": 10**10, "tokens_per_second": 200.0, "error_logits": 1e-3}
    return {
        "copy": {"kernel": of.get("traffic", 0) / 3e12, "blocks": 8, "memcpy": 1e-3},
        "product_rate": {"operations_per_second": 6e14},
        "plugin": device,
        "whole_model": whole,
        "mlstm_tiles": {"4x4": 1e-6},
        "mlstm_chunks": {"64x64": 1e-6},
    }.get(what, step)


def test_page_of_everything_that_is_planned_leaves_no_claim_open():
    """But those that `checks` decides."""
    planned = plan.timings(quick=False, tiles=True)
    found = [record(item.what, fake_result(item.what, item.of), **item.of) for item in planned]
    text = page.render(found)
    assert [title for title, row in rows(text).items() if "not measured" in row] == [
        "tests/gpu: tests that fail",
        "compute-sanitizer: tests that fail",
    ]
    tables = {table.what: table.title for table in page.TABLES}
    assert all(f"### {tables[what]}\n" in text for what in {item.what for item in planned} - {"copy", "product_rate"})


def test_quick_plan_is_the_beginning_of_the_whole_one():
    quick, whole = plan.timings(quick=True, tiles=False), plan.timings(quick=False, tiles=False)
    assert whole[: len(quick)] == quick and len(whole) == len({str(item) for item in whole})


@pytest.mark.parametrize("what", plan.FUNCTIONS)
def test_function_takes_what_is_planned_for_it(what):
    module, _, name = plan.FUNCTIONS[what].partition(":")
    signature = inspect.signature(getattr(import_module(module), name))
    items = [item for item in plan.timings(quick=False, tiles=True) if item.what == what]
    assert items and all(signature.bind(folder="", **item.of) for item in items)


# Tests and counters.


def test_report_of_pytest_is_counted_and_one_in_which_nothing_ran_is_a_failure():
    skipped = '<testcase name="a"><skipped message="no GPU"/></testcase>'
    failed = '<testcase name="b"><failure message="1 != 2&#10;more"/></testcase>'
    report = "<testsuites><testsuite>{}</testsuite></testsuites>"
    assert checks.counted(report.format(f'{skipped}{failed}<testcase name="c"/>')) == {
        "passed": 1,
        "failed": 1,
        "skipped": 1,
        "why": ["no GPU", "b: 1 != 2"],
    }
    assert checks.counted(report.format(skipped * 2)) == {"failure": "no test ran: no GPU"}


def test_counters_are_read_out_of_what_ncu_prints():
    names = ["ID", "Kernel Name", *counters.COUNTERS.values()]
    lines = ["==PROF== Connected", "\0\1binary", ",".join(f'"{name}"' for name in names), '"","","%","%","%","",""']
    lines += [
        f'"{n}","void step<bf16>(Args)",{numbers}' for n, numbers in enumerate(('"91.5","20","50","72","0"', '"1"'))
    ]
    assert counters.parse("\n".join(lines)) == {
        "void step<bf16>": {"dram": "91.5", "sm": "20", "warps": "50", "registers": "72", "conflicts": "0"}
    }
    assert counters.parse("==ERROR== ERR_NVGPUCTRPERM") == {}
    assert all(counters.case_bytes(name) for name in counters.CASES)


# The C++ side.


def test_structs_are_those_of_cells_h(tmp_path):
    structs = {"MlstmArgs": launchers.MlstmArgs, "SlstmArgs": launchers.SlstmArgs}
    prints = [f"<< sizeof({name}) << ' '" for name in structs]
    prints += [f"<< offsetof({s}, {name}) << ' '" for s, layout in structs.items() for name, _ in layout._fields_]
    source = tmp_path / "sizes.cc"
    source.write_text(
        '#include <cstddef>\n#include <iostream>\n#include "cells/cells.h"\nusing namespace xlstm;\n'
        f"int main() {{ std::cout {' '.join(prints)}; }}\n"
    )
    program = tmp_path / "sizes"
    compiler = toolchain.cxx_compiler().require()
    subprocess.run([compiler, "-std=c++17", f"-I{cmake.sources()}", source, "-o", program], check=True)
    expected = [ctypes.sizeof(layout) for layout in structs.values()]
    expected += [getattr(layout, name).offset for layout in structs.values() for name, _ in layout._fields_]
    assert list(map(int, subprocess.check_output([program]).split())) == expected


def test_functions_are_declared_to_python_as_they_are_in_the_libraries():
    plain = {"int": ctypes.c_int, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "double": ctypes.c_double}
    structs = {"xlstm::MlstmArgs": launchers.MlstmArgs, "xlstm::SlstmArgs": launchers.SlstmArgs}

    def declared(text: str) -> type:
        text = re.sub(r"\bconst\b|\w+$", "", text).strip()  # without its name
        if not text.endswith("*"):
            return plain[text]
        struct = structs.get(text.rstrip("* "))
        return ctypes.POINTER(struct) if struct else ctypes.c_void_p

    pattern = re.compile(r'(?:EXPORT|__attribute__\(\(visibility\("default"\)\)\)) (\w+\*?) (xlstm_\w+)\(([^)]*)\)')
    found = {}
    for name in ("launchers.cc", "copy.cu", "plugin_calls.cc"):
        text = (cmake.sources() / "tests" / "gpu" / name).read_text()
        for result, function, arguments in pattern.findall(re.sub(r"\s+", " ", text)):
            types = [declared(argument) for argument in arguments.split(", ") if argument]
            found[function] = (declared(f"{result} name"), types)
    assert found == launchers.SIGNATURES | launchers.PLUGIN_SIGNATURES


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A folder as `carry` fills it, but empty; what `use` changes is put back."""
    for variable in (*carry.HEADERS, "TensorRT_ROOT", gpu_programs.FOLDER_VARIABLE):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "python").mkdir()
    return tmp_path


def test_headers_and_packages_that_were_carried_are_found(carried):
    for variable, file in (("TENSORRT_ROOT", "NvInferRuntime.h"), ("ONNXRUNTIME_ROOT", "onnxruntime_cxx_api.h")):
        (carried / variable / "include").mkdir(parents=True)
        (carried / variable / "include" / file).touch()
    carry.use(carried)
    assert toolchain.tensorrt_headers().path == carried / "TENSORRT_ROOT" / "include"
    assert toolchain.onnxruntime_headers().path == carried / "ONNXRUNTIME_ROOT" / "include"
    assert sys.path[-1] == str(carried / "python") and os.environ["PYTHONPATH"] == f"before:{carried / 'python'}"
    assert gpu_programs.FOLDER_VARIABLE not in os.environ


@pytest.mark.parametrize("same", [True, False])
def test_programs_that_were_carried_are_run_only_with_the_sources_that_they_are_of(carried, same):
    (carried / "programs").mkdir()
    (carried / "programs" / "sources").write_text(records.native_checksum() if same else "others")
    carry.use(carried)
    assert os.environ.get(gpu_programs.FOLDER_VARIABLE) == (str(carried / "programs") if same else None)
    assert not same or gpu_programs.gpu_programs() == carried / "programs"


def test_folder_that_was_not_carried_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="was not filled"):
        carry.use(tmp_path)


def test_programs_that_need_headers_which_are_not_here_are_left_out(monkeypatch):
    built = {}

    def headers(names, stage):
        if names == ["tensorrt"]:
            raise UserError(ErrorKind.unavailable, "no network")
        return {"HEADERS": names[0]}

    monkeypatch.setattr(cmake, "header_options", headers)
    monkeypatch.setattr(cmake, "cuda_options", lambda architectures: {"ARCHITECTURES": architectures})
    monkeypatch.setattr(cmake, "build", lambda options, programs, stage: built.update(options, programs=programs))
    gpu_programs.build_gpu_programs("sm90")
    assert built["ARCHITECTURES"] == "90" and built["HEADERS"] == "onnxruntime"
    assert built["programs"] == ["cell_runner_gpu", "xlstm_launchers", "operator_runner_gpu"]
    assert "XLSTM_BUILD_TRT_PLUGIN" not in built


# The commands.


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`command("timings", "--minutes", "9")`: the records that it leaves where a GPU seems to be."""
    monkeypatch.setattr(gpu_programs, "why_none_can_run", lambda: None)
    monkeypatch.setattr(gpu_programs, "gpu_programs", lambda: tmp_path)
    call = Worker.call
    monkeypatch.setattr(
        Worker, "call", lambda self, name, *rest: ON if name == "gpu.device:facts" else call(self, name, *rest)
    )
    monkeypatch.setattr(page, "render", lambda found: f"{len(found)} records")

    def run(*arguments: str) -> list[records.Record]:
        results = tmp_path / "results.jsonl"
        monkeypatch.setattr("sys.argv", ["gpu_check.py", *arguments, "--results", str(results)])
        try:
            gpu_check.main()
        finally:
            found = records.read(results)
            assert results.with_suffix(".md").read_text() == f"{len(found)} records"
        return found

    return run


def test_timings_go_on_after_a_failure_and_end_when_the_time_is_used_up(command, tmp_path, monkeypatch, capsys):
    """With functions that need no GPU in the place of those that measure."""
    functions = {"copy": "builtins:dict", "product_rate": "builtins:nothing", "whole_model": "builtins:dict"}
    monkeypatch.setattr(plan, "FUNCTIONS", functions)
    items = [plan.Item(what, {"model": "a"}, alone=what == "whole_model") for what in functions]
    monkeypatch.setattr(plan, "timings", lambda quick, tiles: items)
    assert command("timings", "--minutes", "0") == []
    assert "not begun are the last 3 of 3" in capsys.readouterr().out
    found = command("timings")
    assert [r.result for r in found] == [
        {"folder": str(tmp_path), "model": "a"},
        {"failure": "AttributeError: module 'builtins' has no attribute 'nothing'"},
        {"folder": str(tmp_path), "model": "a"},
    ]
    assert all(r.on["device"] == "Some GPU" and r.of == {"model": "a"} for r in found)
    items.insert(0, plan.Item("copy", {"model": "b"}))
    items.append(plan.Item("copy", {"model": "c"}))
    again = command("timings")[3:]
    assert [(r.what, r.of["model"]) for r in again[:3]] == [("copy", "b"), ("copy", "c"), ("copy", "a")]


@pytest.mark.parametrize(
    ("minutes", "result", "code"),
    [("9", {"failed": 0}, 0), ("9", {"failed": 1}, 1), ("9", {"failure": "no test ran"}, 1), ("0", {"failed": 0}, 1)],
)
def test_checks_succeed_only_where_all_parts_ran_and_passed(command, minutes, result, code, monkeypatch):
    monkeypatch.setattr(checks, "run", lambda part, seconds: result)
    monkeypatch.setattr(counters, "measure", lambda folder, name, seconds: {"kernel": {"dram": "91"}})
    with pytest.raises(SystemExit) as end:
        command("checks", "--minutes", minutes)
    assert end.value.code == code
