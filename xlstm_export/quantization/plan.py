"""What becomes of each weight, decided before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..bundle import Bundle
from ..progress import Advance, Stage
from .budget import choose_formats
from .calibration import Calibration
from .formats import FORMATS, Format
from .gptq import gptq
from .matrices import Quantised, approximated, dequantised, laid_out, read_rows, scale_dtype
from .options import QuantizeOptions
from .sites import Site, fitting, matches


@dataclass(frozen=True)
class Plan:
    """Attributes:
    formats: of every weight by name; None: it stays as it is.
    ready: weights that are quantised already, by GPTQ.
    divergence: of the logits on the text, KL in nats a token; None: nothing was run.
    """

    formats: Mapping[str, Format | None]
    ready: Mapping[str, Quantised] = field(default_factory=dict)
    divergence: float | None = None


def make_plan(bundle: Bundle, graph: ir.Graph, sites: Sequence[Site], options: QuantizeOptions, stage: Stage) -> Plan:
    """Decide on formats, and round what has to be rounded together.

    Raises:
        UserError: the text or the budget does not do.
    """
    chosen = [site for site in sites if not matches(site.name, options.keep)]
    kept: dict[str, Format | None] = {site.name: None for site in sites}
    wanted = FORMATS[options.weights]
    formats: dict[str, Format | None] = {site.name: fitting(site, wanted) for site in chosen}
    if options.text is None or not (options.has_budget or options.method == "gptq"):
        return Plan(kept | formats)
    stage("Running the bundle on the text", None)
    calibration = Calibration(bundle, [s.name for s in chosen], options.block_size, options.text, options.custom_ops)
    if options.has_budget:
        tick = stage("Measuring what each weight is worth", 3 * len(chosen))
        formats = choose_formats(chosen, graph, options, calibration, tick)
    quantised = [site for site in chosen if formats[site.name] is not None]
    ready: dict[str, Quantised] = {}
    for site in quantised:
        if options.method != "gptq" or not site.products:
            calibration.put(site.name, approximated(site, _format(formats, site), options.block_size, options.method))
    if options.method == "gptq":
        tick = stage("Rounding layer by layer", len(quantised))
        ready = _round_in_turn(quantised, formats, options.block_size, calibration, tick)
    return Plan(kept | formats, ready, calibration.divergence())


def _round_in_turn(
    sites: Sequence[Site],
    formats: Mapping[str, Format | None],
    block_size: int,
    calibration: Calibration,
    tick: Advance,
) -> dict[str, Quantised]:
    """GPTQ of all products, each fed by what is quantised before it."""
    by_name = {site.name: site for site in sites}
    ready = {}
    for group in calibration.groups():
        names = [name for name in group if name in by_name]
        moment = calibration.second_moment(names[0]) if names else None
        for name in names:
            site, format_ = by_name[name], _format(formats, by_name[name])
            assert moment is not None
            weights = read_rows(site, 0, site.outputs)
            codes, scales = gptq(weights, moment, format_, block_size, scale_dtype(site).numpy())
            calibration.put(name, dequantised(site, codes, scales, block_size))
            ready[name] = laid_out(site, codes, scales, format_)
            tick(1)
    return ready


def _format(formats: Mapping[str, Format | None], site: Site) -> Format:
    format_ = formats[site.name]
    assert format_ is not None
    return format_
