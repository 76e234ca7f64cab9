"""The report is whole on disk, valid JSON whatever was measured, and says on the terminal what failed."""

import errno
import json

import pytest
from rich.console import Console

from xlstm_export.errors import UserError
from xlstm_export.validation import render, write_report
from xlstm_export.validation.report import ValidationReport
from xlstm_export.validation.scenarios import Disagreement, Scenario, TextScore
from xlstm_export.validation.tolerance import Series, Tolerance
from xlstm_export.validation.verdict import first_fault, judge
from xlstm_export.whole_file import write_whole


def make_report(error: float = 1e-7) -> ValidationReport:
    """Two runs of 30 steps; `error` is that of `blocks.1.slstm.c` and of the logits from step 10 on."""

    def series(late=1e-7):
        return Series(tuple(range(30)), (1e-7,) * 10 + (late,) * 20, (2e-7,) * 30)

    states = {"blocks.0.mlstm.C": series(), "blocks.1.slstm.c": series(error)}
    other_choice = Disagreement(3, 1, 1e-6)
    text = TextScore(60, 60, 60.0, 60.001)
    runs = (
        Scenario("zeros", "from zeros", False, 2, 30, {"logits": series()}, [1e-12] * 30, [], states),
        Scenario(
            "drift", "long run", False, 2, 30, {"logits": series(error)}, [1e-12] * 30, [other_choice], states, text
        ),
    )
    tolerance = Tolerance("float32")
    verdicts = tuple(judge(runs, tolerance))
    return ValidationReport(
        "bundle",
        "ckpt.pt",
        "00" * 32,
        "xlstm",
        "float32",
        "onnxruntime",
        0,
        {"torch": "2"},
        1.0,
        tolerance,
        runs,
        verdicts,
        first_fault(runs, verdicts),
    )


def shown(report) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(render(report))
    return console.export_text()


def test_a_passing_report_shows_every_run_and_the_text_score():
    text = shown(make_report())
    assert "Passed" in text and "FAIL" not in text
    assert "from zeros" in text and "long run" in text
    assert "bits per byte" in text and "1.44270" in text  # 1 nat a byte
    assert "98.33% equal" in text


def test_a_failing_report_names_block_step_and_run():
    report = make_report(error=0.1)
    text = shown(report)
    assert not report.passed
    assert "FAILED" in text
    assert "First blocks.1.slstm.c at step 10 of run 'zeros'" in text


@pytest.mark.parametrize("error", [1e-7, 0.1, float("inf")])
def test_report_json_is_valid_and_whole(error, tmp_path):
    paths = write_report(make_report(error), tmp_path / "validation")
    assert [path.name for path in paths] == ["report.json", "drift.png"]
    assert sorted(path.name for path in (tmp_path / "validation").iterdir()) == ["drift.png", "report.json"]
    data = json.loads(paths[0].read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert data["passed"] == (error == 1e-7)
    assert data["runs"][1]["outputs"]["logits"]["error"][10] == (error if error < 1 else "inf")
    assert data["runs"][1]["text"]["bundle_bits_per_byte"] == pytest.approx(1.44272, abs=1e-5)
    assert data["tolerance"]["unit_roundoff"] == pytest.approx(2**-24, rel=1e-5)
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_a_failure_while_writing_leaves_the_old_report(tmp_path):
    write_report(make_report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(path, *args):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(UserError, match="report.json cannot be written: disk full"):
        write_whole(tmp_path / "report.json", fail, "Name another --report.")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
