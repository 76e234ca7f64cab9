"""Export a checkpoint of the size of xLSTM-7B, and quantise the bundle: how much memory, time and disk it takes.

    python scripts/bench_export_7b.py WORK_FOLDER [--blocks 32] [--pickle] [--copy] [--quantize rtn,search]

Makes a sharded bfloat16 Hugging Face checkpoint of random values (14 GB for 32 blocks) in WORK_FOLDER, or one file of
torch.save (--pickle), exports it in a process of its own with --link-weights (or without: --copy), prints a table, and
removes all unless --keep is given. --quantize has the bundle written in 4 bits as well, by each method.
"""

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from xlstm_export.checkpoints.files.torch_files import read_torch_file

GIB = 1 << 30
SHARD = 5 * 10**9  # bytes, as `save_pretrained` splits by default


def tensor_shapes(blocks: int, dim: int = 4096, heads: int = 8, vocab: int = 50304) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `xLSTMForCausalLM` at the dimensions of NX-AI/xLSTM-7b."""
    qk, ffn = dim // 2, 10944
    shapes: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (vocab, dim)}
    for block in range(blocks):
        layer = {
            "norm_mlstm.weight": (dim,),
            "norm_ffn.weight": (dim,),
            "mlstm_layer.q.weight": (qk, dim),
            "mlstm_layer.k.weight": (qk, dim),
            "mlstm_layer.v.weight": (dim, dim),
            "mlstm_layer.ogate_preact.weight": (dim, dim),
            "mlstm_layer.out_proj.weight": (dim, dim),
            "mlstm_layer.igate_preact.weight": (heads, dim),
            "mlstm_layer.igate_preact.bias": (heads,),
            "mlstm_layer.fgate_preact.weight": (heads, dim),
            "mlstm_layer.fgate_preact.bias": (heads,),
            "mlstm_layer.multihead_norm.weight": (dim,),
            "ffn.proj_up_gate.weight": (ffn, dim),
            "ffn.proj_up.weight": (ffn, dim),
            "ffn.proj_down.weight": (dim, ffn),
        }
        shapes |= {f"backbone.blocks.{block}.{name}": shape for name, shape in layer.items()}
    return shapes | {"backbone.out_norm.weight": (dim,), "lm_head.weight": (vocab, dim)}


def config(blocks: int) -> dict[str, object]:
    return {
        "model_type": "xlstm",
        "architectures": ["xLSTMForCausalLM"],
        "hidden_size": 4096,
        "num_hidden_layers": blocks,
        "num_heads": 8,
        "vocab_size": 50304,
        "qk_dim_factor": 0.5,
        "v_dim_factor": 1.0,
        "ffn_proj_factor": 2.667,
        "ffn_round_up_to_multiple_of": 64,
        "gate_soft_cap": 15.0,
        "output_logit_soft_cap": 30.0,
        "norm_eps": 1e-6,
        "eps": 1e-6,
        "use_bias": False,
        "add_out_norm": True,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def pattern() -> bytes:
    """Random bfloat16 values, to be written over and over."""
    noise = np.random.default_rng(0).normal(0, 0.02, 1 << 24).astype(np.float32)
    return (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # by truncation


def write_pickle(folder: Path, blocks: int) -> int:
    """Write one file of `torch.save`, as a training loop does; returns the bytes of all tensors."""
    folder.mkdir(parents=True)
    weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in tensor_shapes(blocks).items()}
    optimizer = {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-3}]}
    with torch.serialization.skip_data():  # leaves room for the values, and touches none
        torch.save({"model": weights, "config": config(blocks), "optimizer": optimizer}, folder / "ckpt.pt")
    values, total = pattern(), 0
    with (folder / "ckpt.pt").open("r+b") as file:
        for storage in read_torch_file(folder / "ckpt.pt").storages.values():
            file.seek(storage.offset)
            left = storage.length
            while left:
                left -= file.write(values[: min(left, len(values))])
            total += storage.length
    return total


def write_shards(folder: Path, blocks: int) -> int:
    """Write the shards and their index; returns the bytes of all tensors."""
    folder.mkdir(parents=True)
    values = pattern()
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in tensor_shapes(blocks).items():
        length = 2 * int(np.prod(shape))
        if size + length > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += length
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, offset = {}, 0
        for name, shape in shard.items():
            end = offset + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
            index[name] = file_name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file_name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            while offset:
                offset -= file.write(values[: min(offset, len(values))])
    total = sum(2 * int(np.prod(s)) for s in tensor_shapes(blocks).values())
    index_file = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
    (folder / "config.json").write_text(json.dumps(config(blocks), indent=2))
    return total


def disk_used(folder: Path, linked_from: Path) -> int:
    """Bytes that the bundle adds: files that are not links to the checkpoint's."""
    known = {(f.stat().st_dev, f.stat().st_ino) for f in linked_from.iterdir()}
    return sum(
        f.stat().st_size for f in folder.rglob("*") if f.is_file() and (f.stat().st_dev, f.stat().st_ino) not in known
    )


def quantize(bundle: Path, out: Path, methods: list[str]) -> None:
    """Print time and memory of each method, each in a process of its own."""
    table = Table("method", "wall clock", "processor", "peak memory", "weights", title="int4, blocks of 32")
    for method in methods:
        start = time.perf_counter()
        command = [sys.executable, "-m", "xlstm_export.cli", "quantize", str(bundle), "-o", str(out), "--overwrite"]
        process = subprocess.Popen([*command, "--weights", "int4", "--method", method], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit("quantize failed")
        size = (out / "model.weights").stat().st_size
        seconds, processor = time.perf_counter() - start, used.ru_utime + used.ru_stime
        memory = used.ru_maxrss * 1024
        table.add_row(
            method, f"{seconds:.0f} s", f"{processor:.0f} s", f"{memory / 1e9:.2f} GB", f"{size / 1e9:.2f} GB"
        )
    Console().print(table)
    print("load average", os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--pickle", action="store_true")
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--quantize", metavar="METHOD,...")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    checkpoint, bundle = args.work / "checkpoint", args.work / "bundle"
    needed = args.blocks * 430_000_000 * (2 if args.copy else 1) + 2 * GIB
    args.work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(args.work).free < needed:
        sys.exit(f"{args.work} has less than the {needed / GIB:.0f} GiB that this needs")
    try:
        total = (write_pickle if args.pickle else write_shards)(checkpoint, args.blocks)
        os.sync()
        start = time.perf_counter()
        command = [sys.executable, "-m", "xlstm_export.cli", "onnx", str(checkpoint), "-o", str(bundle)]
        subprocess.run([*command, "--dtype", "bfloat16", *([] if args.copy else ["--link-weights"])], check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        table = Table("what", "measured", "limit", title=f"Export of {args.blocks} blocks at the width of xLSTM-7B")
        table.add_row("weights", f"{total / 1e9:.2f} GB", "")
        table.add_row("peak memory", f"{peak / 1e9:.2f} GB", "1.5 GB")
        table.add_row("time", f"{seconds:.0f} s", "" if args.copy else "120 s")
        table.add_row("disk added", f"{disk_used(bundle, checkpoint) / 1e6:,.1f} MB", "" if args.copy else "100 MB")
        Console().print(table)
        if args.quantize:
            quantize(bundle, args.work / "quantised", args.quantize.split(","))
    finally:
        if not args.keep:
            shutil.rmtree(bundle, ignore_errors=True)
            shutil.rmtree(checkpoint, ignore_errors=True)
            shutil.rmtree(args.work / "quantised", ignore_errors=True)


if __name__ == "__main__":
    main()
