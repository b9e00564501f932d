"""The console's routes: each takes JSON from `Operations` and gives it to a template, or gives it out as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from gateway.console import drawing, words
from gateway.console.live import STREAMS_MAX, Live
from gateway.guard import given_name
from gateway.incidents import EFFECTS, VERDICTS
from gateway.operations import OperationError, Operations
from gateway.problems import problem
from gateway.traffic import Traffic

HERE = Path(__file__).parent
VALUES_SHOWN = 24
"""Elements of a tensor that a prediction's page shows; its JSON twin has all."""


class Pages:
    """Draws pages."""

    def __init__(self, operations: Operations, traffic: Traffic) -> None:
        self._operations = operations
        self._traffic = traffic
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        for module in (words, drawing):
            found = {name: one for name, one in vars(module).items() if not name.startswith("_") and callable(one)}
            self._templates.globals.update(found)
        self._templates.globals["VALUES_SHOWN"] = VALUES_SHOWN

    def draw(self, template: str, **values: Any) -> str:
        """Draw a template."""
        return self._templates.get_template(template).render(values)

    def part(self, page: str) -> Callable[[], str]:
        """Return what draws the changing part of a page. Raises OperationError (404) when it has none."""
        if page == "/":
            return lambda: self.draw("_overview.html", view=self._operations.overview(self._traffic))
        place, _, name = page.lstrip("/").partition("/")
        if place != "incidents":
            raise OperationError(f"page {page[:64]!r}: not a live one, expected / or /incidents/ID", 404)
        self._operations.incident(name)
        return lambda: self.draw("_incident.html", incident=self._operations.incident(name))

    def answer(self, request: Request, template: str, name: str, read: Callable[[], Any], **values: Any) -> Response:
        """Answer with a page, or with its twin in JSON; what goes wrong is a page as well."""
        as_json = request.query_params.get("format") == "json"
        try:
            found = read()
        except OperationError as error:
            if as_json:
                return problem(error.status, str(error), request.url.path)
            return self.refusal(error)
        if as_json:
            return JSONResponse(found)
        return HTMLResponse(self.draw(template, **{name: found}, **values))

    def refusal(self, error: OperationError, back: str = "/") -> Response:
        """Say on a page what went wrong."""
        html = self.draw("refusal.html", message=str(error), status=error.status, back=back)
        return HTMLResponse(html, error.status)


def add_console(app: FastAPI, operations: Operations, traffic: Traffic, live: Live) -> None:
    """Add the console to an application."""
    pages = Pages(operations, traffic)
    _reading(app, pages, operations, traffic)
    _deciding(app, pages, operations)

    @app.get("/events", include_in_schema=False)
    async def events(request: Request, page: str) -> Response:
        if live.full:
            return problem(
                503, f"{STREAMS_MAX} pages are open already", request.url.path, headers={"Retry-After": "10"}
            )
        draw = await run_in_threadpool(pages.part, page)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(live.follow(page, draw), media_type="text/event-stream", headers=headers)

    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")


def _reading(app: FastAPI, pages: Pages, operations: Operations, traffic: Traffic) -> None:
    @app.get("/", include_in_schema=False)
    def overview(request: Request) -> Response:
        return pages.answer(request, "overview.html", "view", lambda: operations.overview(traffic))

    @app.get("/incidents/{id}", include_in_schema=False)
    def incident(request: Request, id: str) -> Response:
        return pages.answer(
            request,
            "incident.html",
            "incident",
            lambda: operations.incident(id),
            verdicts=VERDICTS,
            effects=EFFECTS,
            actor=given_name(request.headers),
        )

    @app.get("/predictions", include_in_schema=False)
    def find(id: str) -> Response:
        return RedirectResponse(f"/predictions/{quote(id.strip(), safe='')}", 303)

    @app.get("/predictions/{id}", include_in_schema=False)
    def prediction(request: Request, id: str) -> Response:
        read = lambda: operations.prediction(id, chain_wanted=True)  # noqa: E731 - as its neighbours
        return pages.answer(request, "prediction.html", "prediction", read)

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(pages.draw("docs.html", api=app.openapi()))


def _deciding(app: FastAPI, pages: Pages, operations: Operations) -> None:
    async def act(request: Request, id: str, do: Callable[[dict[str, str]], Any]) -> Response:
        """Do what a form asks for, then show the incident again."""
        # The guard has checked where the form comes from, and how long it is.
        given = parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)
        form = {name: values[0].strip() for name, values in given.items()}
        page = f"/incidents/{quote(id, safe='')}"
        try:
            if not form.get("actor"):
                raise OperationError("your name is missing: the history says who did what", 422)
            await run_in_threadpool(do, form)
        except OperationError as error:
            return pages.refusal(error, page)
        return RedirectResponse(page, 303)

    @app.post("/incidents/{id}/acknowledge", include_in_schema=False)
    async def acknowledge(request: Request, id: str) -> Response:
        return await act(
            request, id, lambda form: operations.acknowledge(id, actor=form["actor"], reason=form.get("reason", ""))
        )

    @app.post("/incidents/{id}/decide", include_in_schema=False)
    async def decide(request: Request, id: str) -> Response:
        def do(form: dict[str, str]) -> Any:
            verdict, reason = form.get("verdict", ""), form.get("reason", "")
            return operations.decide(id, verdict, actor=form["actor"], reason=reason)

        return await act(request, id, do)
