"""`voxplane node`: the node as a command."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer
from pydantic import ValidationError

from agent_node.daemon import ConfigurationError, livekit_wanted, serve
from agent_node.logs import configure_logs
from agent_node.relay import SocketTaken
from agent_node.settings import load_settings

_log = structlog.stdlib.get_logger(__name__)


def command(
    server: Annotated[str | None, typer.Option(help="Address of the control plane.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the control plane's authority; turns TLS on.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the node's certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its private key.")] = None,
    node_id: Annotated[str | None, typer.Option(help="Unique name; the host's name if not given.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of cache and socket.")] = None,
    node_socket: Annotated[Path | None, typer.Option(help="The relay's socket, elsewhere.")] = None,
    only_tenant: Annotated[str | None, typer.Option(help="Serve this tenant alone.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label, as key=value; repeatable.")] = None,
    max_text_sessions: Annotated[int | None, typer.Option(help="Most text sessions at once.")] = None,
    idle_jobs: Annotated[int | None, typer.Option(help="Warm text processes.")] = None,
    max_sessions: Annotated[int | None, typer.Option(help="Most voice calls at once.")] = None,
    max_sessions_per_tenant: Annotated[
        int | None, typer.Option(help="Most voice calls of a tenant at once; 0: no limit.")
    ] = None,
    max_cpu_load: Annotated[
        float | None,
        typer.Option(help="Share of the processors from which calls are refused; above 1: never."),
    ] = None,
    idle_calls: Annotated[int | None, typer.Option(help="Warm voice processes.")] = None,
    job_memory_limit_mb: Annotated[
        int | None, typer.Option(help="Memory from which a call's process is killed; 0: no limit.")
    ] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Longest wait for calls to end.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    session_spool_mb: Annotated[
        int | None,
        typer.Option(help="Most disk for reports that the control plane does not have yet, in MiB."),
    ] = None,
    metrics_listen: Annotated[str | None, typer.Option(help="HOST:PORT of Prometheus metrics.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let others reach the metrics, without authentication.")
    ] = None,
    secret_env_names: Annotated[
        str | None, typer.Option(help="Variables that configs may refer to, as A,B.")
    ] = None,
    secret_env_suffixes: Annotated[
        str | None, typer.Option(help="Ends of the names of others that they may, as _API_KEY,_TOKEN.")
    ] = None,
    secret_dirs: Annotated[
        str | None, typer.Option(help="Folders of files that configs may refer to, as /a,/b.")
    ] = None,
    tool_private_hosts: Annotated[
        str | None, typer.Option(help="Private hosts that tools may call, as HOST,HOST:PORT.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, such as data_dir.")] = None,
) -> None:
    """Run an agent node.

    Flags win over VOXPLANE_* in the environment, these over the file. Voice
    calls are served when LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET
    are set.
    """
    flags: dict[str, object] = {
        "server": server,
        "tls_ca": tls_ca,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "node_id": node_id,
        "data_dir": data_dir,
        "node_socket": node_socket,
        "only_tenant": only_tenant,
        "labels": label or None,
        "max_text_sessions": max_text_sessions,
        "idle_jobs": idle_jobs,
        "max_sessions": max_sessions,
        "max_sessions_per_tenant": max_sessions_per_tenant,
        "max_cpu_load": max_cpu_load,
        "idle_calls": idle_calls,
        "job_memory_limit_mb": job_memory_limit_mb,
        "drain_seconds": drain_seconds,
        "log_format": log_format,
        "log_level": log_level,
        "session_spool_mb": session_spool_mb,
        "metrics_listen": metrics_listen,
        "insecure": insecure,
        "secret_env_names": secret_env_names,
        "secret_env_suffixes": secret_env_suffixes,
        "secret_dirs": secret_dirs,
        "tool_private_hosts": tool_private_hosts,
    }
    try:
        settings = load_settings(flags, config)
        livekit_wanted(os.environ)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        _fail("; ".join(lines))
    except (ConfigurationError, OSError, ValueError) as error:
        _fail(str(error))
    configure_logs(settings.log_format, settings.node_id, settings.log_level)
    try:
        asyncio.run(serve(settings))
    except (SocketTaken, ConfigurationError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except ExceptionGroup:
        _log.exception("node failed")
        raise typer.Exit(1) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"voxplane node: {message}", err=True)
    raise typer.Exit(2)
