"""Forecasts of bundles against `tirex-ts`' own, on the same series, in every quantile.

Upstream runs with its cell's rounding to bfloat16 taken out (`references/tirex.py`), unless a test says that
it is as shipped. Errors are in units of the scale of the series' window. TOLERANCE: both sides compute in float32,
2^-24 an operation, and random models magnify that some tens of times. Upstream also adds up a window's mean in float32
(a bundle's runtime in float64), which is off by some roundoffs of the mean itself: ROUNDOFFS of them are allowed, which
matter where a series is hardly wider than its own rounding.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.series import random_series
from support.upstream_models import VARIANTS

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.forecast import STANDARD
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.errors import UserError
from xlstm_export.forecasting import Forecaster, ForecastStream
from xlstm_export.forecasting.windows import Scaling, windows_of
from xlstm_export.references.tirex import Reference
from xlstm_export.runtime import open_session

TOLERANCE = 1e-4
ROUNDOFFS = 32 * 2.0**-24
LONGEST = 300  # of windows of 128 points


def upstream_of(name: str) -> Reference:
    reference = Reference(VARIANTS[name].config)
    reference.module.load_state_dict(VARIANTS[name].build(seed=0).state_dict())
    return reference


def upstream_forecast(reference: Reference, series: list[np.ndarray], horizon: int, rollout: int = 1) -> np.ndarray:
    return reference.forecast(series, horizon, rollout)


def error(actual: np.ndarray, expected: np.ndarray, series: list[np.ndarray], spec) -> float:
    scaling = Scaling.of(windows_of([row.astype(np.float32) for row in series], spec), spec.scaler)
    loc, scale = scaling.loc[..., None], scaling.scale[..., None]
    return float(((np.abs(actual - expected) - ROUNDOFFS * np.abs(loc)) / scale).max())


@pytest.mark.parametrize("rollout", [1, 3])
@pytest.mark.parametrize("horizon", [1, 8, 20])
def test_forecasts_of_sixty_series_are_upstreams(horizon, rollout, export_variant):
    check_against_upstream("d-ckpt", export_variant, random_series(60, 300, seed=horizon), horizon, rollout)


@pytest.mark.parametrize("rollout", [1, 5, 32])
def test_forecasts_of_256_points_are_upstreams(rollout, export_variant):
    check_against_upstream("d-odd-heads", export_variant, random_series(50, 1000, seed=rollout), 256, rollout)


def check_against_upstream(name, export_variant, series, horizon, rollout):
    _, _, bundle = export_variant(name)
    context = VARIANTS[name].config["train_ctx_len"]
    assert {len(row) > context for row in series} == {True, False}
    expected = upstream_forecast(upstream_of(name), series, horizon, rollout)
    with open_session(Bundle.open(bundle), batch=32) as session:
        forecaster = Forecaster(session)
        actual = forecaster.forecast(series, horizon, rollout)
        assert actual.shape == expected.shape == (len(series), horizon, 9) and actual.dtype == np.float32
        assert error(actual, expected, series, forecaster.spec) <= TOLERANCE


def test_forecast_beyond_its_window_is_upstreams_of_no_values_at_all(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    series = random_series(6, 300, seed=2)
    expected = upstream_forecast(upstream_of("d-ckpt"), series, 160, 1)[:, 136:]
    with open_session(Bundle.open(bundle), batch=6) as session:
        np.testing.assert_allclose(Forecaster(session).forecast(series, 160)[:, 136:], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["d-folder", "d-wide-heads", "d-one-head"])
@pytest.mark.parametrize("mode", ["step", "both"])
def test_forecasts_of_other_models_are_upstreams_in_any_mode(name, mode, export_variant):
    _, _, bundle = export_variant(name, mode=mode)
    series = random_series(12, LONGEST, seed=5)
    expected = upstream_forecast(upstream_of(name), series, 40, 2)
    with open_session(Bundle.open(bundle), batch=5) as session:
        forecaster = Forecaster(session)
        actual = forecaster.forecast(series, 40, 2)
        assert error(actual, expected, series, forecaster.spec) <= TOLERANCE


def test_window_of_one_value_has_the_scale_that_exact_sums_give():
    """Upstream's sums in float32 give the mean of many 0.1 as another number: its scale is then a rounding error."""
    from tirex.models.patcher import StandardScaler

    window = np.full((1, 100), 0.1, np.float32)
    scaling, upstream = Scaling.of(window, STANDARD), StandardScaler().get_loc_scale(torch.from_numpy(window))
    assert scaling.loc == window[0, 0] and scaling.scale == np.float32(window[0, 0] + np.float32(1e-5))
    assert 0 < upstream.scale < 1e-7
    for value in (0.5, -3.0, 0.0):
        window[:] = value
        scaling, upstream = Scaling.of(window, STANDARD), StandardScaler().get_loc_scale(torch.from_numpy(window))
        assert (scaling.loc, scaling.scale) == (upstream.loc.numpy(), upstream.scale.numpy())


def test_the_two_rollouts_are_different_forecasts(export_variant):
    """Else no test could tell that the right one was taken."""
    _, _, bundle = export_variant("d-ckpt")
    series = [row for row in random_series(24, LONGEST, seed=7) if len(row) > 128 and not np.isnan(row).all()]
    with open_session(Bundle.open(bundle), batch=len(series)) as session:
        forecaster = Forecaster(session)
        first, second = (forecaster.forecast(series, 64, rollout) for rollout in (1, 8))
        np.testing.assert_array_equal(first[:, :8], second[:, :8])
        assert error(first, second, series, forecaster.spec) > 100 * TOLERANCE


def test_upstream_as_shipped_differs_by_the_rounding_of_its_cell(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    series = random_series(48, LONGEST, seed=8)
    rounded = upstream_forecast(upstream_of("d-ckpt").as_shipped(), series, 32, 4)
    with open_session(Bundle.open(bundle), batch=16) as session:
        forecaster = Forecaster(session)
        actual = forecaster.forecast(series, 32, 4)
        difference = error(actual, rounded, series, forecaster.spec)
    # bfloat16 has roundoffs of 2^-8, on states and inputs of the cell: some of them show, and none is magnified far.
    assert 2.0**-10 < difference < 64 * 2.0**-8


def test_a_series_is_forecast_alike_whatever_stands_beside_it(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    series = random_series(7, LONGEST, seed=9)
    with open_session(Bundle.open(bundle), batch=4) as many, open_session(Bundle.open(bundle)) as one:
        together, alone = Forecaster(many), Forecaster(one)
        expected = np.concatenate([alone.forecast([row], 20) for row in series])
        assert error(together.forecast(series, 20), expected, series, alone.spec) <= TOLERANCE
        assert error(together.forecast(series, 20), expected, series, alone.spec) <= TOLERANCE


def test_forecasts_at_half_precision_stay_within_sixteen_roundoffs_of_the_scale(export_variant):
    series = random_series(24, LONGEST, seed=10)
    expected = upstream_forecast(upstream_of("d-wide-heads"), series, 16, 2)
    for dtype, roundoff in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        _, _, bundle = export_variant("d-wide-heads", dtype)
        with open_session(Bundle.open(bundle), batch=8) as session:
            forecaster = Forecaster(session)
            windows = windows_of([row.astype(np.float32) for row in series], forecaster.spec)
            scale = Scaling.of(windows, STANDARD).scale[..., None]
            size = np.ptp(expected / scale, (1, 2)).mean()
            wrong = np.abs(forecaster.forecast(series, 16, 2) - expected) / scale
            assert np.median(wrong) <= 16 * roundoff * size


def test_series_that_cannot_be_read_are_refused_by_their_number(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    good = np.arange(5.0)
    with open_session(Bundle.open(bundle), batch=2) as session:
        forecaster = Forecaster(session)
        for wrong, message in (
            (np.zeros((2, 3)), r"series 1 is float64 of shape \(2, 3\)"),
            (np.array(["a"]), "series 1 is <U1"),
            (np.array([1.0, np.inf]), "series 1 has the value inf at 1"),
            (np.array([1.0, 1e39]), "series 1 has the value 1e[+]39 at 1"),
        ):
            with pytest.raises(UserError, match=message):
                forecaster.forecast([good, wrong], 8)
        for horizon, rollout in ((0, 1), (8, 0)):
            with pytest.raises(UserError, match="give 1 or more"):
                forecaster.forecast([good], horizon, rollout)
        with pytest.raises(UserError, match="0.33 is no quantile of this model, which gives 0.1, 0.2"):
            forecaster.spec.select([0.5, 0.33])
        assert forecaster.forecast([], 8).shape == (0, 8, 9)


def test_language_model_is_no_forecaster(demo_bundle):
    with open_session(Bundle.open(demo_bundle)) as session, pytest.raises(UserError, match="is no forecaster"):
        Forecaster(session)


def test_an_exported_forecaster_says_how_it_is_fed(tmp_path):
    from xlstm_export.exporter import export_bundle

    variant = VARIANTS["d-folder"]
    checkpoint = open_checkpoint(variant.save(variant.build(), tmp_path / "checkpoint"))
    spec = export_bundle(checkpoint, tmp_path / "bundle").manifest.forecast
    assert spec is not None
    assert (spec.patch, spec.context, spec.quantiles, spec.patches) == (4, 128, (0.25, 0.5, 0.75), 32)
    assert Bundle.open(tmp_path / "bundle").manifest.forecast == spec


# --- streams --------------------------------------------------------------------------------------------------------


def upstream_tokens(reference: Reference, scaled: np.ndarray, patch: int) -> np.ndarray:
    """Upstream's outputs at every position, from its own loop over all tokens at once: (B, positions, Q, P)."""
    tokens = torch.from_numpy(scaled).unfold(-1, patch, patch)
    with torch.inference_mode():
        return reference.module._forward_model_tokenized(tokens).transpose(1, 2).numpy()


def test_stream_gives_upstreams_output_at_each_patch_that_ends(export_variant):
    """Upstream is given all tokens since the start at once, scaled by the first window: what a stream has seen."""
    _, _, bundle = export_variant("d-ckpt")
    random, reference = np.random.default_rng(11), upstream_of("d-ckpt")
    start, more = (
        random.standard_normal((3, 100)).astype(np.float32),
        random.standard_normal((3, 83)).astype(np.float32),
    )
    start[1, :60] = more[2, 30:50] = np.nan
    with open_session(Bundle.open(bundle), batch=3) as session:
        stream = ForecastStream(session, list(start), drift=None)
        spec = stream.spec
        window = windows_of(list(start), spec)
        scaling = Scaling.of(window, STANDARD)
        outputs = upstream_tokens(reference, scaling.apply(np.concatenate([window, more[:, :80]], 1)), spec.patch)
        at = 0
        for size in (0, 1, 7, 3, 29, 40, 3):
            assert stream.push(more[:, at : at + size]) == (at + size) // spec.patch - at // spec.patch
            at += size
            last, pending = spec.patches - 1 + at // spec.patch, at % spec.patch
            expected = scaling.undo(outputs[:, last].swapaxes(1, 2))[:, pending:]
            actual = stream.forecast(spec.patch - pending)
            np.testing.assert_allclose(actual, expected, atol=TOLERANCE * scaling.scale.max(), rtol=0)


def test_stream_forecasts_beyond_a_patch_without_moving_on(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    series = [row[:90] for row in np.random.default_rng(12).standard_normal((2, 90))]
    with open_session(Bundle.open(bundle), batch=2) as session, open_session(Bundle.open(bundle), batch=2) as other:
        stream = ForecastStream(session, series)
        exact = Forecaster(other).forecast(series, 50, rollout=7)
        np.testing.assert_array_equal(stream.forecast(50), exact)
        np.testing.assert_array_equal(stream.forecast(5), exact[:, :5])
        before = session.read_states()
        stream.forecast(64)
        assert all(np.array_equal(value, before[name]) for name, value in session.read_states().items())
        stream.push(np.zeros((2, 3)))
        np.testing.assert_array_equal(stream.forecast(47), exact[:, 3:])


def test_stream_begins_anew_when_the_series_has_moved_and_then_is_exact(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    random = np.random.default_rng(13)
    series = random.standard_normal((1, 400))
    with open_session(Bundle.open(bundle)) as session, open_session(Bundle.open(bundle)) as other:
        stream, forecaster = ForecastStream(session, series[:, :128], drift=0.5), Forecaster(other)
        stream.push(series[:, 128:256])
        assert stream.refreshes == 0, "the same noise all along"
        moved = series[:, 256:] + 6.0
        stream.push(moved[:, :64])
        assert stream.refreshes > 0
        stream.push(moved[:, 64:132])
        stream.refresh()
        known = np.concatenate([series[:, :256], moved[:, :132]], 1)
        np.testing.assert_array_equal(stream.forecast(8), forecaster.forecast(list(known), 8))
        fixed = ForecastStream(session, series[:, :128], drift=None)
        fixed.push(moved)
        assert fixed.refreshes == 0


def test_stream_without_history_takes_the_scale_of_its_first_patch(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    points = 1000 + 50 * np.random.default_rng(14).standard_normal((1, 8))
    with open_session(Bundle.open(bundle)) as session, open_session(Bundle.open(bundle)) as other:
        stream = ForecastStream(session, [np.empty(0)])
        assert np.isfinite(stream.forecast(8)).all()
        assert stream.push(points) == 1 and stream.refreshes == 1
        np.testing.assert_array_equal(stream.forecast(8), Forecaster(other).forecast(list(points), 8))


def test_points_of_another_batch_are_refused_and_none_is_taken(export_variant):
    _, _, bundle = export_variant("d-ckpt")
    with open_session(Bundle.open(bundle), batch=2) as session:
        with pytest.raises(UserError, match="1 series for a session of batch 2"):
            ForecastStream(session, [np.zeros(3)])
        with pytest.raises(UserError, match="give a number above 0, or none"):
            ForecastStream(session, [np.zeros(3)] * 2, drift=0.0)
        stream = ForecastStream(session, [np.arange(30.0)] * 2)
        before = stream.forecast(8)
        for wrong in (np.zeros((3, 1)), np.zeros((2, 1, 1)), np.array([[1.0, 2.0], [3.0, np.inf]])):
            with pytest.raises(UserError):
                stream.push(wrong)
        np.testing.assert_array_equal(stream.forecast(8), before)
