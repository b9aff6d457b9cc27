#!/bin/sh
# Make a virtual environment with pip in it, also on Debian, where the venv module comes in a package of its own.
set -eu
target=$1

for python in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    if [ -n "$python" ] && command -v "$python" >/dev/null 2>&1 &&
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        break
    fi
    python=
done
if [ -z "$python" ]; then
    echo "edgefleet needs Python 3.11 or newer; found none. Install it, or say where it is: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing python$version-venv, which this Python's venv module needs" >&2
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >/dev/null
    else
        echo "this Python has no venv module. Install it: sudo apt-get install python$version-venv" >&2
        exit 1
    fi
fi
rm -rf "$target"
"$python" -m venv "$target"
