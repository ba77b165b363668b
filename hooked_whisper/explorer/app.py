"""The server of the page: routes, limits and access control.

The server is for one user of this machine. Every request needs the token in the page's address (compared in constant
time). Requests for other host names are refused, which prevents DNS rebinding. No other origin has access, and the page
cannot load anything from elsewhere (Content-Security-Policy).
"""

from __future__ import annotations

import functools
import json
import re
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hooked_whisper.audio import to_wav_bytes
from hooked_whisper.errors import AudioError, HookedWhisperError, MissingExtraError
from hooked_whisper.explorer.clips import MOST_BYTES, MOST_SECONDS, Shelf
from hooked_whisper.explorer.code import python_code
from hooked_whisper.explorer.edits import Edits
from hooked_whisper.explorer.views import (
    attention_page,
    change_facts,
    clip_facts,
    head_pattern,
    liking_units,
    model_facts,
    pattern_png,
    spectrogram_png,
)
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.replace import WORD_MARGIN

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOSTS = ["127.0.0.1", "localhost"]
_MOST_JSON = 100_000
_SCRIPTS = ("explorer.js", "timeline.js", "edits.js", "results.js", "heads.js", "recording.js", "start.js")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(eq=False)
class Explorer:
    """State shared by the routes. Only one request at a time uses the model.

    source: argument of ``from_pretrained``. stop: function that ends the server.
    """

    model: HookedWhisper
    source: str
    shelf: Shelf
    language: str = "en"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    stop: Callable[[], None] = lambda: None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    async def work(self, job: Callable[[], Any]) -> Any:
        """Run a job in a thread, after all earlier jobs."""
        from starlette.concurrency import run_in_threadpool

        def alone() -> Any:
            with self._lock:
                return job()

        return await run_in_threadpool(alone)


Route = Callable[[Explorer, "Request"], Awaitable["Response"]]


def make_app(explorer: Explorer) -> Starlette:
    """Make the ASGI application.

    Raises:
        MissingExtraError: if starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route as Path
    except ImportError as error:
        raise MissingExtraError("the explorer needs starlette: pip install 'hooked-whisper[explore]'") from error

    def path(address: str, route: Route, *methods: str) -> Path:
        return Path(address, _guarded(explorer, route), methods=list(methods) or ["GET"])

    return Starlette(
        routes=[
            path("/", _page),
            path("/api/clips", _clips),
            path("/api/clips", _upload, "POST"),
            path("/api/clips/{clip}", _clip),
            path("/api/clips/{clip}/alignment", _align, "POST"),
            path("/api/clips/{clip}/audio.wav", _audio),
            path("/api/clips/{clip}/mel.png", _mel),
            path("/api/clips/{clip}/act", _act, "POST"),
            path("/api/clips/{clip}/pattern.png", _pattern),
            path("/clips/{clip}/attention", _attention),
            path("/api/clips/{clip}/units", _units),
            path("/api/stop", _stop, "POST"),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


def _guarded(explorer: Explorer, route: Route) -> Callable[[Request], Awaitable[Response]]:
    from starlette.responses import JSONResponse, PlainTextResponse

    @functools.wraps(route)
    async def answer(request: Request) -> Response:
        token = request.headers.get("x-token") or request.query_params.get("token") or ""
        if not secrets.compare_digest(token.encode(), explorer.token.encode()):
            text = "Open this page with the address that hooked-whisper explore printed. It contains a token.\n"
            return PlainTextResponse(text, 403, headers=_HEADERS)
        try:
            response = await route(explorer, request)
        except HookedWhisperError as error:
            response = JSONResponse({"error": str(error)}, 400)
        response.headers.update({k: v for k, v in _HEADERS.items() if k not in response.headers})
        return response

    return answer


# --- the page --------------------------------------------------------------------------------------------------------


async def _page(explorer: Explorer, request: Request) -> Response:
    from starlette.responses import HTMLResponse

    nonce = secrets.token_urlsafe(16)
    facts = {
        "token": explorer.token,
        "model": model_facts(explorer.model),
        "most_bytes": MOST_BYTES,
        "most_seconds": MOST_SECONDS,
        "margin": WORD_MARGIN,
    }
    html = _template().render(facts=facts, nonce=nonce, model=explorer.model, source=explorer.source, scripts=_SCRIPTS)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


@functools.cache
def _template() -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader("hooked_whisper.explorer"), PackageLoader("hooked_whisper.report")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("explorer.html.j2")


# --- clips -----------------------------------------------------------------------------------------------------------


async def _clips(explorer: Explorer, request: Request) -> Response:
    def listed() -> dict[str, Any]:  # runs as a job, so that no upload changes the shelf meanwhile
        first = explorer.shelf.first()
        return {"clips": [{"id": k, "name": name} for k, name in explorer.shelf.names().items()], "first": first}

    return _json(await explorer.work(listed))


async def _upload(explorer: Explorer, request: Request) -> Response:
    content = await _body(request, MOST_BYTES, "audio")
    name = request.query_params.get("name", "upload")
    key = await explorer.work(lambda: explorer.shelf.add(content, name))
    return _json({"id": key})


async def _clip(explorer: Explorer, request: Request) -> Response:
    key = request.path_params["clip"]
    clip = await explorer.work(lambda: explorer.shelf[key])
    return _json({"id": key, **clip_facts(clip)})


async def _align(explorer: Explorer, request: Request) -> Response:
    key, content = request.path_params["clip"], await _body(request, MOST_BYTES, "alignment")
    name = request.query_params.get("name", "alignment")
    await explorer.work(lambda: explorer.shelf.align(key, content, name))
    return await _clip(explorer, request)


async def _audio(explorer: Explorer, request: Request) -> Response:
    from starlette.responses import Response

    clip = await explorer.work(lambda: explorer.shelf[request.path_params["clip"]])
    content = to_wav_bytes(clip.clip.samples)
    size, headers = len(content), {"Accept-Ranges": "bytes"}  # without ranges a browser cannot seek
    span = re.fullmatch(r"bytes=(\d{1,12})-(\d{0,12})", request.headers.get("range", ""))
    start, end = (int(span[1]), min(int(span[2] or size), size - 1)) if span else (0, -1)
    if start <= end:
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return Response(content[start : end + 1], 206, headers, media_type="audio/wav")
    return Response(content, headers=headers, media_type="audio/wav")


async def _mel(explorer: Explorer, request: Request) -> Response:
    key = request.path_params["clip"]
    return _png(await explorer.work(lambda: spectrogram_png(explorer.model, explorer.shelf[key])))


# --- edits and views -------------------------------------------------------------------------------------------------


async def _act(explorer: Explorer, request: Request) -> Response:
    key, content = request.path_params["clip"], await _body(request, _MOST_JSON, "edits")
    try:
        edits = Edits.from_json(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise HookedWhisperError(f"the edits are not valid JSON: {error}") from error

    def act() -> dict[str, Any]:
        shelf, language = explorer.shelf, explorer.language
        clip = shelf.with_residuals(key) if edits.inside else shelf[key]
        change = edits.apply(explorer.model, clip, shelf.__getitem__, shelf.silence if edits.cuts else None)
        code = python_code(edits, explorer.source, clip, shelf.__getitem__, language)
        n_tokens = len(explorer.model.tokenizer.encode(f" {change.after}"))
        return {**change_facts(change), "is_cut": n_tokens >= clip.most_tokens, "python": code}

    return _json(await explorer.work(act))


async def _pattern(explorer: Explorer, request: Request) -> Response:
    key, stack = request.path_params["clip"], request.query_params.get("stack", "")
    block, head = _number(request, "block"), _number(request, "head")
    return _png(
        await explorer.work(
            lambda: pattern_png(
                head_pattern(explorer.model, explorer.shelf[key], stack, block, head, explorer.language)
            )
        )
    )


async def _attention(explorer: Explorer, request: Request) -> Response:
    """Answer with the attention viewer of one stack, a separate page that loads nothing."""
    from starlette.responses import HTMLResponse

    key, stack = request.path_params["clip"], request.query_params.get("stack", "")
    block, head = _number(request, "block"), _number(request, "head")
    page = await explorer.work(
        lambda: attention_page(explorer.model, explorer.shelf[key], stack, block, head, explorer.language)
    )
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


async def _units(explorer: Explorer, request: Request) -> Response:
    key, block = request.path_params["clip"], _number(request, "block")
    also = tuple(_int(x, "also") for x in request.query_params.getlist("also")[:50])

    def find() -> list[dict[str, Any]]:
        clip = explorer.shelf[key]
        start = _float(request.query_params.get("start", "0"), "start")
        end = _float(request.query_params.get("end", str(clip.seconds)), "end")
        return liking_units(explorer.model, clip, block, start, end, also)

    return _json(await explorer.work(find))


async def _stop(explorer: Explorer, request: Request) -> Response:
    explorer.stop()
    return _json({"stopped": True})


# --- helpers ---------------------------------------------------------------------------------------------------------


async def _body(request: Request, most: int, what: str) -> bytes:
    """Read the body, up to ``most`` bytes.

    Raises:
        AudioError: if it is longer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise AudioError(f"the {what} has more than {most / 1e6:g} MB: upload a smaller file")
        parts.append(part)
    return b"".join(parts)


def _number(request: Request, name: str) -> int:
    return _int(request.query_params.get(name, ""), name)


def _int(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise HookedWhisperError(f"{name} must be a whole number, got {text!r}") from error


def _float(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise HookedWhisperError(f"{name} must be a number of seconds, got {text!r}") from error
    if not 0 <= value <= MOST_SECONDS:
        raise HookedWhisperError(f"{name} must be from 0 to {MOST_SECONDS:.0f} seconds, got {text!r}")
    return value


def _json(data: Any) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(data)


def _png(data: bytes) -> Response:
    from starlette.responses import Response

    return Response(data, media_type="image/png")
