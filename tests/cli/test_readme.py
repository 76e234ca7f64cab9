"""Every command in the README does what it says, in the order in which it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.paths import DEMO, ROOT

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, text in BLOCKS
    if language == "bash"
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("xlstm-export")
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: a checkpoint, a Hugging Face folder, a text."""
    from support.upstream_models import VARIANTS

    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(DEMO / "ckpt.pt", folder)
    (folder / "heldout.txt").write_text((DEMO / "heldout.txt").read_text()[:4000])
    (folder / "models").symlink_to(ROOT / "models")
    hf = VARIANTS["c-bfloat16"]
    hf.save(hf.build(seed=0), folder / "my-xlstm")
    weights = VARIANTS["a-all-mlstm"]
    saved = weights.save(weights.build(seed=0), folder / "made")
    shutil.copy(saved / "model.safetensors", folder / "weights.safetensors")
    shutil.copy(saved / "config.json", folder / "config.yaml")  # JSON is YAML
    mixed = VARIANTS["a-mixed"]
    model, average = (dict(mixed.build(seed).state_dict()) for seed in (0, 1))
    (folder / "run").mkdir()
    torch.save(model, folder / "run" / "weights.pt")
    torch.save({"model": model, "ema_model": average, "config": mixed.config}, folder / "training.ckpt")
    return folder


def test_readme_has_the_commands():
    assert {c[1] for c in COMMANDS} >= {"inspect", "onnx", "validate", "generate", "bench", "build", "doctor"}


def test_two_commands_exist_and_ci_runs_the_second():
    first = next(text for language, text in BLOCKS if language == "bash")
    scripts = [line.split()[0] for line in first.splitlines()]
    assert scripts == ["scripts/demo.sh", "scripts/test.sh"]
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)
    assert scripts[1] in (ROOT / ".ci" / "run").read_text()


def available(command: list[str]) -> bool:
    """Whether this machine has what the command needs."""
    if command[1] == "web":
        return shutil.which("npm") is not None
    return "tensorrt-rtx" not in command or importlib.util.find_spec("tensorrt_rtx") is not None


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The libraries that the README builds go to a folder of this test's own, where its later commands find them."""
    return os.environ | {"XLSTM_EXPORT_LIBRARIES": str(tmp_path_factory.mktemp("libraries"))}


@pytest.mark.slow
def test_commands_run_as_they_stand_and_in_order(desk, environment):
    for command in filter(available, COMMANDS):
        process = [sys.executable, "-m", "xlstm_export.cli", *command[1:]]
        result = subprocess.run(process, cwd=desk, env=environment, capture_output=True, text=True, timeout=1500)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("example", [text for language, text in BLOCKS if language == "python"], ids=["face", "bare"])
def test_python_example_continues_the_text(example, desk, demo_bundle):
    if not (desk / "bundle").exists():
        shutil.copytree(demo_bundle, desk / "bundle")
    result = subprocess.run([sys.executable, "-c", example], cwd=desk, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert 40 <= len(result.stdout) <= 60
    assert result.stdout.isascii() and result.stdout.count(" ") > 3
