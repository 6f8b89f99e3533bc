"""The service's settings, from environment variables that begin with TWEETS_."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import limits
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tweets.errors import UserError

PREFIX = "TWEETS_"
DRAIN = 10.0  # seconds, the most that a platform waits after SIGTERM

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # the SHA-256 of a key
# Of an address, as a browser sends it: no path. Nothing that means something in a header or in HTML.
Origin = Annotated[str, Field(pattern=r"^(https?://[a-z0-9.:\[\]-]+)?$")]
PREFIXES = r"(/[A-Za-z0-9._~-]+)+"  # of a path
S = TypeVar("S", bound=BaseSettings)
SECRET = ("api_keys", "admin_key")  # whoever sets a key in place of its hash must not find it in a log


def _empty_is_none(value: Any) -> Any:
    return None if value == "" else value


def _hashes(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _limits(value: str) -> str:
    if value:
        limits.parse_many(value)  # raises ValueError
    return value


def _networks(value: str) -> str:
    if value.strip() == "*":  # any client would be a proxy, and could say that it is another
        raise ValueError("needs the networks of the proxies, such as 10.0.0.0/8")
    for part in value.split(",") if value else []:
        ipaddress.ip_network(part.strip())  # raises ValueError
    return value


class ServiceSettings(BaseSettings):
    """What an operator may set; `TWEETS_PORT` sets `port`, and so on."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    model: Path = Path("models/onnx")  # the exported folder; read again on SIGHUP
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "tweets"
    version: Annotated[str, Field(max_length=64)] = ""  # empty: from the checksums of the model
    commit: Annotated[str, Field(max_length=64)] = ""  # empty: asks Git, where there is a checkout
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    # `10.0.0.0/8,::1`: their X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Prefix count.
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = ""
    # `/tweets`: where a proxy strips that from the path.
    root_path: Annotated[str, Field(pattern=f"^({PREFIXES})?$")] = ""

    threads: Count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 8  # texts in a batch, at most; each thread computes one
    queue_size: Count = 2_000  # texts that may wait; with more, 503

    max_text_chars: Count = 2_000  # fewer than fetch.max_chars: the longest that costs no other request time
    max_texts: Count = 1_000  # in a request
    max_body_bytes: Count = 4 * 2**20
    max_requests: Count = 1_000  # under way at once; with more, 503
    receive_timeout: Seconds = 5  # for a request to arrive
    request_timeout: Seconds = 10  # for its answer, waiting included
    reload_timeout: Seconds = 60  # for a model to be read
    drain_delay: Annotated[float, Field(ge=0)] = 1  # after SIGTERM: not ready, and still answering
    drain_timeout: Seconds = 7  # then: for what was begun

    api_keys: Annotated[list[Hash], NoDecode, BeforeValidator(_hashes)] = []
    rate_limit: Annotated[str, AfterValidator(_limits)] = ""  # of texts, for each key or address: `600/minute;5/second`
    experiments_url: Origin = ""  # where `python -m runner` answers; the page shows its experiments
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_text: bool = False  # write the tweets themselves to the log

    drift: bool = True  # compare what comes in with the model's reference
    # A folder: keep what is predicted there, in SQLite; several services may share it.
    collect: Annotated[Path | None, BeforeValidator(_empty_is_none)] = None
    collect_text: bool = False  # the tweets themselves, too
    collect_bytes: Annotated[int, Field(ge=2**20)] = 256 * 2**20  # the oldest go when the file is larger
    collect_days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)] = 30  # or when they are older

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_texts > self.queue_size:
            raise ValueError(f"max_texts = {self.max_texts} must not exceed queue_size = {self.queue_size}")
        if self.drain_delay + self.drain_timeout >= DRAIN:
            raise ValueError(f"drain_delay + drain_timeout must be below {DRAIN:g} seconds")
        return self


def load() -> ServiceSettings:
    """Return the service's settings, as `read` does."""
    return read(ServiceSettings)


def read(kind: type[S]) -> S:
    """Return the settings of the environment.

    Raises UserError that names each variable that is unknown or has a value that cannot be.
    """
    known = {PREFIX + name.upper() for name in kind.model_fields}
    problems = [f"{name}: unknown; known are {', '.join(sorted(known))}" for name in _unknown(known)]
    try:
        settings = kind()
    except ValidationError as error:
        problems += [_describe(detail) for detail in error.errors()]
    if problems:
        raise UserError("; ".join(problems))
    return settings


def _unknown(known: set[str]) -> list[str]:
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def _describe(detail: Any) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not detail["loc"]:
        return f"{PREFIX}*: {message}"
    field = str(detail["loc"][0])
    name = PREFIX + field.upper()
    if field in SECRET:
        return f"{name}: {message}: needs the SHA-256 of a key, as `python -m serve.keys` prints it"
    return f"{name} = {detail['input']!r}: {message}"
