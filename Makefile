# Two targets do everything on a fresh machine with Python 3.11 to 3.13, git and make: `make demo` and `make test`.
PYTHON ?= python3.11
# Which versions; `make LOCK=` in an empty .venv takes the newest that the metadata allow.
LOCK ?= --constraint requirements.lock
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Three processes for two cores, with a thread each: a test that starts Ray waits most of its time. A file stays together,
# and files begin in the order of their names, so that those that last minutes do not begin last.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --max-worker-restart=0 --dist loadfile --no-loadscope-reorder

# What one process of the tests has compiled the others take as it is, whatever the environment says: a third of what it
# takes to collect the tests.
export PYTHONDONTWRITEBYTECODE :=

STAMP_LIGHT := $(VENV)/.installed-light

.PHONY: setup picture docs lock demo test lint compiled numerics tests unit mutants hosts format clean

setup: $(STAMP)

# torch first and alone: its own index decides CPU or CUDA; the lock keeps the rest from replacing it.
# rtmlib, which tests and a benchmark compare with, asks for two other builds of OpenCV, which would overwrite ours.
# Not compiled: that is more than a minute of one core, and what is imported is compiled then.
$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile $(LOCK) 'torch<2.14'
	$(BIN)/python -m pip install --quiet --no-compile $(LOCK) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps rtmlib==0.0.16
	touch $(STAMP)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell posecore pipelines datasets docs tests README.md

unit: setup
	$(PYTEST) -m "not ray and not slow and not gpu and not network"

# Before several processes import the same packages, each of which would compile them; not the third that hardly anybody
# imports. Some files are templates.
RARE := /(tests?|testing|_inductor|transformers/models|moto|sklearn|databricks|matplotlib|networkx|rllib)/
compiled: setup
	$(BIN)/python -m compileall -qq -x '$(RARE)' $(VENV)/lib >/dev/null || true

# The numerics, with every array's shape checked at run time; and all the rest.
NUMERICS := tests/property/test_geometry.py tests/property/test_heatmap_codec.py tests/property/test_oks_properties.py \
	tests/unit/codecs tests/unit/evaluation
numerics: compiled
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q \
		--jaxtyping-packages=posecore.geometry,posecore.codecs,posecore.evaluation,beartype.beartype $(NUMERICS)

tests: setup
	$(PYTEST) --durations=10 -m "not gpu and not network" $(addprefix --ignore=,$(NUMERICS))

# What takes one core each, side by side, then everything.
test: setup
	$(MAKE) --jobs=2 lint docs numerics
	$(MAKE) tests

# How many small bugs the quick tests notice, on a random sample: minutes to hours of a core, so no part of `make test`.
SAMPLE ?= 150
SEED ?= 1
mutants: setup
	$(BIN)/python -m pip install --quiet $(LOCK) --editable '.[mutants]'
	nice -n 15 $(BIN)/python benchmarks/mutants.py --sample $(SAMPLE) --seed $(SEED)

# Several hosts on this machine, one of which is lost: as root, with PostgreSQL's server, 10 to 20 minutes.
hosts: setup
	$(BIN)/python benchmarks/hosts.py

# The site into site/, strictly: a link that leads nowhere fails.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A first picture in about a minute, with the smallest installation: `make picture`, or `make picture PHOTO=my.jpg`.
picture: $(if $(wildcard $(STAMP)),,$(STAMP_LIGHT))
	$(BIN)/python pipelines/first_picture.py $(PHOTO)

$(STAMP_LIGHT): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile $(LOCK) 'torch<2.14'
	$(BIN)/python -m pip install --quiet --no-compile $(LOCK) --editable '.[lineage]'
	touch $(STAMP_LIGHT)

# requirements.lock anew: every package at the version that is installed here and that the tests have passed with.
lock: setup
	$(BIN)/python benchmarks/lock.py

demo: setup
	$(BIN)/python pipelines/demo.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf demo picture runs site
