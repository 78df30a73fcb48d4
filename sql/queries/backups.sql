-- name: lift_limits
-- Make this transaction see all rows or fail, because a login under row-level security must not see only a part of
-- them. Also lift all time limits; the last setting is new in PostgreSQL 17.
SELECT set_config(name, CASE name WHEN 'row_security' THEN 'off' ELSE '0' END, true) FROM pg_settings
WHERE name IN ('row_security', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
               'transaction_timeout');

-- name: facts (read)
-- The schema, the owner of its tables (both NULL where there is none), the login, and the server.
SELECT (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass('schema_version')) AS schema,
       (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = to_regclass('schema_version')) AS owner,
       current_user::text AS login, current_database()::text AS database, current_schema()::text AS first_schema,
       (SELECT reset_val FROM pg_settings WHERE name = 'search_path') AS search_path,
       current_setting('server_version') AS server_version,
       current_setting('server_version_num')::integer / 10000 AS major,
       current_setting('server_version_num')::integer % 10000 AS minor;

-- name: snapshot
-- Export the snapshot of this transaction, so that pg_dump sees the same rows.
SELECT pg_export_snapshot();

-- name: write_counts (read)
-- Return a statement that counts the rows of every table of a schema, and says of each table whether its rows belong to
-- users.
SELECT string_agg(format('SELECT %%L AS name, count(*) AS amount, %%L::boolean AS of_users FROM %%I.%%I', c.relname,
                         c.relname = 'users' OR EXISTS (SELECT FROM pg_attribute a
                                                        WHERE a.attrelid = c.oid AND a.attname = 'user_id'),
                         n.nspname, c.relname),
                  ' UNION ALL ' ORDER BY c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e');

-- name: objects (read)
-- The objects of a schema that can be dropped by themselves, tables first, each with the command that drops it. Objects
-- of extensions are left out, and objects that are dropped with another one: indexes, row types of tables, partitions.
SELECT t.name, 'DROP ' || upper(t.kind) || ' IF EXISTS ' || t.identity || ' CASCADE' AS command
FROM (
    SELECT 1 AS turn, c.oid, c.relname AS name, format('%%I.%%I', n.nspname, c.relname) AS identity,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                          WHEN 'f' THEN 'foreign table' ELSE 'table' END AS kind
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND NOT c.relispartition
    UNION ALL
    SELECT 2, p.oid, p.proname, p.oid::regprocedure::text, 'routine'
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %(schema)s
    UNION ALL
    SELECT 3, y.oid, y.typname, format('%%I.%%I', n.nspname, y.typname),
           CASE y.typtype WHEN 'd' THEN 'domain' ELSE 'type' END
    FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace
    LEFT JOIN pg_class c ON c.oid = y.typrelid
    WHERE n.nspname = %(schema)s AND (y.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
) t
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype IN ('e', 'i', 'a'))
ORDER BY t.turn, t.name;

-- name: count_outside (read)
-- Count the objects in all other schemas. A smaller number after a drop means that the drop reached other schemas,
-- because dropping a table also drops the objects that depend on the table.
SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname <> %(schema)s
          AND n.nspname NOT LIKE 'pg\_%%')
     + (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname <> %(schema)s)
     + (SELECT count(*) FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
        WHERE n.nspname <> %(schema)s);

-- name: write_make_schema
SELECT format('CREATE SCHEMA %%I', %(schema)s::text);

-- name: write_lock_tables (read)
-- Return a statement that locks everybody else out of the tables until the transaction ends.
SELECT 'LOCK TABLE ' || string_agg(format('%%I.%%I', %(schema)s::text, t), ', ') || ' IN ACCESS EXCLUSIVE MODE'
FROM unnest(%(tables)s::text[]) AS t;

-- name: write_raise_epochs (read)
-- Return a statement that raises the fencing numbers above all numbers that were given after the dump. The microseconds
-- since 1970 are above these, even if the dump was loaded before: no user gets a million reservations a second.
SELECT CASE WHEN to_regclass(quote_ident(%(schema)s::text) || '.user_quotas') IS NOT NULL THEN
           format('UPDATE %%I.user_quotas SET epoch = greatest(epoch, '
                  '(EXTRACT(epoch FROM clock_timestamp()) * 1000000)::bigint)', %(schema)s::text)
       END;

-- name: check_constraints
-- Check now the constraints that PostgreSQL would check at the end of the transaction.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: write_analyze (read)
SELECT 'ANALYZE ' || string_agg(format('%%I.%%I', %(schema)s::text, t), ', ')
FROM unnest(%(tables)s::text[]) AS t;

-- name: may_grant
-- Return whether this version of the schema has the function that gives rights to roles.
SELECT to_regprocedure('grant_atlas_roles()') IS NOT NULL;

-- name: grant
SELECT grant_atlas_roles();

-- name: definitions (read)
-- Return the definition of every object in a schema, without rows, owners, rights, and settings of speed. Outside of
-- functions the parentheses are removed, because a nested AND comes back from a dump without its parentheses.
WITH here AS (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
SELECT d.kind, d.name, CASE d.kind WHEN 'function' THEN d.definition ELSE translate(d.definition, '()', '') END
           AS definition
FROM (
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'c' THEN 'type' ELSE 'table' END AS kind, c.relname::text AS name,
           concat_ws(' ', c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
                     CASE c.relkind WHEN 'v' THEN c.reloptions::text || pg_get_viewdef(c.oid) END) AS definition
    FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM here) AND c.relkind IN ('r', 'p', 'v', 'c')
    UNION ALL
    SELECT 'column', c.relname || '.' || a.attname,
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                     a.attcollation::regcollation, pg_get_expr(f.adbin, f.adrelid),
                     -- The order of columns matters in a composite type: its rows are written without names.
                     CASE c.relkind WHEN 'c' THEN a.attnum END)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    WHERE c.relnamespace IN (SELECT oid FROM here) AND c.relkind IN ('r', 'p', 'v', 'c') AND a.attnum > 0
      AND NOT a.attisdropped
    UNION ALL
    SELECT 'domain', y.typname, concat_ws(' ', format_type(y.typbasetype, y.typtypmod), y.typnotnull, y.typdefault,
                                          y.typcollation::regcollation)
    FROM pg_type y WHERE y.typnamespace IN (SELECT oid FROM here) AND y.typtype = 'd'
    UNION ALL
    -- Leave out NOT NULL: the column above has it, and pg_constraint has it only from PostgreSQL 18 on.
    SELECT 'constraint', coalesce(c.relname, y.typname) || '.' || k.conname,
           concat_ws(' ', k.convalidated, pg_get_constraintdef(k.oid))
    FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_type y ON y.oid = k.contypid
    WHERE k.connamespace IN (SELECT oid FROM here) AND k.contype <> 'n'
    UNION ALL
    SELECT 'index', c.relname, concat_ws(' ', i.indisvalid, pg_get_indexdef(c.oid))
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace IN (SELECT oid FROM here)
    UNION ALL
    SELECT 'trigger', c.relname || '.' || t.tgname, concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid))
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace IN (SELECT oid FROM here) AND NOT t.tgisinternal
    UNION ALL
    SELECT 'policy', p.tablename || '.' || p.policyname,
           concat_ws(' ', p.permissive, p.cmd, p.roles::text, 'USING ' || p.qual, 'CHECK ' || p.with_check)
    FROM pg_policies p WHERE p.schemaname = %(schema)s
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
    FROM pg_proc p WHERE p.pronamespace IN (SELECT oid FROM here) AND p.prokind IN ('f', 'p')
) d
ORDER BY d.kind, d.name;
