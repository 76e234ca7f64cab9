"""What an engine is built for: runtime, compute capabilities, batch range, positions of a pass."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..bundle.engine_record import ENGINE_RUNTIMES, PROFILES, ProfileName, TensorProfile
from ..bundle.manifest import Dtype, Manifest
from ..errors import ErrorKind, UserError
from ..nvidia.capabilities import CURRENT, parse_capabilities

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT-RTX 1.7 compiles for. sm100 and others are data-centre parts: TensorRT's own."""

DEFAULT_RTX_TARGETS = ("sm86", "sm89", "sm120")
"""GeForce RTX 30, 40 and 50."""
DEFAULT_BATCH = "1:1:8"
DEFAULT_MAX_CHUNK = 256
"""Positions of one pass of a prompt: weights are read once for all of them."""
PRODUCTS_AS_SUMS_MAX_CHUNK = 32
"""The same where products of matrices are written as sums (sm75): they grow with the square of it."""


def parse_targets(runtime: str, targets: Iterable[str]) -> tuple[str, ...]:
    """Check and order the compute capabilities an engine shall run on.

    Args:
        runtime: `tensorrt-rtx` or `tensorrt`.
        targets: `sm86`, `8.6`, `86`, `current`, or several of them with commas between. None means
            `DEFAULT_RTX_TARGETS` for TensorRT-RTX and `current` for TensorRT.

    Returns:
        Names such as `sm86`, without repeats, in rising order; or only `current`.

    Raises:
        UserError: unknown, contradictory, or not what the runtime can build.
    """
    if runtime not in ENGINE_RUNTIMES:
        raise UserError(
            ErrorKind.argument, f"cannot build for runtime {runtime!r}: choose one of {', '.join(ENGINE_RUNTIMES)}."
        )
    names = parse_capabilities(targets)
    names = names or list(DEFAULT_RTX_TARGETS if runtime == "tensorrt-rtx" else (CURRENT,))
    if runtime == "tensorrt":
        if names != [CURRENT]:
            raise UserError(
                ErrorKind.argument,
                f"TensorRT builds for the GPU it runs on, not for {', '.join(names)}: leave --target out. "
                "--runtime tensorrt-rtx builds ahead of time; --hardware-compatible makes engines for other GPUs too.",
            )
    elif unknown := [name for name in names if name not in (*RTX_TARGETS, CURRENT)]:
        raise UserError(
            ErrorKind.argument,
            f"TensorRT-RTX does not build for {', '.join(unknown)}: it knows {', '.join(RTX_TARGETS)}. "
            "Data-centre and Jetson GPUs are served by --runtime tensorrt, on the machine itself.",
        )
    return tuple(names)


def check_dtype(runtime: str, targets: tuple[str, ...], dtype: Dtype) -> None:
    """Refuse what Turing cannot do, before TensorRT-RTX says so in its own words.

    Raises:
        UserError: sm75 with float32 (no float32 matrix product there in TensorRT-RTX) or with bfloat16.
    """
    if runtime == "tensorrt-rtx" and "sm75" in targets and dtype != "float16":
        raise UserError(
            ErrorKind.argument,
            f"TensorRT-RTX has no {dtype} matrix product for sm75 (Turing). Export the bundle with --dtype float16, "
            "or leave sm75 out of --target.",
        )


@dataclass(frozen=True)
class BatchRange:
    """Numbers of sequences an engine takes, and the one it is tuned for."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}-{self.max}"


def parse_batch(text: str) -> BatchRange:
    """`"1:4:8"` (least, tuned for, most) or `"4"` (only that).

    Raises:
        UserError: neither of these, or not 1 <= least <= tuned for <= most.
    """
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() for part in parts):
        raise UserError(
            ErrorKind.argument, f"batch {text!r} is neither a number nor LEAST:TUNED:MOST, for example 1:1:8."
        )
    low, tuned, high = (int(part) for part in parts * (3 // len(parts)))
    if not 1 <= low <= tuned <= high:
        raise UserError(ErrorKind.argument, f"batch range {text} is not 1 <= least <= tuned for <= most.")
    return BatchRange(low, tuned, high)


def batch_range(manifest: Manifest, batch: str | None) -> BatchRange:
    """The range to build for: the bundle's own batch when that is fixed, else `batch` as in `parse_batch`.

    Raises:
        UserError: not a range, or not the bundle's fixed batch.
    """
    wanted = parse_batch(batch) if batch is not None else None
    if manifest.batch is None:
        return wanted or parse_batch(DEFAULT_BATCH)
    fixed = BatchRange(manifest.batch, manifest.batch, manifest.batch)
    if wanted not in (None, fixed):
        raise UserError(
            ErrorKind.argument,
            f"this bundle has the fixed batch {manifest.batch}, not {batch}. "
            "Export it with --batch dynamic to build an engine for a range.",
        )
    return fixed


def max_chunk_of(manifest: Manifest, targets: tuple[str, ...], wanted: int | None) -> int | None:
    """The most positions of one pass that an engine shall take; None when no input has any number of them.

    Raises:
        UserError: `wanted`, and the bundle takes one number of positions only; or not, and it takes windows of any
            length, for which there is no length that is usual.
    """
    if manifest.mode == "step":
        if wanted is not None:
            raise UserError(
                ErrorKind.argument, "this bundle is of mode `step`, one position a pass: export it with --mode both."
            )
        return None
    if manifest.mode == "window":
        return _longest_window(manifest, wanted)
    return wanted or (PRODUCTS_AS_SUMS_MAX_CHUNK if "sm75" in targets else DEFAULT_MAX_CHUNK)


def _longest_window(manifest: Manifest, wanted: int | None) -> int | None:
    any_length = any(tensor.time_axis is not None for tensor in manifest.inputs)
    if any_length and wanted is None:
        raise UserError(
            ErrorKind.argument,
            "this bundle takes whole sequences of any length (mode `window`): say with --max-chunk how many positions "
            "the longest has.",
        )
    if not any_length and wanted is not None:
        shapes = ", ".join(f"{t.name} {list(t.shape)}" for t in manifest.inputs)
        raise UserError(ErrorKind.argument, f"this bundle takes windows of one size ({shapes}): leave --max-chunk out.")
    return wanted


@dataclass(frozen=True)
class Profile:
    """One optimisation profile: the inputs whose shape is dynamic, the manifest's `inputs` first."""

    name: ProfileName
    tensors: tuple[TensorProfile, ...]


def input_profiles(manifest: Manifest, batch: BatchRange, max_chunk: int | None) -> tuple[Profile, ...]:
    """What the engine takes: single steps, passes or windows of 1 to `max_chunk` positions (tuned for the most)."""
    inputs = {t.name: t for t in manifest.inputs} | {s.input: s.spec for s in manifest.states}
    if manifest.lengths is not None:
        inputs[manifest.lengths.name] = manifest.lengths
    most = max_chunk or 1
    return tuple(
        Profile(
            profile,
            tuple(
                TensorProfile(
                    name,
                    *map(
                        tensor.sized,
                        (batch.min, batch.opt, batch.max),
                        (1, 1, 1) if profile == "decode" else (1, most, most),
                    ),
                )
                for name, tensor in inputs.items()
                if any(isinstance(extent, str) for extent in tensor.shape)
            ),
        )
        for profile in PROFILES[manifest.mode]
    )


def parse_version(text: str) -> tuple[int, ...]:
    """`"10.15.1.29"` → `(10, 15, 1, 29)`; what follows the digits of a part is dropped."""
    parts = []
    for part in text.split("."):
        digits = re.match(r"\d+", part)
        if not digits:
            break
        parts.append(int(digits[0]))
    return tuple(parts)


def engine_name(
    runtime: str, version: str, targets: tuple[str, ...], dtype: Dtype, batch: BatchRange, max_chunk: int | None
) -> str:
    """`tensorrt-rtx-1.7-sm86-sm89-float16-batch1-8-chunk256.engine`: what tells one engine of a bundle from another."""
    release = ".".join(map(str, parse_version(version)[:2]))
    chunk = (f"chunk{max_chunk}",) if max_chunk else ()
    return "-".join((runtime, release, *targets, dtype, f"batch{batch}", *chunk)) + ".engine"
