"""`/v1/forecasts` over HTTP on 127.0.0.1, without Ray."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from support.http_server import serving
from support.paths import ROOT
from xlstm_docs.pages import blocks_of

from xlstm_export import api
from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session
from xlstm_export.server.forecast_model import ForecastModel

SERIES = np.sin(np.arange(100, dtype=np.float32) / 5)


@pytest.fixture(scope="module")
def tirex(export_variant):
    return Bundle.open(export_variant("d-ckpt")[2])


@pytest.fixture(scope="module")
def client(tirex):
    with serving(ForecastModel("tirex", open_session(tirex, batch=2), queue=0), "/v1/forecasts") as client:
        yield client


def test_forecast_is_that_of_the_library(client, tirex):
    missing = SERIES.copy()
    missing[40:60] = np.nan
    series = {"a": SERIES, "b": missing, "c": SERIES[:10]}
    given = {name: [None if np.isnan(v) else float(v) for v in row] for name, row in series.items()}
    answer = client.ask(model="tirex", series=given, horizon=12, quantiles=[0.1, 0.5])
    expected = api.forecast(tirex, series, 12, quantiles=[0.1, 0.5])
    assert answer["quantiles"] == [0.1, 0.5] and [*answer["series"]] == ["a", "b", "c"]
    for name, values in zip(series, expected.values, strict=True):
        np.testing.assert_allclose(answer["series"][name], values, rtol=1e-4, atol=1e-5)
    alone = client.ask(model="tirex", series=[given["a"]], horizon=12)
    assert len(alone["quantiles"]) > 2
    middle = alone["quantiles"].index(0.5)
    np.testing.assert_allclose([row[middle] for row in alone["series"]["0"]], expected.values[0, :, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"series": []}, "series is not lists of numbers"),
        ({"series": [[]]}, "series are lists of numbers"),
        ({"series": [["a"]]}, "series are lists of numbers"),
        ({"horizon": 0}, "The horizon is 0"),
        ({"horizon": "12"}, "horizon is not a number from 1"),
        ({"quantiles": [0.123]}, "quantile"),
        ({"other": 1}, "Unrecognized request argument supplied: other"),
    ],
)
def test_wrong_request_is_answered_with_what_is_wrong(fields, message, client):
    asked = {"model": "tirex", "series": [[1, 2, 3]], "horizon": 2} | fields
    assert message in client.ask(400, **asked)["error"]["message"]


def test_page_asks_for_a_forecast_as_it_is_given(client):
    (block,) = (b for b in blocks_of(ROOT, "docs/how-to/serve.md") if "/v1/forecasts" in b.text)
    command = block.text.replace(":8000", f":{client.port}")
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, timeout=60, check=True)
    answer = json.loads(done.stdout)
    assert np.shape(answer["series"]["load"]) == (8, 3) and answer["quantiles"] == [0.1, 0.5, 0.9]


def test_path_of_completions_is_not_that_of_a_forecaster(client):
    response = client.request("POST", "/v1/completions", {"model": "tirex", "prompt": "x"})
    assert response.status == 404 and "POST /v1/forecasts" in json.loads(response.read())["error"]["message"]
    client.ask(404, model="other", series=[[1, 2]], horizon=1)
