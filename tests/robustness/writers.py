"""Callers that change and read agents, and repeat what they got no answer to."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from google.protobuf.message import Message

from tests.robustness.answers import at_of, reason
from tests.robustness.history import Operation, Recorder
from tests.robustness.watcher import connect
from voxplane.v1 import agent_pb2
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

CALL_SECONDS_MAX = 2.0
ATTEMPTS_MAX = 6
GIVE_UP_SHARE = 0.2
"""How often a caller does not ask again after an unknown outcome."""
PAUSE_SECONDS_MAX = 0.2
CREATES_FIRST = 6
"""A caller begins with so many calls of CreateAgent."""
ALIASES = ("staging", "canary")
FIELDS = ("mood", "topic", "score")
TIERS = ("gold", "tin")
_DEFINITE = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
_CALLS = (
    *(["UpdateAgentConfig"] * 40),
    *(["CreateAgent"] * 10),
    *(["GetAgent", "ListAgents", "AddSchemaField", "SetAlias", "RollbackAlias"] * 7),
    *(["DeleteAgent", "RemoveSchemaField", "SetTracing"] * 5),
    *(["UndeleteAgent"] * 15),
)


@dataclass(slots=True)
class Load:
    """Who is written to, and how fast. `padding` are characters that each
    config has beyond what it needs."""

    tenants: list[str]
    agents: list[str]
    pause_seconds: float = PAUSE_SECONDS_MAX
    padding: int = 200


class Writer:
    """One caller, who makes one call after the other."""

    def __init__(self, name: str, address: str, load: Load, recorder: Recorder, seed: int) -> None:
        self._name = name
        self._address = address
        self._load = load
        self._recorder = recorder
        self._random = random.Random(seed)
        self._number = 0
        self._etags: dict[tuple[str, str], str] = {}

    async def run(self, until: asyncio.Event) -> None:
        """Call until the event is set."""
        async with connect(self._address) as channel:
            stub = agents_grpc.AgentServiceStub(channel)
            while not until.is_set():
                await self._one(stub, until)
                await asyncio.sleep(self._random.uniform(0, self._load.pause_seconds))

    async def _one(self, stub: agents_grpc.AgentServiceAsyncStub, until: asyncio.Event) -> None:
        name = self._random.choice(_CALLS) if self._number >= CREATES_FIRST else "CreateAgent"
        request = self._request(name)
        call = getattr(stub, name)
        for _ in range(ATTEMPTS_MAX):
            operation = await self._attempt(name, request, call)
            self._recorder.put(operation)
            if operation.outcome != "unknown" or name in ("GetAgent", "ListAgents"):
                return
            if until.is_set() or self._random.random() < GIVE_UP_SHARE:
                return
            await asyncio.sleep(self._random.uniform(0, 2 * self._load.pause_seconds))

    async def _attempt(self, name: str, request: Any, call: Callable[..., Awaitable[Any]]) -> Operation:
        tenant, agent = request.tenant_id, getattr(request, "agent_id", "")
        start = self._recorder.now()
        outcome: Literal["ok", "refused", "unknown"] = "unknown"
        why, answer = "", None
        try:
            answer = await call(request, timeout=CALL_SECONDS_MAX)
            outcome = "ok"
        except grpc.aio.AioRpcError as error:
            why = reason(error)
            outcome = "refused" if error.code() in _DEFINITE or why == "ETAG_MISMATCH" else "unknown"
        shown = _agents_in(answer)
        self._etags.update({(tenant, one.agent_id): one.etag for one in shown})
        return Operation(
            start,
            self._recorder.now(),
            self._name,
            name,
            tenant,
            agent,
            outcome,
            why,
            getattr(request, "request_id", ""),
            _digest(request),
            getattr(request, "etag", ""),
            at_of(answer.revision) if answer is not None else None,
            {one.agent_id: one.etag for one in shown},
            [one.agent_id for one in shown if one.HasField("delete_time")],
        )

    def _request(self, name: str) -> Any:
        tenant = self._random.choice(self._load.tenants)
        if name == "ListAgents":
            return agents_pb2.ListAgentsRequest(tenant_id=tenant, show_deleted=True, page_size=1000)
        agent = self._random.choice(self._load.agents)
        request = getattr(agents_pb2, f"{name}Request")(tenant_id=tenant, agent_id=agent)
        if name == "GetAgent":
            return request
        self._number += 1
        request.request_id = f"{self._name}-{self._number}"
        if name != "CreateAgent" and self._random.random() < 0.2:
            request.etag = self._etags.get((tenant, agent), "")
        self._fill(name, request)
        return request

    def _fill(self, name: str, request: Any) -> None:
        match name:
            case "CreateAgent":
                request.config.llm_config.provider = "offline"
                request.config.prompt_config.instructions = self._text(request.request_id)
                request.labels["tier"] = self._random.choice(TIERS)
            case "UpdateAgentConfig":
                request.config.prompt_config.instructions = self._text(request.request_id)
                request.update_mask.paths.append("prompt_config.instructions")
                request.draft = self._random.random() < 0.15
            case "AddSchemaField":
                request.field.field_name = self._random.choice(FIELDS)
                request.field.field_type = "string"
            case "RemoveSchemaField":
                request.field_name = self._random.choice(FIELDS)
            case "SetAlias":
                request.alias = self._random.choice(ALIASES)
                request.version = self._random.randint(1, 5)
            case "SetTracing":
                request.enabled = self._random.random() < 0.5
            case _:
                pass

    def _text(self, request_id: str) -> str:
        return f"Say {request_id}. " + "x" * self._random.randint(0, self._load.padding)


def _agents_in(answer: Any) -> list[agent_pb2.Agent]:
    if answer is None:
        return []
    if isinstance(answer, agents_pb2.ListAgentsResponse):
        return list(answer.agents)
    return [answer.agent]


def _digest(request: Message) -> str:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()[:16]
