"""The addresses of the section "Versions"."""

import threading
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from imagecap.errors import ImageCapError
from imagecap.eval.compare import Comparison, compare_results, with_references_of
from imagecap.page.answers import json_answer, whole_number
from imagecap.page.context import PageContext
from imagecap.page.registered import Registered, Version, has_store
from imagecap.page.versions.details import (
    caption_rows,
    changes,
    details,
    differences,
    shared_curves,
    shared_scores,
    summary,
)

_SIDES = (160, 360, 1200)  # sizes of pictures, in pixels
_MOST_ROWS = 200
_KEPT_COMPARISONS = 4
# A report is a document with scripts of its own, stored in a registry that others may write to: it gets an origin of
# its own, from which it can reach nothing.
_REPORT_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


def routes(context: PageContext) -> list[BaseRoute]:
    """Return the routes of the section."""
    versions = _Versions(context)
    return [
        Route("/api/versions/list", versions.list),
        Route("/api/versions/picture", versions.picture),
        Route("/api/versions/compare/{baseline}/{candidate}", versions.compare),
        Route("/api/versions/compare/{baseline}/{candidate}/captions", versions.compared_captions),
        Route("/api/versions/of/{number}", versions.details),
        Route("/api/versions/of/{number}/captions", versions.captions),
        Route("/api/versions/of/{number}/report", versions.report),
    ]


def offered(context: PageContext) -> bool:
    """Whether there may be versions to show."""
    return has_store(context)


class _Versions:
    """The handlers, which run in threads."""

    def __init__(self, context: PageContext) -> None:
        self._registered = Registered(context)
        self._lock = threading.Lock()
        self._comparisons: OrderedDict[tuple[str, str], tuple[Comparison, int]] = OrderedDict()

    def list(self, _: Request) -> Response:
        registered = self._registered
        return json_answer([summary(registered, version) for version in registered.versions()])

    def details(self, request: Request) -> Response:
        return json_answer(details(self._registered, self._version(request, "number")))

    def captions(self, request: Request) -> Response:
        version = self._version(request, "number")
        order = request.query_params.get("order", "worst")
        if order not in ("worst", "best", "file"):
            raise ImageCapError("order must be worst, best or file")
        rows, total = caption_rows(
            self._registered.evaluation(version.run),
            request.query_params.get("find", "")[:1000],
            order,
            whole_number(request, "offset", 0, 10**9),
            whole_number(request, "limit", 24, _MOST_ROWS),
        )
        return json_answer({"rows": rows, "total": total})

    def picture(self, request: Request) -> Response:
        side = whole_number(request, "side", _SIDES[1], _SIDES[-1])
        if side not in _SIDES:
            raise ImageCapError(f"side must be one of {', '.join(map(str, _SIDES))}")
        digest, image = (request.query_params.get(name, "") for name in ("digest", "image"))
        content = self._registered.picture(digest, image, side)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    def report(self, request: Request) -> Response:
        from imagecap.registry.evaluations import REPORT, file_of_run

        version = self._version(request, "number")
        file = file_of_run(self._registered.client, version.run, REPORT)
        return FileResponse(file, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY})

    def compare(self, request: Request) -> Response:
        pair = (self._version(request, "baseline"), self._version(request, "candidate"))
        found: dict[str, Any] = {
            "versions": [summary(self._registered, version) for version in pair],
            "changes": [],
            "captions": 0,
            "left_out": 0,
            "other_references": 0,
            "problem": None,
            "scores": [],
        }
        try:
            comparison, other_references = self._comparison(*pair)
        except ImageCapError as error:
            found |= {"problem": str(error), "scores": shared_scores(self._registered, pair)}
        else:
            found |= {
                "changes": changes(comparison),
                "captions": comparison.n,
                "left_out": comparison.left_out,
                "other_references": other_references,
            }
        found["curves"] = shared_curves(self._registered, pair)
        found["differences"] = differences(self._registered, pair)
        return json_answer(found)

    def compared_captions(self, request: Request) -> Response:
        pair = (self._version(request, "baseline"), self._version(request, "candidate"))
        comparison, _ = self._comparison(*pair)
        find = request.query_params.get("find", "")[:1000].casefold()
        order = request.query_params.get("order", "change")
        if order not in ("change", "better", "worse"):
            raise ImageCapError("order must be change, better or worse")
        rows = [
            row
            for row in comparison.pictures
            if row["baseline"] != row["candidate"]
            and (order == "change" or (row["difference"] > 0) == (order == "better"))
            and (not find or find in f"{row['image']}\n{row['baseline']}\n{row['candidate']}".casefold())
        ]
        offset, limit = whole_number(request, "offset", 0, 10**9), whole_number(request, "limit", 24, _MOST_ROWS)
        return json_answer({"rows": rows[offset : offset + limit], "total": len(rows)})

    def _version(self, request: Request, name: str) -> Version:
        return self._registered.version(request.path_params[name])

    def _comparison(self, baseline: Version, candidate: Version) -> tuple[Comparison, int]:
        """Compare two versions by their stored evaluations, against the references of the candidate's.

        The last comparisons are kept in memory.

        Returns:
            The comparison, and the number of captions of the baseline's evaluation that had other references.

        Raises:
            ImageCapError: the evaluations cannot be compared.
        """
        for version in (baseline, candidate):
            if not version.run:
                raise ImageCapError(f"version {version.number} has no run, and so no evaluation")
        key = (baseline.run, candidate.run)
        with self._lock:
            if key in self._comparisons:
                self._comparisons.move_to_end(key)
                return self._comparisons[key]
        before, after = (self._registered.evaluation(version.run) for version in (baseline, candidate))
        before, other_references = with_references_of(after, before)
        resamples = self._registered.settings.evaluate.bootstrap_samples or 1000
        found = compare_results(before, after, resamples=resamples), other_references
        with self._lock:
            self._comparisons[key] = found
            while len(self._comparisons) > _KEPT_COMPARISONS:
                self._comparisons.popitem(last=False)
        return found
