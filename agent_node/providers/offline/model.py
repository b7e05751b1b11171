"""The offline language model, as LiveKit sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr, llm
from livekit.agents.llm import ChatContext, Tool, ToolChoice

from agent_node.providers.offline.reply import Situation, plain_reply, structured_reply

CHUNK_CHARS = 6
_SYSTEM = ("system", "developer")


class OfflineLLM(llm.LLM[Any]):
    """Streams a reply that is a pure function of the chat, the schema and the settings.

    A reply is cut after `chunks_max` chunks, as a model is after so many
    tokens. `pause` is awaited before each chunk.
    """

    def __init__(
        self,
        *,
        model: str,
        temperature: float | None = None,
        chunks_max: int | None = None,
        pause: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self._temperature = temperature
        self.chunks_max = chunks_max
        self.pause = pause

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def provider(self) -> str:
        """Always `offline`."""
        return "offline"

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> llm.LLMStream:
        """A streamed reply; JSON by the schema in extra_kwargs["response_format"], else text."""
        situation = _situation(chat_ctx, self._model, self._temperature)
        schema = _schema(extra_kwargs or {})
        text = plain_reply(situation) if schema is None else structured_reply(schema, situation)
        return _Stream(self, text, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _Stream(llm.LLMStream):
    def __init__(
        self,
        model: OfflineLLM,
        text: str,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool],
        conn_options: APIConnectOptions,
    ) -> None:
        super().__init__(model, chat_ctx=chat_ctx, tools=tools, conn_options=conn_options)  # pyright: ignore[reportUnknownMemberType]
        self._text = text
        self._chunks_max = model.chunks_max
        self._pause = model.pause

    async def _run(self) -> None:
        chunks = [self._text[i : i + CHUNK_CHARS] for i in range(0, len(self._text), CHUNK_CHARS)]
        chunks = chunks[: self._chunks_max]
        for chunk in chunks:
            if self._pause is not None:
                await self._pause()
            delta = llm.ChoiceDelta(role="assistant", content=chunk)
            self._event_ch.send_nowait(llm.ChatChunk(id="offline", delta=delta))
        prompt = sum(len(message.text_content or "") for message in self._chat_ctx.messages()) // CHUNK_CHARS
        usage = llm.CompletionUsage(
            completion_tokens=len(chunks), prompt_tokens=prompt, total_tokens=prompt + len(chunks)
        )
        self._event_ch.send_nowait(llm.ChatChunk(id="offline", usage=usage))


def _situation(chat_ctx: ChatContext, model: str, temperature: float | None) -> Situation:
    messages = chat_ctx.messages()
    instructions = next((m.text_content or "" for m in messages if m.role in _SYSTEM), "")
    said = [m.text_content or "" for m in messages if m.role == "user"]
    return Situation(
        model=model,
        temperature=temperature,
        instructions=instructions,
        user=said[-1] if said else "",
        turn=len(said),
    )


def _schema(extra: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted: Any = extra.get("response_format")
    if not isinstance(wanted, dict) or cast("dict[str, Any]", wanted).get("type") != "json_schema":
        return None
    return cast("dict[str, Any]", wanted["json_schema"]["schema"])
