"""A tenant of a test's own: its keys, its agents and its calls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from google.protobuf import field_mask_pb2

from tests.livekit.calls import Call
from tests.livekit.stage import Stage
from voxplane.v1 import agent_pb2, session_pb2
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc
from voxplane.v1 import session_service_pb2 as sessions_pb2
from voxplane.v1 import session_service_pb2_grpc as sessions_grpc
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.schema_pb2 import SchemaField

AGENT = "interviewer"
FIELDS_METHOD = "voxplane.fields"
TOPICS = ["lk.transcription", FIELDS_METHOD]
ENDPOINTING_SECONDS = 0.5
SESSION_SECONDS_MAX = 40.0
CONVERGENCE_SECONDS_MAX = 40
KEYS = ("deepgram", "openai", "voice", "langfuse_public", "langfuse_secret")

Found = TypeVar("Found")


class Tenant:
    """One tenant on a stage. `keys` holds its API keys, which no other has."""

    def __init__(self, stage: Stage, tenant_id: str) -> None:
        self.stage = stage
        self.tenant_id = tenant_id
        self.keys: dict[str, str] = {}
        self.agents = agents_grpc.AgentServiceStub(stage.channel)
        self.nodes = nodes_grpc.NodeServiceStub(stage.channel)
        self.sessions = sessions_grpc.SessionServiceStub(stage.channel)
        self._rooms = itertools.count(1)
        self._calls: list[Call] = []
        for name in KEYS:
            self.keys[name] = key = f"{tenant_id}-{name}-key-of-a-test"
            (stage.secrets / f"{tenant_id}-{name}").write_text(key)

    def reference(self, name: str) -> str:
        """The reference to a key, for configs."""
        return f"file:{self.stage.secrets / f'{self.tenant_id}-{name}'}"

    def config(self, *fields: SchemaField, instructions: str = "You ask.") -> AgentConfig:
        """A config of Deepgram's ears, OpenAI's model and OpenAI's voice."""
        config = AgentConfig()
        config.prompt_config.instructions = instructions
        config.schema_config.fields.extend(fields)
        stt, llm, tts = config.stt_config, config.llm_config, config.tts_config
        url = self.stage.vendors_url
        stt.provider, stt.model, stt.language = "deepgram", "nova-3", "en-US"
        stt.base_url, stt.api_key = f"{url}/v1/listen", self.reference("deepgram")
        llm.provider, llm.model = "openai", "gpt-4.1"
        llm.base_url, llm.api_key = f"{url}/v1", self.reference("openai")
        tts.provider, tts.model, tts.voice = "openai", "gpt-4o-mini-tts", "alloy"
        tts.base_url, tts.api_key = f"{url}/v1", self.reference("voice")
        turn = config.turn_config
        turn.min_endpointing_delay.FromMilliseconds(round(ENDPOINTING_SECONDS * 1000))
        turn.max_endpointing_delay.FromMilliseconds(round(ENDPOINTING_SECONDS * 1000))
        return config

    async def create(self, config: AgentConfig, agent_id: str = AGENT) -> agent_pb2.AgentVersion:
        """Make an agent, and wait until the node can take its calls; its first version."""
        made = await self.agents.CreateAgent(
            agents_pb2.CreateAgentRequest(tenant_id=self.tenant_id, agent_id=agent_id, config=config)
        )
        wait = nodes_pb2.WaitForConvergenceRequest(tenant_id=self.tenant_id, min_nodes=1)
        wait.timeout.FromSeconds(CONVERGENCE_SECONDS_MAX)
        assert (await self.nodes.WaitForConvergence(wait)).converged
        return made.version

    async def update(
        self, config: AgentConfig, *paths: str, agent_id: str = AGENT
    ) -> agents_pb2.UpdateAgentConfigResponse:
        """Make a version with these fields of the config changed, and move `live` to it."""
        return await self.agents.UpdateAgentConfig(
            agents_pb2.UpdateAgentConfigRequest(
                tenant_id=self.tenant_id,
                agent_id=agent_id,
                config=config,
                update_mask=field_mask_pb2.FieldMask(paths=paths),
            )
        )

    async def call(
        self,
        agent_id: str = AGENT,
        *,
        user: str = "",
        variables: Mapping[str, str] | None = None,
        methods: tuple[str, ...] = (FIELDS_METHOD,),
    ) -> Call:
        """A caller in a room with the agent, which listens."""
        call = self.line()
        token = self.ticket(call, agent_id, user=user, variables=variables)
        await call.join(token, methods=list(methods), topics=TOPICS)
        await call.agent("listening")
        return call

    def line(self) -> Call:
        """A call to a room of its own, which is not joined."""
        call = self.stage.callers.call(f"{self.tenant_id}-{next(self._rooms)}", self.hears)
        self._calls.append(call)
        return call

    async def hang_up(self) -> None:
        """End all calls that have not ended."""
        for call in self._calls:
            if call.joined:
                await call.hang_up()

    def ticket(
        self, call: Call, agent_id: str, *, user: str = "", variables: Mapping[str, str] | None = None
    ) -> str:
        """The caller's ticket to the room, which sends the agent there too."""
        metadata: dict[str, object] = {"tenant": self.tenant_id, "agent": agent_id}
        metadata |= {"user": user} if user else {}
        metadata |= {"variables": dict(variables)} if variables else {}
        return self.stage.token(call.room, f"{self.tenant_id}-caller", metadata)

    async def hears(self, words: str) -> None:
        """The tenant's next utterance is heard as these words."""
        await self.stage.vendors.hear(words, key=self.keys["deepgram"])

    async def session(
        self, session_id: str = "", *, state: session_pb2.SessionState = session_pb2.SESSION_STATE_ACTIVE
    ) -> session_pb2.Session:
        """The session, or the tenant's newest, once it is in the state."""

        async def look() -> session_pb2.Session | None:
            request = sessions_pb2.ListSessionsRequest(tenant_id=self.tenant_id, state=state)
            found = (await self.sessions.ListSessions(request)).sessions
            return next((each for each in found if session_id in ("", each.session_id)), None)

        return await self._when(look)

    async def turns(self, session_id: str, count: int) -> list[session_pb2.SessionTurn]:
        """The session's turns, once the control plane has so many."""

        async def look() -> list[session_pb2.SessionTurn] | None:
            request = sessions_pb2.GetSessionRequest(tenant_id=self.tenant_id, session_id=session_id)
            found = (await self.sessions.GetSession(request)).turns
            return list(found) if len(found) >= count else None

        return await self._when(look)

    async def _when(self, look: Callable[[], Awaitable[Found | None]]) -> Found:
        """What `look` finds; it is asked again whenever a session has changed."""
        watching = self.sessions.WatchSessions(sessions_pb2.WatchSessionsRequest(tenant_id=self.tenant_id))
        try:
            async with asyncio.timeout(SESSION_SECONDS_MAX):
                async for _ in watching:
                    if (found := await look()) is not None:
                        return found
            raise AssertionError("the control plane has ended the watch")
        finally:
            watching.cancel()
