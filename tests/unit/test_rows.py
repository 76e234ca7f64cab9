"""Passes over some rows of a session, and what else is done with single rows."""

from __future__ import annotations

import numpy as np
import pytest
from support.native import onnxruntime_operators
from support.row_walk import walk_over_rows

from xlstm_export.bundle import Bundle
from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.runtime import open_session


@pytest.fixture(params=["definitions", "kernels"])
def library(request):
    return onnxruntime_operators() if request.param == "kernels" else None


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_rows_get_what_they_get_alone_whichever_run_together(library, state_dtype, export_variant):
    bundle = Bundle.open(export_variant("a-mixed", state_dtype=state_dtype)[2])
    with (
        open_session(bundle, batch=5, custom_ops=library) as session,
        open_session(bundle, custom_ops=library) as alone,
    ):
        assert walk_over_rows(session, alone, operations=80, most=4) > 5


def test_rows_that_sit_out_passes_keep_their_states_bit_for_bit(library, export_variant):
    bundle, random = Bundle.open(export_variant("a-mixed")[2]), np.random.default_rng(0)
    with open_session(bundle, batch=4, custom_ops=library) as session:
        session.feed(random.integers(0, 9, (4, 5)))
        kept = session.read_states(2)
        for rows in (range(2), range(3, 4), range(2), range(1, 2), range(2)):
            session.feed(random.integers(0, 9, (len(rows), 1)), rows=rows)
        for name, value in session.read_states(2).items():
            np.testing.assert_array_equal(value, kept[name], err_msg=name)


def test_rows_that_the_session_has_not_are_refused(export_variant):
    bundle = Bundle.open(export_variant("a-mixed")[2])
    with open_session(bundle, batch=3) as session:
        for rows in (range(0), range(2, 4), range(-1, 2), range(0, 3, 2)):
            with pytest.raises(UserError, match="rows are range.* expected some that follow each other, of 0 to 2"):
                session.feed(np.zeros((len(rows), 1), np.int64), rows=rows)
        for use in (lambda: session.copy_row(0, 3), lambda: session.swap_rows(-1, 0), lambda: session.read_states(3)):
            with pytest.raises(UserError, match="is not one of 0 to 2"):
                use()


def test_bundle_with_a_fixed_batch_runs_all_rows_only(export_variant):
    bundle = Bundle.open(export_variant("a-mixed", batch=2)[2])
    with open_session(bundle, batch=2) as session:
        with pytest.raises(UserError, match="a pass runs 2 or more: .* Export it with --batch dynamic"):
            session.feed(np.zeros((1, 1), np.int64), rows=range(1))
        session.feed(np.zeros((2, 1), np.int64), rows=range(2))


def test_pass_that_fails_spoils_its_own_rows_where_they_are_updated_in_place_and_no_others(
    library, export_variant, monkeypatch
):
    bundle = Bundle.open(export_variant("a-mixed")[2])
    tokens = np.zeros((2, 1), np.int64)

    def fail(*arguments):
        raise UserError(ErrorKind.runtime, "no memory")

    with open_session(bundle, batch=4, custom_ops=library) as session:
        session.feed(np.zeros((4, 3), np.int64))
        with monkeypatch.context() as patched:
            patched.setattr(session, "_run", fail)
            with pytest.raises(UserError, match="no memory"):
                session.feed(tokens, rows=range(1, 3))
        spoilt = library is not None
        assert [session.is_spoilt(row) for row in range(4)] == [False, spoilt, spoilt, False]
        session.feed(tokens[:1], rows=range(1))
        if spoilt:
            with pytest.raises(UserError, match="The states are lost"):
                session.feed(tokens, rows=range(2))
            session.swap_rows(1, 3)  # the loss moves with the row
            assert [session.is_spoilt(row) for row in range(4)] == [False, False, True, True]
            session.reset(3)
            session.write_states(session.read_states(0), row=2)
        session.feed(np.zeros((4, 1), np.int64))
