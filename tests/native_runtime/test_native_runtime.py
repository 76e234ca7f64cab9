"""libxlstm_runtime on ONNX Runtime's CPU provider: bit for bit what Python computes; what it says when it cannot."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.runtime_build import (
    ROOT,
    attempt,
    custom_op_library,
    environment,
    onnxruntime_library,
    release_build,
    require_tensorrt_headers,
    run,
)

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.exporter import ExportOptions, export_bundle
from xlstm_export.runtime import open_session
from xlstm_export.runtime.generation import Generation
from xlstm_export.runtime.sampling import Sampler, Sampling

Export = Callable[..., tuple[object, Path, Path]]
STEPS = 1000
CASES = [  # every family; both dtypes that the CPU computes; a block stack; a batch; a batch fixed at export
    ("a-mixed", "float32", None, 1),
    ("a-mixed", "float16", None, 3),
    ("a-stack", "float32", None, 2),
    ("b-single", "float32", 2, 2),
    ("b-fused-bias", "float16", None, 1),
    ("c-single", "float32", None, 1),
]


PREFILL_CASES = [  # rows of different lengths, some idle; a block stack; a batch fixed at export
    ("a-mixed", "float32", None, (300, 1, 0, 65)),
    ("a-mixed", "float16", None, (270,)),
    ("a-stack", "float32", None, (130, 130)),
    ("b-single", "float32", 2, (0, 80)),
    ("c-single", "float32", None, (257, 64, 7)),
]


@pytest.fixture(scope="module")
def release() -> Path:
    """The programs of an ordinary build, with the TensorRT back end where its headers are here."""
    return release_build() / "bin"


@pytest.fixture(scope="module", autouse=True)
def _cpu_and_one_thread() -> Iterator[None]:
    """Both sides split the work the same way: not at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


def make_inputs(bundle: Path, steps: int, batch: int, seed: int = 0) -> np.ndarray:
    """(steps, batch, 1) int64 or (steps, batch, 1, D) float32."""
    manifest, random = Bundle.open(bundle).manifest, np.random.default_rng(seed)
    if manifest.vocab_size:
        return random.integers(0, manifest.vocab_size, (steps, batch, 1))
    return random.standard_normal((steps, *manifest.input.sized(batch)), dtype=np.float32)


def python_steps(bundle: Path, inputs: np.ndarray, library: Path | None = None) -> np.ndarray:
    with open_session(Bundle.open(bundle), batch=inputs.shape[1], custom_ops=library) as session:
        return np.stack([session.step(step) for step in inputs])


def native_steps(release: Path, bundle: Path, inputs: np.ndarray, folder: Path, *named: str) -> np.ndarray:
    inputs.tofile(folder / "inputs")
    arguments = ["steps", bundle, inputs.shape[1], folder / "inputs", folder / "outputs", "threads=1", *named]
    run(release / "runtime_driver", *arguments)
    shape = Bundle.open(bundle).manifest.output.sized(inputs.shape[1])
    return np.fromfile(folder / "outputs", np.float32).reshape(len(inputs), *shape)


def make_prompts(bundle: Path, lengths: Sequence[int]) -> list[np.ndarray]:
    """A prompt a row, (T) int64 or (T, D) float32."""
    inputs = make_inputs(bundle, max(lengths), len(lengths), seed=1)
    rows = inputs[..., 0] if Bundle.open(bundle).manifest.vocab_size else inputs[:, :, 0]
    return [rows[:length, row] for row, length in enumerate(lengths)]


def python_prefill(
    bundle: Path, prompts: list[np.ndarray], chunk: int | None = None, library: Path | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Outputs after the prompts, outputs after one more step, of zeros, and the states then."""
    with open_session(Bundle.open(bundle), batch=len(prompts), custom_ops=library) as session:
        spec = session.manifest.input
        after = session.prefill(prompts, chunk)
        following = session.step(np.zeros(spec.sized(len(prompts)), spec.dtype))
        return after, following, session.read_states()


def native_prefill(
    release: Path, bundle: Path, prompts: list[np.ndarray], folder: Path, *named: str
) -> tuple[np.ndarray, np.ndarray]:
    (folder / "inputs").write_bytes(b"".join(prompt.tobytes() for prompt in prompts))
    lengths = ",".join(str(len(prompt)) for prompt in prompts)
    files = (folder / "inputs", folder / "outputs")
    run(release / "runtime_driver", "prefill", bundle, lengths, *files, "threads=1", *named)
    shape = Bundle.open(bundle).manifest.output.sized(len(prompts))
    after, following = np.fromfile(folder / "outputs", np.float32).reshape(2, *shape)
    return after, following


@pytest.mark.parametrize("name, dtype, fixed, batch", CASES)
def test_logits_are_pythons_to_the_last_bit(
    release: Path, export_variant: Export, tmp_path: Path, name: str, dtype: str, fixed: int | None, batch: int
) -> None:
    bundle = export_variant(name, dtype, fixed)[2]
    inputs = make_inputs(bundle, STEPS, batch)
    expected, found = python_steps(bundle, inputs), native_steps(release, bundle, inputs, tmp_path)
    assert expected.std() > 0.01
    assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize("name, dtype, fixed, batch", CASES)
def test_logits_are_pythons_to_the_last_bit_with_the_custom_op_library(
    release: Path,
    export_variant: Export,
    tmp_path: Path,
    name: str,
    dtype: str,
    fixed: int | None,
    batch: int,
) -> None:
    bundle = export_variant(name, dtype, fixed)[2]
    inputs = make_inputs(bundle, STEPS, batch)
    library = custom_op_library()
    expected = python_steps(bundle, inputs, library)
    found = native_steps(release, bundle, inputs, tmp_path, f"ops={library}")
    assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize("chunk", [None, 64, 7, 1])
@pytest.mark.parametrize("ops", [False, True], ids=["definitions", "custom-ops"])
@pytest.mark.parametrize("name, dtype, fixed, lengths", PREFILL_CASES)
def test_prompts_give_the_logits_that_python_gives_to_the_last_bit(
    release: Path,
    export_variant: Export,
    tmp_path: Path,
    name: str,
    dtype: str,
    fixed: int | None,
    lengths: tuple[int, ...],
    ops: bool,
    chunk: int | None,
) -> None:
    library = custom_op_library() if ops else None
    named = [*([f"ops={library}"] if ops else []), *([f"chunk={chunk}"] if chunk else [])]
    for logits in ("last", "all"):
        bundle = export_variant(name, dtype, fixed, logits=logits)[2]
        prompts = make_prompts(bundle, lengths)
        expected, next_expected, _ = python_prefill(bundle, prompts, chunk, library)
        after, following = native_prefill(release, bundle, prompts, tmp_path, *named)
        assert expected.std() > 0.01
        assert after.tobytes() == expected.tobytes()
        assert following.tobytes() == next_expected.tobytes()


def test_a_block_stack_can_be_fed_its_own_outputs(release: Path, export_variant: Export, tmp_path: Path) -> None:
    bundle = export_variant("a-stack")[2]
    prompts = make_prompts(bundle, (9, 9))
    after, found = native_prefill(release, bundle, prompts, tmp_path, "feedback=1")
    with open_session(Bundle.open(bundle), batch=2) as session:
        assert session.prefill(prompts).tobytes() == after.tobytes()
        assert session.prefill(list(after)).tobytes() == found.tobytes()


@pytest.mark.parametrize("name", ["a-mixed", "a-stack"])
def test_prompts_go_step_by_step_where_the_bundle_takes_only_steps(
    release: Path, export_variant: Export, tmp_path: Path, name: str
) -> None:
    bundle = export_variant(name, mode="step")[2]
    prompts = make_prompts(bundle, (9, 9))
    inputs = np.stack(prompts, 1).reshape(9, *Bundle.open(bundle).manifest.input.sized(2))
    expected = native_steps(release, bundle, np.concatenate([inputs, np.zeros_like(inputs[:1])]), tmp_path)
    found = native_prefill(release, bundle, prompts, tmp_path)
    assert np.stack(found).tobytes() == expected[-2:].tobytes()


def test_prompts_of_different_lengths_are_refused_where_the_bundle_takes_only_steps(
    release: Path, export_variant: Export, tmp_path: Path
) -> None:
    bundle = export_variant("a-mixed", mode="step")[2]
    np.zeros(5, np.int64).tofile(tmp_path / "inputs")
    files = (tmp_path / "inputs", tmp_path / "outputs")
    done = attempt(release / "runtime_driver", "prefill", bundle, "2,3", *files, "threads=1")
    assert done.returncode == 2
    assert "prompts of 2 to 3 tokens; this model goes step by step" in done.stderr
    assert "--mode both" in done.stderr


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=0.8, seed=7),
        Sampling(temperature=1.3, top_k=5, seed=2**32 - 1),
        Sampling(temperature=1.0, top_p=0.7, seed=1),
        Sampling(temperature=0.5, top_k=40, top_p=0.95, seed=3),
    ],
    ids=str,
)
def test_the_same_seed_draws_the_tokens_that_python_draws(
    release: Path, export_variant: Export, sampling: Sampling
) -> None:
    bundle = export_variant("a-mixed")[2]
    prompt = [1, 5, 9, 96]
    with open_session(Bundle.open(bundle)) as session:
        expected = list(Generation(session, prompt, STEPS, Sampler(sampling)))
    s = sampling
    ids = run(
        release / "runtime_driver",
        "tokens",
        bundle,
        ",".join(map(str, prompt)),
        STEPS,
        s.temperature,
        s.top_k,
        s.top_p,
        s.seed,
    ).split()
    assert list(map(int, ids)) == expected


def test_a_killed_process_continues_from_its_saved_state_as_if_never_stopped(
    release: Path, export_variant: Export, tmp_path: Path
) -> None:
    bundle = export_variant("a-mixed")[2]
    inputs = make_inputs(bundle, 200, 2)
    whole = native_steps(release, bundle, inputs, tmp_path)
    first = native_steps(release, bundle, inputs[:120], tmp_path, f"save={tmp_path / 's.state'}")
    rest = native_steps(release, bundle, inputs[120:], tmp_path, f"load={tmp_path / 's.state'}")
    assert whole.tobytes() == first.tobytes() + rest.tobytes()

    # Killed with SIGKILL while it generates, after it has loaded the file that it would save to.
    state = save_one(release, bundle, tmp_path)
    saved = state.read_bytes()
    endless = [release / "xlstm-generate", bundle, "--ids", "1", "--max-new-tokens", "1000000000"]
    process = subprocess.Popen(
        [*endless, "--load", state, "--save", state], env=environment(), stdout=subprocess.PIPE, text=True
    )
    tokens = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert state.read_bytes() == saved
    again = run(release / "xlstm-generate", bundle, "--ids", "1", "--max-new-tokens", "20", "--load", state)
    assert again.splitlines(keepends=True) == tokens


def save_one(release: Path, bundle: Path, folder: Path) -> Path:
    """The state of one sequence after a few tokens."""
    state = folder / "one.state"
    run(release / "xlstm-generate", bundle, "--ids", "1,2,3", "--max-new-tokens", "1", "--save", state)
    return state


def test_a_state_moves_between_dtypes_of_a_model_and_not_to_another_model(
    release: Path, export_variant: Export, tmp_path: Path
) -> None:
    _, checkpoint, bundle = export_variant("a-mixed")
    state = save_one(release, bundle, tmp_path)
    load = ("--ids", "1", "--max-new-tokens", "1", "--load", state)
    export_bundle(open_checkpoint(checkpoint), tmp_path / "half", ExportOptions("float16", batch=1))
    run(release / "xlstm-generate", tmp_path / "half", *load)
    # The same architecture with other weights.
    refused = attempt(release / "xlstm-generate", export_variant("a-yaml")[2], *load)
    assert refused.returncode == 2
    assert "was saved by another model" in refused.stderr


def test_an_installed_package_is_found_by_cmake_and_pkg_config(export_variant: Export, tmp_path: Path) -> None:
    bundle, prefix = export_variant("c-single")[2], tmp_path / "prefix"
    run("cmake", "--install", release_build(), "--prefix", prefix)
    moved = prefix.rename(tmp_path / "moved")  # nothing in it may name the place of installation
    consumer = Path(__file__).parent / "consumer"
    run("cmake", "-S", consumer, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={moved}")
    run("cmake", "--build", tmp_path / "build")
    tokens = run(tmp_path / "build" / "consumer", bundle).split()
    assert len(tokens) == 10
    assert run(tmp_path / "build" / "consumer_c", bundle).split() == tokens
    generated = run(
        moved / "bin" / "xlstm-generate", bundle, "--ids", "1", "--max-new-tokens", "10", "--temperature", "0"
    )
    assert generated.split() == tokens
    if shutil.which("pkg-config"):
        files = environment() | {"PKG_CONFIG_PATH": str(next(moved.glob("lib*/**/pkgconfig")))}
        flags = run("pkg-config", "--cflags", "--libs", "xlstm", env=files).split()
        run("c++", "-std=c++17", consumer / "consumer.cc", *flags, "-o", tmp_path / "by_pkg_config")
        library = {"LD_LIBRARY_PATH": run("pkg-config", "--variable=libdir", "xlstm", env=files).strip()}
        assert run(tmp_path / "by_pkg_config", bundle, env=environment() | library).split() == tokens


def test_xlstm_bench_reports_latencies_as_json(release: Path, export_variant: Export) -> None:
    for name, batch in (("a-mixed", 2), ("a-stack", 1)):
        prompt = ("--prompt", "70", "--prompts", "3", "--chunk", "64")
        output = run(release / "xlstm-bench", export_variant(name)[2], "--steps", "50", "--batch", str(batch), *prompt)
        report = json.loads(output)
        prefill = report["prefill"]
        assert (prefill["positions"], prefill["chunk"], prefill["prompts"]) == (70, 64, 3)
        median = prefill["microseconds"]["p50"]
        assert 0 < prefill["microseconds"]["min"] <= median <= prefill["microseconds"]["max"]
        assert prefill["tokens_per_second"] == pytest.approx(batch * 70e6 / median, rel=1e-3)
        times = report["microseconds"]
        assert (report["batch"], report["steps"], report["device"]) == (batch, 50, "cpu")
        assert 0 < times["min"] <= times["p50"] <= times["p90"] <= times["p99"] <= times["p99.9"] <= times["max"]


def test_the_readme_example_continues_a_text_with_the_trained_model(
    release: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    source = (ROOT / "plugins" / "apps" / "minimal.cpp").read_text()
    assert len(source.splitlines()) <= 30
    assert source in (ROOT / "plugins" / "runtime" / "README.md").read_text()
    text = run(release / "xlstm-minimal", demo_bundle, "In the beginning ", cwd=tmp_path)
    assert len(text) == 201 and text.isascii()
    assert (tmp_path / "conversation.state").is_file()
    lines = run(
        release / "xlstm-generate", demo_bundle, "--max-new-tokens", "20", input="And God said\n\nAnd it came\n"
    )
    assert len(lines) == 40


def test_missing_pieces_are_named_in_one_line(release: Path, export_variant: Export, tmp_path: Path) -> None:
    bundle = export_variant("a-mixed")[2]

    def refused(*arguments: object, **variables: str) -> str:
        done = attempt(release / "xlstm-bench", *arguments, "--steps", "1", env=environment() | variables)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        return done.stderr

    assert "is not a bundle: no manifest.json" in refused(tmp_path)
    assert "ONNX Runtime cannot be loaded (/nowhere.so" in refused(bundle, XLSTM_ONNXRUNTIME="/nowhere.so")
    assert "is in bfloat16, which ONNX Runtime cannot compute" in refused(
        export_variant("a-mixed", "bfloat16")[2], "--device", "cpu"
    )
    assert "no custom-op library at /nowhere.so" in refused(bundle, "--ops", "/nowhere.so")
    assert "was exported for batch 2, not 1" in refused(export_variant("b-single", "float32", 2)[2], "--batch", "1")
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "model.weights").unlink()
    assert "lacks model.weights: it was not copied whole" in refused(broken)
    shutil.copytree(bundle, broken, dirs_exist_ok=True)
    (broken / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:1000])
    assert f"ONNX Runtime cannot load {broken / 'model.onnx'}" in refused(broken)
    if not Path("/dev/nvidiactl").exists():
        assert "CUDA" in refused(bundle, "--device", "cuda")


def test_without_tensorrt_its_back_end_says_what_is_missing(release: Path, export_variant: Export) -> None:
    require_tensorrt_headers()
    bench = [release / "xlstm-bench", export_variant("a-mixed")[2], "--backend", "tensorrt"]
    for library, message in (
        ("/nowhere/libnvinfer.so", "TensorRT cannot be loaded (/nowhere/libnvinfer.so"),
        (str(onnxruntime_library()), "has no function getInferLibVersion"),
    ):
        done = attempt(*bench, env=environment() | {"XLSTM_NVINFER": library})
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert message in done.stderr
