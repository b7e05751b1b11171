"""Interceptors as one function around a call, whatever its kind."""

from __future__ import annotations

import abc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Proceed = Callable[[Any], Awaitable[Any]]


class Around(grpc.aio.ServerInterceptor, abc.ABC):
    """Calls `around` for each call of a method of ours or of gRPC's own."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    @abc.abstractmethod
    async def around(self, method: str, request: Any, context: Context, proceed: Proceed) -> Any:
        """Serve a call by `await proceed(request)`.

        `request` is a message, or an iterator of messages where the client
        streams. The result is the response, or None where the server streams.
        """

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
        if handler.response_streaming:
            outer: Callable[[Any, Context], Any] = self._streaming(method, behaviour)
        else:
            outer = self._unary(method, behaviour)
        return make(
            outer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        async def serve(request: Any, context: Context) -> Any:
            return await self.around(method, request, context, lambda passed: behaviour(passed, context))

        return serve

    def _streaming(
        self, method: str, behaviour: Callable[[Any, Context], Any]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
            async def proceed(passed: Any) -> None:
                served = behaviour(passed, context)
                if not inspect.isasyncgen(served):
                    await served
                    return
                try:
                    async for message in served:
                        await context.write(message)
                finally:
                    await served.aclose()

            await self.around(method, request, context, proceed)
            # A generator, as OpenTelemetry's interceptor takes nothing else.
            for nothing in ():
                yield nothing

        return serve


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
