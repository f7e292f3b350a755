# Everything from a fresh clone: each target makes its own environment in .venv, pinned by constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
OUT ?= benchmarks/results/new
MINUTES ?= 4

.PHONY: help demo test test-slow lint gpu gpu-details inspect clean

help:
	@echo "make demo       train SAGAN on the embedded digits (about four minutes on two CPU cores) and draw samples"
	@echo "make test       set up, lint, types, fast tests"
	@echo "make test-slow  set up, the long tests"
	@echo "make gpu        on a machine with a GPU, PyTorch and Triton: GPU tests, then every op's benchmark and whole training steps, into OUT=$(OUT)"
	@echo "make gpu-details  there, too: the longer benchmarks of single ops"
	@echo "make inspect    compile every kernel for every supported GPU (none needed) and compare registers, spills, ... with the snapshot"
	@echo "make clean      remove .venv and caches"

# The stamp depends on what decides the environment, so that a pull that changes it sets up again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ganfuse needs Python 3.10 or newer, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Larger learning rates than the paper's: the networks are a quarter as wide, and the time is short.
demo: $(VENV)/.installed
	$(BIN)/ganfuse train sagan --data digits --out runs/demo --overwrite --time-limit 210s --batch-size 32 \
		--set width=16 --set generator_lr=4e-4 --set discriminator_lr=8e-4 --set sample_every=250
	$(BIN)/ganfuse sample runs/demo --out runs/demo/grid.png --classes each --num 120 --columns 12 --scale 2
	@echo
	@echo "The grid is in runs/demo/grid.png, one row per class. Next:"
	@echo "  $(BIN)/ganfuse train --out runs/demo --resume --time-limit 10m                # go on with it"
	@echo "  $(BIN)/ganfuse train sagan --data fashion-mnist --set width=32                # another data set"
	@echo "  $(BIN)/ganfuse train sagan --data path/to/images --resolution 64              # your own images"
	@echo "  $(BIN)/ganfuse --help"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Interpreted and compiled kernels need different processes: Triton reads TRITON_INTERPRET when it is imported.
test: lint
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not interpreter and not gpu"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "interpreter and not slow and not gpu" tests/kernels tests/models tests/engine/layers

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n $(JOBS) -m "slow and not interpreter and not gpu"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "slow and interpreter and not gpu" tests/kernels tests/models tests/engine/layers

# With the python3 that is there and its PyTorch; installs nothing. Within ten minutes: what is left when the time is up
# is measured when it is called again with the same OUT. What fails does not keep the rest from being measured.
gpu:
	@mkdir -p "$(OUT)"
	@status=0; \
	PYTHONPATH=. timeout -s INT 180 $(PYTHON) -m pytest -q -m gpu tests --gpu-report "$(OUT)/gpu-tests.json" || status=1; \
	PYTHONPATH=. $(PYTHON) benchmarks/all_ops.py --device cuda --minutes $(MINUTES) --out "$(OUT)" || status=1; \
	PYTHONPATH=. $(PYTHON) benchmarks/training_steps.py --device cuda --minutes 1.5 --models biggan-128 stylegan2-256 \
		--out "$(OUT)" || status=1; \
	exit $$status

# Each op's own benchmark, with more shapes and its goals; longer.
gpu-details:
	@mkdir -p "$(OUT)"
	PYTHONPATH=. $(PYTHON) benchmarks/attention.py --out "$(OUT)"
	PYTHONPATH=. $(PYTHON) benchmarks/norms.py --out "$(OUT)"
	PYTHONPATH=. $(PYTHON) benchmarks/folded_convs.py --device cuda --out "$(OUT)"
	PYTHONPATH=. $(PYTHON) -m benchmarks.biggan_turn --device cuda --out "$(OUT)/biggan-turn-cuda.jsonl"
	PYTHONPATH=. $(PYTHON) benchmarks/spectral_norm.py --out "$(OUT)"
	PYTHONPATH=. $(PYTHON) benchmarks/resampling.py --device cuda --out "$(OUT)"
	PYTHONPATH=. $(PYTHON) benchmarks/modulated_conv.py --device cuda --out "$(OUT)"

inspect: $(VENV)/.installed
	$(BIN)/ganfuse inspect --compare benchmarks/results/compiled-kernels.json

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
