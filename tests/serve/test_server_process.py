"""What a process of the server is given."""

import asyncio
import subprocess
import sys
import threading

import pytest

from imagecap.serve.server_process import _loop_of_main_thread, set_request_threads

_DECODE = """\
import threading
import psutil
from PIL import Image
from imagecap.serve.server_process import return_freed_memory

def decode(count):
    for _ in range(count):
        Image.new("RGB", (4000, 4000)).close()  # 64 MB

return_freed_memory()
before = psutil.Process().memory_info().rss
for _ in range(12):
    thread = threading.Thread(target=decode, args=(3,))
    thread.start()
    thread.join()
print(psutil.Process().memory_info().rss - before)
"""


_BODIES = """\
import time
import psutil
from imagecap.serve.server_process import return_freed_memory, trim_heap, trim_heap_regularly

return_freed_memory()
parts = [b"x" * 100_000 for _ in range(1000)]  # as those in which a request body arrives
del parts[:-1]  # the last one keeps the heap from shrinking
before = psutil.Process().memory_info().rss
TRIM
print(before - psutil.Process().memory_info().rss)
"""

_TABLES = """\
import threading
from concurrent.futures import ThreadPoolExecutor
import pandas, psutil
from imagecap.serve.server_process import return_freed_memory

return_freed_memory()
together = threading.Barrier(32)

def read(_):
    together.wait()  # each in a thread of its own
    for number in range(20):
        pandas.DataFrame([{"image": "x" * 3000 + str(number)} for _ in range(4)])["image"].tolist()

read_in_one = threading.Thread(target=lambda: pandas.DataFrame([{"image": "x"}])["image"].tolist())
read_in_one.start()
read_in_one.join()
before = psutil.Process().memory_info().rss
with ThreadPoolExecutor(32) as threads:
    list(threads.map(read, range(32)))
    print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there Arrow keeps huge pages")
def test_threads_that_read_tables_of_strings_keep_no_memory() -> None:
    grown = subprocess.run([sys.executable, "-c", _TABLES], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 12e6


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has malloc_trim")
@pytest.mark.parametrize("trim", ["trim_heap()", "trim_heap_regularly(0.1); time.sleep(1)"], ids=["once", "regularly"])
def test_trimming_returns_what_lies_between_blocks_in_use(trim: str) -> None:
    code = _BODIES.replace("TRIM", trim)
    returned = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(returned) > 80e6


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory so")
def test_threads_that_decoded_large_pictures_keep_no_memory() -> None:
    grown = subprocess.run([sys.executable, "-c", _DECODE], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 30e6


@pytest.mark.parametrize("before", [True, False], ids=["before", "in"])
def test_many_requests_run_at_once_whether_the_model_is_loaded_before_or_in_the_event_loop(before: bool) -> None:
    together = threading.Barrier(32)

    def wait() -> bool:
        try:
            together.wait(1)
        except threading.BrokenBarrierError:
            return False
        return True

    async def serve() -> bool:
        if not before:
            set_request_threads()
        for _ in range(20):
            if all(await asyncio.gather(*(asyncio.to_thread(wait) for _ in range(32)))):
                return True
            together.reset()  # the thread pool was not wide yet, or the machine is busy
        return False

    if before:
        set_request_threads()
    assert asyncio.run(serve())


def test_only_functions_that_run_an_event_loop_are_looked_at() -> None:
    """To read the variables of one that is just executing, such as one that loads weights, can end the process."""
    loop, found = asyncio.new_event_loop(), []
    running = threading.Thread(target=loop.run_forever)
    running.start()
    looking = threading.Thread(target=lambda: found.append(_loop_of_main_thread()))
    looking.start()
    looking.join()
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()
    assert found == [None]
