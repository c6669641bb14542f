"""The threads in which the server handles requests."""

import asyncio
import threading
import time

from imagecap.serve.request_threads import RequestThreads, arrived_at

LARGE = bytes(5_000_000)


def test_few_large_bodies_are_handled_at_once_and_small_ones_do_not_wait_for_them() -> None:
    lock, most, running = threading.Lock(), [0], [0]
    two_run, released = threading.Event(), threading.Event()

    def handle(body: bytes) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == 2:
                two_run.set()
        released.wait(60)
        with lock:
            running[0] -= 1
        return len(body)

    async def serve() -> list[int]:
        asyncio.get_running_loop().set_default_executor(RequestThreads(large_threads=2))
        large = [asyncio.create_task(asyncio.to_thread(handle, LARGE)) for _ in range(6)]
        assert await asyncio.to_thread(two_run.wait, 60)
        assert await asyncio.wait_for(asyncio.to_thread(len, b"small"), 60) == 5
        released.set()
        return list(await asyncio.gather(*large))

    assert asyncio.run(serve()) == [len(LARGE)] * 6
    assert most[0] == 2


def test_a_call_knows_when_it_was_scheduled_and_one_that_is_cancelled_in_line_never_runs() -> None:
    ran: list[tuple[float, float]] = []
    released = threading.Event()

    def late(body: bytes) -> None:
        ran.append((arrived_at(), time.monotonic()))

    async def serve() -> float:
        asyncio.get_running_loop().set_default_executor(RequestThreads(large_threads=1))
        first = asyncio.create_task(asyncio.to_thread(lambda body: released.wait(60), LARGE))
        second = asyncio.create_task(asyncio.to_thread(late, LARGE))
        third = asyncio.create_task(asyncio.to_thread(late, LARGE))
        await asyncio.sleep(0.05)  # the three stand in line
        third.cancel()
        assert await asyncio.gather(third, return_exceptions=True) != [None]
        released_at = time.monotonic()
        released.set()
        await asyncio.gather(first, second)
        return released_at

    released_at = asyncio.run(serve())
    assert len(ran) == 1
    arrived, started = ran[0]
    assert arrived < released_at <= started
    assert arrived_at() <= time.monotonic()
