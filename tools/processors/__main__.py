"""Run the pipeline, shrunk, as other processors would run it, and compare the bytes that each stage writes.

    python -m tools.processors [--by cpuid|qemu] [PROCESSOR ...]

The pipeline is HEAD's, with all its stages. The data are 144 short tweets, for two steps of training, and the encoder
is the default one without its upper layers. It runs on this processor first. Prints a hash of each stage's outputs, and
exits with 1 where one differs.

    qemu   QEMU emulates each instruction of the processor: minutes for each
    cpuid  this processor answers CPUID as the other would, so libraries choose their code for that one: a minute for
           each, on Linux, on a processor that can make CPUID fault (`grep cpuid_fault /proc/cpuinfo`)

Needs Debian's qemu-user; cpuid needs gcc too.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repository import isolated
from repository.git import git
from tweets import command, files
from tweets.data import sources
from tweets.errors import UserError, plural
from tweets.model import pretrained
from tweets.model.portable import processor

ROOT = Path.cwd()
CPUID = Path(__file__).with_name("cpuid.c")
DATA = Path("tweets.parquet")
WHOLE = "data/encoders/all-minilm-l6-v2.yaml"
ENCODER = Path("encoder")
LAYERS = 2  # of WHOLE's: the last computes the first token only, and all before it are alike
ROWS = 48  # of each label, the shortest: under QEMU a training step of the default encoder takes minutes
THIS = "this processor"
STAGE = re.compile(r"^Running stage '(\w+)'", re.MULTILINE)
SECONDS_BETWEEN_LOOKS = 0.2
IDENTITY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "processors"), ("EMAIL", "processors@localhost"))
}


@dataclass(frozen=True)
class Processor:
    """Another processor: QEMU's name of its model with changes, and how many of this machine's cores it has."""

    model: str
    cores: int | None = None  # None: all


# Of Intel and AMD, without AVX-512, which QEMU lacks; the last has other caches, and one core.
PROCESSORS = {
    "Haswell": Processor("Haswell"),
    "Skylake-Client": Processor("Skylake-Client"),
    "Cascadelake": Processor("Cascadelake-Server,-avx512f"),
    "EPYC": Processor("EPYC"),
    "EPYC-Rome": Processor("EPYC-Rome"),
    "EPYC-Milan": Processor("EPYC-Milan"),
    "one-core": Processor("EPYC-Rome,l3-cache=off", cores=1),
}


def shrunk(params: dict[str, Any]) -> dict[str, Any]:
    """Return params.yaml for DATA and ENCODER. Dropout and the embeddings' gradients, off by default, are on."""
    changes = {
        "fetch": {"source": "csv", "path": str(DATA)},
        "prepare": {"valid": 0.09, "test": 0.09},
        "featurize": {"encoder": str(ENCODER)},
        "baseline": {"min_df": 1},
        "train": {"epochs": 1, "min_steps": 1, "evaluations": 1, "log_every": 1, "dropout": 0.1}
        | {"freeze_embeddings": False},
        "evaluate": {"resamples": 100},
    }
    return {name: section | changes.get(name, {}) for name, section in params.items()}


def shrink(clone: Path) -> None:
    """Make a clone of HEAD small, and commit that. Its own results go, so that every stage has to run."""
    git("clone", "--quiet", str(ROOT), str(clone))
    rows = sources.crowdflower().rows.drop_duplicates("text")
    shortest = rows["text"].str.len().sort_values(kind="stable").index
    few = rows.loc[shortest].groupby("label").head(ROWS).sort_index()
    brief = few["label"].str[:3]  # names no polarity, which spares evaluate 400 texts
    few[["text"]].assign(label=brief).to_parquet(clone / DATA)
    path = clone / "params.yaml"
    files.write_yaml(path, shrunk(files.read_yaml(path)))
    shutil.copytree(pretrained.locate(WHOLE)[0], clone / ENCODER)
    config = clone / ENCODER / "config.json"
    files.write_json(config, files.read_json(config) | {"num_hidden_layers": LAYERS})
    git("rm", "--quiet", "-r", "dvc.lock", "metrics", "plots", folder=clone)
    git("add", "--all", folder=clone)
    git("commit", "--quiet", "--message", "Shrink", folder=clone, changed=IDENTITY)


def make(folder: Path, shrunk_clone: Path) -> Path:
    """Return a clone of the small clone in a folder."""
    folder.mkdir()
    git("clone", "--quiet", str(shrunk_clone), str(folder / "clone"))
    return folder / "clone"


def check_programs(by: str) -> None:
    """Raise UserError where one is missing that other processors need."""
    debian = {"qemu-x86_64": "qemu-user", "taskset": "util-linux"} | ({"gcc": "gcc"} if by == "cpuid" else {})
    if missing := [package for program, package in debian.items() if not shutil.which(program)]:
        raise UserError(f"{' and '.join(missing)} not installed: `sudo apt-get install {' '.join(missing)}`")


def started(by: str, name: str, folder: Path) -> str:
    """Return the shell's words that start a program as a processor, with what they need in a folder.

    Raises UserError where this processor cannot answer as that one.
    """
    other = PROCESSORS[name]
    words = [] if other.cores is None else ["taskset", "--cpu-list", cpus(other.cores)]
    emulated = ["qemu-x86_64", "-cpu", other.model]
    if by == "qemu":
        return shlex.join([*words, *emulated])
    program, library, table = folder / "cpuid", folder / "cpuid.so", folder / f"{name}.txt"
    for target, options in ((program, []), (library, ["-shared", "-fPIC"])):
        subprocess.run(["gcc", "-O1", *options, "-o", target, CPUID], check=True)
    table.write_bytes(subprocess.run([*emulated, program], check=True, capture_output=True).stdout)
    words = ["env", f"LD_PRELOAD={library}", f"CPUID_TABLE={table}", *words]
    tried = subprocess.run([*words, program], capture_output=True, check=False)
    if tried.stdout != table.read_bytes():
        why = tried.stderr.decode().strip() or "its own answers came"
        raise UserError(f"--by cpuid: {processor()} cannot answer as {name}: {why}; `--by qemu` can")
    return shlex.join(words)


def cpus(count: int) -> str:
    """Return the numbers of some of the cores that this process may use, as taskset reads them."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))


def reproduce(name: str, start: str, clone: Path) -> dict[str, str]:
    """Run the pipeline in a clone, each stage with these words before its Python; return each stage's hash.

    Raises UserError with the log's last line when a stage fails; the log lies beside the clone.
    """
    log = clone.with_name("log.txt")
    python = clone.with_name("bin") / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {start} {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    begin = time.monotonic()
    repro = [sys.executable, "-m", "dvc", "repro"]
    told = 0
    with (
        log.open("wb") as output,
        subprocess.Popen(repro, cwd=clone, env=environment, stdout=output, stderr=subprocess.STDOUT) as dvc,
    ):
        while told < len(stages := STAGE.findall(log.read_text())) or dvc.poll() is None:
            for stage in stages[told:]:
                print(f"{name}: {stage}, after {int(time.monotonic() - begin)} s", flush=True)
            told = len(stages)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if dvc.returncode:
        raise UserError(f"{name}: `dvc repro`: {isolated.error_in(log.read_text())}; {log} has the rest")
    return hashes(files.read_yaml(clone / "dvc.lock"))


def run(starts: dict[str, str], folder: Path) -> dict[str, dict[str, str]]:
    """Return each stage's hash by processor, each of which has words that start it.

    The clone of the first stays in the folder, and those that differ from it.
    """
    shrink(folder / "shrunk")
    rows: dict[str, dict[str, str]] = {}
    for name, start in starts.items():
        clone = make(folder / name, folder / "shrunk")
        rows[name] = reproduce(name, start, clone)
        if len(rows) > 1 and rows[name] == rows[THIS]:
            shutil.rmtree(clone.parent)
    return rows


def hashes(lock: dict[str, Any]) -> dict[str, str]:
    """Return the first hexadecimal digits of the SHA-256 of each stage's outputs, by what dvc.lock says of them."""
    return {
        stage: hashlib.sha256(repr([(out["path"], out["md5"]) for out in entry["outs"]]).encode()).hexdigest()[:8]
        for stage, entry in lock["stages"].items()
    }


def table(rows: dict[str, dict[str, str]]) -> str:
    """Return the hashes as a table, those marked with an asterisk that differ from the first row's."""
    first = next(iter(rows.values()))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {stage:9}" for stage in first)]
    for name, row in rows.items():
        cells = [f"{row[stage]}{'' if row[stage] == first[stage] else '*'}" for stage in first]
        lines.append(f"{name:{width}}" + "".join(f"  {cell:9}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--by", choices=("cpuid", "qemu"), default="qemu")
    parser.add_argument("processors", nargs="*", metavar="PROCESSOR", help=f"all by default: {', '.join(PROCESSORS)}")
    options = parser.parse_args()
    names = options.processors or list(PROCESSORS)
    if unknown := [name for name in names if name not in PROCESSORS]:
        raise UserError(f"no processor {unknown[0]!r}; there are {', '.join(PROCESSORS)}")
    check_programs(options.by)
    with tempfile.TemporaryDirectory() as programs:
        starts = {name: started(options.by, name, Path(programs)) for name in names}
        folder = Path(tempfile.mkdtemp(prefix="processors-"))  # stays where a stage fails or differs
        try:
            rows = run({THIS: "", **starts}, folder)
        except KeyboardInterrupt:
            shutil.rmtree(folder)
            raise
    print(table(rows))
    if different := [name for name in names if rows[name] != rows[THIS]]:
        raise UserError(f"other bytes than on {processor()} as {', '.join(different)}; see {folder}")
    shutil.rmtree(folder)
    print(f"processors: the same bytes on {processor()} and as {plural(len(names), 'other processor')}")


if __name__ == "__main__":
    command.run("processors", main)
