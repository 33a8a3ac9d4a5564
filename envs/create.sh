#!/bin/sh
# Creates .venv from the lock, with the project itself in editable form; does nothing when it is there and
# whole. May be interrupted, and started twice at once. PYTHON chooses the interpreter; PIP_ARGS are options of
# `pip install`.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'make: %s\n' "$@" >&2
    exit 1
}

pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

# Where pip's own settings have it look for packages, as options: the environment's come first and count.
settings() {
    .venv/bin/python -m pip config list | awk -F "='" '
        { key = $1; sub(/.*\./, "", key); values = $2; sub(/\047$/, "", values); gsub(/\\n/, " ", values) }
        key ~ /^(index-url|extra-index-url|find-links)$/ && !seen[key]++ {
            count = split(values, value, " ")
            for (i = 1; i <= count; i++) print "--" key "=" value[i]
        }'
}

# uv installs what pip would in a fraction of the time, but reads none of pip's settings. Bytecode is compiled
# now, as by pip: where PYTHONDONTWRITEBYTECODE is set, every start of Python would compile all that it imports.
# Settings and PIP_ARGS are lists of options, split on purpose.
# shellcheck disable=SC2046,SC2086
quickly() {
    pip_install ${PIP_ARGS:-} "$(grep '^uv==' envs/requirements.txt)" >.venv/uv.log 2>&1 &&
        .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode \
            --index-strategy unsafe-best-match $(settings) ${PIP_ARGS:-} -r envs/requirements.txt >>.venv/uv.log 2>&1
}

# The folder counts, too: programs in a copied or moved environment still point to the old place.
stamp=.venv/installed-$({ cat envs/requirements.txt && pwd; } | cksum | tr ' ' '-')

if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

if [ -e "$stamp" ] && .venv/bin/python -c 'import undue' 2>/dev/null; then
    exit 0
fi

command -v "$PYTHON" >/dev/null || fail "there is no '$PYTHON' on this machine." \
    "Install Python 3.11, 3.12 or 3.13, or name yours: make PYTHON=python3.12 ..."
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || fail \
    "'$PYTHON' is $("$PYTHON" --version 2>&1 || true), but Python 3.11, 3.12 or 3.13 is needed." \
    "Name one: make PYTHON=python3.12 ..."

echo "Creating the environment in .venv (some minutes; once)"
# Always from nothing: pip can't be trusted to repair a half-installed package.
"$PYTHON" -m venv --clear .venv
# shellcheck disable=SC2086
quickly || {
    echo "uv could not install it (.venv/uv.log says why); pip does, which takes longer"
    pip_install ${PIP_ARGS:-} -r envs/requirements.txt
}
pip_install --no-deps --no-build-isolation -e .
touch "$stamp"
