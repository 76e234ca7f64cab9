"""How streamed forecasts differ from exact ones: quantile losses and differences on the series of models/series.

    python scripts/compare_streams.py BUNDLE [--horizon 16]

A stream begins with a window and is pushed the rest of a series. Wherever a patch ends, its forecast, an exact one of
the same points (all patches from one window), and what then came are compared. Losses are means over quantiles and
points, in units of the window's scale at that time; a difference is the mean over quantiles and points of its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from xlstm_export import open_bundle, open_session
from xlstm_export.forecasting import Forecaster, ForecastStream
from xlstm_export.forecasting.series_file import read_columns
from xlstm_export.forecasting.windows import Scaling
from xlstm_export.validation.forecasts import quantile_loss

SERIES = Path(__file__).parents[1] / "models" / "series"
COLUMNS = {"co2": "co2", "elnino": "temperature", "sunspots": "sunspots"}
DRIFTS = (0.1, 0.25, 0.5, None)


def compare(bundle: Path, series: np.ndarray, horizon: int, drift: float | None) -> tuple[float, float, float, str]:
    """Mean loss of exact and of streamed forecasts, their mean difference, and how often the stream began anew."""
    opened = open_bundle(bundle)
    with open_session(opened) as one, open_session(opened) as other:
        forecaster = Forecaster(one)
        spec = forecaster.spec
        rollout = -(-horizon // spec.patch) if spec.horizon is None else None
        start = min(spec.context, len(series) // 2)
        stream = ForecastStream(other, [series[:start]], drift)
        losses, patches = [], 0
        for now in range(start + spec.patch, len(series) - horizon + 1, spec.patch):
            patches += stream.push(series[None, now - spec.patch : now])
            exact = forecaster.forecast([series[:now]], horizon, rollout)
            streamed, truth = stream.forecast(horizon), series[None, now : now + horizon]
            if np.isnan(truth).all():
                continue
            window = series[None, max(0, now - spec.context) : now].astype(np.float32)
            scale = Scaling.of(window, spec.scaler).scale.item()
            values = (quantile_loss(exact, spec.quantiles, truth), quantile_loss(streamed, spec.quantiles, truth))
            losses.append([np.nanmean(each) / scale for each in (*values, np.abs(streamed - exact))])
        mean = np.nanmean(losses, 0)
    return float(mean[0]), float(mean[1]), float(mean[2]), f"{stream.refreshes} of {patches}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--horizon", type=int, default=16)
    args = parser.parse_args()
    print("| series | drift | loss, exact | loss, streamed | difference | began anew |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, column in COLUMNS.items():
        (series,) = read_columns(SERIES / f"{name}.csv", [column])
        for drift in DRIFTS:
            exact, streamed, difference, anew = compare(args.bundle, series, args.horizon, drift)
            print(
                f"| {name} | {drift or 'none'} | {exact:.3f} | {streamed:.3f} | {difference:.3f} | {anew} |", flush=True
            )


if __name__ == "__main__":
    main()
