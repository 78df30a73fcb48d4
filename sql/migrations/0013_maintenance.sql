-- Maintenance: what finds old rows without reading whole tables, and what removes them beside the traffic.
--
-- Everything here may be called by several processes at once. No row is waited for: one that somebody else has locked is
-- left to the next run. What is decided about a row is decided after it was locked, in a statement of its own: only that
-- sees what was committed before the lock was had.

-- Old versions that may go, the oldest first. The newest of every file stay and are met again each time.
CREATE INDEX idx_memory_snapshots_auto ON memory_snapshots (created_at) WHERE kind = 'auto';
CREATE INDEX idx_events_created ON events (created_at);
-- Changes once a month, so the updates of the hot row stay on their page.
CREATE INDEX idx_user_quotas_period_end ON user_quotas (period_end, user_id);

-- Who looked after this database when, and with what result: the watchers of one database take turns by it.
CREATE TABLE maintenance_runs (
    -- Nobody's, as with events of the service itself.
    user_id     uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    id          uuid        NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    -- 'running' of a process that was killed stays so.
    outcome     text        NOT NULL DEFAULT 'running',
    -- Whether it was to do every job: only such a run counts as the day's.
    whole       boolean     NOT NULL,
    problem     text,
    -- What each job did, in their order.
    jobs        jsonb       NOT NULL DEFAULT '[]',
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, id),
    CONSTRAINT maintenance_runs_outcome CHECK (outcome IN ('running', 'done', 'stopped', 'failed')),
    CONSTRAINT maintenance_runs_ended CHECK ((ended_at IS NULL) = (outcome = 'running')),
    CONSTRAINT maintenance_runs_jobs CHECK (jsonb_typeof(jobs) = 'array')
);
ALTER TABLE maintenance_runs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON maintenance_runs
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

-- Begin the run of the day; false: it is not due. It is not when one was done less than p_every ago, when one failed less
-- than p_retry ago, and while one runs, for p_dead at most: by then its process was killed.
CREATE FUNCTION maintenance_begin(p_id uuid, p_every interval, p_retry interval, p_dead interval, p_attribution jsonb)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    at timestamptz;
BEGIN
    -- Whoever asks at the same moment has to see what this one says. No tenant may lock this table.
    LOCK TABLE maintenance_runs IN SHARE ROW EXCLUSIVE MODE;
    at := clock_timestamp();
    IF EXISTS (
        SELECT FROM maintenance_runs AS r
        WHERE r.whole AND (
            r.outcome = 'done' AND r.started_at > at - p_every
            OR r.outcome = 'failed' AND r.started_at > at - p_retry
            OR r.outcome = 'running' AND r.started_at > at - p_dead
        )
    ) THEN
        RETURN false;
    END IF;
    INSERT INTO maintenance_runs (id, started_at, whole, attribution) VALUES (p_id, at, true, p_attribution);
    RETURN true;
END
$$;

-- Close the periods of these users, if they have ended. Who is locked is busy with a call that does it.
CREATE FUNCTION maintenance_close_periods(p_users uuid[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    due uuid;
    closed integer := 0;
BEGIN
    FOREACH due IN ARRAY p_users LOOP
        PERFORM FROM user_quotas AS q
        WHERE q.user_id = due AND q.period_end <= clock_timestamp() FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            PERFORM quota_lock(due);
            closed := closed + 1;
        END IF;
    END LOOP;
    RETURN closed;
END
$$;

-- End the expired holds of these users as their own next refusal would: tokens and cost are charged, slots come free. Of
-- one user about p_limit at most, the earliest first. Returns how many ended, and who was busy: with p_wait nobody is.
CREATE FUNCTION maintenance_reclaim(
    p_users uuid[], p_limit integer, p_wait boolean, OUT ended bigint, OUT busy uuid[]
)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    owner uuid;
    q user_quotas;
    at timestamptz;
    before bigint;
BEGIN
    ended := 0;
    busy := '{}';
    FOREACH owner IN ARRAY p_users LOOP
        IF p_wait THEN
            PERFORM FROM user_quotas AS u WHERE u.user_id = owner FOR UPDATE;
            -- Deleted meanwhile.
            CONTINUE WHEN NOT FOUND;
        ELSE
            PERFORM FROM user_quotas AS u WHERE u.user_id = owner FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                busy := busy || owner;
                CONTINUE;
            END IF;
        END IF;
        q := quota_lock(owner);
        at := clock_timestamp();
        at := least(at, (
            SELECT r.expires_at FROM quota_reservations AS r WHERE r.user_id = owner AND r.expires_at <= at
            ORDER BY r.expires_at OFFSET p_limit - 1 LIMIT 1
        ));
        before := (SELECT count(*) FROM quota_reservations AS r WHERE r.user_id = owner AND r.expires_at <= at);
        IF before > 0 THEN
            PERFORM quota_reclaim(q, at);
            ended := ended + before;
        END IF;
    END LOOP;
END
$$;

-- Whether nothing of a name is left: its user, live preview or project. This and its like are asked for every row, so they
-- have no search_path of their own: that takes longer than the rest.
CREATE FUNCTION claim_is_lost(p_kind text, p_value text, p_user uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- One after the other: in a CASE each of them would be made ready every time.
    IF p_kind = 'email' THEN
        RETURN NOT EXISTS (SELECT FROM users AS u WHERE u.id = p_user);
    ELSIF p_kind = 'preview_host' THEN
        RETURN NOT EXISTS (
            SELECT FROM previews AS v
            WHERE v.user_id = p_user AND v.host = p_value AND v.status IN ('creating', 'running', 'sleeping')
        );
    ELSIF p_kind = 'project_session' THEN
        RETURN NOT EXISTS (SELECT FROM projects AS p WHERE p.user_id = p_user AND p.session_id = p_value);
    END IF;
    RETURN false;
END
$$;

CREATE FUNCTION port_is_lost(p_user uuid, p_preview uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM previews AS v
        WHERE v.user_id = p_user AND v.id = p_preview AND v.status IN ('creating', 'running', 'sleeping')
    );
END
$$;

-- Free these names, those of them of which still nothing is left. Whoever takes a name over holds its row, see previews.
CREATE FUNCTION maintenance_free_claims(p_kinds text[], p_values text[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    candidate record;
    owner uuid;
    freed integer := 0;
BEGIN
    FOR candidate IN SELECT c.kind, c.value FROM unnest(p_kinds, p_values) AS c (kind, value) LOOP
        SELECT c.user_id INTO owner FROM claims AS c
        WHERE c.value = candidate.value AND c.kind = candidate.kind FOR UPDATE SKIP LOCKED;
        IF FOUND AND claim_is_lost(candidate.kind, candidate.value, owner) THEN
            DELETE FROM claims AS c WHERE c.value = candidate.value AND c.kind = candidate.kind;
            freed := freed + 1;
        END IF;
    END LOOP;
    RETURN freed;
END
$$;

CREATE FUNCTION maintenance_free_ports(p_machines text[], p_ports integer[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    candidate record;
    taken preview_ports;
    freed integer := 0;
BEGIN
    FOR candidate IN SELECT c.machine, c.port FROM unnest(p_machines, p_ports) AS c (machine, port) LOOP
        SELECT p.* INTO taken FROM preview_ports AS p
        WHERE p.machine = candidate.machine AND p.port = candidate.port FOR UPDATE SKIP LOCKED;
        IF FOUND AND port_is_lost(taken.user_id, taken.preview_id) THEN
            DELETE FROM preview_ports AS p WHERE p.machine = candidate.machine AND p.port = candidate.port;
            freed := freed + 1;
        END IF;
    END LOOP;
    RETURN freed;
END
$$;

-- Whether a version has this content, or another content is made from it.
CREATE FUNCTION memory_blob_is_needed(p_user uuid, p_sha256 bytea) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM memory_snapshots AS s WHERE s.user_id = p_user AND s.sha256 = p_sha256)
        OR EXISTS (SELECT FROM memory_blobs AS b WHERE b.user_id = p_user AND b.base_sha256 = p_sha256);
END
$$;

-- Delete those of these contents that nothing needs: what each took, and what it was made from, which may be next.
--
-- Why nothing is lost. A put locks the row of a content that is stored already (ON CONFLICT DO UPDATE does so, whatever
-- its condition says) until it is committed: either it has the row now, and it is passed over, or it is over, and what it
-- made is seen here, or it waits for this and stores the content anew. What a new content is made from is the newest
-- version's content, and that version cannot be deleted. And were all of this wrong, the foreign keys would refuse the
-- deletion when it is committed.
CREATE FUNCTION maintenance_collect(p_users uuid[], p_sha256s bytea[])
RETURNS TABLE (owner uuid, base bytea, size bigint)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    candidate record;
BEGIN
    FOR candidate IN SELECT c.user_id, c.sha256 FROM unnest(p_users, p_sha256s) AS c (user_id, sha256) LOOP
        PERFORM FROM memory_blobs AS b
        WHERE b.user_id = candidate.user_id AND b.sha256 = candidate.sha256 FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        CONTINUE WHEN memory_blob_is_needed(candidate.user_id, candidate.sha256);
        DELETE FROM memory_blobs AS b WHERE b.user_id = candidate.user_id AND b.sha256 = candidate.sha256
        RETURNING b.user_id, b.base_sha256, coalesce(octet_length(b.data), 0) INTO owner, base, size;
        RETURN NEXT;
    END LOOP;
END
$$;
