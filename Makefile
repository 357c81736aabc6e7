PYTHON ?= python3
EXPORTERS ?= out/exporters
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# The machine's own pip configuration and cache are used; nothing is installed outside .venv.

.PHONY: setup demo docs test test-fast test-slow test-exporters lint format repository bench bench-precision clean

setup: .venv/.installed  ## make .venv and install everything into it

.venv/.installed: pyproject.toml
	@sh examples/needs.sh $(PYTHON)
	@echo "make setup downloads some 1 GB and fills 2.1 GB of .venv, which takes some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[all,dev]'
	@touch $@

# Where make setup was not run, what the demo needs and no more: no compilers, no linters, no tests.
.venv/.installed-for-demo: pyproject.toml
	@sh examples/needs.sh $(PYTHON)
	@echo "make demo downloads about 460 MB and fills 1.2 GB of .venv, which takes some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[video,builder,server]'
	@touch $@

demo: $(if $(wildcard .venv/.installed),setup,.venv/.installed-for-demo)  ## serve the committed detectors, detect on sample pictures, write out/demo/
	$(BIN)/python examples/demo.py

test: setup  ## the tests, the real server included; 16 minutes at most on two cores
	$(PYTEST) -n auto --dist loadgroup -m 'not slow and not compose'

test-fast: setup  ## of those, the ones that start no server
	$(PYTEST) -n auto --dist loadgroup -m 'not slow and not compose and not live'

test-slow: setup  ## the others: soak, rotation, floods, replicas, compose, what takes more than ten seconds
	$(PYTEST) -n 2 --dist loadgroup -m 'slow or compose'

test-exporters: setup  ## export with today's packages in their own environments, serve, compare; 7 GB, an hour
	$(BIN)/python -m tests.exporters.run $(EXPORTERS) $(EXPORTER)
	EXPORTERS=$(EXPORTERS) $(BIN)/python -m pytest tests/exporters/check_exporters.py $(if $(EXPORTER),-k $(EXPORTER))

docs: setup .venv/.docs-installed  ## the pages of docs/ as a site, into out/site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

.venv/.docs-installed: pyproject.toml | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

lint: setup  ## ruff, strict mypy, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

repository: setup  ## build zoo/ into model_repository/ again
	for name in codes_yolo codes_ssd codes_rcnn; do \
	    taskset -c 0 $(BIN)/detserve build $$name --name $$name --repository model_repository || exit 1; \
	done

bench: setup  ## measure the committed detector on this machine, into out/bench/
	$(BIN)/python -m benchmarks.everything $(PICTURES)

bench-precision: setup  ## every precision of codes_yolo and codes_ssd, and of the detectors under DATA, into out/bench/
	$(BIN)/python -m benchmarks.precision $(DATA)

clean:
	rm -rf .venv out
