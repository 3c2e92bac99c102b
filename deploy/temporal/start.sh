#!/bin/sh
# The server takes its password from the environment only: it comes from a file, and into no other process.
set -eu
password=${POSTGRES_PWD_FILE:-/run/secrets/postgres_temporal}
[ -s "$password" ] || { echo "start.sh: $password is missing or empty" >&2; exit 2; }
POSTGRES_PWD=$(tr -d '\r\n' <"$password")
export POSTGRES_PWD
exec "${1:-/etc/temporal/entrypoint.sh}"
