"""Continuous batching: what each sequence gets is what it gets alone, whatever runs beside it."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.native import onnxruntime_operators

from xlstm_export.bundle import Bundle
from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.runtime import open_session
from xlstm_export.runtime.generation import Generation, TextGeneration
from xlstm_export.runtime.sampling import Sampler, Sampling
from xlstm_export.runtime.tokenizers import ByteTokenizer
from xlstm_export.serving import Batcher, BatcherThread, Busy, Completion, SlotPool, Task
from xlstm_export.serving.planning import CHUNK, CHUNK_BESIDE_DECODING, PADDING, group, share_out

TEXT = b"And it came to pass in those days, that there went out a decree from Caesar Augustus, that all the world"


class Reading(Task):
    """Reads a prompt, then a script token by token, and remembers the logits after each."""

    def __init__(self, prompt, script=()):
        self.tokens, self.script = list(prompt), list(script)
        self.logits, self.ended, self.error = [], 0, None

    def follow(self, logits):
        self.logits.append(logits.copy())
        return self.script.pop(0) if self.script else None

    def end(self, error):
        self.ended, self.error = self.ended + 1, error


@pytest.fixture(params=["definitions", "kernels"])
def library(request):
    return onnxruntime_operators() if request.param == "kernels" else None


@pytest.fixture
def kjv(demo_bundle):
    return Bundle.open(demo_bundle)


@pytest.fixture
def batcher(kjv):
    batcher = Batcher(open_session(kjv, batch=3), queue=2)
    yield batcher
    batcher.shut(UserError(ErrorKind.unavailable, "the test is over"))


def pump(batcher):
    while batcher.pump():
        pass


def alone(session, prompt, script=()):
    """The logits after a prompt and after each token of a script, (1 + script, V)."""
    session.reset()
    after = [session.prefill([np.array(list(prompt))])[0, 0]]
    return np.stack(after + [session.step(np.array([[token]]))[0, 0] for token in script])


def check_equal(logits, expected):
    """Within float rounding of another order of additions, over hundreds of positions."""
    np.testing.assert_allclose(np.stack(logits), expected, atol=2e-4 * np.ptp(expected), rtol=0)


def test_64_interleaved_sequences_get_what_each_gets_alone(kjv, library):
    random = np.random.default_rng(0)
    tasks = [
        Reading(
            random.integers(32, 127, random.choice([1, 2, 17, 90, 400])),
            random.integers(32, 127, random.integers(0, 25)),
        )
        for _ in range(64)
    ]
    scripts = [list(task.script) for task in tasks]
    cancelled = {*random.choice(64, 12, replace=False).tolist()}
    batcher, sequences, arriving = Batcher(open_session(kjv, batch=7, custom_ops=library), queue=3), {}, list(range(64))
    most_together = 0
    while arriving or sequences:
        for _ in range(random.integers(0, 4)):
            if arriving and batcher.open_sequences < batcher.most_open:
                index = arriving.pop(0)
                sequences[index] = batcher.open()
                sequences[index].start(tasks[index])
        batcher.pump()
        most_together = max(most_together, batcher.pool.taken)
        for index, sequence in [*sequences.items()]:
            if index in cancelled and random.random() < 0.1:
                sequence.cancel()
            if tasks[index].ended:
                sequences.pop(index).close()
    batcher.pump()
    assert (most_together, batcher.pool.taken, batcher.open_sequences) == (7, 0, 0)
    assert all(task.ended == 1 and task.error is None for task in tasks)
    cut_short = sum(len(task.logits) <= len(script) for task, script in zip(tasks, scripts, strict=True))
    assert 3 < cut_short <= len(cancelled)
    with open_session(kjv, custom_ops=library) as session:
        for task, script in zip(tasks, scripts, strict=True):
            if task.logits:
                expected = alone(session, task.tokens, script)
                check_equal(task.logits, expected[: len(task.logits)])


def test_greedy_text_is_what_generate_gives(kjv, library):
    prompts = [TEXT[:n].decode() for n in (1, 5, 20, 33, 60, 90)]
    texts, ended = [""] * len(prompts), []
    greedy = Sampling(temperature=0)

    def add(index, piece):
        texts[index] += piece

    batcher = Batcher(open_session(kjv, batch=6, custom_ops=library))
    for index, prompt in enumerate(prompts):
        task = Completion(
            list(prompt.encode()), ByteTokenizer(), 40, greedy, show=partial(add, index), done=ended.append
        )
        batcher.open().start(task)
    pump(batcher)
    assert ended == [None] * len(prompts)
    for prompt, text in zip(prompts, texts, strict=True):
        generation = Generation(open_session(kjv, custom_ops=library), list(prompt.encode()), 40, Sampler(greedy))
        assert text == "".join(TextGeneration(generation, ByteTokenizer()))


def test_sequence_draws_from_its_own_stream_of_random_numbers(kjv):
    def draw(seeds):
        texts = [[] for _ in seeds]
        batcher = Batcher(open_session(kjv, batch=len(seeds)))
        for seed, text in zip(seeds, texts, strict=True):
            sampling = Sampling(1.0, top_k=20, top_p=0.9, seed=seed)
            task = Completion(list(TEXT), ByteTokenizer(), 20, sampling, show=text.append, done=lambda error: None)
            batcher.open().start(task)
        pump(batcher)
        return ["".join(text) for text in texts]

    assert draw([1, 2, 3]) == draw([1]) + draw([2]) + draw([3])
    assert len({*draw([1, 2, 3])}) == 3


def test_saved_sequence_goes_on_in_another_batcher_bit_for_bit(kjv, library):
    def resume(state):
        other = Batcher(open_session(kjv, batch=2, custom_ops=library))
        task, sequence = Reading([7], [8, 9]), other.open(state)
        sequence.start(task)
        pump(other)
        saved = sequence.save()
        pump(other)
        return task.logits, saved.result()

    batcher = Batcher(open_session(kjv, batch=4, custom_ops=library))
    for row in range(3):  # so that the sequence of interest moves
        batcher.open().start(Reading(TEXT[: row + 1]))
    sequence = batcher.open()
    sequence.start(Reading(TEXT))
    pump(batcher)
    saved = sequence.save()
    pump(batcher)
    state, again = saved.result(), sequence.save()
    pump(batcher)
    assert state == again.result()
    (first, first_state), (second, second_state) = resume(state), resume(state)
    np.testing.assert_array_equal(first, second)
    assert first_state == second_state != state
    with open_session(kjv, custom_ops=library) as session:
        check_equal(first, alone(session, TEXT, [7, 8, 9])[1:])


def test_damaged_state_and_one_of_another_model_are_refused_at_once(kjv, batcher, export_variant):
    sequence = batcher.open()
    saved = sequence.save()
    pump(batcher)
    good = saved.result()
    with pytest.raises(UserError, match="is damaged"):
        batcher.open(good[:-1] + bytes([good[-1] ^ 1]))
    with open_session(Bundle.open(export_variant("a-mixed")[2])) as session:
        with pytest.raises(UserError, match="was saved by another model"):
            batcher.open(SlotPool(session).save(SlotPool(session).acquire()))
    assert batcher.open_sequences == 1


def test_full_queue_says_so_and_makes_room_again(batcher):
    sequences = [batcher.open() for _ in range(5)]
    with pytest.raises(Busy, match="All 3 slots are taken, and 2 sequences wait for one. Try again later."):
        batcher.open()
    last = Reading([1])
    sequences[4].start(last)
    pump(batcher)
    assert (batcher.waiting, last.ended) == (2, 0)
    for sequence in sequences[1:4]:
        sequence.close()
        sequence.close()
    pump(batcher)
    assert (batcher.waiting, batcher.pool.taken, last.ended) == (0, 2, 1)
    batcher.open()


def test_sequence_that_is_closed_in_the_middle_leaves_its_slot_and_the_others_alone(kjv, batcher):
    gone, stays = Reading(TEXT, list(TEXT) * 50), Reading(TEXT[:9], list(TEXT[9:40]))
    leaver, stayer = batcher.open(), batcher.open()
    leaver.start(gone)
    stayer.start(stays)
    for _ in range(10):
        batcher.pump()
    leaver.close()
    pump(batcher)
    assert gone.ended == stays.ended == 1 and batcher.pool.taken == 1
    with open_session(kjv) as session:
        check_equal(stays.logits, alone(session, TEXT[:9], TEXT[9:40]))


def test_long_prompt_does_not_hold_up_a_token_or_a_short_prompt(batcher):
    decoding, long, short = Reading([1], [2] * 400), Reading([5] * 4000), Reading([6] * 100)
    batcher.open().start(decoding)
    batcher.pump()
    batcher.open().start(long)
    batcher.open().start(short)
    rounds = 0
    while not short.ended:
        tokens, positions = len(decoding.logits), batcher.stats.positions
        batcher.pump()
        rounds += 1
        assert len(decoding.logits) == tokens + 1
        assert batcher.stats.positions - positions <= 1 + CHUNK_BESIDE_DECODING + PADDING
    assert rounds == -(-100 // (CHUNK_BESIDE_DECODING // 2)) and not long.ended


def test_task_that_fails_ends_alone(batcher):
    class Broken(Reading):
        def follow(self, logits):
            raise ZeroDivisionError("nothing to divide")

        def end(self, error):
            super().end(error)
            raise KeyError("nor here")

    broken, sound = Broken([1]), Reading([1], [2, 3])
    batcher.open().start(broken)
    batcher.open().start(sound)
    pump(batcher)
    assert str(broken.error) == "The task failed: nothing to divide" and broken.error.kind is ErrorKind.runtime
    assert sound.error is None and len(sound.logits) == 3


def test_pass_that_fails_takes_only_the_sequences_it_must(kjv, library, monkeypatch):
    """Where states are updated in place, those of the pass; elsewhere the one that is to blame."""
    batcher = Batcher(open_session(kjv, batch=4, custom_ops=library))
    tasks = [Reading([token], [5, 6, 7]) for token in (1, 2, 3, 4)]
    sequences = [batcher.open() for _ in tasks]
    for sequence, task in zip(sequences, tasks, strict=True):
        sequence.start(task)
    run = batcher.pool.session._run

    def fail_with_3(given, rows, turn):
        if 3 in given.inputs["tokens"]:
            raise UserError(ErrorKind.runtime, "it dislikes 3")
        return run(given, rows, turn)

    waiting = Reading([9], [10])
    monkeypatch.setattr(batcher.pool.session, "_run", fail_with_3)
    pump(batcher)
    failed = [task.error is not None for task in tasks]
    assert failed == ([True] * 4 if library else [False, False, True, False])
    assert all("it dislikes 3" in str(task.error) for task, bad in zip(tasks, failed, strict=True) if bad)
    assert batcher.pool.taken == (0 if library else 4)  # what has no states left is closed
    if not library:
        sequences[2].start(Reading([1]))  # its states are as they were
        sequences[0].close()
        batcher.pump()
    batcher.open().start(waiting)
    pump(batcher)
    assert waiting.error is None and len(waiting.logits) == 2
    with open_session(kjv, custom_ops=library) as session:
        check_equal(waiting.logits, alone(session, [9], [10]))
        if not library:
            check_equal(tasks[3].logits, alone(session, [4], [5, 6, 7]))


def test_tokens_that_the_model_has_not_are_refused_at_once(batcher):
    sequence = batcher.open()
    with pytest.raises(UserError, match="token 256 is not in the vocabulary of 256"):
        sequence.start(Reading([1, 256]))
    with pytest.raises(UserError, match="give at least one token"):
        sequence.start(Reading([]))


def test_second_task_beside_a_running_one_and_one_after_closing_are_refused(batcher):
    sequence, running, second, late = batcher.open(), Reading([1], [2, 3]), Reading([1]), Reading([1])
    sequence.start(running)
    sequence.start(second)
    pump(batcher)
    sequence.close()
    sequence.start(late)
    pump(batcher)
    assert (len(running.logits), running.error) == (3, None)
    assert "is busy with another task" in str(second.error) and "is closed" in str(late.error)


def test_bundle_with_a_fixed_batch_is_not_served(export_variant):
    with open_session(Bundle.open(export_variant("a-mixed", batch=2)[2]), batch=2) as session:
        with pytest.raises(UserError, match="runs 2 sequences or more, .* Export it with --batch dynamic"):
            Batcher(session)


def test_bundle_of_single_steps_is_served_step_by_step(export_variant):
    bundle = Bundle.open(export_variant("a-mixed", mode="step")[2])
    batcher, tasks = Batcher(open_session(bundle, batch=2)), [Reading([1, 2, 3], [4]), Reading([5], [6, 7])]
    for task in tasks:
        batcher.open().start(task)
    pump(batcher)
    with open_session(bundle) as session:
        check_equal(tasks[0].logits, alone(session, [1, 2, 3], [4]))
        check_equal(tasks[1].logits, alone(session, [5], [6, 7]))


def test_thread_serves_many_threads_and_ends_what_runs_when_it_is_closed(kjv):
    with BatcherThread(Batcher(open_session(kjv, batch=4), queue=30)) as batcher:
        ends = [threading.Event() for _ in range(20)]
        texts = [[] for _ in ends]

        def complete(index):
            prompt = list(TEXT[: 1 + index])
            done = lambda error: ends[index].set()  # noqa: E731
            batcher.open().start(
                Completion(prompt, ByteTokenizer(), 5, Sampling(0), show=texts[index].append, done=done)
            )

        for index in range(4):
            complete(index)
        threads = [threading.Thread(target=complete, args=(index,)) for index in range(4, 20)]
        for thread in threads:
            thread.start()
        assert all(event.wait(60) for event in ends[:4])
        endless = Reading([1], [1] * 100_000)
        batcher.open().start(endless)
        for thread in threads:
            thread.join()
    assert endless.ended == 1 and "shutting down" in str(endless.error)
    assert all(sum(map(len, text)) == 5 for text in texts[:4]) and all(event.is_set() for event in ends)
    with pytest.raises(UserError, match="shutting down"):
        batcher.open()


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=64), st.sampled_from([None, 1, 16, 256]))
def test_any_round_reads_something_of_every_sequence_within_its_bounds(unread, most):
    positions = share_out(unread, most)
    assert all(1 <= take <= min(count, most or count) for take, count in zip(positions, unread, strict=True))
    prompts = [take for take, count in zip(positions, unread, strict=True) if count > 1]
    bound = CHUNK if len(prompts) == len(unread) else CHUNK_BESIDE_DECODING
    assert sum(prompts) <= max(bound, len(prompts))
    passes = group(positions)
    assert sorted(index for members in passes for index in members) == [*range(len(unread))]
    for members in passes:
        longest = max(positions[index] for index in members)
        assert sum(longest - positions[index] for index in members) <= PADDING
    assert len(passes) <= 1 + len({*positions})
