"""A whole model's decode in one CUDA graph: this project's model in PyTorch, its products by cuBLAS, its cells and the
greedy choice of the token by our launchers. Weights are random and in bfloat16, states in float32.

States are read from one set of buffers and written to another, as sessions do. What stands between products and cells
(norms, gates, residuals) is PyTorch's: kernel by kernel (`eager`), or fused by its compiler (`compiled`), which is
nearer to what an engine does.
"""

from __future__ import annotations

import torch
from torch._library.custom_ops import CustomOpDef

from xlstm_export.checkpoints import read_config
from xlstm_export.modeling import blocks, layers
from xlstm_export.modeling.architecture import Architecture
from xlstm_export.modeling.layers import Dtypes
from xlstm_export.modeling.model import Model
from xlstm_export.operators import eager
from xlstm_export.runtime.sampling import Sampling

from .bench import Bench, relative_error
from .launchers import Launchers, mlstm_args, slstm_args
from .records import ROOT
from .sampler import DeviceDraw

ROUNDS = 20


class LaunchedCells:
    """`mlstm_cell` and `slstm_cell` of `xlstm_export.operators.eager` by the launchers, for one position."""

    def __init__(self, launchers: Launchers):
        self._launchers = launchers

    def mlstm(self, q, k, v, i, f, C, n, m, q_scale, k_scale, gate_soft_cap, eps, lengths=None):
        batch, _, heads, dim_qk = q.shape
        tensors = {"q": q, "k": k, "v": v, "i": i, "f": f, "C_in": C, "n_in": n, "m_in": m}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        outputs = {out: torch.empty_like(tensors[name]) for out, name in (("h", "v"), ("C_out", "C_in"))}
        outputs |= {f"{name}_out": torch.empty_like(tensors[f"{name}_in"]) for name in "nm"}
        numbers = {"q_scale": q_scale, "k_scale": k_scale, "gate_soft_cap": gate_soft_cap, "eps": eps}
        args = mlstm_args((heads, dim_qk, v.shape[-1]), (batch,), tensors | outputs, **numbers)
        self._launchers.launch("xlstm_launch_mlstm", args)()
        return tuple(outputs.values())

    def slstm(self, x, R, b, y, c, n, m, forget_clamp, lengths=None):
        batch, _, _, heads, dim = x.shape
        tensors = {"x": x, "R": R, "b": b, "y_in": y, "c_in": c, "n_in": n, "m_in": m}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        outputs = {"hidden": x.new_empty(batch, 1, heads, dim)}
        outputs |= {f"{name}_out": torch.empty_like(tensors["y_in"]) for name in "ycnm"}
        args = slstm_args((heads, dim), (batch,), tensors | outputs, forget_clamp=forget_clamp)
        self._launchers.launch("xlstm_launch_slstm", args, None)()
        return tuple(outputs.values())


class Decode:
    """One token of every row.

    Attributes:
        traffic: bytes of weights read, and of states read and written.
        logits: (B, V), of the last call.
    """

    def __init__(self, model: Model, batch: int, launchers: Launchers, device: str):
        self._model = model
        self._tokens = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self._states = [state.to(device) for state in model.initial_states(batch)]
        self._draw = DeviceDraw(launchers, batch, model.architecture.output_width, Sampling(0.0), device)
        read = (p for name, p in model.named_parameters() if name != "embedding.weight" or model.architecture.tied_head)
        self.traffic = sum(p.nbytes for p in read) + 2 * sum(state.nbytes for state in self._states)

    def __call__(self) -> None:
        with torch.no_grad():
            logits, *self.next_states = self._model(self._tokens, *self._states)
        self.logits = logits.reshape(len(logits), -1)
        self._draw(self.logits)


def make_model(architecture: Architecture, device: str) -> Model:
    """Random values of about the size of trained ones, made on the device."""
    with torch.device(device):
        model = Model(architecture, Dtypes(weights=torch.bfloat16))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def compile_blocks(model: Model) -> None:
    """What stands between products and cells is compiled, once for all blocks of a kind."""
    # The operators of the exported graph are closed to the compiler: their implementations take their places.
    for module in (blocks, layers):
        for name, value in [*vars(module).items()]:
            if isinstance(value, CustomOpDef) and value not in (eager.mlstm_cell, eager.slstm_cell):
                setattr(module, name, value._init_fn)
    for block in model.blocks:
        block.advance = torch.compile(block.advance, dynamic=False)


def decode(folder: str, model: str, batch: int, glue: str) -> dict:
    """Seconds a token. `error_logits`: against the same model with the cells' definitions in float32.

    To be called in a process of its own: what it changes in PyTorch stays.
    """
    bench = Bench.of(folder)
    torch.set_default_device("cuda")
    _, architecture, _ = read_config(ROOT / "models" / "configs" / f"{model}.yaml")
    made = make_model(architecture, "cuda")
    run = Decode(made, batch, bench.launchers, "cuda")
    run()
    expected = run.logits.double()
    cells = LaunchedCells(bench.launchers)
    eager.mlstm_cell.register_kernel("cuda")(cells.mlstm)
    eager.slstm_cell.register_kernel("cuda")(cells.slstm)
    if glue == "compiled":
        compile_blocks(made)
    run()
    error = relative_error(run.logits, expected)
    seconds = bench.time([run], rounds=ROUNDS, least=1)
    return {"traffic": run.traffic, "cold": seconds, "tokens_per_second": batch / seconds, "error_logits": error}
