"""`xlstm-forecast`, and with it the library's forecasts and streams, gives what Python gives on the same bundle.

TOLERANCE is relative to the scale of the series: both run the same graph in the same ONNX Runtime, and differ by the
order in which a window's sums are added up in double precision. BENT is for TiRex-2: the arcsinh and sinh of two
libraries are some roundoffs apart (2^-24), and the model passes that on.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from support.native import attempt, environment, run
from support.upstream_models import VARIANTS

from xlstm_export.bundle import Bundle
from xlstm_export.forecasting import Forecaster, ForecastStream
from xlstm_export.forecasting.trends import Reading
from xlstm_export.runtime import open_session

TOLERANCE = 1e-6
BENT = 1e-5
COLUMNS = ["north", "south"]

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")


TREND = 0.5
"""A point: enough for TiRex-2 to be fed differences."""


@pytest.fixture(scope="module")
def bundle(export_variant) -> Path:
    return export_variant("d-ckpt")[2]


@pytest.fixture(scope="module")
def second_bundle(export_variant) -> Path:
    """Of TiRex-2."""
    if "e-folder" not in VARIANTS:
        pytest.skip("tirex-2 wants Python 3.11")
    return export_variant("e-folder")[2]


def make_series(length: int, trend: float = 0.0) -> list[np.ndarray]:
    t, random = np.arange(length), np.random.default_rng(length)
    north = 100 + 10 * np.sin(t / 6) + random.standard_normal(length) + trend * t
    south = 0.001 * np.cumsum(random.standard_normal(length))
    south[random.random(length) < 0.2] = np.nan
    return [np.float32(north), np.float32(south)]


def text_of(series: list[np.ndarray]) -> str:
    rows = ["day;north;south"]
    for day, values in enumerate(zip(*series, strict=True)):
        rows.append(";".join([str(day), *("" if np.isnan(value) else f"{value!s}" for value in values)]))
    return "\n".join(rows) + "\n"


def forecast(release: Path, bundle: Path, series: list[np.ndarray], horizon: int, *options: object) -> list[dict]:
    command = [release / "xlstm-forecast", bundle, "--column", ",".join(COLUMNS), "--horizon", horizon, "--threads", 1]
    return list(csv.DictReader(io.StringIO(run(*command, *options, input=text_of(series)))))


def values_of(rows: list[dict], horizon: int) -> np.ndarray:
    """(series, horizon, quantiles)."""
    quantiles = [name for name in rows[0] if name.startswith("q")]
    return np.array([[float(row[name]) for name in quantiles] for row in rows]).reshape(-1, horizon, len(quantiles))


def assert_same(
    actual: np.ndarray, expected: np.ndarray, series: list[np.ndarray], tolerance: float = TOLERANCE
) -> None:
    scale = np.array([np.nanstd(row) for row in series])[:, None, None]
    assert np.abs((actual - expected) / scale).max() <= tolerance * max(1.0, np.abs(expected / scale).max())


@pytest.mark.parametrize("length", [3, 50, 128, 333])
@pytest.mark.parametrize("rollout", [1, 4])
def test_program_forecasts_a_file_as_python_does(release, bundle, length, rollout):
    series = make_series(length)
    rows = forecast(release, bundle, series, 30, "--rollout", rollout)
    assert [row["series"] for row in rows[::30]] == COLUMNS and [row["step"] for row in rows[:3]] == ["1", "2", "3"]
    with open_session(Bundle.open(bundle), batch=2) as session:
        assert_same(values_of(rows, 30), Forecaster(session).forecast(series, 30, rollout), series)


def test_program_looks_at_as_many_points_and_prints_the_quantiles_that_are_asked_for(release, bundle):
    series = make_series(200)
    rows = forecast(release, bundle, series, 8, "--context", 40, "--quantiles", "0.1,0.5")
    assert list(rows[0]) == ["series", "step", "q0.1", "q0.5"]
    with open_session(Bundle.open(bundle), batch=2) as session:
        expected = Forecaster(session).forecast([row[-40:] for row in series], 8)[:, :, [0, 4]]
    assert_same(values_of(rows, 8), expected, series)


@pytest.mark.parametrize("length", [3, 50, 333])
@pytest.mark.parametrize("trend", [0.0, TREND])
def test_program_forecasts_with_tirex_2_as_python_does(release, second_bundle, length, trend):
    series = make_series(length, trend)
    rows = forecast(release, second_bundle, series, 30)
    with open_session(Bundle.open(second_bundle), batch=2) as session:
        forecaster = Forecaster(session)
        rising = Reading.of(series, forecaster.spec).differenced
        assert rising.tolist() == [trend > 0 and length > 100, False]
        assert_same(values_of(rows, 30), forecaster.forecast(series, 30), series, BENT)


def test_program_feeds_tirex_2_flags_as_they_are(release, second_bundle):
    flags = (np.random.default_rng(0).random((2, 60)) < 0.4).astype(np.float32)
    rows = forecast(release, second_bundle, list(flags), 9)
    with open_session(Bundle.open(second_bundle), batch=2) as session:
        assert_same(values_of(rows, 9), Forecaster(session).forecast(list(flags), 9), list(flags))


def test_program_forecasts_along_a_stream_with_tirex_2_as_python_does(release, second_bundle):
    """North begins to rise on the way, and is fed as differences from then on."""
    series = make_series(400)
    series[0][150:] += np.arange(250, dtype=np.float32)
    rows = forecast(release, second_bundle, series, 20, "--stream", "--drift", 0.5)
    points = list(dict.fromkeys(int(row["points"]) for row in rows))
    with open_session(Bundle.open(second_bundle), batch=2) as session:
        stream, expected = ForecastStream(session, [np.empty(0)] * 2, drift=0.5), {}
        for at, values in enumerate(np.stack(series, 1), 1):
            if stream.push(values):
                expected[at] = stream.forecast(20)
        assert Reading.of([series[0][-129:]], stream.spec).differenced.all()
    assert points == list(expected)
    for at in points:
        here = values_of([row for row in rows if int(row["points"]) == at], 20)
        assert_same(here, expected[at], [row[:at] for row in series], BENT)


def test_program_says_what_tirex_2_cannot_do(release, second_bundle):
    for options, message in (
        (("--horizon", 257), "The horizon is 257; this model forecasts 256 points at most."),
        (("--horizon", 9, "--rollout", 2), "takes all patches of a forecast from one window: give no rollout"),
    ):
        done = attempt(release / "xlstm-forecast", second_bundle, "--column", "a", *options, input="a\n1\n")
        assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("drift", [0.5, 0])
def test_program_forecasts_along_a_stream_as_python_does(release, bundle, drift):
    series = make_series(100)
    series[0][60:] += 40.0  # to begin anew
    rows = forecast(release, bundle, series, 20, "--stream", "--drift", drift)
    points = list(dict.fromkeys(int(row["points"]) for row in rows))
    assert points == list(range(8, 97, 8))
    with open_session(Bundle.open(bundle), batch=2) as session:
        stream, expected = ForecastStream(session, [np.empty(0)] * 2, drift=drift or None), {}
        for at, values in enumerate(np.stack(series, 1), 1):
            if stream.push(values):
                expected[at] = stream.forecast(20)
        assert (stream.refreshes > 1) == (drift > 0)
    for at in points:
        here = values_of([row for row in rows if int(row["points"]) == at], 20)
        assert_same(here, expected[at], [row[:at] for row in series])


def test_program_prints_a_forecast_as_soon_as_its_points_are_there(release, bundle):
    import subprocess

    command = [release / "xlstm-forecast", bundle, "--column", "north", "--horizon", "2", "--stream", "--threads", "1"]
    with subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write("north\n" + "1.5\n" * 8)
        program.stdin.flush()
        assert program.stdout.readline().startswith("points,series,step,q0.1")
        assert program.stdout.readline().startswith("8,north,1,")
        program.stdin.close()
        assert program.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", ["--column", "a"], "Standard input is empty"),
        ("a,b\n1,2\n", ["--column", "c"], "Standard input has no column c"),
        ("a,a\n1,2\n", ["--column", "a"], "Standard input has several columns a"),
        ("a\n1\nfour\n", ["--column", "a"], "Line 3: a is four, which is no number"),
        ("a\n1\n", ["--column", "a", "--quantiles", "0.33"], "0.33 is no quantile"),
        ("a\n1\n1e39\n", ["--column", "a"], "Series 0 has an infinite value at 1"),
        ("a\n1\n", ["--column", "a", "--rollout", "0"], "The rollout is 0"),
        ("a\n1\n", ["--column", "a", "--horizon", "0"], "The horizon is 0"),
        ("a\n1\n", ["--column", "a", "--stream", "--drift", "-1"], "The drift is -1"),
        ("a\n1\n", [], "--column is missing"),
    ],
)
def test_program_refuses_what_is_no_series_in_one_line(release, bundle, text, options, message):
    options = options if "--horizon" in options else [*options, "--horizon", "3"]
    done = attempt(release / "xlstm-forecast", bundle, *options, "--threads", "1", input=text)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_program_says_of_a_language_model_that_it_is_no_forecaster(release, demo_bundle):
    done = attempt(release / "xlstm-forecast", demo_bundle, "--column", "a", "--horizon", "3", input="a\n1\n")
    assert done.returncode == 2 and "This model is no forecaster" in done.stderr
