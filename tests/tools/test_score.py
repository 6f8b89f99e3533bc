"""`python -m tools.score`: many files, labelled on all cores or by Ray, with a kill, a loss or a fault at any point."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import psutil
import pytest

from tests.support.clones import BUCKET, ENVIRONMENT, ROOT, run, wait_for
from tests.support.made_up import made_up_tweets
from tools.gcs import connect
from tools.score import __main__ as score
from tools.score import shards
from tweets import files
from tweets.data.table_files import Dialect
from tweets.model import exported

RAY = str(Path(sys.executable).with_name("ray"))
NAMES = ("a.parquet", "b.csv", "c.tsv")
BAD = {3: None, 5: " ", 7: "a" * 10_001}


@pytest.fixture
def here(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: with an exported model, and a file of each kind to label."""
    shutil.copytree(reproduced / "models/onnx", tmp_path / "models/onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write(tmp_path / "in", *NAMES)
    return tmp_path


def write(folder: Path, *names: str, rows: int = 40) -> None:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        frame = made_up_tweets(rows, seed=seed)[["id", "text"]]
        if seed == 0:
            frame["text"] = [BAD.get(number, text) for number, text in enumerate(frame["text"])]
        if name.endswith(".parquet"):
            frame.to_parquet(folder / name, index=False)
        else:
            frame.to_csv(folder / name, index=False, sep="\t" if name.endswith(".tsv") else ",")


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def call(folder: Path, *more: str, check: bool = True, **changed: str) -> subprocess.CompletedProcess[str]:
    command = ("python", "-m", "tools.score", "in", "out", *more)
    return run(folder, *command, check=check, PYTHONPATH=str(ROOT), **changed)


def outputs(folder: Path) -> dict[str, bytes]:
    [version] = (folder / "out").iterdir()
    return {path.name: path.read_bytes() for path in sorted(version.iterdir())}


def test_each_file_has_its_rows_in_their_order_with_what_the_model_says(here: Path) -> None:
    done = call(here)
    assert list(outputs(here)) == list(NAMES)
    [version] = (here / "out").iterdir()
    model = exported.load(here / "models/onnx", threads=1)
    for name in NAMES:
        given, found = read(here / "in" / name), read(version / name)
        assert list(found.columns[:2]) == ["id", "text"]
        assert found["id"].tolist() == given["id"].tolist()
        bad = list(BAD) if name == "a.parquet" else []
        good = [number for number in range(len(given)) if number not in bad]
        probabilities = model.predict(given["text"].iloc[good].tolist())
        assert found["predicted"].iloc[good].tolist() == [model.labels[k] for k in probabilities.argmax(1)]
        shown = found.iloc[good][[f"p_{label}" for label in model.labels]].to_numpy(float)
        assert np.abs(shown - probabilities).max() < 1e-6
        assert found["predicted"].iloc[bad].isna().all()
        assert found["unlabelled"].iloc[bad].tolist() == ["no text", "no text", "over 10,000 characters"][: len(bad)]
        assert found["unlabelled"].iloc[good].isna().all()
    manifest = json.loads((here / "scores.json").read_text())
    assert [(file["name"], file["rows"]) for file in manifest["files"]] == [(name, 40) for name in NAMES]
    assert (manifest["rows"], manifest["unlabelled"]) == (120, {"no text": 2, "over 10,000 characters": 1})
    assert "120 rows, 3 without a label: 2 with no text; 1 with over 10,000 characters" in done.stdout


def test_it_does_what_is_missing_and_nothing_else(here: Path) -> None:
    call(here)
    first, manifest = outputs(here), (here / "scores.json").read_bytes()
    [version] = (here / "out").iterdir()
    (version / "b.csv").unlink()
    (here / "scores.json").unlink()
    times = {name: (version / name).stat().st_mtime_ns for name in ("a.parquet", "c.tsv")}
    assert "3 files, 2 of them done before" in call(here).stdout
    assert outputs(here) == first
    assert (here / "scores.json").read_bytes() == manifest
    assert {name: (version / name).stat().st_mtime_ns for name in times} == times


def test_another_model_or_column_writes_elsewhere(here: Path) -> None:
    checksum = "0" * 64
    dialect = shards.WRITTEN
    versions = {
        score.version(checksum, "text", dialect),
        score.version("1" * 64, "text", dialect),
        score.version(checksum, "tweet", dialect),
        score.version(checksum, "text", Dialect()),
    }
    assert len(versions) == 4
    assert score.version(checksum, "text", dialect) in versions


def job(folder: Path, output: str, **changed: Any) -> shards.Job:
    checksum = files.sha256(folder / "models/onnx" / exported.CHECKSUMS)
    given = {"model": folder / "models/onnx", "checksum": checksum, "column": "text", "dialect": Dialect()}
    return shards.Job(output=output, **{**given, **changed})


def test_a_model_that_changes_in_between_is_told(here: Path) -> None:
    shards.model.cache_clear()
    with pytest.raises(ValueError, match=r"checksums.json: SHA-256 is .*, needs 0000"):
        shards.score(job(here, str(here / "out"), checksum="0" * 64), str(here / "in/b.csv"))
    assert not (here / "out/b.csv").exists()


def test_a_file_that_is_there_already_stays(here: Path) -> None:
    """As where two runs write the same one, and where a process writes that everybody thought dead."""
    (here / "out").mkdir()
    (here / "new").write_text("of the second")
    for content in ("of the first", "of the second"):
        (here / "new").write_text(content)
        shards.place(fsspec.filesystem("file"), here / "new", str(here / "out/b.csv"))
    assert [path.name for path in (here / "out").iterdir()] == ["b.csv"]
    assert (here / "out/b.csv").read_text() == "of the first"


@pytest.mark.walk
def test_an_object_in_a_bucket_is_written_once(here: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = connect(bucket)
    (here / "new").write_text("of the first")
    shards.place(storage, here / "new", f"{BUCKET}/once/b.csv")
    generation = storage.info(f"{BUCKET}/once/b.csv")["generation"]
    (here / "new").write_text("of the second")
    shards.place(storage, here / "new", f"{BUCKET}/once/b.csv")
    storage.invalidate_cache()
    assert storage.info(f"{BUCKET}/once/b.csv")["generation"] == generation
    assert storage.cat(f"{BUCKET}/once/b.csv") == b"of the first"


@pytest.mark.walk
def test_from_a_bucket_into_a_bucket_is_as_from_a_folder(here: Path, bucket: str) -> None:
    call(here)
    storage = connect(bucket)
    storage.put(str(here / "in") + "/", f"{BUCKET}/in/", recursive=True)
    address = {"STORAGE_EMULATOR_HOST": bucket, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    command = ("python", "-m", "tools.score", f"gs://{BUCKET}/in", f"gs://{BUCKET}/out", "--manifest", "bucket.json")
    run(here, *command, check=True, PYTHONPATH=str(ROOT), **address)
    storage.invalidate_cache()
    found = {path.rsplit("/", 1)[-1]: storage.cat(path) for path in storage.find(f"{BUCKET}/out")}
    assert found == outputs(here)
    folder, of_bucket = (json.loads((here / name).read_text()) for name in ("scores.json", "bucket.json"))
    assert folder["files"] == of_bucket["files"]


@pytest.mark.walk
@pytest.mark.parametrize("cluster", ["", "local"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(here: Path, cluster: str) -> None:
    write(here / "in", *(f"{number:02}.csv" for number in range(12)), rows=400)
    call(here)
    expected, manifest = outputs(here), (here / "scores.json").read_bytes()
    shutil.rmtree(here / "out")
    (here / "scores.json").unlink()
    command = [sys.executable, "-m", "tools.score", "in", "out"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "TWEETS_CLUSTER": cluster}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for(lambda: len(list((here / "out").glob("*/[!.]*"))) >= 2, 300)
        process.kill()
    assert not (here / "scores.json").exists()
    assert len(outputs(here)) < len(expected)
    call(here, TWEETS_CLUSTER=cluster)
    assert outputs(here) == expected
    assert (here / "scores.json").read_bytes() == manifest


@pytest.mark.walk
def test_a_killed_worker_of_ray_is_replaced(here: Path) -> None:
    write(here / "in", *(f"{number:02}.csv" for number in range(12)), rows=400)
    call(here)
    expected = outputs(here)
    shutil.rmtree(here / "out")
    command = [sys.executable, "-m", "tools.score", "in", "out"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "TWEETS_CLUSTER": "local"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: list((here / "out").glob("*/[!.]*")), 300)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.name().startswith("ray::_perform")
        ]
        assert workers
        workers[0].kill()
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    assert outputs(here) == expected


@contextlib.contextmanager
def machine(place: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run what a machine of a Ray cluster runs, in a folder without this repository's code."""
    place.mkdir()
    command = [RAY, "start", "--block", "--num-cpus=2", *options]
    with subprocess.Popen(command, cwd=place, env=os.environ, stdout=subprocess.DEVNULL, start_new_session=True) as ray:
        try:
            yield ray
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(ray.pid, signal.SIGKILL)


@pytest.mark.walk
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_cluster_gives_the_same_bytes_also_where_a_machine_is_lost(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two machines of a cluster, on this one: they get the code from here, and one is killed at work."""
    write(here / "in", *(f"{number:02}.csv" for number in range(30)), rows=400)
    call(here)
    expected = outputs(here)
    shutil.rmtree(here / "out")
    monkeypatch.delenv("PYTHONPATH")
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = ("--head", f"--port={address.split(':')[1]}", "--include-dashboard=false")
    environment = {**ENVIRONMENT, **os.environ, "TWEETS_CLUSTER": address}
    given = [str(here / "in"), str(here / "out"), "--model", str(here / "models/onnx")]
    command = [sys.executable, "-m", "tools.score", *given, "--manifest", str(here / "scores.json")]
    with machine(tmp_path / "head", *head), machine(tmp_path / "other", f"--address={address}") as other:
        wait_for(lambda: nodes(address) == 2, 120)
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
            wait_for(lambda: len(list((here / "out").glob("*/[!.]*"))) >= 2, 300)
            os.killpg(other.pid, signal.SIGKILL)
            _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    assert outputs(here) == expected


def nodes(address: str) -> int:
    """Return how many machines a cluster has, 0 while it starts."""
    found = subprocess.run([RAY, "status", f"--address={address}"], capture_output=True, text=True, check=False)
    return found.stdout.count("1 node_")


@pytest.mark.walk
def test_two_runs_at_once_write_each_file_once(here: Path) -> None:
    call(here)
    expected = outputs(here)
    shutil.rmtree(here / "out")
    command = [sys.executable, "-m", "tools.score", "in", "out", "--manifest"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([*command, name], env=environment, stdout=subprocess.DEVNULL) for name in ("1.json", "2.json")
    ]
    assert [process.wait(300) for process in both] == [0, 0]
    assert outputs(here) == expected
    assert (here / "1.json").read_bytes() == (here / "2.json").read_bytes()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: os.truncate(folder / "in/a.parquet", 500), "in/a.parquet: cannot be read as a table"),
        (lambda folder: (folder / "in/c.tsv").write_text("id\n1\n"), "in/c.tsv: no column 'text'"),
        (lambda folder: (folder / "in/d.jsonl").write_text('{"text": "a"}\n'), "in/d.jsonl: needs a name that ends in"),
        (lambda folder: shutil.rmtree(folder / "in"), "INPUT = in: no such file or folder"),
        (lambda folder: shutil.rmtree(folder / "models"), "models/onnx: no exported model there; `dvc repro`"),
        (lambda folder: (folder / "in/b.csv").write_text("text,unlabelled\na,b\n"), "a column 'unlabelled' already"),
    ],
)
def test_what_cannot_be_scored_is_told_in_one_line(here: Path, break_it: Any, message: str) -> None:
    break_it(here)
    done = call(here, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "scores.json").exists()


@pytest.mark.parametrize("given", [("in", ""), ("", "out"), ("", "")])
def test_without_a_folder_nothing_is_labelled(here: Path, given: tuple[str, str]) -> None:
    done = run(here, "python", "-m", "tools.score", *given, check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert "make score INPUT=folder OUTPUT=folder" in done.stderr
    assert not (here / "scores.json").exists()


def test_a_damaged_output_is_told(here: Path) -> None:
    call(here)
    [version] = (here / "out").iterdir()
    os.truncate(version / "a.parquet", 500)
    done = call(here, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "a.parquet: damaged" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_input_that_has_changed_since_is_told(here: Path, name: str) -> None:
    call(here)
    changed = read(here / "in" / name)
    changed.loc[10, "text"] = "something else"
    path = here / "in" / name
    if name.endswith(".parquet"):
        changed.to_parquet(path, index=False)
    else:
        changed.to_csv(path, index=False, sep="\t" if name.endswith(".tsv") else ",")
    done = call(here, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{name}: has other texts than the input has now; delete it" in done.stderr


def test_temporary_files_of_killed_runs_go_when_they_are_old(here: Path) -> None:
    folder = here / "out"
    folder.mkdir()
    old, young = folder / f".a.csv.1{shards.STAGED}", folder / f".b.csv.2{shards.STAGED}"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    shards.remove_staged(fsspec.filesystem("file"), str(folder))
    assert list(folder.iterdir()) == [young]


@pytest.mark.walk
def test_ctrl_c_leaves_no_process_and_no_manifest(here: Path) -> None:
    write(here / "in", *(f"{number:02}.csv" for number in range(12)), rows=400)
    command = [sys.executable, "-m", "tools.score", "in", "out"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: list((here / "out").glob("*/[!.]*")), 300)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=300)
    assert (process.returncode, error.decode()) == (1, "score: interrupted\n")
    assert not any(worker.is_running() for worker in workers)
    assert not (here / "scores.json").exists()


def test_without_ray_a_cluster_is_refused_in_one_line(here: Path) -> None:
    (here / "ray.py").write_text("raise ImportError")
    done = run(
        here,
        *("python", "-m", "tools.score", "in", "out"),
        check=False,
        PYTHONPATH=f"{here}{os.pathsep}{ROOT}",
        TWEETS_CLUSTER="local",
    )
    assert done.stderr == (
        "score: TWEETS_CLUSTER = local: Ray is not installed; `pip install -r requirements-cluster.txt` does that\n"
    )


@pytest.mark.walk
def test_the_stage_of_the_page_labels_what_has_changed(clone: Path) -> None:
    page = (ROOT / "docs/scale.md").read_text()
    [stage] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (clone / "scoring").mkdir()
    (clone / "scoring/dvc.yaml").write_text(stage)
    write(clone / "data/new", *NAMES)
    for begun in (True, False):
        done = run(clone, "dvc", "repro", "scoring/dvc.yaml")
        assert ("Running stage 'scoring/dvc.yaml:score'" in done.stdout) is begun
        assert json.loads((clone / "scoring/scores.json").read_text())["rows"] == 40 * len(NAMES)
