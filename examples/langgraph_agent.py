"""A coding agent in LangGraph with a memory: the second time, it knows what to do. The model is a script.

    python examples/langgraph_agent.py --database memory.db

Needs the extra `langgraph`, and `pip install langgraph`. What the agent learns is in the store, and its messages are in
the checkpoints; both are in one database, which each task opens again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.base import BaseStore

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from memory_storage.integrations.langgraph import MemoryStorageSaver, MemoryStorageStore

LESSONS = ("agents", "coder", "lessons")
TASKS = {"login": "Fix the flaky test of the login token", "session": "Fix the flaky test of the session token"}


class ScriptedModel(BaseChatModel):
    """Answers as a language model would: by the messages before."""

    @property
    def _llm_type(self) -> str:
        return "script"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        knows = any("freeze the clock" in str(one.content) for one in messages if isinstance(one, SystemMessage))
        guesses = [("run_tests", ""), ("edit", "increase the timeout"), ("run_tests", "")]
        plan = [
            *([] if knows else guesses),
            ("edit", "freeze the clock in the test"),
            ("run_tests", ""),
            *(
                []
                if knows
                else [("remember", "A flaky test of expiry: freeze the clock, a longer timeout does not help.")]
            ),
        ]
        asked = max(number for number, one in enumerate(messages) if isinstance(one, HumanMessage))
        done = sum(isinstance(one, ToolMessage) for one in messages[asked:])
        if done == len(plan):
            answer = AIMessage("The test passes.")
        else:
            name, argument = plan[done]
            answer = AIMessage("", tool_calls=[{"name": name, "args": {"argument": argument}, "id": f"call-{done}"}])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def recall(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
    """Put what was learned of similar tasks before the messages."""
    hits = store.search(LESSONS, query=str(state["messages"][-1].content), limit=3)
    lessons = "\n".join(hit.value["lesson"] for hit in hits)
    return {"messages": [SystemMessage(f"Lessons of earlier tasks:\n{lessons or 'none'}")]}


def call_model(state: MessagesState) -> dict[str, Any]:
    """Ask the model for the next step."""
    return {"messages": [ScriptedModel().invoke(state["messages"])]}


def call_tools(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
    """Run the tools that the model asks for: a project with a test that reads the real clock."""
    results = []
    for call in state["messages"][-1].tool_calls:
        argument = call["args"]["argument"]
        edits = [str(one.content) for one in state["messages"] if isinstance(one, ToolMessage) and one.name == "edit"]
        if call["name"] == "run_tests":
            passes = any("freeze the clock" in edit for edit in edits)
            result = "20 passed" if passes else "test_token: expired 1 s too early"
        elif call["name"] == "edit":
            result = f"done: {argument}"
        else:
            store.put(LESSONS, str(state["messages"][0].id), {"lesson": argument})
            result = "remembered"
        results.append(ToolMessage(result, name=call["name"], tool_call_id=call["id"]))
    return {"messages": results}


def make_agent(storage: ms.MemoryStorage) -> CompiledStateGraph:
    """Return an agent whose store and checkpoints are in a storage."""
    builder = StateGraph(MessagesState)
    builder.add_node("recall", recall)
    builder.add_node("model", call_model)
    builder.add_node("tools", call_tools)
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "model")
    builder.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "model")
    store = MemoryStorageStore(storage, index={"fields": ["lesson"]})  # embedded by the storage's embedder
    return builder.compile(store=store, checkpointer=MemoryStorageSaver(storage))


def two_tasks(database: Path) -> Iterator[str]:
    """Do two similar tasks, and yield a line for each thing that the agent does."""
    for thread, task in TASKS.items():
        yield task
        with ms.MemoryStorage.open(database, embedder=HashingEmbedder()) as storage:
            config = {"configurable": {"thread_id": thread}}
            make_agent(storage).invoke({"messages": [("user", task)]}, config)
    # Another process reads what the agents did from their checkpoints.
    with ms.MemoryStorage.open(database, embedder=HashingEmbedder()) as storage:
        agent = make_agent(storage)
        for thread in TASKS:
            config = {"configurable": {"thread_id": thread}}
            messages = agent.get_state(config).values["messages"]
            tools = [f"{one.name}: {one.content}" for one in messages if isinstance(one, ToolMessage)]
            yield f"{thread}: {len(tools)} tool calls, {len(list(agent.get_state_history(config)))} checkpoints"
            yield from (f"  {tool}" for tool in tools)


def main() -> None:
    """Print what the agent does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one")
    database = parser.parse_args().database
    with tempfile.TemporaryDirectory() as directory:
        for line in two_tasks(database or Path(directory, "memory.db")):
            print(line)


if __name__ == "__main__":
    main()
