"""Networks of any inputs and outputs in C++: bit for bit what plain calls of ONNX Runtime give, states and all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.example_networks import EXAMPLES, load
from support.hand_written_bundles import WRITERS, Reference, random_inputs
from support.native import onnxruntime_operators, run
from support.networks.randomise import randomise

from xlstm_export import UserError, export_network
from xlstm_export.bundle import Bundle
from xlstm_export.errors import ErrorKind
from xlstm_export.runtime import open_session

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")
Inputs = Mapping[str, np.ndarray]
Lengths = Sequence[int] | None
BATCH = 3


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture(params=[False, True], ids=["definitions", "custom-ops"])
def custom_ops(request: pytest.FixtureRequest) -> Path | None:
    return onnxruntime_operators() if request.param else None


class Native:
    """Passes and what happens between them, run together by `runtime_driver run`."""

    def __init__(self, bundle: Path, folder: Path, custom_ops: Path | None = None):
        self._bundle, self._folder, self._custom_ops = bundle, folder, custom_ops
        self._actions: list[str] = []
        self._passes = 0
        folder.mkdir(exist_ok=True)

    def do(self, *actions: str) -> None:
        self._actions += actions

    def feed(self, inputs: Inputs, lengths: Lengths = None, fails: bool = False) -> None:
        for name, values in inputs.items():
            values.tofile(self._folder / f"{self._passes}.in.{name}")
        if lengths is not None:
            np.array(lengths, np.int32).tofile(self._folder / f"{self._passes}.lengths")
        self._actions.append("pass!" if fails else "pass")
        self._passes += 1

    def run(self, release: Path) -> list[dict[str, np.ndarray] | int]:
        """The outputs of each pass, or the number of its error."""
        named = ["threads=1", *([f"custom_ops={self._custom_ops}"] if self._custom_ops else [])]
        printed = run(release / "runtime_driver", "run", self._bundle, BATCH, self._folder, *self._actions, *named)
        results: list[dict[str, np.ndarray] | int] = [{} for _ in range(self._passes)]
        for line in printed.splitlines()[1:]:
            index, name, *shape = line.split()
            if name == "failed":
                results[int(index)] = int(shape[0])
                continue
            values = np.fromfile(self._folder / f"{index}.out.{name}", np.float32)
            results[int(index)][name] = values.reshape([int(extent) for extent in shape])
        return results


def assert_same(found: dict[str, np.ndarray] | int, expected: Inputs, rows: Sequence[int] | None = None) -> None:
    """To the last bit; of padded passes the given rows alone."""
    assert isinstance(found, dict) and list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        chosen = slice(None) if rows is None else list(rows)
        assert found[name][chosen].tobytes() == values[chosen].tobytes(), name


def test_passes_of_any_length_and_padding_give_what_onnx_runtime_gives(
    release: Path, networks: dict[str, Path], tmp_path: Path, custom_ops: Path | None
) -> None:
    bundle, random = networks["sequence"], np.random.default_rng(0)
    native, reference = Native(bundle, tmp_path / "passes", custom_ops), Reference(bundle, BATCH, custom_ops)
    expected = []
    for index in range(120):
        positions = [1, 1, 9, 1, 30, 30, 2, 200, 5][index % 9]
        inputs = random_inputs(bundle, BATCH, positions, random)
        lengths = [int(random.integers(0, positions + 1)) for _ in range(BATCH)] if index % 3 == 2 else None
        native.feed(inputs, lengths)
        outputs = reference.run(inputs, lengths)
        expected.append((outputs, [BATCH and row for row in range(BATCH) if lengths is None or lengths[row]], lengths))
    for found, (outputs, rows, lengths) in zip(native.run(release), expected, strict=True):
        if lengths is not None:  # what padding gives means nothing
            for row in range(BATCH):
                found["out"][row, lengths[row] :] = outputs["out"][row, lengths[row] :] = 0
        assert_same(found, outputs, rows)
    assert min(outputs["out"].std() for outputs, *_ in expected if outputs["out"].size > 100) > 0.01


@pytest.mark.parametrize("example, inputs", [("denoiser", "noisy=B,S,32"), ("pole", "observation=B,2")])
def test_exported_networks_give_what_a_python_session_gives(
    release: Path, tmp_path: Path, custom_ops: Path | None, example: str, inputs: str
) -> None:
    network = load(EXAMPLES / example / "network.py").build()
    randomise(network, 0)
    bundle = export_network(network, [inputs], tmp_path / "bundle")
    native, random, expected = Native(bundle.path, tmp_path / "passes", custom_ops), np.random.default_rng(0), []
    with open_session(bundle, batch=BATCH, custom_ops=custom_ops) as session:
        for positions in (1, 1, 40, 1, 40, 40, 33, 1):
            fed = random_inputs(bundle.path, BATCH, positions, random)
            native.feed(fed)
            expected.append(session.run(fed))
    for found, outputs in zip(native.run(release), expected, strict=True):
        assert_same(found, outputs)
    assert all(values.std() > 1e-4 for values in expected[2].values())


def test_steps_give_what_onnx_runtime_gives(
    release: Path, networks: dict[str, Path], tmp_path: Path, custom_ops: Path | None
) -> None:
    bundle, random = networks["step"], np.random.default_rng(1)
    native, reference = Native(bundle, tmp_path / "steps", custom_ops), Reference(bundle, BATCH, custom_ops)
    expected = []
    for _ in range(500):
        inputs = random_inputs(bundle, BATCH, 1, random)
        native.feed(inputs)
        expected.append(reference.run(inputs))
    for found, outputs in zip(native.run(release), expected, strict=True):
        assert_same(found, outputs)


def test_windows_of_any_length_stand_alone(release: Path, networks: dict[str, Path], tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for name, sizes in (("window", [8, 8, 3, 50, 51, 8, 50]), ("fixed", [1, 1, 1])):
        native, reference = Native(networks[name], tmp_path / name), Reference(networks[name], BATCH)
        expected = []
        for positions in sizes:
            inputs = random_inputs(networks[name], BATCH, positions, random)
            native.feed(inputs)
            native.do("reset", f"save:{tmp_path / 'w'}", f"load:{tmp_path / 'w'}", "fork")  # which change nothing
            expected.append(reference.run(inputs))
        for found, outputs in zip(native.run(release), expected, strict=True):
            assert_same(found, outputs)


def test_reset_fork_save_and_load_are_right_while_states_are_updated_in_place(
    release: Path, networks: dict[str, Path], tmp_path: Path, custom_ops: Path | None
) -> None:
    bundle, random = networks["sequence"], np.random.default_rng(3)
    native, reference = Native(bundle, tmp_path / "passes", custom_ops), Reference(bundle, BATCH, custom_ops)
    expected, saved = [], {}
    for index in range(100):
        inputs = random_inputs(bundle, BATCH, int(random.choice([1, 1, 6])), random)
        native.feed(inputs)
        expected.append(reference.run(inputs))
        action = int(random.integers(6))
        states = reference.states
        if action == 0:
            native.do("reset:1")
            for name in states:
                states[name] = states[name].copy()
                states[name][1] = 0
        elif action == 1:
            native.do("fork")
        elif action == 2:
            native.do(f"save:{tmp_path / 'saved'}")
            saved = dict(states)
        elif action == 3 and saved:
            native.do(f"load:{tmp_path / 'saved'}")
            states.update(saved)
        elif action == 4 and index % 3 == 0:
            native.do("reset")
            states.update({name: np.zeros_like(values) for name, values in states.items()})
    assert saved
    for found, outputs in zip(native.run(release), expected, strict=True):
        assert_same(found, outputs)


def test_after_a_pass_that_failed_midway_no_result_is_wrong(
    release: Path, networks: dict[str, Path], tmp_path: Path, custom_ops: Path | None
) -> None:
    """In two sets of buffers the states stay as they were; in place they are lost, and the session says so."""
    bundle, random = networks["sequence"], np.random.default_rng(4)
    good = [random_inputs(bundle, BATCH, 4, random) for _ in range(5)]
    bad = random_inputs(bundle, BATCH, 4, random) | {"index": np.array([0, 99, 0], np.int32)}
    native, reference = Native(bundle, tmp_path / "passes", custom_ops), Reference(bundle, BATCH, custom_ops)
    in_place, runtime_error = custom_ops is not None, 5
    native.feed(good[0])
    native.do(f"save:{tmp_path / 'saved'}")
    native.feed(bad, fails=True)
    native.feed(good[1], fails=in_place)
    native.do(f"load:{tmp_path / 'saved'}")
    native.feed(good[2])
    native.feed(bad, fails=True)
    native.do("reset")
    native.feed(good[3])
    results = native.run(release)

    assert_same(results[0], reference.run(good[0]))
    before = dict(reference.states)
    assert results[1] == results[4] == runtime_error
    if in_place:
        assert results[2] == runtime_error
    else:
        assert_same(results[2], reference.run(good[1]))
    reference.states = before
    assert_same(results[3], reference.run(good[2]))
    assert_same(results[5], Reference(bundle, BATCH, custom_ops).run(good[3]))


def test_a_python_session_says_so_too(networks: dict[str, Path], tmp_path: Path, custom_ops: Path | None) -> None:
    bundle, random = networks["sequence"], np.random.default_rng(4)
    good = random_inputs(bundle, BATCH, 4, random)
    bad = good | {"index": np.array([0, 99, 0], np.int32)}
    reference = Reference(bundle, BATCH, custom_ops)
    first, second = (reference.run(good) for _ in range(2))
    with open_session(Bundle.open(bundle), batch=BATCH, custom_ops=custom_ops) as session:
        for mend in (lambda: session.load(tmp_path / "saved"), session.reset):
            assert_same(session.run(good), first)
            session.save(tmp_path / "saved")
            with pytest.raises(UserError, match="ONNX Runtime failed in a pass over 4 positions"):
                session.run(bad)
            if custom_ops is None:
                assert_same(session.run(good), second)
            else:
                session.reset(1)  # a row at a time is mended, here
                assert [session.is_spoilt(row) for row in range(BATCH)] == [row != 1 for row in range(BATCH)]
                for use in (lambda: session.run(good), session.read_states):
                    with pytest.raises(UserError, match="The states are lost: a pass failed") as caught:
                        use()
                    assert caught.value.kind is ErrorKind.runtime
            mend()
            assert_same(session.run(good), first if mend == session.reset else second)
            session.reset()
