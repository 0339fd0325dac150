#!/bin/sh
# Takes out of a virtual environment what nothing needs at run time, and compiles the rest.
#
#   prune-venv.sh VENV
#
# A container has a read-only file system and a quarter of a CPU: without the bytecode each start
# would compile everything anew. It is not checked against the sources' times, which layers change.
set -eu
venv=$1
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Of the programs only Python stays, and Envoy: itself, not the Python script that would start it.
find "$venv/bin" -mindepth 1 ! -name 'python*' -delete
ln -s "$packages/envoy/_bin/envoy" "$venv/bin/envoy"
"$venv/bin/envoy" --version >/dev/null

cd "$packages"
# Symbols for debuggers.
find . -name '*.so' -exec strip --strip-unneeded '{}' +
# Sources of compiled modules, stubs for type checkers, tests.
find . -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) \
    -delete
find . -type d \( -name tests -o -name testing \) -path '*/site-packages/*' -prune -exec rm -r '{}' +
rm -rf peewee-stubs pycparser pycparser-*.dist-info
# rich can colour source code in 500 languages. Nothing here prints any.
find pygments/lexers -name '*.py' ! -name '_mapping.py' ! -name '__init__.py' -delete

"$venv/bin/python" -m compileall -q --invalidation-mode unchecked-hash .
