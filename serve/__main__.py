"""Run the service.

    python -m serve

Settings come from TWEETS_* variables: see serve/settings.py. SIGTERM drains it, SIGHUP lets it read the model's folder
anew.
"""

import signal

from tweets import command

early: list[int] = []  # SIGHUPs before there is a server


def main() -> None:
    from serve import server  # noqa: PLC0415  takes a second

    server.main(early)


if __name__ == "__main__":
    if hasattr(signal, "SIGHUP"):  # by default it ends the process
        signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    command.run("serve", main, __doc__)
