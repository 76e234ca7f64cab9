"""Tensors that are read on demand: the right bytes, no more of them in memory than asked for, and all finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from xlstm_export.checkpoints.files import safetensors as safetensors_files
from xlstm_export.checkpoints.files import tensors
from xlstm_export.checkpoints.files.finite import is_finite
from xlstm_export.checkpoints.files.tensors import FileExtent, LazyTensor
from xlstm_export.errors import UserError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    path = tmp_path_factory.mktemp("tensors") / "model.safetensors"
    values = torch.arange(7 * 5 * 3, dtype=torch.float32).reshape(7, 5, 3)
    save_file({"before": torch.ones(3), "x": values}, str(path))
    return path, values


def both_kinds(stored: tuple[Path, torch.Tensor]) -> list[LazyTensor]:
    """In the order of its bytes, and with its axes in another order in the file."""
    path, values = stored
    other = path.with_name("transposed")
    other.write_bytes(b"before" + values.permute(2, 0, 1).contiguous().numpy().tobytes())
    extent = FileExtent(other, 6, values.nbytes)
    return [
        safetensors_files.read_file(path).tensors["x"],
        LazyTensor.strided("x", extent, (7, 5, 3), (5, 1, 35), torch.float32),
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_of_rows_under_other_shapes_are_the_rows_of_the_tensor(data, stored):
    for lazy in both_kinds(stored):
        expected = stored[1]
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                start = data.draw(st.integers(0, expected.shape[0]))
                stop = data.draw(st.integers(start, expected.shape[0]))
                lazy, expected = lazy.rows(start, stop), expected[start:stop]
            else:
                shape = data.draw(st.sampled_from([expected.shape, (expected.numel(),), (1, *expected.shape)]))
                lazy, expected = lazy.reshape(*shape), expected.reshape(shape)
        assert lazy.shape == tuple(expected.shape)
        assert torch.equal(lazy.read(), expected)
        limit = data.draw(st.integers(1, 500))
        chunks = list(lazy.chunks(limit))
        assert all(chunk.nbytes <= max(limit, 4) for chunk in chunks)
        assert torch.equal(torch.cat([*chunks, torch.empty(0)]), expected.reshape(-1))
        if lazy.extent is not None:
            with lazy.extent.path.open("rb") as file:
                file.seek(lazy.extent.offset)
                data_bytes = file.read(lazy.extent.length)
            assert data_bytes == expected.contiguous().numpy().tobytes()


def test_mapped_tensor_has_no_extent_and_its_values_are_mapped(stored):
    for lazy in both_kinds(stored):
        doubled = lazy.map(lambda x: x.double().transpose(0, 1))
        assert doubled.extent is None and doubled.dtype == torch.float64 and doubled.shape == (5, 7, 3)
        assert torch.equal(doubled.read(), stored[1].double().transpose(0, 1))
        assert torch.equal(torch.cat(list(doubled.rows(1, 3).chunks(40))), doubled.read()[1:3].reshape(-1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_stacked_tensors_are_one_under_the_other_whatever_part_is_read(data, stored):
    both = both_kinds(stored)
    kinds = data.draw(st.sampled_from([both, both[:1]]))  # the first can be read in parts
    starts = [(data.draw(st.sampled_from(kinds)), data.draw(st.integers(0, 6))) for _ in range(3)]
    whole = LazyTensor.stacked([lazy.rows(start, 7) for lazy, start in starts])
    expected = torch.cat([stored[1][start:] for _, start in starts])
    assert len(kinds) == 2 or whole.read_range is not None
    assert (whole.shape, whole.dtype, whole.extent) == (tuple(expected.shape), torch.float32, None)
    assert torch.equal(whole.read(), expected)
    assert torch.equal(torch.cat([*whole.chunks(data.draw(st.integers(4, 500)))]), expected.reshape(-1))


def test_tensors_of_other_widths_or_dtypes_are_not_stacked():
    for other in (torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.float16)):
        with pytest.raises(ValueError, match="cannot stack"):
            LazyTensor.stacked([LazyTensor.of(torch.zeros(2, 3)), LazyTensor.of(other)])


def test_no_more_than_a_chunk_is_read_at_once(tmp_path, monkeypatch):
    save_file({"x": torch.zeros(5000, 64)}, str(tmp_path / "model.safetensors"))
    lazy = safetensors_files.read_file(tmp_path / "model.safetensors").tensors["x"]
    asked, real = [], tensors._read_bytes
    monkeypatch.setattr(
        tensors, "_read_bytes", lambda e, start, stop: asked.append(stop - start) or real(e, start, stop)
    )
    for _ in lazy.rows(100, 4100).chunks(1 << 16):
        pass
    assert sum(asked) == 4000 * 64 * 4, "rows that were not asked for were read"
    assert max(asked) <= 1 << 16


def test_file_that_shrank_since_it_was_opened_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1000)}, str(path))
    lazy = safetensors_files.read_file(path).tensors["x"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="model.safetensors ends before its last tensor does"):
        lazy.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_pattern_is_finite_or_not_as_it_is(dtype: torch.dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    expected = torch.isfinite(values)
    assert 0 < expected.sum() < 2**16
    assert is_finite(values[expected])
    for value in values[~expected].split(1):
        assert not is_finite(value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_values_are_finite_and_nan_and_infinity_are_not(dtype: torch.dtype):
    info = torch.finfo(dtype)
    assert is_finite(torch.tensor([0.0, -0.0, info.max, info.min, info.tiny, -info.smallest_normal], dtype=dtype))
    assert is_finite(torch.empty(0, dtype=dtype))
    for wrong in (torch.nan, torch.inf, -torch.inf):
        values = torch.ones(300_000, dtype=dtype)
        values[-1] = wrong  # beyond the first piece
        assert not is_finite(values)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", [(0, 0), (39_999, 24), (17_003, 11)])
def test_nan_is_named_with_its_place_in_the_stored_tensor(dtype: torch.dtype, index: tuple[int, int], tmp_path):
    values = torch.ones(40_000, 25, dtype=dtype)
    values[index] = torch.nan
    path = tmp_path / "model.safetensors"
    save_file({"layer.weight": values}, str(path))
    place = rf"tensor layer\.weight holds NaN or infinity \(1 times, first at \[{index[0]}, {index[1]}\]\)"
    stored = safetensors_files.read_file(path).tensors["layer.weight"]
    for lazy in (
        stored,
        stored.map(lambda w: 1.0 + w),
        stored.rows(index[0], index[0] + 1),
        stored.reshape(25, 40_000),
    ):
        with pytest.raises(UserError, match=place):
            lazy.check()
    stored.rows(1 if index[0] == 0 else 0, 1000 if index[0] == 0 else index[0]).check()
