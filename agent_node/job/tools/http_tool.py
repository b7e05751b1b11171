"""An HTTP tool of a config, as a function that a model may call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema.protocols import Validator
from livekit.agents.llm import RawFunctionTool, function_tool
from multidict import CIMultiDict

from agent_node.job.tools.calls import Calls, ToolFailed
from agent_node.job.tools.http_client import ANSWER_BYTES_MAX, TOO_LARGE, HttpAnswer, HttpClient, HttpRequest
from agent_node.job.tools.template import ArgumentRefused, rest_of, target_of
from agent_node.providers import SecretResolver
from voxplane.errors import Violation, VoxplaneError
from voxplane.tool_schemas import parameters_of, problem_of, validator_of
from voxplane.tool_urls import ToolUrl, split_url
from voxplane.tools import METHODS_WITHOUT_BODY, method_of
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.tool_pb2 import HttpTool

TIMEOUT_SECONDS = 10.0
ARGUMENTS_BYTES_MAX = 32 * 1024
ERROR_CHARS_MAX = 1_000
"""Of an answer that says what went wrong."""

INVALID_ARGUMENTS = "invalid_arguments"

_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")

Tool = RawFunctionTool[..., Any]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A tool's part that no call changes."""

    tool: HttpTool
    url: ToolUrl
    validator: Validator
    secret_headers: Mapping[str, str] = field(repr=False)
    seconds: float

    def request(self, arguments: Mapping[str, Any]) -> HttpRequest:
        """The request of a call. Raises ArgumentRefused."""
        _check_size(arguments)
        if (said := problem_of(arguments, self.validator)) is not None:
            raise ArgumentRefused(said)
        method = method_of(self.tool)
        headers, body = CIMultiDict({"Accept": "application/json, text/*"}), None
        if method not in METHODS_WITHOUT_BODY:
            headers["Content-Type"] = "application/json"
            body = json.dumps(rest_of(self.url, arguments)).encode()
        headers.update(self.tool.headers)
        return HttpRequest(
            method=method,
            origin=self.url.origin,
            target=target_of(self.url, arguments, rest_in_query=body is None),
            headers=headers,
            secret_headers=self.secret_headers,
            body=body,
            seconds=self.seconds,
            redirect_hosts=frozenset(host.lower() for host in self.tool.redirect_hosts),
        )


def http_tool(
    tool: HttpTool, path: str, secrets: SecretResolver, *, client: HttpClient, calls: Calls
) -> Tool:
    """The function of a tool that stands at `path` in the config. Raises
    VoxplaneError: SECRET_UNAVAILABLE or BUILD_FAILED."""
    parameters = parameters_of(tool)
    endpoint = _Endpoint(
        tool=tool,
        url=_url(tool, path),
        validator=validator_of(parameters),
        secret_headers=secret_headers(tool.secret_headers, f"{path}.secret_headers", secrets),
        seconds=tool.timeout.ToNanoseconds() / 1e9 if tool.HasField("timeout") else TIMEOUT_SECONDS,
    )

    async def call(raw_arguments: dict[str, Any]) -> str:
        return await calls.run(tool.name, "http", _call(endpoint, client, raw_arguments))

    schema = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return function_tool(call, raw_schema=schema)


def secret_headers(headers: Mapping[str, str], path: str, secrets: SecretResolver) -> dict[str, str]:
    """The headers with the secrets that they refer to. Raises VoxplaneError."""
    made: dict[str, str] = {}
    for name in sorted(headers):
        word, _, reference = headers[name].rpartition(" ")
        value = secrets.resolve(reference, f"{path}.{name}")
        if not _HEADER_VALUE.fullmatch(value):
            said = "the secret holds what a header cannot"
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE,
                f"{path}.{name}: {said}",
                violations=[Violation(f"{path}.{name}", said)],
            )
        made[name] = f"{word} {value}" if word else value
    return made


async def _call(endpoint: _Endpoint, client: HttpClient, arguments: Mapping[str, Any]) -> str:
    try:
        request = endpoint.request(arguments)
    except ArgumentRefused as refused:
        raise ToolFailed(INVALID_ARGUMENTS, f"The arguments cannot be used. {refused}") from None
    return _said(await client.send(request))


def _said(answer: HttpAnswer) -> str:
    if not 200 <= answer.status < 300:
        raise ToolFailed(f"http_{answer.status}", f"HTTP {answer.status}: {_short(answer.text)}".rstrip(": "))
    if not answer.whole:
        raise ToolFailed(TOO_LARGE, f"The answer has more than {ANSWER_BYTES_MAX} bytes. Ask for less.")
    return answer.text or f"Done (HTTP {answer.status}, without content)."


def _short(text: str) -> str:
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[:ERROR_CHARS_MAX]}…"


def _check_size(arguments: Mapping[str, Any]) -> None:
    try:
        size = len(json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError):
        raise ArgumentRefused("They are not JSON.") from None
    if size > ARGUMENTS_BYTES_MAX:
        raise ArgumentRefused(f"They have more than {ARGUMENTS_BYTES_MAX} bytes.")


def _url(tool: HttpTool, path: str) -> ToolUrl:
    try:
        return split_url(tool.url)
    except ValueError as error:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_BUILD_FAILED,
            f"{path}.url: {error}",
            violations=[Violation(f"{path}.url", str(error))],
        ) from None
