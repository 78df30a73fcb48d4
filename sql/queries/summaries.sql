-- name: usage_summary (read)
SELECT user_id, email, plan, tokens_used, tokens_limit, cost_used, cost_limit, project_count, active_previews, builds_24h,
       builds_7d, last_activity_at
FROM user_usage_summary WHERE user_id = %(user_id)s;

-- name: project_health (read)
SELECT project_id, user_id, name, status, builds_total, builds_succeeded, builds_failed, success_rate, failure_rate,
       last_build_at, last_build_status, active_previews, has_memory, memory_files, memory_bytes, last_snapshot_at
FROM project_health WHERE user_id = %(user_id)s AND project_id = %(project_id)s;
