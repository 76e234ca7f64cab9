"""The programs and the installed package of libxlstm_runtime, and what they say when something is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hand_written_bundles import WRITERS
from support.native import attempt, build_runtime, environment, onnxruntime_library, run
from support.paths import ROOT

from xlstm_export.bundle import Bundle
from xlstm_export.native import toolchain
from xlstm_export.runtime import open_session
from xlstm_export.runtime.generation import Generation
from xlstm_export.runtime.sampling import Sampler, Sampling

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")
Export = Callable[..., tuple[object, Path, Path]]


def test_an_installed_package_is_found_by_cmake_and_pkg_config(export_variant: Export, tmp_path: Path) -> None:
    bundle, prefix = export_variant("c-single")[2], tmp_path / "prefix"
    run("cmake", "--install", build_runtime(), "--component", "runtime", "--prefix", prefix)
    moved = prefix.rename(tmp_path / "moved")  # nothing in it may name the place of installation
    assert (moved / "share" / "doc" / "xlstm" / "FORMAT.md").is_file()
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


@pytest.mark.parametrize(
    "name, mode", [("sequence", "both"), ("step", "step"), ("window", "window"), ("fixed", "window")]
)
def test_xlstm_bench_runs_any_network(release: Path, tmp_path: Path, name: str, mode: str) -> None:
    bundle = WRITERS[name](tmp_path / name)
    output = run(release / "xlstm-bench", bundle, "--steps", "20", "--batch", "2", "--positions", "40", "--prompt", "9")
    report = json.loads(output)
    positions = 40 if name == "window" else 1
    assert (report["mode"], report["positions"], report["batch"], report["steps"]) == (mode, positions, 2, 20)
    assert report["tokens_per_second"] == pytest.approx(2e6 * positions / report["microseconds"]["mean"], rel=1e-2)
    assert ("prefill" in report) == (mode == "both")


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
    assert "There is no custom-op library at /nowhere.so" in refused(bundle, "--custom-ops", "/nowhere.so")
    assert "was exported for batch 2, not 1" in refused(export_variant("b-single", "float32", 2)[2], "--batch", "1")
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "model.weights").unlink()
    assert "lacks model.weights. It was not copied whole" in refused(broken)
    shutil.copytree(bundle, broken, dirs_exist_ok=True)
    (broken / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:1000])
    assert f"ONNX Runtime cannot load {broken / 'model.onnx'}" in refused(broken)
    if not Path("/dev/nvidiactl").exists():
        assert "CUDA" in refused(bundle, "--device", "cuda")


def test_without_tensorrt_its_back_end_says_what_is_missing(release: Path, export_variant: Export) -> None:
    if (compiler := toolchain.cuda_compiler()).path is None:
        pytest.skip(f"{compiler.name} is not here, so that the back end is not compiled in. {compiler.remedy}")
    bench = [release / "xlstm-bench", export_variant("a-mixed")[2], "--backend", "tensorrt"]
    for library, message in (
        ("/nowhere/libnvinfer.so", "TensorRT cannot be loaded (/nowhere/libnvinfer.so"),
        (str(onnxruntime_library()), "has no function getInferLibVersion"),
    ):
        done = attempt(*bench, env=environment() | {"XLSTM_NVINFER": library})
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert message in done.stderr


def tell(bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy of a bundle whose manifest says something else."""
    copy = folder / f"copy{len(list(folder.iterdir()))}"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | changes))
    return copy


def test_texts_begin_and_end_as_the_model_says(release: Path, export_variant: Export, tmp_path: Path) -> None:
    bundle = export_variant("a-mixed")[2]
    options = ("--max-new-tokens", "40", "--temperature", "0")

    def generate(folder: Path, ids: str, *more: str) -> list[str]:
        return run(release / "xlstm-generate", folder, "--ids", ids, *options, *more).split()

    plain = generate(bundle, "5,1,2")
    begun = tell(bundle, tmp_path, bos_token_id=5)
    assert generate(begun, "1,2") == generate(begun, "5,1,2") == plain
    assert generate(bundle, "1,2") != plain
    last = plain[7]
    ended = tell(bundle, tmp_path, bos_token_id=5, eos_token_ids=[int(last)])
    assert generate(ended, "1,2") == plain[: plain.index(last)]
    assert generate(ended, "1,2", "--ignore-eos") == plain
    with open_session(Bundle.open(ended)) as session:
        python = Generation(session, [1, 2], 40, Sampler(Sampling(temperature=0)))
        assert [str(token) for token in python] == plain[: plain.index(last)]


def test_a_text_ends_before_its_stop(release: Path, demo_bundle: Path) -> None:
    options = ("--prompt", "And ", "--max-new-tokens", "80", "--temperature", "0")
    whole = run(release / "xlstm-generate", demo_bundle, *options)[len("And ") :]
    for stop in (whole[20:24], whole[:1], whole[31:40], "no such text"):
        stopped = run(release / "xlstm-generate", demo_bundle, *options, "--stop", stop)[len("And ") :]
        assert stopped == whole.partition(stop)[0]
