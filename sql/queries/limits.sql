-- name: columns
name, tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit, memory_limit, memory_hard,
projects_limit, sessions_limit, previews_limit;

-- name: plans (read)
SELECT {columns} FROM plans
ORDER BY tokens_limit NULLS LAST, name;

-- name: plan (read)
SELECT {columns} FROM plans
WHERE name = %(name)s;

-- name: add_plan
INSERT INTO plans
    (name, tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit, memory_limit, memory_hard,
     projects_limit, sessions_limit, previews_limit)
VALUES
    (%(name)s, %(tokens)s, %(cost)s, %(containers)s, %(requests)s, %(builds)s, %(memory)s, %(memory_hard)s,
     %(projects)s, %(sessions)s, %(previews)s)
ON CONFLICT DO NOTHING;

-- name: lock_plan
-- Lock the plan against users who join it at this moment: the foreign key of users takes a share lock on the plan
-- before the trigger reads the limits. (An UPDATE alone would not conflict with that.)
SELECT name FROM plans WHERE name = %(name)s FOR UPDATE;

-- name: set_plan
UPDATE plans SET
    tokens_limit = CASE WHEN %(set_tokens)s THEN %(tokens)s::bigint ELSE tokens_limit END,
    cost_limit = CASE WHEN %(set_cost)s THEN %(cost)s::numeric ELSE cost_limit END,
    containers_limit = CASE WHEN %(set_containers)s THEN %(containers)s::integer ELSE containers_limit END,
    requests_limit = CASE WHEN %(set_requests)s THEN %(requests)s::integer ELSE requests_limit END,
    builds_limit = CASE WHEN %(set_builds)s THEN %(builds)s::integer ELSE builds_limit END,
    memory_limit = CASE WHEN %(set_memory)s THEN %(memory)s::bigint ELSE memory_limit END,
    memory_hard = CASE WHEN %(set_memory_hard)s THEN %(memory_hard)s::boolean ELSE memory_hard END,
    projects_limit = CASE WHEN %(set_projects)s THEN %(projects)s::integer ELSE projects_limit END,
    sessions_limit = CASE WHEN %(set_sessions)s THEN %(sessions)s::integer ELSE sessions_limit END,
    previews_limit = CASE WHEN %(set_previews)s THEN %(previews)s::integer ELSE previews_limit END,
    updated_at = now()
WHERE name = %(name)s;

-- name: apply_plan
-- Apply a plan to a batch of its users in the order of ids. Returns the last one's id, or the nil id at the end.
SELECT coalesce(quota_apply_plan_to_all(%(name)s, %(after)s, %(limit)s), '00000000-0000-0000-0000-000000000000');

-- name: clear_overrides
UPDATE user_quotas SET overridden = '{}' WHERE user_id = %(user_id)s;

-- name: apply_plan_to_user
SELECT quota_apply_plan(%(user_id)s);

-- name: open_period
-- Close the period if it has ended, so that new limits do not apply to it.
SELECT (quota_lock(user_id)).user_id FROM user_quotas WHERE user_id = %(user_id)s;

-- name: set_limits
-- Top-ups are added to these limits too.
UPDATE user_quotas SET
    tokens_limit = CASE WHEN %(set_tokens)s THEN %(tokens)s::bigint + tokens_granted ELSE tokens_limit END,
    cost_limit = CASE WHEN %(set_cost)s THEN %(cost)s::numeric + cost_granted ELSE cost_limit END,
    containers_limit = CASE WHEN %(set_containers)s THEN %(containers)s::integer ELSE containers_limit END,
    requests_limit = CASE WHEN %(set_requests)s THEN %(requests)s::integer ELSE requests_limit END,
    builds_limit = CASE WHEN %(set_builds)s THEN %(builds)s::integer ELSE builds_limit END,
    memory_limit = CASE WHEN %(set_memory)s THEN %(memory)s::bigint ELSE memory_limit END,
    memory_hard = CASE WHEN %(set_memory_hard)s THEN %(memory_hard)s::boolean ELSE memory_hard END,
    projects_limit = CASE WHEN %(set_projects)s THEN %(projects)s::integer ELSE projects_limit END,
    sessions_limit = CASE WHEN %(set_sessions)s THEN %(sessions)s::integer ELSE sessions_limit END,
    previews_limit = CASE WHEN %(set_previews)s THEN %(previews)s::integer ELSE previews_limit END,
    overridden = ARRAY(SELECT DISTINCT d FROM unnest(overridden || %(named)s::text[]) AS d ORDER BY d)
WHERE user_id = %(user_id)s;

-- name: time_zone (read)
-- The name of a time zone, as the server spells it, or ''. PostgreSQL itself takes more for a zone: abbreviations, and
-- rules of POSIX, where 'UTC+2' is two hours west of Greenwich.
SELECT coalesce(min(name), '') FROM pg_timezone_names WHERE lower(name) = lower(%(time_zone)s);

-- name: set_time_zone
-- Days and months are of this zone from now on; the open period keeps its end.
UPDATE user_quotas SET time_zone = %(time_zone)s WHERE user_id = %(user_id)s;

-- name: grant
SELECT quota_grant(
    %(user_id)s, %(grant_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(expires_at)s::timestamptz, %(reason)s
);

-- name: grants (read)
-- The open ones first, the soonest to expire first.
SELECT id, tokens, cost, tokens_burned, cost_burned, reason, created_at, expires_at, closed_at
FROM quota_grants
WHERE user_id = %(user_id)s
ORDER BY closed_at DESC NULLS FIRST, expires_at NULLS LAST, id;

-- name: now (read)
SELECT clock_timestamp();
