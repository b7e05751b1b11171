"""HTTP tools, called as LiveKit calls them, against servers on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from livekit.agents.llm import RawFunctionTool
from structlog.testing import capture_logs
from yarl import URL

from agent_node.job.tools import ToolCall, build_tools
from agent_node.job.tools.addresses import Gate, private_hosts
from agent_node.job.tools.calls import ToolFailed
from agent_node.job.tools.http_client import ANSWER_BYTES_MAX, REDIRECTS_MAX, HttpRequest, next_url
from agent_node.job.tools.http_tool import ERROR_CHARS_MAX
from agent_node.providers import new_context
from tests.unit.job.tool_world import SECRET, Names, Site, call, gate_to, secrets, site, tool, tool_set
from voxplane.errors import VoxplaneError
from voxplane.tool_urls import Origin
from voxplane.v1.agent_config_pb2 import AgentConfig

BEARER = {"Authorization": "Bearer env:CRM_TOKEN"}


@pytest.fixture
async def crm() -> AsyncIterator[Site]:
    """The server that the config names."""
    async with site("crm.test", "127.0.0.2") as made:
        yield made


@pytest.fixture
async def other() -> AsyncIterator[Site]:
    """Another one."""
    async with site("other.test", "127.0.0.3") as made:
        yield made


def answering(
    body: bytes | str, *, status: int = 200, content_type: str = "application/json", **headers: str
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler with one answer."""
    content = body.encode() if isinstance(body, str) else body
    all_headers = {"Content-Type": content_type, **{k.replace("_", "-"): v for k, v in headers.items()}}

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, status=status, headers=all_headers)

    return answer


def moving(status: int, to: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that redirects what does not come to /new."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/new":
            return web.json_response({"moved": True})
        return web.Response(status=status, headers={"Location": to})

    return answer


async def test_a_get_has_its_parameters_in_path_and_query(crm: Site) -> None:
    """What the address names is in its place, the rest is the query, and the
    model gets the body."""
    made = tool(f"{crm.url}/orders/{{id}}?view=all", method="GET", headers={"X-Shop": "north"})
    async with tool_set(made, gate=gate_to(crm)) as tools:
        assert json.loads(await call(tools, id="a b", note="x&y")) == {"name": "crm.test"}
    (seen,) = crm.seen
    assert (seen.method, seen.target, seen.body) == ("GET", "/orders/a%20b?view=all&note=x%26y", b"")
    assert seen.headers["X-Shop"] == "north"


@pytest.mark.parametrize("method", ["", "POST", "PUT", "PATCH"])
async def test_a_body_is_a_json_object_of_the_rest(crm: Site, method: str) -> None:
    """Methods with a body have there what the address does not name; POST is
    what a tool does without a method."""
    async with tool_set(tool(f"{crm.url}/orders/{{id}}", method=method), gate=gate_to(crm)) as tools:
        await call(tools, id="7", note="é")
    (seen,) = crm.seen
    assert (seen.method, seen.target, json.loads(seen.body)) == (method or "POST", "/orders/7", {"note": "é"})
    assert seen.headers["Content-Type"] == "application/json"


async def test_an_author_may_say_what_is_sent_and_wanted(crm: Site) -> None:
    """Content-Type and Accept of the config take the place of the usual ones,
    however they are written."""
    said = {"content-type": "application/vnd.api+json", "accept": "application/vnd.api+json"}
    async with tool_set(tool(f"{crm.url}/orders/{{id}}", headers=said), gate=gate_to(crm)) as tools:
        await call(tools, id="7")
    sent = [(name.lower(), value) for name, value in crm.seen[0].headers.items()]
    assert sorted(each for each in sent if each[0] in said) == sorted(said.items())


async def test_a_delete_has_no_body(crm: Site) -> None:
    """DELETE has its parameters in the query, and an empty answer says so."""
    crm.answer = answering(b"", status=204)
    async with tool_set(tool(f"{crm.url}/orders/{{id}}", method="DELETE"), gate=gate_to(crm)) as tools:
        assert await call(tools, id="7", note="late") == "Done (HTTP 204, without content)."
    assert (crm.seen[0].target, crm.seen[0].body) == ("/orders/7?note=late", b"")


async def test_a_secret_header_is_sent_and_never_shown(crm: Site) -> None:
    """The server gets the secret behind its word; no log, figure or error has it,
    nor an argument, nor an answer."""
    crm.answer = answering("answer-of-the-caller", status=500, content_type="text/plain")
    calls: list[ToolCall] = []
    made = tool(f"{crm.url}/o/{{id}}", secret_headers={**BEARER, "X-Key": "env:CRM_TOKEN"})
    with capture_logs() as logs:
        async with tool_set(made, gate=gate_to(crm), on_call=calls.append) as tools:
            with pytest.raises(ToolFailed) as failed:
                await call(tools, id="argument-of-the-caller")
            shown = repr((logs, calls, tools))
    assert crm.seen[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert crm.seen[0].headers["X-Key"] == SECRET
    assert SECRET not in f"{shown}{failed.value.message}"
    assert "of-the-caller" not in shown
    assert [(each["tool"], each["kind"], each["status"]) for each in logs] == [
        ("look_up", "http", "http_500")
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "'id' is a required property"),
        ({"id": 7}, "id: 7 is not of type 'string'"),
        ({"id": "7", "admin": True}, "Additional properties are not allowed"),
        ({"id": "../x"}, "id must not hold slashes"),
        ({"id": "x" * 40_000}, "more than 32768 bytes"),
        ({"id": "x", "note": float("nan")}, "not JSON"),
        ({"id": "x", "note": "\ud800"}, "not JSON"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model_and_sent_to_nobody(
    crm: Site, arguments: dict[str, object], said: str
) -> None:
    """Arguments that break the schema make an error that says where, and no request."""
    calls: list[ToolCall] = []
    async with tool_set(tool(f"{crm.url}/o/{{id}}"), gate=gate_to(crm), on_call=calls.append) as tools:
        with pytest.raises(ToolFailed, match="cannot be used") as failed:
            await call(tools, **arguments)
    assert said in failed.value.message
    assert len(failed.value.message) < 500
    assert crm.seen == []
    assert [each.message for each in calls] == ["look_up: invalid_arguments"]


async def test_a_failure_of_the_server_is_told_with_its_beginning(crm: Site) -> None:
    """The model reads the status and so much of the body that it can go on."""
    crm.answer = answering(json.dumps({"error": "no such order", "more": "x" * 5_000}), status=404)
    async with tool_set(tool(f"{crm.url}/o/{{id}}"), gate=gate_to(crm)) as tools:
        with pytest.raises(ToolFailed, match=r'^HTTP 404: \{"error": "no such order"') as failed:
            await call(tools, id="7")
    assert failed.value.status == "http_404"
    assert len(failed.value.message) < ERROR_CHARS_MAX + 50


async def test_an_answer_is_bounded_as_it_is_unpacked(crm: Site) -> None:
    """What is larger than the bound is an error, sent plainly or packed a
    thousandfold; what is packed and small is read."""
    made = tool(f"{crm.url}/o/{{id}}")
    async with tool_set(made, gate=gate_to(crm)) as tools:
        crm.answer = answering("x" * ANSWER_BYTES_MAX, content_type="text/plain")
        assert len(await call(tools, id="7")) == ANSWER_BYTES_MAX
        crm.answer = answering("x" * (ANSWER_BYTES_MAX + 1), content_type="text/plain")
        with pytest.raises(ToolFailed, match="more than"):
            await call(tools, id="7")
        bomb = gzip.compress(b"x" * 64_000_000)
        crm.answer = answering(bomb, content_type="text/plain", Content_Encoding="gzip")
        with pytest.raises(ToolFailed, match="more than"):
            await call(tools, id="7")
        crm.answer = answering(gzip.compress(b'{"a": 1}'), Content_Encoding="gzip")
        assert await call(tools, id="7") == '{"a": 1}'
        crm.answer = answering(zlib.compress(b'{"a": 2}'), Content_Encoding="deflate")
        assert await call(tools, id="7") == '{"a": 2}'


@pytest.mark.parametrize(
    "answer",
    [
        answering(b"\x89PNG", content_type="image/png"),
        answering(b"no gzip", Content_Encoding="gzip"),
        answering(b"x", Content_Encoding="br"),
    ],
    ids=["image", "broken", "encoding"],
)
async def test_an_answer_that_is_no_text_is_an_error(
    crm: Site, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    """A model gets text and JSON alone."""
    crm.answer = answer
    async with tool_set(tool(f"{crm.url}/o/{{id}}"), gate=gate_to(crm)) as tools:
        with pytest.raises(ToolFailed) as failed:
            await call(tools, id="7")
    assert failed.value.status == "unreadable"


async def test_text_is_read_in_its_charset(crm: Site) -> None:
    """A charset that is known is used, another is taken for UTF-8."""
    async with tool_set(tool(f"{crm.url}/o/{{id}}"), gate=gate_to(crm)) as tools:
        crm.answer = answering("é".encode("latin-1"), content_type="text/plain; charset=latin-1")
        assert await call(tools, id="7") == "é"
        crm.answer = answering("é", content_type="text/plain; charset=unicode_escape")
        assert await call(tools, id="7") == "é"


async def test_a_server_that_hangs_is_given_up(crm: Site) -> None:
    """The timeout is for the whole answer, also where bytes trickle in."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.01)

    crm.answer = trickle
    made = tool(f"{crm.url}/o/{{id}}")
    made.timeout.FromMilliseconds(80)
    async with tool_set(made, gate=gate_to(crm)) as tools:
        with pytest.raises(ToolFailed, match=r"within 0.08 s. Whether it was done is not known"):
            await call(tools, id="7")


async def test_a_server_that_is_not_there_is_an_error(crm: Site) -> None:
    """A closed port and an unknown name read the same to the model."""
    for url in ("http://crm.test:1/{id}", "http://nowhere.test/{id}"):
        async with tool_set(tool(url), gate=gate_to(crm)) as tools:
            with pytest.raises(ToolFailed, match="cannot be reached") as failed:
                await call(tools, id="7")
        assert failed.value.status == "unreachable"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fd00:ec2::254]",
        "inside.test",
    ],
)
async def test_no_request_goes_to_a_private_address(host: str) -> None:
    """A private address is refused, written as such or behind a name."""
    gate = Gate(private_hosts(""), Names({"inside.test": [["10.0.0.1", "::1"]]}))
    async with tool_set(tool(f"http://{host}/{{id}}"), gate=gate) as tools:
        with pytest.raises(ToolFailed, match="not allowed") as failed:
            await call(tools, id="7")
    assert failed.value.status == "address_refused"


async def test_hexadecimal_addresses_are_looked_through() -> None:
    """What the system takes for an address is judged as that address."""
    async with tool_set(tool("http://0x7f.1/{id}"), gate=Gate(private_hosts(""))) as tools:
        with pytest.raises(ToolFailed, match="not allowed"):
            await call(tools, id="7")


async def test_the_nodes_environment_opens_hosts(crm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gate of its own a tool set has that of the node's settings."""
    made = AgentConfig(tools=[tool(f"http://{crm.address}:{crm.port}/{{id}}")])
    context = new_context(secrets())
    closed = await build_tools(made, context)
    with pytest.raises(ToolFailed, match="not allowed"):
        await call(closed, id="7")
    monkeypatch.setenv("VOXPLANE_TOOL_PRIVATE_HOSTS", f"{crm.address}:{crm.port}")
    opened = await build_tools(made, context)
    assert await call(opened, id="7")
    for each in (closed, opened):
        await each.aclose()
    await context.aclose()


async def test_a_server_that_cannot_prove_its_name_gets_nothing(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is no connection."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.2", 0, ssl_context=self_signed(tmp_path)).start()
    made = tool(f"https://crm.test:{runner.addresses[0][1]}/{{id}}", secret_headers=BEARER)
    async with tool_set(made, gate=gate_to(Site("crm.test", "127.0.0.2"))) as tools:
        with pytest.raises(ToolFailed, match="cannot be reached"):
            await call(tools, id="7")
    await runner.cleanup()
    assert seen == []


def self_signed(folder: Path) -> ssl.SSLContext:
    """TLS for crm.test, by a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "crm.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("crm.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (folder / "own.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "own.pem")
    return context


async def test_the_address_that_was_checked_is_connected_to(crm: Site, other: Site) -> None:
    """A name is looked up once for a connection; that it would lead elsewhere
    the next time makes no difference to it."""
    names = Names({"crm.test": [["127.0.0.2"], ["127.0.0.3"]]})
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm, other, names=names)) as tools:
        await call(tools, id="7")
    assert names.asked["crm.test"] == 1
    assert (len(crm.seen), len(other.seen)) == (1, 0)


async def test_the_environment_sends_no_request_astray(crm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not used."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm)) as tools:
        await call(tools, id="7")
    assert len(crm.seen) == 1


@pytest.mark.parametrize(("method", "arrived"), [("POST", 2), ("PATCH", 2), ("GET", 3), ("PUT", 3)])
async def test_a_call_that_may_have_been_done_is_not_repeated(method: str, arrived: int) -> None:
    """A kept connection that the server closes costs a POST its call; what
    may be repeated by HTTP's own rules is sent again by another one."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            requests.append(head)
            if len(requests) == 2:
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.2", 0)
    made = Site("crm.test", "127.0.0.2", server.sockets[0].getsockname()[1])
    async with server, tool_set(tool(f"{made.url}/{{id}}", method=method), gate=gate_to(made)) as tools:
        assert await call(tools, id="7") == "ok"
        if arrived == 2:
            with pytest.raises(ToolFailed, match="cannot be reached"):
                await call(tools, id="8")
        else:
            assert await call(tools, id="8") == "ok"
    assert len(requests) == arrived


async def _head(reader: asyncio.StreamReader) -> bytes:
    """A request's head, its body read; nothing at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lengths = [line.split(b":")[1] for line in head.splitlines() if line.startswith(b"Content-Length")]
    size = lengths[0] if lengths else b"0"
    await reader.readexactly(int(size))
    return head


async def test_cookies_are_not_kept(crm: Site) -> None:
    """A server does not know that two calls are of one session."""
    crm.answer = answering("{}", Set_Cookie="who=ann")
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm)) as tools:
        await call(tools, id="7")
        await call(tools, id="8")
    assert all("Cookie" not in each.headers for each in crm.seen)


async def test_a_redirect_to_the_own_host_is_followed_with_the_secret(crm: Site) -> None:
    """The own host stays the own host."""
    crm.answer = moving(307, "/new?a=1#part")
    made = tool(f"{crm.url}/{{id}}", secret_headers=BEARER)
    async with tool_set(made, gate=gate_to(crm)) as tools:
        assert json.loads(await call(tools, id="7", note="n")) == {"moved": True}
    first, second = crm.seen
    assert (second.method, second.target, second.body) == ("POST", "/new?a=1", first.body)
    assert second.headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_post_that_was_done_is_looked_at_by_get(crm: Site, status: int) -> None:
    """These redirects repeat no POST: its result is fetched."""
    crm.answer = moving(status, "/new")
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm)) as tools:
        await call(tools, id="7", note="n")
    assert (crm.seen[1].method, crm.seen[1].body) == ("GET", b"")


async def test_a_secret_does_not_follow_a_redirect_to_another_host(crm: Site, other: Site) -> None:
    """A host of redirect_hosts gets the request without secret headers, and
    without credentials that stand in plain ones."""
    crm.answer = moving(308, f"{other.url}/new")
    made = tool(
        f"{crm.url}/{{id}}",
        secret_headers={"X-Key": "env:CRM_TOKEN"},
        headers={"Authorization": "Basic eA==", "X-Shop": "north"},
        redirect_hosts=[f"other.test:{other.port}"],
    )
    async with tool_set(made, gate=gate_to(crm, other)) as tools:
        await call(tools, id="7")
    (seen,) = other.seen
    assert seen.headers["X-Shop"] == "north"
    assert not {"X-Key", "Authorization"} & set(seen.headers)


async def test_a_redirect_elsewhere_is_refused(crm: Site, other: Site) -> None:
    """A host that is not listed gets nothing, nor one that is listed with
    another port, nor one that is private."""
    made = tool(f"{crm.url}/{{id}}", redirect_hosts=["other.test", "inside.test:81"])
    async with tool_set(made, gate=gate_to(crm, other, private="crm.test")) as tools:
        for to, status in (
            (f"{other.url}/new", "redirect_refused"),
            ("http://third.test/new", "redirect_refused"),
            ("http://169.254.169.254/new", "redirect_refused"),
            ("ftp://crm.test/new", "redirect_refused"),
            (f"http://me:word@crm.test:{crm.port}/new", "redirect_refused"),
            ("http://other.test/new", "address_refused"),
        ):
            crm.answer = moving(302, to)
            with pytest.raises(ToolFailed) as failed:
                await call(tools, id="7")
            assert failed.value.status == status, to
    assert other.seen == []


async def test_redirects_without_end_are_given_up(crm: Site) -> None:
    """A loop ends after a bound."""
    crm.answer = moving(302, "/again")
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm)) as tools:
        with pytest.raises(ToolFailed, match="more than"):
            await call(tools, id="7")
    assert len(crm.seen) == REDIRECTS_MAX + 1


def test_a_redirect_never_gives_tls_up() -> None:
    """https to http is refused on the own host too; http to https is its own."""
    request = HttpRequest("GET", Origin("https", "crm.test", 443), "/", {}, {}, None)
    with pytest.raises(ToolFailed, match="https to http"):
        next_url(request, URL("https://crm.test/"), "http://crm.test/")
    request = HttpRequest("GET", Origin("http", "crm.test", 80), "/", {}, {}, None)
    assert str(next_url(request, URL("http://crm.test/"), "https://crm.test/x")) == "https://crm.test/x"


async def test_what_runs_at_the_end_of_the_session_is_broken_off(crm: Site) -> None:
    """stop ends a call with an error for the model, and lets none begin."""
    arrived, never = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await never.wait()
        return web.Response()

    crm.answer = hang
    calls: list[ToolCall] = []
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm), on_call=calls.append) as tools:
        running = asyncio.create_task(call(tools, id="7"))
        await arrived.wait()
        tools.stop()
        for stopped in (running, call(tools, id="8")):
            with pytest.raises(ToolFailed, match="not there any more"):
                await stopped
    assert [each.status for each in calls] == ["stopped", "stopped"]
    assert len(crm.seen) == 1


async def test_a_tool_set_is_closed_when_its_calls_have_ended(crm: Site) -> None:
    """A call that runs while its tool set is replaced is answered."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await go.wait()
        return web.json_response("late")

    crm.answer = slow
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm)) as tools:
        running = asyncio.create_task(call(tools, id="7"))
        await arrived.wait()
        closing = asyncio.create_task(tools.aclose())
        go.set()
        assert await running == '"late"'
        await closing


async def test_a_call_that_is_cancelled_is_counted_as_such(crm: Site) -> None:
    """A cancellation goes through to the request, and stays a cancellation."""
    arrived = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    crm.answer = hang
    calls: list[ToolCall] = []
    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm), on_call=calls.append) as tools:
        running = asyncio.create_task(call(tools, id="7"))
        await arrived.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [each.status for each in calls] == ["cancelled"]


async def test_a_counter_that_breaks_does_not_break_the_call(crm: Site) -> None:
    """The answer reaches the model."""

    def broken(_: ToolCall) -> None:
        raise RuntimeError("the counter is broken")

    async with tool_set(tool(f"{crm.url}/{{id}}"), gate=gate_to(crm), on_call=broken) as tools:
        assert await call(tools, id="7")


@pytest.mark.parametrize(
    ("header", "value", "path"),
    [
        ("Authorization", "Bearer env:OTHER_TOKEN", "tools[0].secret_headers.Authorization"),
        ("X-Key", "env:LINES_TOKEN", "tools[0].secret_headers.X-Key"),
        ("X-Key", "env:VOXPLANE_SECRET", "tools[0].secret_headers.X-Key"),
    ],
)
async def test_a_secret_that_the_node_has_not_got_fails_the_build(header: str, value: str, path: str) -> None:
    """A missing secret, or one that no header can hold, is named by its path."""
    resolver = secrets()
    resolver.environ.update({"LINES_TOKEN": "a\nb", "VOXPLANE_SECRET": "x"})  # type: ignore[attr-defined]
    config = AgentConfig(tools=[tool("https://crm.test/{id}", secret_headers={header: value})])
    with pytest.raises(VoxplaneError) as raised:
        await build_tools(config, new_context(resolver))
    assert raised.value.reason_name == "SECRET_UNAVAILABLE"
    assert [each.field for each in raised.value.violations] == [path]


async def test_two_tools_of_one_name_fail_the_build() -> None:
    """The later one is blamed."""
    config = AgentConfig(tools=[tool("https://crm.test/{id}"), tool("https://crm.test/{id}")])
    with pytest.raises(VoxplaneError, match="two tools are called look_up") as raised:
        await build_tools(config, new_context(secrets()))
    assert [each.field for each in raised.value.violations] == ["tools[1].name"]


async def test_the_model_is_given_the_schema_as_the_author_wrote_it() -> None:
    """Whole numbers are whole, and nothing may come that is not declared."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 10, "multipleOf": 0.5}}}
    config = AgentConfig(tools=[tool("https://crm.test/", parameters=schema)])
    tools = await build_tools(config, new_context(secrets()))
    (built,) = tools.tools
    assert isinstance(built, RawFunctionTool)
    shown = built.info.raw_schema["parameters"]
    assert json.dumps(shown["properties"]["n"]["maximum"]) == "10"
    assert shown["properties"]["n"]["multipleOf"] == 0.5
    assert shown["additionalProperties"] is False
    await tools.aclose()
