"""The C++ tests of libxlstm_runtime, in an ordinary build and under the sanitizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.hand_written_bundles import WRITERS
from support.native import build_runtime, build_sanitized_runtime, environment, run

Export = Callable[..., tuple[object, Path, Path]]


def test_ctest_passes(export_variant: Export, tmp_path: Path) -> None:
    run_ctest(build_runtime(), export_variant("a-mixed")[2], tmp_path)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing(export_variant: Export, tmp_path: Path, sanitizer: str) -> None:
    run_ctest(build_sanitized_runtime(sanitizer), export_variant("a-mixed")[2], tmp_path)


def run_ctest(folder: Path, bundle: Path, networks: Path) -> None:
    for name, write in WRITERS.items():
        write(networks / name)
    variables = environment() | {"XLSTM_TEST_BUNDLE": str(bundle), "XLSTM_TEST_NETWORKS": str(networks)}
    report = run(
        "ctest", "--test-dir", folder, "-L", "runtime", "--output-on-failure", "--no-tests=error", env=variables
    )
    assert "100% tests passed" in report and "Skipped" not in report
