-- Counters: how many builds there are, kept by triggers, so that no view reads a hundred thousand of them.
--
-- A counter that many update is a queue: each waits for the transactions before it, and two that count in different
-- orders deadlock. So nothing is updated here. Each statement that changes builds adds a row that says by how much, and
-- a count is the sum of such rows. They become visible together with the builds they speak of, so in every snapshot the
-- sum is exact. One in eight such statements adds up the rows of what it counted; rows that another transaction has
-- locked it leaves alone. Nobody waits, and nobody can deadlock. What gathers all the same maintenance adds up.
--
-- "The newest" cannot be summed. Each row may name a build instead, and the newest one among those that still exist is
-- the newest of all: whoever adds a build names it, and whoever takes the newest away names the next. (At REPEATABLE READ
-- two that do so at once may miss each other; build_recount puts that right, and what other means than triggers did.)
--
-- No foreign keys: a status may change while the project is being deleted, and the check would deadlock with that.

CREATE TABLE build_tallies (
    user_id    uuid        NOT NULL,
    -- The nil id: all projects of the user.
    project_id uuid        NOT NULL,
    -- Builds that were made in an hour, for the last eight days of a user; -infinity: whenever that was.
    hour       timestamptz NOT NULL,
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- Changes, so they may be negative.
    builds     bigint      NOT NULL,
    -- Not counted by the hour.
    running    bigint      NOT NULL DEFAULT 0,
    succeeded  bigint      NOT NULL DEFAULT 0,
    failed     bigint      NOT NULL DEFAULT 0,
    -- A build that may be gone.
    newest_id  uuid,
    PRIMARY KEY (user_id, project_id, hour, id)
)
-- Its rows come and go.
WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE TYPE build_change AS (
    -- 1 or -1.
    n bigint, user_id uuid, project_id uuid, id uuid, created_at timestamptz, status text
);

-- Through a fixed origin: date_trunc goes by the zone of the session, and in some of those hours begin at half past.
CREATE FUNCTION build_hour(p_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT date_bin('1 hour', p_at, '2000-01-01 00:00:00+00')
$$;

-- Add up the rows of one count into one; return how many fewer there are. The hours of long ago are one count. Rows that
-- somebody has locked are left alone.
CREATE FUNCTION build_tally_fold(p_user uuid, p_project uuid, p_hour timestamptz) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    everything constant uuid := '00000000-0000-0000-0000-000000000000';
    long_ago constant timestamptz := now() - interval '8 days';
    -- Their places, where they stay while they are locked: a search for each id among thousands would be quadratic.
    places tid[];
    made bigint;
BEGIN
    places := ARRAY(
        SELECT t.ctid FROM build_tallies AS t
        WHERE t.user_id = p_user AND t.project_id = p_project
            AND (t.hour = p_hour OR p_hour < long_ago AND t.hour < long_ago)
        FOR UPDATE SKIP LOCKED
    );
    WITH gone AS (
        DELETE FROM build_tallies AS t WHERE t.ctid = ANY (places)
        RETURNING t.user_id, t.project_id, CASE WHEN t.hour >= long_ago THEN t.hour ELSE '-infinity' END AS hour, t.builds,
                  t.running, t.succeeded, t.failed, t.newest_id
    )
    INSERT INTO build_tallies (user_id, project_id, hour, builds, running, succeeded, failed, newest_id)
    SELECT g.user_id, g.project_id, g.hour, sum(g.builds), sum(g.running), sum(g.succeeded), sum(g.failed),
           (array_agg(b.id ORDER BY b.created_at DESC, b.id DESC) FILTER (WHERE b.id IS NOT NULL))[1]
    FROM gone AS g
    LEFT JOIN builds AS b ON b.user_id = g.user_id AND b.id = g.newest_id AND g.project_id IN (b.project_id, everything)
    GROUP BY g.user_id, g.project_id, g.hour
    HAVING sum(g.builds) <> 0 OR sum(g.running) <> 0 OR sum(g.succeeded) <> 0 OR sum(g.failed) <> 0 OR count(b.id) > 0;
    GET DIAGNOSTICS made = ROW_COUNT;
    RETURN cardinality(places) - made;
END
$$;

CREATE FUNCTION tally_builds() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    everything constant uuid := '00000000-0000-0000-0000-000000000000';
    -- A day more than the views ask for, because clocks differ.
    long_ago constant timestamptz := now() - interval '8 days';
    changes build_change[];
    moved boolean := true;
    key record;
    next_id uuid;
BEGIN
    -- It has the owner's rights, so on a table of somebody's own it would count what that one makes up. A shard has a number.
    IF TG_TABLE_SCHEMA <> current_schema() OR TG_TABLE_NAME !~ '^builds(_[0-9]+)?$' THEN
        RAISE EXCEPTION 'permission denied: builds are counted, and not the rows of %', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        -- No joins here: the plan for one row is kept, and used for a hundred thousand.
        changes := ARRAY(
            SELECT (c.n, c.user_id, c.project_id, c.id, c.created_at, c.status)::build_change
            FROM (
                SELECT -1 AS n, x.* FROM (
                    SELECT user_id, project_id, id, created_at, status FROM before
                    EXCEPT SELECT user_id, project_id, id, created_at, status FROM changed
                ) AS x
                UNION ALL
                SELECT 1, x.* FROM (
                    SELECT user_id, project_id, id, created_at, status FROM changed
                    EXCEPT SELECT user_id, project_id, id, created_at, status FROM before
                ) AS x
            ) AS c
        );
        IF cardinality(changes) = 0 THEN
            -- Another line of a log.
            RETURN NULL;
        END IF;
        moved := EXISTS (
            SELECT user_id, project_id, id, created_at FROM before
            EXCEPT SELECT user_id, project_id, id, created_at FROM changed
        );
    ELSE
        changes := ARRAY(
            SELECT (CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END, user_id, project_id, id, created_at, status)::build_change
            FROM changed
        );
    END IF;
    FOR key IN
        SELECT c.user_id, c.project_id, '-infinity'::timestamptz AS hour, sum(c.n) AS builds,
               sum(c.n) FILTER (WHERE c.status = 'running') AS running,
               sum(c.n) FILTER (WHERE c.status = 'succeeded') AS succeeded,
               sum(c.n) FILTER (WHERE c.status = 'failed') AS failed,
               (array_agg(c.id ORDER BY c.created_at DESC, c.id DESC) FILTER (WHERE moved AND c.n > 0))[1] AS newest_id,
               max(c.created_at) FILTER (WHERE moved AND c.n < 0) AS lost_at
        FROM unnest(changes) AS c
        GROUP BY c.user_id, c.project_id
        UNION ALL
        SELECT c.user_id, everything, '-infinity', coalesce(sum(c.n) FILTER (WHERE build_hour(c.created_at) < long_ago), 0),
               0, 0, 0, (array_agg(c.id ORDER BY c.created_at DESC, c.id DESC) FILTER (WHERE c.n > 0))[1],
               max(c.created_at) FILTER (WHERE c.n < 0)
        FROM unnest(changes) AS c
        WHERE moved
        GROUP BY c.user_id
        UNION ALL
        -- These name no build, or there would be hundreds to look at.
        SELECT c.user_id, everything, build_hour(c.created_at), sum(c.n), 0, 0, 0, NULL, NULL
        FROM unnest(changes) AS c
        WHERE moved AND build_hour(c.created_at) >= long_ago
        GROUP BY c.user_id, build_hour(c.created_at)
    LOOP
        IF TG_OP = 'DELETE' AND (
            NOT EXISTS (SELECT FROM users AS u WHERE u.id = key.user_id)
            OR key.project_id <> everything
            AND NOT EXISTS (SELECT FROM projects AS p WHERE p.user_id = key.user_id AND p.id = key.project_id)
        ) THEN
            -- They go with all that they had: forget_builds.
            CONTINUE;
        END IF;
        INSERT INTO build_tallies (user_id, project_id, hour, builds, running, succeeded, failed, newest_id)
        VALUES (key.user_id, key.project_id, key.hour, key.builds, coalesce(key.running, 0), coalesce(key.succeeded, 0),
                coalesce(key.failed, 0), key.newest_id);

        -- Was it the newest? One that another transaction is deleting is seen here: then that one names the next. It waits
        -- for us by locking the row it names, or we for it if it was first.
        IF key.lost_at IS NOT NULL THEN
            IF key.project_id = everything THEN
                IF TG_OP = 'UPDATE' OR NOT EXISTS (
                    SELECT FROM builds AS b WHERE b.user_id = key.user_id AND b.created_at > key.lost_at
                ) THEN
                    SELECT b.id INTO next_id FROM builds AS b WHERE b.user_id = key.user_id
                    ORDER BY b.created_at DESC, b.id DESC LIMIT 1 FOR KEY SHARE;
                END IF;
            ELSIF TG_OP = 'UPDATE' OR NOT EXISTS (
                SELECT FROM builds AS b
                WHERE b.user_id = key.user_id AND b.project_id = key.project_id AND b.created_at > key.lost_at
            ) THEN
                SELECT b.id INTO next_id FROM builds AS b WHERE b.user_id = key.user_id AND b.project_id = key.project_id
                ORDER BY b.created_at DESC, b.id DESC LIMIT 1 FOR KEY SHARE;
            END IF;
            IF next_id IS NOT NULL THEN
                INSERT INTO build_tallies (user_id, project_id, hour, builds, newest_id)
                VALUES (key.user_id, key.project_id, '-infinity', 0, next_id);
                next_id := NULL;
            END IF;
        END IF;

        -- Elsewhere than at READ COMMITTED a row that has just gone would be an error instead of being skipped: what gathers
        -- there maintenance adds up.
        IF random() < 0.125 AND current_setting('transaction_isolation') = 'read committed' THEN
            PERFORM build_tally_fold(key.user_id, key.project_id, key.hour);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- After the foreign keys, whose triggers have names that sort before ours, have deleted the builds.
CREATE FUNCTION forget_builds() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    -- Of a table of somebody's own it would take the counts of everybody away.
    IF TG_TABLE_SCHEMA <> current_schema()
        OR TG_OP = 'TRUNCATE' AND TG_TABLE_NAME !~ '^builds(_[0-9]+)?$'
        OR TG_OP <> 'TRUNCATE' AND TG_TABLE_NAME !~ '^(users|projects)(_[0-9]+)?$' THEN
        RAISE EXCEPTION 'permission denied: counts go with builds, projects and users, and not with %', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE build_tallies;
    ELSIF TG_TABLE_NAME LIKE 'users%' THEN
        DELETE FROM build_tallies AS t WHERE t.user_id = OLD.id;
    ELSE
        DELETE FROM build_tallies AS t WHERE t.user_id = OLD.user_id AND t.project_id = OLD.id;
    END IF;
    RETURN NULL;
END
$$;

-- Count again, all users or one. Waits for those who change builds, and they wait for it.
CREATE FUNCTION build_recount(p_user uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    long_ago constant timestamptz := now() - interval '8 days';
BEGIN
    LOCK TABLE builds IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM build_tallies AS t WHERE p_user IS NULL OR t.user_id = p_user;
    INSERT INTO build_tallies (user_id, project_id, hour, builds, running, succeeded, failed, newest_id)
    SELECT b.user_id, b.project_id, '-infinity'::timestamptz, count(*), count(*) FILTER (WHERE b.status = 'running'),
           count(*) FILTER (WHERE b.status = 'succeeded'), count(*) FILTER (WHERE b.status = 'failed'),
           (array_agg(b.id ORDER BY b.created_at DESC, b.id DESC))[1]
    FROM builds AS b
    WHERE p_user IS NULL OR b.user_id = p_user
    GROUP BY b.user_id, b.project_id
    UNION ALL
    SELECT b.user_id, '00000000-0000-0000-0000-000000000000', '-infinity',
           count(*) FILTER (WHERE build_hour(b.created_at) < long_ago), 0, 0, 0,
           (array_agg(b.id ORDER BY b.created_at DESC, b.id DESC))[1]
    FROM builds AS b
    WHERE p_user IS NULL OR b.user_id = p_user
    GROUP BY b.user_id
    UNION ALL
    SELECT b.user_id, '00000000-0000-0000-0000-000000000000', build_hour(b.created_at), count(*), 0, 0, 0, NULL
    FROM builds AS b
    WHERE (p_user IS NULL OR b.user_id = p_user) AND build_hour(b.created_at) >= long_ago
    GROUP BY b.user_id, build_hour(b.created_at);
END
$$;

-- The triggers write what a tenant must not. pg_temp comes last, or a temporary table with the right name would be taken
-- for ours; and the path of a restored dump is empty. Nobody else makes triggers of them: see grant_atlas_roles.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION build_recount(uuid) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION tally_builds() SECURITY DEFINER SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION forget_builds() SECURITY DEFINER SET search_path = %I, pg_temp', current_schema());
END
$$;

CREATE TRIGGER tally_new AFTER INSERT ON builds REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION tally_builds();
CREATE TRIGGER tally_changed AFTER UPDATE ON builds REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION tally_builds();
CREATE TRIGGER tally_deleted AFTER DELETE ON builds REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION tally_builds();
CREATE TRIGGER tally_none AFTER TRUNCATE ON builds
FOR EACH STATEMENT EXECUTE FUNCTION forget_builds();
CREATE TRIGGER tally_gone AFTER DELETE ON projects
FOR EACH ROW EXECUTE FUNCTION forget_builds();
CREATE TRIGGER tally_gone AFTER DELETE ON users
FOR EACH ROW EXECUTE FUNCTION forget_builds();

-- The builds that there are already.
SELECT build_recount(NULL);

ALTER TABLE build_tallies ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON build_tallies
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

-- The views of 0004_views.sql with the same columns, of the same meaning.

CREATE OR REPLACE VIEW user_usage_summary WITH (security_invoker = true) AS
SELECT
    u.id AS user_id,
    u.email,
    u.plan,
    -- Periods roll forward when they are next used; until then an ended one has nothing used.
    CASE WHEN q.period_end > now() THEN q.tokens_used ELSE 0 END AS tokens_used,
    q.tokens_limit,
    CASE WHEN q.period_end > now() THEN q.cost_used ELSE 0 END AS cost_used,
    q.cost_limit,
    coalesce(p.project_count, 0) AS project_count,
    coalesce(v.active_previews, 0) AS active_previews,
    coalesce(b.builds_24h, 0)::bigint + coalesce(day.builds, 0) AS builds_24h,
    coalesce(b.builds_7d, 0)::bigint + coalesce(week.builds, 0) AS builds_7d,
    greatest(
        u.created_at,
        p.last_at,
        v.last_at,
        n.last_at,
        s.last_at,
        -- The quota row moves with every metered use and so stands in for reading the whole ledger.
        -- A monthly reset moves it too, but leaves nothing used.
        CASE WHEN q.tokens_used > 0 OR q.cost_used > 0 THEN q.updated_at END
    ) AS last_activity_at
FROM users AS u
LEFT JOIN user_quotas AS q ON q.user_id = u.id
LEFT JOIN (
    SELECT user_id, count(*) FILTER (WHERE status <> 'deleted') AS project_count, max(updated_at) AS last_at
    FROM projects
    GROUP BY user_id
) AS p ON p.user_id = u.id
LEFT JOIN (
    SELECT
        user_id,
        count(*) FILTER (WHERE status IN ('running', 'sleeping')) AS active_previews,
        max(last_accessed_at) AS last_at
    FROM previews
    GROUP BY user_id
) AS v ON v.user_id = u.id
LEFT JOIN (
    -- The hours that are in the day and in the week as a whole.
    SELECT
        user_id,
        sum(builds) FILTER (WHERE hour > now() - interval '24 hours') AS builds_24h,
        sum(builds) AS builds_7d
    FROM build_tallies
    WHERE project_id = '00000000-0000-0000-0000-000000000000' AND hour > now() - interval '7 days'
    GROUP BY user_id
) AS b ON b.user_id = u.id
LEFT JOIN (
    -- Apart from the hours, which name no builds: for hundreds of rows the planner would rather read all builds.
    SELECT t.user_id, max(n.created_at) AS last_at
    FROM build_tallies AS t
    JOIN builds AS n ON n.user_id = t.user_id AND n.id = t.newest_id
    WHERE t.project_id = '00000000-0000-0000-0000-000000000000' AND t.hour = '-infinity'
    GROUP BY t.user_id
) AS n ON n.user_id = u.id
LEFT JOIN (
    -- And what is in them of the hour that each of them begins in.
    SELECT user_id, count(*) AS builds
    FROM builds
    WHERE created_at > now() - interval '24 hours'
        AND created_at < build_hour(now() - interval '24 hours') + interval '1 hour'
    GROUP BY user_id
) AS day ON day.user_id = u.id
LEFT JOIN (
    SELECT user_id, count(*) AS builds
    FROM builds
    WHERE created_at > now() - interval '7 days'
        AND created_at < build_hour(now() - interval '7 days') + interval '1 hour'
    GROUP BY user_id
) AS week ON week.user_id = u.id
LEFT JOIN (
    SELECT user_id, max(last_seen_at) AS last_at
    FROM sessions
    GROUP BY user_id
) AS s ON s.user_id = u.id;

-- Rates are shares of the finished builds, 0 to 1, and NULL while there are none: no builds is not
-- the same as no success. Deleted projects are listed too; filter by status.
CREATE OR REPLACE VIEW project_health WITH (security_invoker = true) AS
SELECT
    p.id AS project_id,
    p.user_id,
    p.name,
    p.status,
    coalesce(b.builds_total, 0)::bigint AS builds_total,
    coalesce(b.builds_succeeded, 0)::bigint AS builds_succeeded,
    coalesce(b.builds_failed, 0)::bigint AS builds_failed,
    round(b.builds_succeeded / nullif(b.builds_succeeded + b.builds_failed, 0), 4) AS success_rate,
    round(b.builds_failed / nullif(b.builds_succeeded + b.builds_failed, 0), 4) AS failure_rate,
    b.last_build_at,
    b.last_build_status,
    coalesce(v.active_previews, 0) AS active_previews,
    -- From the memory itself and not from projects.has_memory, which is a note made at the last look.
    coalesce(m.memory_files, 0) > 0 AS has_memory,
    coalesce(m.memory_files, 0) AS memory_files,
    coalesce(m.memory_bytes, 0)::bigint AS memory_bytes,
    m.last_snapshot_at
FROM projects AS p
LEFT JOIN (
    SELECT
        t.user_id,
        t.project_id,
        -- Sums of bigint are numeric: the rates divide them exactly.
        sum(t.builds) AS builds_total,
        sum(t.succeeded) AS builds_succeeded,
        sum(t.failed) AS builds_failed,
        max(n.created_at) AS last_build_at,
        -- By id where two builds have one time: ids are time-ordered.
        (array_agg(n.status ORDER BY n.created_at DESC NULLS LAST, n.id DESC))[1] AS last_build_status
    FROM build_tallies AS t
    LEFT JOIN builds AS n ON n.user_id = t.user_id AND n.project_id = t.project_id AND n.id = t.newest_id
    GROUP BY t.user_id, t.project_id
) AS b ON b.user_id = p.user_id AND b.project_id = p.id
LEFT JOIN (
    SELECT user_id, project_id, count(*) FILTER (WHERE status IN ('running', 'sleeping')) AS active_previews
    FROM previews
    GROUP BY user_id, project_id
) AS v ON v.user_id = p.user_id AND v.project_id = p.id
LEFT JOIN (
    -- The newest version of every file. One without a hash is a deletion: the file is gone, but that it
    -- went is a snapshot like any other.
    SELECT
        f.user_id,
        f.project_id,
        count(*) FILTER (WHERE s.sha256 IS NOT NULL) AS memory_files,
        sum(s.size) FILTER (WHERE s.sha256 IS NOT NULL) AS memory_bytes,
        max(s.created_at) AS last_snapshot_at
    FROM memory_files AS f
    JOIN memory_snapshots AS s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.id = f.snapshot_id
    GROUP BY f.user_id, f.project_id
) AS m ON m.user_id = p.user_id AND m.project_id = p.id;

-- Sums of the ledger. A function because its plan must be made for what is asked: one for any question reads the ledger
-- by an index and joins it with itself row by row, which took five times as long for a million rows. And the planner takes
-- every moment for a day of its own, and would sort the rows instead of hashing a few hundred groups. No JIT: to compile
-- takes longer than to sum up. Settings of a function hold behind a pooler, too.
--
-- What an expired promise was charged are tokens, as in the ledger; a released one used nothing. The late settlement of an
-- expired one is a correction without the promise's meta: what that says is in the row that it corrects.
CREATE FUNCTION usage_totals(
    p_user uuid, p_since timestamptz, p_until timestamptz, p_by_day boolean, p_by_model boolean, p_by_project boolean
) RETURNS TABLE (day date, kind text, model text, project text, entries bigint, amount numeric, cost numeric)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_custom_plan SET enable_sort = off SET work_mem = '64MB' SET jit = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT
            CASE WHEN p_by_day THEN (l.created_at AT TIME ZONE q.time_zone)::date END AS day,
            CASE WHEN l.reservation_id IS NOT NULL THEN 'tokens' ELSE l.kind::text END AS kind,
            CASE WHEN p_by_model THEN coalesce(l.meta ->> 'model', e.meta ->> 'model') END AS model,
            CASE WHEN p_by_project THEN coalesce(l.project_id::text, l.meta ->> 'project', e.meta ->> 'project') END
                AS project,
            count(*) AS entries, sum(l.amount) AS amount, sum(l.cost) AS cost
        FROM usage_ledger AS l
        JOIN user_quotas AS q ON q.user_id = l.user_id
        LEFT JOIN usage_ledger AS e
            ON (p_by_model OR p_by_project)
            AND e.user_id = l.user_id AND e.reservation_id = l.reservation_id AND e.kind = 'expired' AND l.kind = 'tokens'
        WHERE l.user_id = p_user
          AND l.created_at >= coalesce(p_since, '-infinity'::timestamptz)
          AND l.created_at < coalesce(p_until, 'infinity'::timestamptz)
          AND NOT (l.reservation_id IS NOT NULL AND l.kind = 'released')
        GROUP BY 1, 2, 3, 4
    )
    SELECT * FROM sums ORDER BY 1, 2, 3, 4;
END
$$;
