# s3storage. `make help` lists what there is.
#
# make serve needs Go. make test needs Python 3.11 or later with venv, make and
# gcc (for the race detector) as well; everything else it gets itself, once,
# into .venv, .tools and bin, but PostgreSQL and memcached, which are packages of
# the system.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

GO            ?= go
PYTHON        ?= python3
FUZZTIME      ?= 10s
BENCH         ?= .
BENCHCOUNT    ?= 6
KILLS         ?= 200
SCHEDULES     ?= 1000000
MINUTES       ?= 60
# How many interoperation tests run side by side.
JOBS          ?= 2
PYTEST_ARGS   ?=
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

VENV_PYTHON := .venv/bin/python
VENV_STAMP  := .venv/.complete
SITE_PYTHON := .site-venv/bin/python
SITE_STAMP  := .site-venv/.complete
PYTEST      := $(VENV_PYTHON) -m pytest -c test/interop/pytest.ini
CRASH       := $(VENV_PYTHON) test/crash/crash.py

# Go sees for itself what has to be built again.
.PHONY: build build-race
build: ## build bin/s3storage
	$(GO) build -trimpath -o bin/s3storage ./cmd/s3storage

build-race:
	CGO_ENABLED=1 $(GO) build -race -o bin/s3storage-race ./cmd/s3storage

.PHONY: serve
serve: build ## build, then serve ./data on 127.0.0.1:8100
	exec bin/s3storage serve

.PHONY: test
test: vet test-go test-interop ## everything: go vet, go test -race, interoperation and crash tests

.PHONY: vet
vet:
	$(GO) vet ./...

.PHONY: test-go
test-go: servers .tools/versitygw $(VENV_STAMP) ## go test -race
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...
	@# Many more schedules than with the race detector, which takes ten times as long.
	$(GO) test ./internal/simulation -run AnySchedule -sim.seeds=2500
	$(GO) test -C tools/prometheus -count=1 ./...

.PHONY: test-interop
test-interop: servers setup ## the Python tests: real ZODB clients, over a directory and S3; crashes
	$(PYTEST) -q -n $(JOBS) $(PYTEST_ARGS) test/interop test/crash

.PHONY: suites-s3
suites-s3: setup ## all of ZODB's and ZEO's test suites over S3
	SUITES_BUCKET=s3 $(PYTEST) -q -n $(JOBS) $(PYTEST_ARGS) test/interop/test_zodb_suites.py

.PHONY: suites-eventual
suites-eventual: servers setup ## all of ZODB's and ZEO's test suites over an eventually consistent store with a catalog
	SUITES_BUCKET=eventual $(PYTEST) -q -n $(JOBS) $(PYTEST_ARGS) test/interop/test_zodb_suites.py

.PHONY: servers
servers: ## PostgreSQL and memcached for the tests; installed if they are missing and that may be done
	@tools/need.sh

.PHONY: setup
setup: $(VENV_STAMP) .tools/versitygw build-race

$(VENV_STAMP): test/interop/requirements.txt
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "The tests need Python 3.11 or later; say where with make PYTHON=..." >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "This Python cannot make virtual environments: it lacks ensurepip." >&2; \
	  echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; fi
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.tools/versitygw: tools/go.mod tools/go.sum
	mkdir -p .tools
	$(GO) build -C tools -o ../.tools/versitygw github.com/versity/versitygw/cmd/versitygw
	touch $@

.PHONY: simulate
simulate: ## SCHEDULES (1000000) simulated schedules of whole nodes, some hours
	@# It prints what fails, with its seed, and the counts of the end.
	$(GO) test ./internal/simulation -run AnySchedule -timeout 0 -v -sim.seeds=$(SCHEDULES) | \
	  { grep -v -e '--- PASS: .*/' -e '^=== ' || true; }

.PHONY: race
race: setup ## ZODB's race tests, RACETEST_REPEAT times each (100)
	RACETEST_REPEAT=$${RACETEST_REPEAT:-100} $(PYTEST) -q -k TestRaces $(PYTEST_ARGS) test/interop/test_zodb_mixins.py

.PHONY: crash-long
crash-long: setup ## KILLS (200) kills each: directory, S3, an eventually consistent store, with faults, two servers
	@# A new database every ten kills: after each, all of it is read and judged.
	@for faults in "" "--inject all"; do for fight in "" "--fight"; do for bucket in dir s3 eventual; do \
	  for round in $$(seq 10 10 $(KILLS)); do \
	    $(CRASH) --kills 10 --bucket $$bucket $$fight $$faults; \
	  done; \
	done; done; done

.PHONY: crash-commands
crash-commands: setup ## KILLS (200) kills of each of import, pack, snapshot, restore and branch: directory, S3
	@# New databases every ten kills: those before are deleted.
	@for bucket in dir s3; do for round in $$(seq 10 10 $(KILLS)); do \
	  $(VENV_PYTHON) test/crash/commands.py --kills 10 --bucket $$bucket; \
	done; done

.PHONY: nodes-long
nodes-long: servers setup ## MINUTES (60) of disturbances of five nodes with 20 clients: a third with each kind of lease
	@for lease in bucket postgres memcached; do \
	  $(VENV_PYTHON) test/crash/nodes.py --nodes 5 --clients 20 --bucket s3 --lease $$lease \
	    --minutes $$(($(MINUTES) / 3)); \
	done

.PHONY: oracle-long
oracle-long: setup ## ORACLE_STEPS (10000) random operations, compared with ZEO's server and a FileStorage
	ORACLE_STEPS=$${ORACLE_STEPS:-10000} $(PYTEST) -q -s -k file_storage $(PYTEST_ARGS) test/interop/test_oracle.py

.PHONY: site
site: $(SITE_STAMP) build-race ## a real Zope and a real Plone on the server, and moved to it; installs Plone first
	$(SITE_PYTHON) test/site/run.py
	$(SITE_PYTHON) test/site/run.py --reference

$(SITE_STAMP): test/site/requirements.txt
	rm -rf .site-venv
	$(PYTHON) -m venv .site-venv
	$(SITE_PYTHON) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	@for file in $$(grep -rl --include='*_test.go' '^func Fuzz' internal cmd); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
	    echo "== $$target in ./$$(dirname $$file)"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file); \
	  done; \
	done

.PHONY: bench
bench: .tools/versitygw ## the Go benchmarks that match BENCH, for benchstat
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCHCOUNT) ./...

.PHONY: lint
lint: ## golangci-lint with .golangci.yml
	$(GO) run $(GOLANGCI_LINT) run ./...

.PHONY: clean
clean: ## remove what was built and set up; ./data stays
	rm -rf bin .venv .site-venv .tools

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
