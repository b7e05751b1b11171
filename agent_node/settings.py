"""The node's settings: flags, then VOXPLANE_* environment, then a TOML file."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self, cast

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from agent_node.logs import LogFormat, LogLevel
from voxplane.names import ALL_TENANTS
from voxplane.tls import ClientTls

ENV_PREFIX = "VOXPLANE_"
PORT_MAX = 65_535
JOB_MEMORY_MB_MIN = 256
SECRET_ENV_SUFFIXES = ("_API_KEY", "_TOKEN", "_SECRET", "_KEY")
SECRET_DIRS = (Path("/run/secrets"),)

EnvName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,127}$")]
HostAndPort = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]{1,253})(:[0-9]{1,5})?$")]


class NodeSettings(BaseSettings):
    """The settings of `voxplane node`. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    server: str = "127.0.0.1:50051"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    node_id: str = Field(default_factory=socket.gethostname, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")
    data_dir: Path = Path(".voxplane")
    node_socket: Path | None = None
    only_tenant: str = Field(default=ALL_TENANTS, pattern=r"^(-|[a-z][a-z0-9_-]{0,62})$")
    labels: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict[str, str], max_length=64)
    max_text_sessions: int = Field(default=100, ge=0, le=10_000)
    idle_jobs: int = Field(default=1, ge=0, le=100)
    max_sessions: int = Field(default=100, ge=1, le=10_000)
    max_sessions_per_tenant: int = Field(default=0, ge=0, le=10_000)
    max_cpu_load: float = Field(default=0.7, gt=0, le=100)
    idle_calls: int = Field(default=2, ge=0, le=100)
    job_memory_limit_mb: int = Field(default=0, ge=0, le=1_000_000)
    drain_seconds: float = Field(default=60.0, ge=0, le=86_400)
    session_spool_mb: int = Field(default=64, ge=1, le=65_536)
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"
    metrics_listen: str = Field(default="", pattern=r"^(|.+:\d{1,5})$")
    insecure: bool = False
    secret_env_names: Annotated[tuple[EnvName, ...], NoDecode] = ()
    secret_env_suffixes: Annotated[tuple[EnvName, ...], NoDecode] = SECRET_ENV_SUFFIXES
    secret_dirs: Annotated[tuple[Path, ...], NoDecode] = SECRET_DIRS
    tool_private_hosts: Annotated[tuple[HostAndPort, ...], NoDecode] = ()
    text_job_module: str = "agent_node.job.text"

    @property
    def tls(self) -> ClientTls | None:
        """How the control plane is reached; None if without TLS."""
        return ClientTls.of(self.tls_ca, self.tls_cert, self.tls_key)

    @property
    def folder(self) -> Path:
        """The node's own folder."""
        return self.data_dir.absolute() / "node"

    @property
    def cache_folder(self) -> Path:
        """Where the last good bundles are."""
        return self.folder / "cache"

    @property
    def session_folder(self) -> Path:
        """Where reports of sessions wait for the control plane."""
        return self.folder / "sessions"

    @property
    def socket(self) -> Path:
        """The relay's socket."""
        return self.node_socket.absolute() if self.node_socket else self.folder / "relay.sock"

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of the metrics; None if they are off."""
        if not self.metrics_listen:
            return None
        host, _, port = self.metrics_listen.rpartition(":")
        return host.strip("[]"), int(port)

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: object) -> object:
        """`k=v,k=v`, or a list of `k=v`, as a mapping."""
        value = _split(value)
        if not isinstance(value, list | tuple):
            return value
        pairs = [str(pair).partition("=") for pair in cast("list[object]", value)]
        if any(not key or not mark for key, mark, _ in pairs):
            raise ValueError("labels are given as key=value")
        return {key: text for key, _, text in pairs}

    @field_validator(
        "secret_env_names", "secret_env_suffixes", "secret_dirs", "tool_private_hosts", mode="before"
    )
    @classmethod
    def _split_list(cls, value: object) -> object:
        """`a,b`, or a list."""
        return _split(value)

    @field_validator("secret_dirs")
    @classmethod
    def _are_absolute(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in folders:
            if not folder.is_absolute() or "," in str(folder):
                raise ValueError(f"{folder} must be absolute and without a comma")
        return folders

    @field_validator("job_memory_limit_mb")
    @classmethod
    def _holds_a_job(cls, limit: int) -> int:
        if 0 < limit < JOB_MEMORY_MB_MIN:
            raise ValueError(f"a job needs {JOB_MEMORY_MB_MIN} MiB at least; 0 means no limit")
        return limit

    @model_validator(mode="after")
    def _has_whole_identity(self) -> Self:
        ClientTls.of(self.tls_ca, self.tls_cert, self.tls_key)
        return self

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        address = self.metrics_address
        if address is None:
            return self
        if address[1] > PORT_MAX:
            raise ValueError(f"metrics_listen: the port must be at most {PORT_MAX}")
        if not self.insecure and not _is_loopback(address[0]):
            raise ValueError(
                f"metrics_listen: {self.metrics_listen} can be reached from other machines, and there is no "
                "authentication: whoever reaches it can read the names of all tenants. Listen on 127.0.0.1, "
                "or say --insecure if the network itself keeps others out"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Part of pydantic-settings' interface: the sources, strongest first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(flags: Mapping[str, object], config: Path | None = None) -> NodeSettings:
    """Settings by flags (None is not given), environment and the file.
    Raises pydantic.ValidationError, and OSError or ValueError for a file that
    cannot be read."""
    given = {name: value for name, value in flags.items() if value is not None}
    if config is None:
        return NodeSettings(**given)  # pyright: ignore[reportArgumentType]
    config.open("rb").close()

    class FromFile(NodeSettings):
        model_config = SettingsConfigDict(toml_file=config)

    return FromFile(**given)  # pyright: ignore[reportArgumentType]


def _split(value: object) -> object:
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
