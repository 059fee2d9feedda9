#!/bin/sh
# Sets up what is missing and runs the tests; arguments go to pytest.
exec "$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)/start_worker.sh" test "$@"
