# Every target works from a bare clone that has python3, g++, make and pip. Everything that is downloaded goes to
# .venv, everything that is made goes to build/, out/ and torch_conv_ext/_C*.so; git ignores all of them.
#
# Three stamp files make a second run quick:
#   .venv/requirements.stamp   the environment holds what requirements-dev.txt says
#   .venv/checkout.stamp       the environment imports torch_conv_ext from this checkout
#   build/extension.stamp      the compiled module is newer than csrc/ and setup.py

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
OUT    := out
ARGS   ?=

# Each test process computes on one thread, and there are as many processes as cores. A test of several threads asks
# for them itself.
JOBS   ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)))' 2>/dev/null || echo 2)

# Folders are listed with the files: a folder's time changes when a file is added, renamed or removed.
SOURCES := $(shell find csrc -not -name '*.md' 2>/dev/null) setup.py pyproject.toml torch_conv_ext/_version.py

.DEFAULT_GOAL := help
.PHONY: help demo test examples bench lint format build clean
.DELETE_ON_ERROR:

help:  ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build  ## Train on real images beside torch.nn and draw the result (out/digits.png)
	@$(PY) examples/train_digits.py --output $(OUT)/digits.png $(ARGS)

test: build  ## Run all tests, lint included (ARGS="-k digits" picks some)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) $(ARGS)

examples: build  ## Convolution by hand: eight worked examples as text and pictures (out/by_hand/)
	@$(PY) examples/convolution_by_hand.py --output $(OUT)/by_hand $(ARGS)

bench: build  ## Time a dozen layers beside torch's (ARGS="--suite all --plot out/bench.png"; --help lists all)
	@$(PY) -m torch_conv_ext bench $(ARGS)

lint: build  ## Check style and types (ruff, mypy, clang-format)
	@$(PY) -m pytest -q -p no:cacheprovider tests/test_lint.py

format: $(VENV)/requirements.stamp  ## Rewrite the sources in the project's format
	$(VENV)/bin/ruff check --fix --quiet .
	$(VENV)/bin/ruff format .
	find csrc \( -name '*.h' -o -name '*.cpp' -o -name '*.inl' \) -exec $(VENV)/bin/clang-format -i {} +

build: build/extension.stamp $(VENV)/checkout.stamp  ## Make .venv and compile the extension in place

clean:  ## Remove all that was made except .venv
	rm -rf build dist $(OUT) torch_conv_ext/_C*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find csrc torch_conv_ext examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Where Python comes without ensurepip (Debian's python3 without python3-venv), the system's pip brings the first pip.
$(PY):
	$(PYTHON) -m venv $(VENV) || \
	    { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install pip; }

# torch goes first and alone: nothing else can then pull in another torch.
$(VENV)/requirements.stamp: requirements-dev.txt | $(PY)
	@echo "Installing requirements-dev.txt into $(VENV)"
	@$(PIP) install --quiet "$$(grep '^torch==' requirements-dev.txt)"
	@$(PIP) install --quiet --requirement requirements-dev.txt
	@touch $@

# One line in a .pth file does what `pip install --editable .` would do, without its second and always complete
# compilation: pip builds in a temporary folder and so cannot reuse objects.
$(VENV)/checkout.stamp: | $(PY)
	@$(PY) -c "import os, sysconfig; \
	open(os.path.join(sysconfig.get_path('purelib'), 'torch_conv_ext_checkout.pth'), 'w').write(os.getcwd() + '\n')"
	@touch $@

# ninja recompiles only what changed, headers included. Its long command lines go to a log; warnings are shown.
build/extension.stamp: $(SOURCES) $(VENV)/requirements.stamp
	@mkdir -p $(@D)
	@echo "Compiling the extension (commands in build/compile.log)"
	@$(PY) setup.py --quiet build_ext --inplace > build/compile.log 2>&1 || { cat build/compile.log; exit 1; }
	@grep -F 'warning:' build/compile.log || true
	@touch $@
