"""What lies in files of `torch.save` beside plain tensors is read without running it, and says what it says."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import enum
import functools
import io
import os
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.archives import save_with_pickle, vanishing_module
from support.upstream_models import VARIANTS, upstream_model_of
from torch import nn

from xlstm_export.checkpoints import Checkpoint, open_checkpoint
from xlstm_export.checkpoints.files import torch_files
from xlstm_export.checkpoints.files.pickle_machine import Table, take_apart
from xlstm_export.checkpoints.files.pickles import read_file
from xlstm_export.checkpoints.files.records import LEFT_OUT, MAX_LENGTH, plain
from xlstm_export.errors import UserError

MODEL = VARIANTS["a-relu2"]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(MODEL.build(seed=0).state_dict())


def assert_holds(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint.upstream) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(checkpoint.upstream[name].read(), tensor), name


def content_of(path: Path) -> Any:
    return plain(torch_files.read_torch_file(path).content)


# --- objects beside the tensors -------------------------------------------------------------------------------------


class Activation(enum.Enum):
    relu2 = "relu^2"
    gelu = "gelu"

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        """By value, as Pythons write members, but for the first 3.11s, which write their names."""
        return type(self), (self.value,)


@dataclasses.dataclass
class FeedForwardConfig:
    act_fn: Activation
    proj_factor: float = 1.3
    _up: int = 128


@dataclasses.dataclass
class SLSTMConfig:
    slstm: dict
    feedforward: FeedForwardConfig


@dataclasses.dataclass
class ModelConfig:
    mlstm_block: dict
    slstm_block: SLSTMConfig
    slstm_at: list[int]
    num_blocks: int = 2


class Attributes(dict):
    """As Lightning's AttributeDict."""


class Pydantic:
    """Pickled as models of pydantic are."""

    def __init__(self, **values: object):
        self.__dict__.update(values)

    def __getstate__(self) -> dict[str, object]:
        return {"__dict__": self.__dict__, "__pydantic_extra__": None, "__pydantic_fields_set__": set(self.__dict__)}


class Slots:
    __slots__ = ("mlstm_block", "slstm_at", "slstm_block")


def dataclass_config() -> ModelConfig:
    config = MODEL.config
    slstm = SLSTMConfig(config["slstm_block"]["slstm"], FeedForwardConfig(Activation.relu2))
    return ModelConfig(config["mlstm_block"], slstm, [0])


def slots_config() -> Slots:
    slots = Slots()
    for name in Slots.__slots__:
        setattr(slots, name, MODEL.config[name])
    return slots


CLASSES = (Activation, FeedForwardConfig, SLSTMConfig, ModelConfig, Attributes, Pydantic, Slots)
SECTIONS = {name: MODEL.config[name] for name in ("mlstm_block", "slstm_block", "slstm_at")}
CONFIGS = {
    "dataclass": dataclass_config,
    "subclass of dict": lambda: Attributes(MODEL.config),
    "namespace": lambda: argparse.Namespace(**MODEL.config),
    "simple namespace": lambda: types.SimpleNamespace(**MODEL.config),
    "ordered dictionary": lambda: collections.OrderedDict(MODEL.config),
    "default dictionary": lambda: collections.defaultdict(int, MODEL.config),
    "omegaconf": lambda: OmegaConf.create(MODEL.config),
    "omegaconf with references": lambda: OmegaConf.create(
        {"data": {"vocab": 97}, "model": MODEL.config | {"vocab_size": "${data.vocab}", "num_blocks": "???"}}
    ),
    "pydantic": lambda: Pydantic(**SECTIONS),
    "slots": slots_config,
    "partial": lambda: functools.partial(dict, **MODEL.config),
    "numpy array and scalars": lambda: (
        MODEL.config | {"slstm_at": np.array([0]), "num_blocks": np.int64(2), "add_post_blocks_norm": np.bool_(True)}
    ),
    "tuple": lambda: MODEL.config | {"slstm_at": (0,)},
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_is_read_from_an_object_whose_class_is_not_there(name: str, protocol: int, weights, tmp_path):
    with vanishing_module("train_xlstm", *CLASSES):
        content = {"state_dict": weights, "hyper_parameters": {"lr": 0.1, "cfg": CONFIGS[name]()}}
        torch.save(content, tmp_path / "ckpt.pt", pickle_protocol=protocol)
    checkpoint = open_checkpoint(tmp_path / "ckpt.pt")
    assert_holds(checkpoint, weights)
    assert checkpoint.architecture.blocks[0].feed_forward.activation == "relu^2", "not upstream's default"


def test_configuration_class_of_a_vendored_copy_of_the_package_is_read(weights, tmp_path):
    config = MODEL.build().config

    def vendored(data: bytes) -> bytes:
        changed = data.replace(b"cxlstm.xlstm_lm_model\n", b"cthird_party.my.xlstm_lm_model\n")
        assert changed != data
        return changed

    path = save_with_pickle(tmp_path / "ckpt.pt", {"model": weights, "config": config}, vendored)
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, weights)
    assert checkpoint.architecture.blocks[0].feed_forward.activation == "relu^2"


class Optimiser(torch.optim.AdamW):
    pass


BESIDE = {
    "best_val_loss": np.float64(1.25),
    "optimizer_class": Optimiser,
    "schedule": functools.partial(max, 3),
    "mode": Activation.gelu,
    "folder": Path("runs") / "a",
    "loss_history": collections.deque([1.0, 2.0]),
    "seen": {"a", "b"},
    "counts": collections.Counter("abca"),
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
    "shape": torch.Size([2, 3]),
    "rng": np.random.default_rng(0).bit_generator.state,
    "complex": 1 + 2j,
    "function": os.path.join,
}


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_beside_the_tensors_do_no_harm(legacy: bool, weights, tmp_path):
    with vanishing_module("train_xlstm", Optimiser, Activation):
        content = BESIDE | {"model": weights, "config": MODEL.config}
        torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint(tmp_path / "ckpt.pt")
    assert_holds(checkpoint, weights)
    assert checkpoint.notes == ()


def test_objects_mean_what_a_person_would_write(tmp_path):
    with vanishing_module("train_xlstm", Optimiser, Activation):
        torch.save(BESIDE, tmp_path / "objects.pt")
    values = content_of(tmp_path / "objects.pt")
    assert values["best_val_loss"] == 1.25
    assert values["optimizer_class"] == "train_xlstm.Optimiser"
    assert values["mode"] == "gelu"
    assert values["folder"] == "runs/a"
    assert sorted(values["seen"]) == ["a", "b"]
    assert values["counts"] == {"a": 2, "b": 1, "c": 1}
    assert values["shape"] == [2, 3]
    assert values["dtype"] == "torch.bfloat16"


def test_scalar_that_numpy_1_wrote_is_a_number(weights, tmp_path):
    def of_numpy_1(data: bytes) -> bytes:
        changed = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        assert changed != data
        return changed

    content = {"model": weights, "config": MODEL.config, "best_val_loss": np.float32(0.75)}
    path = save_with_pickle(tmp_path / "ckpt.pt", content, of_numpy_1)
    assert content_of(path)["best_val_loss"] == 0.75
    assert_holds(open_checkpoint(path), weights)


def test_numpy_values_of_every_plain_dtype_and_byte_order_are_read(tmp_path):
    for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i8", "b1"):
        array = np.array([1, 0, 1], code)
        torch.save({"array": array, "scalar": array[0]}, tmp_path / "objects.pt", pickle_protocol=4)
        assert content_of(tmp_path / "objects.pt") == {"array": [1, 0, 1], "scalar": 1}, code


def test_objects_as_protocol_0_and_1_write_them_are_read(tmp_path):
    for protocol in (0, 1):
        with vanishing_module("train_xlstm", *CLASSES):
            values = {"a": dataclass_config(), "b": Activation.gelu, "c": {1, 2}, "d": collections.OrderedDict(x=1)}
            data = pickle.dumps(values, protocol)
        path = save_with_pickle(tmp_path / "objects.pt", {}, lambda _, data=data: data)
        read = content_of(path)
        assert read["a"]["slstm_block"]["feedforward"] == {"act_fn": "relu^2", "proj_factor": 1.3}
        assert (read["b"], sorted(read["c"]), read["d"]) == ("gelu", [1, 2], {"x": 1})


def test_long_lists_are_left_out_and_what_stands_behind_them_is_not(tmp_path):
    torch.save({"history": list(range(MAX_LENGTH + 1)), "config": {"a": 1}}, tmp_path / "objects.pt")
    assert content_of(tmp_path / "objects.pt") == {"history": LEFT_OUT, "config": {"a": 1}}


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


def as_python(value: object) -> object:
    if isinstance(value, Table):
        return {key: as_python(item) for key, item in value.pairs}
    if isinstance(value, list | tuple):
        return type(value)(as_python(item) for item in value)
    return value


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=_VALUES, protocol=st.integers(3, 5), again=st.booleans())
def test_plain_values_are_those_that_were_pickled(value, protocol: int, again: bool):
    value = [value, value] if again else value
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"more")
    assert as_python(take_apart(stream)) == value
    assert stream.read() == b"more", "nothing behind the end is read"


# --- whole modules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a-relu", "a-tied", "a-stack", "a-all-slstm", "b-single", "b-fused", "c-single"])
def test_module_that_was_pickled_whole_is_read_with_its_configuration(name: str, tmp_path):
    model = VARIANTS[name].build(seed=1)
    torch.save(model, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert_holds(checkpoint, dict(model.state_dict()))
    rebuilt = upstream_model_of(checkpoint).state_dict()
    assert all(torch.equal(rebuilt[key], tensor) for key, tensor in model.state_dict().items())


RELU = VARIANTS["a-relu"]  # relu^2 is a lambda upstream, which cannot be pickled


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = nn.DataParallel(model)
        self.register_buffer("steps", torch.zeros(3))
        self.register_buffer("mask", torch.zeros(5, 5), persistent=False)


def test_module_within_modules_whose_classes_are_not_there_is_read(tmp_path):
    model = RELU.build(seed=1)
    with vanishing_module("train_xlstm", Wrapper):
        wrapper = Wrapper(model)
        torch.save({"net": wrapper, "epoch": 3}, tmp_path / "model.pt")
    assert "net.mask" not in read_file(tmp_path / "model.pt").tensors, "a buffer that state_dict() leaves out"
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert_holds(checkpoint, dict(model.state_dict()))
    assert checkpoint.notes == ("net.steps beside net.model in model.pt is not exported.",)
    assert checkpoint.architecture.blocks[0].feed_forward.activation == "relu"


def test_module_that_is_pickled_twice_in_one_file_is_one_model(tmp_path):
    model = RELU.build(seed=1)
    torch.save({"net": model, "best": model, "weights": model.state_dict()}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert_holds(checkpoint, dict(model.state_dict()))
    assert checkpoint.notes == ()


# --- formats and views ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_format_and_protocol_gives_the_same_tensors(protocol: int, legacy: bool, tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    tensors = {
        "plain": base,
        "transposed": base.t(),
        "column": base[:, 3],
        "rows": base[2:4],
        "every second": base[::2, 1::3],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": nn.Parameter(base[1:]),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double().t(),
        "integers": torch.arange(5),
        "booleans": base > 0,
        "float8": base.to(torch.float8_e4m3fn),
        "unsigned": torch.arange(5).to(torch.uint16),
    }
    if legacy:  # the older format cannot hold them
        del tensors["float8"], tensors["unsigned"]
    path = tmp_path / "tensors.pt"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    read = read_file(path).tensors
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert (read[name].shape, read[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        expected = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(read[name].read().reshape(-1).view(torch.uint8), expected), name
        if (extent := read[name].extent) is not None:
            with path.open("rb") as file:
                file.seek(extent.offset)
                assert file.read(extent.length) == expected.numpy().tobytes()
    assert legacy or read["plain"].extent is not None and read["transposed"].extent is None


def test_nan_in_a_strided_tensor_is_named_with_its_place(tmp_path):
    tensor = torch.zeros(4, 6)
    tensor[1, 5] = torch.nan
    torch.save({"w": tensor.t()}, tmp_path / "tensors.pt")
    with pytest.raises(UserError, match=r"tensor w holds NaN or infinity \(1 times, first at \[5, 1\]\)"):
        read_file(tmp_path / "tensors.pt").tensors["w"].check()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda t: t[:1].expand(97, 64), "a view whose elements overlap"),
        (lambda t: t.to_sparse_csr(), "sparse_csr"),
        (lambda t: torch.empty_like(t, device="meta"), "meta (without values)"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantised"),
        (lambda t: torch.nested.nested_tensor([t, t]), "nested"),
        (lambda t: torch.complex(t, t), "complex64"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensor_of_another_kind_is_named_when_the_model_needs_it_and_ignored_otherwise(make, reason, weights, tmp_path):
    other = make(weights["lm_head.weight"])
    content = {"model": weights, "config": MODEL.config, "teacher": {"head": other}}
    assert_holds(open_checkpoint(save(tmp_path, content)), weights)
    content["model"] = weights | {"lm_head.weight": other}
    with pytest.raises(UserError) as caught:
        open_checkpoint(save(tmp_path, content))
    assert "tensor model.lm_head.weight of " in str(caught.value) and reason in str(caught.value)


def save(folder: Path, content: object) -> Path:
    torch.save(content, folder / "ckpt.pt")
    return folder / "ckpt.pt"


def test_pickle_gives_the_same_checkpoint_as_the_loader_of_torch(weights, tmp_path):
    """`torch.load` is the reference where it can read a file."""
    content = {"model": weights, "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}}, "config": MODEL.config}
    path = save(tmp_path, copy.deepcopy(content))
    loaded = torch.load(path, weights_only=True)
    assert_holds(open_checkpoint(path), loaded["model"])
    assert content_of(path)["config"] == loaded["config"]
