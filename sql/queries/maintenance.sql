-- name: begin
-- Put a run on record that somebody asked for.
INSERT INTO maintenance_runs (id, whole, attribution) VALUES (%(id)s, %(whole)s, %(attribution)s);

-- name: begin_if_due
SELECT maintenance_begin(%(id)s, %(every)s, %(retry)s, %(dead)s, %(attribution)s);

-- name: end
-- The end of a run; what is older than a year tells nobody anything.
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
