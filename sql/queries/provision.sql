-- Statements that set a database up: the present state, and the commands that make the missing parts. Names of
-- databases and roles cannot be parameters of a command, so the server writes each command and quotes the names in it.

-- name: login
-- The role and the database of this connection, and the rights of the role.
SELECT r.rolname AS name, r.rolsuper AS is_superuser, r.rolcreaterole AS may_create_roles,
       r.rolcreatedb AS may_create_databases, current_setting('server_version_num')::integer AS version_number,
       current_setting('server_version') AS version, pg_is_in_recovery() AS is_standby, d.datname AS database,
       pg_encoding_to_char(d.encoding) AS encoding
FROM pg_roles AS r, pg_database AS d
WHERE r.rolname = current_user AND d.datname = current_database();

-- name: database (read)
-- Return whether this login may connect to a database; no row if there is no such database.
SELECT has_database_privilege(oid, 'CONNECT') AS may_connect FROM pg_database WHERE datname = %(name)s::text;

-- name: write_create_database
-- Return a command that makes a database in UTF8. If template1 has another encoding, its locale may not fit UTF8, so
-- the command names a locale and another template.
SELECT format('CREATE DATABASE %%I', %(name)s::text) || coalesce(' OWNER ' || quote_ident(%(owner)s::text), '')
    || CASE WHEN pg_encoding_to_char(encoding) = 'UTF8' THEN '' ELSE ' ENCODING ''UTF8'' LOCALE ''C'' TEMPLATE template0' END
FROM pg_database WHERE datname = 'template1';

-- name: role (read)
-- Return facts about a role; no row if there is no such role. From PostgreSQL 16 on, a member of a role may lack the
-- right to act as the role.
SELECT rolsuper OR rolbypassrls AS is_above_policies, rolcanlogin AS may_login,
       pg_has_role(oid, CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END)
           AS may_become,
       pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
           OR (current_setting('server_version_num')::integer < 160000
               AND (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user)) AS may_grant
FROM pg_roles WHERE rolname = %(name)s::text;

-- name: is_member (read)
SELECT pg_has_role(m.oid, r.oid, 'MEMBER') AS is_member FROM pg_roles AS m, pg_roles AS r
WHERE m.rolname = %(member)s::text AND r.rolname = %(role)s::text;

-- name: write_create_role
SELECT format('CREATE ROLE %%I NOLOGIN', %(name)s::text);

-- name: quote_name (read)
SELECT quote_ident(%(name)s::text);

-- name: write_grant_role
SELECT format('GRANT %%I TO %%I', %(role)s::text, %(member)s::text);

-- name: write_create_login
-- `password` is a verifier, or NULL if an administrator will set the password.
SELECT format('CREATE ROLE %%I LOGIN PASSWORD %%L IN ROLE %%I', %(name)s::text, %(password)s::text, %(role)s::text);

-- name: write_grant_connect
SELECT format('GRANT CONNECT ON DATABASE %%I TO %%I', %(database)s::text, %(role)s::text);

-- name: write_grant_usage
SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', %(schema)s::text, %(role)s::text);

-- name: write_grant_schema
SELECT format('GRANT USAGE, CREATE ON SCHEMA %%I TO %%I', %(schema)s::text, %(role)s::text);

-- name: may_connect (read)
SELECT has_database_privilege(%(role)s::name, current_database(), 'CONNECT');

-- name: may_look_into (read)
SELECT has_schema_privilege(%(role)s::name, %(schema)s::text, 'USAGE');

-- name: may_create_in (read)
SELECT has_schema_privilege(%(role)s::name, %(schema)s::text, 'CREATE')
    AND has_schema_privilege(%(role)s::name, %(schema)s::text, 'USAGE');

-- name: may_open (read)
-- Return whether this login may let other roles create objects in a schema.
SELECT has_schema_privilege(%(schema)s::text, 'CREATE WITH GRANT OPTION');

-- name: schema
-- The schema of the tables, present or future (NULL: none), their owner, and whether grants can be given.
SELECT coalesce(n.nspname, current_schema()) AS name, pg_get_userbyid(c.relowner) AS owner,
       to_regprocedure('grant_atlas_roles()') IS NOT NULL AS has_grants
FROM (SELECT to_regclass('schema_version') AS oid) AS found
LEFT JOIN pg_class AS c ON c.oid = found.oid
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace;

-- name: closed (read)
-- Return whether PUBLIC lacks the rights that no tenant needs: temporary tables and schemas, which could be taken for
-- ours (`is_closed`); large objects, which no policy protects, and advisory locks (`has_closed_functions`). `has_path`:
-- temporary tables come last for new connections.
SELECT NOT (has_database_privilege('public', d.oid, 'TEMPORARY') OR has_database_privilege('public', d.oid, 'CREATE'))
           AS is_closed,
       pg_has_role(d.datdba, 'USAGE') AS may_close,
       NOT EXISTS (
           SELECT FROM pg_proc AS p
           WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^(lo_|loread$|lowrite$|pg_(try_)?advisory_)'
             AND has_function_privilege('public', p.oid, 'EXECUTE')
       ) AS has_closed_functions,
       EXISTS (
           SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS given
           WHERE s.setdatabase = d.oid AND s.setrole = 0 AND given ~ '^search_path=.*\mpg_temp"?$'
       ) AS has_path
FROM pg_database AS d WHERE d.datname = current_database();

-- name: write_close (read)
SELECT 'REVOKE CREATE, TEMPORARY ON DATABASE ' || quote_ident(current_database()) || ' FROM PUBLIC';

-- name: write_close_functions (read)
-- Return NULL if PUBLIC may execute none of these functions.
SELECT 'REVOKE EXECUTE ON FUNCTION ' || string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid) || ' FROM PUBLIC'
FROM pg_proc AS p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^(lo_|loread$|lowrite$|pg_(try_)?advisory_)'
  AND has_function_privilege('public', p.oid, 'EXECUTE');

-- name: write_grant_waiting
-- Return a command that gives a role back the one of these functions that a set-up needs; NULL if the role may execute
-- the function already.
SELECT CASE WHEN NOT has_function_privilege(%(role)s::name, 'pg_advisory_xact_lock(bigint)', 'EXECUTE')
            THEN format('GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO %%I', %(role)s::text) END;

-- name: write_path (read)
-- Return a command that sets the search_path of the database: the present one or else our schema, then temporary
-- tables.
SELECT 'ALTER DATABASE ' || quote_ident(current_database()) || ' SET search_path = ' || coalesce((
    SELECT substr(given, length('search_path=') + 1)
    FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS given
    WHERE d.datname = current_database() AND s.setrole = 0 AND given ~ '^search_path=.'
), quote_ident(%(schema)s)) || ', pg_temp';

-- name: wait_for_turn
-- Wait until no other process sets this database up. The lock ends with the transaction, so it works behind a pooler
-- too.
SELECT pg_advisory_xact_lock(4152413918);

-- name: write_hand_over
-- A command for each of our objects that another role owns. Partitions have owners of their own.
WITH home AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = %(schema)s::text)
SELECT format('ALTER %%1$s %%2$I.%%3$I OWNER TO %%4$I',
              CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
              home.nspname, c.relname, %(owner)s::text) AS command
FROM pg_class AS c JOIN home ON home.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND pg_get_userbyid(c.relowner) <> %(owner)s::text
  AND (c.relname = ANY (%(relations)s::text[])
       OR EXISTS (SELECT FROM pg_partition_ancestors(c.oid) AS a (oid) JOIN pg_class AS top ON top.oid = a.oid
                  WHERE top.relname = ANY (%(relations)s::text[])))
UNION ALL
SELECT 'ALTER ROUTINE ' || p.oid::regprocedure::text || ' OWNER TO ' || quote_ident(%(owner)s::text)
FROM pg_proc AS p JOIN home ON home.oid = p.pronamespace
WHERE p.proname = ANY (%(functions)s::text[]) AND pg_get_userbyid(p.proowner) <> %(owner)s::text
UNION ALL
SELECT format('ALTER %%1$s %%2$I.%%3$I OWNER TO %%4$I', CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
              home.nspname, t.typname, %(owner)s::text)
FROM pg_type AS t JOIN home ON home.oid = t.typnamespace
WHERE t.typname = ANY (%(types)s::text[]) AND pg_get_userbyid(t.typowner) <> %(owner)s::text
ORDER BY command;

-- name: grants (read)
-- All grants in a schema, to compare them before and after.
SELECT 'relation ' || c.oid || ' ' || item::text AS granted
FROM pg_class AS c, unnest(c.relacl) AS item WHERE c.relnamespace = %(schema)s::text::regnamespace
UNION ALL
SELECT 'column ' || a.attrelid || '.' || a.attnum || ' ' || item::text
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, unnest(a.attacl) AS item
WHERE c.relnamespace = %(schema)s::text::regnamespace
UNION ALL
SELECT 'function ' || p.oid || ' ' || item::text
FROM pg_proc AS p, unnest(p.proacl) AS item WHERE p.pronamespace = %(schema)s::text::regnamespace
UNION ALL
SELECT 'schema ' || item::text FROM pg_namespace AS n, unnest(n.nspacl) AS item WHERE n.nspname = %(schema)s::text
ORDER BY granted;

-- name: is_unused (read)
-- Return whether there is certainly no user yet: false for a login that sees only its own rows.
SELECT NOT row_security_active('users') AND NOT EXISTS (SELECT FROM users);

-- name: grant
-- Return false if the roles do not exist.
SELECT grant_atlas_roles();

-- name: inventory (read)
-- The objects of a schema, for the comparison with those that the migrations make. `rule` is the part of an object that
-- isolates tenants. `is_fit`: an index is valid, a trigger is enabled. `reaches`: a policy lets rows through to a role.
-- `identity` is the name for a command on the object, `making` the command that makes it.
WITH home AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = %(schema)s::text),
     app AS (SELECT oid FROM pg_roles WHERE rolname = %(role)s::text)
SELECT CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END AS kind, c.relname AS name, NULL AS on_table,
       CASE WHEN c.relrowsecurity THEN 'row_security'
            WHEN EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o
                         WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
            THEN 'security_invoker' END AS rule,
       true AS is_fit, false AS reaches, quote_ident(c.relname) AS identity, NULL AS making
FROM pg_class AS c JOIN home ON home.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
UNION ALL
-- Leave out the indexes of constraints, which come and go with their tables.
SELECT 'index', c.relname, t.relname, NULL, i.indisvalid AND i.indisready, false, quote_ident(c.relname),
       pg_get_indexdef(c.oid, 0, true)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid
JOIN home ON home.oid = c.relnamespace
WHERE NOT t.relispartition AND t.relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 'trigger', g.tgname, t.relname, NULL, g.tgenabled <> 'D', false, quote_ident(g.tgname),
       pg_get_triggerdef(g.oid, true)
FROM pg_trigger AS g JOIN pg_class AS t ON t.oid = g.tgrelid JOIN home ON home.oid = t.relnamespace
WHERE NOT g.tgisinternal AND NOT t.relispartition
UNION ALL
SELECT 'policy', p.name, p.on_table, p.rule, true, p.reaches, p.identity, 'CREATE POLICY ' || p.identity || p.rule
FROM (
    SELECT p.polname AS name, t.relname AS on_table,
           CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END
               || CASE p.polcmd WHEN 'r' THEN ' FOR SELECT' WHEN 'a' THEN ' FOR INSERT' WHEN 'w' THEN ' FOR UPDATE'
                                WHEN 'd' THEN ' FOR DELETE' ELSE '' END
               || CASE WHEN p.polroles = '{0}' THEN ''
                       ELSE ' TO ' || (SELECT string_agg(whose::regrole::text, ', ') FROM unnest(p.polroles) AS whose) END
               || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
               || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '') AS rule,
           p.polpermissive AND EXISTS (
               SELECT FROM unnest(p.polroles) AS whose (oid)
               WHERE whose.oid = 0 OR EXISTS (SELECT FROM app WHERE pg_has_role(app.oid, whose.oid, 'MEMBER'))
           ) AS reaches,
           quote_ident(p.polname) || ' ON ' || quote_ident(t.relname) AS identity
    FROM pg_policy AS p JOIN pg_class AS t ON t.oid = p.polrelid JOIN home ON home.oid = t.relnamespace
) AS p
UNION ALL
SELECT 'function', p.proname, NULL,
       concat_ws(' ', CASE WHEN p.prosecdef THEN 'definer' ELSE 'invoker' END,
                 CASE WHEN 'search_path=' || quote_ident(home.nspname) || ', pg_temp' = ANY (p.proconfig) THEN 'pinned' END),
       true, false, p.oid::regprocedure::text, NULL
FROM pg_proc AS p JOIN home ON home.oid = p.pronamespace
UNION ALL
SELECT 'type', t.typname, NULL, NULL, true, false, quote_ident(t.typname), NULL
FROM pg_type AS t JOIN home ON home.oid = t.typnamespace
WHERE t.typtype IN ('d', 'e')
   OR (t.typtype = 'c' AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
UNION ALL
-- The privileges of a role on tables. The second part has the privileges on single columns, with these columns.
SELECT 'privilege', a.privilege_type, c.relname, NULL, true, false, NULL, NULL
FROM pg_class AS c JOIN home ON home.oid = c.relnamespace, aclexplode(c.relacl) AS a JOIN app ON app.oid = a.grantee
UNION ALL
SELECT 'privilege', a.privilege_type, c.relname, string_agg(t.attname, ' ' ORDER BY t.attname), true, false, NULL, NULL
FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid JOIN home ON home.oid = c.relnamespace,
     aclexplode(t.attacl) AS a JOIN app ON app.oid = a.grantee
GROUP BY a.privilege_type, c.relname;
