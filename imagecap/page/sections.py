"""The sections of the page. Each has routes below `/api/NAME/`, and the module `static/NAME.js` that shows it.

`static/NAME.js` exports `mount(element, tools)`, and `static/words/NAME.js` its words in both languages.
"""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.routing import BaseRoute

from imagecap.page import judge, versions
from imagecap.page.context import PageContext
from imagecap.page.correct.routes import routes as correct_routes
from imagecap.page.tryout import section as tryout


@dataclass(frozen=True)
class Section:
    """A part of the page with a tab of its own.

    Attributes:
        name: of its files, and in its addresses.
        routes: returns the routes; their paths begin with `/api/NAME/`.
        offered: whether the section has anything to show; None: always.
    """

    name: str
    routes: Callable[[PageContext], list[BaseRoute]]
    offered: Callable[[PageContext], bool] | None = None


SECTIONS = (
    Section("try", tryout.routes, tryout.offered),
    Section("judge", judge.routes, judge.offered),
    Section("correct", correct_routes, lambda context: context.data is not None),
    Section("versions", versions.routes, versions.offered),
)
