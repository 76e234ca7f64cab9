"""Networks that stream: everything in them works position by position, or has a state of fixed size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.networks.network import Network
from support.networks.parts import large_stack, mlstm_block, slstm_block, slstm_layer_config, stack


class Reconstructor(nn.Module):
    """xLSTMAD-like: an encoder and a decoder give a sensor's signal again; what they get wrong is the anomaly."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.bn = nn.BatchNorm1d(16)
        self.encoder, self.decoder = stack(16, [1]), stack(16, [0], blocks=1)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.bn(self.embed(x).transpose(1, 2)).transpose(1, 2)
        again = self.out(self.decoder(h + self.encoder(h)))
        return again, (again - x).square().mean(-1)


class SpeechEncoder(nn.Module):
    """xLSTMLarge's blocks over filter banks: float input, and `(x, state)` out of the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 64), nn.GELU())
        self.blocks = large_stack(64, blocks=1)
        self.head = nn.Linear(64, 11)

    def forward(self, features: Tensor) -> Tensor:
        h, _ = self.blocks(self.project(features))
        return self.head(h).log_softmax(-1)


class TransformersEncoder(nn.Module):
    """The same on transformers' `xLSTMModel`, fed vectors instead of tokens."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.models.xlstm.configuration_xlstm import xLSTMConfig
        from transformers.models.xlstm.modeling_xlstm import xLSTMModel

        self.project = nn.Linear(20, 128)
        self.backbone = xLSTMModel(
            xLSTMConfig(
                hidden_size=128,
                num_hidden_layers=1,
                num_heads=2,
                vocab_size=8,
                chunkwise_kernel="chunkwise--native_autograd",
                sequence_kernel="native_sequence__native",
                step_kernel="native",
                autocast_kernel_dtype="float32",
            )
        )
        self.head = nn.Linear(128, 7)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.backbone(inputs_embeds=self.project(features)).last_hidden_state)


class TwoBranches(nn.Module):
    """Two sensors, a stack each, and a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.fast_in, self.slow_in = nn.Linear(5, 16), nn.Linear(3, 16)
        self.fast, self.slow = stack(16, [0], blocks=1), stack(16, [], blocks=1)
        self.join = nn.Linear(32, 16)
        self.heads = nn.ModuleDict({"pose": nn.Linear(16, 4), "effort": nn.Linear(16, 1)})

    def forward(self, fast: Tensor, slow: Tensor) -> dict[str, Tensor]:
        h = torch.cat([self.fast(self.fast_in(fast)), self.slow(self.slow_in(slow))], -1)
        h = F.silu(self.join(h))
        return {name: head(h) for name, head in self.heads.items()}


class Wrapped(nn.Module):
    """What a LightningModule looks like: the network one level down, and methods that export must leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(5, 16), stack(16, [1]), nn.Linear(16, 3))
        self.loss = nn.MSELoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class TiedTwice(nn.Module):
    """One stack, twice in one pass: each place has its own states."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack, self.head = nn.Linear(4, 16), stack(16, [], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for _ in range(2):
            h = self.stack(h)
        return self.head(h)


class OnlySLSTM(nn.Module):
    """sLSTM without convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack, self.head = (
            nn.Linear(4, 16),
            stack(16, [0], blocks=1, conv=0, act="swish"),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.embed(x)))


class WithGRU(nn.Module):
    """Two layers of GRU before the stack, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.stack, self.head = (
            nn.GRU(4, 16, num_layers=2, batch_first=True),
            stack(16, [0], blocks=1),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(x)
        return self.head(self.stack(h) + h)


class WithLSTM(nn.Module):
    """An LSTM after the stack, time first, its last hidden state given as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack = nn.Linear(4, 16), stack(16, [], blocks=1)
        self.lstm, self.head = nn.LSTM(16, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, (last, _) = self.lstm(self.stack(self.embed(x)).transpose(0, 1))
        return self.head(h.transpose(0, 1)), last[-1]


class SingleBlock(nn.Module):
    """One mLSTM block, without a stack around it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(4, 16), mlstm_block(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x)))


class SingleLayer(nn.Module):
    """One sLSTM layer and one block without a feed-forward network."""

    def __init__(self) -> None:
        from xlstm import sLSTMLayer

        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(4, 16), sLSTMLayer(slstm_layer_config(16)), nn.Linear(16, 2)
        self.block = slstm_block(16, feedforward=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.head(self.block(h + self.layer(h)))


class BareCells(nn.Module):
    """Upstream's cells in layers of the user's own."""

    def __init__(self) -> None:
        from xlstm.blocks.mlstm.cell import mLSTMCell, mLSTMCellConfig
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        super().__init__()
        self.qkv = nn.Linear(6, 48)
        self.mlstm = mLSTMCell(mLSTMCellConfig(context_length=128, embedding_dim=16, num_heads=2))
        self.gates = nn.Linear(16, 64)
        self.slstm = sLSTMCell(sLSTMCellConfig(hidden_size=16, num_heads=2, backend="vanilla"))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        h = self.mlstm(q=q, k=k, v=v)
        y, _ = self.slstm(self.gates(h))  # (B, heads, S, head width)
        return self.head(y.transpose(1, 2).flatten(2) + h)


class TiRexParts(nn.Module):
    """TiRex' block, its layer and its bare cell, as `tirex-ts` ships them."""

    def __init__(self) -> None:
        from tirex.models.slstm.block import sLSTMBlock
        from tirex.models.slstm.cell import sLSTMBlockConfig, sLSTMCell
        from tirex.models.slstm.layer import sLSTMLayer

        super().__init__()
        config = sLSTMBlockConfig(embedding_dim=16, num_heads=2)
        self.embed, self.gates, self.head = nn.Linear(4, 16), nn.Linear(16, 64), nn.Linear(16, 3)
        self.block, self.layer = sLSTMBlock(config, "torch"), sLSTMLayer(config, "torch")
        self.cell = sLSTMCell(config, "torch")
        for cell in (self.block.slstm_layer.slstm_cell, self.layer.slstm_cell, self.cell):
            nn.init.ones_(cell._bias_)  # upstream leaves it as memory was

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.block(self.embed(x)))
        y, _ = self.cell(self.gates(h), None)  # (B, heads, S, head width)
        return self.head(y.transpose(1, 2).flatten(2) + h)


class LastPosition(nn.Module):
    """A classifier on the last position, which is a running one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack, self.head = nn.Linear(4, 16), stack(16, [0], blocks=1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stack(self.embed(x))
        return self.head(h[:, -1]).softmax(-1)


class Tokens(nn.Module):
    """Embeddings of tokens, LayerNorm, dropout, a head that shares the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.drop = nn.Embedding(23, 16), nn.LayerNorm(16), nn.Dropout(0.3)
        self.stack = stack(16, [], blocks=1, dropout=0.2)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.drop(self.norm(self.embed(tokens)))
        return F.linear(self.stack(h), self.embed.weight)


class ChannelFirst(nn.Module):
    """Sensors as channels: time is the last axis of input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.bn = nn.Conv1d(6, 16, 1), nn.BatchNorm1d(16)
        self.stack, self.head = stack(16, [0], blocks=1), nn.Conv1d(16, 2, 1)

    def forward(self, signal: Tensor) -> Tensor:
        h = F.relu(self.bn(self.mix(signal)))
        return self.head(h + self.stack(h.transpose(1, 2)).transpose(1, 2))


class StaticRow(nn.Module):
    """Attributes of a row (as in hydrology: of a catchment) beside its series."""

    def __init__(self) -> None:
        super().__init__()
        self.static, self.embed = nn.Linear(4, 16), nn.Linear(3, 16)
        self.stack, self.head = stack(16, [], blocks=1), nn.Linear(16, 1)

    def forward(self, forcing: Tensor, attributes: Tensor) -> Tensor:
        h = self.embed(forcing) * torch.sigmoid(self.static(attributes)).unsqueeze(1)
        return self.head(self.stack(h)).squeeze(-1)


def _same(name: str, factory: type[nn.Module], x: str, **options: object) -> Network:
    return Network(name, factory, {"x": x}, **options)


STREAMING = [
    _same("anomaly-reconstructor", Reconstructor, "B,S,5:float32", time_axes=(1, 1)),
    Network("speech-encoder-large", SpeechEncoder, {"features": "B,S,20:float32"}),
    Network("speech-encoder-transformers", TransformersEncoder, {"features": "B,S,20:float32"}),
    Network("two-branches", TwoBranches, {"fast": "B,S,5:float32", "slow": "B,S,3:float32"}, time_axes=(1, 1)),
    _same("lightning-wrapper", Wrapped, "B,S,5:float32"),
    _same("tied-twice", TiedTwice, "B,S,4:float32"),
    _same("slstm-without-convolution", OnlySLSTM, "B,S,4:float32"),
    _same("with-gru", WithGRU, "B,S,4:float32"),
    _same("with-lstm", WithLSTM, "B,S,4:float32", time_axes=(1, None)),
    _same("single-mlstm-block", SingleBlock, "B,S,4:float32"),
    _same("single-slstm-layer", SingleLayer, "B,S,4:float32"),
    _same("bare-cells", BareCells, "B,S,6:float32"),
    _same("tirex-parts", TiRexParts, "B,S,4:float32"),
    _same("last-position", LastPosition, "B,S,4:float32", time_axes=(None,)),
    Network("tokens", Tokens, {"tokens": "B,S:int64"}, tokens=23),
    Network("channel-first", ChannelFirst, {"signal": "B,6,S:float32"}, time_axes=(2,)),
    Network("static-row", StaticRow, {"forcing": "B,S,3:float32", "attributes": "B,4:float32"}),
]
