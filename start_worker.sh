#!/bin/sh
# Finds a Python and hands over to launcher.py, which holds the logic: ./start_worker.sh --help
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
export PYTHONUTF8=1
for python in python3.11 python3.12 python3.13 python3 python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null; then
        exec "$python" "$here/launcher.py" "$@"
    fi
done
echo "Python 3.11 or newer is needed and was not found. Install it, then start this again." >&2
exit 1
