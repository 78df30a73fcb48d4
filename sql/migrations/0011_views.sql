-- Views: what people ask first, and the sums of the ledger.
--
-- Each view joins grouped sub-selects on user_id, never correlated ones: with `WHERE user_id = …` the condition reaches
-- into every sub-select, so PostgreSQL reads one user's rows and Citus asks one shard (a correlated sub-query asked all
-- eight). security_invoker: the reader's policies apply, not the owner's.
--
-- A condition on one status counts builds by a range of idx_builds_status, and DISTINCT ON reads the first entry of an
-- index: 10^5 builds of one project take 11 ms, where one count of all with filters takes 24 ms (PostgreSQL 15, a busy
-- machine).
--
-- An active preview is one that answers at its host: running, or sleeping until the next request.

CREATE VIEW user_usage_summary WITH (security_invoker = true) AS
SELECT
    u.id AS user_id,
    u.email,
    u.plan,
    -- The next use begins a new period; until then an ended one has nothing used.
    CASE WHEN q.period_end > now() THEN q.tokens_used ELSE 0 END AS tokens_used,
    q.tokens_limit,
    CASE WHEN q.period_end > now() THEN q.cost_used ELSE 0 END AS cost_used,
    q.cost_limit,
    coalesce(p.project_count, 0) AS project_count,
    coalesce(v.active_previews, 0) AS active_previews,
    coalesce(b.builds_24h, 0) AS builds_24h,
    coalesce(b.builds_7d, 0) AS builds_7d,
    greatest(
        u.created_at,
        p.last_at,
        v.last_at,
        newest.last_at,
        s.last_at,
        -- Every metered use updates the quota row, so the ledger need not be read. A monthly reset updates the row too,
        -- but leaves nothing used.
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
    SELECT
        user_id,
        count(*) FILTER (WHERE created_at > now() - interval '24 hours') AS builds_24h,
        count(*) AS builds_7d
    FROM builds
    WHERE created_at > now() - interval '7 days'
    GROUP BY user_id
) AS b ON b.user_id = u.id
LEFT JOIN (
    -- The first entry of an index; max() would read all of them.
    SELECT DISTINCT ON (user_id) user_id, created_at AS last_at
    FROM builds
    ORDER BY user_id, created_at DESC
) AS newest ON newest.user_id = u.id
LEFT JOIN (
    SELECT user_id, max(last_seen_at) AS last_at
    FROM sessions
    GROUP BY user_id
) AS s ON s.user_id = u.id;

COMMENT ON VIEW user_usage_summary IS 'What each user has and uses now, one row a user.';
COMMENT ON COLUMN user_usage_summary.user_id IS 'The tenant.';
COMMENT ON COLUMN user_usage_summary.email IS 'The address.';
COMMENT ON COLUMN user_usage_summary.plan IS 'The plan.';
COMMENT ON COLUMN user_usage_summary.tokens_used IS 'Tokens charged to this month.';
COMMENT ON COLUMN user_usage_summary.tokens_limit IS 'Tokens of a month, top-ups included; NULL: unlimited.';
COMMENT ON COLUMN user_usage_summary.cost_used IS 'US dollars charged to this month.';
COMMENT ON COLUMN user_usage_summary.cost_limit IS 'US dollars of a month, top-ups included; NULL: unlimited.';
COMMENT ON COLUMN user_usage_summary.project_count IS 'Projects that are not deleted.';
COMMENT ON COLUMN user_usage_summary.active_previews IS 'Previews that run or sleep.';
COMMENT ON COLUMN user_usage_summary.builds_24h IS 'Builds of the last 24 hours.';
COMMENT ON COLUMN user_usage_summary.builds_7d IS 'Builds of the last 7 days.';
COMMENT ON COLUMN user_usage_summary.last_activity_at IS 'When anything of the user last changed.';

CREATE VIEW project_health WITH (security_invoker = true) AS
SELECT
    p.id AS project_id,
    p.user_id,
    p.name,
    p.status,
    coalesce(unfinished.builds, 0) + coalesce(succeeded.builds, 0) + coalesce(failed.builds, 0) AS builds_total,
    coalesce(succeeded.builds, 0) AS builds_succeeded,
    coalesce(failed.builds, 0) AS builds_failed,
    round(coalesce(succeeded.builds, 0)::numeric
          / nullif(coalesce(succeeded.builds, 0) + coalesce(failed.builds, 0), 0), 4) AS success_rate,
    round(coalesce(failed.builds, 0)::numeric
          / nullif(coalesce(succeeded.builds, 0) + coalesce(failed.builds, 0), 0), 4) AS failure_rate,
    newest.last_build_at,
    newest.last_build_status,
    coalesce(v.active_previews, 0) AS active_previews,
    -- Computed from the memory; projects.has_memory is as old as the last checkpoint or scan.
    coalesce(m.memory_files, 0) > 0 AS has_memory,
    coalesce(m.memory_files, 0) AS memory_files,
    coalesce(m.memory_bytes, 0)::bigint AS memory_bytes,
    m.last_snapshot_at
FROM projects AS p
LEFT JOIN (
    SELECT user_id, project_id, count(*) AS builds FROM builds WHERE status = 'succeeded' GROUP BY user_id, project_id
) AS succeeded ON succeeded.user_id = p.user_id AND succeeded.project_id = p.id
LEFT JOIN (
    SELECT user_id, project_id, count(*) AS builds FROM builds WHERE status = 'failed' GROUP BY user_id, project_id
) AS failed ON failed.user_id = p.user_id AND failed.project_id = p.id
LEFT JOIN (
    SELECT user_id, project_id, count(*) AS builds FROM builds
    WHERE status IN ('queued', 'running')
    GROUP BY user_id, project_id
) AS unfinished ON unfinished.user_id = p.user_id AND unfinished.project_id = p.id
LEFT JOIN (
    -- The id decides between two builds of one time: ids are time-ordered.
    SELECT DISTINCT ON (user_id, project_id)
        user_id, project_id, created_at AS last_build_at, status AS last_build_status
    FROM builds
    ORDER BY user_id, project_id, created_at DESC, id DESC
) AS newest ON newest.user_id = p.user_id AND newest.project_id = p.id
LEFT JOIN (
    SELECT user_id, project_id, count(*) FILTER (WHERE status IN ('running', 'sleeping')) AS active_previews
    FROM previews
    GROUP BY user_id, project_id
) AS v ON v.user_id = p.user_id AND v.project_id = p.id
LEFT JOIN (
    -- The newest version of every file. A version without a hash is a deletion: it counts as a snapshot, not as a file.
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

COMMENT ON VIEW project_health IS 'Builds, previews and memory of each project, deleted ones too.';
COMMENT ON COLUMN project_health.project_id IS 'The project.';
COMMENT ON COLUMN project_health.user_id IS 'The tenant.';
COMMENT ON COLUMN project_health.name IS 'The name to show.';
COMMENT ON COLUMN project_health.status IS 'active, archived or deleted.';
COMMENT ON COLUMN project_health.builds_total IS 'All builds.';
COMMENT ON COLUMN project_health.builds_succeeded IS 'Builds that succeeded.';
COMMENT ON COLUMN project_health.builds_failed IS 'Builds that failed.';
COMMENT ON COLUMN project_health.success_rate IS 'Share of the finished builds, 0 to 1; NULL: none has finished.';
COMMENT ON COLUMN project_health.failure_rate IS 'Share of the finished builds, 0 to 1; NULL: none has finished.';
COMMENT ON COLUMN project_health.last_build_at IS 'When the newest build was queued.';
COMMENT ON COLUMN project_health.last_build_status IS 'The status of the newest build.';
COMMENT ON COLUMN project_health.active_previews IS 'Previews that run or sleep.';
COMMENT ON COLUMN project_health.has_memory IS 'Whether there are memory files.';
COMMENT ON COLUMN project_health.memory_files IS 'Memory files that are not deleted.';
COMMENT ON COLUMN project_health.memory_bytes IS 'Bytes of their newest versions.';
COMMENT ON COLUMN project_health.last_snapshot_at IS 'When a memory file was last changed.';

-- Sums of the ledger before a moment: then the sum of everything reads only the entries since. Maintenance adds entries
-- that are older than two days. The sums are exact: when an entry changes that they may count, triggers void them, and
-- the whole ledger is read until maintenance has summed it up again.
CREATE TABLE usage_sums (
    user_id uuid        NOT NULL,
    until   timestamptz NOT NULL,
    -- Of the entries before that moment, {kind: [entries, amount, cost]}, with the kinds of usage_totals.
    sums    json_map    NOT NULL,
    PRIMARY KEY (user_id),
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE usage_sums IS 'Sums of the older entries of usage_ledger, kept by maintenance.';

-- Void the sums of the users whose older entries change. The lock waits for maintenance that is summing up, and keeps it
-- away until the change is committed. (At REPEATABLE READ a lost race is an error: the key meets a row that the
-- transaction cannot see.)
CREATE FUNCTION void_usage_sums() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    owners uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        owners := ARRAY[NEW.user_id];
    ELSIF TG_OP = 'UPDATE' THEN
        owners := ARRAY[OLD.user_id, NEW.user_id];
    ELSIF TG_OP = 'DELETE' THEN
        owners := ARRAY(SELECT DISTINCT d.user_id FROM deleted AS d);
    ELSE
        owners := ARRAY(SELECT s.user_id FROM usage_sums AS s);
    END IF;
    -- A tenant may call it by a trigger on a temporary table.
    PERFORM check_tenant(owner) FROM unnest(owners) AS owner;
    INSERT INTO usage_sums AS s (user_id, until, sums)
    SELECT q.user_id, '-infinity', '{}' FROM user_quotas AS q WHERE q.user_id = ANY (owners) FOR KEY SHARE
    ON CONFLICT (user_id) DO UPDATE SET until = excluded.until, sums = excluded.sums WHERE s.until <> excluded.until;
    RETURN NULL;
END
$$;

-- No sum counts an entry of the last day, so new entries call no function.
CREATE TRIGGER usage_sums_late_entry AFTER INSERT ON usage_ledger
FOR EACH ROW WHEN (NEW.created_at < clock_timestamp() - interval '1 day') EXECUTE FUNCTION void_usage_sums();
CREATE TRIGGER usage_sums_changed_entry AFTER UPDATE ON usage_ledger
FOR EACH ROW EXECUTE FUNCTION void_usage_sums();
CREATE TRIGGER usage_sums_deleted_entries AFTER DELETE ON usage_ledger REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION void_usage_sums();
CREATE TRIGGER usage_sums_no_entries AFTER TRUNCATE ON usage_ledger
FOR EACH STATEMENT EXECUTE FUNCTION void_usage_sums();

-- Return sums of the ledger. It is a function because the plan must fit the question: a plan for any question reads the
-- ledger by an index, also for all of a million rows. The planner also expects a group for every moment, and would sort
-- the rows instead of hashing a few hundred groups. Without JIT, because compiling takes longer than summing up: 377 ms
-- with it and 0.69 ms without, on PostgreSQL 15. Settings of a function work behind a pooler too.
--
-- An expired reservation was charged in tokens, as in the ledger; a released one used nothing.
CREATE FUNCTION usage_totals(
    p_user uuid, p_since timestamptz, p_until timestamptz, p_by_day boolean, p_by_model boolean, p_by_project boolean
) RETURNS TABLE (day date, kind text, model text, project text, entries bigint, amount numeric, cost numeric)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_custom_plan SET enable_sort = off SET work_mem = '64MB' SET jit = off AS $$
#variable_conflict use_column
DECLARE
    zone text := (SELECT q.time_zone FROM user_quotas AS q WHERE q.user_id = p_user);
    summed usage_sums;
BEGIN
    IF p_since IS NULL AND NOT (p_by_day OR p_by_model OR p_by_project) THEN
        SELECT * INTO summed FROM usage_sums AS s
        WHERE s.user_id = p_user AND s.until <= coalesce(p_until, 'infinity');
    END IF;
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT
            CASE WHEN p_by_day THEN (l.created_at AT TIME ZONE zone)::date END AS day,
            CASE WHEN l.reservation_id IS NOT NULL THEN 'tokens' ELSE l.kind::text END AS kind,
            CASE WHEN p_by_model THEN l.meta ->> 'model' END AS model,
            CASE WHEN p_by_project THEN coalesce(l.project_id::text, l.meta ->> 'project') END AS project,
            count(*) AS entries, sum(l.amount) AS amount, sum(l.cost) AS cost
        FROM usage_ledger AS l
        WHERE l.user_id = p_user
          AND l.created_at >= coalesce(summed.until, p_since, '-infinity')
          AND l.created_at < coalesce(p_until, 'infinity')
          AND NOT (l.reservation_id IS NOT NULL AND l.kind = 'released')
        GROUP BY 1, 2, 3, 4
    ), parts AS (
        SELECT day, kind, model, project, entries, amount, cost FROM sums
        UNION ALL
        SELECT NULL, e.key, NULL, NULL, (e.value ->> 0)::bigint, (e.value ->> 1)::numeric, (e.value ->> 2)::numeric
        FROM jsonb_each(summed.sums) AS e
    )
    SELECT day, kind, model, project, sum(entries)::bigint, sum(amount), sum(cost) FROM parts
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;
END
$$;

-- Add entries to the sums of p_users users after p_after, in the order of ids, about p_limit entries of each user.
-- Returns how many users it has looked at, the last one whose sums are as far as they can be, and whether there are no
-- more. A user whose row is locked is left to the next run.
--
-- Why no entry is missed: an open transaction that has added an entry holds the user's row, by the foreign key, so this
-- user is left out. Whoever adds one later, or changes one, voids the sums, unless the entry is not in them.
CREATE FUNCTION maintenance_sum_usage(
    p_after uuid, p_users integer, p_limit integer, OUT examined integer, OUT at uuid, OUT finished boolean
)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    goal constant timestamptz := clock_timestamp() - interval '2 days';
    owner uuid;
    low timestamptz;
    high timestamptz;
BEGIN
    examined := 0;
    at := p_after;
    FOR owner IN SELECT q.user_id FROM user_quotas AS q WHERE q.user_id > p_after ORDER BY q.user_id LIMIT p_users LOOP
        examined := examined + 1;
        low := coalesce((SELECT s.until FROM usage_sums AS s WHERE s.user_id = owner), '-infinity');
        IF EXISTS (
            SELECT FROM usage_ledger AS l WHERE l.user_id = owner AND l.created_at >= low AND l.created_at < goal
        ) THEN
            PERFORM FROM user_quotas AS q WHERE q.user_id = owner FOR UPDATE SKIP LOCKED;
            IF FOUND THEN
                -- Up to this entry, with all others of the same moment.
                high := (
                    SELECT l.created_at + interval '1 microsecond' FROM usage_ledger AS l
                    WHERE l.user_id = owner AND l.created_at >= low AND l.created_at < goal
                    ORDER BY l.created_at OFFSET p_limit LIMIT 1
                );
                INSERT INTO usage_sums AS s (user_id, until, sums)
                SELECT owner, coalesce(high, goal),
                       coalesce(jsonb_object_agg(t.kind, jsonb_build_array(t.entries, t.amount, t.cost)), '{}')
                FROM usage_totals(owner, NULL, coalesce(high, goal), false, false, false) AS t
                ON CONFLICT (user_id) DO UPDATE SET until = excluded.until, sums = excluded.sums;
                IF high IS NOT NULL THEN
                    -- The next call goes on with this user.
                    finished := false;
                    RETURN;
                END IF;
            END IF;
        END IF;
        at := owner;
    END LOOP;
    finished := examined < p_users;
END
$$;
