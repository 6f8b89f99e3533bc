"""What a figure was measured on."""

import os
import platform
from importlib.metadata import version

from tweets.model.portable import processor


def machine() -> dict[str, str | int]:
    """Return the processor's model, the number of its cores that this process may use, and the versions of tools."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("dvc", "torch", "transformers")},
    }
