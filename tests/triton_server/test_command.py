"""`xlstm-export triton`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
from support.command_line import call
from support.implicit_state import read_config
from support.paths import ROOT
from support.small_networks import policy_network

PAGE = (ROOT / "docs" / "how-to" / "triton.md").read_text("utf-8")


@pytest.fixture
def triton(capsys, monkeypatch):
    return lambda *arguments: call(capsys, monkeypatch, "triton", *arguments)


def test_commands_of_the_page_write_the_models_that_it_speaks_of(demo_bundle, tmp_path, triton, monkeypatch):
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines():
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("xlstm-export", "triton")
        code, printed, _ = triton(*arguments)
        assert code == 0 and f"tritonserver --model-repository={tmp_path / 'repository'}" in printed
    models = {path.name: read_config(path) for path in (tmp_path / "repository").iterdir()}
    assert {name: config.backend for name, config in models.items()} == {
        "bundle": "python",
        "states-in-triton": "onnxruntime",
    }
    said = {tensor.name for config in (models["bundle"],) for tensor in (*config.input, *config.output)}
    assert all(f"`{name}`" in PAGE for name in said)
    assert (tmp_path / "repository/bundle/1/bundle/manifest.json").read_bytes() == (
        demo_bundle / "manifest.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "tensorrt"], "holds no engine for tensorrt. Build one with"),
        (["--backend", "python", "--name", "a b"], "A model cannot be called 'a b'"),
        (["--backend", "onnxruntime", "--custom-ops", "missing.so"], "missing.so is not there"),
        (["--backend", "python", "--name", "there"], "already holds a model of Triton. Choose another --name, or pass"),
        (["--backend", "python", "--name", "other"], "is not a model of Triton: nothing was written"),
    ],
)
def test_what_cannot_be_written_is_one_message_and_nothing_is_left(arguments, says, demo_bundle, tmp_path, triton):
    repository = tmp_path / "repository"
    (repository / "there").mkdir(parents=True)
    (repository / "there" / "config.pbtxt").write_text("name: 'there'")
    (repository / "other").mkdir()
    (repository / "other" / "file").write_text("mine")
    before = sorted(repository.rglob("*"))
    code, _, errors = triton(demo_bundle, repository, *arguments)
    assert code == 2 and says in " ".join(errors.split()) and "Traceback" not in errors
    assert sorted(repository.rglob("*")) == before


def test_model_is_replaced_when_asked(demo_bundle, tmp_path, triton):
    for more in ([], ["--overwrite", "--sequences", "7"]):
        code, *_ = triton(demo_bundle, tmp_path, "--backend", "python", "--name", "model", *more)
        assert code == 0
    assert read_config(tmp_path / "model").sequence_batching.oldest.max_candidate_sequences == 7
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def changed(demo_bundle, folder, **entries):
    """The bundle with other entries in its manifest. The files are the same: none of these models is run."""
    shutil.copytree(demo_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | entries))
    return folder


def test_python_back_end_takes_any_number_of_sequences_and_tokens_or_says_why_not(demo_bundle, tmp_path, triton):
    manifest = json.loads((demo_bundle / "manifest.json").read_text())
    (tokens,) = manifest["inputs"]
    step = {"mode": "step", "lengths": None, "inputs": [tokens | {"shape": ["batch", 1]}]}
    described = json.dumps({key: manifest[key] for key in ("inputs", "lengths", "outputs", "states")})
    fixed = json.loads(described.replace('"batch"', "2")) | {"batch": 2}
    for name, entries, says in (
        ("step", step, "has mode `step` and batch dynamic. Export it with --mode both --batch dynamic"),
        ("fixed", fixed, "has mode `both` and batch 2."),
    ):
        code, _, errors = triton(
            changed(demo_bundle, tmp_path / name, **entries), tmp_path / "r", "--backend", "python"
        )
        assert code == 2 and says in " ".join(errors.split())
    code, _, errors = triton(policy_network(tmp_path / "policy"), tmp_path / "r", "--backend", "python")
    assert code == 2 and "not logits of a language model" in " ".join(errors.split())
    assert not any((tmp_path / "r").iterdir())


def test_model_without_a_tokenizer_has_no_texts(demo_bundle, tmp_path, triton):
    bundle = changed(demo_bundle, tmp_path / "bundle", tokenizer=None)
    assert triton(bundle, tmp_path, "--backend", "python", "--name", "model")[0] == 0
    config = read_config(tmp_path / "model")
    assert [tensor.name for tensor in config.input] == ["tokens", "restore"]
    assert [tensor.name for tensor in config.output] == ["logits", "new_tokens", "state"]
