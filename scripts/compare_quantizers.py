"""Our 4 bits against those of nvidia-modelopt (AWQ), on one bundle and held-out text.

    python scripts/compare_quantizers.py BUNDLE CALIBRATION.txt HELDOUT.txt --modelopt PYTHON [--block-size 32]

PYTHON is an interpreter that has nvidia-modelopt[onnx] (0.47 was measured), in an environment of its own. All quantise
the same products, those of our default; each in blocks of the same size. Printed: bits per byte on 8,000 held-out bytes
in steps, inputs of products in float32. Ours with 3 bits is in the table too: the
levels of 3 bits in the storage of 4.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from xlstm_export.bundle import Bundle
from xlstm_export.operators.names import LINEAR
from xlstm_export.quantization import KEPT, QuantizeOptions, formats
from xlstm_export.quantization.quantize import quantize_bundle
from xlstm_export.quantization.sites import find_sites, matches
from xlstm_export.validation.metrics import negative_log_likelihood
from xlstm_export.validation.texts import read_text

ROWS, STEPS, CALIBRATION_STEPS = 8, 1000, 32

MODELOPT = """
import sys, numpy as np, onnx
from modelopt.onnx.quantization.int4 import quantize
source, feeds, out, method, block, *excluded = sys.argv[1:]
data = np.load(feeds)
names = sorted({name.rpartition("@")[0] for name in data})
passes = [{n: data[f"{n}@{i}"] for n in names} for i in range(len(data) // len(names))]
class Reader:
    def __init__(self): self.rewind()
    def get_next(self): return next(self.left, None)
    def get_first(self): return passes[0]
    def rewind(self): self.left = iter(passes)
    def __iter__(self): return iter(passes)
model = quantize(onnx.load(source), method, Reader(), ["cpu"], False, block_size=int(block), nodes_to_exclude=excluded)
onnx.save(model, out)
"""


def plain_model(bundle: Bundle) -> tuple[onnx.ModelProto, list[str]]:
    """The bundle with `MatMul` for every product and the cells inlined, and the products that are not quantised."""
    model = ir.load(bundle.model_file)
    kept = []
    for site in find_sites(model.graph, 32):
        assert site.value.const_value is not None
        for node in site.products:
            name = node.name or ""
            if matches(site.name, KEPT):
                kept.append(name)
            if node.op_type != LINEAR:
                continue
            turned = ir.tensor(np.ascontiguousarray(site.value.const_value.numpy().T), name=f"{name}.weight")
            weight = ir.val(f"{name}.weight", const_value=turned)
            model.graph.register_initializer(weight)
            product = ir.node("MatMul", [node.inputs[0], weight], name=name)
            product.outputs[0].name = f"{name}_product"
            model.graph.insert_before(node, product)
            ir.convenience.replace_all_uses_with(node.outputs[0], product.outputs[0])
            model.graph.remove(node, safe=True)
    proto = ir.to_proto(model)
    onnx.external_data_helper.load_external_data_for_model(proto, str(bundle.path))
    return onnx.inliner.inline_local_functions(proto), kept


def run(model: onnx.ModelProto | Path, bundle: Bundle, tokens: np.ndarray, feeds: list | None = None) -> np.ndarray:
    """Logits (steps, rows, vocabulary) of tokens (steps, rows); what each step was fed is appended to `feeds`."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    manifest, rows = bundle.manifest, tokens.shape[1]
    states = {s.input: np.zeros(s.sized(rows), np.float32) for s in manifest.states}
    found = []
    for step in tokens:
        fed = {"tokens": step[:, None], "lengths": np.ones(rows, np.int32)} | states
        if feeds is not None:
            feeds.append(fed)
        logits, *following = session.run(["logits", *(s.output for s in manifest.states)], fed)
        states = dict(zip(states, following, strict=True))
        found.append(logits[:, 0])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "calibration", "heldout"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--modelopt", metavar="PYTHON")
    parser.add_argument("--block-size", type=int, default=32)
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    heldout = read_text(args.heldout, bundle, ROWS, STEPS)
    base, kept = plain_model(bundle)
    title = f"int4, blocks of {args.block_size}, on {heldout.bytes} bytes"
    table = Table("quantiser", "bits per byte", "", title=title)
    reference: list[float] = []

    def score(name: str, model: onnx.ModelProto | Path) -> None:
        logits = run(model, bundle, heldout.inputs)
        nll = negative_log_likelihood(logits.reshape(-1, logits.shape[-1]), heldout.targets.reshape(-1)).sum()
        bits = nll / np.log(2) / heldout.bytes
        reference.append(bits)
        table.add_row(name, f"{bits:.5f}", f"{100 * (bits / reference[0] - 1):+.3f} %")
        print(name, f"{bits:.5f} {100 * (bits / reference[0] - 1):+.4f} %", flush=True)

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        score("none: float32", base)
        onnx.save(base, folder / "base.onnx")
        if args.modelopt:
            feeds: list[dict[str, np.ndarray]] = []
            tokens = read_text(args.calibration, bundle, 32, 4096).inputs[:CALIBRATION_STEPS]
            run(base, bundle, tokens, feeds)
            np.savez(folder / "feeds.npz", **{f"{k}@{i}": v for i, fed in enumerate(feeds) for k, v in fed.items()})
            for method in ("awq_lite", "awq_clip"):
                command = [
                    args.modelopt,
                    "-c",
                    MODELOPT,
                    folder / "base.onnx",
                    folder / "feeds.npz",
                    folder / "out.onnx",
                ]
                environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
                if subprocess.run([*command, method, str(args.block_size), *kept], env=environment).returncode:
                    print(f"modelopt {method} failed", file=sys.stderr)
                    continue
                score(f"modelopt {method}", folder / "out.onnx")
        own_embedding = ("embedding.*", *KEPT)  # the others leave it in float32
        for method in ("rtn", "search", "gptq"):
            options = QuantizeOptions("int4", args.block_size, method, own_embedding, args.calibration, overwrite=True)
            score(f"ours, {method}", quantize_bundle(bundle, folder / "ours", options).model_file)
        everything = QuantizeOptions("int4", args.block_size, "gptq", text=args.calibration, overwrite=True)
        score("ours, gptq, embedding too", quantize_bundle(bundle, folder / "ours", everything).model_file)
        object.__setattr__(formats.INT4, "low", -4)
        object.__setattr__(formats.INT4, "high", 3)
        score("ours, gptq, embedding too, 3 bits", quantize_bundle(bundle, folder / "ours", everything).model_file)
    Console().print(table)


if __name__ == "__main__":
    main()
