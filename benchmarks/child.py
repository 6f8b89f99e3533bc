"""Run one function and print what it took, without the imports: seconds, those of processors, and the most memory.

python -m benchmarks.child stages.prepare main
"""

import importlib
import json
import resource
import sys
import time

from tweets import command


def processor_seconds() -> float:
    """Return the seconds of this process, and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("module")
    parser.add_argument("function")
    given = parser.parse_args()
    work = getattr(importlib.import_module(given.module), given.function)
    begin, used = time.perf_counter(), processor_seconds()
    work()
    seconds, used = time.perf_counter() - begin, processor_seconds() - used
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({"seconds": seconds, "processor_seconds": used, "megabytes": memory / 1e6}))


if __name__ == "__main__":
    command.run("child", main)
