"""Tell by the exit status whether the service on this machine is ready: the health check of the image.

    python -m serve.health

Imports nothing of the service: it runs every few seconds beside it.
"""

import http.client
import os

from tweets import command, errors
from tweets.errors import UserError

SECONDS = 2  # for an answer


def main() -> None:
    address = f"localhost:{os.environ.get('TWEETS_PORT', '8000')}"
    try:
        connection = http.client.HTTPConnection(address, timeout=SECONDS)
        connection.request("GET", "/v2/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{address}: no answer: {errors.one_line(error)}") from None
    if status != 200:
        raise UserError(f"{address}: not ready: status {status}")


if __name__ == "__main__":
    command.run("health", main, __doc__)
