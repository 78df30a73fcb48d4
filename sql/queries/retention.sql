-- name: old_versions (read)
-- A page of the automatic versions before a moment, and how many of them may be deleted: not the newest of their files,
-- nor the newest with content. A checkpoint has rows of its own, so it is not affected.
WITH page AS (
    SELECT created_at, user_id, project_id, path, id FROM memory_snapshots
    WHERE kind = 'auto' AND created_at < %(before)s AND (created_at, id) > (%(at)s::timestamptz, %(id)s::uuid)
    ORDER BY created_at, id LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM page) AS examined, count(*) AS removed,
       (SELECT created_at FROM page ORDER BY created_at DESC, id DESC LIMIT 1) AS at,
       (SELECT id FROM page ORDER BY created_at DESC, id DESC LIMIT 1) AS id
FROM page
WHERE NOT EXISTS (
    SELECT FROM memory_files AS f
    WHERE f.user_id = page.user_id AND f.project_id = page.project_id AND f.path = page.path
      AND page.id IN (f.snapshot_id, f.content_id)
);

-- name: prune_versions
-- Delete the versions of the same page that may be deleted. The trigger tests again for each whether it is the newest
-- by now.
WITH page AS (
    SELECT created_at, user_id, project_id, path, id FROM memory_snapshots
    WHERE kind = 'auto' AND created_at < %(before)s AND (created_at, id) > (%(at)s::timestamptz, %(id)s::uuid)
    ORDER BY created_at, id LIMIT %(limit)s
), old AS (
    SELECT page.user_id, page.project_id, page.id FROM page
    WHERE NOT EXISTS (
        SELECT FROM memory_files AS f
        WHERE f.user_id = page.user_id AND f.project_id = page.project_id AND f.path = page.path
          AND page.id IN (f.snapshot_id, f.content_id)
    )
), held AS (
    SELECT user_id, project_id, id FROM memory_snapshots
    WHERE (user_id, project_id, id) IN (SELECT user_id, project_id, id FROM old) FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM memory_snapshots
    WHERE kind = 'auto' AND created_at < %(before)s
      AND (user_id, project_id, id) IN (SELECT user_id, project_id, id FROM held)
    RETURNING id
)
SELECT (SELECT count(*) FROM page) AS examined, (SELECT count(*) FROM gone) AS removed,
       (SELECT count(*) FROM old) - (SELECT count(*) FROM held) AS skipped,
       (SELECT created_at FROM page ORDER BY created_at DESC, id DESC LIMIT 1) AS at,
       (SELECT id FROM page ORDER BY created_at DESC, id DESC LIMIT 1) AS id;

-- name: orphans (read)
-- A page of all contents and some more, and those of them that nothing needs. `seen`: transactions from that number on
-- see what this statement sees.
WITH page AS (
    SELECT user_id, sha256 FROM memory_blobs
    WHERE (user_id, sha256) > (%(user_id)s::uuid, %(sha256)s::bytea)
    ORDER BY user_id, sha256 LIMIT %(limit)s
), candidates AS (
    SELECT user_id, sha256 FROM page
    UNION
    SELECT more.user_id, more.sha256
    FROM unnest(%(more_users)s::uuid[], %(more_sha256s)s::bytea[]) AS more (user_id, sha256)
), orphans AS MATERIALIZED (
    SELECT user_id, sha256 FROM candidates WHERE NOT memory_blob_is_needed(user_id, sha256)
)
SELECT (SELECT count(*) FROM page) AS examined,
       coalesce(array_agg(o.user_id), '{}') AS users, coalesce(array_agg(o.sha256), '{}') AS sha256s,
       coalesce(sum(b.size), 0)::bigint AS size,
       (SELECT user_id FROM page ORDER BY user_id DESC, sha256 DESC LIMIT 1) AS user_id,
       (SELECT sha256 FROM page ORDER BY user_id DESC, sha256 DESC LIMIT 1) AS sha256,
       pg_snapshot_xmax(pg_current_snapshot())::text AS seen
FROM orphans AS o
CROSS JOIN LATERAL (
    SELECT coalesce(octet_length(k.data), 0) AS size FROM memory_blobs k
    WHERE k.user_id = o.user_id AND k.sha256 = o.sha256 LIMIT 1
) AS b;

-- name: settled (read)
-- Tell whether every transaction that was under way then has ended. One that was naming a version for a checkpoint
-- while that version was pruned may need its content, and its row is not visible yet.
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %(seen)s::text::xid8;

-- name: pause
-- A twentieth of a second.
SELECT pg_sleep(0.05);

-- name: collect
SELECT owner, base, size FROM maintenance_collect(%(users)s, %(sha256s)s);
