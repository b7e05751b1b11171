"""The control plane's settings: flags, then VOXPLANE_* environment, then a
TOML file."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from control_plane.edge.tls import TlsFiles
from control_plane.fast_edge.limits import CONNECTIONS_MAX
from control_plane.sessions import Retention, SessionSettings
from control_plane.sessions.retention import RETENTION_DAYS, SESSIONS_MAX
from control_plane.sessions.sessions import COMMAND_SECONDS, NODE_AWAY_SECONDS
from control_plane.state.tenants import HISTORY_ENTRIES_MAX
from control_plane.watch import WatchSettings
from control_plane.watch.admission import FULL_BYTES_BURST, FULL_BYTES_PER_SECOND
from control_plane.watch.debounce import LONGEST_SECONDS, QUIET_SECONDS
from control_plane.watch.hub import STREAMS_MAX
from control_plane.watch.stalls import PENDING_BYTES_MAX, STALL_SECONDS
from control_plane.watch.stream import AGE_SECONDS_MAX, HEARTBEAT_SECONDS

DRAIN_SECONDS = 10.0
DRAIN_SECONDS_MAX = 600.0
DEFAULT_GRPC_LISTEN = "127.0.0.1:50051"
DEFAULT_EDGE_LISTEN = "127.0.0.1:50052"
NO_EDGE = "none"
UNIX = "unix:"
PORT_MAX = 65_535


class Settings(BaseSettings):
    """What `voxplane serve` can be told. Raises pydantic.ValidationError."""

    model_config = SettingsConfigDict(env_prefix="VOXPLANE_", extra="forbid", frozen=True)

    grpc_listen: str = Field(default=DEFAULT_GRPC_LISTEN, pattern=r"^(unix:.+|.+:\d{1,5})$")
    edge_listen: str = Field(default="", pattern=r"^(|none|unix:.+|.+:\d{1,5})$")
    edge_advertise: str = Field(
        default="", pattern=r"^(|unix:.+|[^:]*:\d{1,5}|\[.+\]:\d{1,5})$", max_length=200
    )
    edge_connections_max: int = Field(default=CONNECTIONS_MAX, ge=1, le=1_000_000)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    data_dir: Path = Path(".voxplane")
    store: Literal["sqlite", "memory"] = "sqlite"
    insecure: bool = False
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_seconds: float = Field(default=DRAIN_SECONDS, ge=0, le=DRAIN_SECONDS_MAX)
    history_entries_max: int = Field(default=HISTORY_ENTRIES_MAX, ge=0)
    tracing: bool = False
    watch_heartbeat_seconds: float = Field(default=HEARTBEAT_SECONDS, ge=0.1, le=300)
    watch_age_seconds_max: float = Field(default=AGE_SECONDS_MAX, ge=1, le=86_400)
    watch_quiet_seconds: float = Field(default=QUIET_SECONDS, ge=0, le=10)
    watch_longest_seconds: float = Field(default=LONGEST_SECONDS, ge=0, le=60)
    watch_stall_seconds: float = Field(default=STALL_SECONDS, ge=0.1, le=3_600)
    watch_pending_bytes_max: int = Field(default=PENDING_BYTES_MAX, ge=0)
    watch_full_bytes_per_second: float = Field(default=FULL_BYTES_PER_SECOND, gt=0)
    watch_full_bytes_burst: float = Field(default=FULL_BYTES_BURST, gt=0)
    watch_streams_max: int = Field(default=STREAMS_MAX, ge=1, le=1_000_000)

    session_retention_days: float = Field(default=RETENTION_DAYS, gt=0, le=36_500)
    session_retention_count: int = Field(default=SESSIONS_MAX, ge=1)
    session_node_away_seconds: float = Field(default=NODE_AWAY_SECONDS, ge=0.1, le=86_400)
    session_command_seconds: float = Field(default=COMMAND_SECONDS, ge=0.1, le=60)

    @property
    def edge(self) -> str:
        """Where the fast edge listens; empty if it is off. It has its default
        only beside gRPC's: who moves one says where the other is."""
        if self.edge_listen == NO_EDGE:
            return ""
        by_default = DEFAULT_EDGE_LISTEN if self.grpc_listen == DEFAULT_GRPC_LISTEN else ""
        return self.edge_listen or by_default

    @property
    def tls(self) -> TlsFiles | None:
        """The certificate of all listeners; None if they have none."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def sessions(self) -> SessionSettings:
        """The settings of sessions."""
        return SessionSettings(
            node_away_seconds=self.session_node_away_seconds,
            command_seconds=self.session_command_seconds,
            retention=Retention(self.session_retention_days, self.session_retention_count),
        )

    @property
    def watch(self) -> WatchSettings:
        """The settings of the watch."""
        return WatchSettings(
            heartbeat_seconds=self.watch_heartbeat_seconds,
            age_seconds_max=self.watch_age_seconds_max,
            quiet_seconds=self.watch_quiet_seconds,
            longest_seconds=self.watch_longest_seconds,
            pending_bytes_max=self.watch_pending_bytes_max,
            stall_seconds=self.watch_stall_seconds,
            full_bytes_per_second=self.watch_full_bytes_per_second,
            full_bytes_burst=self.watch_full_bytes_burst,
            streams_max=self.watch_streams_max,
        )

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

    @field_validator("grpc_listen", "edge_listen", "edge_advertise")
    @classmethod
    def _has_a_port(cls, listen: str) -> str:
        # The resolver would take a larger one for what is left of it.
        if (
            listen
            and listen != NO_EDGE
            and not listen.startswith(UNIX)
            and int(listen.rpartition(":")[2]) > PORT_MAX
        ):
            raise ValueError(f"the port must be at most {PORT_MAX}")
        return listen

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.edge and not is_loopback(self.edge) and self.tls is None:
            raise ValueError(
                f"{self.edge} can be reached from other machines: there the fast edge takes TLS alone. Give "
                "--tls-cert and --tls-key, or listen on 127.0.0.1 or on a unix: socket"
            )
        open_to_all = [each for each in (self.grpc_listen, self.edge) if each and not is_loopback(each)]
        if open_to_all and not self.insecure and self.tls_client_ca is None:
            lacks = "neither TLS nor authentication" if self.tls is None else "no authentication"
            raise ValueError(
                f"{open_to_all[0]} can be reached from other machines, and this server has {lacks}: whoever "
                "reaches it can change every agent. Listen on 127.0.0.1 or on a unix: socket, take only "
                "clients with a certificate of yours (--tls-client-ca), or say --insecure if the network "
                "itself keeps others out"
            )
        return self


def load_settings(flags: Mapping[str, object], config: Path | None = None) -> Settings:
    """Settings by flags (None is not given), environment and the file.
    Raises pydantic.ValidationError, and OSError or ValueError for a file that
    cannot be read."""
    given = {name: value for name, value in flags.items() if value is not None}
    if config is None:
        return Settings(**given)  # pyright: ignore[reportArgumentType]
    config.open("rb").close()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return FromFile(**given)  # pyright: ignore[reportArgumentType]


def is_loopback(listen: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if listen.startswith(UNIX):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
