"""Functions around a call, whatever its kind, as one interceptor."""

from __future__ import annotations

import abc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc


class Context(Protocol):
    """The transport's end of a call: what is used here of grpc.aio's, and what
    the fast edge has as well."""

    def invocation_metadata(self) -> Any:
        """Pairs that the client has sent."""
        ...

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Pairs that go with the status."""
        ...

    def code(self) -> Any:
        """The code that the call was aborted with."""
        ...

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status. Raises grpc.aio.AbortError."""
        ...

    async def write(self, message: Any) -> None:
        """Send a message of a server stream."""
        ...


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Proceed = Callable[[Any, Context], Awaitable[Any]]


class Around(abc.ABC):
    """Something that is done around each call of a method of ours or of
    gRPC's own."""

    @abc.abstractmethod
    async def around(self, method: str, request: Any, context: Context, proceed: Proceed) -> Any:
        """Serve a call by `await proceed(request, context)`.

        `request` is a message, or an iterator of messages where the client
        streams. The result is the response, or None where the server streams.
        """


class Chain(grpc.aio.ServerInterceptor):
    """All that is done around a call, the first outermost, as one interceptor:
    a stream holds one frame of each for as long as it is open. `generators`
    makes every server stream a generator."""

    def __init__(self, layers: Sequence[Around], *, generators: bool) -> None:
        self._layers = tuple(reversed(layers))
        self._generators = generators
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Part of grpc.aio's interface."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        inner, outer = self._wrapped.get(method, (None, None))
        if outer is None or inner is not handler:
            outer = self._wrap(method, handler)
            self._wrapped[method] = (handler, outer)
        return outer

    def _wrap(self, method: str, handler: Handler) -> Handler:
        make, behaviour = _kind(handler)
        outer = self._bind(method, behaviour)
        if handler.response_streaming:
            outer = self._bind(method, _written(behaviour))
            if self._generators:
                outer = _generator(outer)
        return make(
            outer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _bind(self, method: str, behaviour: Proceed) -> Proceed:
        return bind(self._layers, method, behaviour)


def bind(inside_out: Sequence[Around], method: str, behaviour: Proceed) -> Proceed:
    """A method with layers around it; the last is the outermost."""
    proceed = behaviour
    for layer in inside_out:
        proceed = partial(layer.around, method, proceed=proceed)
    return proceed


def _written(behaviour: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Awaitable[None]]:
    """A server stream whose messages are written to the context."""
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def serve(request: Any, context: Context) -> None:
        served = behaviour(request, context)
        try:
            async for message in served:
                await context.write(message)
        finally:
            await served.aclose()

    return serve


def _generator(serve: Callable[[Any, Context], Any]) -> Callable[[Any, Context], AsyncIterator[Any]]:
    """A generator of nothing, as OpenTelemetry's interceptor takes nothing else."""

    async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
        await serve(request, context)
        for nothing in ():
            yield nothing

    return generator


def _kind(handler: Handler) -> tuple[Callable[..., Handler], Callable[[Any, Context], Any]]:
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary  # type: ignore[return-value]
        case False, True:
            return grpc.unary_stream_rpc_method_handler, handler.unary_stream  # type: ignore[return-value]
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary  # type: ignore[return-value]
        case _:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream  # type: ignore[return-value]
