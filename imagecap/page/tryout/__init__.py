"""The section "Try": captions of pictures that the user drops, with what the model was sure of and where it looked."""

from starlette.routing import BaseRoute

from imagecap.page.context import PageContext


def routes(context: PageContext) -> list[BaseRoute]:
    """Return the routes of the section."""
    return []
