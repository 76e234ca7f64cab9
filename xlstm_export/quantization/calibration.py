"""A bundle run on a text with weights that change: what its products are fed, and how far its logits move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..bundle import Bundle
from ..errors import ErrorKind, UserError
from ..runtime.generation import require_logits
from ..validation.metrics import kl_divergence
from ..validation.texts import read_text
from .matrices import read_rows
from .sites import Site, find_sites

_ROWS, _POSITIONS, _PASS = 32, 256, 64
"""Pieces of the text side by side, their length, and how much of it one pass takes in."""
_SPREAD = 4096
"""Positions of the text from one piece's beginning to the next one's, where it is long enough."""


class Calibration:
    """The language model with every weight of `sites` as an input of its graph. All of it is in memory.

    Attributes:
        weights: by name, as the graph takes them; what is put there is what runs.
    """

    def __init__(self, bundle: Bundle, names: Sequence[str], block_size: int, text: Path, custom_ops: Path | None):
        """Raises:
        UserError: no language model, or in bfloat16; a text that cannot be read or is too short.
        """
        require_logits(bundle.manifest)
        if bundle.manifest.dtype == "bfloat16":
            raise UserError(
                ErrorKind.argument,
                f"{bundle.path} is in bfloat16, which cannot be run on the CPU as it has to be for --text. Export the "
                "checkpoint with --dtype float32 and quantise that bundle.",
            )
        self._manifest = bundle.manifest
        rows = bundle.manifest.batch or _ROWS
        tokens = read_text(text, bundle, rows, _SPREAD).inputs.T[:, : _ROWS * _POSITIONS // rows]
        dynamic = bundle.manifest.batch is None and bundle.manifest.mode != "step"
        length = _PASS if dynamic else 1
        self._passes = [tokens[:, at : at + length] for at in range(0, tokens.shape[1], length)]
        model = ir.load(bundle.model_file)
        if dynamic:
            _give_all_positions(model.graph)
        sites = {site.name: site for site in find_sites(model.graph, block_size)}
        self._sites = {name: sites[name] for name in names}
        self._fed = {name: _fed(site) for name, site in self._sites.items()}
        self.weights = {name: _as_fed(site, read_rows(site, 0, site.outputs)) for name, site in self._sites.items()}
        self._session = _load(model, self._sites, self._fed, bundle, custom_ops)
        self._reference = self._logits()

    def put(self, name: str, weights: np.ndarray) -> None:
        """Run with this W, (N, K), from now on."""
        self.weights[name] = _as_fed(self._sites[name], weights)

    def divergence(self) -> float:
        """KL(bundle ‖ what runs now) of the next token, in nats: the mean over the text."""
        pairs = zip(self._reference, self._logits(), strict=True)
        return float(np.mean([kl_divergence(old, new).mean() for old, new in pairs]))

    def groups(self) -> list[list[str]]:
        """Weights in products, those that are fed the same values together, in the order of the graph."""
        found: dict[str, list[str]] = {}
        for name, fed in self._fed.items():
            if fed is not None:
                found.setdefault(fed, []).append(name)
        return list(found.values())

    def second_moment(self, name: str) -> np.ndarray:
        """Of what a weight's product is fed now: the mean of x xᵀ over the text, (K, K) float32."""
        fed, site = self._fed[name], self._sites[name]
        assert fed is not None
        total, count = np.zeros((site.inputs, site.inputs), np.float32), 0
        for (values,) in self._run([fed]):
            x = values.reshape(-1, site.inputs).astype(np.float32)
            total += x.T @ x
            count += len(x)
        return total / count

    def _logits(self) -> list[np.ndarray]:
        width = self._manifest.output_width
        return [values.reshape(-1, width) for (values,) in self._run([self._manifest.output.name])]

    def _run(self, names: list[str]) -> Iterator[list[np.ndarray]]:
        """The values of these names in every pass, from states of zero."""
        manifest = self._manifest
        rows = len(self._passes[0])
        states = {state.input: np.zeros(state.sized(rows), state.dtype) for state in manifest.states}
        weights = {_input_name(self._sites[name]): value for name, value in self.weights.items()}
        outputs = [*names, *(state.output for state in manifest.states)]
        for tokens in self._passes:
            feeds = {manifest.input.name: np.ascontiguousarray(tokens), **weights, **states}
            if manifest.lengths is not None:
                feeds[manifest.lengths.name] = np.full(rows, tokens.shape[1], np.int32)
            values = self._session.run(outputs, feeds)
            states = dict(zip(states, values[len(names) :], strict=True))
            yield values[: len(names)]


def _input_name(site: Site) -> str:
    assert site.value.name is not None
    return site.value.name


def _fed(site: Site) -> str | None:
    """The name of what the weight is multiplied with."""
    value = site.products[0].inputs[0] if site.products else None
    return value.name if value is not None else None


def _as_fed(site: Site, weights: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weights.T if site.transposed else weights, site.dtype.numpy())


def _give_all_positions(graph: ir.Graph) -> None:
    """Leave out the choice of each row's last position, before the last norm: `Gather` from (batch * sequence, D).

    Logits are then (batch * sequence, 1, V), as the last `Reshape` has any number of rows where the batch is dynamic.
    """
    batch = graph.inputs[0].shape[0] if graph.inputs[0].shape is not None else None
    for node in graph:
        data, out = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Gather" or data is None or data.shape is None or out.shape is None:
            continue
        if len(data.shape) == 2 and "sequence" in str(data.shape[0]) and out.shape[0] == batch:
            ir.convenience.replace_all_uses_with(out, data)


def _load(
    model: ir.Model, sites: Mapping[str, Site], fed: Mapping[str, str | None], bundle: Bundle, custom_ops: Path | None
) -> ort.InferenceSession:
    graph = model.graph
    for site in sites.values():
        del graph.initializers[_input_name(site)]
        site.value.const_value = None
        graph.inputs.append(site.value)
    given = {value.name for value in graph.outputs}
    for site in sites.values():
        value = site.products[0].inputs[0] if site.products else None
        if value is not None and value.name not in given:
            given.add(value.name)
            graph.outputs.append(value)
    for value in graph.all_values() if hasattr(graph, "all_values") else ():
        value.shape = value.shape
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path.resolve()))
    if custom_ops is not None:
        options.register_custom_ops_library(str(custom_ops.resolve()))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
