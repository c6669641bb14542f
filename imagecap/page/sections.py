"""The sections of the page. Each has routes below `/api/NAME/`, and the module `static/NAME.js` that shows it.

`static/NAME.js` exports `mount(element, tools)`, and `static/words/NAME.js` its words in both languages.
"""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.routing import BaseRoute

from imagecap.page.context import PageContext
SECTIONS = (
    Section("try", tryout.routes, tryout.offered),
    Section("correct", correct_routes, lambda context: context.data is not None),
)
