"""Tell whether dvc.lock is true, whether DVC's cache is whole, and whether all that the lock names is in the remote.

    python -m tools.verify

The lock must match dvc.yaml, the code, the params and the data that it declares, and dvc.yaml must declare all that the
stages read. Each file of an output that is here, in the workspace or in DVC's cache, must have the content that the
lock names: DVC takes it on trust. Each must be in the default remote, with that content: by the MD5 that the bucket
keeps, or, where it keeps none, by downloading it. No output needs to be here. Prints a line for each fault and exits
with 1, or one line when all is well.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage

from repository import declared, rwlock
from repository.git import git
from tools.remote import UNREADABLE, Remote
from tweets import command, errors, files
from tweets.errors import UserError
from tweets.progress import track

CONNECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class Object:
    """A file in the remote: what a user calls it, and its name there, which is the MD5 of its content."""

    path: str
    oid: str

    @property
    def md5(self) -> str:
        return self.oid.removesuffix(".dir")


def undeclared(stage: str, entry: dict[str, Any], root: Path) -> Iterator[str]:
    """Yield what a stage reads and dvc.yaml, where it is `entry`, does not declare, and the reverse."""
    deps = {dep for dep in entry.get("deps", []) if isinstance(dep, str)}
    code = declared.code(stage, root)
    if not code:
        yield f"{stage}: there is no stages/{stage}.py"
        return
    if entry.get("cmd") != f"python -m stages.{stage}":
        yield f"{stage}: its command in dvc.yaml is {entry.get('cmd')!r}, needs 'python -m stages.{stage}'"
    code |= {"requirements.txt"}  # which every stage reads
    for path in sorted(code - deps):
        yield f"{stage}: reads {path}, which is not among its deps in dvc.yaml"
    for path in sorted(dep for dep in deps - code if dep.endswith(".py")):
        yield f"{stage}: does not read {path}, which is among its deps in dvc.yaml"
    params = {name for name in entry.get("params", []) if isinstance(name, str)}
    for name in sorted(declared.params(stage, root) - params):
        yield f"{stage}: reads the section {name} of params.yaml, which is not among its params in dvc.yaml"
    outs = {
        next(iter(out)) if isinstance(out, dict) else out
        for kind in ("outs", "metrics", "plots")
        for out in entry.get(kind, [])
    }
    for path in sorted(declared.data(stage, root)):
        if not any(lies_in(path, other) or lies_in(other, path) for other in deps | outs):
            yield f"{stage}: reads or writes {path}, which is neither a dep nor an out of it in dvc.yaml"


def lies_in(path: str, folder: str) -> bool:
    """Tell whether a path is a folder or lies in it."""
    return Path(path).is_relative_to(folder)


def stale(stage: PipelineStage, locked: dict[str, Any], made: dict[str, str]) -> Iterator[str]:
    """Yield where a stage and its entry in dvc.lock differ; `made` holds the hash of every stage's output there."""
    if stage.cmd_changed:
        yield f"{stage.name}: its command is {stage.cmd!r}, dvc.lock has {locked.get('cmd')!r}"
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            yield from stale_params(stage.name, dep)
        else:
            yield from stale_dependency(stage.name, dep, made)
    for kind, named in named_in(stage).items():
        for name in sorted(named_in_lock(locked)[kind] - named):
            yield f"{stage.name}: dvc.lock has {name} among its {kind}, dvc.yaml has not"
    for out in stage.outs:
        if not out.hash_info:
            yield f"{stage.name}: its output {out} is not in dvc.lock"
        elif out.exists and out.workspace_status():
            yield f"{stage.name}: its output {out} was changed after it was made"
        elif not out.use_cache and not out.exists:
            yield f"{stage.name}: its output {out} belongs into Git and is not there"


def named_in(stage: PipelineStage) -> dict[str, set[str]]:
    """Return the names of a stage's deps, params and outs in dvc.yaml."""
    return {
        "deps": {normpath(str(dep)) for dep in stage.deps},
        "params": {name for dep in stage.deps if isinstance(dep, ParamsDependency) for name in dep.params},
        "outs": {str(out) for out in stage.outs},
    }


def named_in_lock(locked: dict[str, Any]) -> dict[str, set[str]]:
    """Return the names of a stage's deps, params and outs in its entry of dvc.lock."""
    return {
        "deps": {normpath(entry["path"]) for entry in locked.get("deps", [])},
        "params": {name for values in locked.get("params", {}).values() for name in values},
        "outs": {entry["path"] for entry in locked.get("outs", [])},
    }


def stale_params(stage: str, dep: ParamsDependency) -> Iterator[str]:
    """Yield the params of a stage whose values in the file and in dvc.lock differ."""
    here, locked = (
        dict(declared.leaves(content)) for content in (dep.read_params(), dep.hash_info.value if dep.hash_info else {})
    )
    for name in dict.fromkeys([*here, *locked]):
        if name not in here:
            yield f"{stage}: the param {name} is not in {dep}"
        elif name not in locked:
            yield f"{stage}: the param {name} is not in dvc.lock"
        elif here[name] != locked[name]:
            yield f"{stage}: the param {name} is {here[name]!r}, dvc.lock has {locked[name]!r}"


def stale_dependency(stage: str, dep: Output, made: dict[str, str]) -> Iterator[str]:
    """Yield how a file or folder that a stage depends on differs from dvc.lock."""
    path, locked = str(dep), dep.hash_info.value if dep.hash_info else None
    if not locked:
        yield f"{stage}: its dependency {path} is not in dvc.lock"
    elif path in made:  # the output of another stage: need not be in the workspace
        if locked != made[path]:
            yield f"{stage}: was not run on the {path} that dvc.lock has of the stage before it"
    elif not dep.exists:
        yield f"{stage}: its dependency {path} is not there"
    elif dep.get_hash().value != locked:
        yield f"{stage}: {path} is not the one that dvc.lock has"


def tracked(root: Path) -> set[str]:
    """Return the paths that Git tracks."""
    return set(git("ls-files", "-z", folder=root).split("\0"))


def check_lock(repo: Repo) -> list[str]:
    """Return a line for each way in which dvc.lock and dvc.yaml are not true."""
    root = Path(repo.root_dir)
    stages = {stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage)}
    pipeline = files.read_yaml(root / "dvc.yaml")["stages"]
    lock = root / "dvc.lock"
    locked = files.read_yaml(lock)["stages"] if lock.exists() else {}
    made = {str(out): out.hash_info.value for stage in repo.index.stages for out in stage.outs}
    faults = [f"dvc.lock has the stage {name}, dvc.yaml has not" for name in sorted(locked.keys() - stages.keys())]
    for stage in repo.index.stages:
        if not isinstance(stage, PipelineStage):  # data that `dvc add` tracks
            faults += [
                f"{out}: not the one that {stage.path_in_repo} has"
                for out in stage.outs
                if out.exists and out.workspace_status()
            ]
    in_git = tracked(root)
    for name, stage in stages.items():
        if name not in pipeline:
            faults.append(f"{name}: not a plain stage of dvc.yaml in the root; only those can be checked")
            continue
        faults += undeclared(name, pipeline[name], root)
        for out in stage.outs:
            if not out.use_cache and out.exists and str(out) not in in_git:
                faults.append(f"{name}: its output {out} belongs into Git, which does not track it")
        if name in locked:
            faults += stale(stage, locked[name], made)
        else:
            faults.append(f"{name}: not in dvc.lock; it was never run")
    return faults


def tops_of(repo: Repo) -> list[Object]:
    """Return the outputs that DVC keeps."""
    outs = [out for stage in repo.index.stages for out in stage.outs if out.use_cache and out.hash_info]
    return [Object(path=str(out), oid=out.hash_info.value) for out in outs]


def check_content(repo: Repo) -> list[str]:
    """Return a line for each file in DVC's cache, and in the workspace, that a disk has changed.

    DVC itself knows a file by its time and size, so it checks out what is damaged, and calls it up to date.
    """
    cache, faults = repo.cache.local, []
    for top in tops_of(repo):
        listing = Path(cache.oid_to_path(top.oid))
        inside = [top]
        if top.oid.endswith(".dir"):
            if not listing.is_file():
                continue
            if md5_of(listing) == top.md5:
                inside += files_of(top, listing.read_bytes())
        for item in inside:
            kept, here = Path(cache.oid_to_path(item.oid)), Path(repo.root_dir, item.path)
            if kept.is_file() and (found := md5_of(kept)) != item.md5:
                heal = "delete that, then `dvc pull`; if it is in no remote, `dvc repro --force` makes it again"
                faults.append(f"{item.path}: damaged in DVC's cache ({kept} has MD5 {found}); {heal}")
            if here.is_file() and md5_of(here) != item.md5:
                faults.append(f"{item.path}: not as dvc.lock has it; delete it, then `dvc checkout`")
    return faults


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def md5_in(objects: Any, oid: str) -> str | None:
    """Return the MD5, in hexadecimal, of an object's content in the remote, or None where there is no such object."""
    fs, path = objects.fs, objects.oid_to_path(oid)
    try:
        info = fs.info(path)
        if "md5Hash" in info:
            return base64.b64decode(info["md5Hash"]).hex()
        with fs.open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        return None


def files_of(folder: Object, listing: bytes) -> list[Object]:
    """Return the files of a tracked folder, from the listing that DVC keeps of it."""
    return [Object(path=f"{folder.path}/{file['relpath']}", oid=file["md5"]) for file in json.loads(listing)]


def check_remote(repo: Repo) -> tuple[list[str], str]:
    """Return a line for each object that the remote lacks or holds with other content, and what was checked.

    Raises UserError when the remote cannot be read.
    """
    remote = Remote(repo)
    remote.check()
    objects = remote.objects
    faults = [] if remote.settings.get("verify") else [f".dvc/config: the remote {remote.name} needs `verify = true`"]
    tops = tops_of(repo)
    try:
        verdicts = faults_of(objects, tops)
        whole = [top for top, fault in zip(tops, verdicts, strict=True) if top.oid.endswith(".dir") and not fault]
        inside = [file for top in whole for file in files_of(top, objects.fs.cat_file(objects.oid_to_path(top.oid)))]
        verdicts += faults_of(objects, inside)
    except UNREADABLE as error:
        raise remote.refused(error) from None
    checked = f"all {len(tops) + len(inside)} objects of its {len(tops)} outputs are in {remote.url}"
    return faults + [fault for fault in verdicts if fault], checked


def faults_of(objects: Any, wanted: list[Object]) -> list[str | None]:
    """Return for each wanted object what is wrong with it in the remote, or None."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asked = pool.map(lambda item: md5_in(objects, item.oid), wanted)
        hashes = list(track(asked, total=len(wanted), desc="verify", unit="objects", leave=False))
    return [fault_of(objects, item, md5) for item, md5 in zip(wanted, hashes, strict=True)]


def fault_of(objects: Any, item: Object, md5: str | None) -> str | None:
    """Return what is wrong with an object whose content was found to have an MD5, or None."""
    where = objects.fs.unstrip_protocol(objects.oid_to_path(item.oid))
    if md5 is None:
        return f"{item.path}: not in the remote ({where}); `dvc push` from where it was made"
    if md5 != item.md5:
        return f"{item.path}: other content in the remote ({where} has MD5 {md5}); delete that, then `dvc push`"
    return None


def main() -> None:
    rwlock.heal(Path())
    checked = ""
    try:
        with Repo() as repo:
            faults = check_lock(repo) + check_content(repo)
            try:
                in_remote, checked = check_remote(repo)
                faults += in_remote
            except UserError as error:
                if not faults:
                    raise
                faults.append(str(error))
    except DvcException as error:
        raise UserError(errors.one_line(error)) from None
    if faults:
        sys.exit("\n".join(f"verify: {fault}" for fault in faults))
    print(f"verify: OK: dvc.lock matches code, params and data; {checked}, with its content")


if __name__ == "__main__":
    command.run("verify", main, __doc__)
