# make demo       set up .venv and run the demo
# make test       set up what the tests need, check the code, run the tests
# make unit       only the tests that start no process: two minutes
# make test-slow  the tests that take minutes
# make docs       build the documentation into site/
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# GeodisTK has no wheel and predates NumPy 2. Old setuptools reads CFLAGS, new ones CXXFLAGS; without -O3 it is 5 times slower.
GEODISTK_FLAGS := -DNDEBUG -fwrapv -O3 -DNPY_IN_ARRAY=NPY_ARRAY_IN_ARRAY

.PHONY: demo test unit test-store test-slow test-oldest-nnunet check docs clean

demo: .venv/.demo
	$(BIN)/python workflows/demo.py

test: check
	$(BIN)/python -m pytest tests/unit --cov --cov-report=term:skip-covered
	$(BIN)/python -m pytest tests/system

unit: .venv/.dev
	$(BIN)/python -m pytest tests/unit

# the store tests with another interpreter and the newest zarr: make test-store PYTHON=python3.12
test-store:
	$(PYTHON) -m venv .venv-store
	.venv-store/bin/python -m pip --disable-pip-version-check install --quiet -e ".[store-test]"
	.venv-store/bin/python -m pytest -p no:cacheprovider tests/unit/store tests/unit/recipe

test-slow: .venv/.dev test-oldest-nnunet
	$(BIN)/python -m pytest -m slow

# the oldest nnU-Net that works, with what it asks for itself
test-oldest-nnunet:
	$(PYTHON) -m venv .venv-nnunet
	grep -vE '^(nnunetv2|dynamic_network_architectures|batchgenerators|batchgeneratorsv2)==' constraints.txt > .venv-nnunet/constraints.txt
	.venv-nnunet/bin/python -m pip --disable-pip-version-check install --quiet -c .venv-nnunet/constraints.txt -e ".[dev]" nnunetv2==2.6.0
	.venv-nnunet/bin/python -m pytest -p no:cacheprovider tests/system/test_nnunet.py tests/system/test_nnunet_commands.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs
	$(BIN)/zensical build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e ".[demo]"
	touch $@

.venv/.docs: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e ".[docs]"
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e ".[dev]" setuptools wheel
	CFLAGS="$(GEODISTK_FLAGS)" CXXFLAGS="$(GEODISTK_FLAGS)" $(INSTALL) --no-build-isolation GeodisTK
	touch $@

# nnU-Net as well, for the tests that train it; torch stays as constraints.txt has it
.venv/.nnunet: .venv/.dev
	$(INSTALL) -e ".[nnunet]"
	touch $@

clean:
	rm -rf .venv .venv-store .venv-nnunet demo build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
