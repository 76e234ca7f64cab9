"""Which weights get more than four bits, within a size: those whose rounding moves the logits most, a bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ErrorKind, UserError
from ..exporter.weights import alignment
from ..progress import Advance
from .calibration import Calibration
from .formats import INT4, INT8, Format
from .matrices import approximated, scale_dtype
from .options import QuantizeOptions
from .sites import Site, fitting

_LADDER: tuple[Format | None, ...] = (INT4, INT8, None)


def choose_formats(
    sites: Sequence[Site], graph: ir.Graph, options: QuantizeOptions, calibration: Calibration, progress: Advance
) -> dict[str, Format | None]:
    """A format for every weight; None: it stays as it is.

    The divergence of the logits is measured for each weight rounded alone, to 4 and to 8 bits. From 4 bits everywhere,
    that weight goes up first which saves the most divergence a bit, as long as the size allows it.

    Raises:
        UserError: 4 bits everywhere are more than the size allows.
    """
    ladders = {site.name: _ladder(site, options, calibration, progress) for site in sites}
    left = _budget(sites, graph, options) - sum(ladder[0].bits for ladder in ladders.values())
    if left < 0:
        least = sum(ladder[0].bits for ladder in ladders.values()) / sum(site.size for site in sites)
        raise UserError(
            ErrorKind.argument,
            f"4 bits for every matrix ({least:.4g} bits a weight, scales included) take {-left / 8e6:.3g} MB more than "
            "the budget allows. Allow more, or give a larger --block-size.",
        )
    chosen = dict.fromkeys(ladders, 0)
    while best := _best_step(ladders, chosen, left):
        left -= ladders[best][chosen[best] + 1].bits - ladders[best][chosen[best]].bits
        chosen[best] += 1
    return {name: ladders[name][rung].format for name, rung in chosen.items()}


@dataclass(frozen=True)
class _Rung:
    format: Format | None
    bits: int
    divergence: float


def _ladder(site: Site, options: QuantizeOptions, calibration: Calibration, progress: Advance) -> list[_Rung]:
    """What a weight takes, and costs in divergence, at each of its formats."""
    exact = calibration.weights[site.name]
    rungs = []
    for format_ in _LADDER:
        if format_ is None:
            rungs.append(_Rung(None, site.size * int(8 * site.dtype.itemsize), 0.0))
        elif (format_ := fitting(site, format_)) and not (rungs and rungs[-1].format is format_):
            calibration.put(site.name, approximated(site, format_, options.block_size, options.method))
            rungs.append(_Rung(format_, stored_bits(site, format_, options.block_size), calibration.divergence()))
        progress(1)
    calibration.weights[site.name] = exact
    return rungs


def stored_bits(site: Site, format_: Format, block_size: int) -> int:
    """Of codes and scales."""
    scales = site.outputs * -(-site.inputs // block_size)
    return site.size * format_.bits + scales * int(8 * scale_dtype(site).itemsize)


def _best_step(ladders: Mapping[str, Sequence[_Rung]], chosen: Mapping[str, int], left: float) -> str | None:
    best, gain = None, 0.0
    for name, rung in chosen.items():
        if rung + 1 < len(ladders[name]):
            now, then = ladders[name][rung : rung + 2]
            more = then.bits - now.bits
            if more <= left and (now.divergence - then.divergence) / more > gain:
                best, gain = name, (now.divergence - then.divergence) / more
    return best


def _budget(sites: Sequence[Site], graph: ir.Graph, options: QuantizeOptions) -> float:
    """Bits for these weights."""
    if options.bits is not None:
        return options.bits * sum(site.size for site in sites)
    assert options.size is not None
    values = {id(site.value) for site in sites}
    tensors = [v.const_value for v in graph.initializers.values() if id(v) not in values]
    others = [t.nbytes for t in tensors if isinstance(t, ir.ExternalTensor)]
    spaces = sum(map(alignment, others)) + sum(2 * alignment(site.size // 2) for site in sites)
    return 8.0 * (options.size - sum(others) - spaces)
