"""The commands `record`: a shell command as an episode, and an episode step by step."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from uuid import UUID

import pytest

import memory_storage as ms

from .conftest import start


def recorded(database) -> ms.Episode:
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.query().items[0]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_that_succeeds_is_a_successful_episode(command, database):
    result = command(
        *("record", "Greet", "--domain", "shell", "--tag", "demo", "--metadata", "n=1", "-d", database),
        *("--", *python("print('hello')")),
    )
    assert (result.exit_code, result.stdout) == (0, "hello\n")
    episode = recorded(database)
    assert result.stderr == f"recorded as episode {episode.id}\n"
    assert (episode.task_description, episode.context.domain, episode.tags) == ("Greet", "shell", ["demo"])
    assert isinstance(episode.outcome, ms.Success)
    (step,) = episode.steps
    assert (step.result, step.metadata) == (ms.StepOk(output="hello\n"), {"exit_code": 0, "output_bytes": 6})
    assert step.parameters["command"] == python("print('hello')")
    assert step.tool == os.path.basename(sys.executable)
    assert 0 < step.latency_ms < 60_000


def test_a_command_that_fails_is_a_failure_and_its_exit_code_the_result(command, database):
    code = "import sys; print('out', flush=True); print('bad thing', file=sys.stderr); sys.exit(3)"
    result = command("record", "Fail", "-d", database, "--", *python(code))
    assert (result.exit_code, result.stdout) == (3, "out\n")
    assert result.stderr.startswith("bad thing\n")
    episode = recorded(database)
    assert episode.outcome.reason.startswith("exit code 3: ")
    assert episode.steps[0].result.message.startswith("exit code 3\n")
    assert {"out", "bad thing"} <= set(episode.steps[0].result.message.splitlines())


def test_a_line_of_one_stream_is_not_cut_by_the_other(command, database):
    writes = [(2, b"bad "), (1, b"out"), (2, b"thing\n"), (1, b"put\n")]
    code = f"import os, time\nfor stream, data in {writes}: os.write(stream, data); time.sleep(0.05)"
    result = command("record", "Write in parts", "-d", database, "--", *python(code))
    assert result.exit_code == 0
    assert recorded(database).steps[0].result == ms.StepOk(output="bad thing\noutput\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["no-such-program"], 127), ([os.devnull], 126), (python("import os; os.kill(os.getpid(), 9)"), 137)],
)
def test_what_cannot_run_or_is_killed_has_the_code_of_a_shell(command, database, arguments, code):
    result = command("record", "Try", "-d", database, "--", *arguments)
    assert result.exit_code == code
    assert recorded(database).steps[0].metadata["exit_code"] == code
    assert isinstance(recorded(database).outcome, ms.Failure)


def test_an_output_over_the_limit_is_cut_in_the_middle_and_says_so(command, database, monkeypatch):
    monkeypatch.setenv("MEMORY_STORAGE_LIMITS__STEP_BYTES", "10000")
    code = "print('first'); print('é' * 30_000); print('last')"
    result = command("record", "Say much", "-d", database, "--", *python(code))
    assert (result.exit_code, len(result.stdout)) == (0, 30_012)
    (step,) = recorded(database).steps
    output, metadata = step.result.output, step.metadata
    assert output.startswith("first\n")
    assert output.endswith("last\n")
    assert f"[... {metadata['output_bytes_left_out']:,} bytes left out ...]" in output
    assert metadata["output_bytes"] == 60_012
    kept = len(output.encode()) - len(f"\n[... {metadata['output_bytes_left_out']:,} bytes left out ...]\n")
    assert kept + metadata["output_bytes_left_out"] == 60_012
    assert "output_has_replacements" not in metadata
    assert 6_000 < len(output.encode()) < 10_000


def test_bytes_that_cannot_be_stored_are_replaced_and_say_so(command, database):
    code = r"import sys; sys.stdout.buffer.write(b'a\0b\xff')"
    result = command("record", "Bytes", "-d", database, "--", *python(code))
    assert result.stdout_bytes == b"a\0b\xff"
    (step,) = recorded(database).steps
    assert step.result.output == "a\ufffdb\ufffd"
    assert step.metadata == {"exit_code": 0, "output_bytes": 4, "output_has_replacements": True}


def test_a_large_output_passes_unchanged(database):
    code = "import sys\nfor n in range(200_000): print(n, n * n)"
    expected = hashlib.sha256(subprocess.run(python(code), capture_output=True, check=True).stdout).digest()
    process = start("record", "Count", "-d", database, "--", *python(code))
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, hashlib.sha256(out).digest()) == (0, expected)


def test_a_command_reads_the_standard_input(database):
    process = start("record", "Echo", "-d", database, "--", *python("print(input()[::-1])"))
    out, _ = process.communicate(b"abc\n", timeout=300)
    assert (process.returncode, out) == (0, b"cba\n")


def test_with_json_stdout_has_the_episode_alone(command, database):
    result = command("record", "Greet", "--json", "-d", database, "--", *python("print('hello')"))
    assert result.stderr == "hello\n"
    assert json.loads(result.stdout)["steps"][0]["result"] == {"status": "ok", "output": "hello\n"}


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_command_is_recorded_as_failed(database):
    code = "import time; print('ready', flush=True); time.sleep(600)"
    process = start("record", "Wait", "-d", database, "--", *python(code), start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert recorded(database).outcome.reason.startswith("exit code 130: ")


def test_nothing_runs_if_the_database_cannot_be_opened(command, tmp_path):
    made, file = tmp_path / "made", tmp_path / "file"
    file.touch()
    command_line = python(f"open({str(made)!r}, 'w')")
    result = command("record", "Make", "-d", file / "memory.db", "--", *command_line)
    assert result.exit_code == 3
    assert not made.exists()


def test_a_task_without_a_command_is_wrong_usage(command, database):
    result = command("record", "Fix it", "-d", database)
    assert result.exit_code == 2
    assert "no command follows the task 'Fix it': write -- before it" in result.stderr
    assert not database.exists()


def test_a_script_records_step_by_step(command, answered, database):
    episode_id = command("record", "start", "Deploy", "--task-type", "other", "-d", database).stdout.strip()
    assert str(UUID(episode_id)) == episode_id
    short = episode_id[:13]
    parameters = '{"to": "prod"}'
    said = command(
        "record", "step", short, "--tool", "ship", "--parameters", parameters, "--output", "ok", "-d", database
    )
    assert said.stdout == "1\n"
    failed = command("record", "step", short, "--tool", "check", "--error", "-", "-d", database, stdin="bad\ngateway")
    assert failed.stdout == "2\n"
    assert answered("record", "step", short, "--tool", "wait", "--timeout", "--tokens", 5)["step_number"] == 3
    assert answered("record", "complete", short, "--partial", "half", "--reward", 0.5) == {
        "id": episode_id,
        "outcome": "partial_success",
    }
    episode = recorded(database)
    assert (episode.outcome, episode.reward.total) == (ms.PartialSuccess(verdict="half"), 0.5)
    results = [ms.StepOk(output="ok"), ms.StepError(message="bad\ngateway"), ms.StepTimeout()]
    assert [step.result for step in episode.steps] == results
    assert (episode.steps[0].parameters, episode.steps[2].tokens_used) == ({"to": "prod"}, 5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["complete", "ID"], 3, "give exactly one of"),
        (["complete", "ID", "--success", "a", "--failure", "b"], 3, "give exactly one of"),
        (["step", "ID", "--tool", "t", "--output", "a", "--error", "b"], 3, "give at most one of"),
        (["step", "ID", "--tool", "t", "--parameters", "[1]"], 4, "--parameters: a JSON object"),
        (["step", "dead", "--tool", "t"], 5, "no episode"),
        (["start", "t", "--task-type", "nonsense"], 4, "task_type"),
    ],
)
def test_wrong_input_of_a_script_is_refused(command, database, arguments, code, message):
    episode_id = command("record", "start", "Deploy", "-d", database).stdout.strip()
    given = [episode_id if one == "ID" else one for one in arguments]
    result = command("record", *given, "-d", database)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert recorded(database).steps == []
