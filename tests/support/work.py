"""Work on pieces, of which processes elsewhere can import what it is."""

import os
import signal
import time

from tweets.errors import UserError


def square(number: int) -> int:
    time.sleep(0.02 if number == 1 else 0)  # the others overtake it
    return number * number


def fail(number: int) -> int:
    if number == 3:
        raise UserError("the third")
    return number


def kill_own_process(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
