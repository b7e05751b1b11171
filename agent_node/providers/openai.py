"""OpenAI, and everything that speaks its protocol: LLM and TTS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import openai
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from livekit.agents.llm import ChatContext, Tool, ToolChoice
from livekit.plugins import openai as plugin

from agent_node.providers.arguments import Arguments
from agent_node.providers.context import BuildContext, ClientPool
from agent_node.providers.models import REALTIME
from voxplane.v1.agent_config_pb2 import LlmConfig, RealtimeConfig, TtsConfig

BASE_URL = "https://api.openai.com/v1"
API_KEY = "env:OPENAI_API_KEY"
LLM_MODEL = "gpt-4.1"
TTS_MODEL = "gpt-4o-mini-tts"
TTS_VOICE = "ash"

TIMEOUT_SECONDS = 20.0
RETRIES = 2
RETRY_INTERVAL_SECONDS = 0.5


class OpenAILLM(plugin.LLM):
    """The plugin's LLM on a shared client, with the config's timeout and retries.

    The plugin takes both from the session with each request, so that the
    client's own count for nothing.
    """

    def __init__(
        self, *, pool: ClientPool, client: openai.AsyncClient, conn_options: APIConnectOptions, **options: Any
    ) -> None:
        super().__init__(client=client, **options)
        self._pool: ClientPool | None = pool
        self._conn_options = conn_options

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        response_format: NotGivenOr[Any] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> Any:
        """A streamed reply; `conn_options` of the caller do not count."""
        return super().chat(
            chat_ctx=chat_ctx,
            tools=tools,
            conn_options=self._conn_options,
            parallel_tool_calls=parallel_tool_calls,
            tool_choice=tool_choice,
            response_format=response_format,
            extra_kwargs=extra_kwargs,
        )

    async def aclose(self) -> None:
        """Give the client back. Does nothing the second time."""
        await super().aclose()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.release(self._client)


class OpenAITTS(plugin.TTS):
    """The plugin's TTS on a shared client."""

    def __init__(
        self, *, pool: ClientPool, client: openai.AsyncClient, instructions: str, **options: Any
    ) -> None:
        super().__init__(client=client, instructions=instructions or NOT_GIVEN, **options)
        self._pool: ClientPool | None = pool
        self._instructions = instructions

    def set_instructions(self, instructions: str) -> None:
        """How to speak from the next synthesis on; empty means the config's own."""
        self._opts = replace(self._opts, instructions=instructions or self._instructions or None)

    async def aclose(self) -> None:
        """Give the client back. Does nothing the second time."""
        await super().aclose()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.release(self._client)


def build_realtime(config: RealtimeConfig, context: BuildContext, path: str) -> REALTIME:
    """OpenAI's realtime model, on the job's HTTP session."""
    given = Arguments(plugin.realtime.RealtimeModel, "openai.realtime.RealtimeModel", path)
    given.own(
        api_key=context.secrets.resolve(config.api_key or API_KEY, f"{path}.api_key"),
        http_session=context.http_session(),
    )
    given.field("model", config.model or None, "model")
    given.field("voice", config.voice or None, "voice")
    given.field("base_url", config.base_url or BASE_URL, "base_url")
    given.options(config.options, context.secrets)
    return plugin.realtime.RealtimeModel(**given.finish())


def build_llm(config: LlmConfig, context: BuildContext) -> OpenAILLM:
    """OpenAI's LLM."""
    client = _client(config, context, "llm_config")
    timeout = config.timeout.ToNanoseconds() / 1e9 if config.HasField("timeout") else TIMEOUT_SECONDS
    conn_options = APIConnectOptions(
        max_retry=config.max_retries if config.HasField("max_retries") else RETRIES,
        retry_interval=RETRY_INTERVAL_SECONDS,
        timeout=timeout,
    )
    return OpenAILLM(
        pool=context.clients,
        client=client,
        conn_options=conn_options,
        model=config.model or LLM_MODEL,
        temperature=config.temperature if config.HasField("temperature") else NOT_GIVEN,
        max_completion_tokens=config.max_output_tokens or NOT_GIVEN,
    )


def build_tts(config: TtsConfig, context: BuildContext) -> OpenAITTS:
    """OpenAI's TTS; it takes instructions."""
    client = _client(config, context, "tts_config")
    return OpenAITTS(
        pool=context.clients,
        client=client,
        instructions=config.instructions,
        model=config.model or TTS_MODEL,
        voice=config.voice or TTS_VOICE,
        speed=config.speed if config.HasField("speed") else 1.0,
        response_format="wav",
    )


def _client(config: LlmConfig | TtsConfig, context: BuildContext, block: str) -> openai.AsyncClient:
    key = context.secrets.resolve(config.api_key or API_KEY, f"{block}.api_key")
    return context.clients.acquire(config.base_url or BASE_URL, key)
