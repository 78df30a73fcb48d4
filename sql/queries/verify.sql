-- name: page (read)
-- A page of a tenant's versions in the order of their files, so that the base of a delta was mostly rebuilt just before
-- the delta.
SELECT s.project_id, s.path, s.seq, s.id, b.sha256, b.size, b.depth, b.base_sha256, b.data
FROM (
    SELECT v.user_id, v.project_id, v.path, v.seq, v.id, v.sha256 FROM memory_snapshots v
    WHERE v.user_id = %(user_id)s
      AND (v.project_id, v.path, v.seq, v.id) > (%(project_id)s::uuid, %(path)s, %(seq)s, %(id)s::uuid)
    ORDER BY v.project_id, v.path, v.seq, v.id LIMIT %(limit)s
) s
LEFT JOIN memory_blobs b ON b.user_id = s.user_id AND b.sha256 = s.sha256
ORDER BY s.project_id, s.path, s.seq, s.id;
