"""`xlstm-export forecast`, and the call behind it: files in and out, and what they must not be."""

from __future__ import annotations

import csv
import functools
import json

import numpy as np
import pytest
from support.command_line import call

import xlstm_export
from xlstm_export.errors import UserError
from xlstm_export.forecasting.series_file import read_columns


@pytest.fixture(scope="module")
def bundle(export_variant):
    return export_variant("d-ckpt")[2]


@pytest.fixture
def run(capsys, monkeypatch):
    return functools.partial(call, capsys, monkeypatch)


@pytest.fixture
def sales(tmp_path):
    t = np.arange(90)
    north, south = 100 + 10 * np.sin(t / 6), 5.0 + 0.1 * t
    lines = [
        f"{day},{a:.4f},{'' if day % 9 == 4 else f'{b:.4f}'}"
        for day, (a, b) in enumerate(zip(north, south, strict=True))
    ]
    (tmp_path / "sales.csv").write_text("day,north,south\n" + "\n".join(lines) + "\n")
    return tmp_path / "sales.csv"


def test_command_prints_writes_and_draws_what_the_call_gives(run, bundle, sales, tmp_path):
    series = dict(zip(("north", "south"), read_columns(sales, ["north", "south"]), strict=True))
    assert np.isnan(series["south"]).sum() == 10
    expected = xlstm_export.forecast(xlstm_export.open_bundle(bundle), series, 12, quantiles=[0.1, 0.5, 0.9])
    options = ["--column", "north,south", "--horizon", "12", "--quantiles", "0.1,0.5,0.9", "--json"]
    table, picture = tmp_path / "out.csv", tmp_path / "out.png"
    code, output, errors = run("forecast", bundle, "--csv", sales, *options, "--csv-out", table, "--plot", picture)
    assert code == 0, errors
    printed = json.loads(output)
    assert printed["quantiles"] == [0.1, 0.5, 0.9] and list(printed["series"]) == ["north", "south"]
    np.testing.assert_array_equal(np.float32(list(printed["series"].values())), expected.values)
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 24 and list(rows[0]) == ["series", "step", "q0.1", "q0.5", "q0.9"]
    np.testing.assert_array_equal(np.float32([row["q0.5"] for row in rows]).reshape(2, 12), expected.median)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_table_has_a_line_for_each_step_and_a_column_for_each_quantile(run, bundle, sales):
    code, output, errors = run("forecast", bundle, "--csv", sales, "--column", "south", "--horizon", "3")
    assert code == 0, errors
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["south"] and lines[1] == ["step", *(f"q0.{level}" for level in range(1, 10))]
    assert [line[0] for line in lines[2:]] == ["1", "2", "3"]


def test_context_leaves_older_points_out_of_sight(bundle):
    opened, series = xlstm_export.open_bundle(bundle), np.random.default_rng(0).standard_normal(100)
    short = xlstm_export.forecast(opened, series, 8, context=30).values
    np.testing.assert_array_equal(short, xlstm_export.forecast(opened, series[-30:], 8).values)
    assert not np.array_equal(short, xlstm_export.forecast(opened, series, 8).values)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", "a", "is empty"),
        ("a,b\n1,2\n", "c", "has no column 'c'. Its first line names a, b"),
        ("a,a\n1,2\n", "a", "has several columns 'a'"),
        ("a,b\n1,2\n3,four\n", "b", "line 3: b is 'four', which is no number"),
        ("a\n1\ninf\n", "a", "has the value inf at 1"),
    ],
)
def test_file_that_is_no_series_is_refused_with_what_is_wrong(run, text, column, message, bundle, tmp_path):
    (tmp_path / "in.csv").write_text(text)
    code, output, errors = run("forecast", bundle, "--csv", tmp_path / "in.csv", "--column", column, "--horizon", "2")
    assert code == 2
    assert message in " ".join(errors.split())


def test_options_out_of_range_are_refused_and_nothing_is_written(run, bundle, sales, tmp_path):
    here = set(tmp_path.iterdir())
    common = ["forecast", bundle, "--csv", sales, "--column", "north", "--csv-out", tmp_path / "out.csv"]
    for options, message in (
        (["--horizon", "2", "--quantiles", "0.1,0.95"], "0.95 is no quantile of this model"),
        (["--horizon", "2", "--quantiles", "median"], "give numbers such as 0.1,0.5,0.9"),
        (["--horizon", "0"], "horizon"),
        (["--horizon", "2", "--context", "0"], "context"),
    ):
        code, output, errors = run(*common, *options)
        assert code == 2 and message in " ".join(errors.split())
    assert set(tmp_path.iterdir()) == here
    code, output, errors = run(*common[:-1], tmp_path / "nowhere" / "out.csv", "--horizon", "2")
    assert code == 2 and "cannot be written" in " ".join(errors.split())
    with pytest.raises(UserError, match="The context is 0"):
        xlstm_export.forecast(xlstm_export.open_bundle(bundle), np.zeros(3), 2, context=0)


def test_columns_are_read_with_any_delimiter_and_sign_of_absence(tmp_path):
    (tmp_path / "in.csv").write_bytes("\ufeffzeit;wert; rest\n1;1,5;a\n2;NA;b\n\n3;-2e3\n4;;\n".encode())
    (values,) = read_columns(tmp_path / "in.csv", ["wert"])
    np.testing.assert_array_equal(values, [1.5, np.nan, -2000, np.nan])
    with pytest.raises(UserError, match="line 2: rest is 'a'"):
        read_columns(tmp_path / "in.csv", ["rest"])


def test_bench_times_forecasts_of_a_forecaster_and_what_a_patch_costs(run, bundle):
    code, output, errors = run("bench", bundle, "--steps", "2", "--prompt", "3", "--batch", "2", "--json")
    assert code == 0, errors
    forecasts = json.loads(output)["batches"][0]["forecasts"]
    assert forecasts["batch"] == 2 and forecasts["context"] == 128 and forecasts["horizon"] == 64
    assert forecasts["forecasts_per_second"] == pytest.approx(2 / forecasts["window_seconds"])
    # Eight windows, one window with seven steps behind it, and one step.
    assert forecasts["window_seconds"] > forecasts["rollout_seconds"] > forecasts["patch_seconds"] > 0
    code, output, _ = run("bench", bundle, "--steps", "2", "--prompt", "0")
    assert code == 0 and "forecasts of 64 points from 128" in " ".join(output.split()) and "streamed patch" in output
