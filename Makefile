# Everything happens in .venv; nothing is installed elsewhere. `make PYTHON=python3.12 test` picks an interpreter.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
ENGINES := $(VENV)/.installed-rtx

# The first interpreter that answers: a pyenv shim exists for versions that do not run. Not newer than the wheels of torch.
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.10 python3.14 python3 python; do \
	if "$$python" -c '$(SUPPORTED)' >/dev/null 2>&1; then echo "$$python"; break; fi; done)

.PHONY: help venv demo test thorough minimum coverage lint reliability bench evidence docs engines gpu gpu-table gpu-torch catalog clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo   export, verify, time and build engines for the included model (installs first: 6 GB on disk)'
	@echo 'make test   run the tests            make lint    style, types, import directions'
	@echo 'make thorough  what test leaves out: whole jobs, all families, more cases, a Ray cluster (15 minutes on 2 quiet cores)'
	@echo 'make minimum  the tests with the oldest versions that pyproject.toml allows (its own 7 GB)'
	@echo 'make coverage  every vision transformer of timm by name (half an hour)'
	@echo 'make gpu    the tests that need a GPU     make gpu-torch  times in PyTorch on a GPU (docs/gpu.md)'
	@echo 'make reliability  what bad input and a sudden end do (20 minutes on 2 quiet cores)'
	@echo 'make evidence  measure again what docs say of the demo model'
	@echo 'make docs   the pages of docs as a site, in site/; a broken link is an error'
	@echo 'make bench  measure what README says  make clean   remove all that these made'
	@echo 'make engines  plans of several families in every precision, without a GPU (ten minutes)'

demo: venv
	$(BIN)/tofu-export demo_vit --r 16 --mode mlerp -o demo_out

# One process per core, each with one thread: the tiny models of the tests gain nothing from more.
WORKERS ?= auto
PARALLEL = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
test: venv
	$(PARALLEL) $(PYTEST_ARGS)

# What `make test` leaves out to take minutes: whole jobs, all families and mutations, cases that try once more what
# others try. CI runs both.
thorough: venv
	$(PARALLEL) -m 'thorough or e2e' $(PYTEST_ARGS)

# In .venv-minimum, with the oldest Python and the oldest packages that are supported.
minimum:
	.ci/minimum $(PYTEST_ARGS)

# Every plain vision transformer of timm by name: supported or refused with a reason, and nothing removed changes nothing.
coverage: venv
	$(BIN)/python -m pytest -m coverage $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit.py

# Damaged input, signals, full disks and the like, by the thousand: docs/reliability.md. RELIABILITY_ARGS="--only images",
# or "--write docs/reliability.md" to put the table of a whole run on its page.
reliability: venv
	$(BIN)/python -m tools.reliability -o reliability_out $(RELIABILITY_ARGS)

bench: venv
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

engines: venv
	$(BIN)/python benchmarks/engines.py $(BENCH_ARGS)

# Every number and figure in docs that comes from the demo model: docs/paper.md.
evidence: venv
	$(BIN)/python benchmarks/evidence.py $(EVIDENCE_ARGS)

# Into site/, where index.html opens without a server. A link or an anchor that leads nowhere is an error.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

# What needs an NVIDIA GPU: docs/gpu.md. The backend is that of the TensorRT that is installed.
BACKEND ?= trt-rtx
gpu: venv
	$(BIN)/python -m pytest -m gpu -rs $(PYTEST_ARGS) 2>&1 | tee gpu.log

gpu-table: venv
	$(BIN)/tofu-export vit_base --r 0 --weights random --engine --no-bench -o gpu_out/full
	$(BIN)/tofu-export vit_base --r 16 --weights random --engine --no-bench -o gpu_out/reduced
	$(BIN)/tofu-export bench gpu_out/*/*.engine --backend $(BACKEND) --batch 1,8,32 --json > gpu.json

# Full against reduced models in PyTorch: the table of docs/gpu.md. GPU_ARGS="--minutes 20 --models vit_large"
gpu-torch: venv
	$(BIN)/python benchmarks/gpu_torch.py --write docs/gpu.md --json gpu_out/torch.json $(GPU_ARGS)

# Specs of all supported models, for the timm version in constraints.txt.
catalog: venv
	$(BIN)/python -m tofu_export.zoo.survey

venv: $(INSTALLED) $(ENGINES)

# A stamp is written last, so that a failed or interrupted installation is taken up again. Python compiles what is imported
# when it is, a small part of what is installed.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ -z '$(PYTHON)' ]; then echo 'No Python 3.10 to 3.14 with venv found: install one, or give make PYTHON=...'; exit 1; fi
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || '$(PYTHON)' -m venv --clear $(VENV)
	$(PIP) install --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

# On its own, because it has no wheels for some platforms (macOS): without it the demo makes no engines.
$(ENGINES): $(INSTALLED)
	@rm -f $@
	@if $(PIP) install --quiet --no-compile -c constraints.txt -e '.[rtx,dev]'; then touch $@; else \
		echo; echo 'TensorRT-RTX could not be installed here (see above): going on without engines.'; echo; fi

clean:
	rm -rf $(VENV) .venv-minimum demo_out evidence_out gpu_out reliability_out site gpu.log gpu.json build dist *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
