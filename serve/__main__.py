"""Run the service.

    python -m serve

Settings come from TWEETS_* variables: see serve/settings.py. SIGTERM drains it. On SIGHUP it
reads the model's folder again.
"""

import signal

from tweets import command

early: list[int] = []  # SIGHUPs that arrive before the server starts


def main() -> None:
    from serve import server  # noqa: PLC0415  takes a second

    server.main(early)


if __name__ == "__main__":
    if hasattr(signal, "SIGHUP"):  # by default it ends the process
        signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    command.run("serve", main, __doc__)
