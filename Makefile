# make demo   everything from an empty machine to place matches on a live topic
# make test   the same set-up, then the tests, side by side;  make test-rest   the slow ones
# make test-full   both in one run
# make lint   style, types, layers
# make bench  all benchmarks, or NAME=encoder, into build/bench; make bench-table: docs/benchmarks.md
# make soak   the long tests: kills, floods, hours
# make docs   the pages as a site in docs/_build, warnings are errors
PYTHON ?= python3
SHELL := /bin/bash
ENV := . tools/env.sh &&
SOURCES := $(shell find msg srv launch config scripts regvpr_core regvpr_ros -type f \
	-not -name '*.pyc') package.xml CMakeLists.txt

# Benchmarks are the modules that can be run; the others are their parts.
BENCHMARKS := $(filter-out table,$(notdir $(basename $(shell grep -l __main__ benchmarks/*.py))))

# Tests wait for processes and messages half of their time: two workers a core, at most 8.
WORKERS ?= $(shell n=$$(( 2 * $$(nproc) )); echo $$(( n < 8 ? n : 8 )))
# Compiled modules are kept also where the environment says otherwise: hundreds of starts read them.
RUN_TESTS = PYTHONDONTWRITEBYTECODE= python -m pytest -n $(WORKERS)

.PHONY: setup build stand-ins demo test test-rest test-full soak lint docs bench bench-table format clean
.DELETE_ON_ERROR:

setup:
	@$(PYTHON) tools/bootstrap.py

# CMake refuses header folders inside a package's source folder, and .venv is inside: the package
# is built through a link to this folder, so that .venv lies outside.
build: setup build/colcon.stamp
build/colcon.stamp: $(SOURCES) requirements.lock
	@mkdir -p build/ws && ln -sfn ../.. build/ws/regvpr_ros
	@echo building the ROS package
	@$(ENV) colcon --log-base build/log build --base-paths build/ws/regvpr_ros \
		--build-base build/colcon --install-base install --cmake-args -DBUILD_TESTING=OFF \
		> build/colcon.log 2>&1 || { tail -n 40 build/colcon.log; exit 1; }
	@touch $@

demo: build
	@$(ENV) python -m examples.demo

# Messages of SLAM stacks that the tests talk to, built from the definitions beside them.
stand-ins: build build/stand-ins.stamp
build/stand-ins.stamp: $(shell find test/ros/stack_interfaces -type f)
	@echo building the stand-ins of SLAM stacks
	@$(ENV) colcon --log-base build/stack_ws/log build --base-paths test/ros/stack_interfaces \
		--build-base build/stack_ws/build --install-base build/stack_ws/install \
		--cmake-args -DBUILD_TESTING=OFF \
		> build/stand-ins.log 2>&1 || { tail -n 40 build/stand-ins.log; exit 1; }
	@touch $@

test: build stand-ins
	@tools/browser.sh
	@$(ENV) $(RUN_TESTS) -m 'not full and not soak' $(PYTEST)

test-rest: build stand-ins
	@$(ENV) $(RUN_TESTS) -m 'full and not soak' $(PYTEST)

test-full: build stand-ins
	@tools/browser.sh
	@$(ENV) $(RUN_TESTS) -m 'not soak' $(PYTEST)

soak: build stand-ins
	@$(ENV) python -m pytest -m soak --timeout=7200 $(PYTEST)

lint: build
	@$(ENV) ruff check . && mypy && lint-imports --no-cache && python tools/check_versions.py

bench: build
	@$(ENV) for name in $(or $(NAME),$(BENCHMARKS)); do \
		echo "benchmark $$name"; python -m benchmarks.$$name || exit 1; done

bench-table: build
	@$(ENV) python -m benchmarks.table

docs: build
	@$(ENV) PYTHONPATH="$$PWD:$$PYTHONPATH" python -m sphinx -q -W --keep-going -b html docs docs/_build

format: setup
	@$(ENV) ruff check --fix .

clean:
	rm -rf build install log
