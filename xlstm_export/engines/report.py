"""An engine's record for the eye."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..bundle.engine_record import EngineRecord


def render(record: EngineRecord) -> Group:
    """A small table: what was built, for what, how large, how long it took."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    low, tuned, high = record.batch
    batch = str(low) if low == high else f"{low} to {high}, tuned for {tuned}"
    options = record.options
    cells = "compiled from their definitions" + (", products as sums" if options.products_as_sums else "")
    if record.plugins is not None:
        cells = f"plugins in {record.plugins.name}" + (", definitions stripped" if options.stripped_functions else "")
    compatible = {"later versions": options.version_compatible, "Ampere and later": options.hardware_compatible}
    rows = {
        "engine": record.engine.name,
        "runtime": f"{record.runtime} {record.runtime_version}",
        "runs on": ", ".join(record.targets) + (f" ({record.gpu})" if record.gpu else ""),
        "also on": ", ".join(word for word, on in compatible.items() if on),
        "weights": record.dtype,
        "batch": batch,
        "windows" if record.profiles == ("window",) else "prompts": (
            f"up to {record.max_chunk} positions a pass" if record.max_chunk else ""
        ),
        "profiles": ", ".join(record.profiles),
        "cells": cells,
        "size": f"{record.engine_bytes / 1e6:,.1f} MB",
        "built in": f"{record.seconds:.1f} s",
        "sha256": record.engine.sha256,
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, Text(value))
    return Group(table)
