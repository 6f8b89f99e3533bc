"""One small script per DVC stage.

DVC runs a stage with the `python` of the shell. Where that is not the project's environment, say so before an
import fails: this file must stay readable for any Python 3.
"""

import importlib.util
import os
import platform
import sys

if sys.version_info < (3, 11) or importlib.util.find_spec("pandera") is None:
    sys.exit(
        "stages: `python` is {} ({}.{}), which is not this project's environment: run `source .venv/bin/activate`"
        " first, or `make repro`, which does all of it".format(sys.executable, *sys.version_info[:2])
    )

# OpenBLAS, in NumPy's and SciPy's wheels, picks its kernels by processor, and so the order of its sums. Here it gets a
# choice that every x86-64 processor of the last ten years has, before NumPy is imported. NumPy's own kernels still
# differ between processors, in a result's last bits.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"
