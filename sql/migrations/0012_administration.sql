-- Administration: maintenance, refunds, and what a tenant's role may do.
--
-- Several processes may run maintenance at once. Maintenance waits for no row: it leaves a row that another transaction
-- has locked to the next run. It first locks a row, and decides about the row in the next statement: only a statement
-- that begins after the lock sees everything that was committed before the lock.

CREATE TABLE maintenance_runs (
    -- The nil id, as with events of the service itself.
    user_id     uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    id          uuid        NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    -- A process that was killed leaves 'running'.
    outcome     text        NOT NULL DEFAULT 'running',
    -- True for a run of every job: only such a run counts as the run of the day.
    whole       boolean     NOT NULL,
    problem     text,
    -- The result of each job, in the order of the jobs.
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

-- Return whether the user, live preview or project of a name is gone. For a port, p_kind is 'preview_port' and p_value
-- the preview's id. Statements call this for every row, so it has no search_path of its own: setting one takes longer
-- than the rest of the function.
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

-- Return whether a version has this content, or another content is a delta of it.
CREATE FUNCTION memory_blob_is_needed(p_user uuid, p_sha256 bytea) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM memory_snapshots AS s WHERE s.user_id = p_user AND s.sha256 = p_sha256)
        OR EXISTS (SELECT FROM memory_blobs AS b WHERE b.user_id = p_user AND b.base_sha256 = p_sha256);
END
$$;

-- Delete the given contents that nothing needs. Returns the bytes and the base of each deleted content: now nothing may
-- need the base either.
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

CREATE TYPE quota_refunded AS (
    -- 'refunded'. Nothing was changed: 'repeated', an earlier call did it; 'conflict', the id is of another entry, or of a
    -- refund with other amounts; 'unknown', there is no such charge.
    outcome text,
    reservation_id uuid, tokens bigint, cost numeric, period_start timestamptz
);

-- Give back a part of a charge; NULL amounts: all that is left of it. p_charge is the reservation, the id of quota_add,
-- or a row of the ledger that charges one of them. The month that was charged gets it, also if it has ended, and the
-- top-ups that paid for that month. All refunds of a charge together never exceed it. It is not for tenants.
CREATE FUNCTION quota_refund(
    p_user uuid, p_id uuid, p_charge uuid, p_tokens bigint, p_cost numeric, p_reason text
) RETURNS quota_refunded
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    known usage_ledger;
    r quota_refunded;
    charge record;
    -- What quota_post takes from: the period that was charged, and nothing held.
    hold quota_reservations;
BEGIN
    IF NOT has_table_privilege('usage_ledger', 'UPDATE') THEN
        RAISE EXCEPTION 'permission denied for refunds' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM quota_check_amounts(p_id, p_tokens, p_cost, NULL);
    IF p_reason IS NULL OR NOT char_length(p_reason) BETWEEN 1 AND 500 THEN
        RAISE EXCEPTION 'a refund needs a reason of at most 500 characters'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'reason';
    END IF;
    q := quota_lock(p_user);
    r.reservation_id := coalesce(
        (SELECT l.reservation_id FROM usage_ledger AS l WHERE l.user_id = p_user AND l.id = p_charge), p_charge);
    r.tokens := p_tokens;
    r.cost := round(p_cost, 9);
    IF r.tokens IS NOT NULL OR r.cost IS NOT NULL THEN
        r.tokens := coalesce(r.tokens, 0);
        r.cost := coalesce(r.cost, 0);
    END IF;
    SELECT * INTO known FROM usage_ledger AS l WHERE l.user_id = p_user AND l.id = p_id;
    IF FOUND THEN
        RETURN (CASE WHEN known.corrects = r.reservation_id AND coalesce(r.tokens, -known.amount) = -known.amount
                          AND coalesce(r.cost, -known.cost) = -known.cost THEN 'repeated' ELSE 'conflict' END,
                known.corrects, -known.amount, -known.cost, known.period_start)::quota_refunded;
    END IF;
    FOR attempt IN 1 .. 2 LOOP
        EXIT WHEN NOT EXISTS (
            SELECT FROM quota_reservations AS o WHERE o.user_id = p_user AND o.id = r.reservation_id);
        IF attempt = 2 THEN
            RAISE EXCEPTION 'reservation % is still held: settle or release it', r.reservation_id
                USING ERRCODE = 'invalid_parameter_value', COLUMN = 'charge_id';
        END IF;
        -- It may have expired, which charges it.
        q := quota_reclaim(q, clock_timestamp());
    END LOOP;
    SELECT sum(l.amount)::bigint AS tokens, sum(l.cost) AS cost, min(l.period_start) AS period_start,
           (array_agg(l.meta ORDER BY l.created_at) FILTER (WHERE l.reservation_id IS NOT NULL))[1] AS meta
    INTO charge
    FROM usage_ledger AS l
    WHERE l.user_id = p_user AND (l.reservation_id = r.reservation_id OR l.corrects = r.reservation_id);
    IF charge.period_start IS NULL THEN
        RETURN ('unknown', NULL, 0, 0, NULL)::quota_refunded;
    END IF;
    r.outcome := 'refunded';
    r.tokens := coalesce(r.tokens, charge.tokens);
    r.cost := coalesce(r.cost, charge.cost);
    r.period_start := charge.period_start;
    IF r.tokens > charge.tokens OR r.cost > charge.cost OR r.tokens = 0 AND r.cost = 0 THEN
        RAISE EXCEPTION 'of the charge of % are left % tokens and % dollars, not % and %',
            r.reservation_id, charge.tokens, charge.cost, r.tokens, r.cost
            USING ERRCODE = 'invalid_parameter_value',
                  COLUMN = CASE WHEN r.tokens > charge.tokens OR r.cost <= charge.cost THEN 'tokens' ELSE 'cost' END;
    END IF;
    INSERT INTO usage_ledger (id, user_id, kind, amount, cost, meta, created_at, period_start, corrects)
    VALUES (p_id, p_user, 'refund', -r.tokens, -r.cost, charge.meta || jsonb_build_object('refund_reason', p_reason),
            clock_timestamp(), r.period_start, r.reservation_id);
    hold.period_start := r.period_start;
    PERFORM quota_post(q, hold, -r.tokens, -r.cost, 0), quota_wake(p_user, q.waiting_until);
    RETURN r;
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
-- Every table has a policy: a transaction sees the rows of the user in atlas.user_id, and no row without that
-- setting. The role limits what a policy cannot: which columns and statements a tenant may use at all. So a tenant
-- cannot raise its limits, settle by hand, verify its own e-mail, change the audit, or claim the address of another
-- user. The functions of the quotas and of the ports run with the owner's rights, because a tenant must not write
-- counters nor take a port. Their search_path puts pg_temp last, because otherwise they would take a temporary table
-- with the same name for ours.
--
-- Roles belong to the whole server, and the owner of a database may not be allowed to make them. Then everything works
-- but as_user, until an administrator has made them (`atlasctl db init` says how).

-- Give the roles exactly the rights that they need, and revoke all others; return false if there are no roles. A later
-- migration adds the rights on its new objects here. The owner runs this after every migration and by `atlasctl db
-- init`.
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

-- Revoke the rights that every login of a database has by default and no tenant needs: temporary tables and schemas,
-- whose names could be taken for ours; large objects, which no policy separates; advisory locks, which anybody may take
-- in anybody's name. Our own connections look among temporary tables last. The search_path is set for the database, so
-- it also works behind a pooler, where a client may set nothing. An administrator must do what this login may not do:
-- `atlasctl db init` and `db doctor` show the commands. If another role has tables in this database, it may need these
-- rights: then only `atlasctl db init` revokes them, which shows each step. To give a right back to another
-- application, run for example: GRANT TEMPORARY ON DATABASE … TO its role.
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

-- Make the roles. The login that migrates also acts for tenants, so it must be able to become atlas_app. An
-- administrator must do what this login may not do. If two databases of a server are set up at once, the other set-up
-- may have made the role.
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
