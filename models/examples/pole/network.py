"""A policy that keeps a pole up on a cart without being told velocities: it must remember.

One sLSTM block of the `xlstm` package, whose state the caller carries from call to call.
"""

import torch
from torch import Tensor, nn
from xlstm import FeedForwardConfig, sLSTMBlock, sLSTMBlockConfig, sLSTMLayerConfig

MAX_FORCE = 10.0  # N


class Policy(nn.Module):
    """Observations (B, 2), the cart's position [m] and the pole's angle [rad], to forces (B, 1) [N]."""

    def __init__(self, dim: int = 32, heads: int = 2):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 5.0]))
        self.embed = nn.Linear(2, dim)
        self.block = sLSTMBlock(
            sLSTMBlockConfig(
                slstm=sLSTMLayerConfig(
                    backend="vanilla", embedding_dim=dim, num_heads=heads, conv1d_kernel_size=4, bias_init="small_init"
                ),
                feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu", embedding_dim=dim),
                _num_blocks=1,
                _block_idx=0,
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 1)

    def forward(self, observation: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        """One step of 1 ms: (B, 2) and the last call's state (None: the beginning) to a force (B, 1) and a state."""
        x = self.embed(observation * self.scale).unsqueeze(1)
        x, state = self.block.step(x, **(state or {}))
        force = MAX_FORCE * torch.tanh(self.head(self.norm(x.squeeze(1))))
        return force, state


def build() -> Policy:
    return Policy()
