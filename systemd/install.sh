#!/bin/sh
# What `make install` does: the program into an environment of its own, then `token-relay service install`.
#     DESTDIR  lay everything out below this directory, for a package       PREFIX  /usr/local
#     WHEEL    the program's wheel; else built from this checkout           WHEELS  directory of all wheels, no network
#     BUILDER  a Python that has pip                                        PYTHON  the one that the services run with
# A second run with the same wheel changes nothing.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPYCACHEPREFIX PYTHONPATH
umask 022
program=/opt/token-relay
place=${DESTDIR:-}$program
python=${PYTHON:-/usr/bin/python3}
pip="${BUILDER:-$python} -m pip --disable-pip-version-check --quiet"

fail() { echo "make install: $1" >&2; exit 1; }
[ -n "${DESTDIR:-}" ] || [ "$(id -u)" = 0 ] || fail "this changes the system: use sudo, or DESTDIR=DIR"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail "$python is older than 3.11: PYTHON="
case $(readlink -f "$python") in
    /home/*|/root/*) fail "services cannot see $(readlink -f "$python"): give PYTHON=/usr/bin/python3" ;;
esac

if [ -z "${WHEEL:-}" ]; then
    rm -rf build/wheel
    # shellcheck disable=SC2086  # words
    $pip wheel --no-deps --wheel-dir build/wheel .
    WHEEL=$(echo build/wheel/token_relay-*.whl)
fi
mark=$place/share/token-relay/installed
this=$(sha256sum "$WHEEL" constraints.txt | cut -d' ' -f1 | tr '\n' ' ')$("$python" -V)
if [ "$(cat "$mark" 2>/dev/null)" != "$this" ]; then
    echo "installing into $place"
    mkdir -p "$place"
    [ -x "$place/bin/python" ] || "$python" -m venv --without-pip "$place"
    # shellcheck disable=SC2086
    $pip --python "$place/bin/python" install --constraint constraints.txt \
        ${WHEELS:+--no-index --find-links "$WHEELS"} "$WHEEL"
    # shellcheck disable=SC2086  # the same version, built anew: only the program itself
    $pip --python "$place/bin/python" install --no-deps --force-reinstall --no-index "$WHEEL"
    if [ -n "${DESTDIR:-}" ]; then  # the environment will be called from where the package puts it
        grep -rlIF "$place" "$place/bin" "$place/pyvenv.cfg" | while read -r file; do
            [ -L "$file" ] || sed -i "s|$place|$program|g" "$file"
        done
    fi
    mkdir -p "$(dirname "$mark")"
    echo "$this" > "$mark"
fi
exec "$place/bin/python" -I -m token_relay.cli service install \
    --root "${DESTDIR:-/}" --prefix "${PREFIX:-/usr/local}" --program "$program"
