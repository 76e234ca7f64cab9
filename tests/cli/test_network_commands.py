"""`onnx` for networks of a user's own: what is wrong gets one message and exit code 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.command_line import call

NETWORK = """
import torch
from torch import nn
from xlstm import mLSTMBlock, mLSTMBlockConfig, mLSTMLayerConfig


class Network(nn.Module):
    def __init__(self, width=16, pool=False):
        super().__init__()
        self.embed = nn.Linear(3, width)
        layer = mLSTMLayerConfig(embedding_dim=width, num_heads=2, context_length=64)
        self.block = mLSTMBlock(mLSTMBlockConfig(mlstm=layer, _num_blocks=1, _block_idx=0))
        self.pool = pool

    def forward(self, x):
        h = self.block(self.embed(x))
        return h.mean(1) if self.pool else h


class Branching(Network):
    def forward(self, x):
        h = super().forward(x)
        if h.sum() > 0:
            h = -h
        return h


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(x)


def build():
    torch.manual_seed(0)
    return Network()


def pooled():
    return Network(pool=True)


def branching():
    return Branching()


def plain():
    return Plain()


def number():
    return 5


def failing():
    raise RuntimeError("no such dataset")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    (folder / "mine.py").write_text(NETWORK)
    (folder / "broken.py").write_text("import nothing_of_that_name\n")
    spaces: dict[str, object] = {}
    exec(NETWORK, spaces)
    module = spaces["build"]()  # type: ignore[operator]
    weights = module.state_dict()
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 3}, folder / "ck.pt"
    )
    torch.save({name: value for name, value in weights.items() if "embed" not in name}, folder / "short.pt")
    torch.save(weights | {"head.weight": torch.zeros(2)}, folder / "long.pt")
    torch.save(weights | {"embed.weight": torch.zeros(16, 4)}, folder / "other.pt")
    torch.save(weights | {"embed.bias": torch.full((16,), float("nan"))}, folder / "nan.pt")
    return folder


INPUT = ("--input", "x=B,S,3")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("mine.py:build",), "at least one input"),
        (
            ("mine.py:build", *INPUT, "--set", "a=1", "--logits", "all"),
            "--set, --logits: not for a network of your own",
        ),
        (("ck.pt", "--weights", "ck.pt", *INPUT), "--weights, --input: not for a checkpoint; name MODULE:FACTORY"),
        (("mine.py:build", "--input", "x=12"), "its axes begin with B"),
        (("mine.py:build", "--input", "x=S,B,3"), "its axes begin with B"),
        (("mine.py:build", "--input", "x=B,S,three"), "expected NAME=AXES:DTYPE"),
        (("mine.py:build", "--input", "x=B,S,3:float64"), "its dtype is one of"),
        (("mine.py:build", *INPUT, *INPUT), "Two inputs have one name"),
        (("mine.py:build", "--input", "y=B,S,3"), "unexpected keyword argument 'y'"),
        (("mine.py:build", "--input", "x=B,S,4"), "The network fails on random inputs at mine.py:"),
        (("mine.py:nobody", *INPUT), "has no nobody"),
        (("mine.py:number", *INPUT), "returns int, not a torch.nn.Module"),
        (("mine.py:failing", *INPUT), "RuntimeError: no such dataset"),
        (("missing.py:build", *INPUT), "does not exist"),
        (("broken.py:build", *INPUT), "No module named 'nothing_of_that_name'"),
        (("no_package.no_module:build", *INPUT), "No module named 'no_package'"),
        (("mine.py:plain", *INPUT), "holds no block, layer or cell of xLSTM"),
        (("mine.py:pooled", *INPUT, "--mode", "both"), "mean over axis 1 (mine.py:"),
        (("mine.py:branching", *INPUT), "torch cannot trace the network at mine.py:"),
        (("mine.py:build", *INPUT, "--weights", "short.pt"), "lacks embed.weight, embed.bias"),
        (("mine.py:build", *INPUT, "--weights", "long.pt"), "holds head.weight, which the network has not"),
        (("mine.py:build", *INPUT, "--weights", "other.pt"), "has shape [16, 4], and [16, 3] in the network"),
        (("mine.py:build", *INPUT, "--weights", "nan.pt"), "embed.bias"),
        (("mine.py:build", *INPUT, "--weights", "absent.pt"), "absent.pt does not exist"),
    ],
)
def test_bad_network_is_refused_with_one_message_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(folder)
    code, _, errors = call(capsys, monkeypatch, "onnx", *arguments, "-o", "out")
    assert code == 2, errors
    assert expected in " ".join(errors.split()) and "Traceback" not in errors
    assert not (folder / "out").exists() and not list(folder.glob(".out*"))
