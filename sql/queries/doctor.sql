-- Statements of the doctor; each one only reads.

-- name: now (read)
-- The server's clock.
SELECT clock_timestamp();

-- name: search_path (read)
-- The search_path of a new connection of this login: the value that a reset would give.
SELECT reset_val FROM pg_settings WHERE name = 'search_path';

-- name: settings (read)
-- Settings of the server, and the source of each: "configuration file", "database", "user", …
SELECT name, setting, source FROM pg_settings
WHERE name IN ('autovacuum', 'fsync', 'full_page_writes', 'max_connections', 'server_encoding', 'synchronous_commit',
               'track_counts');

-- name: data_directory (read)
-- The folder of the data on the server's machine; no row for a login that may not read it.
SELECT setting FROM pg_settings WHERE name = 'data_directory';

-- name: connections (read)
-- Connections of clients: the limits and the numbers, of the server and of this database. The limit of the server
-- leaves out the connections that are reserved for superusers, and from PostgreSQL 16 on for a role.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true), '0')::integer AS of_server,
       (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) AS of_database,
       count(*) AS used, count(*) FILTER (WHERE datname = current_database()) AS used_in_database
FROM pg_stat_activity WHERE backend_type = 'client backend';

-- name: who_is_connected (read)
-- Connections by login, the largest number first; `stuck` counts connections that were idle in a transaction for
-- `idle`.
SELECT coalesce(usename, '?') AS login, coalesce(nullif(application_name, ''), 'no name') AS application,
       coalesce(datname, '?') AS database, count(*) AS connections,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%%' AND state_change < clock_timestamp() - %(idle)s::interval)
           AS stuck
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY usename, application_name, datname
ORDER BY count(*) DESC, login, application;

-- name: tables (read)
-- The work that vacuum has left on the tables of a schema. A time is NULL if that work was never done.
SELECT s.relname AS name, s.n_live_tup AS live, s.n_dead_tup AS dead,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
       greatest(s.last_analyze, s.last_autoanalyze) AS analysed_at,
       coalesce('autovacuum_enabled=false' = ANY (c.reloptions) OR 'autovacuum_enabled=off' = ANY (c.reloptions), false)
           AS is_never_vacuumed
FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
WHERE s.schemaname = %(schema)s::text
ORDER BY s.relname;

-- name: may_use (read)
-- Return whether a role may look into a schema; no row if there is no such schema.
SELECT has_schema_privilege(%(role)s::name, oid, 'USAGE') AS may_use FROM pg_namespace WHERE nspname = %(schema)s::text;

-- name: missing_privileges (read)
-- Return the given pairs of a table or view and a privilege that a role does not have, not even for one column.
SELECT c.relname AS name, wanted.privilege
FROM unnest(%(names)s::text[], %(privileges)s::text[]) AS wanted (name, privilege)
JOIN pg_class AS c ON c.relname = wanted.name JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text
  AND NOT CASE wanted.privilege
          WHEN 'DELETE' THEN has_table_privilege(%(role)s::name, c.oid, 'DELETE')
          ELSE has_any_column_privilege(%(role)s::name, c.oid, wanted.privilege) END
ORDER BY wanted.privilege, c.relname;

-- name: excess_privileges (read)
-- All privileges of a role on these tables and views, by a grant to it, to PUBLIC or to a role that it is a member of,
-- and the right to create in the schema (`name` is NULL); each with the command that revokes it. The owner's own rights
-- are left out.
WITH home AS (SELECT oid, nspname, nspacl, nspowner FROM pg_namespace WHERE nspname = %(schema)s::text),
     given AS (
         SELECT c.relname AS name, NULL::name AS on_column, a.privilege_type AS privilege, a.grantee,
                c.relowner AS owner
         FROM pg_class AS c JOIN home ON home.oid = c.relnamespace, aclexplode(c.relacl) AS a
         WHERE c.relname = ANY (%(names)s::text[]) AND c.relkind IN ('r', 'p', 'v', 'm')
         UNION ALL
         SELECT c.relname, t.attname, a.privilege_type, a.grantee, c.relowner
         FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid JOIN home ON home.oid = c.relnamespace,
              aclexplode(t.attacl) AS a
         WHERE c.relname = ANY (%(names)s::text[]) AND c.relkind IN ('r', 'p', 'v', 'm')
         UNION ALL
         SELECT NULL, NULL, a.privilege_type, a.grantee, home.nspowner
         FROM home, aclexplode(home.nspacl) AS a WHERE a.privilege_type = 'CREATE'
     )
SELECT given.name, given.on_column, given.privilege, given.grantee = app.oid AS is_own,
       'REVOKE ' || given.privilege || coalesce(' (' || quote_ident(given.on_column) || ')', '') || ' ON '
           || CASE WHEN given.name IS NULL THEN 'SCHEMA ' || quote_ident(home.nspname)
                   ELSE quote_ident(home.nspname) || '.' || quote_ident(given.name) END
           || ' FROM ' || CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END AS command
FROM home, given JOIN pg_roles AS app ON app.rolname = %(role)s::text
WHERE given.grantee <> given.owner AND (given.grantee = 0 OR pg_has_role(app.oid, given.grantee, 'USAGE'))
ORDER BY given.name, given.privilege, given.on_column, command;

-- name: above_policies (read)
-- The reasons why policies do not bind a role (no row: they bind it), each with the command that removes it.
SELECT 'is a superuser' AS how, format('ALTER ROLE %%I NOSUPERUSER', rolname) AS command
FROM pg_roles WHERE rolname = %(role)s::text AND rolsuper
UNION ALL
SELECT 'bypasses row-level security', format('ALTER ROLE %%I NOBYPASSRLS', rolname)
FROM pg_roles WHERE rolname = %(role)s::text AND rolbypassrls
UNION ALL
SELECT 'is a member of ' || r.rolname, format('REVOKE %%I FROM %%I', r.rolname, app.rolname)
FROM pg_auth_members AS m JOIN pg_roles AS app ON app.oid = m.member JOIN pg_roles AS r ON r.oid = m.roleid
WHERE app.rolname = %(role)s::text
  AND EXISTS (SELECT FROM pg_roles AS high
              WHERE pg_has_role(r.oid, high.oid, 'MEMBER')
                AND (high.rolsuper OR high.rolbypassrls OR high.rolname = %(owner)s::text
                     OR high.rolname IN ('pg_read_all_data', 'pg_write_all_data')))
ORDER BY how;

-- name: function_grants (read)
-- Functions and procedures that a tenant cannot execute, and a command for each.
SELECT p.proname AS name, 'GRANT EXECUTE ON ' || CASE p.prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END
           || p.oid::regprocedure::text || ' TO PUBLIC' AS command
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_roles AS app ON app.rolname = %(role)s::text
WHERE n.nspname = %(schema)s::text AND p.proname = ANY (%(names)s::text[])
  AND NOT has_function_privilege(app.oid, p.oid, 'EXECUTE')
ORDER BY name, command;

-- name: database_grants (read)
-- The privileges of a role on the database beside CONNECT, by a grant to it, to PUBLIC or to a role that it is a member
-- of.
SELECT a.privilege_type AS privilege,
       'REVOKE ' || a.privilege_type || ' ON DATABASE ' || quote_ident(d.datname) || ' FROM '
           || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS command
FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a, pg_roles AS app
WHERE d.datname = current_database() AND app.rolname = %(role)s::text AND a.privilege_type IN ('CREATE', 'TEMPORARY')
  AND a.grantee <> d.datdba AND (a.grantee = 0 OR pg_has_role(app.oid, a.grantee, 'USAGE'))
ORDER BY a.privilege_type, command;

-- name: system_functions (read)
-- The number of PostgreSQL's own functions for large objects and advisory locks that a role may execute, and the
-- command that revokes this right; NULL if there are no such functions.
SELECT count(*) AS amount,
       'REVOKE EXECUTE ON FUNCTION ' || string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid) || ' FROM PUBLIC, '
           || quote_ident(%(role)s) AS command
FROM pg_proc AS p JOIN pg_roles AS app ON app.rolname = %(role)s::text
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^(lo_|loread$|lowrite$|pg_(try_)?advisory_)'
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
              WHERE a.grantee IN (0, app.oid));

-- name: search_paths (read)
-- The places where a search_path is set for new connections to this database, the strongest first, and the beginning of
-- the command that changes it. The roles are those that act in the schema, and this login.
SELECT given.path,
       CASE
           WHEN s.setrole = 0 THEN 'ALTER DATABASE ' || quote_ident(d.datname)
           WHEN s.setdatabase = 0 THEN 'ALTER ROLE ' || quote_ident(r.rolname)
           ELSE 'ALTER ROLE ' || quote_ident(r.rolname) || ' IN DATABASE ' || quote_ident(d.datname)
       END AS alter_command
FROM pg_database AS d
JOIN pg_db_role_setting AS s ON s.setdatabase IN (0, d.oid)
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
CROSS JOIN LATERAL (
    SELECT substr(setting, length('search_path=') + 1) AS path FROM unnest(s.setconfig) AS setting
    WHERE setting LIKE 'search_path=%%'
) AS given
WHERE d.datname = current_database() AND (s.setrole = 0 OR r.rolname IN (current_user, %(role)s, %(owner)s))
ORDER BY s.setrole = 0, s.setdatabase = 0;

-- name: write_resets (read)
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

-- name: write_no_limit (read)
SELECT 'ALTER DATABASE ' || quote_ident(current_database()) || ' CONNECTION LIMIT -1';

-- name: write_end_stuck
SELECT format('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE %%L AND state_change < now() - %%L::interval',
              'idle in transaction%%', (%(idle)s::interval)::text);
