"""Background work is held on to, and its failures are noticed at once."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from chatservice.tasks import Tasks


async def test_a_task_lives_until_it_is_done() -> None:
    tasks = Tasks()
    done: list[int] = []

    async def work() -> None:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, event.set)
        await event.wait()
        done.append(1)

    task = tasks.spawn(work())
    gc.collect()
    assert tasks
    await task
    await asyncio.sleep(0)
    assert done == [1]
    assert not tasks


async def test_a_failure_is_told_at_once_and_only_once() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    tasks = Tasks()

    async def work() -> None:
        raise ZeroDivisionError("a bug")

    tasks.spawn(work())
    for _ in range(3):
        await asyncio.sleep(0)
    [context] = told
    assert str(context["exception"]) == "a bug"
    assert context["message"].endswith("work failed")
    gc.collect()
    assert len(told) == 1
    assert not tasks


async def test_what_is_cancelled_is_no_failure() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    tasks = Tasks()
    task = tasks.spawn(asyncio.sleep(60))
    tasks.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert task.cancelled()
    assert not tasks
    assert told == []
