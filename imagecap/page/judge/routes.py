"""The addresses of the section "Judge". What would say which caption is whose is not answered before it may be."""

import json

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, read_json
from imagecap.page.answers import json_answer, json_body
from imagecap.page.context import PageContext
from imagecap.page.judge.results import check, result_of
from imagecap.page.judge.session import Session, judge_name
from imagecap.page.judge.sides import captions_of_sides, number_of_pairs, seed_of, sides
from imagecap.page.judge.store import Judgment, JudgmentStore
from imagecap.page.registered import Registered, has_store

PICTURE_SIDE = 1200
"""Pixels of the longer side of a picture that is judged."""
_LOGGED = "mlflow_run.json"


def routes(context: PageContext) -> list[BaseRoute]:
    """Return the routes of the section."""
    judging = _Judging(context)
    return [
        Route("/api/judge/sides", judging.sides),
        Route("/api/judge/sessions", judging.sessions, methods=["GET"]),
        Route("/api/judge/sessions", judging.begin, methods=["POST"]),
        Route("/api/judge/sessions/{name}", judging.session),
        Route("/api/judge/sessions/{name}/pictures/{place:int}", judging.picture),
        Route("/api/judge/sessions/{name}/judgments", judging.judge, methods=["POST"]),
        Route("/api/judge/sessions/{name}/result", judging.result),
        Route("/api/judge/sessions/{name}/log", judging.log, methods=["POST"]),
        Route("/api/judge/sessions/{name}/file", judging.file),
    ]


def offered(context: PageContext) -> bool:
    """Whether there may be versions to judge."""
    return has_store(context)


class _Judging:
    """The handlers. Those that are not `async` run in threads."""

    def __init__(self, context: PageContext) -> None:
        self._registered = Registered(context)
        self._store = JudgmentStore(context.state / "judge")

    def sides(self, _: Request) -> Response:
        return json_answer(sides(self._registered))

    def sessions(self, _: Request) -> Response:
        found = []
        for name in self._store.names():
            session = self._store.session(name)
            judges = {judge: len(of_judge) for judge, of_judge in self._store.judgments(name).items()}
            found.append(
                {
                    "name": name,
                    "created": session.created,
                    # in the order of their names, which says nothing about left and right
                    "sides": sorted([session.baseline, session.candidate]),
                    "count": len(session.shown),
                    "judges": judges,
                }
            )
        return json_answer(found)

    async def begin(self, request: Request) -> Response:
        wanted = await json_body(request)
        count, seed = number_of_pairs(wanted.get("count")), seed_of(wanted.get("seed"))
        baseline, candidate = str(wanted.get("baseline") or ""), str(wanted.get("candidate") or "")

        def make() -> Session:
            pairs, equal = captions_of_sides(self._registered, baseline, candidate)
            return self._store.create(baseline, candidate, pairs, equal, count, seed)

        session = await run_in_threadpool(make)
        return json_answer({"name": session.name, "fingerprint": session.fingerprint}, 201)

    def session(self, request: Request) -> Response:
        session = self._session(request)
        judge = judge_name(request.query_params.get("judge"))
        answers = self._store.judgments(session.name).get(judge, {})
        places = {pair.key: place for place, pair in enumerate(session.shown)}
        pairs = []
        for placed in session.placed_for(judge):
            pair = placed.pair
            left, right = pair.baseline, pair.candidate
            if placed.left == "candidate":
                left, right = right, left
            given = answers.get(pair.key)
            pairs.append(
                {
                    "key": pair.key,
                    "place": places[pair.key],
                    "language": pair.language,
                    "left": left,
                    "right": right,
                    "answer": given.answer if given is not None else None,
                }
            )
        return json_answer(
            {
                "name": session.name,
                "fingerprint": session.fingerprint,
                "sides": sorted([session.baseline, session.candidate]),
                "equal": session.equal,
                "pairs": pairs,
            }
        )

    def picture(self, request: Request) -> Response:
        session, place = self._session(request), request.path_params["place"]
        if place >= len(session.shown):
            raise ImageCapError(f"the session {session.name} shows {len(session.shown)} pictures")
        pair = session.shown[place]
        content = self._registered.picture(pair.digest, pair.image, PICTURE_SIDE)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def judge(self, request: Request) -> Response:
        said = await json_body(request)
        judge, seconds = judge_name(said.get("judge")), said.get("seconds", 0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e6:
            raise ImageCapError("the seconds must be a number from 0 on")

        def add() -> Judgment:
            return self._store.add(self._session(request), judge, str(said.get("key")), said.get("answer"), seconds)

        judgment = await run_in_threadpool(add)
        return json_answer({"key": judgment.key, "answer": judgment.answer})

    def result(self, request: Request) -> Response:
        session = self._session(request)
        found = result_of(session, self._store.judgments(session.name))
        problems = check(session, self._store.stored_fingerprint(session.name), self._store.lines(session.name))
        return json_answer(found | {"problems": problems, "run": self._logged(session.name)})

    async def log(self, request: Request) -> Response:
        from imagecap.registry.preference import log_preference

        def log() -> str:
            session = self._session(request)
            lines = self._store.lines(session.name)
            problems = check(session, self._store.stored_fingerprint(session.name), lines)
            if problems:
                raise ImageCapError(f"these judgments are not logged: {problems[0]}")
            found = result_of(session, self._store.judgments(session.name))
            registered = self._registered
            run = log_preference(registered.client, registered.settings, found, self._logged(session.name))
            atomic_write_json(self._store.path(session.name) / _LOGGED, {"run_id": run})
            return run

        return json_answer({"run": await run_in_threadpool(log)})

    def file(self, request: Request) -> Response:
        session = self._session(request)
        lines = [vars(line) for line in self._store.lines(session.name)]
        content = json.dumps({"session": session.to_dict(), "judgments": lines}, indent=1)
        headers = {"content-disposition": f'attachment; filename="judgments-{session.name}.json"'}
        return Response(content, media_type="application/json", headers=headers)

    def _session(self, request: Request) -> Session:
        return self._store.session(request.path_params["name"])

    def _logged(self, name: str) -> str | None:
        file = self._store.path(name) / _LOGGED
        return str(read_json(file)["run_id"]) if file.is_file() else None
