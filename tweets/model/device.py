"""What a model is computed on: the device, its precision, the threads of a CPU."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from tweets.errors import UserError
from tweets.model.portable import Precision

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: DeviceName, precision: Precision = "auto") -> str:
    """Return the device to compute on.

    Raises UserError when the one asked for is not there, or is not the CPU that precision "portable" needs.
    """
    if precision == "portable":
        if name in ("cuda", "mps"):
            raise UserError(
                f"device = {name}: train.precision = portable computes on a CPU; -S train.precision=fp32 uses {name},"
                " and `make compare` then tells whether the scores are the same"
            )
        return "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there[name]:
        raise UserError(f"device = {name}: not there; this machine has {', '.join(d for d in there if there[d])}")
    return name


def has_bf16(device: str) -> bool:
    """Tell whether the device computes bfloat16 in hardware; elsewhere it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on `count` threads of the CPU: their number decides the order of sums, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
