"""Every setting, in one frozen, validated model: defaults, then a TOML file, then the environment."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from orchestrator.errors import InvalidSettings

CONFIG_VARIABLE = "CELERIAC_CONFIG"
DEFAULT_CONFIG = Path("config/settings.toml")

BROKERS = frozenset({"redis", "rediss", "redis+socket", "sentinel", "unix", "amqp", "amqps", "pyamqp"})

Pool = Literal["auto", "asyncio", "prefork", "threads", "solo"]


class Settings(BaseSettings):
    """
    What an operator can set. The environment is `CELERIAC_<NAME>`; durations are float seconds, sizes bytes.

    The TOML file is the one `CELERIAC_CONFIG` names, or else `config/settings.toml` below the current folder.
    """

    model_config = SettingsConfigDict(env_prefix="CELERIAC_", frozen=True, extra="forbid")

    redis_url: SecretStr | None = None
    broker_url: SecretStr | None = None
    agents: Annotated[tuple[str, ...], NoDecode] = ()
    data_dir: Path = Path(".celeriac")

    shards: int = Field(default=8, ge=1, le=256)
    lease: float = Field(default=10.0, ge=0.2, le=3600.0)
    sweep: float = Field(default=2.0, ge=0.05, le=600.0)
    tick: float = Field(default=0.2, ge=0.01, le=60.0)
    dispatch_timeout: float = Field(default=5.0, ge=0.1, le=3600.0)
    max_attempts: int = Field(default=5, ge=1, le=1000)
    run_deadline: float = Field(default=7 * 86400.0, gt=0.0, le=366 * 86400.0)
    retention: float = Field(default=7 * 86400.0, gt=0.0, le=366 * 86400.0)
    dead_retention: float = Field(default=30 * 86400.0, gt=0.0, le=366 * 86400.0)
    cancel_grace: float = Field(default=5.0, ge=0.0, le=3600.0)

    claim_check_bytes: int = Field(default=256 * 1024, ge=1024)
    max_payload_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=512 * 1024 * 1024)
    redis_retry: float = Field(default=30.0, ge=0.0, le=3600.0)

    pool: Pool = "auto"
    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    sync_threads: int = Field(default=32, ge=1, le=10_000)
    soft_shutdown: float = Field(default=0.0, ge=0.0, le=86400.0)
    flower_host: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=1, le=65535)

    model: str | None = None
    model_url: str | None = None
    model_key: SecretStr | None = None
    model_timeout: float = Field(default=60.0, gt=0.0)

    debug: bool = False

    @field_validator("agents", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        # `CELERIAC_AGENTS=acme.agents,acme.more` is what a person types; TOML gives a list.
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("redis_url", "broker_url", "model", "model_url", "model_key", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("broker_url")
    @classmethod
    def _broker_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value and urlsplit(value.get_secret_value()).scheme not in BROKERS:
            msg = f"must start with one of {', '.join(sorted(f'{scheme}://' for scheme in BROKERS))}"
            raise ValueError(msg)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in {"redis", "rediss", "unix"}:
            msg = "must start with redis://, rediss:// or unix://"
            raise ValueError(msg)
        try:
            _ = parts.port
        except ValueError:
            msg = "has a port that is no number; it is redis://[[user]:password@]host[:port][/database]"
            raise ValueError(msg) from None
        return value

    @model_validator(mode="after")
    def _claim_check_below_maximum(self) -> Settings:
        if self.claim_check_bytes > self.max_payload_bytes:
            msg = "claim_check_bytes must not exceed max_payload_bytes"
            raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic-settings'
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Give the sources, strongest first: arguments, environment, TOML file."""
        named = os.environ.get(CONFIG_VARIABLE)
        if named and not Path(named).is_file():
            msg = f"{CONFIG_VARIABLE}={named}: there is no such file; correct the path or unset it"
            raise InvalidSettings(msg)
        toml = TomlConfigSettingsSource(settings_cls, Path(named) if named else DEFAULT_CONFIG)
        return (init_settings, env_settings, toml)


def load_settings() -> Settings:
    """
    Read the settings afresh.

    Raises:
        InvalidSettings: a value does not fit; the message names each setting and what it must be.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        msg = f"{wrong}; correct it in the environment (CELERIAC_<NAME>) or the settings file"
        raise InvalidSettings(msg) from None
    except ValueError as error:  # tomllib's errors are ValueErrors
        msg = f"the settings file is not valid TOML: {error}"
        raise InvalidSettings(msg) from None


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once."""
    return load_settings()
