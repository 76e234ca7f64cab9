"""How a bundle shall be quantised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ErrorKind, UserError

WeightFormat = Literal["int8", "int4", "float8"]
Method = Literal["rtn", "search", "gptq"]
BLOCK_SIZES = (32, 64, 128)
KEPT = ("*igate.*", "*fgate.*", "*slstm.?gate.*")
"""What stays as it is unless the user says otherwise: gates. (Norms, convolutions, R and block-diagonal projections
are no matrices of products.)"""


@dataclass(frozen=True)
class QuantizeOptions:
    """What `quantize` is told."""

    weights: WeightFormat
    block_size: int = 32
    """Weights along an output's inputs that share a scale."""
    method: Method = "search"
    """`rtn`: round to nearest. `search`: scales of least squared error. `gptq`: rounding that makes up for earlier
    rounding, on the text's activations."""
    keep: tuple[str, ...] = KEPT
    """Weights that stay as they are: names, or those of modules, with `*` and `?`."""
    text: Path | None = None
    """A text in the model's language, for `gptq` and for a budget."""
    size: int | None = None
    """The most bytes of the weight file: tensors that pay most for it stay at 8 bits or in the bundle's dtype."""
    bits: float | None = None
    """The same as bits a weight, of the matrices that can be quantised, scales included."""
    custom_ops: Path | None = None
    """The custom-op library that the text is run with; None runs the cells' definitions."""
    overwrite: bool = False
    """Replace an existing bundle."""

    def __post_init__(self) -> None:
        if self.block_size not in BLOCK_SIZES:
            raise _wrong(f"--block-size is {self.block_size}: give one of {', '.join(map(str, BLOCK_SIZES))}.")
        if self.size is not None and self.bits is not None:
            raise _wrong("--size and --bits are two ways to say the same: give one of them.")
        if self.has_budget and self.weights != "int4":
            raise _wrong(f"--size and --bits choose between 4 bits and more: give --weights int4, not {self.weights}.")
        if (self.method == "gptq" or self.has_budget) and self.text is None:
            what = "--method gptq" if self.method == "gptq" else "A budget (--size, --bits)"
            raise _wrong(f"{what} runs the bundle on a text: name one with --text, in the model's language.")
        if self.method == "gptq" and self.weights == "float8":
            raise _wrong("--method gptq rounds to integers. Use --method search for --weights float8.")

    @property
    def has_budget(self) -> bool:
        return self.size is not None or self.bits is not None


def _wrong(message: str) -> UserError:
    return UserError(ErrorKind.argument, message)
