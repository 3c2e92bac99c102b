#!/bin/sh
# Databases and roles of a new PostgreSQL: compose runs it once, on an empty volume. Elsewhere, once, as a superuser:
#   SECRETS_DIR=/path/of/passwords PGHOST=… PGUSER=postgres sh deploy/postgres/init.sh
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

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-${PGUSER:-postgres}}" --dbname postgres <<'SQL'
\set temporal `tr -d '\r\n' <"$SECRETS_DIR/postgres_temporal"`
\set fleet_owner `tr -d '\r\n' <"$SECRETS_DIR/postgres_fleet_owner"`
\set fleet `tr -d '\r\n' <"$SECRETS_DIR/postgres_fleet"`
\set fleet_reader `tr -d '\r\n' <"$SECRETS_DIR/postgres_fleet_reader"`
SET password_encryption = 'scram-sha-256';
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE ROLE fleet_owner LOGIN PASSWORD :'fleet_owner';
CREATE ROLE fleet LOGIN PASSWORD :'fleet';
CREATE ROLE fleet_reader LOGIN PASSWORD :'fleet_reader';
ALTER ROLE fleet_reader SET default_transaction_read_only = on;
ALTER ROLE fleet_reader SET statement_timeout = '1min';

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
CREATE FUNCTION public.keep_the_record() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    made text;
BEGIN
    FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE' LOOP
        IF made = 'public.audit' THEN
            REVOKE UPDATE, DELETE ON public.audit FROM fleet;
        ELSIF made = 'public.alembic_version' THEN
            REVOKE INSERT, UPDATE, DELETE ON public.alembic_version FROM fleet;
        END IF;
    END LOOP;
END
$$;
CREATE EVENT TRIGGER keep_the_record ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
    EXECUTE FUNCTION public.keep_the_record();
SQL
