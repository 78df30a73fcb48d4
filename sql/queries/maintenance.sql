-- name: begin
-- Record a run that somebody asked for.
INSERT INTO maintenance_runs (id, whole, attribution) VALUES (%(id)s, %(whole)s, %(attribution)s);

-- name: lock
-- A second process that asks at the same moment must see the run of the first. No tenant may lock this table.
LOCK TABLE maintenance_runs IN SHARE ROW EXCLUSIVE MODE;

-- name: begin_if_due
-- Record the run of the day, unless a run was done less than `every` ago, one failed less than `retry` ago, or one has
-- been running for less than `dead`: after that its process was killed.
INSERT INTO maintenance_runs (id, started_at, whole, attribution)
SELECT %(id)s, clock_timestamp(), true, %(attribution)s
WHERE NOT EXISTS (
    SELECT FROM maintenance_runs
    WHERE whole AND started_at > clock_timestamp() - CASE outcome
        WHEN 'done' THEN %(every)s::interval WHEN 'failed' THEN %(retry)s::interval
        WHEN 'running' THEN %(dead)s::interval END
);

-- name: end
-- Record the end of a run, and delete runs that are older than a year.
WITH old AS (
    DELETE FROM maintenance_runs WHERE started_at < now() - interval '1 year'
)
UPDATE maintenance_runs
SET outcome = %(outcome)s, problem = %(problem)s, jobs = %(jobs)s, ended_at = greatest(started_at, now())
WHERE user_id = '00000000-0000-0000-0000-000000000000' AND id = %(id)s;

-- name: runs (read)
-- The newest first.
SELECT id, started_at, ended_at, outcome, whole, problem, jobs, attribution FROM maintenance_runs
ORDER BY started_at DESC, id DESC LIMIT %(limit)s;
