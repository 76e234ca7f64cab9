"""docs/gpu-results.md, made from the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .claims import NOT_MEASURED, Claim, Device, all_claims, micros, percent, ratio
from .counters import COUNTERS
from .records import Record, latest
from .shapes import (
    SLSTM_SEQUENCE,
    mlstm_prefill_operations,
    mlstm_prefill_traffic,
    mlstm_step_traffic,
    slstm_step_traffic,
)

HEAD = """# The CUDA code on a GPU

Made by `scripts/gpu_check.py` from the records of what it measured, which are beside this page. `timings` times,
`checks` tests; both need a GPU. Nothing stands here that was not measured, and what was not says so.

Times: as many launches as have buffers of more than four times the L2 cache, captured into one CUDA graph; the median
of 30 replays. *Cold*: all operands come from the memory. *Warm*: the activations are in the cache, as in a model, where
the kernel before has just written them; states and weights are cold. *Copy*: what a kernel that copies as many bytes
takes (a `cudaMemcpy` beside it), by as many bytes read as written. *Roofline*: the longer of the traffic at the largest
bandwidth of all copies, and the operations at the rate of a large product of bfloat16 matrices (cuBLAS). *Error*:
against the recurrence in float64, in the Euclidean norm, of the timed kernel's own output. Activations are bfloat16,
states float32. A *run* is a machine, its software and a commit, listed below each table of claims.
"""


def render(records: Iterable[Record]) -> str:
    """The page: for each device, every claim with its verdict, the runs, and the tables."""
    by_device: dict[str, list[Record]] = {}
    for record in latest(records):
        by_device.setdefault(record.on["device"], []).append(record)
    parts = [HEAD]
    for name, found in by_device.items():
        parts += [f"## {name}\n", _device(found)]
    if not by_device:
        parts += ["## No GPU yet\n\nNothing has been measured.\n", _claims(Device([]), {})]
    return "\n".join(parts)


Runs = dict[str, int]
"""The number of each run."""


def _run_of(record: Record) -> str:
    on = record.on
    software = f"driver {on['driver']}, CUDA {on['cuda']}, PyTorch {on['torch']}, Triton {on['triton']}"
    return f"{on['device']}, {software}, commit {on['commit']}, {on['date']}"


def _device(records: list[Record]) -> str:
    device = Device(records)
    runs = {run: number for number, run in enumerate(dict.fromkeys(map(_run_of, records)), 1)}
    lines = [_claims(device, runs), *(f"{number}. {run}" for run, number in runs.items()), ""]
    for what, rate, unit in (
        ("Largest bandwidth of all copies", device.copy_rate, "TB/s"),
        ("Bandwidth by the memory's clock and width", records[0].on["bandwidth"] or None, "TB/s"),
        ("Large product of bfloat16 matrices", device.product_rate, "TFLOP/s"),
    ):
        lines.append(f"- {what}: {f'{rate / 1e12:.2f} {unit}' if rate else NOT_MEASURED}")
    return "\n".join([*lines, "", *(_table(table, device, runs) for table in TABLES if device.of(table.what))])


def _numbers(records: Iterable[Record], runs: Runs) -> str:
    return ", ".join(str(number) for number in sorted({runs[_run_of(record)] for record in records}))


def _claims(device: Device, runs: Runs) -> str:
    def row(claim: Claim) -> str:
        measured, verdict, records = claim.judge(device)
        return _row([claim.title, claim.required, measured, verdict, _numbers(records, runs)])

    head = ["claim", "required", "measured", "verdict", "run"]
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(row, all_claims()), ""])


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


Cell = Callable[[Device, dict, dict], str]
"""Of the device, what was measured, and the result; KeyError: it is not there."""


@dataclass(frozen=True)
class Table:
    """`columns`: after those that say what was measured."""

    title: str
    what: str
    columns: dict[str, Cell]
    text: str = ""


def _table(table: Table, device: Device, runs: Runs) -> str:
    records = device.of(table.what)
    of = list(records[0].of)
    records = sorted(records, key=lambda record: [_order(value) for value in record.of.values()])
    # Where each row has names of its own for its numbers, these are the columns.
    names = list(table.columns) or list(dict.fromkeys(name for record in records for name in record.result))
    lines = [f"### {table.title}", "", *([table.text, ""] if table.text else [])]
    head = [*of, *names, "run"]
    lines += [_row(head), _row(["---"] * len(head))]
    for record in records:
        if record.failure:
            cells = [f"failed: {record.failure}", *[""] * (len(names) - 1)]
        else:
            cells = [_cell(table.columns.get(name, _time(name)), device, record) for name in names]
        lines.append(_row([*record.of.values(), *cells, _numbers([record], runs)]))
    return "\n".join([*lines, ""])


def _order(value: object) -> tuple:
    return (0, value, "") if isinstance(value, int) else (1, 0, str(value))


def _cell(cell: Cell, device: Device, record: Record) -> str:
    try:
        return cell(device, record.of, record.result)
    except (KeyError, TypeError):  # what it is set against was not measured, or is None
        return ""


def _time(name: str) -> Cell:
    return lambda device, of, result: micros(result[name])


def _error(name: str) -> Cell:
    return lambda device, of, result: f"{result[name]:.1e}"


def _against(what: str) -> Cell:
    """The time of something else, of the same sizes."""
    return lambda device, of, result: micros(device.result(what, **of)["cold"])


def _ratio(what: str) -> Cell:
    return lambda device, of, result: ratio(device.result(what, **of)["cold"] / result["cold"])


def _copy(device: Device, of: dict) -> dict:
    return device.result("copy", traffic=mlstm_step_traffic(**of))


def _prefill_roofline(device: Device, of: dict) -> float:
    moving = mlstm_prefill_traffic(**of) / device.copy_rate
    return max(moving, mlstm_prefill_operations(**of) / device.product_rate)


ERRORS: dict[str, Cell] = {"error of h": _error("error_h"), "error of states": _error("error_states")}
TABLES = [
    Table(
        "mLSTM step",
        "mlstm_step",
        {
            "traffic MB": lambda device, of, result: f"{mlstm_step_traffic(**of) / 1e6:.1f}",
            "cold": _time("cold"),
            "warm": _time("warm"),
            "C in place": _time("C_in_place"),
            "all in place": _time("Cnm_in_place"),
            "copy": lambda device, of, result: micros(_copy(device, of)["kernel"]),
            "cudaMemcpy": lambda device, of, result: micros(_copy(device, of)["memcpy"]),
            "of the copy": lambda device, of, result: percent(_copy(device, of)["kernel"] / result["cold"]),
            "Triton": _against("triton_step"),
            "ratio": _ratio("triton_step"),
            **ERRORS,
        },
        "Traffic: C read once and written once. Triton: the step kernel of `mlstm_kernels`.",
    ),
    Table("Triton's step", "triton_step", {"cold": _time("cold"), **ERRORS}),
    Table(
        "sLSTM step",
        "slstm_step",
        {
            "traffic MB": lambda device, of, result: f"{slstm_step_traffic(**of) / 1e6:.1f}",
            "cold": _time("cold"),
            "warm": _time("warm"),
            "of the roofline": lambda device, of, result: percent(
                slstm_step_traffic(**of) / device.copy_rate / result["cold"]
            ),
            **ERRORS,
        },
        "Traffic: R once, the states once each way, the input and the output.",
    ),
    Table(
        "mLSTM prefill",
        "mlstm_prefill",
        {
            "cold": _time("cold"),
            "a position": lambda device, of, result: micros(result["cold"] / of["sequence"]),
            "all in place": _time("Cnm_in_place"),
            "TFLOP/s": lambda device, of, result: f"{mlstm_prefill_operations(**of) / result['cold'] / 1e12:.1f}",
            "of the roofline": lambda device, of, result: percent(_prefill_roofline(device, of) / result["cold"]),
            "Triton": _against("triton_prefill"),
            "ratio": _ratio("triton_prefill"),
            **ERRORS,
        },
        "The shape of 7B. Operations: those with C at every position, 4 DK DV a head, the least that any form does; "
        "the chunkwise form has products within each chunk beside, which are not counted. Triton: the chunkwise "
        "forward pass of `mlstm_kernels` in chunks of 128, eight warps.",
    ),
    Table("Triton's prefill", "triton_prefill", {"cold": _time("cold"), **ERRORS}),
    Table(
        "sLSTM prefill",
        "slstm_prefill",
        {
            "time": _time("cold"),
            "a position": lambda device, of, result: micros(result["cold"] / SLSTM_SEQUENCE),
            "stepwise": _time("stepwise"),
            "ratio": lambda device, of, result: ratio(result["stepwise"] / result["cold"]),
            **ERRORS,
        },
        f"{SLSTM_SEQUENCE} positions. Stepwise: a launch for each.",
    ),
    Table(
        "sLSTM prefill of the `xlstm` package",
        "upstream_slstm",
        {"time": _time("cold")},
        f"Its CUDA kernel, {SLSTM_SEQUENCE} positions, everything in bfloat16, without a CUDA graph.",
    ),
    Table("Sampler", "sampler", {"warm": _time("warm")}, "The same tokens as the host's, or it failed."),
    Table(
        "TensorRT plugin",
        "plugin",
        {},
        "On the device at batch 1; on the host, what it takes to queue one call from Python, `onShapeChange` before "
        "each `enqueue`.",
    ),
    Table(
        "Whole models",
        "whole_model",
        {
            "a token": _time("cold"),
            "tokens a second": lambda device, of, result: f"{result['tokens_per_second']:.0f}",
            "traffic GB": lambda device, of, result: f"{result['traffic'] / 1e9:.2f}",
            "of the copies' bandwidth": lambda device, of, result: percent(
                result["traffic"] / result["cold"] / device.copy_rate
            ),
            "of the memory's bandwidth": lambda device, of, result: percent(
                result["traffic"] / result["cold"] / device.memory_rate
            ),
            "error of logits": _error("error_logits"),
        },
        "Decode in one CUDA graph: products by cuBLAS, cells and the greedy choice by our launchers, the rest by "
        "PyTorch, kernel by kernel or compiled. Traffic: weights once, states once each way. Error: against the same "
        "model with the cells' definitions.",
    ),
    Table(
        "Tests",
        "tests",
        {name: lambda device, of, result, name=name: str(result[name]) for name in ("passed", "failed", "skipped")}
        | {"not passed": lambda device, of, result: "; ".join(result["why"])},
    ),
    Table(
        "Counters of Nsight Compute",
        "counters",
        {name: lambda device, of, result, name=name: result[name] for name in COUNTERS},
        "Of the first launch of a kernel at a model's shape: DRAM and SM in % of their peak, warps in % of what an SM "
        "holds, registers a thread, bank conflicts of shared memory.",
    ),
    Table("Tiles of the mLSTM step", "mlstm_tiles", {}, "Vector x lanes."),
    Table("Chunks of the mLSTM prefill", "mlstm_chunks", {}, "Positions x columns."),
]
