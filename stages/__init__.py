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

# NumPy, and OpenBLAS in its wheel and in SciPy's, pick their kernels by processor, and so the order of sums; OpenBLAS
# also by the number of its threads. Here they get a choice that every x86-64 processor of the last ten years has,
# before NumPy is imported, whatever the shell says. The same for PyTorch: tweets/model/portable.py.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL AVX512_SPR"
    os.environ["OMP_WAIT_POLICY"] = "passive"  # PyTorch's threads leave the cores to OpenBLAS while they wait
    for name in ("NPY_ENABLE_CPU_FEATURES", "OMP_DYNAMIC", "OMP_THREAD_LIMIT"):
        os.environ.pop(name, None)
