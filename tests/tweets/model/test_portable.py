"""Portable arithmetic: OpenBLAS in the place of MKL, the same bytes on any number of cores, and the check of both.

What is set for a whole process is tried in processes of its own.
"""

import json
import os
import platform
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

from tests.support.clones import ENVIRONMENT, ROOT
from tweets.errors import UserError
from tweets.model import portable
from tweets.model.device import choose_device

needs_avx2 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not np._core._multiarray_umath.__cpu_features__["AVX2"],  # type: ignore[attr-defined]
    reason="needs x86-64 with AVX2",
)


SET_UP = """
import json
import stages
import numpy as np
from tweets.model import portable
portable.use(training=True)
import torch
"""


def run(script: str, **variables: str) -> Any:
    """Run a script in a process that computes portably, with variables of a shell; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + textwrap.dedent(script)],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@needs_avx2
def test_products_are_right_whatever_lies_how_in_memory() -> None:
    found = run("""
        def made(*shape):
            return torch.from_numpy(portable.values(*shape))

        def exact(one, other):  # by NumPy's own loops, in float64
            return torch.from_numpy(np.einsum("...nk,...km->...nm", one.double().numpy(), other.double().numpy()))

        def error(found, expected):
            assert found.shape == expected.shape
            return float((found.double() - expected).abs().max()) if expected.numel() else 0

        a, b, row, column = made(300, 70), made(70, 50), made(50), made(70)
        wide, many, others = made(1, 70).expand(300, 70), made(200, 9, 7), made(200, 7, 5)
        permuted, whole = made(9, 200, 7).permute(1, 0, 2), (a * 9).long()
        times_column = exact(a, column[:, None])[:, 0]
        print(json.dumps({
            "mm": error(a @ b, exact(a, b)),
            "transposed": error(b.T @ a.T, exact(b.T, a.T)),
            "every second": error(a[::2, ::2] @ b[::2], exact(a[::2, ::2], b[::2])),
            "expanded": error(wide @ b, exact(wide, b)),
            "mv": error(a @ column, times_column),
            "dot": error(column @ column, exact(column[None], column[:, None])[0, 0]),
            "one row": error(a[:1] @ b, exact(a[:1], b)),
            "no row": error(a[:0] @ b, exact(a[:0], b)),
            "no sum": error(a[:, :0] @ b[:0], exact(a[:, :0], b[:0])),
            "addmm": error(torch.addmm(row, a, b, beta=2, alpha=3), 2 * row.double() + 3 * exact(a, b)),
            "addmm of a matrix": error(torch.addmm(made(300, 50), a, b), made(300, 50) + exact(a, b)),
            "addmm without": error(torch.addmm(row * np.nan, a, b, beta=0), exact(a, b)),
            "addmv": error(torch.addmv(made(300), a, column), made(300) + times_column),
            "float64": error(a.double() @ b.double(), exact(a, b)),
            "integers": error(whole @ whole.T, exact(whole, whole.T)),
            "bmm": error(many @ others, exact(many, others)),
            "bmm, transposed": error(others.mT @ many.mT, exact(others.mT, many.mT)),
            "bmm, permuted": error(permuted @ others, exact(permuted, others)),
            "baddbmm": error(torch.baddbmm(made(9, 5), many, others, alpha=3), made(9, 5) + 3 * exact(many, others)),
            "einsum": error(torch.einsum("bij,bjk->bik", many, others), exact(many, others)),
        }))
    """)
    assert len(found) == 20
    assert {name: error for name, error in found.items() if not error < 1e-5} == {}


GRADIENTS = """
    from concurrent.futures import ThreadPoolExecutor
    hashes = []
    for cores in (1, 2, 4, 8):
        pool = ThreadPoolExecutor(cores)
        portable._pool = lambda: pool
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(96, 4, 384, 0.0, "gelu", batch_first=True)
        rows = torch.randn(32, 21, 96, requires_grad=True)
        layer(rows).square().sum().backward()
        hashes.append(portable.hash_of([rows.grad, *(weights.grad for weights in layer.parameters())]))
    print(json.dumps([len(set(hashes)), hashes[0]]))
"""


@needs_avx2
def test_the_number_of_cores_and_the_variables_of_a_shell_change_no_byte() -> None:
    different, expected = run(GRADIENTS)
    assert different == 1
    foreign = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "AUTO",
        "OPENBLAS_CORETYPE": "Sandybridge",
        "OPENBLAS_NUM_THREADS": "7",
        "OMP_NUM_THREADS": "3",
        "OMP_DYNAMIC": "TRUE",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3",
    }
    assert run("    torch.set_num_threads(2)\n" + GRADIENTS, **foreign) == [1, expected]


def test_what_a_thread_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        portable._in_tiles(lambda tile: 1 / (tile.start - 96), 500, 96)


def test_a_kernel_with_other_bytes_is_named_with_the_processor_and_the_way_out() -> None:
    with pytest.raises(UserError) as raised:
        portable.check({"AdamW": lambda: [np.zeros(3)]})
    expected = portable.EXPECTED["AdamW"]
    assert str(raised.value) == (
        f"train.precision = portable: AdamW gives other bytes on this processor, {portable.processor()}:"
        f" {portable.hash_of([np.zeros(3)])}, needs {expected}; -S train.precision=fp32 goes on without it, and"
        " `make compare` then tells whether the scores are the same"
    )


def test_each_kernel_has_the_bytes_that_are_expected() -> None:
    kernels = {**portable.numpy_kernels(), **portable.prediction_kernels(), **portable.training_kernels()}
    assert {*kernels, "logistic regression"} == portable.EXPECTED.keys()


@pytest.mark.parametrize("machine", ["arm64", "aarch64"])
def test_another_platform_is_refused(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for begin in (portable.use, portable.check_baseline):
        with pytest.raises(UserError, match=r"^train\.precision = portable: needs x86-64 with AVX2, .*precision=fp32"):
            begin()
    assert "ATEN_CPU_CAPABILITY" not in os.environ


def test_portable_computes_on_the_cpu_though_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    assert choose_device("auto", "portable") == choose_device("cpu", "portable") == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=rf"^device = {name}: train\.precision = portable computes on a CPU"):
            choose_device(name, "portable")
