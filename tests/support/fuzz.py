"""A fuzzer over everything that is read: files of torch.save, safetensors, indices, configurations, manifests.

    PYTHONPATH=tests python -m support.fuzz --seconds 3600 [--target pickle] [--seed 1]

Whatever the bytes are, reading them must end in a checkpoint (a configuration, a bundle) or in one `UserError`, within
seconds and without taking all memory. Inputs that did not are written to `tests/seeds/TARGET/`, from where the tests
replay them.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import hashlib
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save as to_safetensors

from support.archives import pickle_of
from support.fuzz_changes import change_bytes, change_json, change_pickle, change_safetensors, change_yaml
from support.hostile_pickles import EXHAUSTING, RUNNING, pickled
from support.tirex2_models import settings as tirex2_settings
from support.tirex_models import settings as tirex_settings
from support.upstream_models import VARIANTS
from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import ReadOptions, open_checkpoint, parse_overrides, read_config
from xlstm_export.checkpoints.files.text_tokens import read_text_tokens
from xlstm_export.errors import UserError

SEEDS = Path(__file__).parents[1] / "seeds"
SECONDS = 20.0
"""No input may take longer."""
MEGABYTES = 1500
"""No process that reads any number of inputs may take more, beyond what it had."""

Mutate = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Target:
    """A reader, inputs that it accepts, and how they are changed."""

    name: str
    inputs: Callable[[], list[bytes]]
    read: Callable[[Path, bytes], None]
    """Given an empty folder and the content of the file in question."""
    mutate: Mutate


# --- what is read ---------------------------------------------------------------------------------------------------


@functools.cache
def _small() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = json.loads(json.dumps(VARIANTS["a-relu"].config)) | {"embedding_dim": 16, "num_blocks": 2, "vocab_size": 7}
    config["mlstm_block"]["mlstm"] |= {"num_heads": 2, "round_proj_up_to_multiple_of": 8}
    config["slstm_block"]["slstm"] |= {"num_heads": 2}
    config["slstm_block"]["feedforward"] |= {"round_proj_up_to_multiple_of": 8}
    return dict(_model(config).state_dict()), config


@functools.cache
def _large() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = {"embedding_dim": 16, "num_heads": 2, "num_blocks": 2, "vocab_size": 7, "ffn_round_up_to_multiple_of": 8}
    return dict(_model(config, "xlstm-large").state_dict()), config


@functools.cache
def _forecaster() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = tirex_settings(patch=2, quantiles=[0.1, 0.5], hidden=4, embedding_dim=16, num_heads=2, num_blocks=2)
    return dict(_model(config, "tirex").state_dict()), config


@functools.cache
def _second_forecasters() -> list[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """One, where its package runs."""
    if "e-folder" not in VARIANTS:
        return []
    config = tirex2_settings(patch=2, quantiles=[0.1, 0.5], input_ff_dim=4, dim=16, heads=2)
    weights = _model(config, "tirex2").state_dict()  # some under several names, which safetensors does not write
    return [({name: tensor.clone() for name, tensor in weights.items()}, config)]


def _model(config: dict[str, Any], family: str = "xlstm") -> torch.nn.Module:
    from support.upstream_models import build_upstream, randomise

    model = build_upstream(family, config)
    randomise(model, 0)
    return model


def _contents() -> list[object]:
    from omegaconf import OmegaConf

    weights, config = _small()
    transposed = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in weights.items()}
    return [
        {"state_dict": weights, "config": config},
        {"model": transposed, "cfg": OmegaConf.create({"n": 2, "model": config | {"num_blocks": "${n}"}})},
        {"a": weights, "b": {name: tensor + 1 for name, tensor in weights.items()}, "best": np.float32(1)},
        {"net": _model(config), "optimizer": {"state": {0: torch.zeros(3)}}},
        {"model": _large()[0], "config": _large()[1], "ids": np.array([1, 2])},
        {"state_dict": _forecaster()[0], "hyper_parameters": _forecaster()[1]},
        *({"state_dict": weights, "config": config} for weights, config in _second_forecasters()),
    ]


def _pickles() -> list[bytes]:
    strange = [pickled(value) for value in (*RUNNING.values(), *EXHAUSTING.values()) if len(value) < 1000]
    return [*(pickle_of(content) for content in _contents()), *strange]


def _torch_files(**options: Any) -> list[bytes]:
    files = []
    for content in _contents():
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        files.append(buffer.getvalue())
    return files


def _open(path: Path, options: ReadOptions | None = None) -> None:
    for tensor in open_checkpoint(path, options or ReadOptions()).tensors.values():
        tensor.check()


def _read_pickle(folder: Path, data: bytes) -> None:
    """In an archive whose storages are larger than most pickles say."""
    with zipfile.ZipFile(folder / "ckpt.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key in range(60):
            archive.writestr(f"archive/data/{key}", bytes(4096))
    _open(folder / "ckpt.pt")


def _read_file(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        (folder / name).write_bytes(data)
        _open(folder / name)

    return read


def _safetensors() -> list[bytes]:
    (small, config), (large, _) = _small(), _large()
    return [to_safetensors(small, {"config": json.dumps(config)}), to_safetensors(large)]


def _read_safetensors(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps(_large()[1]))
    _open(folder)


def _indices() -> list[bytes]:
    weights, half = sorted(_large()[0]), len(_large()[0]) // 2
    shards = ["model_0.safetensors", "model_1.safetensors"]
    return [json.dumps({"metadata": {}, "weight_map": {n: shards[i >= half] for i, n in enumerate(weights)}}).encode()]


def _read_index(folder: Path, data: bytes) -> None:
    weights, half = sorted(_large()[0].items()), len(_large()[0]) // 2
    (folder / "config.json").write_text(json.dumps(_large()[1]))
    for shard, part in enumerate((weights[:half], weights[half:])):
        (folder / f"model_{shard}.safetensors").write_bytes(to_safetensors(dict(part)))
    (folder / "model.safetensors.index.json").write_bytes(data)
    _open(folder)


def _configs() -> list[dict[str, Any]]:
    nested = {"training": {"lr": 0.1}, "model": _small()[1], "data": {"vocab": "${model.vocab_size}"}}
    hugging_face = {"model_type": "xlstm", "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2, "vocab_size": 7}
    seconds = [config for _, config in _second_forecasters()]
    return [_small()[1], _large()[1], nested, hugging_face, _forecaster()[1], *seconds]


def _read_settings(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        config = folder / f"given{suffix}"
        config.write_bytes(data)
        for weights in (_small()[0], _large()[0], _forecaster()[0], *(w for w, _ in _second_forecasters())):
            (folder / "model.safetensors").write_bytes(to_safetensors(weights))
            try:
                _open(folder / "model.safetensors", ReadOptions(config))
            except UserError:
                pass
        read_config(config)

    return read


def _read_overrides(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(to_safetensors(_small()[0], {"config": json.dumps(_small()[1])}))
    text = data.decode("utf-8", "replace")
    _open(
        folder / "model.safetensors",
        ReadOptions(select="a.b" if text == "" else None, overrides=parse_overrides([text])),
    )


def _read_text_tokens(folder: Path, data: bytes) -> None:
    for number, name in enumerate(("generation_config.json", "tokenizer_config.json", "tokenizer.json", "config.yaml")):
        (folder / name).write_bytes(data[number:] if number % 2 else data)
    read_text_tokens([folder], 7)


def _read_manifest(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    Bundle.open(folder)


def _manifests() -> list[bytes]:
    return [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "good_bundles").rglob("manifest/*.json"))]


_TEXT_TOKENS = [
    b'{"bos_token_id": 1, "eos_token_id": [2, 3], "force_bos_token_insert": true}',
    b'{"add_bos_token": true, "bos_token": {"content": "<s>"}, "added_tokens": [{"content": "<s>", "id": 1}]}',
]
_OVERRIDES = [b"slstm_block.feedforward.act_fn=relu", b"num_blocks=2", b"slstm_at=[0]", b"tie_weights=false"]

TARGETS = {
    target.name: target
    for target in (
        Target("pickle", _pickles, _read_pickle, change_pickle),
        Target("zip", lambda: _torch_files(), _read_file("ckpt.pt"), change_bytes),
        Target("old", lambda: _torch_files(_use_new_zipfile_serialization=False), _read_file("ckpt.pt"), change_bytes),
        Target("safetensors", _safetensors, _read_safetensors, change_safetensors),
        Target("index", _indices, _read_index, change_json),
        Target("json", lambda: [json.dumps(c).encode() for c in _configs()], _read_settings(".json"), change_json),
        Target("yaml", lambda: [yaml.safe_dump(c).encode() for c in _configs()], _read_settings(".yaml"), change_yaml),
        Target("set", lambda: _OVERRIDES, _read_overrides, change_bytes),
        Target("text_tokens", lambda: _TEXT_TOKENS, _read_text_tokens, change_yaml),
        Target("manifest", _manifests, _read_manifest, change_json),
    )
}


# --- running --------------------------------------------------------------------------------------------------------


def outcome(target: Target, data: bytes) -> str | None:
    """What is wrong with the way in which these bytes are read; None where nothing is."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            target.read(Path(folder), data)
        except UserError as error:
            if not str(error) or not str(error).replace("\n", "").isprintable():
                return f"a message that cannot be printed: {str(error)!r}"
        except Exception:
            return traceback.format_exc()
    seconds = time.process_time() - started
    return f"took {seconds:.0f} s" if seconds > SECONDS else None


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """Changed inputs without end, the same for the same seed; each is changed again and again for a while."""
    rng, accepted = random.Random(seed), target.inputs()
    while True:
        data = rng.choice(accepted)
        for _ in range(rng.choice((1, 1, 1, 1, 2, 6))):
            data = target.mutate(rng, data)[: 1 << 20]
            yield data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    last = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}"
    print(f"The input at hand lies in {last}, should this process hang or end.", flush=True)
    targets = [TARGETS[args.target]] if args.target else list(TARGETS.values())
    streams = [(target, inputs(target, args.seed)) for target in targets]
    counts, findings = dict.fromkeys((target.name for target in targets), 0), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for target, stream in streams:
            data = next(stream)
            last.write_bytes(data)
            faulthandler.dump_traceback_later(20 * SECONDS, exit=True)
            wrong = outcome(target, data)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            if wrong is None and grown > MEGABYTES:
                wrong = f"memory has grown by {grown} MB"
                before += grown * 1024
            counts[target.name] += 1
            if wrong:
                findings += 1
                folder = SEEDS / target.name
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / hashlib.sha256(data).hexdigest()[:16]
                path.write_bytes(data)
                print(f"{path}: {wrong}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    last.unlink()
    print(f"{findings} findings; inputs: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
