# `make repro` and `make test` need Python 3.11 or newer, Git and make; they set up .venv on their first call.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
IN_VENV := PATH="$$PWD/$(BIN):$$PATH"
BENCHMARKS := train tricks data predict imports environments dvc experiments pull monitoring
GRAFANA := 13.2.3
PYTEST := pytest -n 3 --dist loadgroup --durations=20 # of 3 workers, one often waits
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# What pip does on one core. Some of what packages carry is not for this Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true

.PHONY: repro serve browser test walks check setup setup-dev promtool compare plots experiments push pull verify gcs gcs-stop constraints report search hooks image noise robustness drift bench load $(BENCHMARKS:%=bench-%) ci-pull ci-repro ci-push ci-verify ci-test ci-report ci-data ci-model ci-tag dashboard alerts runner image-pipeline image-serve containers deploy abort-canary rollback train-in-cloud profile

repro: setup ## reproduce the pipeline: only what changed runs
	$(IN_VENV) dvc repro

serve: .venv-serve/requirements ## serve models/onnx at http://127.0.0.1:8000, from an environment of its own without torch
	$(BIN:.venv/%=.venv-serve/%)/python -m serve

runner: setup-dev ## experiments over HTTP, at http://127.0.0.1:8001, for who has the key that TWEETS_ADMIN_KEY is the hash of
	$(IN_VENV) python -m runner

browser: setup-dev ## Chromium for the tests of the page, where none is installed
	command -v chromium || command -v google-chrome || $(IN_VENV) playwright install chromium

promtool: ## for the tests of the alert rules, which are skipped without it; on Debian or Ubuntu
	command -v promtool || sudo apt-get install --yes --no-install-recommends prometheus

test: setup-dev browser check ## all checks, and the tests that are not walks
	$(IN_VENV) $(PYTEST) -m 'not walk' --cov --cov-report=

walks: setup-dev browser ## after `make test`: what people do with DVC, a bucket and CI, from end to end; then the coverage of both
	$(IN_VENV) $(PYTEST) -m walk --cov --cov-append --cov-report=
	$(IN_VENV) coverage report --fail-under=95
	$(IN_VENV) coverage report --include='serve/*' --fail-under=95

check: setup-dev ## lint, format, types, secrets, YAML, workflows, containers
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy
	$(IN_VENV) python -m tools.hooks
	$(IN_VENV) check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(IN_VENV) check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(IN_VENV) zizmor --offline --quiet .
	$(IN_VENV) check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	$(IN_VENV) hadolint Dockerfile

dashboard: .cache/grafana/$(GRAFANA) ## is the dashboard what Grafana's own types say? Needs npm
	(cat deploy/grafana/schema.ts; echo 'export const dashboard: Tweets ='; cat deploy/grafana/dashboard.json) > .cache/grafana/dashboard.ts
	.cache/grafana/node_modules/.bin/tsc --noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler .cache/grafana/dashboard.ts

.cache/grafana/$(GRAFANA):
	npm install --silent --prefix .cache/grafana @grafana/schema@$(GRAFANA) typescript@7.0.2
	touch $@

hooks: setup-dev ## install the hooks of .pre-commit-config.yaml
	$(IN_VENV) pre-commit install

image: image-pipeline image-serve ## build both Docker images; the service's takes models/onnx in

image-pipeline image-serve:
	docker build --target $(@:image-%=%) --tag tweets-$(@:image-%=%) \
	  --build-arg TWEETS_COMMIT=$$(git describe --always --dirty --abbrev=40 --exclude '*') .

containers: setup-dev ## build both images with buildah, run and try them; needs Debian's buildah and debootstrap, and root
	$(IN_VENV) pytest -s --durations=0 tests/deploy/containers.py

ci-pull ci-repro ci-push ci-verify ci-test ci-report ci-data ci-model ci-tag: setup-dev ## steps of the jobs in .github/workflows
	$(IN_VENV) python -m tools.ci $(@:ci-%=%)

deploy: setup-dev ## what the tag GITHUB_REF_NAME gives the stage prod, to Cloud Run, by a canary: deploy/README.md
	$(IN_VENV) dvc pull models/onnx
	$(IN_VENV) python -m tools.deploy serve

abort-canary: setup-dev ## the canary of the tag GITHUB_REF_NAME, which nobody watches any more, loses its traffic
	$(IN_VENV) python -m tools.deploy abort

rollback: ## all traffic of Cloud Run to REVISION; needs gcloud only
	gcloud run services update-traffic tweets --to-revisions="$${REVISION:?names the revision}=100" --quiet \
	  --project="$$GCP_PROJECT" --region="$$GCP_REGION"

train-in-cloud: setup-dev ## reproduce the pipeline of HEAD in a Vertex AI job, results to the bucket: deploy/README.md
	$(IN_VENV) python -m tools.deploy train

compare: setup ## hold this tree's metrics against the committed ones
	$(IN_VENV) python -m tools.compare

plots: setup ## write dvc_plots/index.html, which opens without a network
	$(IN_VENV) dvc plots show

experiments: setup ## the experiments of this commit: scores, and the params in which they differ
	$(IN_VENV) dvc exp show --no-pager --only-changed --sort-by valid.macro_f1 --sort-order desc \
	  --drop '(?!Experiment$$|valid.macro_f1$$|macro_f1$$|(fetch|prepare|featurize|baseline|train|evaluate|export)\.)' --keep '(valid.)?macro_f1$$'

push pull: setup ## to and from the default remote, with the run cache
	$(IN_VENV) python -m tools.remote $@

search: setup-dev ## search for better params, as search.yaml says; started again, it goes on
	$(IN_VENV) python -m tools.search

noise: setup-dev ## the ceiling that the annotators' noise sets, and noise/label_issues.csv: labels that are likely wrong
	$(IN_VENV) python -m tools.noise

robustness: setup ## how often the label flips when a tweet is written otherwise, and robustness/examples.md
	$(IN_VENV) python -m tools.robustness

drift: setup-dev ## is DATA=tweets.csv, or what a service has kept, like what the model was validated on? And drift/report.html
	$(IN_VENV) python -m tools.drift "$(DATA)"

verify: setup ## is dvc.lock true, and is all that it names in the remote?
	$(IN_VENV) python -m tools.verify

gcs: setup-dev ## a Google Cloud Storage bucket on this machine, for trying everything without an account
	$(IN_VENV) python -m tools.gcs start

gcs-stop: setup-dev
	$(IN_VENV) python -m tools.gcs stop

report: setup-dev ## write report/, one page and one Markdown file; REV= names what to compare with
	$(IN_VENV) python -m tools.report $(if $(REV),"$(REV)")

bench: setup-dev ## measure speed by turns with the alternatives, into benchmarks/results/; one: make bench-predict
	$(MAKE) -j1 $(BENCHMARKS:%=bench-%)

load: setup-dev ## drive the service with k6 at fixed arrival rates; then, for its memory over ten minutes: make load SOAK=600
	$(IN_VENV) python -m benchmarks.load $(if $(SOAK),--soak $(SOAK))

alerts: setup-dev ## each alert fires and clears, each query of the dashboard finds data: the service and Prometheus, 8 minutes
	$(IN_VENV) python -m benchmarks.alerts

profile: setup-dev ## where training and serving spend their time: tables, and flame graphs in profile/
	$(IN_VENV) python -m benchmarks.profile

$(BENCHMARKS:%=bench-%): setup-dev
	$(IN_VENV) python -m benchmarks.$(@:bench-%=%)

setup: .venv/requirements
setup-dev: .venv/requirements-dev

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

constraints: setup-dev ## write constraints.txt anew, from the environment as it is
	$(BIN)/python -m pip freeze | sed 's/+[a-z0-9.]*$$//' > constraints.txt
