# regrun: `make` shows what there is. Everything runs in .venv, which is made when it is first needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed
# One thread a process: the nets of tests are so small that a second one only waits. No GPU: its tests run by themselves.
TEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all extras test-cluster lint types fmt bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(DONE) ## make .venv with regrun and its tools in it

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("regrun needs Python 3.11 or later; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(DONE)

demo: $(DONE) ## compare the methods of the brief: a table and figures in about two minutes on two cores
	$(BIN)/regrun experiment=brief

test: $(DONE) ## run the tests that take seconds
	$(TEST)

test-all: $(DONE) ## run all tests: slow ones, GPUs, Slurm and Ray too, where they are installed
	$(TEST) -m 'not gpu'
	$(BIN)/pytest -q -m gpu tests/test_gpu.py

extras: $(DONE) ## add every extra to .venv: Slurm, Ray, Optuna, TensorBoard, MLflow
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[slurm,ray,optuna,tensorboard,mlflow]'

test-cluster: extras ## install Slurm on this Debian machine (as root) and test clusters, searches, trackers: ten idle minutes
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs -m '' $(addprefix tests/test_,cluster.py sharing.py search.py trackers.py)

lint: $(DONE) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DONE) ## check types
	$(BIN)/mypy

fmt: $(DONE) ## mend what can be mended of style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DONE) ## measure speed against plain PyTorch loops and Lightning, side by side
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python scripts/bench/run.py
	$(BIN)/python scripts/bench/single.py
	$(BIN)/python scripts/bench/study.py
	$(BIN)/python scripts/bench/draws.py
	$(BIN)/python scripts/bench/kernels.py

clean: ## remove .venv and caches; results in outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
