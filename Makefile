# make setup      everything that `make run` needs, and the bare tools (dvc, mlflow, prefect) too
# make run        the pipeline: prepare, train, evaluate, register; a second call finds nothing to do
# make test       lint, types and the quick tests;  make coverage: quick tests with coverage
# make test-long  tests that kill processes or start servers;  make test-soak: those that try many values
# make docs       the documentation site, in site/
# make ui         MLflow (port 5000), Prefect (4200), report (5002) and page (5003) on 127.0.0.1; Ctrl-C ends them
# make clean      remove what the pipeline made (data, bases, cache, runs and the environment stay)

.DEFAULT_GOAL := run
.PHONY: setup run test test-long test-soak coverage docs lint ui clean lock push-sample

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing phones home, nothing waits for a network that is not there.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export DVC_STUDIO_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120

# Left over from git's hooks, or from work on another repository, they would lead git and DVC there.
unexport GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_OBJECT_DIRECTORY GIT_NAMESPACE GIT_PREFIX
unexport DVC_ROOT DVC_STAGE DVC_EXP_NAME DVC_EXP_BASELINE_REV

MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
REPORT_PORT ?= 5002
PAGE_PORT ?= 5003

setup:
	@sh pipelines/setup.sh

run: setup
	@dvc repro
	@python run.py register
	@python -m pipelines.summary

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	@check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not installed; hosted CI runs it"; fi

test: lint
	pytest -m "not long and not soak" -n auto --maxprocesses 4 --dist worksteal

coverage: setup
	pytest -m "not long and not soak" --cov=imagecap --cov=pipelines --cov-report=term --cov-report=xml

docs: setup
	python docs/draw_architecture.py
	mkdocs build --strict

test-long: setup
	pytest -m long -n auto --maxprocesses 2 --dist loadfile

test-soak: setup
	pytest -m soak -n auto --maxprocesses 2 --dist worksteal

ui: setup
	@MLFLOW_PORT=$(MLFLOW_PORT) PREFECT_PORT=$(PREFECT_PORT) REPORT_PORT=$(REPORT_PORT) PAGE_PORT=$(PAGE_PORT) python -m pipelines.ui

clean:
	rm -rf prepared model mlflow_run.json evaluation outputs checkpoints dvc_plots site
	find imagecap pipelines tests -name __pycache__ -prune -exec rm -rf {} +

# For maintainers -----------------------------------------------------------------------------------------------------

# The exact versions of this environment, for requirements.txt (its comment at the top stays).
lock:
	@grep '^#' requirements.txt > .requirements.new
	@python -m pip freeze --exclude-editable | grep -viE '^(imagecap|setuptools|nvidia-|cuda-|triton)|^-e' | sed 's/+.*//' >> .requirements.new
	@mv .requirements.new requirements.txt

# Put the data and bases that data.dvc and bases.dvc name into the store that is committed to git.
push-sample:
	dvc push --remote sample data.dvc bases.dvc
