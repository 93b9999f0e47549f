"""A line between a clinic and the coordinator with a given speed that can be cut: a TCP proxy on loopback.

Each direction passes so many bits a second over all connections. A cut ends every connection and, by its kind, refuses
new ones (nothing listens), drops them (taken and closed at once, as proxies do whose other side is away), or is silent:
connections stay open and nothing passes, as with a cable that was pulled.
"""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

_PIECE = 16_384
CUTS = ("refuse", "drop", "silent")


@dataclass
class Line:
    """A proxy from a free port of loopback to `target`, in a thread of its own until the process ends.

    Attributes:
        target: port of the gateway.
        megabits: a second, each way; 0 for no limit.
        passed: bytes to the coordinator and back so far.
    """

    target: int
    megabits: float = 0.0
    port: int = 0
    passed: list[int] = field(default_factory=lambda: [0, 0])
    _free_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _cut_by: str = ""
    _door: asyncio.Server | None = None
    _pumps: "set[asyncio.Task[None]]" = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def open(self) -> "Line":
        """Start; `port` is where clinics connect."""
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()
        return self

    def cut(self, kind: str) -> None:
        """Cut the line until `mend`; `kind` is one of CUTS."""
        asyncio.run_coroutine_threadsafe(self._cut(kind), self._loop).result()

    def mend(self) -> None:
        """The line is whole again; what hung in a silent cut is lost."""
        asyncio.run_coroutine_threadsafe(self._mend(), self._loop).result()

    async def _cut(self, kind: str) -> None:
        self._cut_by = kind
        if kind == "refuse" and self._door is not None:
            self._door.close()
        if kind != "silent":
            self._end_all()

    async def _mend(self) -> None:
        self._end_all()
        self._cut_by = ""
        await self._listen()

    async def _listen(self) -> None:
        if self._door is None or not self._door.is_serving():
            self._door = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._door.sockets[0].getsockname()[1]

    def _end_all(self) -> None:
        for pump in self._pumps:
            pump.cancel()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        ready.set()
        self._loop.run_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        with suppress(OSError, asyncio.CancelledError):
            if self._cut_by != "drop":
                await self._join(reader, writer)
        writer.transport.abort()
        self._pumps.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        ways = [
            asyncio.ensure_future(self._pump(reader, back, 0)),
            asyncio.ensure_future(self._pump(there, writer, 1)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            back.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: int) -> None:
        while piece := await source.read(_PIECE):
            while self._cut_by == "silent":
                await asyncio.sleep(0.05)
            await self._take_time(len(piece), way)
            self.passed[way] += len(piece)
            sink.write(piece)
            await sink.drain()

    async def _take_time(self, size: int, way: int) -> None:
        """Wait until the line has had time for so many bytes."""
        if not self.megabits:
            return
        now = time.monotonic()
        self._free_at[way] = max(self._free_at[way], now) + 8e-6 * size / self.megabits
        await asyncio.sleep(self._free_at[way] - now)
