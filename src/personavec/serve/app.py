"""The HTTP application: its routes validate a request, queue it, and await the reply."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

import personavec
from personavec.errors import PersonavecError
from personavec.model import LoadedModel
from personavec.model.engine import VllmEngine
from personavec.serve.browser import add_page
from personavec.serve.config import ServeConfig
from personavec.serve.events import ReplyEvents
from personavec.serve.limits import Gate
from personavec.serve.protocol import ApiError, ChatRequest, CompletionRequest, ErrorReply, parsed
from personavec.serve.reply_format import ModelCard, ModelCards
from personavec.serve.requests import ReplyRequest
from personavec.serve.service import Service
from personavec.serve.watch import AlarmList
from personavec.vectors import PersonaVector

log = logging.getLogger("personavec.serve")
_WRONG: dict[int | str, Any] = {
    status: {"model": ErrorReply}
    for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504)
}
_STREAM: dict[int | str, Any] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}}
}


def create_app(
    loaded: LoadedModel,
    vectors: Mapping[str, PersonaVector],
    config: ServeConfig,
    reports: Mapping[str, Path] | None = None,
    engine: VllmEngine | None = None,
) -> FastAPI:
    """The application for one model and its vectors by trait.

    `reports` are the files of vectors' reports by trait. With `engine`, vLLM writes the replies,
    and the loaded model only tokenises. Raises the errors of `ServedModel.of`. The application does
    not start if the engine cannot run.
    """
    service = Service(loaded, vectors, config, engine)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        webhook = service.reader.webhook
        posting = asyncio.create_task(webhook.run()) if webhook else None
        try:
            yield
        finally:
            if posting is not None:
                posting.cancel()
            await service.stop()

    app = FastAPI(
        title="personavec",
        version=personavec.__version__,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=_WRONG,
    )
    app.state.service = service
    _handle_errors(app)
    _routes(app, service)
    _document(app)
    add_page(app, service, reports or {})
    app.add_middleware(
        Gate, metrics=service.metrics, api_key=config.api_key, max_body=config.max_body
    )
    return app


def _routes(app: FastAPI, service: Service) -> None:
    model = ModelCard(id=service.served.name)

    @app.get("/v1/models")
    async def models() -> ModelCards:
        """List the served model."""
        return ModelCards(data=[model])

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> ModelCard:
        """The model with this name."""
        if name != service.served.name:
            raise ApiError(404, f"there is no model '{name}' here", code="model_not_found")
        return model

    @app.post("/v1/chat/completions", responses=_STREAM, openapi_extra=_body_of(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, as one reply or as a stream of events."""
        body = await request.body()
        asked = await service.chat(lambda: parsed(ChatRequest, body))
        return await _reply(service, asked, request)

    @app.post("/v1/completions", responses=_STREAM, openapi_extra=_body_of(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue a text without a chat template, as one reply or as a stream of events."""
        body = await request.body()
        asked = await service.completion(lambda: parsed(CompletionRequest, body))
        return await _reply(service, asked, request)

    @app.get("/v1/personavec/alarms")
    async def alarms() -> AlarmList:
        """List the latest drift alarms and the levels of the server's charts."""
        return AlarmList(alarms=list(service.watch.alarms), levels=service.watch.levels())

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Whether replies can be written."""
        alive = service.worker.alive
        body = {"status": "ok" if alive else "failed", "open": service.worker.open}
        return JSONResponse(body, 200 if alive else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(service.metrics_text(), media_type=CONTENT_TYPE_LATEST)


def _body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """A body's entry in the OpenAPI document, since routes parse bodies themselves in a thread."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"content": content, "required": True}}


def _document(app: FastAPI) -> None:
    """Add the bodies' schemas to the OpenAPI document."""
    made = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            bodies = [(ChatRequest, "validation"), (CompletionRequest, "validation")]
            _, found = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
            made()["components"]["schemas"].update(found["$defs"])
        return made()

    app.openapi = whole


async def _reply(service: Service, asked: ReplyRequest, request: Request) -> Response:
    if asked.stream:
        return ReplyEvents(service.chunks(asked), lambda: service.release(asked))
    return JSONResponse(await _while_connected(request, service.whole(asked)))


async def _while_connected(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, which is cancelled when the client disconnects."""
    doing, leaving = asyncio.create_task(work), asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ApiError(499, "the client has left")
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await doing


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _handle_errors(app: FastAPI) -> None:
    def answer(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(PersonavecError)
    async def package_error(_: Request, error: PersonavecError) -> JSONResponse:
        return answer(ApiError(400, str(error)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"there is no {request.method} {request.url.path} here"
        found = ApiError(error.status_code, message, headers=dict(error.headers or {}))
        return answer(found)

    @app.exception_handler(Exception)
    async def unexpected_error(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed: %s", type(error).__name__, exc_info=error)
        return answer(ApiError(500, "the server failed on this request"))
