"""The tool: its answers, the paths that it refuses, limits, concurrent commands, and the asynchronous one."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from anthropic.lib.tools import ToolError

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.anthropic import AsyncMemoryStorageTool, MemoryStorageTool
from tests.raising import raises

in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)
NOTES = "/memories/notes.md"


@pytest.fixture
def tool(storage) -> MemoryStorageTool:
    return MemoryStorageTool(storage)


def _run(tool: MemoryStorageTool, command: str, path: str = NOTES, **more: object) -> str:
    return tool.call({"command": command, "path": path, **more})


def _create(tool: MemoryStorageTool, path: str = NOTES, text: str = "a\nb\nc\n") -> str:
    return _run(tool, "create", path, file_text=text)


def _insert(tool: MemoryStorageTool, text: str, path: str = NOTES) -> str:
    return _run(tool, "insert", path, insert_line=0, insert_text=text)


def _rename(tool: MemoryStorageTool, old: str, new: str) -> str:
    return tool.call({"command": "rename", "old_path": old, "new_path": new})


def _files(storage: ms.MemoryStorage) -> dict[str, str]:
    return {"/".join((*one.path, one.key)): one.value["text"] for one in storage.items.iterate()}


def test_a_file_is_created_viewed_changed_and_deleted(tool, storage):
    assert _create(tool) == f"File created successfully at: {NOTES}"
    whole = f"Here's the content of {NOTES} with line numbers:\n     1\ta\n     2\tb\n     3\tc\n     4\t"
    assert _run(tool, "view") == whole
    assert _run(tool, "view", view_range=[2, 3]).splitlines()[1:] == ["     2\tb", "     3\tc"]
    assert _run(tool, "view", view_range=[3, -1]).splitlines()[1:] == ["     3\tc", "     4\t"]
    assert _run(tool, "str_replace", old_str="b", new_str="B") == (
        "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n"
        "     1\ta\n     2\tB\n     3\tc\n     4\t"
    )
    assert _insert(tool, "new\n") == f"The file {NOTES} has been edited."
    assert _files(storage) == {"memories/notes.md": "new\na\nB\nc\n"}
    assert _run(tool, "delete") == f"Successfully deleted {NOTES}"
    assert _run(tool, "view", "/memories").splitlines()[1:] == ["0B\t/memories"]


def test_directories_are_listed_moved_and_deleted(tool, storage):
    for path, text in (("a/b/c/deep.md", "x" * 1536), ("a/one.md", "1"), ("a.md", "12"), (".hidden/x", "123")):
        _create(tool, f"/memories/{path}", text)
    assert _run(tool, "view", "/memories") == (
        "Here're the files and directories up to 2 levels deep in /memories, excluding hidden items:\n"
        "1.5K\t/memories\n1.5K\t/memories/a/\n1.5K\t/memories/a/b/\n1B\t/memories/a/one.md\n2B\t/memories/a.md"
    )
    before = storage.items.get(("memories", "a"), "one.md")
    assert _rename(tool, "/memories/a", "/memories/new/a") == "Successfully renamed /memories/a to /memories/new/a"
    after = storage.items.get(("memories", "new", "a"), "one.md")
    assert after == before.model_copy(update={"path": ("memories", "new", "a")})
    names = ["memories/.hidden/x", "memories/a.md", "memories/new/a/b/c/deep.md", "memories/new/a/one.md"]
    assert sorted(_files(storage)) == names
    assert _run(tool, "delete", "/memories/new") == "Successfully deleted /memories/new"
    assert sorted(_files(storage)) == names[:2]
    assert tool.clear_all_memory() == "All memory cleared"
    assert _files(storage) == {}


@pytest.fixture
def filled(tool) -> MemoryStorageTool:
    _create(tool)
    _create(tool, "/memories/dir/file", "text")
    return tool


COMMANDS = [
    ("view", {"path": "/memories/x"}, "The path /memories/x does not exist. Please provide a valid path."),
    ("view", {"view_range": [1]}, "Invalid `view_range` parameter: [1]."),
    ("create", {}, f"File {NOTES} already exists"),
    ("create", {"path": "/memories/dir"}, "File /memories/dir already exists"),
    ("create", {"path": "/memories"}, "File /memories already exists"),
    ("create", {"path": f"{NOTES}/x/y"}, f"The path {NOTES} is not a directory."),
    ("create", {"path": "/memories/x", "file_text": None}, "Invalid `file_text` parameter"),
    ("create", {"path": "/memories" + "/d" * 40}, "32"),
    ("create", {"path": "/memories/" + "x" * 1_001}, "at most 1,000 characters"),
    ("create", {"path": "/memories/x", "file_text": "\ud800"}, "value"),
    ("str_replace", {"path": "/memories/x"}, "The path /memories/x does not exist."),
    ("str_replace", {"path": "/memories/dir"}, "The path /memories/dir is not a file."),
    ("str_replace", {"old_str": "z"}, f"old_str `z` did not appear verbatim in {NOTES}."),
    ("str_replace", {"old_str": ""}, "`old_str` must not be empty"),
    ("str_replace", {"old_str": "\n"}, "in lines: 1, 2, 3. Please ensure it is unique"),
    ("insert", {"path": "/memories"}, "The path /memories is not a file."),
    ("insert", {"insert_line": 4}, "It should be within the range [0, 3]."),
    ("delete", {"path": "/memories/x"}, "The path /memories/x does not exist"),
    ("delete", {"path": "/memories/"}, "Cannot delete the /memories directory itself"),
    ("rename", {"old_path": "/memories"}, "Cannot rename the /memories directory itself"),
    ("rename", {"old_path": "/memories/y"}, "The path /memories/y does not exist"),
    ("rename", {"new_path": "/memories/dir"}, "The destination /memories/dir already exists"),
    ("rename", {"old_path": "/memories/dir", "new_path": "/memories/dir/x"}, "to a path below itself"),
    ("rename", {"old_path": "/memories/dir", "new_path": f"{NOTES}/x"}, f"The path {NOTES} is not a directory."),
    ("rename", {"old_path": "/memories/dir", "new_path": "/memories" + "/d" * 32}, "32"),
]
VALID = {
    "path": NOTES,
    "old_path": NOTES,
    "new_path": "/memories/x",
    "file_text": "",
    "old_str": "a",
    "new_str": "",
    "insert_line": 0,
    "insert_text": "",
}


@in_memory
@pytest.mark.parametrize(("command", "arguments", "message"), COMMANDS)
def test_what_the_model_got_wrong_is_said_and_changes_nothing(filled, storage, command, arguments, message):
    before = _files(storage)
    with raises(ToolError) as caught:
        filled.call({"command": command, **VALID, **arguments})
    assert message in str(caught.value)
    assert _files(storage) == before


ELSEWHERE = {
    "parent": "/memories/../etc/passwd",
    "parent within": "/memories/dir/../notes.md",
    "encoded": "/memories/%2e%2e/etc",
    "encoded twice": "/memories/%252e%252e%252fetc",
    "encoded slash": "/memories/a%2Fb",
    "backslash": "/memories/..\\etc",
    "NUL": "/memories/a\0b",
    "encoded NUL": "/memories/a%00",
    "line feed": "/memories/a\n1K\t/memories/b",
    "full width": "/memories/\uff0e\uff0e/etc",
    "one code point": "/memories/\u2025/etc",
}
OUTSIDE = {"root": "/", "empty": "", "relative": "memories/a", "longer name": "/memories2/a", "no text": 7}


@in_memory
@pytest.mark.parametrize("name", [*ELSEWHERE, *OUTSIDE])
@pytest.mark.parametrize("command", ["view", "create", "str_replace", "insert", "delete", "rename"])
def test_paths_stay_below_memories(filled, storage, command, name):
    path, before = {**ELSEWHERE, **OUTSIDE}[name], _files(storage)
    message = "would escape /memories" if name in ELSEWHERE else "Path must start with /memories"
    for field in ("old_path", "new_path") if command == "rename" else ("path",):
        with raises(ToolError, match=message):
            filled.call({"command": command, **VALID, field: path})
    assert _files(storage) == before


@in_memory
@pytest.mark.parametrize("name", ["100%.md", "..md", "a..b", "...", "Größe 日本.md", "-> link", "~", "C:"])
def test_other_names_are_names(tool, storage, name):
    _create(tool, f"/memories//./{name}/{name}/", "x")
    assert _files(storage) == {f"memories/{name}/{name}": "x"}


@in_memory
def test_files_have_a_limit(storage):
    tool = MemoryStorageTool(storage, max_file_bytes=6)
    with raises(ToolError, match=f"The file {NOTES} would have 8 bytes; the limit is 6."):
        _create(tool, text="ääää")
    _create(tool, text="12345")
    with raises(ToolError, match="the limit is 6"):
        _insert(tool, "x")
    assert _files(storage) == {"memories/notes.md": "12345"}
    with raises(ToolError) as caught:
        _create(MemoryStorageTool(storage), "/memories/large", "x" * 10_000_001)
    assert type(caught.value.__cause__) is ms.ValidationError


@in_memory
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"storage": "memory.db"}, ms.ConfigurationError),
        ({"root": "memories"}, ms.ValidationError),
        ({"max_file_bytes": 0}, ms.ValidationError),
    ],
)
@pytest.mark.parametrize("kind", [MemoryStorageTool, AsyncMemoryStorageTool])
def test_bad_arguments_are_refused(storage, kind, arguments, error):
    with raises(error):
        kind(**{"storage": storage, **arguments})


@in_memory
def test_each_root_has_its_own_files(storage):
    ann, ben = (MemoryStorageTool(storage, root=("users", name)) for name in ("ann", "ben"))
    _create(ann, text="of Ann")
    _create(ben, text="of Ben")
    assert "of Ben" in _run(ben, "view")
    ann.clear_all_memory()
    assert _files(storage) == {"users/ben/notes.md": "of Ben"}


@in_memory
def test_items_that_are_no_files_are_not_shown(tool, storage):
    storage.items.put(("memories",), "facts", {"age": 7})
    assert _run(tool, "view", "/memories").splitlines()[1:] == ["0B\t/memories"]
    with raises(ToolError, match="Unsupported file type for /memories/facts"):
        _run(tool, "view", "/memories/facts")


def test_concurrent_commands_lose_nothing(storage):
    tools = [MemoryStorageTool(storage) for _ in range(4)]
    _create(tools[0], text="")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _insert(tools[number % 4], f"note {number}"), range(20)))
    assert sorted(_files(storage)["memories/notes.md"].splitlines()) == sorted(f"note {n}" for n in range(20))
    assert storage.items.get(("memories",), "notes.md").version == 21


def test_of_many_that_create_one_path_one_succeeds(storage):
    def create(number: int) -> str:
        path = f"{NOTES}/x" if number % 2 else NOTES  # half of them want a directory there
        try:
            return _create(MemoryStorageTool(storage), path, str(number))
        except ToolError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(create, range(8)))
    assert sum(answer.startswith("File created") for answer in answers) == 1
    assert len(_files(storage)) == 1


def test_a_directory_is_renamed_while_its_files_change(storage):
    tool, done = MemoryStorageTool(storage), threading.Event()
    for number in range(5):
        _create(tool, f"/memories/a/{number}", "")

    def write() -> int:
        stored = 0
        while not done.is_set():
            for name in "ab":
                try:
                    _insert(tool, "x", f"/memories/{name}/3")
                    stored += 1
                except ToolError as error:
                    if "does not exist" not in str(error):
                        raise
        return stored

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            for _ in range(5):
                _rename(tool, "/memories/a", "/memories/b")
                _rename(tool, "/memories/b", "/memories/a")
        finally:
            done.set()
        stored = writer.result(60)
    files = _files(storage)
    assert sorted(files) == [f"memories/a/{number}" for number in range(5)]
    assert files["memories/a/3"].count("x") == stored


def test_the_asynchronous_tool_answers_alike(storage):
    tool, twin = AsyncMemoryStorageTool(storage), MemoryStorageTool(storage, root=("twin",))

    async def main() -> None:
        for command in ("create", "view", "str_replace", "insert", "rename", "delete"):
            arguments = {"command": command, **VALID, "file_text": "a"}
            arguments["path"] = "/memories/x" if command == "delete" else NOTES
            assert await tool.call(arguments) == twin.call(arguments)
        with raises(ToolError, match="would escape"):
            await tool.call({"command": "view", "path": "/memories/.."})
        assert await tool.clear_all_memory() == "All memory cleared"

    asyncio.run(main())


def test_a_cancelled_command_has_no_effect_and_ends(migrated_file):
    async def main() -> None:
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            tool = AsyncMemoryStorageTool(storage)
            async with storage.transaction() as tx:  # the write lock
                await tx.logs.append("other", [1])
                create = asyncio.create_task(tool.call({"command": "create", "path": NOTES, "file_text": "lost"}))
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(create, 0.1)
            assert await storage.items.count() == 0
            await tool.call({"command": "create", "path": NOTES, "file_text": "kept"})

    asyncio.run(main())
