# make run, make test and the rest set up what they need in .venv, from the package index alone: no root, no system
# packages. make help lists them.

PYTHON ?= python3
FEEDS ?= $(or $(TBEAST_FEEDS),lab)
ARGS ?=
VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run cluster test ways lint bench soak crashes proxies sanitize fuzz docs lock sample changelog wheel-test environment clean check-python

help:
	@echo 'make run         start the daemon on invented prices (the exchange lab); FEEDS=live for the real exchanges'
	@echo '                 ARGS="--config etc/tbeast.toml" adds options'
	@echo 'make cluster     three daemons, a Valkey and a PostgreSQL from one terminal; Ctrl-C ends them all'
	@echo '                 ARGS="--chaos --seconds 120" kills each of them under load and shows the books'
	@echo 'make test        everything that must hold: style, types, import rules, tests, coverage, the built wheel'
	@echo 'make ways        the tests that run whole daemons, with native parts and without, with one process and workers'
	@echo 'make lint        style, types and import rules alone'
	@echo 'make bench       measure, beside Go, nginx and C where they are installed; some twelve minutes'
	@echo '                 ARGS="sidebyside --rounds 5" one of the benchmarks, ARGS=--docs renews docs/performance.md'
	@echo 'make soak        ten minutes at full rate: served is recorded, and memory is flat'
	@echo 'make crashes     kill 100 daemons under load, and show what of their metering is lost'
	@echo 'make proxies     attempts at request smuggling through nginx and HAProxy, and without; ARGS=--all shows each'
	@echo 'make sanitize    the tests of the native parts under the address and undefined-behaviour sanitizers; needs gcc'
	@echo 'make fuzz        the native parts under libFuzzer, FUZZ_SECONDS=600 a target; ARGS="head keys" some; needs clang'
	@echo 'make docs        the API documentation, into docs/_build/api'
	@echo 'make wheel-test  build the wheel, install it in a bare place, start it there'
	@echo 'make lock        write requirements/*.txt anew from setup.py'
	@echo 'make sample      write etc/tbeast.toml anew from the table of settings'
	@echo 'make clean       take away what the others made, .venv too; the state folder var stays'
	@echo 'PYTHON=/path/to/python3 names another Python (3.11 or newer) to make .venv with'

check-python:
	@command -v '$(PYTHON)' >/dev/null || \
	  { echo 'tbeast: there is no $(PYTHON) here; name one: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tbeast: needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=/path/to/python3 ..." or 0)'

environment: check-python
	@'$(PYTHON)' tools/environment.py dev

run: check-python
	@'$(PYTHON)' tools/environment.py run
	@echo 'starting tbeast with TBEAST_FEEDS=$(FEEDS), everything in one process; Ctrl-C ends it'
	@exec env SERVER_TYPE="$${SERVER_TYPE:-ALL_SERVER}" \
	  $(VENV_PYTHON) -m twisted --log-format=text tbeast --feeds=$(FEEDS) $(ARGS)

cluster: environment
	@exec $(VENV_PYTHON) tools/cluster.py $(ARGS)

test: environment
	@exec $(VENV_PYTHON) tools/test_all.py

ways: environment
	@exec $(VENV_PYTHON) tools/ways.py $(ARGS)

lint: environment
	@exec $(VENV_PYTHON) tools/test_all.py --lint

bench: environment
	@exec $(VENV_PYTHON) tools/bench.py $(ARGS)

soak: environment
	@PYTHONPATH=. exec $(VENV_PYTHON) benchmarks/soak.py $(ARGS)

crashes: environment
	@exec $(VENV_PYTHON) benchmarks/crashes.py $(ARGS)

proxies: environment
	@exec $(VENV_PYTHON) tools/proxies.py $(ARGS)

sanitize: environment
	@exec $(VENV_PYTHON) tools/sanitize.py $(ARGS)

fuzz: check-python
	@exec '$(PYTHON)' tools/fuzz.py $(ARGS)

docs: environment
	@$(VENV_PYTHON) -m pydoctor --quiet tbeast
	@echo 'docs/_build/api/index.html'

lock: environment
	@exec $(VENV_PYTHON) tools/lock.py

sample: environment
	@exec $(VENV_PYTHON) tools/sample_settings.py

wheel-test: check-python
	@'$(PYTHON)' tools/environment.py run
	@exec $(VENV_PYTHON) tools/wheel_test.py

clean:
	rm -rf .venv build dist tbeast.egg-info docs/_build .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf _trial_temp* .coverage* htmlcov twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
