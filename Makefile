# Verbs of the project. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DURATION ?= 60s
SEED     ?= $(shell od -An -N2 -tu2 /dev/urandom | tr -d ' ')
STAMP  := $(VENV)/.installed

# The tests start hundreds of processes; each would compile all that it imports where a container forbids to keep that.
unexport PYTHONDONTWRITEBYTECODE

PROTOCOL := proteus_cli/serving/grpc/protocol

.DEFAULT_GOAL := help
.PHONY: help setup demo test fmt lint type layers unit ray extended fuzz contract contract-key test-gpu chaos soak golden proto docs docs-check
.PHONY: bench bench-paper bench-planner bench-simulator bench-serving bench-live bench-compare bench-gpu
.PHONY: lock all clean test-hosts test-ray

help:  ## show the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## create .venv with the pinned dependencies and this package

# The stamp is made anew when the lock or the package's own metadata changes. Modules are compiled when they are first
# imported: many never are, and to compile them all takes as long as the rest.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## profile, plan, serve and replay a burst on this machine, in under 3 minutes
	$(BIN)/proteus demo build/demo

test: lint type layers docs-check unit  ## lint, types, layers, docs and the tests; in under 6 minutes on 2 cores

fmt: setup  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy --strict
	$(BIN)/mypy

layers: setup  ## imports go one way
	$(BIN)/lint-imports

# One more than there are cores: tests of servers mostly wait.
WORKERS ?= $(shell expr $$(nproc) + 1)

# A worker runs whole files, in the order of tests/conftest.py: those that take longest first.
BY_FILE := --dist loadfile --no-loadscope-reorder

# NOTHING_SKIPPED=1 fails where a test is skipped or left out, as in CI.
SKIPPING := $(if $(NOTHING_SKIPPED),--nothing-skipped)

# The files that have tests with a marker. To import all files takes ten seconds in each process; where few tests are
# wanted, these are enough. tests/conftest.py sees to it that a marker stands in the file whose tests have it.
MARKED = $(shell grep -rl --include='test_*.py' 'pytest\.mark\.$(1)\b' tests | sort)

# A first run has to compile all tests. One process does, else each of the workers would, at the same time.
unit: setup  ## the tests on all cores, then one by one those that need the machine for themselves
	@test -d tests/__pycache__ || $(BIN)/pytest --collect-only tests | tail -n 1
	$(BIN)/pytest -m "not extended and not alone and not gpu" -n $(WORKERS) $(BY_FILE) $(SKIPPING) --ignore tests/contract --ignore tests/gpu
	$(BIN)/pytest -m "not extended and alone and not gpu" $(SKIPPING) $(call MARKED,alone)

# Ray is large, and only its own tests need it.
RAY := $(VENV)/.ray

ray: $(RAY)  ## add Ray to .venv, for its tests

$(RAY): requirements-ray.lock $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --only-binary :all: --no-deps -r $<
	@touch $@

test-hosts: setup  ## servers with agents of several hosts: losses, joining, several servers, live beside simulated
	$(BIN)/pytest -m hosts $(SKIPPING) $(call MARKED,hosts)

test-ray: ray  ## agents that Ray starts, in real clusters of two nodes on this machine
	$(BIN)/pytest -m ray $(SKIPPING) $(call MARKED,ray)

extended: setup  ## the long tests: GPU contract, faults, soak, chaos, the page; needs gcc, g++ and the network the first time
	$(BIN)/pytest -m "extended and not alone and not hosts" -n $(WORKERS) $(BY_FILE) $(SKIPPING) $(call MARKED,extended) tests/contract
	$(BIN)/pytest -m "extended and alone and not hosts and not ray" $(SKIPPING) $(call MARKED,alone)

# What fuzz runs: the property tests on new examples, or a target of tests/fuzzing.
TARGET ?= properties
ENGINE := $(VENV)/.engine

fuzz: setup $(if $(filter-out properties,$(TARGET)),$(ENGINE))  ## new examples for the property tests, or inputs for TARGET=json|binary|http1|http2|grpc|images|files|cluster; DURATION=10m
	$(if $(filter properties,$(TARGET)),$(BIN)/python tests/fuzz.py,PYTHONPATH=tests $(BIN)/python -m fuzzing $(TARGET)) $(DURATION)

# Without a wheel for this machine, Hypothesis takes the engine's place.
$(ENGINE): tests/fuzzing/engine.lock $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps -r $<
	@touch $@

contract: setup  ## what can be verified of GPUs without one; ends with a table of what was checked
	$(BIN)/pytest tests/contract -n auto $(BY_FILE)

contract-key: setup  ## the key under which CI may keep build/contract, with what `make contract` downloads and compiles
	@$(BIN)/python tests/contract/cache_key.py

test-gpu: setup  ## the tests of the runtime part on a real GPU; skipped where there is none
	$(BIN)/pytest tests/gpu -rs -s

chaos: setup  ## bad clients of every kind against a server; DURATION=60s
	$(BIN)/pytest tests/live/test_chaos.py -s --chaos $(DURATION)

soak: setup  ## a long run in which demand varies and things break; DURATION=10m SEED=7 REAL=1
	$(BIN)/pytest tests/live/test_soak.py -s --soak $(DURATION) --soak-seed $(SEED) $(if $(REAL),--soak-real)

golden: setup  ## rewrite the golden files
	$(BIN)/pytest tests/golden --golden

proto: setup  ## compile gRPC's .proto files into the descriptors that the server loads
	$(BIN)/python -m grpc_tools.protoc --proto_path=$(PROTOCOL) --descriptor_set_out=$(PROTOCOL)/descriptors.binpb \
		$(notdir $(sort $(wildcard $(PROTOCOL)/*.proto)))

docs: setup  ## regenerate docs/cli.md from --help, and the OpenAPI document
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_openapi.py

docs-check: setup
	$(BIN)/python docs/generate_cli.py --check
	$(BIN)/python docs/generate_openapi.py --check

bench: setup  ## how close the simulator is to the live server, on this machine, and the demo's burst; 7 minutes
	$(BIN)/python -m benchmarks.parity

bench-paper: setup  ## the paper's experiments, and many kinds of arrivals beside an oracle; an hour
	$(BIN)/python -m benchmarks.paper

bench-planner: setup  ## how fast the planner is, and how good; 5 minutes
	$(BIN)/python -m benchmarks.planner

bench-simulator: setup  ## how many queries per second the simulator plays, and dispatch in overload; 6 minutes
	$(BIN)/python -m benchmarks.simulator

bench-serving: setup  ## proteus beside mosec and Triton, above its capacity, behind agents; 15 minutes; needs wrk and nghttp2-client
	$(BIN)/python -m benchmarks.serving

bench-live: setup  ## live servers while demand, versions and bounds change, and while plans are solved; 45 minutes
	$(BIN)/python -m benchmarks.live

bench-compare: setup  ## this tree against another checkout, BASE=PATH: each figure within 3 %; 9 minutes; needs wrk and nghttp2-client
	$(BIN)/python -m benchmarks.compare $(BASE)

bench-gpu: setup  ## our executor on a GPU beside trtexec; 2 minutes; needs a GPU, TensorRT and trtexec
	$(BIN)/python -m benchmarks.gpu

# The lock of Ray has only the packages that it adds to the other one.
lock:  ## renew requirements.lock and requirements-ray.lock (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements.lock --upgrade
	printf 'ray[client]\nfilelock\nmsgpack\n' | uv pip compile - --no-deps --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements-ray.lock --upgrade

all: test extended demo bench  ## everything

clean:  ## remove what the verbs made
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
