"""What a float32 kernel of a cell must give: the float64 recurrence, and how far float32 may be from it.

The values are those of `xlstm_export.modeling.cells` in float64. The bounds are a running error analysis of the same
recurrence: every operation rounds by at most `UNIT` of its result, functions (exp, tanh, log1p) by a few, sums of N
products by N, and the errors of the inputs of a step are carried through its derivatives. So gates at 1e4 get the loose
bound that their float32 sums deserve, and everything else a tight one.

A kernel may also sum over up to `CHUNK` positions at once (the chunkwise form) rather than step by step. Then every
position's contribution carries a decay of its own, so its error is one of the sum's terms, not of the sum: the mLSTM's
bounds grow from the sums of the terms' absolute values, `C_size` and `n_size`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from xlstm_export.operators.eager import mlstm_cell, slstm_cell

UNIT = 2.0**-24  # half a unit in the last place of float32, relative
FUNCTION = 6 * UNIT  # exp, tanh, log1p: at most 2 units in the last place on a GPU, and what they are used in
CHUNK = 64  # positions that a kernel may sum over at once
TWO_PARTS = 2.0**-17  # what a sum of two bfloat16 can leave of a value, relative
SPLIT = 4 * TWO_PARTS  # of a product with one: beside a float16, which is two itself, 2^-16 is left out
TINY = 1e-30  # below it float32 may lose relative precision to underflow

# Rounding of the activation type: relative, and absolute where it is subnormal.
ROUNDING = {"float32": (UNIT, 1e-44), "float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 1e-40)}


@dataclass
class Expected:
    """One output: the float64 value and the largest error allowed."""

    name: str
    value: np.ndarray
    bound: np.ndarray

    def check(self, actual: np.ndarray) -> str | None:
        """None, or what is wrong with `actual`."""
        error = np.abs(actual.astype(np.float64) - self.value)
        wrong = ~(error <= self.bound)  # NaN is wrong
        if not wrong.any():
            return None
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        return (
            f"{self.name}{list(at)} = {actual[at]!r}, expected {self.value[at]!r} within {self.bound[at]:.3g}; "
            f"{int(wrong.sum())} of {wrong.size} elements wrong"
        )


def _double(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))


def _valid(inputs: dict[str, np.ndarray], activations: str) -> dict[str, np.ndarray]:
    """The inputs but `lengths` in float64, the activations zero beyond a row's length, whatever lies there."""
    valid = {name: array.astype(np.float64) for name, array in inputs.items() if name != "lengths"}
    for row, length in enumerate(inputs.get("lengths", ())):
        for name in activations:
            valid[name][row, length:] = 0
    return valid


def _soft_cap(x: np.ndarray, cap: float) -> np.ndarray:
    return cap * np.tanh(x / cap) if cap else x


def _rounded(name: str, value: np.ndarray, error: np.ndarray, dtype: str) -> Expected:
    relative, absolute = ROUNDING[dtype]
    return Expected(name, value, error * (1 + relative) + relative * np.abs(value) + absolute)


def _gate(exponent: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(exponent), and its largest error where the exponent is off by `error` and known to be <= 0."""
    value = np.exp(exponent)
    above = np.exp(np.minimum(exponent + error, 0)) - value
    return value, np.maximum(above, -value * np.expm1(-error))


def mlstm(
    inputs: dict[str, np.ndarray],
    attributes: dict[str, float],
    dtype: str,
    tensor_cores: bool = False,
    memory: str = "float32",
) -> list[Expected]:
    """Expected h, C, n, m. Inputs by their names in the operator, activations already rounded to `dtype`.

    `tensor_cores`: some operands of the kernel's products are two bfloat16 in place of a float: C and the scores where
    they meet q and v, and v times its weight where it meets k. (q, k and v of 16 bits are exact; n, its products and
    the scores' sums stay float32.) Each product is off by SPLIT of its size, and a tensor core cuts its sums where
    float32 would round them.

    `memory`: the type that C is stored as. A kernel may round it after every position, but not before its h.
    """
    x = _valid(inputs, "qkvif")
    lengths = inputs.get("lengths")
    batch, sequence, _, dim_qk = x["q"].shape
    cap = float(np.float32(attributes["gate_soft_cap"]))
    values = {name: float(np.float32(value)) for name, value in attributes.items()}
    C, n, m = x["C"], x["n"], x["m"]
    C_error, n_error, m_error = (np.zeros_like(s) for s in (C, n, m))
    C_size, n_size = np.abs(C), np.abs(n)
    rounded = SPLIT if tensor_cores else 0.0
    positions = min(sequence, CHUNK) * UNIT * (2 if tensor_cores else 1)
    products = (dim_qk + 4) * UNIT * (2 if tensor_cores else 1) + positions
    outputs, errors = [], []
    for t in range(sequence):
        active = np.ones(batch, bool) if lengths is None else lengths > t
        q, k, v, i, f = (x[name][:, t] for name in "qkvif")
        step = mlstm_cell(*(_double(a[:, None]) for a in (q, k, v, i, f)), _double(C), _double(n), _double(m), **values)
        h, C_next, n_next, m_next = (out.numpy() for out in step)
        h = h[:, 0]
        # Gates: 1-Lipschitz functions of their pre-activations; |.| sizes of the sums that float32 rounds.
        log_input, log_forget = _soft_cap(i, cap), -np.logaddexp(0, -_soft_cap(f, cap))
        input_error = FUNCTION * np.abs(log_input)
        forget_error = FUNCTION * (1 + np.abs(log_forget) + cap) + m_error + UNIT * np.abs(log_forget + m)
        m_next_error = np.maximum(input_error, forget_error)
        exponent = m_next_error + UNIT * (np.abs(log_input) + np.abs(m_next) + np.abs(log_forget + m)) + FUNCTION
        gain, gain_error = np.exp(log_input - m_next), np.expm1(input_error + exponent)
        decay, decay_error = np.exp(log_forget + m - m_next), np.expm1(forget_error + exponent)
        q, k = np.abs(q * values["q_scale"]), np.abs(k * values["k_scale"])

        def advance(
            size, error, update, update_error, gain=gain, decay=decay, gain_error=gain_error, decay_error=decay_error
        ):
            """Size and error of a state after this position."""
            shape = gain.shape + (1,) * (size.ndim - 2)
            kept = decay.reshape(shape) * size
            added = gain.reshape(shape) * update
            rounding = kept * (decay_error.reshape(shape) + 4 * UNIT) + added * (
                gain_error.reshape(shape) + update_error
            )
            return kept + added, rounding + decay.reshape(shape) * error + TINY

        update_error = 6 * UNIT + positions
        n_next_size, n_next_error = advance(n_size, n_error, k, update_error)
        outer = k[..., None] * np.abs(v)[..., None, :]
        C_next_size, C_next_error = advance(C_size, C_error, outer, update_error + rounded)
        numerator_error = np.einsum("bhkv,bhk->bhv", C_next_error + (products + rounded) * C_next_size, q) + TINY
        dot_error = ((n_next_error + products * n_next_size) * q).sum(-1)
        dot = np.abs((n_next * x["q"][:, t] * values["q_scale"]).sum(-1))
        with np.errstate(over="ignore"):
            floor = np.exp(-m_next)
        denominator = np.maximum(dot, floor) + values["eps"]
        # Relative: of exp(-m') that of its argument, of the dot product its own; half or more means ill-conditioned.
        relative = np.expm1(m_next_error + FUNCTION) + dot_error / denominator + 4 * UNIT
        relative = np.where(relative < 0.5, relative / (1 - np.minimum(relative, 0.5)), np.inf)
        h_error = numerator_error / denominator[..., None] * 2 + np.abs(h) * relative[..., None]
        h_error = np.where(np.isnan(h_error), np.inf, h_error) + TINY

        outputs.append(np.where(active[:, None, None], h, 0))
        errors.append(np.where(active[:, None, None], h_error, 0))
        if memory != "float32":
            C_next_error = _rounded("C", C_next, C_next_error, memory).bound
        keep = active[:, None]
        C, C_error, C_size = (
            np.where(keep[..., None, None], new, old)
            for new, old in ((C_next, C), (C_next_error, C_error), (C_next_size, C_size))
        )
        n, n_error, n_size = (
            np.where(keep[..., None], new, old)
            for new, old in ((n_next, n), (n_next_error, n_error), (n_next_size, n_size))
        )
        m, m_error = (np.where(keep, new, old) for new, old in ((m_next, m), (m_next_error, m_error)))
    whole = [torch.float64, *(_double(x[name]) for name in ("q", "k", "v", "i", "f", "C", "n", "m"))][1:]
    lengths_tensor = None if lengths is None else torch.from_numpy(lengths)
    h, *_ = mlstm_cell(*whole, **values, lengths=lengths_tensor)
    np.testing.assert_allclose(np.stack(outputs, 1), h.numpy(), rtol=1e-9, atol=1e-30)
    return [
        _rounded("h", np.stack(outputs, 1), np.stack(errors, 1), dtype),
        Expected("C", C, C_error),
        Expected("n", n, n_error),
        Expected("m", m, m_error),
    ]


def slstm(
    inputs: dict[str, np.ndarray],
    attributes: dict[str, float],
    dtype: str,
    tensor_cores: bool = False,
    recurrent: str = "float32",
) -> list[Expected]:
    """Expected hidden, y, c, n, m. Inputs by their names in the operator, x and R already rounded to their types.

    `tensor_cores`: the kernel multiplies sums of bfloat16. Where activations have 16 bits, y is two of them, and so is
    R where it is float32; else nothing is cut but the tensor cores' own sums.
    """
    a = _valid(inputs, "x")
    lengths = inputs.get("lengths")
    x, R, b = a["x"], a["R"], a["b"]
    batch, sequence, _, _, dim = x.shape
    clamp = float(np.float32(attributes["forget_clamp"]))
    y, c, n, m = a["y"], a["c"], a["n"], a["m"]
    y_error, c_error, n_error, m_error = (np.zeros_like(y) for _ in range(4))
    sums = (dim + 8) * UNIT * (2 if tensor_cores else 1)
    if tensor_cores and dtype != "float32":
        sums += TWO_PARTS * (2 if recurrent == "float32" else 1)
    outputs, errors = [], []
    for t in range(sequence):
        active = (np.ones(batch, bool) if lengths is None else lengths > t)[:, None, None]
        states = [_double(s) for s in (y, c, n, m)]
        step = slstm_cell(_double(x[:, t : t + 1]), _double(R), _double(b), *states, clamp)
        y_next, c_next, n_next, m_next = (out.numpy() for out in step[1:])
        raw = x[:, t] + np.einsum("hgoi,bhi->bgho", R, y) + b
        size = np.abs(x[:, t]) + np.einsum("hgoi,bhi->bgho", np.abs(R), np.abs(y)) + np.abs(b)
        raw_error = sums * size + np.einsum("hgoi,bhi->bgho", np.abs(R), y_error)
        i_raw, f_raw, z_raw, o_raw = np.moveaxis(raw, 1, 0)
        i_error, f_error, z_error, o_error = np.moveaxis(raw_error, 1, 0)
        if clamp:
            f_raw = np.minimum(f_raw, clamp)
        log_forget = -np.logaddexp(0, -f_raw)
        carried = log_forget + m
        carried_error = f_error + m_error + FUNCTION * (1 + np.abs(log_forget)) + UNIT * np.abs(carried)
        fresh = n == 0
        m_next_error = np.where(fresh, i_error, np.maximum(i_error, carried_error))
        exponent = m_next_error + UNIT * (np.abs(i_raw) + np.abs(m_next) + np.abs(carried)) + FUNCTION
        gain, gain_error = _gate(i_raw - m_next, i_error + exponent)
        decay, decay_error = _gate(np.where(fresh, -np.inf, carried - m_next), carried_error + exponent)
        decay_error = np.where(fresh, 0, decay_error)
        z, o = np.abs(np.tanh(z_raw)), 1 / (1 + np.exp(-np.clip(o_raw, -700, 700)))
        z_error, o_error = np.minimum(z_error, 2), np.minimum(o_error, 1)  # of functions with values in [-1, 1], [0, 1]
        c_next_error = np.abs(c) * (decay_error + 4 * UNIT * decay) + z * (gain_error + FUNCTION * gain)
        c_next_error += (gain + gain_error) * z_error + (decay + decay_error) * c_error + TINY
        n_next_error = np.abs(n) * (decay_error + 4 * UNIT * decay) + gain_error + 4 * UNIT * gain
        n_next_error += (decay + decay_error) * n_error
        ratio = np.abs(c_next / n_next)
        # n' >= 1/2 of itself within its error in every case the tests draw.
        y_next_error = o * (c_next_error + ratio * n_next_error) / np.maximum(n_next - n_next_error, TINY)
        y_next_error += ratio * (o_error + FUNCTION) + 6 * UNIT * np.abs(y_next) + TINY

        outputs.append(np.where(active, y_next, 0))
        errors.append(np.where(active, y_next_error, 0))
        y, c, n, m = (np.where(active, new, old) for new, old in ((y_next, y), (c_next, c), (n_next, n), (m_next, m)))
        y_error, c_error, n_error, m_error = (
            np.where(active, new, old)
            for new, old in (
                (y_next_error, y_error),
                (c_next_error, c_error),
                (n_next_error, n_error),
                (m_next_error, m_error),
            )
        )
    return [
        _rounded("hidden", np.stack(outputs, 1), np.stack(errors, 1), dtype),
        Expected("y", y, y_error),
        Expected("c", c, c_error),
        Expected("n", n, n_error),
        Expected("m", m, m_error),
    ]
