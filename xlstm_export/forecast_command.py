"""`xlstm-export forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bundle.engine_record import ACTIVATIONS
from .options import ActivationsOption, BundleArgument, CustomOpsOption, JsonOption, RuntimeOption
from .terminal import print_result, progress


def forecast(
    bundle: BundleArgument,
    file: Annotated[
        Path, typer.Option("--csv", metavar="FILE", help="The series: a CSV file whose first line names its columns.")
    ],
    column: Annotated[str, typer.Option(metavar="C,...", help="The columns to forecast, each by itself.")],
    horizon: Annotated[int, typer.Option(min=1, help="The number of points to forecast.")],
    quantiles: Annotated[
        str | None, typer.Option(metavar="Q,...", help="The quantiles to give, such as 0.1,0.5,0.9. By default all.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Look at only so many of the newest points of each column.")
    ] = None,
    rollout: Annotated[
        int | None,
        typer.Option(
            min=1, help="The patches to take from one window (of TiRex): more than 1 are faster, and another forecast."
        ),
    ] = None,
    json: JsonOption = False,
    csv_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the forecast as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw history, median and bands.")] = None,
    runtime: RuntimeOption = "onnxruntime",
    custom_ops: CustomOpsOption = None,
    activations: ActivationsOption = ACTIVATIONS,
) -> None:
    """Forecast columns of a CSV file: what comes after their last line, in quantiles."""
    from .api import forecast as run
    from .forecasting.forecast import render
    from .forecasting.plot import save_plot
    from .forecasting.series_file import parse_levels, read_columns
    from .whole_file import write_whole

    names = column.split(",")
    levels, series = parse_levels(quantiles) if quantiles else None, read_columns(file, names)
    with progress() as stage:
        result = run(
            bundle,
            dict(zip(names, series, strict=True)),
            horizon,
            quantiles=levels,
            context=context,
            rollout=rollout,
            runtime=runtime,
            custom_ops=custom_ops,
            activations=activations,
            stage=stage,
        )
    if csv_out is not None:
        write_whole(csv_out, lambda path: path.write_text(result.to_csv(), "utf-8"))
    if plot is not None:
        write_whole(plot, lambda path: save_plot(result, path))
    print_result(result.to_json() if json else None, lambda: render(result))
