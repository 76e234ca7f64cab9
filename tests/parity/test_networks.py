"""Users' own networks with xLSTM blocks inside, exported, give what the network itself gives.

Tolerances, as for language models (`test_exported_bundles`), of each output's spread:
- float32: 1e-4. Errors are some 2^-24 an operation, and the norms and recurrences forget them.
- float16 and bfloat16: sixteen roundoffs (2^-11, 2^-8). Only the projections inside xLSTM blocks round to them: inputs,
  weights and outputs, once each, which adds up like a random walk.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.native import onnxruntime_operators
from support.networks import GENERATED, NETWORKS, Network, vendor
from support.networks.passes import errors, fed, row, run_cut

import xlstm_export
from xlstm_export.bundle import Bundle
from xlstm_export.engines import EngineRequest, build_engine
from xlstm_export.errors import UserError
from xlstm_export.networks.inputs import parse_inputs
from xlstm_export.networks.streaming import decide
from xlstm_export.runtime import open_session

TOLERANCE = 1e-4
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
CUTS = (1, 1, 5, 20, 13)
STEPS = sum(CUTS)

ALL = {network.name: network for network in [*NETWORKS.values(), *GENERATED]}
STREAMS = [name for name, network in NETWORKS.items() if network.streams and not network.refusable]
CHUNKED = [name for name in STREAMS if not NETWORKS[name].by_hand]
WINDOWS = [name for name, network in NETWORKS.items() if not network.streams]
REFUSABLE = [name for name, network in NETWORKS.items() if network.refusable]
EXPORTED = [
    network.name for network in GENERATED if network.name.startswith(("attention", "convolution", "coarse", "gru"))
]
"""Of the generated ones: an export takes seconds, and what they are for is the verdict."""


@pytest.fixture(scope="session", autouse=True)
def _vendored(tmp_path_factory):
    vendor(tmp_path_factory.mktemp("vendored"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """`exported("two-branches")` → network, module, bundle; made once."""
    made: dict[str, tuple[Network, torch.nn.Module, Bundle]] = {}

    def export(name: str):
        if name not in made:
            module = ALL[name].build(seed=3)
            folder = tmp_path_factory.mktemp("network") / name
            made[name] = ALL[name], module, xlstm_export.export_network(module, ALL[name].inputs, folder)
        return made[name]

    return export


def close(got, expected) -> bool:
    return max(errors(got, expected)) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name, network in ALL.items() if not network.refusable])
def test_verdict_on_time_is_the_truth_and_names_the_operator(name):
    network = ALL[name]
    verdict = decide(network.build(seed=1), parse_inputs(network.inputs))
    assert (verdict.plan is not None) == network.streams, verdict.reason
    if not network.streams:
        assert any(culprit in verdict.reason for culprit in network.culprits), verdict.reason


@pytest.mark.parametrize("name", STREAMS)
def test_stream_gives_what_the_network_gives_however_it_is_cut(name, exported):
    network, module, bundle = exported(name)
    inputs = network.example(batch=2, sequence=STEPS, seed=1)
    expected = network.reference(module, inputs)
    with open_session(bundle, batch=2) as session:
        for cuts in ((1,) * STEPS,) if network.by_hand else ((STEPS,), (1,) * STEPS, CUTS):
            session.reset()
            assert close(run_cut(session, network, inputs, cuts), expected), cuts


@pytest.mark.parametrize("name", CHUNKED)
def test_rows_of_different_lengths_get_what_they_get_alone(name, exported):
    """Three passes of 16 positions, of which each row uses as many as it likes."""
    network, module, bundle = exported(name)
    inputs = network.example(batch=3, sequence=48, seed=2)
    used = np.array([[16, 16, 16], [5, 0, 16], [0, 9, 1]], np.int32).T  # pass, row
    own = {r: [t for p in range(3) for t in range(16 * p, 16 * p + used[p, r])] for r in range(3)}
    expected = [network.reference(module, positions(network, inputs, r, own[r])) for r in range(3)]
    got = {r: [[] for _ in network.time_axes] for r in range(3)}
    with open_session(bundle, batch=3) as session:
        for index in range(3):
            piece = fed(network, inputs, 16 * index, 16 * index + 16)
            outputs = list(session.run(piece, lengths=used[index]).values())
            for r in range(3):
                for at, (axis, output) in enumerate(zip(network.time_axes, outputs, strict=True)):
                    if axis is None and used[index, r]:
                        got[r][at] = [output[r : r + 1]]
                    elif axis is not None:
                        got[r][at].append(output[r : r + 1].take(range(used[index, r]), axis))
    for r in range(3):
        axes = [axis or 0 for axis in network.time_axes]
        assert close([np.concatenate(part, axis) for part, axis in zip(got[r], axes, strict=True)], expected[r]), r


@pytest.mark.parametrize("name", CHUNKED)
def test_our_kernels_give_what_the_network_gives(name, exported):
    network, module, bundle = exported(name)
    inputs = network.example(batch=2, sequence=STEPS, seed=1)
    with open_session(bundle, batch=2, custom_ops=onnxruntime_operators()) as session:
        assert close(run_cut(session, network, inputs, CUTS), network.reference(module, inputs))


@pytest.mark.parametrize("name", ["two-branches", "with-gru", "with-lstm", "policy-block", "heart-beats"])
def test_engine_builds_ahead_of_time_from_a_network(name, exported):
    pytest.importorskip("tensorrt_rtx")
    _, _, bundle = exported(name)
    window = bundle.manifest.mode == "window"
    engine = build_engine(bundle, EngineRequest("tensorrt-rtx", ("sm89",), max_chunk=64 if window else None))
    assert (
        engine.record.profiles
        == {"both": ("decode", "prefill"), "step": ("decode",), "window": ("window",)}[bundle.manifest.mode]
    )
    assert [t.name for t in engine.record.tensors if t.mode == "output"][: len(bundle.manifest.outputs)] == [
        t.name for t in bundle.manifest.outputs
    ]


HALF = [("with-gru", "bfloat16"), *((name, dtype) for name in ("tokens", "attention-pool") for dtype in ROUNDOFF)]


@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_precision_network_stays_within_sixteen_roundoffs_of_the_float32_module(name, dtype, tmp_path):
    network = NETWORKS[name]
    module = network.build(seed=3)
    bundle = xlstm_export.export_network(module, network.inputs, tmp_path / "bundle", dtype=dtype)
    inputs = network.example(batch=2, sequence=STEPS, seed=1)
    with open_session(bundle, batch=2) as session:
        got = run_cut(session, network, inputs, CUTS if network.streams else (STEPS,))
        assert all(np.isfinite(state).all() for state in session.read_states().values())
    worst = max(errors(got, network.reference(module, inputs)))
    assert 2.0**-20 < worst <= 16 * ROUNDOFF[dtype], "float32 alone would stay below the first"


@pytest.mark.parametrize("name", ["channel-first", "with-lstm"])
def test_bundle_of_single_steps_gives_what_the_network_gives_for_whole_sequences(name, tmp_path):
    network = NETWORKS[name]
    module = network.build(seed=3)
    bundle = xlstm_export.export_network(module, network.inputs, tmp_path / "bundle", mode="step")
    assert bundle.manifest.mode == "step" and bundle.manifest.lengths is None
    inputs = network.example(batch=2, sequence=STEPS, seed=1)
    with open_session(bundle, batch=2) as session:
        assert close(run_cut(session, network, inputs, (1,) * STEPS), network.reference(module, inputs))
        session.reset()
        assert close(run_cut(session, network, inputs, (1, 1)), network.reference(module, network.piece(inputs, 0, 2)))
        with pytest.raises(UserError, match="1"):
            session.run(fed(network, inputs, 0, 2))


def positions(network: Network, inputs, r: int, steps: list[int]):
    """Some positions of one row."""
    alone = {name: tensor[r : r + 1] for name, tensor in inputs.items()}
    axes = {name: network.time_axis(name) for name in inputs}
    return {n: t if axes[n] is None else t.index_select(axes[n], torch.tensor(steps)) for n, t in alone.items()}


@pytest.mark.parametrize("name", STREAMS)
def test_row_that_is_reset_beside_warm_rows_starts_anew(name, exported):
    network, module, bundle = exported(name)
    inputs = network.example(batch=3, sequence=40, seed=3)
    warm = network.reference(module, inputs)
    anew = network.reference(module, network.piece(inputs, 20, 40))
    cuts = (1,) * 20 if network.by_hand else (7, 13)
    with open_session(bundle, batch=3) as session:
        run_cut(session, network, inputs, cuts)
        session.reset(1)
        got = run_cut(session, network, inputs, cuts, begin=20)
    late = [t if axis is None else t.narrow(axis, 20, 20) for t, axis in zip(warm, network.time_axes, strict=True)]
    for r, expected in ((0, late), (1, anew), (2, late)):
        assert close([output[r : r + 1] for output in got], row(expected, r)), r


@pytest.mark.parametrize("name", [*WINDOWS, *EXPORTED])
def test_exported_network_gives_what_the_network_gives_for_whole_sequences_of_several_lengths(name, exported):
    network, module, bundle = exported(name)
    assert (bundle.manifest.mode != "window") == network.streams
    for batch, length in zip((1, 2, 3), network.lengths, strict=False):
        inputs = network.example(batch, length, seed=length)
        with open_session(bundle, batch=batch) as session:
            got = list(session.run(fed(network, inputs, 0, length)).values())
        assert close(got, network.reference(module, inputs)), (batch, length)


@pytest.mark.parametrize("name", REFUSABLE)
def test_network_whose_state_has_no_plain_form_is_right_or_refused(name, exported):
    network = ALL[name]
    try:
        _, module, bundle = exported(name)
    except UserError as error:
        assert network.name == "policy-loop" and "step" in str(error)
        return
    inputs = network.example(batch=2, sequence=STEPS, seed=1)
    expected = network.reference(module, inputs)
    cuts = ((STEPS,),) if bundle.manifest.mode == "window" else ((STEPS,), CUTS)
    with open_session(bundle, batch=2) as session:
        for cut in cuts:
            session.reset()
            assert close(run_cut(session, network, inputs, cut), expected), cut


@pytest.mark.parametrize("name", ["attention-pool", "conv-same", "mean-add-before-mixing"])
def test_network_that_does_not_stream_is_refused_as_a_stream_and_nothing_is_written(name, tmp_path):
    network = ALL[name]
    with pytest.raises(UserError) as refused:
        xlstm_export.export_network(network.build(seed=1), network.inputs, tmp_path / "bundle", mode="both")
    assert any(culprit in str(refused.value) for culprit in network.culprits) and not list(tmp_path.iterdir())


def test_network_that_streams_can_be_taken_as_a_window(tmp_path):
    network = NETWORKS["single-mlstm-block"]
    module = network.build(seed=1)
    bundle = xlstm_export.export_network(module, network.inputs, tmp_path / "bundle", mode="window")
    assert bundle.manifest.mode == "window" and not bundle.manifest.states
    inputs = network.example(batch=2, sequence=30, seed=1)
    with open_session(bundle, batch=2) as session:
        for _ in range(2):  # nothing is kept from one window to the next
            assert close(run_cut(session, network, inputs, (30,)), network.reference(module, inputs))


@torch.no_grad()
def test_row_reset_beside_warm_rows_takes_another_branch_in_upstreams_pytorch_and_not_in_the_bundle(exported):
    """Upstream asks `torch.all(n == 0)` of the whole batch; its CUDA kernels and the bundle ask each element.

    In the first step of a sequence m is the input gate's pre-activation; beside warm rows upstream takes the larger one
    of that and the forget gate's. So m shows the branch. Outputs differ by rounding only, since m cancels in c / n.
    """
    network, module, bundle = exported("policy-block")
    x = network.example(batch=2, sequence=21, seed=4)["observation"]
    state = None
    for t in range(20):
        *_, state = module(x[:, t], state)
    conv, cells = state["conv_state"][0].clone(), state["slstm_state"].clone()
    conv[1], cells[:, 1] = 0, 0
    beside = module(x[:, 20], {"conv_state": (conv,), "slstm_state": cells})[-1]["slstm_state"][3, 1]
    alone = module(x[1:, 20])[-1]["slstm_state"][3, 0]
    with open_session(bundle, batch=2) as session:
        for t in range(20):
            session.run({"observation": x[:, t].numpy()})
        session.reset(1)
        session.run({"observation": x[:, 20].numpy()})
        ours = session.read_states()["block.slstm.m"][1].reshape(-1)
    assert (beside - alone).abs().max() > 1e-2
    assert np.abs(ours - alone.numpy()).max() < 1e-5
