"""Random inputs of the cells, from tame to extreme, by seed."""

from __future__ import annotations

import torch
from torch import Tensor


def _shape(generator: torch.Generator, *limits: int) -> list[int]:
    return [int(torch.randint(1, limit + 1, (1,), generator=generator)) for limit in limits]


def _gates(generator: torch.Generator, seed: int, *shape: int) -> Tensor:
    scale = (1.0, 8.0, 100.0, 1e4)[seed % 4]
    return (torch.rand(*shape, generator=generator) * 2 - 1) * scale


def mlstm_inputs(seed: int, sequence: int = 1) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors and attributes of the mLSTM cell over so many positions, in the operator's order."""
    g = torch.Generator().manual_seed(seed)
    batch, heads, dk, dv = _shape(g, 3, 4, 24, 24)
    normal = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    states = {"C": normal(batch, heads, dk, dv), "n": normal(batch, heads, dk), "m": _gates(g, seed, batch, heads)}
    if seed % 3 == 0:
        states = {name: torch.zeros_like(value) for name, value in states.items()}
    tensors = {
        "q": normal(batch, sequence, heads, dk),
        "k": normal(batch, sequence, heads, dk),
        "v": normal(batch, sequence, heads, dv),
        "i": _gates(g, seed, batch, sequence, heads),
        "f": _gates(g, seed + 1, batch, sequence, heads),
    } | states
    scale = dk**-0.5
    q_scale, k_scale = (scale, 1.0) if seed % 2 else (1.0, scale)
    return tensors, {"q_scale": q_scale, "k_scale": k_scale, "gate_soft_cap": 15.0 * (seed % 2), "eps": 1e-6}


def slstm_inputs(seed: int, sequence: int = 1) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The same of the sLSTM cell; some elements are fresh (n = 0) in mixed batches."""
    g = torch.Generator().manual_seed(seed)
    batch, heads, dim = _shape(g, 3, 4, 24)
    normal = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    n = 1 + normal(batch, heads, dim).abs()
    n[torch.rand(batch, generator=g) < 0.4] = 0
    tensors = {
        "x": _gates(g, seed, batch, sequence, 4, heads, dim),
        "R": normal(heads, 4, dim, dim) * dim**-0.5,
        "b": normal(4, heads, dim),
        "y": normal(batch, heads, dim).clamp(-1, 1),
        "c": normal(batch, heads, dim),
        "n": n,
        "m": _gates(g, seed, batch, heads, dim),
    }
    if seed % 3 == 0:
        tensors |= {name: torch.zeros_like(tensors[name]) for name in "ycnm"}
    return tensors, {"forget_clamp": 15.0 * (seed % 2)}
