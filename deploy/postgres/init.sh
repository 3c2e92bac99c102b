#!/bin/sh
# Databases and roles of a new PostgreSQL: compose runs it once, on an empty volume. Elsewhere, once, as a superuser:
#   SECRETS_DIR=/path/of/passwords PGHOST=… PGUSER=postgres sh deploy/postgres/init.sh
# or, from PostgreSQL 15 on, as a role with CREATEROLE and CREATEDB; warnings say what such a role cannot do.
#
#   temporal      owns Temporal's two databases; Temporal's own tools make its tables
#   fleet_owner   owns the tables of the ledger: `fleet db upgrade` and nobody else
#   fleet         workers, console, exporter: reads and writes rows; to the audit it only adds
#   fleet_reader  people with a question: reads, for a minute at most
set -eu
export SECRETS_DIR="${SECRETS_DIR:-/run/secrets}"
for name in postgres_temporal postgres_fleet_owner postgres_fleet postgres_fleet_reader; do
    [ -s "$SECRETS_DIR/$name" ] || { echo "init.sh: $SECRETS_DIR/$name is missing or empty" >&2; exit 2; }
done

sql() {
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-${PGUSER:-postgres}}" --dbname postgres "$@"
}

there=$(sql --no-align --tuples-only <<'SQL'
SELECT string_agg(found, ', ') FROM (
    SELECT 'role ' || rolname FROM pg_roles WHERE rolname IN ('temporal', 'fleet_owner', 'fleet', 'fleet_reader')
    UNION ALL
    SELECT 'database ' || datname FROM pg_database WHERE datname IN ('temporal', 'temporal_visibility', 'fleet')
) AS present (found);
SQL
)
if [ -n "$there" ]; then
    echo "init.sh: there already: $there. It is for a new server: drop them to begin anew" >&2
    exit 2
fi

sql <<'SQL'
\set temporal `tr -d '\r\n' <"$SECRETS_DIR/postgres_temporal"`
\set fleet_owner `tr -d '\r\n' <"$SECRETS_DIR/postgres_fleet_owner"`
\set fleet `tr -d '\r\n' <"$SECRETS_DIR/postgres_fleet"`
\set fleet_reader `tr -d '\r\n' <"$SECRETS_DIR/postgres_fleet_reader"`
-- statements with passwords are for no log, whatever it is set to take
DO $$
BEGIN
    SET log_statement = 'none';
    SET log_min_error_statement = 'panic';
    SET log_min_duration_statement = -1;
    SET log_min_duration_sample = -1;
    SET log_transaction_sample_rate = 0;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'this role may not say what is logged: see that the log of the server does not hold the passwords';
END
$$;
SET password_encryption = 'scram-sha-256';
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE ROLE fleet_owner LOGIN PASSWORD :'fleet_owner';
CREATE ROLE fleet LOGIN PASSWORD :'fleet';
CREATE ROLE fleet_reader LOGIN PASSWORD :'fleet_reader';
ALTER ROLE fleet_reader SET default_transaction_read_only = on;
ALTER ROLE fleet_reader SET statement_timeout = '1min';
-- who is no superuser gives databases only to roles that it is a member of
SELECT NOT rolsuper AS member FROM pg_roles WHERE rolname = current_user \gset
\if :member
GRANT temporal, fleet_owner TO CURRENT_USER;
\endif

CREATE DATABASE temporal OWNER temporal TEMPLATE template0 ENCODING 'UTF8';
CREATE DATABASE temporal_visibility OWNER temporal TEMPLATE template0 ENCODING 'UTF8';
CREATE DATABASE fleet OWNER fleet_owner TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE temporal, temporal_visibility, fleet FROM PUBLIC;
GRANT CONNECT ON DATABASE fleet TO fleet, fleet_reader;

\connect fleet
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO fleet_owner;
GRANT USAGE ON SCHEMA public TO fleet, fleet_reader;
-- of tables that a migration is yet to make, too
ALTER DEFAULT PRIVILEGES FOR ROLE fleet_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO fleet;
ALTER DEFAULT PRIVILEGES FOR ROLE fleet_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO fleet;
ALTER DEFAULT PRIVILEGES FOR ROLE fleet_owner IN SCHEMA public GRANT SELECT ON TABLES TO fleet_reader;

-- what has been written down stays written down, and which revision is in force is the owner's to say
-- whatever way a table has come by its name
CREATE FUNCTION public.keep_the_record() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF has_table_privilege('fleet', to_regclass('public.audit'), 'UPDATE, DELETE') THEN
        REVOKE UPDATE, DELETE ON public.audit FROM fleet;
    END IF;
    IF has_table_privilege('fleet', to_regclass('public.alembic_version'), 'INSERT, UPDATE, DELETE') THEN
        REVOKE INSERT, UPDATE, DELETE ON public.alembic_version FROM fleet;
    END IF;
END
$$;
DO $$
BEGIN
    CREATE EVENT TRIGGER keep_the_record ON ddl_command_end
        WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE')
        EXECUTE FUNCTION public.keep_the_record();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'this role may make no event trigger: after each `fleet db upgrade` take rights away as docs/servers.md says';
END
$$;
SQL
