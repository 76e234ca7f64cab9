"""When is an error too large? Tolerances that follow from the bundle's dtype and from the model's own sensitivity.

A bundle of dtype T multiplies matrices in T (unit roundoff u: float32 6.0e-8, float16 4.9e-4, bfloat16 3.9e-3); norms,
gates, cells, states and the residual stream are float32 (u32) whatever T is. Errors are relative: logits to their
spread (max - min of the reference), states to the largest value of their row and head. Two things set the limits.

**Floor**, `32 u + 3 min(steps, 512) u32`. One step is a chain of some 8 roundings to T a block (weights, inputs and
outputs of each projection); independent roundings add up as a random walk, and 32 u is that walk over some hundred
blocks. The recurrence rounds each state value about 3 times a step, in float32; forgetting bounds how many steps
count, and 512 steps of one sign is the worst case: 3 * 512 * 6e-8 = 9.2e-5. So float32 logits keep within 1e-4 of
their spread however long the run, float16 within 1.6e-2, bfloat16 within 0.125. A *locked* run, which starts every
step from the reference's states, has one step of recurrence.

**Sensitivity**. No constant holds at every step of every model: where a normaliser passes through zero, or a head's
output nearly vanishes before its norm, the model magnifies roundings a thousandfold for some steps, upstream's own
float32 ones as well. So the reference runs a second time with each weight moved by up to one unit roundoff of T:
what storing weights in T does at the least. A correct bundle is the model with perturbations of that size and
number (inputs and outputs are rounded, too), so its errors are distributed as the sensitivity is. Over 1,500 errors
of eighteen random models in the three dtypes, all of them ill-conditioned in places, the median error was at most 2.1
times the larger of 32 u and the median sensitivity, and the largest error, the end of a heavy tail, at most 9.4 times
the larger of floor and largest sensitivity. A wrong weight or gate is not of the size of a roundoff: it does not hide.

**States in half precision**. Where the memories of the mLSTM are stored in a coarser dtype than T, u is its. A state
that is decayed by F and added to is rounded once a step, by at most u of itself, and what F has forgotten is gone: over
a memory of N = min(steps, 1 / (1 - F)) steps, roundings of independent sign add up to sqrt(N) u. 32 u holds that for
MEMORY steps (sqrt(512) = 23). But an addition of less than half a unit in the state's last place is lost whole, and so
is the next one: where additions agree in sign over more than 1 / u steps, the state stands still, the errors have one
sign and grow with N, to hundreds of u. That is what `typical` refuses in the long run. Measured over 2,000 steps of a
cell of width 64, in units of u, for float16 and for bfloat16, with independent keys and values: 3 and 2 at a memory of
10 steps, 8 and 7 of 100, 18 and 17 of 1,000, 40 and 32 without forgetting; with keys and values of a common mean as
large as their deviation: 2 and 2, 5 and 8, 37 and 76, 96 and 109 (relative to the largest value: 0.05 and 0.43).

**Networks**. The reference of a user's own network is the module in float64; its sensitivity is the error of the module
in float32 with its weights moved, so that it holds what float32 itself does to that module. The limits are the same.

**Quantised weights** differ by design, so a verdict on them asks two things. Is it the quantised model? Then its
errors are those of weights moved by up to half a step of their block's codes, which is what the second run of the
reference does to its own weights: `typical` and `worst` are the same multiples of that sensitivity, with the floor of
the bundle's dtype (what else is in it). The mean KL divergence of a run is quadratic in the errors, and of so many
tokens that it has no tail: at most 4 times the second run's, errors twice as large. A scale, a nibble or a block out
of place moves weights by whole steps, and does not hide. And does it cost what its format should? Bits per byte of a
text may rise by 0.1 % with 8-bit integers, 1 % with FP8 and 3 % with 4 bits: plain rounding to nearest in blocks of 32
costs 0.007 % and 0.75 % on `models/kjv`, and a model that loses over four times that is better kept in a finer format.

The limits, for each error of a run over its steps::

  typical   median(error) <= max(32 u + 3 u32, 8 median(sensitivity))
  worst     max(error)    <= max(floor, 32 max(sensitivity))
  contract  median(error) <= floor after 512 steps, for the outputs: where every rounding is magnified, nothing passes.
            (Of a quantised bundle `text` takes its place.)
  kl        mean(KL) <= 4 mean(KL of the second run), of a quantised language model.
  text      bits per byte / reference's - 1 <= 0.1, 1 or 3 %, likewise, where a text was read.

Where an error was taken fewer than four times (what a whole sequence ends with), nothing is typical: `worst` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..bundle import Manifest

CHAIN = 32  # roundings to T that one step adds up to
ROUNDINGS_PER_STEP = 3  # of a state value, in float32
MEMORY = 512  # steps that count
TYPICAL, WORST = 8, 32  # times the sensitivity: over three times what correct bundles need
FEW = 4  # errors have a median that means something
KL = 4  # times that of moved weights: twice the error
_LARGEST_CODE = {"int8": 127, "int4": 7}
_TEXT = {"int8": 0.001, "float8": 0.01, "int4": 0.03}


@dataclass(frozen=True)
class Series:
    """One error over a run: at each recorded step the worst row's."""

    steps: Sequence[int]
    error: Sequence[float]
    sensitivity: Sequence[float]
    """The same error, of the reference (in float32) with its weights moved by up to one unit roundoff."""


@dataclass(frozen=True)
class Limit:
    """One bound on a series, and how it decides."""

    kind: str
    """`typical`, `worst` or `contract`; of a quantised bundle also `kl` and `text`."""
    value: float

    def measure(self, series: Series) -> float:
        """What is held against the bound."""
        return float(np.max(series.error) if self.kind == "worst" else np.median(series.error))

    def passed(self, series: Series) -> bool:
        return self.measure(series) <= self.value


@dataclass(frozen=True)
class Quantization:
    """What rounding weights to blocks of codes does to them; see the module's text."""

    weights: str
    """`int8`, `int4` or `float8`."""
    block_size: int
    """Weights along a matrix's inputs that share a scale."""

    @staticmethod
    def of(manifest: Manifest) -> Quantization | None:
        """What the manifest says; None: the bundle is not quantised."""
        said = manifest.quantization
        return None if said is None else Quantization(said["weights"], said["block_size"])

    def half_step(self, weight: Tensor) -> Tensor:
        """By how much rounding to nearest moves each weight at most: (N, K) → (N, K).

        A block's largest weight is the largest code; integers are as far apart everywhere, FP8 (E4M3, three bits of
        mantissa) has the unit roundoff 2^-4.
        """
        if self.weights == "float8":
            return weight.abs() * 2.0**-4
        rows, inputs = weight.shape
        blocks = nn.functional.pad(weight.abs(), (0, -inputs % self.block_size)).reshape(rows, -1, self.block_size)
        steps = blocks.amax(-1) / _LARGEST_CODE[self.weights]
        return (0.5 * steps).repeat_interleave(self.block_size, 1)[:, :inputs]

    @property
    def text_limit(self) -> float:
        """By what share bits per byte may rise."""
        return _TEXT[self.weights]


@dataclass(frozen=True)
class Tolerance:
    """The limits for a bundle of one dtype, whose weights may be quantised; see the module's text."""

    dtype: str
    quantization: Quantization | None = None

    @property
    def unit_roundoff(self) -> float:
        return unit_roundoff(getattr(torch, self.dtype))

    def floor(self, steps: int) -> float:
        """What an error may be after so many steps of recurrence, however insensitive the model."""
        return CHAIN * self.unit_roundoff + ROUNDINGS_PER_STEP * min(steps, MEMORY) * unit_roundoff(torch.float32)

    def limits(self, series: Series, recurrence: int, outputs: bool) -> list[Limit]:
        """The bounds on one error.

        Args:
            recurrence: steps that errors could add up over: those of the run, or 1 when it is locked.
            outputs: it is the error of the logits, not of a state.
        """
        sensitivity, floor = np.asarray(series.sensitivity), self.floor(recurrence)
        limits = [Limit("worst", max(floor, WORST * float(sensitivity.max())))]
        if len(sensitivity) >= FEW:
            limits.insert(0, Limit("typical", max(self.floor(1), TYPICAL * float(np.median(sensitivity)))))
        return [*limits, Limit("contract", self.floor(MEMORY))] if outputs and self.quantization is None else limits

    def describe(self) -> str:
        """In two sentences, with the numbers."""
        if self.quantization is not None:
            how = self.quantization
            return (
                f"{how.weights} in blocks of {how.block_size}. Half of the steps must keep within {TYPICAL} times what "
                f"moving each of the reference's own weights by up to half a step of its block does, every step within "
                f"{WORST} times, the mean KL divergence within {KL} times; bits per byte of a text may rise by "
                f"{how.text_limit:.1%}."
            )
        return (
            f"{self.dtype}, unit roundoff {self.unit_roundoff:.1e}. Half of the steps must keep within "
            f"{self.floor(1):.1e} or {TYPICAL} times what moving each of the reference's own weights by up to one "
            f"roundoff does; every step within {self.floor(MEMORY):.1e} ({self.floor(1):.1e} when locked) or {WORST} "
            "times that."
        )


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to nearest: float32 2^-24, float16 2^-11, bfloat16 2^-8."""
    return torch.finfo(dtype).eps / 2
