"""What transformers' own ONNX exporter (from 5.2x on) makes of `xLSTMForCausalLM`, and its decode graph running.

The export is the best of its kind for a CPU: any batch, with its fusions for ONNX Runtime.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..bundle import Manifest
from ..errors import ErrorKind, UserError
from .job import Job

_DECODE = "decode.onnx"
_STATE = "cache."
_BEFORE, _AFTER = "input.", "output."


class Export:
    """Export the model into the job's folder."""

    def __init__(self, job: Job):
        try:
            from transformers.exporters import OnnxExporter
            from transformers.exporters.configs import OnnxConfig
        except ImportError:
            raise UserError(
                ErrorKind.unavailable,
                "this transformers has no ONNX exporter, which came with 5.2x. Run: pip install -U transformers",
            ) from None
        import torch

        from ..references import build_upstream
        from ..references.load import load_upstream

        assert job.source is not None and job.folder is not None  # of this kind
        checkpoint = job.source.open()
        if checkpoint.family != "xlstm-hf":
            raise UserError(
                ErrorKind.argument,
                f"transformers exports xLSTMForCausalLM, and {checkpoint.path} is of family {checkpoint.family}. "
                "Leave `transformers` out of --against.",
            )
        random = job.source.random
        loaded = build_upstream(checkpoint.family, checkpoint.config) if random else load_upstream(checkpoint)
        prompt = torch.zeros(2, 8, dtype=torch.int64)  # axes of size 1 would become constants
        how = OnnxConfig(dynamic=True, ort_fusions="cpu")
        exported = OnnxExporter().export_for_generation(loaded.module.eval(), {"input_ids": prompt}, how)
        exported.save_pretrained(job.folder)
        self._nodes = {name: len(list(c.program.graph)) for name, c in exported.components.items()}

    def nodes(self) -> dict[str, int]:
        """Of each graph."""
        return self._nodes


class ExportRunner:
    """The decode graph in ONNX Runtime, its states in two sets of buffers that are input and output by turns."""

    def __init__(self, manifest: Manifest, job: Job):
        assert job.folder is not None  # of this kind
        options = ort.SessionOptions()
        options.log_severity_level = 3
        threads = os.environ.get("OMP_NUM_THREADS", "")
        options.intra_op_num_threads = int(threads) if threads.isdigit() else 0
        self._session = ort.InferenceSession(str(Path(job.folder) / _DECODE), options, ["CPUExecutionProvider"])
        self._batch, random = job.batch, np.random.default_rng(0)
        self._tokens = self._value(random.integers(0, manifest.vocab_size or 1, (job.batch, 1)))
        self.logits = self._value(np.zeros((job.batch, 1, manifest.output_width), np.float32))
        specs = [spec for spec in self._session.get_inputs() if spec.name.startswith(_BEFORE + _STATE)]
        self.names = [spec.name for spec in specs]
        self.states = [[self._zeros(spec) for spec in specs] for _ in range(2)]
        self._turns = [self._bind(*self.states), self._bind(*reversed(self.states))]
        self._turn = 0

    def step(self) -> None:
        """Feed the token that lies in the input's buffer."""
        self._session.run_with_iobinding(self._turns[self._turn])
        self._turn = 1 - self._turn

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (B, 1) int64 → logits (B, 1, V)."""
        self._tokens.update_inplace(tokens)
        self.step()
        return self.logits.numpy().copy()

    def read_states(self) -> dict[str, np.ndarray]:
        """By transformers' names, `rnn_state.0.1` and `seqlen_offset`."""
        prefix = len(_BEFORE + _STATE)
        return {n[prefix:]: v.numpy().copy() for n, v in zip(self.names, self.states[self._turn], strict=True)}

    def _bind(self, before: list[Any], after: list[Any]) -> ort.IOBinding:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("input_ids", self._tokens)
        binding.bind_ortvalue_output("logits", self.logits)
        for name, old, new in zip(self.names, before, after, strict=True):
            binding.bind_ortvalue_input(name, old)
            binding.bind_ortvalue_output(_AFTER + name.removeprefix(_BEFORE), new)
        return binding

    def _zeros(self, spec: Any) -> Any:
        # Its graphs call some fixed sizes by their digits; what else has a name is the batch.
        shape = [int(extent) if str(extent).isdigit() else self._batch for extent in spec.shape]
        return self._value(np.zeros(shape, _DTYPES[spec.type]))

    @staticmethod
    def _value(array: np.ndarray) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0)


_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
