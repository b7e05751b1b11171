"""All that a call needs, as real programs in a network of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

import aiohttp
import grpc
from livekit import api
from prometheus_client.parser import text_string_to_metric_families

from tests.livekit import namespace
from tests.livekit.calls import Callers
from tests.livekit.inside import ADDRESS, LIVEKIT_PORT, LIVEKIT_URL
from tests.livekit.namespace import Namespace
from tests.livekit.program import Program
from tests.vendors import VendorsClient

LIVEKIT_SERVER = "livekit-server"
LIVEKIT_INSTALL = "go install github.com/livekit/livekit-server/cmd/server@v1.13.5"
API_KEY, API_SECRET = "tests", "a secret of the tests, long enough for LiveKit"
MEDIA_PORT, CONTROL_PORT, VENDORS_PORT, METRICS_PORT = 7882, 50051, 9099, 9464
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
NODE_ID = "node-1"


def missing() -> str:
    """What is missing for calls, and how to get it; empty if nothing is."""
    if shutil.which(LIVEKIT_SERVER) is None:
        return (
            f"{LIVEKIT_SERVER} is not on the PATH; get it by: {LIVEKIT_INSTALL}, and give the program "
            f"`server` that this makes the name {LIVEKIT_SERVER}"
        )
    return namespace.missing()


class Stage:
    """livekit-server, vendors, a control plane, one node and the callers; `async with Stage(folder)`.

    Each program can be ended and started again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self._doors = {name: folder / f"{name}.sock" for name in ("livekit", "control", "metrics")}
        ports = {"livekit": LIVEKIT_PORT, "control": CONTROL_PORT, "metrics": METRICS_PORT}
        self.network = Namespace(
            {self._doors[name]: port for name, port in ports.items()}, folder / "network.log"
        )
        vendors_socket = folder / "vendors.sock"
        self.livekit = self._program("livekit", LIVEKIT_SERVER, "--config-body", _livekit_config())
        self.vendors_program = self._python(
            "vendors", "-m", "tests.vendors", "--quiet", "--port", VENDORS_PORT, "--socket", vendors_socket
        )
        self.control = self._python(
            *("control", "-m", "voxplane", "serve", "--data-dir", folder / "control"),
            *("--grpc-listen", f"127.0.0.1:{CONTROL_PORT}"),
        )
        self.node = self.another_node()
        self.callers = Callers(self._python("callers", "-m", "tests.livekit.caller", piped=True), folder)
        self._vendors_socket = vendors_socket
        self._held = AsyncExitStack()

    @property
    def programs(self) -> tuple[Program, ...]:
        """All that runs, the one that most often has something to tell last."""
        return self.livekit, self.vendors_program, self.callers.program, self.control, self.node

    @property
    def vendors_url(self) -> str:
        """Where the vendors are, for configs."""
        return f"http://127.0.0.1:{VENDORS_PORT}"

    def another_node(self, node_id: str = NODE_ID) -> Program:
        """A node; it is not started. Metrics are served by the first one alone."""
        metrics = ("--metrics-listen", f"127.0.0.1:{METRICS_PORT}") if node_id == NODE_ID else ()
        return self._python(
            *(node_id, "-m", "voxplane", "node", "--node-id", node_id),
            *("--data-dir", self.folder / node_id, "--server", f"127.0.0.1:{CONTROL_PORT}", *metrics),
            LIVEKIT_URL=LIVEKIT_URL,
            LIVEKIT_API_KEY=API_KEY,
            LIVEKIT_API_SECRET=API_SECRET,
            VOXPLANE_SECRET_DIRS=str(self.secrets),
            VOXPLANE_IDLE_JOBS="0",
            # a machine that is busy with other things must not turn the tests' calls away
            VOXPLANE_MAX_CPU_LOAD="100",
        )

    async def start_livekit(self) -> None:
        """Start LiveKit's server, for the first time or again. Raises ProgramError."""
        await self.livekit.start()
        await self._answers(self.livekit, "livekit")

    async def start_control(self) -> None:
        """Start the control plane, for the first time or again. Raises ProgramError."""
        await self.control.start()
        await asyncio.wait_for(self.channel.channel_ready(), READY_SECONDS_MAX)

    async def start_node(self, node: Program | None = None) -> None:
        """Start a node and wait until LiveKit has it and a job is warm. Raises ProgramError."""
        node = node or self.node
        times = len(node.entries("registered worker"))
        await node.start()
        await node.logged("registered worker", times + 1, READY_SECONDS_MAX)

    async def mend(self) -> None:
        """Start again what a test has left dead. Raises ProgramError."""
        starts = {
            self.livekit: self.start_livekit,
            self.control: self.start_control,
            self.node: self.start_node,
        }
        for program, start in starts.items():
            if not program.running:
                await start()

    async def metric(self, name: str, **labels: str) -> float:
        """A figure of the first node, as Prometheus reads it; 0 if it has none of that kind."""
        async with self._http["metrics"].get("http://node/metrics", raise_for_status=True) as answer:
            text = await answer.text()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        found = [sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)]
        return found[0] if found else 0.0

    async def counts(self, value: float, name: str, **labels: str) -> None:
        """Wait until a figure of the first node has come to a value. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                if await self.metric(name, **labels) == value:
                    return
                await asyncio.sleep(POLL_SECONDS)

    def token(self, room: str, identity: str, metadata: dict[str, object]) -> str:
        """A caller's ticket to a room, which sends an agent there too."""
        token = api.AccessToken(API_KEY, API_SECRET).with_identity(identity)
        token = token.with_grants(api.VideoGrants(room_join=True, room=room))
        sent = api.RoomAgentDispatch(agent_name="voxplane", metadata=json.dumps(metadata))
        return token.with_room_config(api.RoomConfiguration(agents=[sent])).to_jwt()

    async def __aenter__(self) -> Stage:
        self.secrets.mkdir()
        try:
            await self._open()
        except BaseException:
            await self._held.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._held.aclose()

    async def _open(self) -> None:
        await self._held.enter_async_context(self.network)
        programs = (self.livekit, self.vendors_program, self.control)
        for program in programs:
            self._held.push_async_callback(program.kill_if_running)
        self._held.push_async_callback(self.node.kill_if_running)
        self._http = {name: await self._client(name) for name in self._doors}
        self.channel = await self._held.enter_async_context(
            grpc.aio.insecure_channel(f"unix:{self._doors['control']}")
        )
        await self.vendors_program.start()
        self.vendors = await self._held.enter_async_context(VendorsClient(self._vendors_socket))
        self._held.push_async_callback(self.callers.stop)
        await asyncio.gather(self.start_livekit(), self.start_control())
        await asyncio.gather(self.callers.start(), self.start_node())

    async def _client(self, door: str) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self._doors[door]))
        return await self._held.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def _answers(self, program: Program, door: str) -> None:
        """Wait until a program answers HTTP."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                try:
                    async with self._http[door].get("http://inside/"):
                        return
                except aiohttp.ClientError:
                    if not program.running:
                        raise program.failure("does not come up") from None
                    await asyncio.sleep(POLL_SECONDS)

    def _python(self, name: str, *words: object, piped: bool = False, **environment: str) -> Program:
        return self._program(name, sys.executable, *map(str, words), piped=piped, **environment)

    def _program(self, name: str, *words: str, piped: bool = False, **environment: str) -> Program:
        return Program(
            name, words, namespace=self.network, folder=self.folder, environment=environment, piped=piped
        )


def _livekit_config() -> str:
    """Without a STUN server of its own each client would ask a public one."""
    return json.dumps(
        {
            "port": LIVEKIT_PORT,
            "bind_addresses": ["127.0.0.1"],
            "keys": {API_KEY: API_SECRET},
            "logging": {"json": True, "level": "info"},
            "rtc": {
                "node_ip": ADDRESS,
                "use_external_ip": False,
                "udp_port": MEDIA_PORT,
                "tcp_port": 0,
                "stun_servers": [f"127.0.0.1:{MEDIA_PORT}"],
            },
        }
    )
