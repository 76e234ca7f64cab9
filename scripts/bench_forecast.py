"""Forecasts a second on the CPU: a bundle of TiRex or TiRex-2 against upstream, and whole windows in ONNX Runtime.

    python scripts/bench_forecast.py [--model tirex2] [--custom-ops LIB|none] [--batch 1,32] [--threads 1] [--repeats 5]

One model of the published size with random weights (the time does not depend on them), horizon 64 from a context of
2,048 points. Each line is the median of several runs, all in one process; with one thread, of processor time, so that
other programs on the machine count only as far as they take its caches and memory. Compared are
  upstream          `tirex-ts` with its PyTorch cells, or `tirex-2`, as shipped
  upstream compiled the same with `torch.compile` on its cells, as its `load_model(compile=True)` does
  full window       the bundle's graph with the cells' definitions in ONNX Runtime: every window whole, from zeros
  bundle            `xlstm_export.Forecaster`, with the custom operators where they are given
  streamed patch    `xlstm_export.ForecastStream`: the next 32 points, and the forecast of the 32 after them
  int8              the same of a bundle whose weights have 8 bits
TiRex runs a window for each patch of the horizon unless told otherwise, TiRex-2 one for all. Beside the streamed patch
stands the time of reading as many bytes as the weights have, once: the least that a step can take at batch 1.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xlstm_export import export, open_bundle, open_session
from xlstm_export.checkpoints import read_config
from xlstm_export.forecasting import Forecaster, ForecastStream
from xlstm_export.quantization import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle
from xlstm_export.references import build_upstream

CONFIGS = Path(__file__).parents[1] / "models" / "configs"
HORIZON = 64


def make_model(name: str, folder: Path) -> Any:
    """A random forecaster, saved as `model.ckpt`; a `ForecastingModel`."""
    torch.manual_seed(0)
    family, _, config = read_config(CONFIGS / f"{name}.yaml")
    reference: Any = build_upstream(family, config)
    with torch.no_grad():
        for name, parameter in reference.module.named_parameters():
            if parameter.ndim > 2 or name.endswith("_bias_"):
                parameter.normal_(0, 128**-0.5 if parameter.ndim > 2 and "kernel" in name else 0.1)
    reference.module.eval()
    torch.save({"state_dict": reference.module.state_dict(), "hyper_parameters": config}, folder / "model.ckpt")
    return reference


@torch.inference_mode()
def run_upstream(reference: Any, series: np.ndarray, rollout: int = 1) -> None:
    """As its users call it: TiRex-2 with those of its parts compiled that it compiles itself."""
    if not hasattr(reference.module, "predict"):
        reference.forecast(list(series), HORIZON, rollout)
        return
    from tirex2 import TimeseriesType

    reference.module.predict([TimeseriesType(torch.from_numpy(row)[None], None, None) for row in series], HORIZON)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median, after one run to warm up; of one thread, what the processor spent on it and not on other programs."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for _ in range(1 + repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times[1:])


def report(name: str, batch: int, value: float, base: float) -> None:
    print(f"batch {batch:>2}  {name:<28}{1e3 * value:>10.1f} ms{batch / value:>12.2f} a second{base / value:>9.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tirex", "tirex2"), default="tirex")
    parser.add_argument("--custom-ops", help="libxlstm_onnxruntime.so, or none; by default the one that is found")
    parser.add_argument("--batch", default="1,32", help="numbers of series side by side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave upstream compiled out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of ONNX Runtime's sessions, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = make_model(args.model, folder)
        bundle = export(folder / "model.ckpt", folder / "bundle")
        quantize_bundle(bundle, folder / "int8", QuantizeOptions("int8", method="rtn"))
        print(f"{args.model}, horizon {HORIZON}, {args.threads} threads; x: as fast as upstream")
        for batch in map(int, args.batch.split(",")):
            run(args, reference, bundle.path, batch)


def run(args: argparse.Namespace, reference: Any, path: Path, batch: int) -> None:
    bundle, shipped = open_bundle(path), reference.as_shipped()
    series = np.cumsum(np.random.default_rng(0).standard_normal((batch, 2048)), 1).astype(np.float32)
    several = bundle.manifest.forecast.horizon is None
    windows = HORIZON // bundle.manifest.forecast.patch if several else 1  # of one forecast
    base = seconds(lambda: run_upstream(shipped, series), args.repeats)
    report("upstream", batch, base, base)
    if several:
        value = seconds(lambda: run_upstream(shipped, series, windows), args.repeats)
        report("upstream, one window", batch, value, base)
    if not args.no_compile:
        compiled = compile_cells(reference.as_shipped())
        report("upstream compiled", batch, seconds(lambda: run_upstream(compiled, series), args.repeats), base)
    with open_session(bundle, batch=batch, custom_ops="none") as session:
        forecaster = Forecaster(session)
        whole = seconds(lambda: forecaster.forecast(list(series), HORIZON), args.repeats)
        report("full window", batch, whole, base)
    theirs = reference.forecast(list(series), HORIZON, 1)
    for name, folder in (("bundle", path), ("int8", path.with_name("int8"))):
        run_bundle(args, name, folder, series, windows, {"full window": whole / windows, "upstream's": base / windows})
        with open_session(open_bundle(folder), batch=batch, custom_ops=args.custom_ops) as session:
            difference = np.abs(Forecaster(session).forecast(list(series), HORIZON) - theirs).max() / series.std()
        print(f"          largest difference to upstream's float32 forecast: {difference:.1e} of the scale")


def run_bundle(
    args: argparse.Namespace, name: str, path: Path, series: np.ndarray, windows: int, window_seconds: dict[str, float]
) -> None:
    """Forecasts and streamed patches of one bundle; `window_seconds`: of windows that patches are held against."""
    batch, base = len(series), windows * window_seconds["upstream's"]
    with open_session(open_bundle(path), batch=batch, custom_ops=args.custom_ops) as session:
        forecaster = Forecaster(session)
        report(name, batch, seconds(lambda: forecaster.forecast(list(series), HORIZON), args.repeats), base)
        if windows > 1:
            value = seconds(lambda: forecaster.forecast(list(series), HORIZON, windows), args.repeats)
            report(f"{name}, one window", batch, value, base)
        stream = ForecastStream(session, list(series), drift=None)
        patch = seconds(lambda: (stream.push(series[:, -32:]), stream.forecast(32)), 4 * args.repeats)
        report(f"{name}, streamed patch", batch, patch, base)
    shares = ", ".join(f"{whose} / {value / patch:.1f}" for whose, value in window_seconds.items())
    weights = np.ones((path / "model.weights").stat().st_size // 4, np.float32)
    limit = seconds(lambda: weights @ weights, 4 * args.repeats)
    print(
        f"          a streamed patch costs a window: {shares}; and {patch / limit:.2f} times what reading its "
        f"{weights.nbytes / 1e6:.0f} MB of weights takes"
    )


def compile_cells(reference: Any) -> Any:
    """As upstream's `load_model(compile=True)`."""
    if hasattr(reference.module, "predict"):
        reference = copy.deepcopy(reference)
        for block in reference.module.stack:
            block.time_mixer.fwd_cell.compile()
        return reference
    from tirex.models.slstm.cell import sLSTMCellTorch

    forward = torch.compile(sLSTMCellTorch.slstm_forward)
    for block in reference.module.blocks:
        block.slstm_layer.slstm_cell._impl_forward_torch = forward
    return reference


if __name__ == "__main__":
    main()
