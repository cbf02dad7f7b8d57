"""Serve the web page and the data that it fetches: the vectors with their ranges and reports.

The page's files are read once and served from memory, each with its own route, so that no client
input is used as a path.
"""

from __future__ import annotations

import hashlib
import hmac
import mimetypes
import secrets
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from personavec.errors import PersonavecError
from personavec.extract import vector_report
from personavec.serve.protocol import ApiError
from personavec.serve.service import Service
from personavec.vectors import PersonaVector

#: A report is one file with an inline script. It is sandboxed, and so has no origin and cannot
#: access the page, the key or the API.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Baseline(BaseModel):
    """Mean and spread of projections on neutral prompts, in units of the residual stream."""

    prompt_last: tuple[float, float]
    response_mean: tuple[float, float]


class VectorEntry(BaseModel):
    """A loaded vector.

    `coherent_range` has the lowest and highest coefficients that keep replies coherent; None if
    they were not measured. `verdict` is that on the vector, in words. `report` is the address
    of the vector's report until the server stops.
    """

    trait: str
    description: str
    layer: int
    coherent_range: tuple[float, float] | None
    verdict: str | None
    neutral: Baseline
    report: str


class GuardEntry(BaseModel):
    """A guard that the operator set; `amount` is its coefficient or percentile."""

    condition: str
    does: str
    amount: float


class VectorList(BaseModel):
    """The model, vectors and guards of the server, from which the page is drawn."""

    model: str
    max_tokens: int
    any_coefficient: bool
    vectors: list[VectorEntry]
    guards: list[GuardEntry]


def add_page(app: FastAPI, service: Service, reports: Mapping[str, Path]) -> None:
    """Serve the page under `/`, the list of vectors, and their reports.

    `reports` maps traits to the reports of their extractions, if there are any. Other reports are
    drawn from the data stored with the vector. A browser follows links without an API key, so a
    report's address has a token that only the list of vectors reveals.
    """
    secret = secrets.token_bytes(32)

    def token(trait: str) -> str:
        return hmac.new(secret, trait.encode(), hashlib.sha256).hexdigest()

    served = service.served
    vectors, config = served.vectors, served.config
    by_token = {token(trait): trait for trait in vectors}
    entries = VectorList(
        model=served.name,
        max_tokens=config.max_tokens,
        any_coefficient=config.allow_any_coefficient,
        vectors=[_entry(vector, f"/report/{token(trait)}") for trait, vector in vectors.items()],
        guards=[
            GuardEntry(condition=str(guard.condition), does=guard.does, amount=guard.amount)
            for guard in served.guards
        ],
    )

    @app.get("/v1/personavec/vectors")
    async def list_vectors() -> VectorList:
        """List the vectors that are read and can be steered with."""
        return entries

    # Not a coroutine, so that it runs in a thread: drawing takes a second.
    @app.get("/report/{token}", include_in_schema=False)
    def report(token: str) -> Response:
        trait = by_token.get(token)
        if trait is None:
            raise ApiError(404, "this link is from an earlier run of the server; reload its page")
        text = _report(vectors[trait], reports.get(trait))
        return HTMLResponse(text, headers={"Content-Security-Policy": _REPORT_POLICY})

    for name, content in page_files().items():
        app.get(f"/{name}", include_in_schema=False)(_sender(name, content))
        if name == "index.html":
            app.get("/", include_in_schema=False)(_sender(name, content))


def page_files() -> dict[str, bytes]:
    """The page's files by their address, such as `vendor/preact.js`."""
    root = Path(str(resources.files("personavec") / "serve" / "page"))
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    if "index.html" not in found:
        raise PersonavecError(f"the page's files are missing in {root}; install personavec again")
    return found


def _sender(name: str, content: bytes) -> Callable[[], Any]:
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    # Without revalidation a browser could mix modules of two versions.
    headers = {"Cache-Control": "no-cache"}

    async def send() -> Response:
        return Response(content, media_type=kind, headers=headers)

    return send


def _entry(vector: PersonaVector, report: str) -> VectorEntry:
    measured = vector.coherent_range
    return VectorEntry(
        trait=vector.trait,
        description=str(vector.meta.get("description") or ""),
        layer=vector.layer,
        coherent_range=(min(0.0, measured[0]), max(0.0, measured[1])) if measured else None,
        verdict=vector.verdict and vector.verdict.words,
        neutral=Baseline(
            prompt_last=tuple(vector.neutral_prompt_last[vector.layer].tolist()),
            response_mean=tuple(vector.neutral_response_mean[vector.layer].tolist()),
        ),
        report=report,
    )


def _report(vector: PersonaVector, report: Path | None) -> str:
    if report is not None and report.is_file():
        return report.read_text("utf-8")
    return vector_report(vector.trait, vector.layer, vector.meta)
