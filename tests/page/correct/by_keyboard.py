"""Correcting captions on the page by its keys."""

from collections.abc import Sequence
from typing import Any

from tests.page.browser import PageServer


def wait_for_row(page: Any, row: int) -> None:
    """Wait until a row of the captions file is the current one."""
    page.wait_for_selector(f'.correct-row[aria-current][data-row="{row}"]')


def correct_with_a_kill(page: Any, server: PageServer, count: int, addition: str, keys: Sequence[str]) -> None:
    """Decide about the first captions, in the order of the file; the server is killed in the middle, and started again.

    Args:
        page: shows the queue at its first row.
        server: of the page.
        count: number of captions.
        addition: is typed behind the first of as many captions as there are keys, and one more.
        keys: decide about the others of them.
    """
    for row in range(count):
        wait_for_row(page, row)
        if row == count // 2:
            server.kill()
            page.keyboard.press("a")
            page.wait_for_selector(".toast.bad")
            server.start()
        place = row % (len(keys) + 1)
        if place == 0:
            page.keyboard.press("e")
            page.keyboard.type(addition)
            page.keyboard.press("Enter")
            wait_for_row(page, row + 1)
            page.evaluate("document.activeElement.blur()")
        else:
            page.keyboard.press(keys[place - 1])
    wait_for_row(page, count)
