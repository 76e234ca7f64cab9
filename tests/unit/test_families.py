"""A family is one registration, and what must know of it finds it there."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest
from support.upstream_models import VARIANTS

import xlstm_export
from xlstm_export.checkpoints import find_models, read_config
from xlstm_export.checkpoints.families import FAMILIES
from xlstm_export.doctor import diagnose

PACKAGE = Path(xlstm_export.__file__).parent


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_has_an_upstream_model(family):
    module = importlib.import_module(f"xlstm_export.references.{family.name.replace('-', '_')}")
    assert list(inspect.signature(module.Reference).parameters) == ["config"]
    assert callable(module.Reference.step) and callable(module.Reference.forward)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_has_variants_that_the_tests_run_over(family):
    if family.name == "tirex2" and sys.version_info < (3, 11):
        pytest.skip("tirex-2 wants Python 3.11")
    assert sum(variant.family == family.name for variant in VARIANTS.values()) >= 5


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_one_family_finds_one_model_among_the_tensors_of_a_checkpoint(variant, tmp_path):
    path = variant.save(variant.build(), tmp_path)
    (model,) = find_models(path)
    assert model.family.name == variant.family
    sizes = variant.config.get("model_config", {}).get("block_kwargs", variant.config)
    assert f"of width {sizes.get('embedding_dim', sizes.get('hidden_size'))}" in model.outline


def test_configuration_that_two_families_could_own_is_of_the_one_with_the_more_telling_marks(tmp_path):
    (tmp_path / "stack.yaml").write_text("{embedding_dim: 64, num_blocks: 2, slstm_at: all, slstm_block: {slstm: {}}}")
    (tmp_path / "large.yaml").write_text("{embedding_dim: 64, num_blocks: 2, num_heads: 2, vocab_size: 5}")
    (tmp_path / "hf.yaml").write_text("{embedding_dim: 64, num_blocks: 2, num_heads: 2, model_type: xlstm}")
    families = {path.stem: read_config(path)[0] for path in tmp_path.glob("*.yaml")}
    assert families == {"stack": "xlstm", "large": "xlstm-large", "hf": "xlstm-hf"}


def test_packages_of_every_family_are_among_what_doctor_looks_for():
    looked_for = {finding.name for finding in diagnose() if finding.area == "Python"}
    assert {package for family in FAMILIES for package in family.packages} <= looked_for


def imports_of(folder: str) -> set[str]:
    """The modules of this package that the modules of a folder import, absolute."""
    found = set()
    for path in (PACKAGE / folder).rglob("*.py"):
        at = ["xlstm_export", *path.relative_to(PACKAGE).parent.parts]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                module = ".".join([*at[: len(at) - node.level + 1], *filter(None, [node.module])])
                found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def test_files_know_no_family():
    imported = imports_of("checkpoints/files")
    assert "xlstm_export.errors" in imported
    assert not [name for name in imported if "families" in name]


def test_modeling_knows_no_file_and_the_upstream_models_know_no_modeling():
    assert not [name for name in imports_of("modeling") if "checkpoints" in name]
    imported = imports_of("references")
    assert imported and not [name for name in imported if "modeling" in name]
