# make up      everything on this machine, with a demo (DEMO=no: without)
# make test    lint and tests, from nothing (ARGS="tests/api -k costs" for some of them)

DEMO ?= yes
PORT ?= 8000
OTLP_PORT ?= 4318
RUNTIME_PORT ?= 8100
DATA ?= .data
ARGS ?=
# A file's tests stay together: many share a server or a model. The river's run whole stacks, and have the machine alone.
SIDE_BY_SIDE ?= --numprocesses auto --maxprocesses 4 --dist loadfile

BIN := .venv/bin
NO_DEMO := $(if $(filter no,$(DEMO)),--no-demo)

.PHONY: up test lint env lock format screenshot

up: env
	@exec $(BIN)/costwatch up --port $(PORT) --otlp-port $(OTLP_PORT) --runtime-port $(RUNTIME_PORT) --data $(DATA) $(NO_DEMO)

test: env
	@tools/chromium.sh
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(if $(ARGS),$(ARGS),--ignore tests/river)
	$(if $(ARGS),,$(BIN)/python -m pytest tests/river)

# Settings want a secret and a database's address; lint reads neither.
lint: export COSTWATCH_SECRET_KEY := lint
lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/djhtml --check templates
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python manage.py check
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

format: env
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/djhtml templates

env:
	@tools/environment.sh

lock:
	@tools/lock.sh

screenshot: env
	$(BIN)/python tools/screenshot.py docs/overview.png
