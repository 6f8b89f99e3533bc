#!/usr/bin/env bash
# The whole story on this machine, from an empty bucket and a bare Git repository.
#
#     bash tools/story.sh FOLDER
#
# Plays what is committed here, in a new FOLDER. Clone a reproduces and shares; clone b, with an empty cache, pulls and
# runs nothing; a runs three experiments and shares them; b sees the same table and gets the same model; a takes a
# variant that it has run from the run cache. Prints each command that it types. Ends with a line that begins with
# "FAILED:" and exit code 1 where the two clones differ.
set -euo pipefail

say() { printf '\n=== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
a() { in_clone a "$@"; }
b() { in_clone b "$@"; }
in_clone() { printf '%s$ %s\n' "$1" "${*:2}" >&2; (cd "$1" && "${@:2}"); }

new_clone() { # by somebody who has told Git a name, as experiments need
  git clone -q origin.git "$1"
  git -C "$1" config user.name "$1"
  git -C "$1" config user.email "$1@example.org"
}

runs_nothing() { # of a command's output in a file
  if grep "Running stage" "$1"; then fail "a stage ran"; fi
}
same_model() {
  diff -r a/models/transformer b/models/transformer || fail "the models of a and b differ"
}
same_labels() {
  a python -m tweets.predict --device cpu "What a great day" "The worst flight ever" > a.labels
  b python -m tweets.predict --device cpu "What a great day" "The worst flight ever" | tee b.labels
  diff a.labels b.labels || fail "the models of a and b label differently"
}
experiments() { # State and Executor tell where an experiment ran, which is a's business
  "$1" dvc exp show --csv --sort-by train.lr --drop '^(State|Executor)$'
}
clean_up() { # also after Ctrl-C: what this started ends with it
  (cd "$story/a" && dvc queue stop --kill -q && python -m tools.gcs stop) || true
}

[ $# = 1 ] || fail "usage: bash tools/story.sh FOLDER"
command -v dvc > /dev/null || fail "no dvc: source .venv/bin/activate"
here=$(git rev-parse --show-toplevel)
mkdir "$1" || fail "$1: must be a new folder"
cd "$1"
story=$PWD

say "An empty bucket and a bare Git repository"
git clone -q --bare "$here" origin.git
new_clone a
trap clean_up EXIT
a python -m tools.gcs start

say "a reproduces and shares: code, params, hashes and scores by Git, data and models by DVC"
a dvc repro
a git diff --quiet || a git commit -qam "Reproduce"
a dvc push
a git push -q

say "b pulls: nothing is left to run"
new_clone b
b dvc remote modify --local gcs endpointurl "$(cd a && dvc config --local remote.gcs.endpointurl)"
b dvc remote modify --local gcs allow_anonymous_login true
b dvc remote default --local gcs
b dvc pull
b dvc status | tee b.status
grep -q "up to date" b.status || fail "b is not up to date"
b dvc repro | tee b.repro
runs_nothing b.repro
b python -m tools.verify
same_model

say "a runs three experiments, two at a time, and shares them"
a dvc exp run --queue --name lr -S train.lr=1e-5,3e-5,1e-4
a dvc queue start -j 2
idle=0 # looks in a row that found no worker: they take a while to start, and a look takes time from them
while (cd a && dvc queue status) > a.queue && grep -E "(Queued|Running) *$" a.queue; do
  if grep -q " 0 active" a.queue; then idle=$((idle + 1)); else idle=0; fi
  [ "$idle" -lt 6 ] || fail "the workers of the queue are gone"
  sleep 5
done
cat a.queue
[ "$(grep -c Success a.queue)" = 3 ] || fail "not all three experiments succeeded: \`dvc queue logs\` in $story/a"
a dvc exp push origin

say "b sees the same table"
b dvc exp pull origin
experiments a > a.csv
experiments b > b.csv
diff a.csv b.csv || fail "the tables of a and b differ"
[ "$(grep -c 'lr-[123]' b.csv)" = 3 ] || fail "b does not show the three experiments"
b make -s -o setup experiments

say "b takes one of them: the same model"
a dvc exp apply lr-2
b dvc exp apply lr-2
b dvc pull
same_model
same_labels
b dvc repro | tee b.repro
runs_nothing b.repro

say "a asks for a variant that it has run: it comes from the run cache"
a git restore .
a dvc checkout
a dvc exp run --name again -S train.lr=1e-5 | tee a.cached
grep -q "Stage 'train' is cached" a.cached || fail "the run cache lacks a variant that a has run"
runs_nothing a.cached

say "The story holds"
