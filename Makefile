# `make help` says what there is.

VENV = .venv
CONFIG = etc/config.yml
MINUTES = 5
SEED = soak
MODE = mixed
# How many tests run at once.
JOBS = $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -lt 4 ] && echo $$n || echo 4)
DOCKER = docker
IMAGE = contentcache
PARTS =
BUILD =
PORT = $(or $(lastword $(subst :, ,$(REGISTRY_HTTP_ADDR))),5000)
SCHEME_NOTE = $(if $(REGISTRY_HTTP_TLS_CERTIFICATE), (its certificate must be known to the client),)

.PHONY: help run test test-fast coverage lint bench soak nightly wheel image clean

help:
	@echo "make run    start the cache in the foreground with $(CONFIG); stop it with Ctrl-C"
	@echo "make test   install what the tests need, and run them, JOBS=$(JOBS) at once"
	@echo "make test-fast  those without real programs, in two minutes"
	@echo "make coverage   the same, and which lines and branches they run: no smaller share than before"
	@echo "make bench  beside nginx and docker-registry, in one run (CASES=\"stampede recovery\" for some, CASES=--list for all)"
	@echo "make lint   style, types, arrows between packages, documents"
	@echo "make soak   bad upstreams, bad clients and kills for MINUTES=$(MINUTES), as SEED=$(SEED) has it"
	@echo "make nightly  what is too long for every change, PARTS=\"soak packaging\" for some, MINUTES=20 for each that has no end"
	@echo "make wheel  build dist/*.whl"
	@echo "make image  build the container image IMAGE=$(IMAGE) with DOCKER=$(DOCKER); BUILD=\"--build-arg …\" is passed on"
	@echo "make clean  remove everything that these made, but not what is cached under var/"

run: $(VENV)/run.stamp
	@echo "Content Cache is about to listen on port $(PORT). Pull through it, for example:"
	@echo "  docker pull localhost:$(PORT)/library/alpine:latest$(SCHEME_NOTE)"
	@exec $(VENV)/bin/python -m contentcache serve $(CONFIG)

test: $(VENV)/dev.stamp
	@scripts/install-peers || echo "Tests that need the missing programs are skipped."
	@$(VENV)/bin/python -m tests.run --again --jobs $(JOBS) tests

test-fast: $(VENV)/dev.stamp
	@$(VENV)/bin/python -m tests.run --in-memory --jobs $(JOBS)

coverage: $(VENV)/dev.stamp
	@$(VENV)/bin/python scripts/check_coverage.py $(JOBS)

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	scripts/check-documents $(VENV)/bin/python
	$(VENV)/bin/python scripts/check_words.py
	$(VENV)/bin/python -m scripts.log_events --check
	$(VENV)/bin/python -m scripts.commands --check
	$(VENV)/bin/python -m scripts.metrics --check
	$(VENV)/bin/python -m contentcache.config.reference --check
	$(VENV)/bin/python -m scripts.dashboards --check

bench: $(VENV)/dev.stamp
	@scripts/install-peers
	@$(VENV)/bin/python -m bench $(CASES)

soak: $(VENV)/dev.stamp
	@$(VENV)/bin/python -m tests.soak --minutes "$(MINUTES)" --seed "$(SEED)" --mode "$(MODE)"

nightly: $(VENV)/dev.stamp
	@scripts/install-peers
	@scripts/install-go-peers || echo "Tests that need the missing programs are not run, which fails the check."
	@MINUTES=$(if $(filter-out file,$(origin MINUTES)),$(MINUTES),20) $(VENV)/bin/python -m tests.nightly $(PARTS)

wheel: $(VENV)/dev.stamp
	rm -rf build dist
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

image:
	$(DOCKER) build $(BUILD) --tag $(IMAGE) \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)" \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" .

clean:
	rm -rf $(VENV) build dist *.egg-info _trial_temp* .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f twisted/plugins/dropin.cache
	find contentcache tests bench twisted -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@scripts/make-venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@touch $@ $(VENV)/run.stamp
