-- name: blobs
-- A page of a tenant's blobs, bases before the deltas made from them.
SELECT b.sha256, b.size, b.depth, b.base_sha256, b.data, b.created_at FROM memory_blobs b
WHERE b.user_id = %(user_id)s AND (b.created_at, b.sha256) > (%(after_time)s, %(after_sha256)s)
ORDER BY b.created_at, b.sha256 LIMIT %(limit)s;

-- name: totals
SELECT count(*) FILTER (WHERE s.sha256 IS NOT NULL) AS versions, count(*) FILTER (WHERE b.data IS NULL AND s.sha256 IS NOT NULL) AS unkept
FROM memory_snapshots s
LEFT JOIN memory_blobs b ON b.user_id = s.user_id AND b.sha256 = s.sha256
WHERE s.user_id = %(user_id)s;

-- name: versions_of
-- The versions that rest on these contents.
SELECT s.path, s.id, s.sha256 FROM memory_snapshots s
WHERE s.user_id = %(user_id)s AND s.sha256 = ANY(%(contents)s::bytea[])
ORDER BY s.path, s.seq;
