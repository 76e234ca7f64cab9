"""What a checkpoint is a model *of*: plain, frozen descriptions, the same for every family.

A family's reader (`xlstm.py`, `xlstm_large.py`, ...) turns a user's configuration and weights into an
`Architecture` and tensors by canonical name; `xlstm_export.modeling` builds the step-mode module from it.
The canonical names are those of that module's parameters (a tied head has none of its own). Quirks of the
upstream layouts (norm weights stored as w and applied as 1 + w, swapped gate names, recurrent kernels in the CUDA
layout, fused projections) end in the reader: nothing here knows of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Activation = Literal["gelu", "relu", "relu^2", "sigmoid", "swish", "selu"]
Norm = Literal["layer_norm", "rms_norm"]

LATER = {"later": True}
"""Of a field that came after models had been exported: `to_dict` leaves it out where it has its default."""


@dataclass(frozen=True)
class FeedForward:
    """Gated feed-forward network: down(act(gate(x)) * up(x))."""

    hidden_dim: int
    activation: Activation
    bias: bool = False
    fused_gate_up: bool = False
    """Gate and up are one matrix, gate first (the `xlstm` package), instead of two."""


@dataclass(frozen=True)
class MLSTMBlock:
    """mLSTM block of the `xlstm` package (Beck et al. 2024, figure 11): up-projection around convolution and cell."""

    inner_dim: int
    num_heads: int
    conv_kernel: int
    qkv_block_size: int
    bias: bool = False
    kind: Literal["mlstm"] = "mlstm"


@dataclass(frozen=True)
class SLSTMBlock:
    """sLSTM block (Beck et al. 2024, figure 10): cell at the model's width, then an optional feed-forward network."""

    num_heads: int
    conv_kernel: int
    """0: no convolution."""
    feed_forward: FeedForward | None
    norm: Norm = "layer_norm"
    norm_eps: float = 1e-5
    forget_clamp: float = 0.0
    """Upper bound of the forget gate's pre-activation; 0: none."""
    head_norm_eps: float = field(default=1e-5, metadata=LATER)
    kind: Literal["slstm"] = "slstm"


@dataclass(frozen=True)
class MLSTMLargeBlock:
    """mLSTM block of xLSTM-7B (Beck et al. 2025): cell without convolution, output gate, feed-forward network."""

    num_heads: int
    qk_dim: int
    """Width of queries and keys, all heads together."""
    v_dim: int
    gate_soft_cap: float
    cell_eps: float
    norm_eps: float
    feed_forward: FeedForward
    bias: bool = False
    kind: Literal["mlstm_large"] = "mlstm_large"


Block = MLSTMBlock | SLSTMBlock | MLSTMLargeBlock


@dataclass(frozen=True)
class Patches:
    """The two ends of a forecaster: a patch of a series in at each position, quantiles of the patch after it out.

    Each end is a residual network of one hidden layer: output(act(hidden(x))) + residual(x), all three with biases.
    """

    length: int
    """Points of a patch, P. What goes in is 2 P wide: the scaled values, zero where missing, then 1 where there is a
    value and 0 where it is missing."""
    hidden_dim: int
    """Of the end where a patch goes in, and of the other where `out_hidden_dim` is None."""
    quantiles: tuple[float, ...]
    """Levels, ascending. What comes out is Q P wide: P values of the first quantile, then of the next."""
    context: int
    """Points of the window that the model was trained on, a multiple of P."""
    activation: Activation = field(default="relu", metadata=LATER)
    out_hidden_dim: int | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class Architecture:
    """A whole model: (embedding) → blocks → (norm) → (head)."""

    embedding_dim: int
    blocks: tuple[Block, ...]
    vocab_size: int | None
    """None: a block stack with float input and output, (B, S, D), and neither embedding nor head."""
    tied_head: bool
    final_norm: Norm | None
    final_norm_eps: float
    final_norm_bias: bool = False
    logit_soft_cap: float = 0.0
    """logits = cap * tanh(logits / cap); 0: none."""
    has_head: bool = True
    """Of a model with a vocabulary: False where hidden states come out, (B, S, D), after the final norm."""
    patches: Patches | None = field(default=None, metadata=LATER)
    """Of a forecaster, which has no vocabulary."""

    @property
    def input_width(self) -> int:
        """Values at one position of what goes in: 1 token, or the width of the vectors."""
        if self.patches:
            return 2 * self.patches.length
        return 1 if self.vocab_size is not None else self.embedding_dim

    @property
    def output_width(self) -> int:
        """Values at one position of what comes out."""
        if self.patches:
            return len(self.patches.quantiles) * self.patches.length
        return self.vocab_size if self.vocab_size is not None and self.has_head else self.embedding_dim

    @property
    def gives_logits(self) -> bool:
        """Whether the output is logits, (B, S, V); else it is vectors, (B, S, D)."""
        return self.vocab_size is not None and self.has_head

    def to_dict(self) -> dict:
        """Plain values, for the manifest. The model's hash is over these, so that it stays what it was (`LATER`)."""
        return _plain(self)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if not is_dataclass(value):
        return value
    entries = {f.name: (f, getattr(value, f.name)) for f in fields(value)}
    return {name: _plain(v) for name, (f, v) in entries.items() if not ("later" in f.metadata and v == f.default)}
