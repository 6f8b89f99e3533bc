"""`make verify` finds each way in which dvc.lock or the remote can be untrue, and is silent on a good tree."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from tests.support.clones import point_at, run
from tests.support.made_up import set_param
from tools import gcs, verify
from tweets.errors import UserError

pytestmark = pytest.mark.walk


def verified(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(folder, "python", "-m", "tools.verify", check=False)


def in_lock(folder: Path) -> list[str]:
    with Repo(str(folder)) as repo:
        return verify.check_lock(repo)


def in_remote(folder: Path) -> list[str]:
    with Repo(str(folder)) as repo:
        return verify.check_remote(repo)[0]


def change(path: Path, old: str, new: str) -> None:
    before = path.read_text()
    assert before.count(old) == 1, (path, old)
    path.write_text(before.replace(old, new))


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a YAML file: stages__train__cmd means stages.train.cmd; None takes the key out."""
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        if value is None:
            inner.pop(last)
        else:
            inner[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def objects(folder: Path) -> tuple[Any, str, dict[str, str]]:
    """Return a file system on the bucket, the folder of the objects in it, and the name of each output's object."""
    with Repo(str(folder)) as repo:
        outs = {str(out): out.hash_info.value for stage in repo.index.stages for out in stage.outs if out.use_cache}
        remote = repo.config["remote"]["gcs"]
    return gcs.connect(remote["endpointurl"]), f"{remote['url'].removeprefix('gs://')}/files/md5", outs


def object_of(folder: Path, path: str) -> tuple[Any, str]:
    """Return a file system on the bucket, and the object of an output or of a file in an output."""
    storage, root, outs = objects(folder)
    oid = outs.get(path)
    if not oid:
        [out] = [out for out in outs if path.startswith(f"{out}/")]
        listing = folder / ".dvc/cache/files/md5" / outs[out][:2] / outs[out][2:]
        [oid] = [file["md5"] for file in json.loads(listing.read_text()) if f"{out}/{file['relpath']}" == path]
    return storage, f"{root}/{oid[:2]}/{oid[2:]}"


def test_a_good_tree_gets_one_ok_line(shared: Path) -> None:
    result = verified(shared)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(
        r"verify: OK: dvc.lock matches .*; all \d+ objects of its 9 outputs are in gs://.*\n", result.stdout
    )
    assert result.stderr == ""


def test_a_good_tree_needs_no_data_in_the_workspace(shared: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "-q", str(shared), "b")
    shutil.copy(shared / ".dvc/config.local", tmp_path / "b/.dvc/config.local")
    assert verified(tmp_path / "b").returncode == 0


def test_each_of_six_planted_faults_is_found(shared: Path) -> None:
    """And all at once by the command, with its exit code."""
    with (shared / "stages/fetch.py").open("a") as file:
        file.write("# stale\n")
    set_param(shared, "train.lr", 0.5)
    change(shared / "dvc.yaml", "      - tweets/evaluation/behaviour.py\n", "")
    storage, missing = object_of(shared, "data/mistakes.csv")
    storage.rm_file(missing)
    storage, of_folder = object_of(shared, "models/transformer/config.json")
    storage.rm_file(of_folder)
    storage, corrupted = object_of(shared, "data/features/train/ids.npy")
    storage.pipe_file(corrupted, b"other bytes")
    result = verified(shared)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    for number, words in enumerate(
        [
            "fetch: stages/fetch.py is not the one that dvc.lock has",
            "evaluate: reads tweets/evaluation/behaviour.py, which is not among its deps in dvc.yaml",
            "evaluate: dvc.lock has tweets/evaluation/behaviour.py among its deps, dvc.yaml has not",
            "train: the param train.lr is 0.5, dvc.lock has 0.003",
            "data/mistakes.csv: not in the remote",
            "data/features/train/ids.npy: other content in the remote",
            "models/transformer/config.json: not in the remote",
        ]
    ):
        assert any(words in line for line in lines), (number, result.stderr)
    assert len(lines) == 7


def test_a_stale_first_stage(clone: Path) -> None:
    set_param(clone, "fetch.max_chars", 9999)
    assert in_lock(clone) == ["fetch: the param fetch.max_chars is 9999, dvc.lock has 10000"]


def test_changed_data_that_dvc_add_tracks(clone: Path) -> None:
    with (clone / "data/external/tweets.csv").open("a") as file:
        file.write("t1000,new tweet,positive,1.0\n")
    assert in_lock(clone) == ["data/external/tweets.csv: not the one that data/external/tweets.csv.dvc has"]
    run(clone, "dvc", "add", "-q", "data/external/tweets.csv")
    assert in_lock(clone) == [
        "fetch: was not run on the data/external/tweets.csv that dvc.lock has of the stage before it"
    ]


@pytest.mark.parametrize("spelling", ["encoder/", "./encoder", "data/../encoder"])
def test_a_path_that_dvc_spells_another_way(clone: Path, spelling: str) -> None:
    set_param(clone, "featurize.encoder", spelling)
    run(clone, "dvc", "repro", "--single-item", "featurize")
    assert [fault for fault in in_lock(clone) if fault.startswith("featurize")] == []


def test_other_weights_of_the_encoder(clone: Path) -> None:
    weights = clone / "encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert in_lock(clone) == [f"{stage}: encoder is not the one that dvc.lock has" for stage in ("featurize", "train")]


def test_a_stale_later_stage(clone: Path) -> None:
    with (clone / "stages/evaluate.py").open("a") as file:
        file.write("# stale\n")
    assert in_lock(clone) == ["evaluate: stages/evaluate.py is not the one that dvc.lock has"]


def test_a_stage_that_was_not_run_on_what_the_lock_has_of_the_one_before(clone: Path) -> None:
    lock = yaml.safe_load((clone / "dvc.lock").read_text())
    [out] = lock["stages"]["featurize"]["outs"]
    out["md5"] = "0" * 32 + ".dir"
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(clone / "data/features")
    assert in_lock(clone) == [
        f"{name}: was not run on the data/features that dvc.lock has of the stage before it"
        for name in ("train", "evaluate")
    ]


def test_an_undeclared_module_that_a_stage_reaches(clone: Path) -> None:
    (clone / "tweets/lookup.py").write_text("WORDS = 3\n")
    change(clone / "tweets/model/tfidf.py", "import numpy as np\n", "import numpy as np\n\nimport tweets.lookup\n")
    found = in_lock(clone)
    for stage in ("baseline", "evaluate"):
        assert f"{stage}: reads tweets/lookup.py, which is not among its deps in dvc.yaml" in found
        assert f"{stage}: tweets/model/tfidf.py is not the one that dvc.lock has" in found
    assert len(found) == 4


def test_an_undeclared_module_that_is_imported_relatively_or_from_elsewhere(clone: Path) -> None:
    (clone / "tweets/model/lookup.py").write_text("WORDS = 3\n")
    with (clone / "tweets/model/tfidf.py").open("a") as file:
        file.write("\nfrom . import lookup\nfrom ..data.dataset import TEST\nfrom tools import results\n")
    found = in_lock(clone)
    for module in ("tweets/model/lookup.py", "tools/results.py", "tools/__init__.py"):
        assert f"baseline: reads {module}, which is not among its deps in dvc.yaml" in found


def test_undeclared_libraries(clone: Path) -> None:
    for name in ("dvc.yaml", "dvc.lock"):
        content = yaml.safe_load((clone / name).read_text())
        deps = content["stages"]["fetch"]["deps"]
        deps[:] = [
            dep for dep in deps if "requirements.txt" not in (dep, dep["path"] if isinstance(dep, dict) else dep)
        ]
        (clone / name).write_text(yaml.safe_dump(content, sort_keys=False))
    assert in_lock(clone) == ["fetch: reads requirements.txt, which is not among its deps in dvc.yaml"]


def test_a_metric_that_git_does_not_track(clone: Path) -> None:
    run(clone, "git", "rm", "-q", "--cached", "metrics/train.json")
    assert in_lock(clone) == ["train: its output metrics/train.json belongs into Git, which does not track it"]


def test_stages_of_other_kinds(clone: Path) -> None:
    convert = {"cmd": "python -m stages.convert", "matrix": {"kind": ["onnx"]}}
    (clone / "other").mkdir()
    (clone / "other/dvc.yaml").write_text(yaml.safe_dump({"stages": {"extra": {"cmd": "true"}}}))
    edit(clone / "dvc.yaml", stages__convert=convert)
    assert sorted(in_lock(clone)) == [
        f"{name}: not a plain stage of dvc.yaml in the root; only those can be checked"
        for name in ("convert@onnx", "extra")
    ]


def test_a_stage_that_is_not_python(clone: Path) -> None:
    with (clone / "stages/train.py").open("a") as file:
        file.write("\ndef broken(:\n")
    with pytest.raises(UserError, match=r"stages/train\.py: line \d+: invalid syntax"):
        in_lock(clone)


def test_an_undeclared_file_of_data(clone: Path) -> None:
    with (clone / "stages/baseline.py").open("a") as file:
        file.write('\nWORDS = Path("data/lookup/words.txt")\n')
    assert (
        "baseline: reads or writes data/lookup/words.txt, which is neither a dep nor an out of it in dvc.yaml"
        in in_lock(clone)
    )


def test_an_undeclared_param(clone: Path) -> None:
    change(clone / "dvc.yaml", "    params:\n      - train\n", "")
    assert in_lock(clone) == [
        "train: reads the section train of params.yaml, which is not among its params in dvc.yaml",
        "train: dvc.lock has train among its params, dvc.yaml has not",
    ]


def test_a_dependency_that_no_stage_reads(clone: Path) -> None:
    edit(
        clone / "dvc.yaml",
        stages__fetch__deps=[
            *yaml.safe_load((clone / "dvc.yaml").read_text())["stages"]["fetch"]["deps"],
            "tweets/predict.py",
        ],
    )
    assert in_lock(clone) == [
        "fetch: does not read tweets/predict.py, which is among its deps in dvc.yaml",
        "fetch: its dependency tweets/predict.py is not in dvc.lock",
    ]


def test_another_command(clone: Path) -> None:
    edit(clone / "dvc.yaml", stages__train__cmd="python -m stages.train --fast")
    assert in_lock(clone) == [
        "train: its command in dvc.yaml is 'python -m stages.train --fast', needs 'python -m stages.train'",
        "train: its command is 'python -m stages.train --fast', dvc.lock has 'python -m stages.train'",
    ]


def test_stages_in_one_file_only(clone: Path) -> None:
    edit(clone / "dvc.lock", stages__export=None)
    [line] = [line for line in in_lock(clone) if "dvc.lock" in line and "output" not in line]
    assert line == "export: not in dvc.lock; it was never run"
    (clone / "dvc.lock").unlink()
    assert len([line for line in in_lock(clone) if "never run" in line]) == 7


def test_a_stage_that_is_only_in_the_lock(clone: Path) -> None:
    edit(clone / "dvc.lock", stages__convert={"cmd": "python -m stages.convert"})
    assert in_lock(clone) == ["dvc.lock has the stage convert, dvc.yaml has not"]


def test_a_metric_that_was_edited_by_hand(clone: Path) -> None:
    metrics = clone / "metrics/evaluate.json"
    metrics.write_text(metrics.read_text().replace("accuracy", "Accuracy", 1))
    assert in_lock(clone) == ["evaluate: its output metrics/evaluate.json was changed after it was made"]
    metrics.unlink()
    assert in_lock(clone) == ["evaluate: its output metrics/evaluate.json belongs into Git and is not there"]


def test_an_output_that_was_edited_by_hand(clone: Path) -> None:
    path = clone / "models/baseline/model.json"
    path.unlink()
    path.write_text("{}")
    assert in_lock(clone) == ["baseline: its output models/baseline was changed after it was made"]


def test_a_missing_object_of_a_whole_folder(shared: Path) -> None:
    storage, listing = object_of(shared, "data/prepared")
    storage.rm_file(listing)
    [line] = in_remote(shared)
    assert line.startswith("data/prepared: not in the remote (gs://")
    run(shared, "dvc", "push")
    assert in_remote(shared) == []


def test_a_corrupted_object_is_found_and_refused_by_pull(shared: Path, tmp_path: Path) -> None:
    storage, path = object_of(shared, "models/transformer/config.json")
    storage.pipe_file(path, b"{}")
    [line] = in_remote(shared)
    assert line.startswith("models/transformer/config.json: other content in the remote (gs://")
    run(tmp_path, "git", "clone", "-q", str(shared), "b")
    shutil.copy(shared / ".dvc/config.local", tmp_path / "b/.dvc/config.local")
    assert run(tmp_path / "b", "dvc", "pull", check=False).returncode != 0
    assert not (tmp_path / "b/models/transformer/config.json").exists()


def test_a_remote_that_does_not_verify_what_is_pulled(shared: Path) -> None:
    change(shared / ".dvc/config", "verify = true", "verify = false")
    assert in_remote(shared) == [".dvc/config: the remote gcs needs `verify = true`"]


def test_a_remote_that_keeps_no_md5_is_read(clone: Path, tmp_path: Path) -> None:
    (clone / ".dvc/config.local").write_text(
        f"[core]\n    remote = gcs\n['remote \"gcs\"']\n    url = {tmp_path / 'remote'}\n"
    )
    run(clone, "dvc", "push")
    assert in_remote(clone) == []
    [big] = sorted((tmp_path / "remote/files/md5").rglob("*"), key=lambda path: path.stat().st_size)[-1:]
    big.chmod(0o644)
    big.write_bytes(b"other")
    [line] = in_remote(clone)
    assert "model.safetensors: other content in the remote" in line


def test_a_remote_that_is_not_there(clone: Path, bucket: str) -> None:
    point_at(clone, bucket, url="gs://nobody-has-this/x")
    with pytest.raises(UserError, match="there is no bucket nobody-has-this"):
        in_remote(clone)


def damaged(path: Path) -> None:
    """Flip a bit, as a disk does: neither time nor size tell of it."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_bit_is_found_in_the_cache_and_in_the_workspace(shared: Path) -> None:
    weights = shared / "models/transformer/model.safetensors"
    oid = verify.md5_of(weights)
    kept = shared / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    damaged(kept)
    weights.unlink()
    run(shared, "dvc", "checkout")
    assert run(shared, "dvc", "status").stdout == "Data and pipelines are up to date.\n"  # DVC's word
    lines = verified(shared).stderr.splitlines()
    name = "models/transformer/model.safetensors"
    heal = "delete that, then `dvc pull`; if it is in no remote, `dvc repro --force` makes it again"
    assert lines == [
        f"verify: {name}: damaged in DVC's cache ({kept} has MD5 {verify.md5_of(kept)}); {heal}",
        f"verify: {name}: not as dvc.lock has it; delete it, then `dvc checkout`",
    ]
    kept.unlink()
    weights.unlink()
    run(shared, "dvc", "pull")
    assert verify.md5_of(weights) == oid
    assert verified(shared).returncode == 0


def test_a_damaged_cache_is_told_without_a_remote(clone: Path) -> None:
    [listing] = [path for path in (clone / ".dvc/cache/files/md5").rglob("*.dir") if b"model.onnx" in path.read_bytes()]
    damaged(listing)
    lines = verified(clone).stderr.splitlines()
    assert lines[0].startswith("verify: models/onnx: damaged in DVC's cache (")
    assert len(lines) == 2


def test_a_lock_with_marks_of_a_merge(clone: Path) -> None:
    with (clone / "dvc.lock").open("a") as file:
        file.write("<<<<<<< HEAD\n")
    result = verified(clone)
    assert result.returncode == 1
    assert "dvc.lock" in result.stderr
    assert len(result.stderr.splitlines()) == 1
