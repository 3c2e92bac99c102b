#!/bin/sh
# Makes or brings up to date the tables of Temporal's two databases; safe to run twice. Before each new version of the server.
# https://docs.temporal.io/self-hosted-guide/upgrade-server
set -eu
password=${POSTGRES_PWD_FILE:-/run/secrets/postgres_temporal}
[ -s "$password" ] || { echo "setup.sh: $password is missing or empty" >&2; exit 2; }
SQL_PASSWORD=$(tr -d '\r\n' <"$password")
export SQL_PASSWORD

tool() {
    database=$1
    shift
    temporal-sql-tool --plugin postgres12 --ep "${POSTGRES_SEEDS:-postgres}" -p "${DB_PORT:-5432}" \
        -u "${POSTGRES_USER:-temporal}" --db "$database" "$@"
}

# a database that has a newer version than 0.0 keeps it
tool temporal setup-schema -v 0.0
tool temporal update-schema -d /etc/temporal/schema/postgresql/v12/temporal/versioned
tool temporal_visibility setup-schema -v 0.0
tool temporal_visibility update-schema -d /etc/temporal/schema/postgresql/v12/visibility/versioned
