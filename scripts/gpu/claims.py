"""What is claimed of the CUDA code, each claim with the measurements that decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .plan import PREFILL_BATCHES, SEQUENCES
from .records import Record
from .shapes import LARGE_COPY, MODELS, SLSTM_SEQUENCE, mlstm_step_traffic, slstm_step_traffic

NOT_MEASURED = "not measured"
FOREIGN = ("triton_step", "triton_prefill", "upstream_slstm")
# Relative errors, in the Euclidean norm, beyond which a time is worth nothing: h is rounded to bfloat16 once; states
# keep what two bfloat16 hold; logits have passed all layers in bfloat16.
LARGEST_ERRORS = {"error_h": 2.0**-8, "error_states": 2.0**-15, "error_logits": 0.05}


class Device:
    """The records of one device, the last of each measurement."""

    def __init__(self, records: Iterable[Record]):
        self._records = {(r.what, *sorted(r.of.items())): r for r in records}

    def of(self, what: str) -> list[Record]:
        return [record for record in self._records.values() if record.what == what]

    def get(self, what: str, **of: Any) -> Record | None:
        return self._records.get((what, *sorted(of.items())))

    def result(self, what: str, **of: Any) -> dict[str, Any]:
        """KeyError: it was not measured."""
        return self._records[(what, *sorted(of.items()))].result

    @property
    def copy_rate(self) -> float | None:
        """The largest bandwidth of all copies: bytes read and written in a second."""
        copies = [record for record in self.of("copy") if not record.failure]
        return max((r.of["traffic"] / min(r.result["kernel"], r.result["memcpy"]) for r in copies), default=None)

    @property
    def product_rate(self) -> float | None:
        """Operations a second of a large product."""
        record = self.get("product_rate")
        return record.result["operations_per_second"] if record and not record.failure else None

    @property
    def memory_rate(self) -> float | None:
        """Bytes a second by the memory's clock and width; where the driver does not say these, `copy_rate`."""
        return next((record.on["bandwidth"] for record in self._records.values()), None) or self.copy_rate


def wrong(record: Record) -> str | None:
    """What is too far from the truth in a result of ours; None: nothing."""
    if record.what in FOREIGN:
        return None
    for name, largest in LARGEST_ERRORS.items():
        if not record.result.get(name, 0.0) <= largest:  # NaN is wrong
            return f"{name} {record.result[name]:.1e}, more than {largest:.1e}"
    return None


@dataclass(frozen=True)
class Claim:
    """`value` of the device and the results of `sources`. At least that much, or at most; neither: nothing is promised.

    Attributes:
        sources: of records, `what` and `of`.
        show: a value as text.
    """

    title: str
    sources: tuple[tuple[str, dict[str, Any]], ...]
    value: Callable[..., float]
    show: Callable[[float], str]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def required(self) -> str:
        if self.at_least is not None:
            return f"at least {self.show(self.at_least)}"
        return f"at most {self.show(self.at_most)}" if self.at_most is not None else ""

    def judge(self, device: Device) -> tuple[str, str, list[Record]]:
        """What was measured, the verdict on it, and the records that say so."""
        found = [device.get(what, **of) for what, of in self.sources]
        records = [record for record in found if record]
        for record in records:
            if problem := record.failure or wrong(record):
                return f"{record.what}: {problem}", "" if record.what in FOREIGN else "**failed**", records
        if len(records) < len(found):
            return NOT_MEASURED, "", []
        value = self.value(device, *(record.result for record in records))
        reached = (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
        verdict = "" if not self.required else "reached" if reached else "**missed**"
        return self.show(value), verdict, records


def percent(value: float) -> str:
    return f"{value:.0%}"


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def micros(value: float) -> str:
    return f"{value * 1e6:.3g} µs"


def number(value: float) -> str:
    return f"{value:.0f}"


def all_claims() -> list[Claim]:
    return [
        *(_step_against_a_copy(*case) for case in (("7B", 1), ("125M", 1), ("7B", 32))),
        *(_step_against_triton(batch) for batch in (1, 8, 32)),
        *(_prefill_against_triton(b, s) for b in PREFILL_BATCHES for s in SEQUENCES if s >= 512),
        *(_position_of_slstm(shape) for shape in ("125M", "1.3B")),
        *(_slstm_step(shape, batch) for shape in ("125M", "1.3B") for batch in (32, 256)),
        *(_draw(how, most) for how, most in (("greedy", 50e-6), ("top-k and top-p", 150e-6), ("top-p", None))),
        *(_plugin(cell) for cell in ("mlstm", "slstm")),
        _whole_model_of_its_memory(),
        *(_whole_model(model) for model in MODELS),
        *(_tests(part) for part in ("tests/gpu", "compute-sanitizer")),
    ]


def _step_against_a_copy(shape: str, batch: int) -> Claim:
    return Claim(
        f"mLSTM step, {shape}, batch {batch}: of the speed of a kernel that copies as much",
        (("copy", {"traffic": mlstm_step_traffic(shape, batch)}), ("mlstm_step", {"shape": shape, "batch": batch})),
        lambda _, copy, step: copy["kernel"] / step["cold"],
        percent,
        at_least=0.92,
    )


def _step_against_triton(batch: int) -> Claim:
    """No figure: from batch 8 on, Triton's step is itself near the speed of a copy."""
    of = {"shape": "7B", "batch": batch}
    return Claim(
        f"mLSTM step, 7B, batch {batch}: against `mlstm_kernels`",
        (("triton_step", of), ("mlstm_step", of)),
        lambda _, triton, ours: triton["cold"] / ours["cold"],
        ratio,
    )


def _prefill_against_triton(batch: int, sequence: int) -> Claim:
    of = {"batch": batch, "sequence": sequence}
    return Claim(
        f"mLSTM prefill, 7B, batch {batch}, {sequence} positions: against `mlstm_kernels`",
        (("triton_prefill", of), ("mlstm_prefill", of)),
        lambda _, triton, ours: triton["cold"] / ours["cold"],
        ratio,
        at_least=1.3,
    )


def _position_of_slstm(shape: str) -> Claim:
    return Claim(
        f"sLSTM prefill, {shape}, batch 1: a position",
        (("slstm_prefill", {"shape": shape, "batch": 1, "recurrent": "bfloat16"}),),
        lambda _, ours: ours["cold"] / SLSTM_SEQUENCE,
        micros,
        at_most=0.8e-6,
    )


def _slstm_step(shape: str, batch: int) -> Claim:
    of = {"shape": shape, "batch": batch, "recurrent": "bfloat16"}
    return Claim(
        f"sLSTM step, {shape}, batch {batch}: of the roofline",
        (("copy", {"traffic": LARGE_COPY}), ("slstm_step", of)),
        lambda device, _, ours: slstm_step_traffic(**of) / device.copy_rate / ours["cold"],
        percent,
        at_least=0.8,
    )


def _draw(how: str, most: float | None) -> Claim:
    return Claim(
        f"a token drawn on the device, {how}, of 50,304, batch 1",
        (("sampler", {"how": how, "batch": 1}),),
        lambda _, ours: ours["warm"],
        micros,
        at_most=most,
    )


def _plugin(cell: str) -> Claim:
    return Claim(
        f"TensorRT plugin, {cell}: time on the device, of the launcher's",
        (("plugin", {"cell": cell}),),
        lambda _, ours: ours["device_plugin"] / ours["device_launcher"],
        ratio,
    )


def _whole_model_of_its_memory() -> Claim:
    """The figure to beat: 68 % of the bandwidth of an A40."""
    return Claim(
        "whole xlstm-7b, bfloat16, batch 1: of the memory's bandwidth",
        (("whole_model", {"model": "xlstm-7b", "batch": 1, "glue": "compiled"}),),
        lambda device, ours: ours["traffic"] / ours["cold"] / device.memory_rate,
        percent,
        at_least=0.68,
    )


def _whole_model(model: str) -> Claim:
    return Claim(
        f"whole {model}, bfloat16, batch 1: tokens a second",
        (("whole_model", {"model": model, "batch": 1, "glue": "compiled"}),),
        lambda _, ours: ours["tokens_per_second"],
        number,
    )


def _tests(part: str) -> Claim:
    return Claim(
        f"{part}: tests that fail", (("tests", {"part": part}),), lambda _, ours: ours["failed"], number, at_most=0
    )
