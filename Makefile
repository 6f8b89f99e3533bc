# The results in Git come from `make repro`. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
IN_VENV := PATH="$$PWD/$(BIN):$$PATH"
BENCHMARKS := train precisions tricks data predict batches imports environments dvc experiments pull monitoring attacks
PYTEST := pytest -n 3 --dist loadgroup --durations=20 # of 3 workers, one often waits
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# What pip does on one core. Some of what packages carry is not for this Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true
# Findings are not shown to the services that could tell whether they are valid.
SECRETS := kingfisher scan --quiet --no-validate --no-update-check --redact --git-history none --rules-path .ci/secrets.yml

.DEFAULT_GOAL := help

##@ Start here

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z].*:.*## / {sub("%", "NAME", $$1); printf "  %-28s %s\n", $$1, $$2}' Makefile

.PHONY: repro
repro: setup ## run the pipeline: only the stages that changed
	$(IN_VENV) python -m repository.rwlock
	$(IN_VENV) dvc repro

.PHONY: setup setup-dev
setup: .venv/requirements ## set up the pipeline's environment in .venv
setup-dev: .venv/requirements-dev ## also install what tests, checks and the other targets need

##@ Experiments

.PHONY: experiments
experiments: setup ## compare the experiments of this commit: their scores, and the params that differ
	$(IN_VENV) dvc exp show --no-pager --only-changed --sort-by valid.macro_f1 --sort-order desc \
	  --drop '(?!Experiment$$|valid.macro_f1$$|macro_f1$$|(fetch|prepare|featurize|baseline|train|evaluate|export)\.)' --keep '(valid.)?macro_f1$$'

.PHONY: search
search: setup-dev ## search for better params, as search.yaml says; continues an interrupted search
	$(IN_VENV) python -m tools.search

.PHONY: report
report: setup-dev ## write report/: an HTML page and a Markdown file; REV= names the revision to compare with
	$(IN_VENV) python -m tools.report $(if $(REV),"$(REV)")

.PHONY: plots
plots: setup ## write dvc_plots/index.html: all plots, on a page that opens without a network
	$(IN_VENV) dvc plots show

.PHONY: runner
runner: setup-dev ## run experiments over HTTP, at http://127.0.0.1:8001; needs TWEETS_ADMIN_KEY, the hash of a key
	$(IN_VENV) python -m runner

##@ Quality

.PHONY: noise
noise: setup-dev ## estimate the best possible accuracy, and list likely wrong labels in noise/label_issues.csv
	$(IN_VENV) python -m tools.noise

.PHONY: robustness
robustness: setup ## measure how often the label flips when a tweet is written differently; writes robustness/
	$(IN_VENV) python -m tools.robustness

.PHONY: score
score: setup ## label the files in INPUT=folder into OUTPUT=folder, on all cores; see docs/scale.md
	$(IN_VENV) python -m tools.score "$(INPUT)" "$(OUTPUT)"

.PHONY: drift
drift: setup-dev ## compare DATA=tweets.csv, or kept predictions, with the validation rows; writes drift/report.html
	$(IN_VENV) python -m tools.drift "$(DATA)"

.PHONY: compare
compare: setup ## check that these results match the committed ones, within tolerances
	$(IN_VENV) python -m tools.compare

.PHONY: processors
processors: setup ## compare the pipeline's bytes with other processors'; BY=cpuid is fast; PROCESSORS= names some of them
	$(IN_VENV) python -m tools.processors --by $(or $(BY),qemu) $(PROCESSORS)

##@ The bucket

.PHONY: push pull
push pull: setup ## copy data, models and the run cache to or from the default remote
	$(IN_VENV) python -m tools.remote $@

.PHONY: verify
verify: setup ## check dvc.lock against code, params and data, the files here, and those in the remote
	$(IN_VENV) python -m tools.verify

.PHONY: gcs gcs-stop
gcs: setup-dev ## start a Google Cloud Storage server on this machine, to try everything without an account
	$(IN_VENV) python -m tools.gcs start
gcs-stop: setup-dev ## stop that server
	$(IN_VENV) python -m tools.gcs stop

##@ The service

.PHONY: serve
serve: .venv-serve/requirements ## serve models/onnx at http://127.0.0.1:8000, from a separate environment without torch
	$(BIN:.venv/%=.venv-serve/%)/python -m serve

.PHONY: load
load: setup-dev ## load the service with k6 at fixed rates; then SOAK=600 watches its memory for ten minutes
	$(IN_VENV) python -m benchmarks.load $(if $(SOAK),--soak $(SOAK))

.PHONY: alerts
alerts: setup-dev ## check that each alert fires and clears, and that each dashboard query finds data; 8 minutes
	$(IN_VENV) python -m benchmarks.alerts

.PHONY: image image-pipeline image-serve
image: image-pipeline image-serve ## build both Docker images; the service's image contains models/onnx
image-pipeline image-serve: ## build one of the two images
	docker build --target $(@:image-%=%) --tag tweets-$(@:image-%=%) \
	  --build-arg TWEETS_COMMIT=$$(git describe --always --dirty --abbrev=40 --exclude '*') .

.PHONY: containers
containers: setup-dev ## build both images with buildah and test them; needs root, and Debian's buildah and debootstrap
	$(IN_VENV) pytest -s --durations=0 tests/deploy/containers.py

##@ Google Cloud

.PHONY: deploy
deploy: setup-dev ## deploy the version with the tag GITHUB_REF_NAME to Cloud Run, with a canary: deploy/README.md
	$(IN_VENV) python -m repository.rwlock
	$(IN_VENV) dvc pull models/onnx
	$(IN_VENV) python -m tools.deploy serve

.PHONY: abort-canary
abort-canary: setup-dev ## take the traffic from the canary of the tag GITHUB_REF_NAME, if its deployment was killed
	$(IN_VENV) python -m tools.deploy abort

.PHONY: rollback
rollback: ## give all traffic in Cloud Run to REVISION; needs only gcloud
	gcloud run services update-traffic tweets --to-revisions="$${REVISION:?names the revision}=100" --quiet \
	  --project="$$GCP_PROJECT" --region="$$GCP_REGION"

.PHONY: train-in-cloud
train-in-cloud: setup-dev ## run the pipeline of HEAD in a Vertex AI job, which pushes the results to the bucket: deploy/README.md
	$(IN_VENV) python -m tools.deploy train

##@ Speed

.PHONY: bench
bench: setup-dev ## measure speed against the alternatives; writes benchmarks/results/
	$(MAKE) -j1 $(BENCHMARKS:%=bench-%)

bench-%: setup-dev ## run one benchmark, such as bench-predict
	$(IN_VENV) python -m benchmarks.$*

.PHONY: profile
profile: setup-dev ## show where training and serving spend their time: tables, and flame graphs in profile/
	$(IN_VENV) python -m benchmarks.profile

##@ Development

.PHONY: check
check: setup-dev ## check lint, format, types, imports, what dvc.yaml declares, secrets, YAML, workflows and the Dockerfile
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
test: setup-dev browser check ## run all checks, and the quick tests
	$(IN_VENV) $(PYTEST) -m 'not walk' --cov --cov-report=

.PHONY: walks
walks: setup-dev browser ## after `make test`: run the end-to-end tests (DVC, a bucket, CI), and check the total coverage
	$(IN_VENV) $(PYTEST) -m walk --cov --cov-append --cov-report=
	$(IN_VENV) coverage report --fail-under=95
	$(IN_VENV) coverage report --include='serve/*' --fail-under=95

.PHONY: declare
declare: setup-dev ## write each stage's code files and params into dvc.yaml, and write params.schema.json
	$(IN_VENV) python -m repository.declared --write

.PHONY: hooks
hooks: setup-dev ## install the Git hooks of .pre-commit-config.yaml
	$(IN_VENV) pre-commit install

.PHONY: browser
browser: setup-dev ## install Chromium, if there is none, for the tests of the page
	command -v chromium || command -v google-chrome || $(IN_VENV) playwright install chromium

.PHONY: promtool
promtool: ## install promtool on Debian or Ubuntu; without it, the tests of the alert rules are skipped
	command -v promtool || sudo apt-get install --yes --no-install-recommends prometheus

.PHONY: qemu
qemu: ## install QEMU on Debian or Ubuntu, for `make processors`; without it, some tests are skipped
	command -v qemu-x86_64 || sudo apt-get install --yes --no-install-recommends qemu-user

.PHONY: constraints
constraints: setup-dev ## rewrite constraints.txt from the packages that are installed
	$(BIN)/python -m pip freeze | sed 's/+[a-z0-9.]*$$//' > constraints.txt

ci-%: setup-dev ## run a step of the jobs in .github/workflows; `python -m tools.ci --help` lists the steps
	$(IN_VENV) python -m tools.ci $*

.venv/requirements: requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -r requirements.txt
	$(COMPILE)
	touch $@

.venv/requirements-dev: requirements-dev.txt requirements-cluster.txt requirements-serve.txt .venv/requirements
	$(PIP_INSTALL) -r requirements-dev.txt
	$(COMPILE)
	touch $@

.venv-serve/requirements: requirements-serve.txt constraints.txt
	$(PYTHON) -m venv .venv-serve
	$(BIN:.venv/%=.venv-serve/%)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-serve.txt
	touch $@
