-- Administration: maintenance, and what a tenant's role may do.
--
-- Several processes may run maintenance at once. It waits for no row: one that somebody else has locked is left to the
-- next run. It decides about a row after it has locked it, in a statement of its own: only such a statement sees what
-- was committed before the lock.

CREATE TABLE maintenance_runs (
    -- The nil id, as with events of the service itself.
    user_id     uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    id          uuid        NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    -- A process that was killed leaves 'running'.
    outcome     text        NOT NULL DEFAULT 'running',
    -- True for a run of every job: only such a run counts as the day's.
    whole       boolean     NOT NULL,
    problem     text,
    -- What each job did, in the order of the jobs.
    jobs        jsonb       NOT NULL DEFAULT '[]',
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, id),
    CONSTRAINT maintenance_runs_outcome CHECK (outcome IN ('running', 'done', 'stopped', 'failed')),
    CONSTRAINT maintenance_runs_ended CHECK ((ended_at IS NULL) = (outcome = 'running')),
    CONSTRAINT maintenance_runs_jobs CHECK (jsonb_typeof(jobs) = 'array')
);
COMMENT ON TABLE maintenance_runs IS 'The runs of maintenance and their results; the watchers of a database take turns by it.';

COMMENT ON TABLE schema_version IS 'The migrations that were applied, one row each.';
COMMENT ON COLUMN schema_version.version IS 'The number of the migration, from 1.';
COMMENT ON COLUMN schema_version.name IS 'The name of the migration.';
COMMENT ON COLUMN schema_version.checksum IS 'SHA-256 of its file, in hex.';
COMMENT ON COLUMN schema_version.applied_at IS 'When it was applied.';

-- Tell whether the user, live preview or project of a name is gone; for a port, 'preview_port' with the preview's id.
-- It is called for every row, so it has no search_path of its own: setting it takes longer than the rest.
CREATE FUNCTION claim_is_lost(p_kind text, p_value text, p_user uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- IF evaluates one condition after the other; a CASE would prepare all of them every time.
    IF p_kind = 'email' THEN
        RETURN NOT EXISTS (SELECT FROM users AS u WHERE u.id = p_user);
    ELSIF p_kind = 'preview_host' THEN
        RETURN NOT EXISTS (
            SELECT FROM previews AS v
            WHERE v.user_id = p_user AND v.host = p_value AND v.status IN ('creating', 'running', 'sleeping')
        );
    ELSIF p_kind = 'project_session' THEN
        RETURN NOT EXISTS (SELECT FROM projects AS p WHERE p.user_id = p_user AND p.session_id = p_value);
    ELSIF p_kind = 'preview_port' THEN
        RETURN NOT EXISTS (
            SELECT FROM previews AS v
            WHERE v.user_id = p_user AND v.id = p_value::uuid AND v.status IN ('creating', 'running', 'sleeping')
        );
    END IF;
    RETURN false;
END
$$;

-- Tell whether a version has this content, or another content is a delta of it.
CREATE FUNCTION memory_blob_is_needed(p_user uuid, p_sha256 bytea) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM memory_snapshots AS s WHERE s.user_id = p_user AND s.sha256 = p_sha256)
        OR EXISTS (SELECT FROM memory_blobs AS b WHERE b.user_id = p_user AND b.base_sha256 = p_sha256);
END
$$;

-- Delete those of these contents that nothing needs. Returns the bytes of each, and its base, which may be next.
--
-- Why nothing is lost. A put locks the row of a content that is stored already (ON CONFLICT DO UPDATE does so, whatever
-- its condition says) until it commits. If the put has the row now, the row is skipped; if it has committed, its
-- version is seen here; if it waits for this transaction, it stores the content again. The base of a new content is the
-- content of the newest version, which cannot be deleted. And if all of this were wrong, the foreign keys would refuse
-- the deletion at the commit.
CREATE FUNCTION maintenance_collect(p_users uuid[], p_sha256s bytea[])
RETURNS TABLE (owner uuid, base bytea, size bigint)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    candidate record;
BEGIN
    FOR candidate IN SELECT c.user_id, c.sha256 FROM unnest(p_users, p_sha256s) AS c (user_id, sha256) LOOP
        PERFORM FROM memory_blobs AS b
        WHERE b.user_id = candidate.user_id AND b.sha256 = candidate.sha256 FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        CONTINUE WHEN memory_blob_is_needed(candidate.user_id, candidate.sha256);
        DELETE FROM memory_blobs AS b WHERE b.user_id = candidate.user_id AND b.sha256 = candidate.sha256
        RETURNING b.user_id, b.base_sha256, coalesce(octet_length(b.data), 0) INTO owner, base, size;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Isolation. Every table with a user_id shows a tenant its own rows; plans, users and claims have policies of their own
-- (0001_accounts.sql).
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'build_logs', 'builds', 'checkpoints', 'events', 'maintenance_runs', 'memory_blobs', 'memory_files',
        'memory_snapshots', 'preview_ports', 'previews', 'projects', 'quota_grants', 'quota_history',
        'quota_reservations', 'quota_waiters', 'restores', 'sessions', 'usage_ledger', 'usage_sums', 'user_quotas'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I USING (user_id = current_tenant())', name);
    END LOOP;
END
$$;

-- Two roles:
--   atlas_owner   owns the tables where `atlasctl db init` made them: it migrates and maintains
--   atlas_app     what `atlas.as_user(user)` acts as: row-level security applies, no DDL
--
-- Every table has a policy: a transaction sees the rows of the user in atlas.user_id, and none without one. The role
-- limits what a policy cannot: which columns and statements a tenant may use at all. So a tenant cannot raise its
-- limits, settle by hand, verify its own e-mail, change the audit, or claim another's address. The functions of the
-- quotas and of the ports run with the owner's rights, because a tenant must not write counters nor take a port. Their
-- search_path puts pg_temp last, or a temporary table with the right name would be taken for ours.
--
-- Roles belong to the whole server, and the owner of a database may not be allowed to make them. Then everything works
-- but as_user, until an administrator has made them (`atlasctl db init` says how).

-- Give the roles exactly what they need, and take away what they had beside it; a later migration adds here what is
-- new. False: there are no roles. The owner runs it, after every migration and by `atlasctl db init`.
CREATE FUNCTION grant_atlas_roles() RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    home constant text := (
        SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = 'users'::regclass
    );
    ours constant text[] := ARRAY[
        'build_logs', 'builds', 'checkpoints', 'claims', 'events', 'maintenance_runs', 'memory_blobs',
        'memory_files', 'memory_snapshots', 'memory_versions', 'plans', 'preview_ports', 'previews', 'project_health', 'projects',
        'quota_grants', 'quota_history', 'quota_reservations', 'quota_waiters', 'restores', 'schema_version', 'sessions',
        'usage_ledger', 'usage_sums', 'user_quotas', 'user_usage_summary', 'users'
    ];
    allowed constant text[] := ARRAY[
        'SELECT ON schema_version, plans, claims, user_quotas, quota_reservations, quota_history, quota_grants,'
            ' quota_waiters, sessions, events, projects, builds, build_logs, previews, preview_ports, usage_ledger,'
            ' usage_sums, memory_blobs, memory_files, checkpoints, memory_snapshots, memory_versions, restores,'
            ' user_usage_summary, project_health',
        -- Without the hash of the password, which only signing in needs.
        'SELECT (id, email, name, plan, email_verified, password_changed_at, created_at, updated_at), UPDATE (name) ON users',
        'INSERT, UPDATE (user_id), DELETE ON claims',
        'INSERT, UPDATE (is_active, last_seen_at), DELETE ON sessions',
        'INSERT ON events',
        -- The reported level of its memory, which limits nothing.
        'UPDATE (memory_level) ON user_quotas',
        -- Not the columns of the quota's own entries.
        'INSERT (user_id, id, project_id, kind, amount, cost, meta, created_at) ON usage_ledger',
        'INSERT, UPDATE, DELETE ON projects, builds, build_logs, previews',
        -- Only preview_port_take takes ports.
        'DELETE ON preview_ports',
        'INSERT, UPDATE ON memory_blobs, memory_files, restores',
        'INSERT ON memory_snapshots, checkpoints'
    ];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'atlas_app') THEN
        RETURN false;
    END IF;
    -- Only on our tables: others in the schema belong to somebody who may have given atlas_app something.
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

-- Take away what every login of a database has by default and no tenant needs: temporary tables and schemas, whose
-- names could be taken for ours; large objects, which no policy separates; advisory locks, which anybody may take in
-- anybody's name. Our own connections look among temporary tables last. Set for the database, this also works behind a
-- pooler, where a client may set nothing. What this login may not do is left to an administrator: `atlasctl db init`
-- and `db doctor` say it. Where another role has tables in this database, it may need all of this: then only `atlasctl
-- db init` closes it, which shows each step. To give something back to another application: GRANT TEMPORARY ON DATABASE
-- … TO its role.
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

-- Make the roles. Whoever migrates also acts for tenants, so it must be able to become atlas_app. What this login may
-- not do is left to an administrator. Two databases of a server may be set up at once: then the other one has made the
-- role.
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
