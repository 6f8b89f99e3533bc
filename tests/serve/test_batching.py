"""The queue of the service: what is computed together, in which order, and what is refused or forgotten."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from serve.batching import Batcher
from serve.models import Served
from serve.refusals import Refused


class Recorder:
    """Stands where a model is: writes down its batches, holds each until it is let go, answers with the lengths."""

    dtype = np.dtype((np.float64, 2))

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Semaphore(0)

    def predict(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        self.batches.append(list(texts))
        assert self.go.acquire(timeout=300)
        if "poison" in texts:
            raise RuntimeError("poison")
        return np.array([[len(text), 0] for text in texts], float)


def served(model: Recorder) -> Served:
    return cast("Served", model)


async def begun(model: Recorder, batches: int) -> None:
    """Wait until so many batches have begun."""
    async with asyncio.timeout(10):
        while len(model.batches) < batches:
            await asyncio.sleep(0.001)


def with_batcher(test: Any, **settings: int) -> Any:
    """Run a coroutine function of a batcher and a model; all batches that still come are let go."""

    async def main() -> Any:
        sizes = (settings.get("batch_size", 4), settings.get("queue_size", 100), settings.get("engines", 1))
        model, batcher = Recorder(), Batcher(*sizes)
        running = asyncio.create_task(batcher.run())
        try:
            return await test(batcher, model)
        finally:
            model.go.release(1000)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(main())


def ask(batcher: Batcher, model: Recorder, *texts: str) -> "asyncio.Task[Any]":
    return asyncio.create_task(batcher.predict(served(model), texts))


def test_what_waits_is_computed_together_and_handed_back_in_order() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        first = ask(batcher, model, "a")
        await begun(model, 1)
        others = [ask(batcher, model, "bb", "ccc"), ask(batcher, model, "dddd", "eeeee")]
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        model.go.release(2)
        assert [found[:, 0].tolist() for found in await asyncio.gather(first, *others)] == [[1], [2, 3], [4, 5]]
        assert [sorted(batch) for batch in model.batches] == [["a"], ["bb", "ccc", "dddd", "eeeee"]]
        assert batcher.waiting == 0

    with_batcher(test)


def test_a_long_list_does_not_hold_up_a_single_text() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        many = ask(batcher, model, *(f"m{number}" for number in range(12)))
        await begun(model, 1)
        single = ask(batcher, model, "single")
        await asyncio.sleep(0)
        model.go.release(2)
        await single
        assert "single" in model.batches[1]
        assert not many.done()
        model.go.release(10)
        assert len(await many) == 12

    with_batcher(test)


def test_engines_compute_at_the_same_time() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        asked = [ask(batcher, model, text) for text in "abc"]
        await begun(model, 2)
        await asyncio.sleep(0.05)
        assert sorted(model.batches) == [["a"], ["b"]]
        assert batcher.waiting == 1
        model.go.release(3)
        assert [len(found) for found in await asyncio.gather(*asked)] == [1, 1, 1]

    with_batcher(test, engines=2)


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(1, [1] * 11), (3, [1] * 11), (4, [4, 4, 1, 1, 1]), (7, [4, 4, 1, 1, 1]), (8, [8, 1, 1, 1]), (99, [8, 1, 1, 1])],
)
def test_batches_are_powers_of_two_and_never_too_large_and_a_few_go_one_by_one(
    batch_size: int, sizes: list[int]
) -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        model.go.release(99)
        assert len(await batcher.predict(served(model), ["x"] * 11)) == 11
        assert [len(batch) for batch in model.batches] == sizes

    with_batcher(test, batch_size=batch_size)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        first = ask(batcher, model, "a")
        await begun(model, 1)
        second = ask(batcher, model, "b", "c", "d")
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="busy: 3 texts wait, and 5 may; try again in 1 s") as raised:
            batcher.check_room(3)
        assert (raised.value.status, raised.value.headers) == (503, {"Retry-After": "1"})
        third = ask(batcher, model, "e", "f")
        model.go.release(9)
        await asyncio.gather(first, second, third)
        assert not any("x" in batch for batch in model.batches)

    with_batcher(test, queue_size=5)


def test_nobody_computes_for_a_client_that_left() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        first = ask(batcher, model, "a")
        await begun(model, 1)
        left, stays = ask(batcher, model, "left", "left"), ask(batcher, model, "stays")
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        model.go.release(2)
        await asyncio.gather(first, stays)
        assert model.batches == [["a"], ["stays"]]

    with_batcher(test)


def test_a_client_may_leave_while_its_texts_are_computed() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        left = ask(batcher, model, "left", "l", "l", "l", "rest")
        await begun(model, 1)
        left.cancel()
        stays = ask(batcher, model, "stays")
        model.go.release(2)
        assert (await stays).tolist() == [[5, 0]]
        assert model.batches[1:] == [["stays"]]
        assert batcher.waiting == 0

    with_batcher(test)


def test_an_error_reaches_the_request_whose_text_it_was_and_no_other() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        first = ask(batcher, model, "a")
        await begun(model, 1)
        broken = [ask(batcher, model, "poison", "b"), ask(batcher, model, "c")]
        gone = ask(batcher, model, "d")
        await asyncio.sleep(0)
        model.go.release(1)
        await begun(model, 2)
        gone.cancel()
        model.go.release(9)
        results = await asyncio.gather(first, *broken, ask(batcher, model, "fine"), return_exceptions=True)
        assert [type(found) for found in results] == [np.ndarray, RuntimeError, np.ndarray, np.ndarray]
        assert model.batches[1:4] == [["poison", "c", "d", "b"], ["poison"], ["c"]]  # then each that one waits for

    with_batcher(test)


def test_a_failed_job_leaves_the_queue() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        broken = ask(batcher, model, "poison", *"bcdefgh")
        model.go.release(9)
        with pytest.raises(RuntimeError, match="poison"):
            await broken
        assert batcher.waiting == 0
        assert len(await batcher.predict(served(model), ["fine"])) == 1
        assert model.batches[1:] == [["poison"], ["fine"]]

    with_batcher(test)


def test_each_text_goes_to_the_model_that_was_served_when_it_came() -> None:
    async def test(batcher: Batcher, old: Recorder) -> None:
        new = Recorder()
        new.go.release(9)
        first = ask(batcher, old, "a")
        await begun(old, 1)
        tasks = [ask(batcher, model, text) for model, text in zip([old, new] * 4, "bcdefghi", strict=True)]
        await asyncio.sleep(0)
        old.go.release(9)
        await asyncio.gather(first, *tasks)
        assert (old.batches, new.batches) == ([["a"], ["b", "d", "f", "h"]], [["c", "e", "g", "i"]])

    with_batcher(test)
