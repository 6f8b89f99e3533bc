"""Arithmetic that gives the same bytes on every x86-64 processor with AVX2, and with any number of cores.

By default a processor's vendor, its instruction set and its number of cores decide in which order a sum is added up.
What takes the place of each such choice:

- Matrix products: PyTorch's are MKL's, which picks its kernels by vendor. Here they are OpenBLAS's, NumPy's copy, with
  the kernels for Haswell. OpenBLAS itself adds up otherwise on another number of threads, so a product is cut into
  tiles of a fixed size, each of which one thread computes.
- PyTorch's other operations (softmax, norms, losses, AdamW, random numbers): compiled for several instruction sets, of
  which it takes AVX2. Some add up by threads, whose number is a param.
- GELU: oneDNN's, at AVX2. The tanh of a pooler: MKL's, in its compatible mode.
- Fused attention: not used, since it calls MKL; attention is then made of the products above.
- NumPy and SciPy: stages/__init__.py sets them up, before they are imported.

PyTorch is imported where it computes: the baseline does without.
"""

import functools
import hashlib
import os
import platform
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tweets.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Precision = Literal["portable", "auto", "bf16", "fp32"]

# Read by PyTorch, its oneDNN and MKL at their first operation, so an import may come before.
ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
ROWS = 96  # of a tile; fewer cost speed, more leave cores without work
MATRICES = 96  # of a batch, that one thread multiplies
THREADS = 2  # of PyTorch, for the check
WAY_OUT = "; -S train.precision=fp32 goes on without it, and `make compare` then tells whether the scores are the same"


def use(*, training: bool = False) -> None:
    """Let PyTorch compute portably in this process from now on, which cannot be undone; check it, also for training.

    To be called before PyTorch's first operation. Raises UserError where a kernel gives other bytes than it should.
    """
    check_platform()
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    import torch  # noqa: PLC0415  see the top

    torch.backends.cuda.enable_flash_sdp(False)  # the name notwithstanding: of the CPU too
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    _take_over_products()
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    check({**numpy_kernels(), **prediction_kernels(), **(training_kernels() if training else {})})
    torch.set_num_threads(threads)
    for name, value in before.items():  # OpenVINO has a oneDNN of its own, which has to see what OpenVINO sees
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def check_baseline() -> None:
    """Raise UserError where NumPy, SciPy or scikit-learn give other bytes than they should."""
    check_platform()
    check({**numpy_kernels(), "logistic regression": logistic_regression})


def check_platform() -> None:
    """Raise UserError unless this is an x86-64 processor with AVX2."""
    features = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    if platform.machine() not in ("x86_64", "AMD64") or not (features.get("AVX2") and features.get("FMA3")):
        raise UserError(f"train.precision = portable: needs x86-64 with AVX2, this is {processor()}{WAY_OUT}")


def processor() -> str:
    """Return the model's name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _take_over_products() -> Any:
    """Put OpenBLAS in the place of MKL in all of PyTorch, and return what holds it there."""
    import torch  # noqa: PLC0415  see the top

    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
    kernels = {"mm": product, "mv": product, "dot": product, "addmm": sum_and_product, "addmv": sum_and_product}
    kernels |= {"bmm": products, "baddbmm": sum_and_products}
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CPU", allow_override=True)
    return library


@functools.cache
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(cores, thread_name_prefix="products")


def _in_tiles(work: Callable[[slice], Any], count: int, size: int) -> None:
    """Call `work` with slices of `size` of the range `count`, on all cores."""
    tiles = [slice(start, start + size) for start in range(0, count, size)]
    if len(tiles) == 1:
        work(tiles[0])
    else:
        list(_pool().map(work, tiles))  # to raise what a thread has raised


def _array(tensor: "Tensor") -> Array:
    """Return a tensor's values as BLAS takes them: without a copy where a matrix lies in memory by rows or columns."""
    tensor = tensor.detach()
    if 0 in tensor.stride() or 1 not in tensor.stride()[-2:]:
        tensor = tensor.contiguous()
    array: Array = tensor.numpy()
    return array


def product(left: "Tensor", right: "Tensor") -> "Tensor":
    """Return the product of a matrix or vector with another: (n, k) and (k, m) give (n, m)."""
    return _product(_array(left), _array(right))


def sum_and_product(added: "Tensor", left: "Tensor", right: "Tensor", *, beta: float = 1, alpha: float = 1) -> "Tensor":
    """Return beta * added + alpha * product; `added` is broadcast."""
    return _product(_array(left), _array(right), None if beta == 0 else (beta * added).detach().numpy(), alpha)


def _product(left: Array, right: Array, added: Array | None = None, alpha: float = 1) -> "Tensor":
    import torch  # noqa: PLC0415  see the top

    result = np.empty((*left.shape[:-1], *right.shape[1:]), left.dtype)
    shift = None if added is None else np.broadcast_to(added, result.shape)

    def tile(rows: Any) -> None:
        part = np.matmul(left[rows], right, out=result[rows])
        if alpha != 1:
            part *= left.dtype.type(alpha)
        if shift is not None:
            part += shift[rows]

    if left.ndim == 1:
        tile(...)
    else:
        _in_tiles(tile, len(left), ROWS)
    return torch.from_numpy(result)


def products(left: "Tensor", right: "Tensor") -> "Tensor":
    """Return the products of two batches of matrices: (b, n, k) and (b, k, m) give (b, n, m)."""
    import torch  # noqa: PLC0415  see the top

    one, other = _array(left), _array(right)
    result = np.empty((len(one), one.shape[1], other.shape[2]), one.dtype)
    _in_tiles(lambda part: np.matmul(one[part], other[part], out=result[part]), len(one), MATRICES)
    return torch.from_numpy(result)


def sum_and_products(
    added: "Tensor", left: "Tensor", right: "Tensor", *, beta: float = 1, alpha: float = 1
) -> "Tensor":
    """Return beta * added + alpha * products; `added` is broadcast."""
    result = products(left, right)
    if alpha != 1:
        result *= alpha
    return result if beta == 0 else result.add_(added, alpha=beta)


def check(kernels: dict[str, Callable[[], Iterable[Any]]]) -> None:
    """Raise UserError unless each kernel gives the bytes of EXPECTED."""
    for name, kernel in kernels.items():
        found = hash_of(kernel())
        if found != EXPECTED[name]:
            raise UserError(
                f"train.precision = portable: {name} gives other bytes on this processor, {processor()}:"
                f" {found}, needs {EXPECTED[name]}{WAY_OUT}"
            )


def hash_of(arrays: Iterable[Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the bytes of arrays or tensors."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def values(*shape: int, dtype: Any = np.float32) -> Array:
    """Return numbers from -0.5 to 0.5, exact in float32 and without a pattern that the sums could hide."""
    count = np.arange(np.prod(shape), dtype=np.uint32)
    mixed = (count * np.uint32(2654435761)) ^ (count << np.uint32(7))
    return ((mixed >> np.uint32(8)).astype(dtype) / 2**24 - 0.5).reshape(shape)


def numpy_kernels() -> dict[str, Callable[[], Iterable[Any]]]:
    """Return what checks NumPy, by the name of what it computes."""
    kinds = (np.float32, np.float64)

    def elementary() -> Iterable[Array]:
        for kind in kinds:
            numbers = values(1003, dtype=kind)
            positive = numbers + kind(0.75)
            yield from (np.exp(numbers * kind(30)), np.log(positive), np.log1p(positive), np.sqrt(positive))
            yield from (np.tanh(numbers * kind(4)), positive ** kind(1.5))

    def sums() -> Iterable[Array]:
        for kind in kinds:
            numbers = values(203, 1003, dtype=kind)
            yield from (numbers.sum(), numbers.sum(0), numbers.sum(1), numbers.mean(1), numbers.std(0))

    def in_double() -> Iterable[Array]:
        for rows, inner, columns in ((64, 384, 32), (1, 1536, 64), (384, 1733, 1), (1, 1733, 1)):
            yield values(rows, inner, dtype=np.float64) @ values(inner, columns, dtype=np.float64)
        yield np.abs(np.linalg.eigvalsh(values(48, 200, dtype=np.float64) @ values(200, 48, dtype=np.float64)))

    return {
        "NumPy's exp, log, sqrt, tanh and power": elementary,
        "NumPy's sums": sums,
        "OpenBLAS in double precision": in_double,
    }


def logistic_regression() -> Iterable[Array]:
    """Yield what scikit-learn fits to a sparse matrix, as the baseline does."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415  slow, as the next
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    features = values(120, 203, dtype=np.float64)
    features[features < 0.3] = 0
    fitted = LogisticRegression(C=2.0, max_iter=20, tol=0.1).fit(csr_matrix(features), np.arange(120) % 3)
    yield from (fitted.coef_, fitted.intercept_, fitted.predict_proba(csr_matrix(features)))


def tensor(*shape: int) -> "Tensor":
    """Return `values` as a tensor."""
    import torch  # noqa: PLC0415  see the top

    return torch.from_numpy(values(*shape))


def prediction_kernels() -> dict[str, Callable[[], Iterable[Any]]]:
    """Return what checks PyTorch's predictions. To be called after `use` has set it up."""
    import torch  # noqa: PLC0415  see the top
    from torch.nn import functional  # noqa: PLC0415  see the top

    def linear() -> Iterable[Any]:
        # Inputs and outputs of the default encoder's layers, its head, and one row; 221 rows end in a short tile.
        for rows, inner, outer in ((221, 384, 1536), (221, 1536, 384), (64, 384, 3), (1, 384, 384), (65, 384, 1)):
            yield functional.linear(tensor(rows, inner), tensor(outer, inner), tensor(outer))

    def attention() -> Iterable[Any]:
        for tokens in (7, 27):
            query = tensor(9, 12, tokens, 32)
            yield (query @ query.transpose(2, 3) * 32**-0.5).softmax(-1) @ query

    def elementwise() -> Iterable[Any]:
        for function in (functional.gelu, functional.relu, functional.silu, torch.tanh, torch.sigmoid):
            yield function(tensor(221, 384) * 8)

    def norm() -> Iterable[Any]:
        yield functional.layer_norm(tensor(221, 384), (384,), tensor(384), tensor(384), 1e-12)

    return {"a linear layer": linear, "attention": attention, "GELU and its like": elementwise, "a layer norm": norm}


def training_kernels() -> dict[str, Callable[[], Iterable[Any]]]:
    """Return what checks PyTorch's training. To be called after `use` has set it up."""
    import torch  # noqa: PLC0415  see the top
    from torch.nn import functional  # noqa: PLC0415

    def gradients(function: Callable[..., "Tensor"], *inputs: "Tensor") -> Iterable[Any]:
        result = function(*(array.requires_grad_() for array in inputs))
        return torch.autograd.grad(result, inputs, tensor(*result.shape))

    def linear() -> Iterable[Any]:
        for rows, inner, outer in ((1733, 384, 32), (221, 1536, 384), (64, 384, 3)):
            yield from gradients(functional.linear, tensor(rows, inner), tensor(outer, inner), tensor(outer))

    def attention() -> Iterable[Any]:
        yield from gradients(lambda q, k: (q @ k.mT).softmax(-1) @ k, tensor(9, 12, 27, 32), tensor(9, 12, 27, 32))

    def elementwise() -> Iterable[Any]:
        for function in (functional.gelu, functional.relu, functional.silu, torch.tanh, torch.sigmoid):
            yield from gradients(function, tensor(221, 384))

    def norm() -> Iterable[Any]:
        yield from gradients(
            lambda *inputs: functional.layer_norm(inputs[0], (384,), *inputs[1:]),
            tensor(221, 384),
            tensor(384),
            tensor(384),
        )

    def loss() -> Iterable[Any]:
        truth = torch.arange(64) % 3
        yield functional.cross_entropy(tensor(64, 3), truth)
        yield from gradients(lambda logits: functional.cross_entropy(logits, truth, reduction="none"), tensor(64, 3))

    def lookups() -> Iterable[Any]:
        rows = (torch.arange(640) ** 2 % 101).view(64, 10)
        yield from gradients(lambda table: functional.embedding(rows, table), tensor(101, 384))

    def optimizer() -> Iterable[Any]:
        weights = tensor(384, 385).requires_grad_()
        adam = torch.optim.AdamW([weights], lr=2e-4, weight_decay=0.01, fused=True)
        for step in range(2):
            weights.grad = tensor(384, 385) * (step + 1)
            yield torch.nn.utils.clip_grad_norm_([weights], 1.0)
            adam.step()
        yield weights.detach()

    def random_numbers() -> Iterable[Any]:
        generator = torch.Generator().manual_seed(1)
        yield torch.randn(1003, generator=generator)
        yield torch.bernoulli(torch.full((1003,), 0.1), generator=generator)

    return {
        "the gradients of a linear layer": linear,
        "the gradients of attention": attention,
        "the gradients of GELU and its like": elementwise,
        "the gradients of a layer norm": norm,
        "the cross entropy": loss,
        "the gradients of an embedding": lookups,
        "AdamW": optimizer,
        "random numbers": random_numbers,
    }


# By the versions that requirements.txt pins.
EXPECTED = {
    "NumPy's exp, log, sqrt, tanh and power": "88f558c3fdfde5ee",
    "NumPy's sums": "4e3ed564ba805769",
    "OpenBLAS in double precision": "76debe85284d6aa4",
    "logistic regression": "3d336e4b6169391e",
    "a linear layer": "c25df0bfb641f462",
    "attention": "87626bf33fcc4a7d",
    "GELU and its like": "93615b9a5981e9c5",
    "a layer norm": "8f73be8ec52274f5",
    "the gradients of a linear layer": "ca738ef3f5eaccf4",
    "the gradients of attention": "bff98e5a937b85c4",
    "the gradients of GELU and its like": "a02f5dbf42ce1426",
    "the gradients of a layer norm": "2fe45b5d1abf3adc",
    "the cross entropy": "1ec68e348e5a53cd",
    "the gradients of an embedding": "3702b1041e0675aa",
    "AdamW": "a6198473d588f3bd",
    "random numbers": "e447187c726e3df7",
}
