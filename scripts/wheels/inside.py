"""Run by scripts/release.py inside an environment that has the wheel: what ran, as JSON.

    python inside.py BUNDLE

Imports nothing but what is installed there.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

from xlstm_export import cli, open_bundle, open_session
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, find_place
from xlstm_export.runtime.onnxruntime import LAYERS_ENTRY


class Watched(io.StringIO):
    """What is printed; whether this process had our library loaded meanwhile, which goes with the session."""

    loaded = False

    def write(self, text: str) -> int:
        self.loaded |= str(library) in Path("/proc/self/maps").read_text()
        return super().write(text)


def command(*arguments: str) -> Watched:
    """What a command printed."""
    sys.argv = ["xlstm-export", *arguments]
    with contextlib.redirect_stdout(Watched()) as printed, contextlib.suppress(SystemExit):
        cli.main()
    return printed


def nodes_that_ran(bundle: Path, library: Path | None) -> Counter[str]:
    """Our operators in ONNX Runtime's own profile of a pass: where it runs their definitions, there are none."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        if library is not None:
            options.add_session_config_entry(LAYERS_ENTRY, "1")
            options.register_custom_ops_library(str(library))
        session = ort.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
        types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
        given = {
            i.name: np.ones([n if isinstance(n, int) else 1 for n in i.shape], types[i.type])
            for i in session.get_inputs()
        }
        session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    names = {"MLSTMCell", "SLSTMCell", "CausalConv", "MLSTMProjections", "SLSTMProjections", "SkipGatedHeadNorm"}
    names |= {"HeadNorm", "AddLayerNorm", "GEGLU"}
    return Counter(n for e in events if (n := e.get("args", {}).get("op_name")) in names)


folder = Path(sys.argv[1])
place = find_place(ONNXRUNTIME_LIBRARY)
library = place.folder / ONNXRUNTIME_LIBRARY
text = command("generate", str(folder), "--prompt", "In the beginning ", "-n", "40", "--temperature", "0")
assert text.loaded, "generate ran without the library"
bundle = open_bundle(folder)
logits = []
for custom_ops in (None, "none"):
    with open_session(bundle, custom_ops=custom_ops) as session:
        logits.append(
            session.prefill([np.frombuffer(b"In the beginning God created the heaven", np.uint8).astype(np.int64)])
        )
print(
    json.dumps(
        {
            "origin": place.origin,
            "library": str(library),
            "text": text.getvalue(),
            "largest_difference": float(np.abs(logits[0] - logits[1]).max()),
            "largest_logit": float(np.abs(logits[1]).max()),
            "with_library": nodes_that_ran(folder, library),
            "without": nodes_that_ran(folder, None),
            "onnxruntime": ort.__version__,
            "heavy": sorted({"torch", "onnx", "onnx_ir", "matplotlib", "sympy"} & sys.modules.keys()),
        }
    )
)
