"""Upstream's stacks, blocks, layers and cells in small sizes."""

from __future__ import annotations

from types import ModuleType

import xlstm
from torch import nn
from xlstm.xlstm_large.model import xLSTMLargeBlockStack, xLSTMLargeConfig

CONTEXT = 128
"""Positions that upstream's parallel mLSTM takes at once."""


def stack(
    dim: int,
    slstm_at: list[int],
    blocks: int = 2,
    conv: int = 4,
    act: str = "gelu",
    package: ModuleType = xlstm,
    **options: object,
) -> nn.Module:
    """`xLSTMBlockStack`: mLSTM blocks, sLSTM blocks where `slstm_at` says so; of a copy of the package if need be."""
    mlstm = package.mLSTMLayerConfig(num_heads=2, conv1d_kernel_size=conv or 4)
    slstm = package.sLSTMLayerConfig(backend="vanilla", num_heads=2, conv1d_kernel_size=conv)
    return package.xLSTMBlockStack(
        package.xLSTMBlockStackConfig(
            mlstm_block=None if len(slstm_at) == blocks else package.mLSTMBlockConfig(mlstm=mlstm),
            slstm_block=package.sLSTMBlockConfig(
                slstm=slstm, feedforward=package.FeedForwardConfig(proj_factor=1.3, act_fn=act)
            ),
            context_length=CONTEXT,
            num_blocks=blocks,
            embedding_dim=dim,
            slstm_at=slstm_at,
            **options,
        )
    )


def mlstm_block(dim: int) -> nn.Module:
    return xlstm.mLSTMBlock(
        xlstm.mLSTMBlockConfig(
            mlstm=xlstm.mLSTMLayerConfig(embedding_dim=dim, num_heads=2, context_length=CONTEXT),
            _num_blocks=1,
            _block_idx=0,
        )
    )


def slstm_layer_config(dim: int, conv: int = 4) -> xlstm.sLSTMLayerConfig:
    return xlstm.sLSTMLayerConfig(
        backend="vanilla", embedding_dim=dim, num_heads=2, conv1d_kernel_size=conv, _num_blocks=1, _block_idx=0
    )


def slstm_block(dim: int, conv: int = 4, feedforward: bool = True) -> nn.Module:
    ffn = xlstm.FeedForwardConfig(proj_factor=1.3, act_fn="relu", embedding_dim=dim) if feedforward else None
    return xlstm.sLSTMBlock(
        xlstm.sLSTMBlockConfig(slstm=slstm_layer_config(dim, conv), feedforward=ffn, _num_blocks=1, _block_idx=0)
    )


def large_stack(dim: int = 64, blocks: int = 2) -> nn.Module:
    """The block stack of `xlstm.xlstm_large`, whose forward gives (x, state)."""
    return xLSTMLargeBlockStack(
        xLSTMLargeConfig(
            embedding_dim=dim,
            num_heads=2,
            num_blocks=blocks,
            vocab_size=1,
            mode="inference",
            return_last_states=True,
            autocast_kernel_dtype="float32",
            chunkwise_kernel="chunkwise--native_autograd",
            sequence_kernel="native_sequence__native",
            step_kernel="native",
        )
    )
