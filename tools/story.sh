#!/usr/bin/env bash
# The whole story on this machine: an empty bucket, a bare Git repository, and two clones that share experiments.
#
#     bash tools/story.sh FOLDER
#
# Plays what is committed here in a new FOLDER: clone `a` reproduces and pushes; clone `b`, with an empty cache, pulls
# and runs nothing; `a` runs three experiments and shares them; `b` sees the same table and gets the same model.
set -euo pipefail

here=$(git rev-parse --show-toplevel)
mkdir -p "$(dirname "$1")"
mkdir "$1"
cd "$1"

say() { printf '\n=== %s\n' "$*"; }
experiments() { dvc exp show --json | python -c '
import json, sys
for commit in json.load(sys.stdin)[1:]:
    for found in commit["experiments"] or []:
        rev = found["revs"][0]
        metrics = {path: file["data"] for path, file in rev["data"]["metrics"].items()}
        print(rev["name"], json.dumps([rev["data"]["params"], metrics, rev["data"]["outs"]], sort_keys=True))
' | sort; }
label() { python -m tweets.predict "What a great day" "the worst flight ever"; }

say "An empty bucket and a bare Git repository"
git clone -q --bare "$here" origin.git
git clone -q origin.git a
git clone -q origin.git b
(cd a && python -m tools.gcs start)
trap '(cd "$PWD"/../a 2>/dev/null || cd a; python -m tools.gcs stop)' EXIT
