"""The only door that clinics reach: TLS ends here, and of Flower's three APIs on one port only the Fleet's calls pass.

Behind it the SuperLink listens on loopback. Control (submitting runs, registering keys) and Runtime (tokens of apps)
answer to whoever reaches that port, so they are not forwarded at all: every other path is 404. A node that asks for
messages is kept waiting here while there is none, instead of asking again every three seconds: the next task reaches it
within a tenth of a second, with fewer requests. What goes wrong here or behind is said as 503: at 500 a SuperNode gives
up, and seems to run on. That a clinic's node asks and nothing waits is noted for the ServerApp
(`wbc_server.exchange.attendance`): what the node was given before is answered by now, or lost.
"""

import argparse
import asyncio
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wbc_common.link import BANDWIDTH_PATH, FLEET_PREFIX, HEALTH_PATH, HELLO_PATH, Welcome
from wbc_server.exchange.deployment import Deployment
from wbc_server.link.connections import GuardedProtocol, allow_many_files
from wbc_server.link.doorkeeper import Doorkeeper, Refused
from wbc_server.link.folder import StudyFolder
from wbc_server.link.pushes import check_push
from wbc_server.link.register import Enrolment

log = logging.getLogger(__name__)

FLEET_CALLS = frozenset(
    {
        "register-node",
        "activate-node",
        "deactivate-node",
        "unregister-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
_KEPT_WAITING_SECONDS = 20.0  # below the 30 s after which a SuperNode gives up on an answer
_ASK_AGAIN_SECONDS = 2.0  # although no bell has rung
_BELL_SECONDS = 0.05
_BODY_SECONDS = 120.0
_HEALTH_SECONDS = 2.0  # a SuperLink with much to do answers later; below the 5 s in which the gateway itself must
_BANDWIDTH_BYTES = 1 << 20
_MOST_CONNECTIONS = 512


@dataclass(frozen=True)
class Gateway:
    """What the gateway needs: the study's folder, whom to admit, the SuperLink behind, and what clinics should run."""

    folder: StudyFolder
    doorkeeper: Doorkeeper
    link: httpx.AsyncClient
    deployment: Deployment
    max_body_bytes: int
    bundle: str
    is_closing: Callable[[], bool]

    async def fleet(self, request: Request) -> Response:
        """Forward one of the Fleet's calls."""
        call = request.path_params["call"]
        if call not in FLEET_CALLS:
            return Response(status_code=404)
        try:
            enrolment, body = await self._admit(request)
            if call == "pull-messages":
                return await self._await_message(enrolment.clinic, request, body)
            if call == "push-messages":
                check_push(body, enrolment.clinic)
            return await self._forward(request, body)
        except asyncio.CancelledError:  # by uvicorn, which would say 500
            raise Refused(503, "the gateway ends; nodes wait and repeat") from None

    async def _await_message(self, clinic: str, request: Request, body: bytes) -> Response:
        """A message for a node, as soon as there is one; none after a while, or when this gateway ends."""
        deadline = time.monotonic() + _KEPT_WAITING_SECONDS
        while True:
            heard, asked_at = self.deployment.tasks.last(), time.monotonic()
            answer = await self._forward(request, body)
            if answer.status_code != 200 or answer.body:
                return answer
            if not await request.is_disconnected():  # its node may have asked again since, and have a task
                self.deployment.idle(clinic).set(heard)
            while self.deployment.tasks.last() == heard and time.monotonic() < asked_at + _ASK_AGAIN_SECONDS:
                self.doorkeeper.check_enrolled(request.headers)
                if time.monotonic() > deadline or self.is_closing() or await request.is_disconnected():
                    return answer
                await asyncio.sleep(_BELL_SECONDS)

    async def health(self, request: Request) -> Response:
        """Whether the SuperLink behind answers; says nothing else to a stranger."""
        up = await self._link_answers()
        return JSONResponse({"status": "up" if up else "starting"}, status_code=200 if up else 503)

    async def hello(self, request: Request) -> Response:
        """Tell an enrolled clinic who it is here and what runs."""
        enrolment = self.doorkeeper.admit(request.headers)
        welcome = Welcome(
            clinic=enrolment.clinic,
            role=enrolment.role,
            plan=self.folder.study().hash,
            bundle=self.bundle,
            time=datetime.now(UTC).isoformat(),
        )
        return Response(welcome.model_dump_json(), media_type="application/json")

    async def bandwidth(self, request: Request) -> Response:
        """A megabyte for an enrolled clinic to time."""
        self.doorkeeper.admit(request.headers)
        return Response(bytes(_BANDWIDTH_BYTES), media_type="application/octet-stream")

    async def _admit(self, request: Request) -> tuple[Enrolment, bytes]:
        """Whose request passes, and its body; strangers are refused before it is read."""
        enrolment = self.doorkeeper.admit(request.headers)
        body = bytearray()
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > self.max_body_bytes:
                    raise Refused(413, f"body of more than {self.max_body_bytes} bytes")
        return enrolment, bytes(body)

    async def _forward(self, request: Request, body: bytes) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_HEADERS}
        try:
            answer = await self.link.post(request.url.path, content=body, headers=headers)
        except httpx.TransportError:
            raise Refused(503, "the SuperLink does not answer; nodes wait and repeat") from None
        if answer.status_code >= 500:
            raise Refused(503, f"the SuperLink says {answer.status_code}; nodes wait and repeat")
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}
        return Response(answer.content, status_code=answer.status_code, headers=kept)

    async def _link_answers(self) -> bool:
        try:
            await self.link.get("/", timeout=_HEALTH_SECONDS)
        except httpx.TransportError:
            return False
        return True


_HOP_HEADERS = frozenset(
    {"host", "content-length", "connection", "transfer-encoding", "keep-alive", "content-encoding"}
)


def link_client(folder: StudyFolder, port: int) -> httpx.AsyncClient:
    """The way to the SuperLink on loopback."""
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}",
        verify=ssl.create_default_context(cafile=str(folder.authority)),
        trust_env=False,  # never through a proxy
        timeout=60.0,
        limits=httpx.Limits(max_connections=None),
    )


def build_app(
    folder: StudyFolder, link: httpx.AsyncClient, bundle: str, is_closing: Callable[[], bool] = lambda: False
) -> Starlette:
    """The gateway of a study as an ASGI app; `is_closing` tells waiting requests to come to an end."""
    settings = folder.settings()
    gateway = Gateway(
        folder=folder,
        doorkeeper=Doorkeeper(folder.register_file, settings.requests_per_second),
        link=link,
        deployment=Deployment(folder.link),
        max_body_bytes=int(settings.max_body_megabytes * 1e6),
        bundle=bundle,
        is_closing=is_closing,
    )

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        async with link:
            yield

    return Starlette(
        lifespan=closing,
        exception_handlers={Refused: _refuse, TimeoutError: _refuse_slow, Exception: _refuse_failed},
        routes=[
            Route(FLEET_PREFIX + "{call}", gateway.fleet, methods=["POST"]),
            Route(HEALTH_PATH, gateway.health, methods=["GET"]),
            Route(HELLO_PATH, gateway.hello, methods=["POST"]),
            Route(BANDWIDTH_PATH, gateway.bandwidth, methods=["POST"]),
        ],
    )


async def _refuse(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    log.warning("refused %s from %s: %s", request.url.path, request.client and request.client.host, refused.why)
    return JSONResponse({"detail": refused.why}, status_code=refused.status)


async def _refuse_slow(request: Request, _: Exception) -> Response:
    return await _refuse(request, Refused(408, "the body took too long"))


async def _refuse_failed(request: Request, _: Exception) -> Response:
    return await _refuse(request, Refused(503, "the gateway failed, and its log says how; nodes wait and repeat"))


def build_server(folder: StudyFolder, link_port: int, bundle: str) -> uvicorn.Server:
    """The gateway behind its socket. TLS 1.2 at least; both sides prefer 1.3."""
    settings = folder.settings()

    class Guarded(GuardedProtocol):
        most_per_address = settings.connections_per_address

    config = uvicorn.Config(
        build_app(folder, link_client(folder, link_port), bundle, lambda: server.should_exit),
        host=settings.bind,
        port=settings.port,
        http=Guarded,
        ws="none",
        ssl_certfile=str(folder.certificate),
        ssl_keyfile=str(folder.certificate_key),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = uvicorn.Server(config)
    return server


def main() -> None:
    """`python -m wbc_server.link.gateway FOLDER --link-port N --bundle SHA256`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="wbc-server gateway")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--link-port", type=int, required=True)
    parser.add_argument("--bundle", required=True)
    given = parser.parse_args()
    allow_many_files()
    build_server(StudyFolder(given.folder), given.link_port, given.bundle).run()


if __name__ == "__main__":
    main()
