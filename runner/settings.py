"""The runner's settings, from environment variables that begin with TWEETS_."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve.settings import PREFIX, Count, Hash, Origin, Seconds


class RunnerSettings(BaseSettings):
    """What an operator may set; without TWEETS_ADMIN_KEY there is no runner."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    admin_key: Hash  # the SHA-256 of the key, as `python -m serve.keys` prints it
    host: str = "127.0.0.1"  # beyond this machine, behind a proxy with TLS: the key travels in a header
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    page_origin: Origin = ""  # of the service whose page may ask from a browser, `http://127.0.0.1:8000`

    jobs: Count = 1  # experiments that run at once
    queue_size: Count = 20  # experiments that may wait; with more, 503

    max_body_bytes: Count = 64 * 1024
    max_requests: Count = 100  # under way at once; with more, 503
    receive_timeout: Seconds = 5  # for a request to arrive
    request_timeout: Seconds = 30  # for its answer; a cancelled experiment's processes end first
    log_level: Literal["debug", "info", "warning", "error"] = "info"
