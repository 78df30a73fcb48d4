-- Isolation: what a tenant may do, in the database itself.
--
--   atlas_owner   owns the tables where `atlasctl db init` made them: it migrates and maintains
--   atlas_app     what `atlas.as_user(user)` acts as: row-level security applies, no DDL
--
-- Every table has a policy that shows a transaction the rows of the user in atlas.user_id and none without. The role
-- adds what a policy cannot say: which columns and statements there are for a tenant at all. So a tenant cannot raise
-- its limits, settle by hand, verify its own e-mail, change the audit, or claim another's address.
--
-- Roles belong to the whole server, and whoever owns a database may not be allowed to make them: then everything works
-- but as_user, until an administrator has made them (`atlasctl db init` says how).

-- Whether whoever is connected may act for a user: a tenant for itself, the owner of the tables for everybody. For
-- functions with the owner's rights, where current_user is the owner. Neither `role` nor session_user is changed by them.
CREATE FUNCTION check_tenant(p_user uuid) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_user = nullif(current_setting('atlas.user_id', true), '')::uuid
        OR pg_has_role(coalesce(nullif(current_setting('role'), 'none')::name, session_user), current_user, 'USAGE') THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'permission denied for what is this user''s' USING ERRCODE = 'insufficient_privilege';
END
$$;

-- An address belongs to whoever signed up with it: no tenant takes or frees one.
DROP POLICY tenant ON claims;
CREATE POLICY tenant_reads ON claims FOR SELECT
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
CREATE POLICY tenant_claims ON claims FOR INSERT
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid AND kind <> 'email');
-- Of one's own host, while a preview is made there: to lock a row takes the right to change it.
CREATE POLICY tenant_holds ON claims FOR UPDATE
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid AND kind <> 'email')
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid AND kind <> 'email');
CREATE POLICY tenant_releases ON claims FOR DELETE
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid AND kind <> 'email');

-- The doors to the quotas and to the ports have the owner's rights, because a tenant must not write counters nor take a
-- port for nothing. pg_temp comes last, or a temporary table with the right name would be taken for ours.
DO $$
DECLARE
    door regprocedure;
BEGIN
    FOREACH door IN ARRAY ARRAY[
        'quota_reserve(uuid, uuid, bigint, bigint, numeric, integer, integer, integer, interval, text, jsonb)',
        'quota_lease(uuid, uuid, bigint, bigint, numeric, numeric, integer, integer, interval, text, jsonb)',
        'quota_hit(uuid, integer)',
        'quota_settle(uuid, uuid, bigint, numeric, integer, jsonb)',
        'quota_release(uuid, uuid)',
        'quota_extend(uuid, uuid, bigint, numeric, interval)',
        'quota_progress(uuid, uuid, bigint, numeric)',
        'quota_add(uuid, uuid, bigint, numeric, jsonb)',
        'preview_port_take(uuid, uuid, text, integer, integer)'
    ]::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp', door, current_schema());
    END LOOP;
END
$$;

-- Give the roles exactly what they need, no more than that also where they had more; what is new in a later migration
-- is added here. False: the roles are not there. Run by the owner, after every migration and by `atlasctl db init`.
CREATE FUNCTION grant_atlas_roles() RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    home constant text := (
        SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = 'users'::regclass
    );
    ours constant text[] := ARRAY[
        'build_logs', 'builds', 'checkpoints', 'claims', 'events', 'maintenance_runs', 'memory_blobs',
        'memory_files', 'memory_snapshots', 'plans', 'preview_ports', 'previews', 'project_health', 'projects',
        'quota_grants', 'quota_history', 'quota_reservations', 'restores', 'schema_version', 'sessions', 'usage_ledger',
        'user_quotas', 'user_usage_summary', 'users'
    ];
    allowed constant text[] := ARRAY[
        'SELECT ON schema_version, plans, claims, user_quotas, quota_reservations, quota_history, quota_grants, sessions,'
            ' events, projects, builds, build_logs, previews, preview_ports, usage_ledger, memory_blobs, memory_files,'
            ' checkpoints, memory_snapshots, restores, user_usage_summary, project_health',
        -- Without the hash of the password, which only signing in needs.
        'SELECT (id, email, name, plan, email_verified, password_changed_at, created_at, updated_at), UPDATE (name) ON users',
        'INSERT, UPDATE (user_id), DELETE ON claims',
        'INSERT, UPDATE (is_active, last_seen_at), DELETE ON sessions',
        'INSERT ON events',
        -- What was told of its memory, which limits nothing.
        'UPDATE (memory_level) ON user_quotas',
        -- Not the columns of the quota's own entries.
        'INSERT (user_id, id, project_id, kind, amount, cost, meta, created_at) ON usage_ledger',
        'INSERT, UPDATE, DELETE ON projects, builds, build_logs, previews',
        -- Taken by preview_port_take alone.
        'DELETE ON preview_ports',
        'INSERT, UPDATE ON memory_blobs, memory_files, restores',
        'INSERT ON memory_snapshots, checkpoints'
    ];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'atlas_app') THEN
        RETURN false;
    END IF;
    -- Of ours only: what else is in the schema belongs to somebody who may have given atlas_app something.
    EXECUTE (
        SELECT 'REVOKE ALL ON ' || string_agg(format('%I.%I', home, c.relname), ', ') || ' FROM atlas_app'
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = home AND c.relname = ANY (ours) AND c.relkind IN ('r', 'p', 'v')
    );
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO atlas_app', home);
    FOR number IN 1 .. array_length(allowed, 1) LOOP
        EXECUTE 'GRANT ' || allowed[number] || ' TO atlas_app';
    END LOOP;
    RETURN true;
END
$$;

-- What every login of a database has by itself and no tenant has a use for: temporary tables and schemas, whose names could
-- be taken for ours; large objects, which no policy keeps apart; advisory locks, which anybody may take in anybody's name.
-- Our own connections look among temporary tables last; set for the database, this also holds behind a pooler, where a
-- client may set nothing. What this login may not do is left to an administrator: `atlasctl db init` and `db doctor` say
-- it. Where another role has tables in this database, it may need all of this: then only `atlasctl db init` closes it, which
-- shows each step. To give something back to another application: GRANT TEMPORARY ON DATABASE … TO its role.
DO $$
DECLARE
    place pg_database;
    open_function regprocedure;
BEGIN
    IF EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
          AND c.relowner <> (SELECT u.relowner FROM pg_class AS u WHERE u.oid = 'users'::regclass)
    ) THEN
        RAISE NOTICE 'other roles have tables in this database: closing it is left to atlasctl db init';
        RETURN;
    END IF;
    SELECT * INTO place FROM pg_database AS d WHERE d.datname = current_database();
    IF pg_has_role(place.datdba, 'USAGE') THEN
        EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', place.datname);
        IF NOT EXISTS (
            SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS given
            WHERE s.setdatabase = place.oid AND s.setrole = 0 AND given LIKE 'search_path=%'
        ) THEN
            EXECUTE format('ALTER DATABASE %I SET search_path = %I, pg_temp', place.datname, current_schema());
        END IF;
    END IF;
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        FOR open_function IN
            SELECT p.oid FROM pg_proc AS p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace
              AND p.proname ~ '^(lo_|loread$|lowrite$|pg_(try_)?advisory_)'
              AND has_function_privilege('public', p.oid, 'EXECUTE')
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', open_function);
        END LOOP;
    END IF;
END
$$;

-- Whoever migrates also acts for tenants, so it must be able to become atlas_app. What this login may not do is left to
-- an administrator. Two databases of a server may be made at once: then the other one has made the role.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['atlas_owner', 'atlas_app'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'the role % is left to an administrator: see atlasctl db init', name;
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
            END;
        END IF;
    END LOOP;
    IF grant_atlas_roles() AND NOT pg_has_role('atlas_app', 'MEMBER') THEN
        BEGIN
            EXECUTE format('GRANT atlas_app TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'GRANT atlas_app TO % is left to an administrator: see atlasctl db init', current_user;
        END;
    END IF;
END
$$;
