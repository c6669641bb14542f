"""The application: static files, the routes of the sections, and errors as sentences."""

import logging
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from imagecap import __version__
from imagecap.errors import ImageCapError
from imagecap.page.context import PageContext
from imagecap.page.sections import SECTIONS
from imagecap.page.security import MOST_BODY_BYTES, Access, BodyTooLarge, Guard
from imagecap.system_errors import system_error

STATIC = Path(__file__).parent / "static"

_log = logging.getLogger("imagecap.page")


class _Static(StaticFiles):
    """Static files that a browser asks for again after an update."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


def build_app(context: PageContext, access: Access) -> ASGIApp:
    """Return the application of the page.

    Args:
        context: what it shows.
        access: who may use it.
    """
    offered = [section for section in SECTIONS if section.offered is None or section.offered(context)]

    def page(_: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    def facts(_: Request) -> Response:
        models = [{"name": each.name, "uri": each.uri, "alias": each.alias} for each in context.models.entries]
        names = [section.name for section in offered]
        styles = [name for name in names if (STATIC / f"{name}.css").is_file()]
        return JSONResponse(
            {
                "version": __version__,
                "sections": names,
                "styles": styles,
                "models": models,
                "server": context.server,
            }
        )

    routes: list[BaseRoute] = [Route("/", page), Route("/api/page", facts)]
    for section in offered:
        routes += section.routes(context)
    routes.append(Mount("/static", _Static(directory=STATIC)))
    app = Starlette(
        routes=routes,
        exception_handlers={
            ImageCapError: _mistake,
            HTTPException: _http_error,
            BodyTooLarge: _too_large,
            ClientDisconnect: _left,
            Exception: _failure,
        },
    )
    return Guard(app, access)  # around everything, so that answers to errors have its headers too


def _mistake(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _too_large(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": f"the body is larger than {MOST_BODY_BYTES} bytes"}, 413)


def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def _failure(request: Request, error: Exception) -> Response:
    """Answer an error that the user may or may not be able to mend; the log has the rest."""
    found = system_error(error)
    if found is not None:
        return JSONResponse({"error": found[0]}, 500)
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": f"this failed ({type(error).__name__}); the server's output says more"}, 500)
