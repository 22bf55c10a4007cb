"""A run is an episode: saved at its begin, completed at its end, whatever ends it."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

import memory_storage as ms
from memory_storage.recording import current_run
from memory_storage.testing import FakeClock
from tests.backends import in_memory
from tests.raising import raises


def _stored(storage: ms.MemoryStorage, run: ms.Run) -> ms.Episode:
    return storage.episodes.get(run.id)


def test_a_run_is_an_episode_with_its_steps(storage: ms.MemoryStorage):
    with storage.record("Refund order 17", task_type="testing", tags=["refunds"], metadata={"a": 1}) as run:
        assert _stored(storage, run).outcome is None  # saved already
        stored = run.step("lookup", "find it", parameters={"order": 17}, output={"total": 9.5}, latency_ms=250)
        run.step("refund", error=ValueError("closed"), tokens_used=12)
        run.complete(ms.PartialSuccess(verdict="half"), reward=0.5)
    episode = _stored(storage, run)
    assert (episode.task_description, episode.task_type, episode.tags) == ("Refund order 17", "testing", ["refunds"])
    assert (episode.outcome, episode.reward.total) == (ms.PartialSuccess(verdict="half"), 0.5)
    assert episode.metadata == {"a": 1}
    lookup, refund = episode.steps
    assert lookup == stored
    assert (lookup.step_number, lookup.action, lookup.parameters) == (1, "find it", {"order": 17})
    assert (lookup.result, lookup.latency_ms) == (ms.StepOk(output='{"total":9.5}'), 250)
    assert (refund.result, refund.tokens_used) == (ms.StepError(message="ValueError: closed"), 12)
    assert episode == run.episode


def test_a_block_without_an_outcome_is_a_success(storage: ms.MemoryStorage):
    with storage.record("a task") as run:
        pass
    assert _stored(storage, run).outcome == ms.Success(verdict="")
    with storage.record("a task") as run:
        run.complete("refunded")
    assert _stored(storage, run).outcome == ms.Success(verdict="refunded")


def test_an_exception_is_a_failure_without_values_of_variables(storage: ms.MemoryStorage):
    def fails() -> None:
        password = "pass" + "word-7f3a"
        raise ValueError(f"no access of {len(password)} characters")

    with raises(ValueError, match="no access"), storage.record("a task") as run:
        fails()
    outcome = _stored(storage, run).outcome
    assert outcome.reason == "ValueError: no access of 13 characters"
    assert "in fails\n" in outcome.error_details
    assert "password-7f3a" not in outcome.error_details


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()])
def test_an_interruption_is_no_failure(storage: ms.MemoryStorage, error: BaseException):
    def interrupted() -> None:
        run.step("one")
        raise error

    with pytest.raises(type(error)), storage.record("a task") as run:
        interrupted()
    reason = "SystemExit: 3" if isinstance(error, SystemExit) else type(error).__name__
    assert _stored(storage, run).outcome == ms.Abstained(reason=reason, stopped_at_step=0)


def test_an_outcome_stays_if_an_exception_follows(storage: ms.MemoryStorage):
    with raises(ValueError, match="later"), storage.record("a task") as run:
        run.complete("done")
        raise ValueError("later")
    assert _stored(storage, run).outcome == ms.Success(verdict="done")


@in_memory
def test_a_timed_step_measures_its_block(target):
    clock = FakeClock()
    with ms.MemoryStorage.open(target, now=clock.now) as storage, storage.record("a task") as run:
        with run.timed_step("grep", "search", parameters={"word": "x"}) as step:
            step.output, step.tokens_used = ["a", "b"], 7
        with raises(KeyError, match="gone"), run.timed_step("read"):
            raise KeyError("gone")
        with pytest.raises(TimeoutError), run.timed_step("wait"):
            raise TimeoutError("10 s")
        assert step.stored.started_at == clock.now()
        grep, read, wait = storage.episodes.get(run.id).steps
    assert grep == step.stored
    assert (grep.result, grep.tokens_used) == (ms.StepOk(output='["a","b"]'), 7)
    assert read.result == ms.StepError(message="KeyError: 'gone'")
    assert (wait.result, wait.metadata) == (ms.StepTimeout(), {"error": "TimeoutError: 10 s"})


def test_what_does_not_fit_is_replaced_and_named(storage: ms.MemoryStorage):
    cycle: list[object] = []
    cycle.append(cycle)
    with storage.record("a task") as run:
        run.step("a", parameters={"text": "x" * 1_000_000, "small": 1}, output="y" * 2_000_000)
        run.step("b", parameters={"cycle": cycle, "nan": float("nan"), "large": 10**30, "odd": object(), "nul": "\0"})
    large, odd = _stored(storage, run).steps
    assert large.parameters == {"text": "(not stored: 1,000,002 bytes of JSON)", "small": 1}
    assert large.result.output == f"{'y' * 10_000}... (not stored completely: 2,000,000 characters)"
    assert large.metadata == {"not_stored": {"parameters.text": 1_000_002, "output": 2_000_002}}
    assert odd.parameters["cycle"].startswith("(not stored: <list> is not JSON")
    assert odd.metadata == {"not_stored": {"parameters.cycle": 0}}
    others = {"nan": "nan", "large": str(10**30), "odd": "<object>", "nul": "\N{REPLACEMENT CHARACTER}"}
    assert {name: odd.parameters[name] for name in others} == others


def test_a_long_error_keeps_its_last_frames(storage: ms.MemoryStorage):
    with pytest.raises(ValueError), storage.record("a task") as run:
        raise ValueError("x" * 3_000_000)
    outcome = _stored(storage, run).outcome
    assert outcome.reason.endswith("... (2,998,012 characters not stored) ...")
    assert len(outcome.error_details) < 21_000


def test_redact_sees_every_text(storage: ms.MemoryStorage):
    def redact(text: str) -> str:
        return text.replace("canary", "***")

    with raises(ValueError, match="canary"), storage.record("a task", redact=redact) as run:
        run.step("a", parameters={"x": ["canary 1"]}, output={"y": "canary 2"})
        run.step("b", error="canary 3")
        raise ValueError("canary 4")
    assert "canary" not in _stored(storage, run).model_dump_json()
    with storage.record("a task", redact=lambda text: 1 / 0) as run:
        run.step("a", parameters={"x": "canary"})
    assert _stored(storage, run).steps[0].parameters == {"x": "(not stored: redact raised ZeroDivisionError)"}


def test_a_run_within_a_run_is_an_episode_of_its_own(storage: ms.MemoryStorage):
    with storage.record("outer") as outer:
        with storage.record("inner") as inner:
            assert current_run() is inner
        assert current_run() is outer
    assert current_run() is None
    assert _stored(storage, inner).metadata == {"parent_episode": str(outer.id)}


def test_threads_append_to_one_run(storage: ms.MemoryStorage):
    with storage.record("a task") as run, ThreadPoolExecutor(4) as pool:
        steps = list(pool.map(lambda number: run.step(f"tool-{number}"), range(20)))
        assert pool.submit(current_run).result() is None
    assert sorted(step.step_number for step in steps) == list(range(1, 21))
    assert {step.id for step in _stored(storage, run).steps} == {step.id for step in steps}


@in_memory
def test_a_storage_that_fails_hides_no_exception(storage: ms.MemoryStorage, caplog):
    with raises(ValueError, match="mine") as caught, storage.record("a task") as run:
        storage.close()
        with run.timed_step("a"):
            raise ValueError("mine")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert all("UnavailableError: the storage is closed" in record.message for record in caplog.records)
    if hasattr(caught.value, "__notes__"):
        assert len(caught.value.__notes__) == 2


@in_memory
def test_a_storage_that_fails_is_an_error_without_one(storage: ms.MemoryStorage):
    with raises(ms.UnavailableError, match="closed"), storage.record("a task") as run:
        run.step("a")
        storage.close()


@in_memory
def test_what_is_wrong_is_refused(storage: ms.MemoryStorage):
    with raises(ms.ValidationError, field="task_type"):
        storage.record("a task", task_type="cooking")
    with raises(ms.ValidationError, field="redact"):
        storage.record("a task", redact="***")
    with storage.record("a task") as run:
        with raises(ms.ValidationError, field="error"):
            run.step("a", output="x", error="y")
        with raises(ms.ValidationError, field="run"):
            run.__enter__()
        with raises(ms.ValidationError, field="outcome"):
            run.complete(None)


def test_what_was_recalled_for_a_run_is_linked_when_it_ends(storage: ms.MemoryStorage):
    with storage.record("Fix the flaky login test"):
        pass
    recall = storage.recall("Fix the flaky login test")
    with storage.record("Fix the login test again", recalled=recall) as run:
        assert _stored(storage, run).recalled is None
    assert _stored(storage, run).recalled == recall.receipt
    with pytest.raises(ZeroDivisionError), storage.record("The login test fails", recalled=recall.id) as failed:
        failed.step(str(1 // 0))
    assert _stored(storage, failed).recalled == recall.receipt
