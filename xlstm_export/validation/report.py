"""What a validation found, as data (`report.json`), as a table, and as a plot."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import ErrorKind, UserError
from ..whole_file import write_whole
from .receipts import ReceiptCheck
from .scenarios import ForecastScore, Scenario
from .tolerance import Tolerance
from .verdict import Fault, Verdict

REPORT_FILE, PLOT_FILE = "report.json", "drift.png"
_REMEDY = "Name another --report."


@dataclass(frozen=True)
class ValidationReport:
    """All that was measured, and the verdict on it."""

    bundle: str
    checkpoint: str
    """What the bundle is compared with: a checkpoint, or the user's own module."""
    checkpoint_sha256: str | None
    """Over its weights; None: the bundle does not say of which weights it is."""
    family: str
    dtype: str
    runtime: str
    seed: int
    versions: dict[str, str]
    seconds: float
    tolerance: Tolerance
    runs: tuple[Scenario, ...]
    verdicts: tuple[Verdict, ...]
    fault: Fault | None
    reference: str = "upstream"
    """What ran beside the bundle, in words."""
    state_dtype: str = "float32"
    """The coarsest of its states."""
    notes: tuple[str, ...] = ()
    """What whoever reads the report must know of the comparison."""

    receipt: ReceiptCheck | None = None
    """Whether the bundle is as its receipt says; None: it has no receipt."""

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts) and (self.receipt is None or self.receipt.passed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, four digits each; an infinite error is the string "inf"."""
        data = asdict(self)
        data["passed"] = self.passed
        data["tolerance"] |= {"unit_roundoff": self.tolerance.unit_roundoff, "description": self.tolerance.describe()}
        for run, entry in zip(self.runs, data["runs"], strict=True):
            entry["top_one_agreement"], entry["drift"] = run.top_one_agreement, run.drift
            if run.text:
                for side in ("reference", "bundle"):
                    entry["text"][f"{side}_bits_per_byte"] = run.text.bits_per_byte(entry["text"][f"{side}_nats"])
        return _plain(data)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def write_report(report: ValidationReport, folder: Path) -> list[Path]:
    """Write `report.json` and `drift.png` into a folder, each complete or not at all; returns their paths.

    Raises:
        UserError: matplotlib is not installed.
    """
    from .plot import save_drift_plot

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(ErrorKind.argument, f"{folder} cannot be written: {error.strerror}. {_REMEDY}") from None
    text = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
    return [
        write_whole(folder / REPORT_FILE, lambda path: path.write_text(text, "utf-8"), _REMEDY),
        write_whole(folder / PLOT_FILE, lambda path: save_drift_plot(report, path), _REMEDY),
    ]


def render(report: ValidationReport) -> RenderableType:
    """The report as tables for a terminal."""
    parts: list[RenderableType] = [_run_table(report)]
    if report.runs[0].states:
        parts.append(_block_table(report))
    if len(report.runs[0].outputs) > 1:
        parts.append(_output_table(report))
    parts += [Text(f"Note: {note}") for note in report.notes]
    parts.append(_receipt_line(report.receipt))
    parts += [line for run in report.runs if (line := _text_line(run))]
    parts += [_forecast_table(run.forecast) for run in report.runs if run.forecast]
    parts.append(Text(f"Tolerance: {report.tolerance.describe()}", style="dim"))
    parts.append(_verdict_line(report))
    return Group(*parts)


def _run_table(report: ValidationReport) -> Table:
    outputs = list(report.runs[0].outputs)
    kind = outputs[0] if len(outputs) == 1 else "outputs"
    states = "" if report.state_dtype == "float32" else f", states in {report.state_dtype}"
    ours, theirs = (
        f"{report.bundle} ({report.dtype}{states}, {report.runtime})",
        f"{report.checkpoint} ({report.family})",
    )
    table = Table(title=f"{ours} against {report.reference} on {theirs}", title_justify="left", caption_justify="left")
    table.caption = (
        "Error (what is allowed). Outputs: relative to their spread, max - min. "
        "States: relative to the largest value of their row and head."
    )
    table.add_column("run")
    table.add_column("rows x steps", justify="right")
    table.add_column(f"{kind}, typical", justify="right")
    table.add_column(f"{kind}, worst", justify="right")
    of_logits = any(run.kl for run in report.runs)
    if of_logits:
        table.add_column("KL, nats", justify="right")
        table.add_column("top-1", justify="right")
    table.add_column("")
    for run in report.runs:
        own = [v for v in report.verdicts if v.run == run.name]
        of_outputs = [v for v in own if v.is_output]
        typical = max((v for v in of_outputs if v.limit.kind in ("typical", "contract")), key=lambda v: v.share)
        worst = max((v for v in of_outputs if v.limit.kind == "worst"), key=lambda v: v.share)
        table.add_row(
            run.what,
            f"{run.rows} x {run.steps}",
            _error(typical),
            _error(worst),
            *((_kl(run, own), _top_one(run)) if of_logits else ()),
            _mark(all(v.passed for v in own)),
        )
    return table


def _error(verdict: Verdict) -> Text:
    return Text(f"{verdict.measured:.1e} ({verdict.limit.value:.1e})", style="" if verdict.passed else "bold red")


def _kl(run: Scenario, verdicts: list[Verdict]) -> Text:
    judged = [v for v in verdicts if v.limit.kind == "kl"]
    return _error(judged[0]) if judged else Text(f"{sum(run.kl) / len(run.kl):.1e}" if run.kl else "-")


def _mark(passed: bool) -> Text:
    return Text("pass", style="green") if passed else Text("FAIL", style="bold red")


def _top_one(run: Scenario) -> str:
    if not run.kl:
        return "-"
    if not run.disagreements:
        return "all equal"
    # A token that the reference itself hardly prefers is no error: the gap says how close the choice was.
    return f"{run.top_one_agreement:.2%} equal, gap {max(d.gap for d in run.disagreements):.1e}"


def _block_table(report: ValidationReport) -> Table:
    """By block and run: the state that comes closest to what is allowed."""
    table = Table(title="State error by block: the state that is closest to its limit", title_justify="left")
    table.add_column("block")
    runs = [run for run in report.runs if run.states]
    for run in runs:
        table.add_column(run.name, justify="right")
    blocks = dict.fromkeys(name.rsplit(".", 1)[0] for name in report.runs[0].states)
    for block in blocks:
        cells = []
        for run in runs:
            own = [v for v in report.verdicts if v.run == run.name and v.quantity.rsplit(".", 1)[0] == block]
            cells.append(_error(max(own, key=lambda v: v.share)))
        table.add_row(block.removeprefix("blocks.").replace(".", " ") if block.startswith("blocks.") else block, *cells)
    return table


def _output_table(report: ValidationReport) -> Table:
    """By output and run: the limit that it comes closest to."""
    table = Table(title="Error by output: the limit that it is closest to", title_justify="left")
    table.add_column("output")
    for run in report.runs:
        table.add_column(run.name, justify="right")
    for output in report.runs[0].outputs:
        own = [v for v in report.verdicts if v.is_output and v.quantity == output]
        cells = [max((v for v in own if v.run == run.name), key=lambda v: v.share) for run in report.runs]
        table.add_row(output, *map(_error, cells))
    return table


def _text_line(run: Scenario) -> Text | None:
    if run.text is None:
        return None
    text = run.text
    reference, bundle = text.bits_per_byte(text.reference_nats), text.bits_per_byte(text.bundle_nats)
    ours, theirs = text.perplexity(text.bundle_nats), text.perplexity(text.reference_nats)
    return Text(
        f"Text of {text.bytes:,} bytes: {bundle:.5f} bits per byte, upstream {reference:.5f} "
        f"({bundle - reference:+.1e}); perplexity per token {ours:.4f}, upstream {theirs:.4f}."
    )


def _forecast_table(score: ForecastScore) -> Table:
    table = Table(title="Forecasts by horizon, in units of a series' scale", title_justify="left")
    for title in ("points", "largest error", "upstream as shipped", "quantile loss", "upstream's"):
        table.add_column(title, justify="right")
    columns = score.largest_error, score.shipped_error, score.bundle_loss, score.reference_loss
    first = 1
    for last, error, shipped, ours, theirs in zip(score.horizons, *columns, strict=True):
        row = (f"{first}-{last}", f"{error:.1e}", f"{shipped:.1e}", f"{ours:.6f}", f"{theirs:.6f}")
        table.add_row(*row)
        first = last + 1
    return table


def _receipt_line(check: ReceiptCheck | None) -> Text:
    if check is None:
        return Text("Receipt: none, so that nothing says how the bundle was made.")
    if not check.passed:
        return Text(
            f"Receipt: {', '.join(check.changed)} changed since the bundle was made. Make it again; or, if the change "
            "was meant, delete its receipt.json.",
            style="bold red",
        )
    line = Text(f"Receipt: {check.files} files as they were made, by {check.command or 'a call from Python'}.")
    if check.other_inputs:
        line.append(f" Not as they were then: {', '.join(check.other_inputs)}.")
    return line


def _verdict_line(report: ValidationReport) -> Text:
    whose = report.reference.partition(" in ")[0]
    if report.passed:
        return Text(f"Passed in {report.seconds:.0f} s: the bundle computes what {whose} does.", style="bold green")
    failed = sum(not verdict.passed for verdict in report.verdicts)
    if failed == 0:
        return Text("FAILED: the bundle computes what it should, and is not the one that was made.", style="bold red")
    text = Text(f"FAILED: {failed} of {len(report.verdicts)} checks. ", style="bold red")
    if (fault := report.fault) is not None:
        text.append(f"First {fault.quantity} at step {fault.step} of run {fault.run!r}: {fault.explanation}.")
    if report.state_dtype != "float32":
        text.append(
            f" Export it with --state-dtype float32: if that passes, the model does not bear states in "
            f"{report.state_dtype}."
        )
    return text
