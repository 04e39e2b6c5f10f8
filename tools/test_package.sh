#!/usr/bin/env bash
# Installs a wheel or an sdist into an empty environment and tests it there, from outside of the checkout.
#
#   tools/test_package.sh FILE TORCH [pytest's arguments]
#
# A wheel meets an environment that has torch and nothing else, and a PATH without any compiler. An sdist is
# built there first, and brings its own tests. Run by make, in a checkout whose .venv is ready; that one's pip is
# used, so that even pip is absent from the environment. JOBS is the number of test processes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

package=$(realpath "$1") torch=$2
shift 2
checkout=$PWD
environment=$checkout/build/test-package
python=$environment/bin/python
outside=$(mktemp -d)
remove=$(command -v rm)
trap '"$remove" -rf "$outside"' EXIT

install() {
    "$checkout/.venv/bin/python" -m pip --disable-pip-version-check --python "$python" install --quiet "$@"
}

# torch alone takes part in what follows: whatever else is installed has to leave it as it is.
pins=$outside/constraints.txt
{ grep -v '^torch==' requirements-dev.txt; echo "torch==$torch"; } > "$pins"

echo "Testing $(basename "$package") with torch $torch in an empty environment"
rm -rf "$environment"
.venv/bin/python -m venv --without-pip "$environment"
install "torch==$torch"

case $package in
*.whl)
    cp -r tests examples docs README.md "$outside"
    # Two readers of ELF files for tests of the binary; no other program of the machine is found from here on.
    mkdir "$outside/bin"
    for program in readelf nm; do
        if found=$(command -v $program); then ln -s "$found" "$outside/bin"; fi
    done
    PATH=$environment/bin:$outside/bin
    for compiler in cc c++ gcc g++ clang clang++; do
        if command -v $compiler; then echo "a compiler is on PATH"; exit 1; fi
    done
    install --no-index "$package" # torch is all that it requires
    ;;
*)
    tar -xzf "$package" -C "$outside" --strip-components 1 --wildcards '*/tests' '*/examples' '*/docs' '*/README.md'
    install --constraint "$pins" setuptools wheel ninja pybind11
    install --no-build-isolation "$package"
    ;;
esac

cd "$outside"
"$python" -I -c "
import sys, torch, torch_conv_ext
assert torch_conv_ext.__file__.startswith(sys.prefix), torch_conv_ext.__file__
y = torch_conv_ext.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
print(f'torch_conv_ext {torch_conv_ext.__version__} computes {y.item():g} with torch {torch.__version__}')
"
install --constraint "$pins" 'torch_conv_ext[test]'
OMP_NUM_THREADS=1 "$python" -m pytest -c "$checkout/pyproject.toml" --rootdir "$outside" -p no:cacheprovider \
    -n "${JOBS:-2}" -r s "$@"
"$remove" -rf "$environment"
