# Everything here runs from a clean clone; the scripts in tools/ do the work.

# Which interpreter: a path, a command, or a version that tools/pythons.sh knows (3.14, 3.14d).
# Empty: python3 if it is new enough, else the newest python3.X on PATH.
PYTHON ?=
# What test-all goes through.
PYTHONS ?= 3.11 3.12 3.13 3.14 3.15 3.14d
# ... how many at once: most tests use one core, and some wait.
JOBS ?= 2
# What make wheels makes a wheel for.
WHEELS ?= 3.11 3.12 3.13 3.14 3.15
# ... and make aarch64, on another machine.
AARCH64 ?= 3.14

# What make bench measures (rows, scaling or fairness), and what make bench-page makes its page of.
SUITE ?= rows
JSON ?= $(wildcard docs/benchmarks/*.json)
# How often make bench-all measures everything.
ROUNDS ?= 2

# How long make soak runs, and what it does: without a seed, something new.
SECONDS ?= 60
SEED ?=

export PYTHON
.DEFAULT_GOAL := help
# The steps of one goal share target folders and both cores: one after the other.
.NOTPARALLEL:
.PHONY: help run build test test-python test-built test-report test-all conformance asan soak test-ecosystem check fmt bench bench-quick bench-all bench-page bench-rust pgo crates wheels aarch64 docs test-integrations clean

help:
	@echo 'make run           build velodrome and show it at work (under five minutes)'
	@echo 'make test          everything that must pass, on one interpreter'
	@echo 'make test-all      the same, and its Python part on each of PYTHONS="$(PYTHONS)", JOBS=$(JOBS) at once'
	@echo 'make docs          the documentation as a site: target/site'
	@echo 'make conformance   CPython'"'"'s tests on both loops, side by side: docs/conformance.md'
	@echo 'make asan          the Python tests with AddressSanitizer in the extension'
	@echo 'make test-ecosystem  the suites of projects that use asyncio, on both loops: docs/ecosystem.md'
	@echo 'make check         the part of make test that needs no build: format, clippy, Rust tests'
	@echo 'make test-built    the rest of make test, which needs one'
	@echo 'make test-python   the Python part of make test'
	@echo 'make test-report   the part of make test that looks at the page of make run, in Chromium'
	@echo 'make test-integrations  servers and tools, each started as docs/servers.md and docs/tools.md say'
	@echo 'make soak          everything at once, at random, for SECONDS=60; SEED=... does the same again'
	@echo 'make build         compile the extension into python/velodrome and .venv/VERSION'
	@echo 'make fmt           format the Rust code'
	@echo 'make bench         measure beside asyncio and uvloop: 55 minutes (bench-quick: 12)'
	@echo 'make bench-all     everything that docs/benchmarks shows, on all loops: 40 minutes with ROUNDS=2'
	@echo 'make bench-page    docs/benchmarks from files of measurements, JSON="..."; see benches/README.md'
	@echo 'make bench-rust    what there is for Rust beside tokio, smol, monoio and compio: 6 minutes'
	@echo 'make pgo           a wheel in dist/, optimised for what the benchmark was seen to do'
	@echo 'make wheels        a wheel for each of WHEELS="$(WHEELS)" and the sdist, tried out, in dist/'
	@echo 'make aarch64       a wheel for aarch64 and AARCH64=$(AARCH64), tried out in qemu, in dist/'
	@echo 'make crates        pack the Rust crates and compile them from their packages; publishes nothing'
	@echo 'make clean         remove everything that was built'
	@echo
	@echo 'PYTHON=... chooses the interpreter: a path, a command, or a version such as 3.14d'

run:
	@tools/run.sh

build:
	@tools/build.sh

test: check test-built

test-built: test-python test-report test-integrations docs

test-python:
	@tools/test-python.sh

test-report:
	@tools/test-report.sh

test-integrations:
	@tools/test-integrations.sh

test-all:
	@JOBS=$(JOBS) tools/test-all.sh $(PYTHONS)

docs:
	@tools/docs.sh

conformance:
	@tools/conformance.sh $(PYTHONS)

asan:
	@tools/asan.sh

test-ecosystem:
	@tools/ecosystem.sh

check:
	@tools/check.sh

soak:
	@tools/soak.sh --seconds=$(SECONDS) $(if $(SEED),--seed=$(SEED))

fmt:
	cargo fmt --all

bench:
	@tools/bench.sh --suite $(SUITE)

bench-quick:
	@tools/bench.sh --quick --suite $(SUITE)

bench-all:
	@ROUNDS=$(ROUNDS) tools/bench-all.sh

bench-page:
	@tools/bench-page.sh $(JSON)

bench-rust:
	@tools/bench-rust.sh

pgo:
	@tools/pgo.sh

wheels:
	@tools/wheels.sh $(WHEELS)

aarch64:
	@tools/aarch64.sh $(AARCH64)

crates:
	@tools/crates.sh

clean:
	rm -rf target dist .venv .pytest_cache .mypy_cache benches/loadgen/target benches/runtimes/target
	rm -f python/velodrome/_native.*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
