"""The C++ tests of libxlstm_runtime, in an ordinary build and under the sanitizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.runtime_build import build, environment, release_build, run

Export = Callable[..., tuple[object, Path, Path]]


def test_ctest_passes(export_variant: Export) -> None:
    run_ctest(release_build(), export_variant("a-mixed")[2])


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing(export_variant: Export, sanitizer: str) -> None:
    folder = build(
        "-DXLSTM_APPS=OFF", "-DXLSTM_TENSORRT=OFF", "-DCMAKE_BUILD_TYPE=Debug", f"-DXLSTM_SANITIZE={sanitizer}"
    )
    run_ctest(folder, export_variant("a-mixed")[2])


def run_ctest(folder: Path, bundle: Path) -> None:
    variables = environment() | {"XLSTM_TEST_BUNDLE": str(bundle)}
    report = run("ctest", "--test-dir", folder, "--output-on-failure", env=variables)
    assert "100% tests passed" in report and "Skipped" not in report
