"""Sampling, tokenizers and sessions: what stands between a bundle and its text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlstm_export.bundle import Bundle
from xlstm_export.errors import UserError
from xlstm_export.runtime import open_session
from xlstm_export.runtime.generation import Generation
from xlstm_export.runtime.sampling import Sampler, Sampling
from xlstm_export.runtime.tokenizers import ByteTokenizer, HuggingFaceTokenizer, open_tokenizer

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -1.0], np.float32)


def test_greedy_takes_the_first_of_equal_logits():
    assert Sampler(Sampling(temperature=0))(LOGITS) == 1


def test_draws_follow_the_softmax_at_the_temperature():
    sampler = Sampler(Sampling(temperature=0.5, seed=3))
    counts = np.bincount([sampler(LOGITS) for _ in range(20_000)], minlength=5) / 20_000
    expected = np.exp(LOGITS / 0.5) / np.exp(LOGITS / 0.5).sum()
    # four standard deviations of a binomial share
    np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(0.25 / 20_000))


def test_top_k_draws_only_from_the_k_largest():
    sampler = Sampler(Sampling(temperature=5.0, top_k=2))
    assert {sampler(LOGITS) for _ in range(200)} == {1, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    # probabilities 0.37, 0.37, 0.14, ...: 0.5 needs the first two
    assert {Sampler(Sampling(1.0, top_p=0.5, seed=s))(LOGITS) for s in range(200)} == {1, 3}
    assert {Sampler(Sampling(1.0, top_p=0.3, seed=s))(LOGITS) for s in range(200)} == {1}


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(1.0, seed=5), Sampling(1.0, 2, 0.5, 5)], ids=str)
def test_greatest_logit_is_chosen_where_it_is_not_finite_and_nan_counts_as_the_greatest(sampling):
    def choice(*logits: float) -> int:
        return Sampler(sampling)(np.array(logits, np.float32))

    assert choice(5, np.nan, np.inf, -np.nan, 7) == 1
    assert choice(5, -np.inf, np.inf, np.inf, 7) == 2
    assert choice(-np.inf, -np.inf, -np.inf) == 0


def test_logits_that_are_not_finite_take_one_random_number_as_others_do():
    broken, whole = Sampler(Sampling(1.0, seed=5)), Sampler(Sampling(1.0, seed=5))
    broken(np.array([np.nan, 1], np.float32))
    whole(LOGITS)
    assert [broken(LOGITS) for _ in range(20)] == [whole(LOGITS) for _ in range(20)]


def test_random_numbers_are_those_of_std_mt19937():
    """The C++ standard fixes the 10,000th output of std::mt19937 with its default seed, 5489: 4123659995."""
    generator = np.random.RandomState(5489)
    raw = generator.randint(0, 2**32, 10_000, dtype=np.uint32)
    assert raw[-1] == 4123659995
    a, b = int(raw[0]) >> 5, int(raw[1]) >> 6
    assert np.random.RandomState(5489).random_sample() == (a * 67108864 + b) / 9007199254740992


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    temperature=st.sampled_from([0.0, 1e-3, 0.7, 10.0]),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1.0),
)
def test_any_logits_give_a_token_of_the_vocabulary_that_the_limits_allow(logits, temperature, top_k, top_p):
    values = np.array(logits, np.float32)
    token = Sampler(Sampling(temperature, top_k, top_p))(values)
    assert 0 <= token < len(values)
    if top_k and temperature:
        assert (values > values[token]).sum() < top_k


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_bytes_stream_back_to_the_text(text):
    tokenizer = ByteTokenizer()
    assert "".join(tokenizer.decode_stream(tokenizer.encode(text))) == text


def test_bytes_hold_back_half_a_character():
    pieces = list(ByteTokenizer().decode_stream("é!".encode()))
    assert pieces[0] == "" and pieces[1] == "é" and pieces[2] == "!"


def test_invalid_bytes_become_replacement_characters():
    assert "".join(ByteTokenizer().decode_stream([0xFF, 0x41])) == "\ufffdA"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed")
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None, byte_fallback=False))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator(["the quick brown fox jumps over the lazy dog, ünïcödé too"] * 20, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    model.save(str(path))
    return path


@pytest.mark.parametrize("text", ["the quick fox", "a 🙂 in the middle", "日本語 and the dog " * 30])
def test_hugging_face_stream_joins_to_the_text(tokenizer_file, text):
    tokenizer = HuggingFaceTokenizer(tokenizer_file)
    assert "".join(tokenizer.decode_stream(tokenizer.encode(text))) == text


def test_damaged_tokenizer_is_one_clear_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer.json"):
        HuggingFaceTokenizer(tmp_path / "tokenizer.json")


def test_bundle_without_tokenizer_says_what_to_do(export_variant):
    _, _, bundle = export_variant("a-mixed")
    with pytest.raises(UserError, match="token ids only"):
        open_tokenizer(Bundle.open(bundle))


@pytest.mark.parametrize("state_dtype", ["float32", "float16", "bfloat16"])
def test_states_can_be_taken_out_and_put_back(export_variant, state_dtype):
    _, _, bundle = export_variant("a-mixed", state_dtype=state_dtype)
    tokens = np.arange(24).reshape(2, 12)
    with open_session(Bundle.open(bundle), batch=2) as session:
        for t in range(6):
            session.step(tokens[:, t : t + 1])
        kept = session.read_states()
        following = [session.step(tokens[:, t : t + 1]) for t in range(6, 12)]
        session.reset()
        assert all((value == 0).all() for value in session.read_states().values())
        session.write_states(kept)
        assert all(value.dtype == np.float32 for value in kept.values())
        session.reset(1)
        assert all((v[0] == kept[name][0]).all() and not v[1].any() for name, v in session.read_states().items())
        session.write_states(kept)
        again = [session.step(tokens[:, t : t + 1]) for t in range(6, 12)]
    np.testing.assert_array_equal(following, again)


@pytest.mark.parametrize("state_dtype, error", [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_states_in_half_precision_cost_their_rounding_and_no_more(export_variant, state_dtype, error):
    """Logits over 40 tokens: of their spread, no more than 32 roundings (`validation.tolerance`)."""
    tokens = np.random.default_rng(0).integers(0, 50, (2, 40))
    results = []
    for dtype in ("float32", state_dtype):
        bundle = Bundle.open(export_variant("a-mixed", state_dtype=dtype)[2])
        with open_session(bundle, batch=2) as session:
            results.append(np.concatenate([session.step(tokens[:, t : t + 1]) for t in range(40)], 1))
    exact, rounded = results
    errors = np.abs(rounded - exact).max(-1) / np.ptp(exact, -1)
    assert 0 < np.median(errors) < 32 * error


def test_a_state_beyond_the_range_of_its_dtype_is_refused(export_variant):
    bundle = Bundle.open(export_variant("a-mixed", state_dtype="float16")[2])
    with open_session(bundle) as session:
        states = session.read_states()
        name = next(name for name in states if name.endswith("mlstm.C"))
        with pytest.raises(UserError, match=f"{name} has values beyond the range of float16"):
            session.write_states(states | {name: np.full_like(states[name], 7e4)})
        assert not session.read_states()[name].any()


def test_results_belong_to_the_caller(export_variant):
    """Logits and states that were handed out do not change when the session goes on."""
    _, _, bundle = export_variant("a-mixed")
    with open_session(Bundle.open(bundle)) as session:
        logits, states = session.step(np.array([[5]])), session.read_states()
        before = logits.copy(), {name: value.copy() for name, value in states.items()}
        for _ in range(3):
            session.step(np.array([[7]]))
    np.testing.assert_array_equal(logits, before[0])
    for name, value in states.items():
        np.testing.assert_array_equal(value, before[1][name])


@pytest.mark.parametrize("prompt, says", [([], "empty"), ([1, 97], "97"), ([-1], "-1")])
def test_generation_refuses_impossible_prompts(prompt, says, export_variant):
    _, _, bundle = export_variant("a-mixed")
    with open_session(Bundle.open(bundle)) as session, pytest.raises(UserError, match=says):
        Generation(session, prompt, 5, Sampler(Sampling()))


def test_block_stack_has_no_tokens_to_generate(export_variant):
    _, _, bundle = export_variant("a-stack")
    with open_session(Bundle.open(bundle)) as session, pytest.raises(UserError, match="gives vectors, not logits"):
        Generation(session, [1], 5, Sampler(Sampling()))


def test_unknown_runtime_lists_the_known(export_variant):
    _, _, bundle = export_variant("a-mixed")
    with pytest.raises(UserError, match="onnxruntime, tensorrt-rtx, tensorrt"):
        open_session(Bundle.open(bundle), "tflite")


def test_a_tiny_model_runs_on_one_thread_where_nothing_says_otherwise(export_variant, monkeypatch):
    bundle = Bundle.open(export_variant("a-mixed")[2])

    def threads() -> int:
        with open_session(bundle) as session:
            return session._session.get_session_options().intra_op_num_threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads() == 1
    monkeypatch.setattr("xlstm_export.runtime.onnxruntime._TINY", 0)
    assert threads() == 0  # one for each core
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads() == 2
