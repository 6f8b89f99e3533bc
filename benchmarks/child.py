"""Run one function and print how long it took, without the imports, and the most memory that its process held.

python -m benchmarks.child stages.prepare main
"""

import importlib
import json
import resource
import sys
import time


def main() -> None:
    module, name = sys.argv[1:]
    work = getattr(importlib.import_module(module), name)
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({"seconds": seconds, "megabytes": memory / 1e6}))


if __name__ == "__main__":
    main()
