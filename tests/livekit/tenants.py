"""A tenant of a test's own: its keys, its agents and its calls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from google.protobuf import field_mask_pb2

from tests.livekit.calls import Call
from tests.livekit.stage import Stage
from voxplane.v1 import agent_pb2, session_pb2, session_service_pb2
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import session_service_pb2_grpc as sessions_grpc
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.schema_pb2 import SchemaField

AGENT = "interviewer"
FIELDS_METHOD = "voxplane.fields"
TOPICS = ["lk.transcription", FIELDS_METHOD]
ENDPOINTING_SECONDS = 0.1
KEYS = ("deepgram", "openai", "voice", "langfuse_public", "langfuse_secret")


class Tenant:
    """One tenant on a stage. `keys` holds its API keys, which no other has."""

    def __init__(self, stage: Stage, tenant_id: str) -> None:
        self.stage = stage
        self.tenant_id = tenant_id
        self.keys: dict[str, str] = {}
        self.agents = agents_grpc.AgentServiceStub(stage.channel)
        self.sessions = sessions_grpc.SessionServiceStub(stage.channel)
        self._rooms = itertools.count(1)
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
        """Make an agent; its first version."""
        made = await self.agents.CreateAgent(
            agents_pb2.CreateAgentRequest(tenant_id=self.tenant_id, agent_id=agent_id, config=config)
        )
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
        room = f"{self.tenant_id}-{next(self._rooms)}"
        call = self.stage.callers.call(room, self.hears)
        metadata: dict[str, object] = {"tenant": self.tenant_id, "agent": agent_id}
        metadata |= {"user": user} if user else {}
        metadata |= {"variables": dict(variables)} if variables else {}
        token = self.stage.token(room, f"{self.tenant_id}-caller", metadata)
        await call.join(token, methods=list(methods), topics=TOPICS)
        await call.agent("listening")
        return call

    async def hears(self, words: str) -> None:
        """The tenant's next utterance is heard as these words."""
        await self.stage.vendors.hear(words, key=self.keys["deepgram"])

    async def session(self, session_id: str) -> session_service_pb2.GetSessionResponse:
        """A session as the control plane has it. Raises grpc.RpcError."""
        return await self.sessions.GetSession(
            session_service_pb2.GetSessionRequest(tenant_id=self.tenant_id, session_id=session_id)
        )

    async def listed(self) -> list[session_pb2.Session]:
        """The tenant's sessions, the newest first."""
        answer = await self.sessions.ListSessions(
            session_service_pb2.ListSessionsRequest(tenant_id=self.tenant_id)
        )
        return list(answer.sessions)
