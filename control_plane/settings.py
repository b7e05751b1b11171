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

from control_plane.state.tenants import HISTORY_ENTRIES_MAX

DRAIN_SECONDS = 10.0
DRAIN_SECONDS_MAX = 600.0
UNIX = "unix:"
PORT_MAX = 65_535


class Settings(BaseSettings):
    """What `voxplane serve` can be told. Raises pydantic.ValidationError."""

    model_config = SettingsConfigDict(env_prefix="VOXPLANE_", extra="forbid", frozen=True)

    grpc_listen: str = Field(default="127.0.0.1:50051", pattern=r"^(unix:.+|.+:\d{1,5})$")
    data_dir: Path = Path(".voxplane")
    store: Literal["sqlite", "memory"] = "sqlite"
    insecure: bool = False
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_seconds: float = Field(default=DRAIN_SECONDS, ge=0, le=DRAIN_SECONDS_MAX)
    history_entries_max: int = Field(default=HISTORY_ENTRIES_MAX, ge=0)
    tracing: bool = False

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

    @field_validator("grpc_listen")
    @classmethod
    def _has_a_port(cls, listen: str) -> str:
        # The resolver would take a larger one for what is left of it.
        if not listen.startswith(UNIX) and int(listen.rpartition(":")[2]) > PORT_MAX:
            raise ValueError(f"the port must be at most {PORT_MAX}")
        return listen

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if not self.insecure and not is_loopback(self.grpc_listen):
            raise ValueError(
                f"{self.grpc_listen} can be reached from other machines, and this server has neither TLS nor "
                "authentication: whoever reaches it can change every agent. Listen on 127.0.0.1 or on a "
                "unix: socket, or say --insecure if the network itself keeps others out"
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
