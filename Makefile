# Everything is made in this clone: the environment in .venv, the state in .sandbox.
# Only the packages of a container engine go elsewhere, and only where no engine answers (see scripts/setup).

# An engine listens on a socket below the state folder (the tests' own below "test" in it), and the path of a socket
# has at most 107 bytes. A clone that lies deeper keeps its state in the user's state folder, under a name of its own.
SANDBOX_STATE ?= $(shell socket="$(CURDIR)/.sandbox/test/engine/docker.sock"; \
	if [ "$$(printf %s "$$socket" | wc -c)" -le 107 ]; then echo "$(CURDIR)/.sandbox"; \
	else echo "$${XDG_STATE_HOME:-$$HOME/.local/state}/sandgate-$$(printf %s "$$socket" | cksum | cut -d " " -f 1)"; fi)
export SANDBOX_STATE

# uv trusts a list of authorities of its own, and a company's proxy is known to the machine's list only.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= 1
endif

JOBS ?= 2
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate

.PHONY: run test check setup lock stop clean

run: setup
	@scripts/with-engine --keep $(BIN)/sandbox run codes/sma_cross.py

# As root, because they start and kill engines; in a state folder of their own, to leave the user's runs alone.
test: setup
	@SANDBOX_STATE="$(SANDBOX_STATE)/test" scripts/as-root scripts/with-engine $(BIN)/pytest -q -n $(JOBS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd sandbox/inside && ../../$(BIN)/mypy --strict --explicit-package-bases --ignore-missing-imports \
		--config-file= --cache-dir ../../.mypy_cache/inside *.py
	$(BIN)/lint-imports

setup:
	@scripts/setup

lock: setup
	$(LOCK) --group dev pyproject.toml --output-file requirements-dev.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' | \
		$(LOCK) --python-version 3.11 - --output-file requirements-build.lock
	for profile in sandbox/image/profiles/*.in; do \
		$(LOCK) --python-version 3.11 "$$profile" --output-file "$${profile%.in}.lock" || exit 1; done

stop:
	@if [ -x $(BIN)/sandbox ]; then scripts/as-root $(BIN)/sandbox engine down; fi

# As root, because the engine's images and what the tests leave are root's.
clean: stop
	@if [ -x $(BIN)/sandbox ]; then \
		SANDBOX_STATE="$(SANDBOX_STATE)/test" scripts/as-root $(BIN)/sandbox engine down >/dev/null; fi
	scripts/as-root rm -rf .venv .sandbox build dist src/*.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
