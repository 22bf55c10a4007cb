"""The memory block: what it recalls, how it is shortened, and agents that use it with the chat store."""

from __future__ import annotations

import asyncio
import threading

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import BaseMemoryBlock, Memory

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.llama_index import MemoryStorageChatStore, RecallMemoryBlock
from tests.backends import in_memory
from tests.raising import raises

# LlamaIndex 0.14 reads all attributes of an agent, also those that pydantic has deprecated.
agents = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")

TASK = "Fix the flaky token refresh"


def _user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def _learn(storage: ms.MemoryStorage, make_episode, count: int = 1, domain: str = "auth") -> None:
    for number in range(count):
        task = f"{TASK} of service {number}"
        episode = storage.episodes.save(
            make_episode(steps=5, task_description=task, context=ms.TaskContext(domain=domain))
        )
        storage.episodes.complete(episode.id, ms.Success(verdict=f"the clock of {number} was skewed"))


def test_it_recalls_for_the_newest_message_of_the_user(storage, make_episode):
    _learn(storage, make_episode)
    block = RecallMemoryBlock(storage)

    async def main() -> None:
        assert await block.aget() == await block.aget([]) == await block.aget([_user(" ")]) == ""
        assert await block.aget([_user(TASK), _user("paint fences")]) == ""
        history = [_user("paint fences"), _user(TASK), ChatMessage(role="assistant", content="fences")]
        text = await block.aget(history, session_id="any")
        assert text.startswith("# Recalled from memory")
        assert "the clock of 0 was skewed" in text
        recall = block.last_recall
        assert recall is not None
        assert (str(recall), recall.task) == (text, TASK)

    asyncio.run(main())


@in_memory
def test_namespaces_and_filters_select_what_is_recalled(storage, make_episode):
    _learn(storage, make_episode)

    def recall(source: ms.MemoryStorage, **arguments: object) -> bool:
        return bool(asyncio.run(RecallMemoryBlock(source, **arguments).aget([_user(TASK)])))

    assert recall(storage)
    assert recall(storage, filters={"domain": "auth"})
    assert not recall(storage, filters={"domain": "web"})
    assert not recall(storage.in_namespace("other"))


@in_memory
@pytest.mark.parametrize("tokenizer_fn", [None, str.split, list])
@pytest.mark.parametrize("budget_tokens", [0, 50, 120, 2_000])
def test_the_text_keeps_its_budget_by_the_tokenizer(storage, make_episode, tokenizer_fn, budget_tokens):
    _learn(storage, make_episode, 4)
    block = RecallMemoryBlock(storage, budget_tokens=budget_tokens, tokenizer_fn=tokenizer_fn)
    text = asyncio.run(block.aget([_user(TASK)]))
    count = tokenizer_fn or Memory.from_defaults(chat_store=MemoryStorageChatStore(storage)).tokenizer_fn
    assert len(count(text)) <= budget_tokens
    if budget_tokens in (0, 2_000):
        assert bool(text) == bool(budget_tokens)


@in_memory
def test_truncation_shortens_the_records_before_it_drops_them(storage, make_episode):
    _learn(storage, make_episode, 4)
    block = RecallMemoryBlock(storage, tokenizer_fn=str.split)

    async def main() -> None:
        text = await block.aget([_user(TASK)])
        assert text.count("### ") >= 2
        total = len(text.split())
        assert await block.atruncate(text, 0) == await block.atruncate(text, -5) == text
        for excess in (10, total // 4, total // 2):
            shorter = await block.atruncate(text, excess)
            assert len(shorter.split()) <= total - excess
            assert str(block.last_recall) == shorter
        again = await block.atruncate(shorter, 10)
        assert len(again.split()) <= len(shorter.split()) - 10
        assert (await block.atruncate(text, 10)).count("### ") == text.count("### ")
        assert await block.atruncate(text, total) is None
        assert await block.atruncate(text, total - 1) is None
        assert await block.atruncate("a text of another block", 1) is None
        assert await block.atruncate([], 1) is None

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize("priority", [0, 1])
def test_a_memory_over_its_limit_truncates_the_block(storage, make_episode, priority):
    _learn(storage, make_episode, 4)
    block = RecallMemoryBlock(storage, priority=priority, tokenizer_fn=str.split)
    full = len(asyncio.run(block.aget([_user(TASK)])).split())
    memory = Memory.from_defaults(
        chat_store=MemoryStorageChatStore(storage), memory_blocks=[block], token_limit=full, tokenizer_fn=str.split
    )
    system, user = (asyncio.run(memory.aput(_user(TASK))), asyncio.run(memory.aget()))[1]
    assert user.content == TASK
    assert "Recalled from memory" in system.content
    assert (block.last_recall.tokens == full) == (priority == 0)
    assert block.last_recall.tokens <= full - (len(TASK.split()) if priority else 0)


@in_memory
def test_messages_that_leave_the_conversation_are_not_recorded(storage):
    block = RecallMemoryBlock(storage)
    message = _user("a")
    asyncio.run(block.aput([message], from_short_term_memory=True, session_id="s"))
    asyncio.run(block.aput([message]))
    assert (storage.episodes.count(), message.additional_kwargs) == (0, {})


@in_memory
@pytest.mark.parametrize(
    ("arguments", "error", "facts"),
    [
        ({"k": 0}, ms.ValidationError, {"field": "k"}),
        ({"budget_tokens": -1}, ms.ValidationError, {"field": "budget_tokens"}),
        ({"filters": {"outcome": "success"}}, ms.ValidationError, {"field": "outcome"}),
        ({"tokenizer_fn": "cl100k"}, ms.ValidationError, {"field": "tokenizer_fn"}),
        ({"storage": "memory.db"}, ms.ConfigurationError, {}),
    ],
)
def test_bad_arguments_are_refused(storage, arguments, error, facts):
    with raises(error, **facts):
        RecallMemoryBlock(**{"storage": storage, **arguments})


@in_memory
def test_a_dump_has_the_fields_but_nothing_of_the_storage(storage):
    block = RecallMemoryBlock(storage, name="lessons", k=3)
    assert isinstance(block, BaseMemoryBlock)
    assert set(block.model_dump()) == {*BaseMemoryBlock.model_fields, "k", "budget_tokens"}
    assert repr(block).startswith("RecallMemoryBlock(AsyncMemoryStorage(':memory:'")


def test_a_failing_storage_is_no_empty_memory():
    with ms.MemoryStorage.open(":memory:") as storage:
        block = RecallMemoryBlock(storage)
    with raises(ms.UnavailableError):
        asyncio.run(block.aget([_user(TASK)]))


@in_memory
def test_a_recall_does_not_block_the_event_loop(storage, make_episode):
    _learn(storage, make_episode)
    waits, release = threading.Event(), threading.Event()

    def count(text: str) -> list[str]:
        waits.set()
        release.wait(10)
        return text.split()

    async def main() -> None:
        recalling = asyncio.create_task(RecallMemoryBlock(storage, tokenizer_fn=count).aget([_user(TASK)]))
        await asyncio.to_thread(waits.wait)
        for _ in range(5):
            await asyncio.sleep(0.005)
        assert not recalling.done()
        release.set()
        assert "skewed" in await recalling

    asyncio.run(main())


class _Script:
    """Calls a tool, and then answers; keeps the prompts."""

    def __init__(self) -> None:
        self.prompts: list[list[ChatMessage]] = []

    def __call__(self, messages: list[ChatMessage], **_: object) -> ChatMessage:
        self.prompts.append([message.model_copy(deep=True) for message in messages])
        if messages[-1].role == "user":
            call = ToolCallBlock(tool_call_id="1", tool_name="stock", tool_kwargs={"fruit": "apples"})
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content=f"There are {messages[-1].content}.")


def _stock(fruit: str) -> str:
    """Return how many of a fruit are left."""
    return f"5 {fruit}"


_stock.__name__ = "stock"


@agents
@pytest.mark.parametrize("target", ["memory", "file", "server"], indirect=True)
def test_an_agent_remembers_its_conversation_and_its_tasks(storage, make_episode):
    _learn(storage, make_episode)
    script = _Script()

    async def run(question: str) -> str:
        memory = Memory.from_defaults(
            session_id="s", chat_store=MemoryStorageChatStore(storage), memory_blocks=[RecallMemoryBlock(storage)]
        )
        agent = FunctionAgent(tools=[_stock], llm=MockFunctionCallingLLM(response_generator=script))
        return str(await agent.run(question, memory=memory))

    assert asyncio.run(run(TASK)) == "There are 5 apples."
    asyncio.run(run("And pears?"))
    system, *conversation = script.prompts[0]
    assert "the clock of 0 was skewed" in system.content
    assert [one.role.value for one in conversation] == ["user"]
    assert [one.role.value for one in script.prompts[2]] == ["user", "assistant", "tool", "assistant", "user"]
    assert len(script.prompts) == 4
    assert script.prompts[2][3].content == "There are 5 apples."


@agents
@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")
def test_a_react_agent_continues_in_a_new_storage(migrated_file):
    class Answering(MockLLM):
        def stream_chat(self, messages, **_: object):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        async def astream_chat(self, messages, **_: object):  # type: ignore[no-untyped-def]
            from llama_index.core.llms import ChatResponse

            questions = [one.content for one in messages if one.role == "user"]

            async def stream():
                text = f"Thought: I can answer.\nAnswer: first {questions[0]}, now {questions[-1]}"
                yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=text)

            return stream()

    async def run(question: str) -> str:
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            memory = Memory.from_defaults(session_id="s", chat_store=MemoryStorageChatStore(storage))
            return str(await ReActAgent(tools=[_stock], llm=Answering()).run(question, memory=memory))

    assert asyncio.run(run("one")) == "first one, now one"
    assert asyncio.run(run("two")) == "first one, now two"
