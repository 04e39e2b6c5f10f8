# Every target works from a bare clone that has python3, g++, make and pip. Everything that is downloaded goes to
# .venv, everything that is made goes to build/, dist/, out/ and torch_conv_ext/_C*.so; git ignores all of them.
#
# Four stamp files make a second run quick:
#   .venv/requirements.stamp   the environment holds what requirements-dev.txt says
#   .venv/checkout.stamp       the environment imports torch_conv_ext from this checkout
#   build/extension.stamp      the compiled module is newer than csrc/ and setup.py
#   build/wheel.stamp          dist/ is newer than all that is packed into it

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
PACKED  := $(SOURCES) $(shell find torch_conv_ext docs examples tests tools MANIFEST.in README.md CHANGELOG.md LICENSE \
               -type f -not -path '*__pycache__*' -not -name '_C*.so')

# The torch that packages are tested with: the pinned one, unless TORCH=2.14.1 or the like is given.
TORCH   ?= $(shell sed -n 's/^torch==//p' requirements-dev.txt)
BASIC   := $(addprefix tests/test_,forward.py grad_input.py grad_weight.py binary.py packaging.py)
# The same sources pass all tests in place; these see the installed package: its files, its binary, what torch makes of it.
INSTALLED := $(addprefix tests/test_,against_torch.py autograd.py binary.py citizen.py convert.py examples.py modules.py \
                 packaging.py parallel.py)

.DEFAULT_GOAL := help
.PHONY: help demo test examples bench lint format build wheel test-wheel test-sdist clean
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

wheel: build/wheel.stamp  ## Build dist/: an sdist, and from it a manylinux wheel with every instruction set

test-wheel: wheel  ## Test the wheel in an empty environment without a compiler (TORCH=2.14.1: with that torch)
	@JOBS=$(JOBS) tools/test_package.sh dist/*.whl $(TORCH) $(ARGS)

test-sdist: wheel  ## Build the sdist in an empty environment and run its tests of the kernels and the binary
	@JOBS=$(JOBS) tools/test_package.sh dist/*.tar.gz $(TORCH) $(or $(ARGS),$(BASIC))

clean:  ## Remove all that was made except .venv
	rm -rf build dist $(OUT) torch_conv_ext/_C*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find csrc torch_conv_ext examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Where Python comes without ensurepip (Debian's python3 without python3-venv), the system's pip brings the first pip.
$(PY):
	$(PYTHON) -m venv $(VENV) || \
	    { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install pip; }

# torch goes first and alone: nothing else can then pull in another torch. pytorchcv asks for a torchvision that it
# does not need here, and so comes without its dependencies.
$(VENV)/requirements.stamp: requirements-dev.txt | $(PY)
	@echo "Installing requirements-dev.txt into $(VENV)"
	@$(PIP) install --quiet "$$(grep '^torch==' requirements-dev.txt)"
	@grep -v '^pytorchcv==' requirements-dev.txt | $(PIP) install --quiet --requirement /dev/stdin
	@$(PIP) install --quiet --no-deps "$$(grep '^pytorchcv==' requirements-dev.txt)"
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

# The wheel is built from the unpacked sdist, so the sdist is complete. Nothing of torch or OpenMP is copied into it:
# a second copy of either in a process is a fault. auditwheel finds patchelf on PATH. Its verdict names linux_x86_64
# because of these two libraries; the symbols' versions make it the tag in the wheel's name.
build/wheel.stamp: $(PACKED) $(VENV)/requirements.stamp
	@rm -rf dist build/wheel && mkdir -p build
	@echo "Building dist/ (commands in build/wheel.log)"
	@$(PY) -m build --no-isolation --outdir build/wheel > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" auditwheel repair --strip --exclude libtorch_cpu.so \
	    --exclude libgomp.so.1 --wheel-dir dist build/wheel/*.whl >> build/wheel.log 2>&1 \
	    || { cat build/wheel.log; exit 1; }
	@cp build/wheel/*.tar.gz dist
	@$(VENV)/bin/auditwheel show dist/*.whl
	@ls -l dist
	@touch $@
