"""Cases for the kernels of both cells: what hypothesis draws, on a CPU and on a GPU alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from support.cell_runner import TYPES, Case

# Sizes around the widths the kernels are built of (vectors of 4 and 8, warps of 32, tiles of 16, 32 and 128).
SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 31, 32, 33, 40, 64, 65, 96, 130, 132]
TILES = [(0, 0), (4, 2), (4, 4), (4, 8), (4, 32), (1, 32)]
CHUNKS = {  # by the type of the activations
    "float32": [(64, 64), (64, 32), (32, 32), (32, 16)],
    "float16": [(64, 32), (64, 16)],
    "bfloat16": [(64, 32), (64, 16)],
}
# Around the lengths of a chunk; long ones get small sizes, since the float64 recurrence takes them step by step.
SEQUENCES = [1, 1, 1, 2, 5, 17, 64, 65, 130]
LONG = 5
GATES = ["usual", "wide", "extreme"]


def _gates(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if kind == "extreme":
        return rng.choice([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4], shape)
    return rng.normal(size=shape) * (2 if kind == "usual" else 30)


def _stabiliser(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    return rng.choice([-1e4, -50.0, 0.0, 50.0, 1e4], shape) if kind == "extreme" else rng.normal(size=shape) * 3


Lengths = bool | Sequence[int]
"""Of a case's rows: none, drawn at random (True), or these."""


def _cut(inputs: dict[str, np.ndarray], activations: str, lengths: Lengths, rng: np.random.Generator) -> None:
    """Gives every row a length; what lies beyond it is NaN, which no kernel may use."""
    batch, sequence = inputs[activations[0]].shape[:2]
    inputs["lengths"] = rng.integers(0, sequence + 1, batch) if lengths is True else np.array(lengths)
    for row, length in enumerate(inputs["lengths"]):
        for name in activations:
            inputs[name][row, length:] = np.nan


def mlstm_case(
    *,
    batch=1,
    sequence=1,
    heads=1,
    dim_qk=32,
    dim_v=32,
    dtype="float32",
    gates="usual",
    zero_state=False,
    lengths: Lengths = False,
    cap=0.0,
    seed=0,
    **options,
) -> Case:
    """Random inputs of the given sizes; `options` go to `Case`."""
    rng = np.random.default_rng(seed)
    tokens, states = (batch, sequence, heads), (batch, heads)
    inputs = {
        "q": rng.normal(size=(*tokens, dim_qk)),
        "k": rng.normal(size=(*tokens, dim_qk)),
        "v": rng.normal(size=(*tokens, dim_v)),
        "i": _gates(rng, tokens, gates),
        "f": _gates(rng, tokens, gates),
        "C": rng.normal(size=(*states, dim_qk, dim_v)),
        "n": rng.normal(size=(*states, dim_qk)),
        "m": _stabiliser(rng, states, gates),
    }
    if zero_state:
        for name in "Cnm":
            inputs[name] = np.zeros_like(inputs[name])
    if lengths is not False:
        _cut(inputs, "qkvif", lengths, rng)
    scale = dim_qk**-0.5
    q_scale, k_scale = (1.0, scale) if seed % 2 else (scale, 1.0)
    attributes = {"q_scale": q_scale, "k_scale": k_scale, "gate_soft_cap": cap, "eps": 1e-6}
    return Case("mlstm", dtype, inputs, attributes, **options)


def slstm_case(
    *,
    batch=1,
    sequence=1,
    heads=1,
    dim=32,
    dtype="float32",
    gates="usual",
    zero_state=False,
    lengths: Lengths = False,
    clamp=0.0,
    seed=0,
    **options,
) -> Case:
    """Random inputs of the given sizes; `options` go to `Case`."""
    rng = np.random.default_rng(seed)
    states = (batch, heads, dim)
    n = rng.uniform(0.5, 4, states)
    n[rng.random(states) < 0.2] = 0  # elements that have seen no step, among others that have
    inputs = {
        "x": _gates(rng, (batch, sequence, 4, heads, dim), gates),
        "R": rng.normal(size=(heads, 4, dim, dim)) * dim**-0.5,
        "b": rng.normal(size=(4, heads, dim)),
        "y": rng.uniform(-1, 1, states),
        "c": rng.uniform(-1, 1, states) * n,
        "n": n,
        "m": _stabiliser(rng, states, gates),
    }
    if zero_state:
        for name in "ycnm":
            inputs[name] = np.zeros_like(inputs[name])
    if lengths is not False:
        _cut(inputs, "x", lengths, rng)
    return Case("slstm", dtype, inputs, {"forget_clamp": clamp}, **options)


def _kernel(sequence: int, tiles: list[tuple[int, int]], chunks: list[tuple[int, int]]) -> st.SearchStrategy[dict]:
    """What chooses the mLSTM kernel: the launcher, with plenty of shared memory or too little, a tile or a chunk."""
    step = st.sampled_from(tiles).map(lambda tile: {"tile": tile})
    if sequence == 1:
        return step
    left = st.sampled_from([0, 40 * 1024, 16 * 1024]).map(lambda limit: {"shared_limit": limit})
    return st.one_of(left, st.sampled_from(chunks).map(lambda chunk: {"chunk": chunk}), step)


@st.composite
def mlstm_parameters(draw, max_size: int = 132) -> dict:
    """Arguments of `mlstm_case`: what hypothesis shows of a failing case."""
    sequence = draw(st.sampled_from(SEQUENCES))
    many = st.integers(1, 3 if sequence <= LONG else 2)
    sizes = st.sampled_from([s for s in SIZES if s <= (max_size if sequence <= LONG else 40)])
    dim_v = draw(sizes)
    misalign = draw(st.booleans())
    vector_fits = dim_v % 4 == 0 and not misalign
    dtype = draw(st.sampled_from(TYPES))
    return dict(
        batch=draw(many),
        sequence=sequence,
        heads=draw(many),
        dim_qk=draw(sizes),
        dim_v=dim_v,
        dtype=dtype,
        memory=draw(st.sampled_from(TYPES)),
        gates=draw(st.sampled_from(GATES)),
        zero_state=draw(st.booleans()),
        lengths=draw(st.booleans()),
        cap=draw(st.sampled_from([0.0, 15.0])),
        seed=draw(st.integers(0, 2**32 - 1)),
        in_place=draw(st.integers(0, 7)),
        misalign=misalign,
        **draw(_kernel(sequence, TILES if vector_fits else [(0, 0), (1, 32)], CHUNKS[dtype])),
        schedule=draw(st.integers(0, 5)),
    )


@st.composite
def slstm_parameters(draw, max_size: int = 132) -> dict:
    """Arguments of `slstm_case`."""
    dtype = draw(st.sampled_from(TYPES))
    sequence = draw(st.sampled_from([1, 1, 2, 3, 17]))
    batches = [1, 1, 2, 3, 9, 33] if sequence <= LONG else [1, 2]
    sizes = [s for s in SIZES if s <= (max_size if sequence <= LONG else 24)]
    return dict(
        batch=draw(st.sampled_from(batches)),
        sequence=sequence,
        heads=draw(st.integers(1, 3)),
        dim=draw(st.sampled_from(sizes)),
        dtype=dtype,
        multiprocessors=draw(st.sampled_from([0, 9])),
        clusters=draw(st.booleans()),
        recurrent=draw(st.sampled_from(["float32", dtype])),
        gates=draw(st.sampled_from(GATES)),
        zero_state=draw(st.booleans()),
        lengths=draw(st.booleans()),
        clamp=draw(st.sampled_from([0.0, 15.0])),
        seed=draw(st.integers(0, 2**32 - 1)),
        in_place=draw(st.integers(0, 15)),
        misalign=draw(st.booleans()),
        schedule=draw(st.integers(0, 5)),
    )
