"""Quantised bundles: what is in the file is what runs, whatever runs it, and it is near what it was made from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support.paths import DEMO

from xlstm_export.bundle import Bundle
from xlstm_export.engines.rewrite import with_plain_products
from xlstm_export.errors import UserError
from xlstm_export.inspection import inspect_bundle
from xlstm_export.operators.lookups import lookup_function, lookup_name
from xlstm_export.operators.names import DOMAIN, INT4_ROWS, INT8_ROWS, LOOKUPS, QUANTIZED_MATMUL
from xlstm_export.operators.products import joined_name, names_within
from xlstm_export.quantization import QuantizeOptions, calibration
from xlstm_export.quantization.formats import FLOAT8, INT4, INT8, blocked, packed, round_to_nearest, search_scales
from xlstm_export.quantization.gptq import gptq
from xlstm_export.quantization.quantize import quantize_bundle
from xlstm_export.runtime import open_session

HALF = np.dtype(np.float16)
HELDOUT = DEMO / "heldout.txt"
PROMPT = np.frombuffer(b"In the beginning God created", np.uint8).astype(np.int64)[None]


@pytest.fixture(scope="module")
def quantised(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The trained model in 4 and 8 bits."""
    folder = tmp_path_factory.mktemp("quantised")
    source = Bundle.open(demo_bundle)
    return {
        weights: quantize_bundle(source, folder / weights, QuantizeOptions(weights, method="rtn"))
        for weights in ("int4", "int8")
    }


def _weights(rows: int = 24, inputs: int = 80) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.02, (rows, inputs)).astype(np.float32)


@pytest.mark.parametrize("format_", [INT4, INT8, FLOAT8], ids=lambda f: f.name)
def test_search_is_nowhere_worse_than_rounding_to_nearest(format_):
    blocks = blocked(_weights(), 32)  # the last block is filled up

    def errors(method):
        codes, scales = method(blocks, format_, HALF)
        assert codes.min() >= format_.low and codes.max() <= format_.high
        return ((codes * scales[..., None] - blocks) ** 2).sum(-1)

    nearest, searched = errors(round_to_nearest), errors(search_scales)
    assert (searched <= nearest).all() and searched.sum() < nearest.sum()


def test_gptq_keeps_products_nearer_than_rounding_to_nearest_does():
    rng = np.random.default_rng(1)
    weights = _weights(inputs=96)
    x = (rng.normal(size=(500, 12)) @ rng.normal(size=(12, 96)) + 0.3 * rng.normal(size=(500, 96))).astype(np.float32)

    def error(codes, scales):
        return float((((codes * np.repeat(scales, 32, 1) - weights) @ x.T) ** 2).mean())

    codes, scales = round_to_nearest(blocked(weights, 32), INT4, HALF)
    nearest = error(codes.reshape(weights.shape), scales)
    assert error(*gptq(weights, x.T @ x / len(x), INT4, 32, HALF)) < nearest / 2


def test_gptq_takes_inputs_that_are_always_zero():
    moment = np.zeros((64, 64), np.float32)
    codes, scales = gptq(_weights(4, 64), moment, INT4, 32, HALF)
    assert np.isfinite(codes).all() and np.isfinite(scales).all()


def test_four_bit_codes_are_packed_as_onnx_packs_them():
    codes = np.random.default_rng(0).integers(-8, 8, (3, 5))  # an odd number
    tensor = helper.make_tensor("codes", onnx.TensorProto.INT4, codes.shape, packed(codes, INT4).tobytes(), raw=True)
    assert (numpy_helper.to_array(tensor).astype(np.int64) == codes).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [True, False], ids=["rows", "columns"])
def test_lookups_give_the_rows_of_codes_times_scales_as_written_and_for_engines(bits, rows):
    rng = np.random.default_rng(0)
    format_ = INT4 if bits == 4 else INT8
    codes = rng.integers(format_.low, format_.high + 1, (50, 96))
    scales = rng.random((50, 3)).astype(np.float16)
    weights = codes.astype(np.float32) * np.repeat(scales.astype(np.float32), 32, 1)
    laid, laid_scales = (codes, scales) if rows else (codes.T, np.ascontiguousarray(scales.T))
    raw, kind = packed(laid, format_), onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.UINT8
    shape = laid.shape if bits == 8 else (laid.shape[0], laid.shape[1] // 2)
    name = lookup_name(bits, rows)
    graph = helper.make_graph(
        [helper.make_node(name, ["codes", "scales", "indices"], ["y"], domain=DOMAIN, block_size=32)],
        "lookup",
        [helper.make_tensor_value_info("indices", onnx.TensorProto.INT64, ["M"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["M", 96])],
        [
            helper.make_tensor("codes", kind, shape, raw.tobytes(), raw=True),
            numpy_helper.from_array(laid_scales, "scales"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[lookup_function(name)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    indices = rng.integers(0, 50, 7)
    for variant in (model, with_plain_products(model)):
        session = ort.InferenceSession(variant.SerializeToString(), providers=["CPUExecutionProvider"])
        assert (session.run(None, {"indices": indices})[0] == weights[indices]).all()
    assert name in LOOKUPS and not with_plain_products(model).functions


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_engines_get_products_behind_a_dequantize_node_of_the_graph_itself(weights, quantised):
    bundle = quantised[weights]
    model = onnx.load(bundle.model_file)
    plain = with_plain_products(model)
    before, after = (Counter(node.op_type for node in m.graph.node) for m in (model, plain))
    assert before[QUANTIZED_MATMUL] == 13 and not after[QUANTIZED_MATMUL]
    assert after["DequantizeLinear"] == 14  # with the embedding
    assert {f.name for f in model.functions} - {f.name for f in plain.functions} == {
        QUANTIZED_MATMUL,
        INT4_ROWS if weights == "int4" else INT8_ROWS,
    }
    fed = {s.input: np.zeros(s.sized(1), np.float32) for s in bundle.manifest.states}
    fed |= {"tokens": PROMPT, "lengths": np.array([PROMPT.shape[1]], np.int32)}
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    outputs = [
        ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(["logits"], fed)[0]
        for m in (model, plain)
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-5 * np.abs(outputs[0]).max())


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_onnxruntime_multiplies_with_codes_and_gets_what_the_unpacked_weights_give(weights, quantised, tmp_path):
    path = quantised[weights].model_file
    outputs = []
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.optimized_model_filepath = str(tmp_path / f"{level}.onnx")
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        manifest = quantised[weights].manifest
        states = {s.input: np.zeros(s.sized(1), np.float32) for s in manifest.states}
        lengths = np.array([PROMPT.shape[1]], np.int32)
        outputs.append(session.run(["logits"], {"tokens": PROMPT, "lengths": lengths} | states)[0])
        kinds = [
            node.op_type for node in onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
        ]
        if level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL:
            assert kinds.count("MatMulNBits") == 13 and kinds.count("DequantizeLinear") <= 2  # of looked-up rows
    # The sums of each product are added in another order: a few units in the last place, which 13 products carry on.
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-4 * np.abs(outputs[1]).max()


def test_quantised_bundles_are_small_and_near_and_share_states_with_their_source(quantised, demo_bundle, tmp_path):
    source = Bundle.open(demo_bundle)
    size = (demo_bundle / "model.weights").stat().st_size
    with open_session(source) as session:
        exact = session.feed(PROMPT)
        session.save(tmp_path / "state")
    for weights, share, bound in (("int8", 0.36, 0.02), ("int4", 0.24, 0.25)):
        bundle = quantised[weights]
        assert (bundle.path / "model.weights").stat().st_size < share * size
        for activations in ("float32", "int8"):
            with open_session(bundle, activations=activations) as session:
                near = session.feed(PROMPT)
                assert 0 < np.abs(near - exact).max() < bound * (exact.max() - exact.min())
                session.load(tmp_path / "state")
        found = inspect_bundle(Bundle.open(bundle.path))
        assert found.parameters == inspect_bundle(source).parameters
        assert found.quantization["weights"] == weights and found.read_bytes < found.weight_bytes


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_a_tied_embedding_is_stored_once_and_gives_what_its_codes_stand_for(weights, export_variant, tmp_path):
    source = Bundle.open(export_variant("a-tied")[2])
    bundle = quantize_bundle(source, tmp_path / weights, QuantizeOptions(weights))
    assert source.manifest.architecture["tied_head"]
    # In 8 bits in any case: 97 columns of four-bit codes would not begin with a byte each.
    assert bundle.weight_sizes["embedding.weight.codes"] * 4 == source.weight_sizes["embedding.weight"]
    assert bundle.manifest.quantization["others"].get("embedding.weight") == ("int8" if weights == "int4" else None)
    assert (bundle.path / "model.weights").stat().st_size < (source.path / "model.weights").stat().st_size / 2
    unpacked = onnx.load(source.model_file)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(bundle.model_file).graph.initializer}
    for tensor in unpacked.graph.initializer:
        if f"{tensor.name}.codes" in stored:
            codes, scales = (stored[f"{tensor.name}.{part}"].astype(np.float32) for part in ("codes", "scales"))
            weight = codes * np.repeat(scales, 32, 0)[: len(codes)]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), tensor.name))
    tokens = np.arange(5)[None] % source.manifest.vocab_size
    fed = {"tokens": tokens, "lengths": np.array([5], np.int32)}
    fed |= {state.input: np.zeros(state.sized(1), np.float32) for state in source.manifest.states}
    session = ort.InferenceSession(unpacked.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], fed)[0]
    found = open_session(bundle, activations="float32").feed(tokens)
    # Sums in another order: some units in the last place, which the random gates of this model carry on.
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture
def short_text(monkeypatch):
    monkeypatch.setattr(calibration, "_ROWS", 4)
    monkeypatch.setattr(calibration, "_POSITIONS", 64)


def test_gptq_on_a_text_moves_the_logits_less_than_rounding_to_nearest(demo_bundle, short_text, tmp_path, quantised):
    bundle = quantize_bundle(
        Bundle.open(demo_bundle), tmp_path / "gptq", QuantizeOptions("int4", method="gptq", text=HELDOUT)
    )
    said = bundle.manifest.quantization
    tokens = np.frombuffer(HELDOUT.read_bytes()[-96:], np.uint8).astype(np.int64)

    def logits(b):
        session = open_session(b, activations="float32")
        return np.stack([session.step(token.reshape(1, 1)) for token in tokens])

    exact = logits(Bundle.open(demo_bundle))
    nearest, rounded = (np.square(logits(b) - exact).mean() for b in (quantised["int4"], bundle))
    assert said["method"] == "gptq" and 0 < said["kl_divergence"] < 0.01 and rounded < nearest


def test_a_budget_is_kept_and_spent_where_the_logits_move_most(demo_bundle, short_text, tmp_path):
    source = Bundle.open(demo_bundle)

    def quantise(name, **budget):
        options = QuantizeOptions("int4", 128, "rtn", text=HELDOUT, **budget)
        return quantize_bundle(source, tmp_path / name, options)

    small = quantise("bits", bits=4.8)
    said = small.manifest.quantization
    assert said["bits_per_weight"] <= 4.8 and "int8" in said["others"].values()
    sized = quantise("size", size=1_900_000)
    assert (sized.path / "model.weights").stat().st_size <= 1_900_000
    assert sized.manifest.quantization["kl_divergence"] < said["kl_divergence"]
    with pytest.raises(UserError, match="more than"):
        quantise("least", bits=4.0)
    assert not (tmp_path / "least").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"weights": "int4", "keep": ("nothing.like.it",)},
            "is called nothing.like.it",
        ),
        ({"weights": "int4", "keep": ("*",)}, "no matrix to quantise"),
        ({"weights": "int4", "method": "gptq"}, "name one with --text"),
        ({"weights": "int8", "bits": 5, "text": HELDOUT}, "give --weights int4"),
        ({"weights": "int4", "bits": 5, "size": 9, "text": HELDOUT}, "give one of them"),
        ({"weights": "int4", "block_size": 48}, "32, 64, 128"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(options, message, demo_bundle, tmp_path):
    with pytest.raises(UserError, match=message):
        quantize_bundle(Bundle.open(demo_bundle), tmp_path / "out", QuantizeOptions(**options))
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_quantised_once_and_not_into_itself(demo_bundle, quantised, tmp_path):
    with pytest.raises(UserError, match="quantised already"):
        quantize_bundle(quantised["int8"], tmp_path / "out", QuantizeOptions("int4"))
    with pytest.raises(UserError, match="is the bundle itself"):
        quantize_bundle(Bundle.open(demo_bundle), demo_bundle, QuantizeOptions("int4", overwrite=True))
    assert json.loads((demo_bundle / "manifest.json").read_text())["quantization"] is None


def test_weights_that_lie_one_under_the_other_are_kept_by_the_name_of_any(export_variant, tmp_path):
    bundle = Bundle.open(export_variant("b-single")[2])
    options = QuantizeOptions("int8", method="rtn", keep=("blocks.0.mlstm.k", "*igate.*"))
    quantize_bundle(bundle, tmp_path / "out", options)
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    parts = next(name for name in weights if name.startswith("blocks.0.mlstm.q+k"))
    assert parts.endswith(".weight") and f"{parts.replace('.0.', '.1.')}" not in weights


@pytest.mark.parametrize(
    "names, joined",
    [
        (["blocks.0.mlstm.q.weight", "blocks.0.mlstm.k.weight"], "blocks.0.mlstm.q+k.weight"),
        (["q.bias", "k.bias"], "q+k.bias"),
        (["a.left.q.weight", "a.right.q.weight"], "a.left.q+a.right.q.weight"),
        (["head.weight"], "head.weight"),
    ],
)
def test_names_within_a_joined_name_are_those_it_was_made_of(names, joined):
    assert joined_name(names) == joined
    assert names_within(joined) == tuple(names)


def test_bfloat16_is_read_and_kept_as_scales(export_variant, tmp_path):
    _, _, path = export_variant("a-mixed", dtype="bfloat16")
    source = Bundle.open(path)
    bundle = quantize_bundle(source, tmp_path / "out", QuantizeOptions("int8"))
    scales = [t for t in bundle.graph.graph.initializer if t.name.endswith(".scales")]
    assert scales and all(t.data_type == onnx.TensorProto.BFLOAT16 for t in scales)
    tokens = np.arange(5)[None] % source.manifest.vocab_size
    exact, near = open_session(source).feed(tokens), open_session(bundle, activations="float32").feed(tokens)
    # Codes are within 1/254 of a block's largest value; products and this model's random gates carry that on.
    assert np.abs(near - exact).max() < 0.1 * (exact.max() - exact.min())
