-- name: login (read)
-- Return whether row-level security applies to the login, and whether the login may act for a tenant.
SELECT row_security_active('users') AS row_security_applies,
       coalesce((SELECT pg_has_role(r.oid, 'MEMBER') FROM pg_roles AS r WHERE r.rolname = 'atlas_app'), false)
           AS may_act_as_user;

-- name: own_path
-- Set the search_path until the end of the transaction: our schema first, temporary tables last. Our schema is the
-- first one of the present search_path that has our tables, or else the one where they would be made. Returns the
-- process id of the server's session, the previous search_path, and the new one. Every name is qualified, because there
-- may be a temporary table with a name such as pg_class.
WITH was AS MATERIALIZED (SELECT pg_catalog.current_setting('search_path') AS path)
SELECT pg_catalog.pg_backend_pid() AS pid, was.path AS before, pg_catalog.set_config('search_path', coalesce((
    SELECT pg_catalog.quote_ident(n.nspname) || ', pg_temp'
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s (name, place)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = s.name
    LEFT JOIN pg_catalog.pg_class AS c
        ON c.relnamespace = n.oid AND c.relname = 'schema_version' AND c.relkind IN ('r', 'p')
    WHERE n.oid <> pg_catalog.pg_my_temp_schema() AND n.nspname <> 'pg_catalog'
    ORDER BY c.oid IS NULL, s.place LIMIT 1
), was.path), true) AS path
FROM was;
