-- name: begin
-- Record a run that somebody asked for.
INSERT INTO maintenance_runs (id, whole, attribution) VALUES (%(id)s, %(whole)s, %(attribution)s);

-- name: begin_if_due
SELECT maintenance_begin(%(id)s, %(every)s, %(retry)s, %(dead)s, %(attribution)s);

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
