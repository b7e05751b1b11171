"""Sessions of a node to test with."""

from __future__ import annotations

from typing import Any

from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

ACTIVE, ENDED = session_pb2.SESSION_STATE_ACTIVE, session_pb2.SESSION_STATE_ENDED
VOICE, TEXT = session_pb2.SESSION_KIND_VOICE, session_pb2.SESSION_KIND_TEXT
FAILED, NODE_STOPPED = session_pb2.SESSION_OUTCOME_FAILED, session_pb2.SESSION_OUTCOME_NODE_STOPPED
CALLER_LEFT = session_pb2.SESSION_OUTCOME_CALLER_LEFT
OPERATOR_ENDED = session_pb2.SESSION_OUTCOME_OPERATOR_ENDED
START = 1_700_000_000


def session(session_id: str = "s1", sequence: int = 1, **fields: Any) -> session_pb2.Session:
    """A session of acme that began at START."""
    made = session_pb2.Session(
        tenant_id="acme", session_id=session_id, agent_id="a", node_id="n1", kind=VOICE, sequence=sequence
    )
    made.start_time.FromSeconds(START)
    made.state = ACTIVE
    made.MergeFrom(session_pb2.Session(**fields))
    return made


def ended(session_id: str = "s1", sequence: int = 9, outcome: Any = CALLER_LEFT) -> session_pb2.Session:
    """A session that is over."""
    return session(session_id, sequence, state=ENDED, outcome=outcome)


def turns(*numbers: int, **fields: Any) -> list[session_pb2.SessionTurn]:
    """Turns of the agent."""
    return [session_pb2.SessionTurn(turn=number, agent_id="a", version=1, **fields) for number in numbers]


def report(record: session_pb2.Session, *numbers: int, **fields: Any) -> pb2.SessionReport:
    """A session with turns that are new."""
    return pb2.SessionReport(session=record, turns=turns(*numbers, **fields))


def hello(session_id: str = "s1", **fields: Any) -> relay_pb2.JobHello:
    """A call's process, in a room."""
    caller = relay_pb2.CallerContext(tenant_id="acme", agent_id="a", session_id=session_id)
    made = relay_pb2.JobHello(caller=caller, pid=7, kind=VOICE, room="room 1", job_id="job 1")
    made.MergeFrom(relay_pb2.JobHello(**fields))
    return made


def end_command(session_id: str = "s1", command_id: str = "c1") -> pb2.SessionCommand:
    """EndSession, with a goodbye."""
    return pb2.SessionCommand(
        command_id=command_id,
        session=pb2.SessionKey(tenant_id="acme", session_id=session_id),
        end=pb2.EndSessionAction(reason="enough"),
    )


def trace_command(session_id: str = "s1", command_id: str = "c2") -> pb2.SessionCommand:
    """SetSessionTracing."""
    return pb2.SessionCommand(
        command_id=command_id, session=pb2.SessionKey(tenant_id="acme", session_id=session_id), trace=True
    )
