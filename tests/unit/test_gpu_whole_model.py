"""scripts/gpu/whole_model.py: which launches a model's decode makes, and that what they are given is right. The
launchers are stand-ins, which compute with the cells' definitions on the addresses that they are given."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from gpu import bench, reference, whole_model
from gpu.launchers import TYPES, LaunchError, Launchers, MlstmArgs, SlstmArgs
from support.paths import ROOT

from xlstm_export.checkpoints import read_config
from xlstm_export.modeling import blocks
from xlstm_export.modeling.architecture import MLSTMBlock, SLSTMBlock
from xlstm_export.operators.eager import mlstm_cell, slstm_cell


def at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What lies there, to be read and written."""
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


class StandIn(Launchers):
    """Launchers whose functions are Python's. `names`: of the launches, in their order."""

    def __init__(self):
        self.names: list[str] = []
        functions = (self.xlstm_launch_mlstm, self.xlstm_launch_slstm, self.xlstm_launch_sample)
        self.functions = SimpleNamespace(**{function.__name__: function for function in functions})
        self.functions.xlstm_sample_scratch_size = lambda batch, vocabulary: 8 * batch * vocabulary
        self._stream = lambda: 7

    def xlstm_launch_mlstm(self, a: MlstmArgs, stream: int) -> int:
        self.names.append("mlstm")
        B, S, H, K, V = a.batch, a.sequence, a.heads, a.dim_qk, a.dim_v
        T, M = getattr(torch, TYPES[a.type]), getattr(torch, TYPES[a.memory_type])
        shapes = {"q": (B, S, H, K), "k": (B, S, H, K), "v": (B, S, H, V), "i": (B, S, H), "f": (B, S, H)}
        states = {"C": ((B, H, K, V), M), "n": ((B, H, K), torch.float32), "m": ((B, H), torch.float32)}
        inputs = [at(getattr(a, name), shape, T) for name, shape in shapes.items()]
        inputs += [at(getattr(a, f"{name}_in"), *state) for name, state in states.items()]
        h, *next_states = mlstm_cell(*inputs, a.q_scale, a.k_scale, a.gate_soft_cap, a.eps)
        at(a.h, (B, S, H, V), T).copy_(h)
        for (name, state), value in zip(states.items(), next_states, strict=True):
            at(getattr(a, f"{name}_out"), *state).copy_(value)
        return 0 if stream == 7 else 1

    def xlstm_launch_slstm(self, a: SlstmArgs, workspace: object, stream: int) -> int:
        self.names.append("slstm")
        B, S, H, D = a.batch, a.sequence, a.heads, a.dim
        T, R = getattr(torch, TYPES[a.type]), getattr(torch, TYPES[a.recurrent_type])
        inputs = [at(a.x, (B, S, 4, H, D), T), at(a.R, (H, 4, D, D), R), at(a.b, (4, H, D), torch.float32)]
        inputs += [at(getattr(a, f"{name}_in"), (B, H, D), torch.float32) for name in "ycnm"]
        hidden, *next_states = slstm_cell(*inputs, a.forget_clamp)
        at(a.hidden, (B, S, H, D), T).copy_(hidden)
        for name, value in zip("ycnm", next_states, strict=True):
            at(getattr(a, f"{name}_out"), (B, H, D), torch.float32).copy_(value)
        return 0

    def xlstm_launch_sample(self, logits, uniforms, tokens, scratch, batch, vocabulary, *numbers) -> int:
        self.names.append("sample")
        assert numbers[:3] == (0.0, 0, 1.0)  # greedy
        at(tokens, (batch,), torch.int64).copy_(at(logits, (batch, vocabulary), torch.float32).argmax(-1))
        return 0


def small(config: str, block_types: tuple[type, ...]):
    """A model of that file with one block of each kind, and a small vocabulary."""
    _, architecture, _ = read_config(ROOT / "models" / "configs" / f"{config}.yaml")
    chosen = tuple(next(b for b in architecture.blocks if isinstance(b, kind)) for kind in block_types)
    architecture = dataclasses.replace(architecture, blocks=chosen, vocab_size=50)
    torch.manual_seed(0)
    return whole_model.make_model(architecture, "cpu")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("config", "kinds", "launches"),
    [
        ("xlstm-125m-7-1", (MLSTMBlock, SLSTMBlock), ["mlstm", "slstm", "sample"]),
        ("mlstm-165m", (object,), ["mlstm", "sample"]),
    ],
)
def test_launches_of_a_whole_model_give_what_its_definitions_give(config, kinds, launches, batch, monkeypatch):
    model, stand_in = small(config, kinds), StandIn()
    run = whole_model.Decode(model, batch, stand_in, "cpu")
    run()
    logits, states = run.logits, run.next_states
    assert stand_in.names == ["sample"] and torch.equal(run._draw.tokens, logits.argmax(-1))
    assert logits.shape == (batch, 50) and torch.isfinite(logits).all() and logits.std() > 0.1

    cells = whole_model.LaunchedCells(stand_in)
    monkeypatch.setattr(blocks, "mlstm_cell", cells.mlstm)
    monkeypatch.setattr(blocks, "slstm_cell", cells.slstm)
    stand_in.names.clear()
    run()
    assert stand_in.names == launches
    assert torch.equal(run.logits, logits)
    assert all(map(torch.equal, run.next_states, states)) and len(states) == len(model.states)


def test_traffic_of_7b_is_its_weights_but_for_the_embedding_and_its_states_twice():
    _, architecture, _ = read_config(ROOT / "models" / "configs" / "xlstm-7b.yaml")
    with torch.device("meta"):
        model = whole_model.Model(architecture, whole_model.Dtypes(weights=torch.bfloat16))
        model.initial_states = lambda batch: [torch.empty(batch, *state.shape) for state in model.states]
    run = whole_model.Decode(model, 2, StandIn(), "meta")
    states = sum(4 * 2 * math.prod(state.shape) for state in model.states)
    assert run.traffic == sum(p.nbytes for p in model.parameters()) - 50304 * 4096 * 2 + 2 * states
    assert 13e9 < run.traffic < 15e9


# The errors shown beside the times.


@pytest.mark.parametrize("one_position", [True, False])
def test_error_of_a_right_result_is_its_rounding_and_of_a_wrong_one_is_large(one_position):
    torch.manual_seed(0)
    stand_in, shape, tokens = StandIn(), (2, 8, 16), (2,) if one_position else (2, 5)
    tensors = bench.mlstm_tensors(shape, tokens, "cpu")
    stand_in.launch("xlstm_launch_mlstm", whole_model.mlstm_args(shape, tokens, tensors))()
    errors = reference.mlstm_errors(tensors, one_position)
    assert 1e-5 < errors["error_h"] < 2**-8 and 1e-9 < errors["error_states"] < 1e-6
    assert reference.mlstm_errors(tensors, one_position, gate_soft_cap=1.0)["error_states"] > 0.01

    tensors = bench.slstm_tensors((2, 8), tokens, "bfloat16", "cpu")
    stand_in.launch("xlstm_launch_slstm", whole_model.slstm_args((2, 8), tokens, tensors), None)()
    errors = reference.slstm_errors(tensors, one_position)
    assert 1e-5 < errors["error_h"] < 2**-8 and 1e-9 < errors["error_states"] < 1e-6
    tensors["c_out"] += 0.1
    assert reference.slstm_errors(tensors, one_position)["error_states"] > 0.01


def test_launch_that_fails_and_a_tensor_that_is_not_contiguous_are_refused():
    stand_in, shape = StandIn(), (2, 8, 16)
    tensors = bench.mlstm_tensors(shape, (2,), "cpu")
    stand_in._stream = lambda: 8
    with pytest.raises(LaunchError, match="xlstm_launch_mlstm returned cudaError_t 1"):
        stand_in.launch("xlstm_launch_mlstm", whole_model.mlstm_args(shape, (2,), tensors))()
    with pytest.raises(ValueError, match="q is not contiguous"):
        whole_model.mlstm_args(shape, (2,), tensors | {"q": tensors["q"].transpose(0, 1)})
