"""Forecasts a second on the CPU: a bundle of TiRex against upstream, and against whole windows in ONNX Runtime.

    python scripts/bench_forecast.py [--custom-ops LIB] [--batch 1,32] [--threads 1] [--quick]

One model of TiRex's size with random weights (the time does not depend on them), horizon 64 from a context of 2,048
points. Each line is the median of several runs; all in one process, by turns with nothing else. Compared are
  upstream          `tirex-ts` with its PyTorch cells, as shipped
  upstream compiled the same with `torch.compile` on its cells, as its `load_model(compile=True)` does
  full window       the bundle's graph with the cells' definitions in ONNX Runtime: every window whole, from zeros
  bundle            `xlstm_export.Forecaster`, with the custom operators where they are given
  streamed patch    `xlstm_export.ForecastStream`: the next 32 points, and the forecast of the 32 after them
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from xlstm_export import export, open_bundle, open_session
from xlstm_export.forecasting import Forecaster, ForecastStream
from xlstm_export.references.tirex import Reference

CONFIG = Path(__file__).parents[1] / "models" / "configs" / "tirex.yaml"
HORIZON = 64


def make_model(folder: Path) -> Reference:
    """A random TiRex, saved as `model.ckpt`."""
    torch.manual_seed(0)
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    reference = Reference(config)
    with torch.no_grad():
        for name, parameter in reference.module.named_parameters():
            if parameter.ndim == 3 or name.endswith("_bias_"):
                parameter.normal_(0, parameter.shape[-1] ** -0.5 if parameter.ndim == 3 else 1.0)
    torch.save({"state_dict": reference.module.state_dict(), "hyper_parameters": config}, folder / "model.ckpt")
    return reference


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median, after one run to warm up."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def report(name: str, batch: int, value: float, base: float) -> None:
    print(f"batch {batch:>2}  {name:<28}{1e3 * value:>10.1f} ms{batch / value:>12.2f} a second{base / value:>9.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--custom-ops", type=Path, help="libxlstm_onnxruntime.so")
    parser.add_argument("--batch", default="1,32", help="numbers of series side by side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave upstream compiled out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = make_model(folder)
        shipped = reference.as_shipped()
        export(folder / "model.ckpt", folder / "bundle")
        bundle = open_bundle(folder / "bundle")
        print(f"horizon {HORIZON}, {args.threads} threads; x: as fast as upstream, one window for each patch")
        for batch in map(int, args.batch.split(",")):
            series = np.cumsum(np.random.default_rng(0).standard_normal((batch, 2048)), 1).astype(np.float32)
            context = torch.from_numpy(series)
            base = seconds(lambda c=context: shipped.forecast(c, HORIZON, 1), args.repeats)
            report("upstream", batch, base, base)
            report(
                "upstream, one window",
                batch,
                seconds(lambda c=context: shipped.forecast(c, HORIZON, 2), args.repeats),
                base,
            )
            if not args.no_compile:
                compiled = compile_cells(reference.as_shipped())
                value = seconds(lambda c=context, m=compiled: m.forecast(c, HORIZON, 1), args.repeats)
                report("upstream compiled", batch, value, base)
            with open_session(bundle, batch=batch) as session:
                forecaster = Forecaster(session)
                whole = seconds(lambda f=forecaster, s=series: f.forecast(list(s), HORIZON), args.repeats)
                report("full window", batch, whole, base)
            with open_session(bundle, batch=batch, custom_ops=args.custom_ops) as session:
                forecaster = Forecaster(session)
                rounds = [
                    seconds(lambda f=forecaster, s=series, k=k: f.forecast(list(s), HORIZON, k), args.repeats)
                    for k in (1, 2)
                ]
                report("bundle", batch, rounds[0], base)
                report("bundle, one window", batch, rounds[1], base)
                own = forecaster.forecast(list(series), HORIZON)
                stream = ForecastStream(session, list(series), drift=None)
                patch = seconds(lambda s=stream, p=series[:, -32:]: (s.push(p), s.forecast(32)), 4 * args.repeats)
                report("streamed patch", batch, patch, base)
            ratios = whole / 2 / patch, base / 2 / patch
            print(
                f"          a streamed patch costs a full window / {ratios[0]:.1f}, upstream's window / {ratios[1]:.1f}"
            )
            difference = np.abs(own - reference.forecast(context, HORIZON, 1).numpy()).max() / series.std()
            print(f"          largest difference to upstream's float32 forecast: {difference:.1e} of the scale")


def compile_cells(reference: Reference) -> Reference:
    """As `tirex.base.load_model(compile=True)`."""
    from tirex.models.slstm.cell import sLSTMCellTorch

    forward = torch.compile(sLSTMCellTorch.slstm_forward)
    for block in reference.module.blocks:
        block.slstm_layer.slstm_cell._impl_forward_torch = forward
    return reference


if __name__ == "__main__":
    main()
