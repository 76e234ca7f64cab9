"""Whether a bundle is as it was made, and its inputs as they were then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle
from ..bundle.receipt import changed_files, changed_inputs, read_receipt


@dataclass(frozen=True)
class ReceiptCheck:
    """A bundle held against its receipt."""

    command: str | None
    """What made it."""
    files: int
    """How many files the receipt has of it."""
    changed: tuple[str, ...]
    """Those that are not as they were made."""
    other_inputs: tuple[str, ...]
    """Files given now that were inputs then, by their name, and are not as they were. That alone is no error."""

    @property
    def passed(self) -> bool:
        return not self.changed


def check_receipt(bundle: Bundle, inputs: Iterable[Path]) -> ReceiptCheck | None:
    """Read every file of the bundle, and of these inputs; None: the bundle has no receipt.

    Raises:
        UserError: the receipt is damaged.
    """
    receipt = read_receipt(bundle.path)
    if receipt is None:
        return None
    first = receipt
    while first.made_from is not None:  # whose inputs are the checkpoint
        first = first.made_from
    changed = changed_files(bundle.path, receipt)
    return ReceiptCheck(receipt.command, len(receipt.files), changed, changed_inputs(first, inputs))
