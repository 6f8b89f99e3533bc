# The results in Git come from `make repro`. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
IN_VENV := PATH="$$PWD/$(BIN):$$PATH"
BENCHMARKS := train tricks data predict imports environments dvc experiments pull monitoring
PYTEST := pytest -n 3 --dist loadgroup --durations=20 # of 3 workers, one often waits
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# What pip does on one core. Some of what packages carry is not for this Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true
# Findings are not shown to the services that could tell whether they are valid.
SECRETS := kingfisher scan --quiet --no-validate --no-update-check --redact --git-history none --rules-path .ci/secrets.yml

.DEFAULT_GOAL := help

##@ Start here

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z].*:.*## / {sub("%", "NAME", $$1); printf "  %-28s %s\n", $$1, $$2}' Makefile

.PHONY: repro
repro: setup ## reproduce the pipeline: only what changed runs
	$(IN_VENV) dvc repro

.PHONY: setup setup-dev
setup: .venv/requirements ## the environment of the pipeline, in .venv
setup-dev: .venv/requirements-dev ## what tests, checks and the other targets need, too

##@ Experiments

.PHONY: experiments
experiments: setup ## the experiments of this commit: scores, and the params in which they differ
	$(IN_VENV) dvc exp show --no-pager --only-changed --sort-by valid.macro_f1 --sort-order desc \
	  --drop '(?!Experiment$$|valid.macro_f1$$|macro_f1$$|(fetch|prepare|featurize|baseline|train|evaluate|export)\.)' --keep '(valid.)?macro_f1$$'

.PHONY: search
search: setup-dev ## search for better params, as search.yaml says; started again, it goes on
	$(IN_VENV) python -m tools.search

.PHONY: report
report: setup-dev ## write report/, one page and one Markdown file; REV= names what to compare with
	$(IN_VENV) python -m tools.report $(if $(REV),"$(REV)")

.PHONY: plots
plots: setup ## write dvc_plots/index.html, which opens without a network
	$(IN_VENV) dvc plots show

.PHONY: runner
runner: setup-dev ## experiments over HTTP, at http://127.0.0.1:8001; TWEETS_ADMIN_KEY is the hash of its key
	$(IN_VENV) python -m runner

##@ Quality

.PHONY: noise
noise: setup-dev ## the ceiling that the annotators' noise sets; labels that are likely wrong, in noise/label_issues.csv
	$(IN_VENV) python -m tools.noise

.PHONY: robustness
robustness: setup ## how often the label flips when a tweet is written otherwise, and robustness/examples.md
	$(IN_VENV) python -m tools.robustness

.PHONY: drift
drift: setup-dev ## is DATA=tweets.csv, or what a service has kept, like the validation rows? Writes drift/report.html
	$(IN_VENV) python -m tools.drift "$(DATA)"

.PHONY: compare
compare: setup ## hold this tree's metrics against the committed ones
	$(IN_VENV) python -m tools.compare

##@ The bucket

.PHONY: push pull
push pull: setup ## to and from the default remote, with the run cache
	$(IN_VENV) python -m tools.remote $@

.PHONY: verify
verify: setup ## is dvc.lock true, and is all that it names in the remote?
	$(IN_VENV) python -m tools.verify

.PHONY: gcs gcs-stop
gcs: setup-dev ## a Google Cloud Storage bucket on this machine, for trying everything without an account
	$(IN_VENV) python -m tools.gcs start
gcs-stop: setup-dev ## end it
	$(IN_VENV) python -m tools.gcs stop

##@ The service

.PHONY: serve
serve: .venv-serve/requirements ## serve models/onnx at http://127.0.0.1:8000, from an environment of its own without torch
	$(BIN:.venv/%=.venv-serve/%)/python -m serve

.PHONY: load
load: setup-dev ## drive the service with k6 at fixed rates; then, for its memory over ten minutes: make load SOAK=600
	$(IN_VENV) python -m benchmarks.load $(if $(SOAK),--soak $(SOAK))

.PHONY: alerts
alerts: setup-dev ## each alert fires and clears, each query of the dashboard finds data: service and Prometheus, 8 minutes
	$(IN_VENV) python -m benchmarks.alerts

.PHONY: image image-pipeline image-serve
image: image-pipeline image-serve ## build both Docker images; the service's takes models/onnx in
image-pipeline image-serve: ## build one of them
	docker build --target $(@:image-%=%) --tag tweets-$(@:image-%=%) \
	  --build-arg TWEETS_COMMIT=$$(git describe --always --dirty --abbrev=40 --exclude '*') .

.PHONY: containers
containers: setup-dev ## build both images with buildah, run and try them; needs Debian's buildah and debootstrap, and root
	$(IN_VENV) pytest -s --durations=0 tests/deploy/containers.py

##@ Google Cloud

.PHONY: deploy
deploy: setup-dev ## what the tag GITHUB_REF_NAME gives the stage prod, to Cloud Run, by a canary: deploy/README.md
	$(IN_VENV) dvc pull models/onnx
	$(IN_VENV) python -m tools.deploy serve

.PHONY: abort-canary
abort-canary: setup-dev ## the canary of the tag GITHUB_REF_NAME, which nobody watches any more, loses its traffic
	$(IN_VENV) python -m tools.deploy abort

.PHONY: rollback
rollback: ## all traffic of Cloud Run to REVISION; needs gcloud only
	gcloud run services update-traffic tweets --to-revisions="$${REVISION:?names the revision}=100" --quiet \
	  --project="$$GCP_PROJECT" --region="$$GCP_REGION"

.PHONY: train-in-cloud
train-in-cloud: setup-dev ## reproduce the pipeline of HEAD in a Vertex AI job, results to the bucket: deploy/README.md
	$(IN_VENV) python -m tools.deploy train

##@ Speed

.PHONY: bench
bench: setup-dev ## measure speed by turns with the alternatives, into benchmarks/results/
	$(MAKE) -j1 $(BENCHMARKS:%=bench-%)

bench-%: setup-dev ## one of them, such as bench-predict
	$(IN_VENV) python -m benchmarks.$*

.PHONY: profile
profile: setup-dev ## where training and serving spend their time: tables, and flame graphs in profile/
	$(IN_VENV) python -m benchmarks.profile

##@ Development

.PHONY: check
check: setup-dev ## lint, format, types, imports, what dvc.yaml declares, secrets, YAML, workflows, containers
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy
	$(IN_VENV) lint-imports --no-cache
	$(IN_VENV) python -m repository.declared
	$(IN_VENV) && git ls-files -z | xargs -0 $(SECRETS)
	$(IN_VENV) pre-commit run --all-files dvc-config
	$(IN_VENV) pre-commit run --all-files large
	$(IN_VENV) pre-commit run --all-files yaml
	$(IN_VENV) check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(IN_VENV) check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(IN_VENV) zizmor --offline --quiet .
	$(IN_VENV) check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	$(IN_VENV) hadolint Dockerfile

.PHONY: test
test: setup-dev browser check ## all checks, and the tests that are not walks
	$(IN_VENV) $(PYTEST) -m 'not walk' --cov --cov-report=

.PHONY: walks
walks: setup-dev browser ## after make test: what people do with DVC, a bucket and CI, from end to end; then the coverage of both
	$(IN_VENV) $(PYTEST) -m walk --cov --cov-append --cov-report=
	$(IN_VENV) coverage report --fail-under=95
	$(IN_VENV) coverage report --include='serve/*' --fail-under=95

.PHONY: declare
declare: setup-dev ## write the code and params of each stage into dvc.yaml, and params.schema.json
	$(IN_VENV) python -m repository.declared --write

.PHONY: hooks
hooks: setup-dev ## install the Git hooks of .pre-commit-config.yaml
	$(IN_VENV) pre-commit install

.PHONY: browser
browser: setup-dev ## Chromium for the tests of the page, where none is installed
	command -v chromium || command -v google-chrome || $(IN_VENV) playwright install chromium

.PHONY: promtool
promtool: ## for the tests of the alert rules, which are skipped without it; on Debian or Ubuntu
	command -v promtool || sudo apt-get install --yes --no-install-recommends prometheus

.PHONY: constraints
constraints: setup-dev ## write constraints.txt anew, from the environment as it is
	$(BIN)/python -m pip freeze | sed 's/+[a-z0-9.]*$$//' > constraints.txt

ci-%: setup-dev ## a step of the jobs in .github/workflows; `python -m tools.ci --help` lists them
	$(IN_VENV) python -m tools.ci $*

.venv/requirements: requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -r requirements.txt
	$(COMPILE)
	touch $@

.venv/requirements-dev: requirements-dev.txt requirements-serve.txt .venv/requirements
	$(PIP_INSTALL) -r requirements-dev.txt
	$(COMPILE)
	touch $@

.venv-serve/requirements: requirements-serve.txt constraints.txt
	$(PYTHON) -m venv .venv-serve
	$(BIN:.venv/%=.venv-serve/%)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-serve.txt
	touch $@
