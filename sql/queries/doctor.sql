-- Looking for what is wrong; every statement here only reads.

-- name: now
-- The server's clock.
SELECT clock_timestamp();

-- name: settings
-- What the server works with, and where each value was said: "configuration file", "database", "user", …
SELECT name, setting, source FROM pg_settings
WHERE name IN ('autovacuum', 'fsync', 'full_page_writes', 'max_connections', 'server_encoding', 'synchronous_commit',
               'track_counts');

-- name: connections
-- Those of clients: how many there may be and are, on the server and in this database. The last ones are kept for
-- superusers, and from PostgreSQL 16 on some more for a role.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true), '0')::integer AS of_server,
       (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) AS of_database,
       count(*) AS used, count(*) FILTER (WHERE datname = current_database()) AS used_in_database
FROM pg_stat_activity WHERE backend_type = 'client backend';

-- name: who_is_connected
-- The most first, and how many of them have been sitting in a transaction for minutes.
SELECT coalesce(usename, '?') AS login, coalesce(nullif(application_name, ''), 'no name') AS application,
       coalesce(datname, '?') AS database, count(*) AS connections,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%%' AND state_change < clock_timestamp() - %(idle)s::interval)
           AS stuck
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY usename, application_name, datname
ORDER BY count(*) DESC, login, application;

-- name: tables
-- What vacuum has to do, of the tables of a schema. NULL: never.
SELECT s.relname AS name, s.n_live_tup AS live, s.n_dead_tup AS dead,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
       greatest(s.last_analyze, s.last_autoanalyze) AS analysed_at,
       coalesce('autovacuum_enabled=false' = ANY (c.reloptions) OR 'autovacuum_enabled=off' = ANY (c.reloptions), false)
           AS is_never_vacuumed
FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
WHERE s.schemaname = %(schema)s::text
ORDER BY s.relname;

-- name: may_use
-- Whether a role may look into a schema (one row, none where there is no such schema).
SELECT has_schema_privilege(%(role)s::name, oid, 'USAGE') AS may_use FROM pg_namespace WHERE nspname = %(schema)s::text;

-- name: missing_privileges
-- Of these tables and views, each with a privilege, those that a role does not have, not even for one column.
SELECT c.relname AS name, wanted.privilege
FROM unnest(%(names)s::text[], %(privileges)s::text[]) AS wanted (name, privilege)
JOIN pg_class AS c ON c.relname = wanted.name JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text
  AND NOT CASE wanted.privilege
          WHEN 'DELETE' THEN has_table_privilege(%(role)s::name, c.oid, 'DELETE')
          ELSE has_any_column_privilege(%(role)s::name, c.oid, wanted.privilege) END
ORDER BY wanted.privilege, c.relname;

-- name: write_resets
-- A command for each place where a setting was made for this database, this login, or both.
SELECT CASE
           WHEN s.setrole = 0 THEN format('ALTER DATABASE %%I RESET %%I', current_database(), %(setting)s::text)
           WHEN s.setdatabase = 0 THEN format('ALTER ROLE %%I RESET %%I', current_user, %(setting)s::text)
           ELSE format('ALTER ROLE %%I IN DATABASE %%I RESET %%I', current_user, current_database(), %(setting)s::text)
       END AS command
FROM pg_db_role_setting AS s, unnest(s.setconfig) AS given
WHERE given LIKE %(setting)s::text || '=%%'
  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user));

-- name: write_no_limit
SELECT 'ALTER DATABASE ' || quote_ident(current_database()) || ' CONNECTION LIMIT -1';

-- name: write_end_stuck
SELECT format('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE %%L AND state_change < now() - %%L::interval',
              'idle in transaction%%', (%(idle)s::interval)::text);
