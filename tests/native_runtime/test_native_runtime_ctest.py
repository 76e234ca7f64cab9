"""The C++ tests of libxlstm_runtime, in an ordinary build and under the sanitizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.native import build_runtime, build_sanitized_runtime, environment, run

Export = Callable[..., tuple[object, Path, Path]]


def test_ctest_passes(export_variant: Export) -> None:
    run_ctest(build_runtime(), export_variant("a-mixed")[2])


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing(export_variant: Export, sanitizer: str) -> None:
    run_ctest(build_sanitized_runtime(sanitizer), export_variant("a-mixed")[2])


def run_ctest(folder: Path, bundle: Path) -> None:
    variables = environment() | {"XLSTM_TEST_BUNDLE": str(bundle)}
    report = run(
        "ctest", "--test-dir", folder, "-L", "runtime", "--output-on-failure", "--no-tests=error", env=variables
    )
    assert "100% tests passed" in report and "Skipped" not in report
