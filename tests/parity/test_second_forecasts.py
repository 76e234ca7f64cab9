"""Forecasts of TiRex-2 bundles against `tirex-2`'s own `predict`, on the same series, in every quantile.

Errors are in units of a series: its standard deviation, and how far its forecast reaches from its middle, as sinh
passes errors on in proportion to that. TOLERANCE and ROUNDOFFS are those of `test_forecasts.py`, for the reasons
given there.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from support.series import random_series
from support.upstream_models import VARIANTS

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.errors import UserError
from xlstm_export.exporter import export_bundle
from xlstm_export.forecasting import Forecaster, ForecastStream
from xlstm_export.forecasting.trends import Reading, has_trend
from xlstm_export.forecasting.windows import Scaling, windows_of
from xlstm_export.references.load import load_upstream
from xlstm_export.runtime import open_session

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="tirex-2 wants Python 3.11")

TOLERANCE = 1e-4
ROUNDOFFS = 32 * 2.0**-24


def make_series(count: int, longest: int, seed: int) -> list[np.ndarray]:
    """Every third has a trend, which `random_series` gives few; some are flags."""
    random, series = np.random.default_rng(seed), []
    for index, row in enumerate(random_series(count, longest, seed)):
        there = ~np.isnan(row)
        if index % 3 == 0 and there.any():
            rise = random.choice([-3, 3]) * (row[there].std() + 1e-3)
            row = 0.3 * row + rise * np.arange(len(row)) / len(row)
            row[random.random(len(row)) < random.choice([0, 0.2])] = np.nan
        if index % 10 == 7:
            row = np.where(there, random.random(len(row)) < 0.4, np.nan)
        series.append(row.astype(np.float32))
    return series


def error(actual: np.ndarray, expected: np.ndarray, series: list[np.ndarray]) -> float:
    there = [row[~np.isnan(row)] for row in series]
    size = np.array([np.abs(row).max(initial=1e-3) for row in there])
    spread = np.array([row.std() if len(row) else 1 for row in there])
    reach = np.abs(expected - np.median(expected, (1, 2), keepdims=True)).max((1, 2))
    wrong = np.abs(actual - expected).max((1, 2))
    constant = spread == 0
    spread[constant] = size[constant]  # whose mean is exact on either side
    allowed = np.where(constant, 0, ROUNDOFFS * size / spread)
    return float((wrong / (spread + reach) - allowed).max())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Upstream's model and a bundle of a variant."""
    made = {}

    def pair(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            checkpoint = open_checkpoint(VARIANTS[name].save(VARIANTS[name].build(), folder / "checkpoint"))
            made[name] = load_upstream(checkpoint), export_bundle(checkpoint, folder / "bundle")
        return made[name]

    return pair


@pytest.mark.parametrize("horizon", [1, 8, 60, 256])
def test_forecasts_of_sixty_series_are_upstreams(horizon, pair):
    reference, bundle = pair("e-folder")
    series = make_series(60, 300, seed=horizon)
    spec = bundle.manifest.forecast
    assert {len(row) > spec.context for row in series} == {True, False}
    differenced = Reading.of(series, spec).differenced
    assert 10 <= differenced.sum() <= 30
    assert sum(np.isnan(row).any() for row, is_it in zip(series, differenced, strict=True) if is_it) >= 3
    expected = reference.forecast(series, horizon, 1)
    with open_session(bundle, batch=32) as session:
        actual = Forecaster(session).forecast(series, horizon)
        assert actual.shape == expected.shape == (60, horizon, 9) and actual.dtype == np.float32
        assert error(actual, expected, series) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("e-") and name != "e-folder"])
def test_forecasts_of_other_models_are_upstreams(name, pair):
    reference, bundle = pair(name)
    series = make_series(24, 200, seed=3)
    with open_session(bundle, batch=5) as session:
        actual, expected = Forecaster(session).forecast(series, 40), reference.forecast(series, 40, 1)
        assert error(actual, expected, series) <= TOLERANCE


def test_a_trend_is_what_upstream_takes_for_one():
    """On series whose lines explain more or less of them, about the two thresholds."""
    from tirex2.model.component.postprocessor import PostProcessor

    from xlstm_export.checkpoints.families.tirex2 import _DIFFERENCING

    random, upstream, found = np.random.default_rng(0), PostProcessor(), []
    for _ in range(400):
        length = int(random.integers(1, 60))
        row = np.arange(length) * random.choice([-1, 1]) / length + random.uniform(0, 0.3) * random.standard_normal(
            length
        )
        row[random.random(length) < random.choice([0, 0.5, 0.9])] = np.nan
        row = (1e3 * row + 1e4).astype(np.float32)
        found.append(has_trend(row, _DIFFERENCING))
        assert [found[-1]] == upstream._detect_trends(torch.from_numpy(row)[None])
    assert 50 < sum(found) < 350


def test_forecasts_depend_on_the_trend_of_what_lies_before_the_window(pair):
    """Upstream asks the whole series."""
    reference, bundle = pair("e-folder")
    steps = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 200) + 0.01 * np.random.default_rng(4).standard_normal(1000)
    series = [steps.astype(np.float32), steps[-200:].astype(np.float32)]
    assert Reading.of(series, bundle.manifest.forecast).differenced.tolist() == [True, False]
    with open_session(bundle, batch=2) as session:
        actual, expected = Forecaster(session).forecast(series, 20), reference.forecast(series, 20, 1)
        assert error(actual, expected, series) <= TOLERANCE
        assert np.abs(actual[0] - actual[1]).max() > 0.1


def test_horizon_beyond_the_models_and_any_rollout_are_refused(pair):
    _, bundle = pair("e-folder")
    with open_session(bundle) as session:
        forecaster, stream = Forecaster(session), ForecastStream(session, [np.arange(30.0)])
        with pytest.raises(UserError, match="The horizon is 257; this model forecasts 256 points at most"):
            forecaster.forecast([np.arange(30.0)], 257)
        with pytest.raises(UserError, match="The horizon is 257"):
            stream.forecast(257)
        with pytest.raises(UserError, match="takes all patches of a forecast from one window: give no rollout"):
            forecaster.forecast([np.arange(30.0)], 8, 1)


@pytest.mark.parametrize("trend", [0.0, 0.2])
def test_stream_gives_upstreams_output_at_each_patch_that_ends(trend, pair):
    """Upstream's own blocks are given all patches since the start at once, as the first window has them read."""
    reference, bundle = pair("e-folder")
    random = np.random.default_rng(11)
    series = (random.standard_normal((2, 203)) + trend * np.arange(203)).astype(np.float32)
    series[1, 120:140] = np.nan
    start, more = series[:, :100], series[:, 100:]
    with open_session(bundle, batch=2) as session:
        stream = ForecastStream(session, list(start), drift=None)
        spec = stream.spec
        reading = Reading.of(list(start), spec)
        assert (reading.differenced == (trend > 0)).all()
        fed = np.stack(reading.fed(list(series[:, :196])))
        window = windows_of(list(fed[:, :100]), spec)
        scaling = Scaling.of(window, spec.scaler)
        scaled = scaling.apply(np.concatenate([window, fed[:, 100:]], 1)).reshape(2, -1, spec.patch)
        there = ~np.isnan(scaled)
        patches = torch.from_numpy(np.concatenate([np.where(there, scaled, 0), there], -1).astype(np.float32))
        with torch.inference_mode():
            outputs = reference.forward(patches).unflatten(-1, (9, spec.patch)).transpose(2, 3).numpy()
        at = 0
        for size in (0, 1, 7, 3, 29, 40, 3):
            stream.push(more[:, at : at + size])
            at += size
            ended, pending = at // spec.patch, at % spec.patch
            known = series[:, : 100 + ended * spec.patch]
            levels = Reading.of(list(known), spec).levels
            expected = reading.points(scaling.undo(outputs[:, spec.patches - 1 + ended]), levels)[:, pending:]
            actual = stream.forecast(spec.patch - pending)
            assert error(actual, expected, list(known)) <= TOLERANCE


def test_stream_begins_anew_when_a_trend_sets_in_and_then_is_exact(pair):
    _, bundle = pair("e-folder")
    random = np.random.default_rng(13)
    series = random.standard_normal((1, 400)).astype(np.float32)
    series[:, 200:] += np.arange(200)
    with open_session(bundle) as session, open_session(bundle) as other:
        stream = ForecastStream(session, series[:, :128], drift=1e6)
        stream.push(series[:, 128:200])
        assert stream.refreshes == 0
        stream.push(series[:, 200:360])
        assert stream.refreshes == 1, "for the trend alone: no scale moves so far"
        stream.push(series[:, 360:363])
        stream.refresh()
        known = series[:, :363]
        expected = Forecaster(other).forecast([known[0, -stream.spec.context - 1 :]], 40)
        np.testing.assert_array_equal(stream.forecast(40), expected)


def test_manifest_says_how_it_is_fed(pair):
    _, bundle = pair("e-plain-scaler")
    spec = Bundle.open(bundle.path).manifest.forecast
    assert spec == bundle.manifest.forecast and spec.horizon == 256
    assert (spec.scaler.floor, spec.scaler.arcsinh, spec.scaler.binary) == (1e-5, False, False)
    assert (spec.differencing.score, spec.differencing.r_squared) == (1.5, 0.87)
    assert (spec.differencing.band.band_scale, spec.differencing.band.band_exponent) == (1.68, 0.51)
    assert (spec.calibration.band_scale, spec.calibration.band_exponent) == (0.9, 0.52)
    assert pair("e-all-slstm")[1].manifest.forecast.differencing is None
