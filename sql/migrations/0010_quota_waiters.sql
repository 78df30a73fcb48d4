-- Quotas: calls that wait for their turn instead of being refused (0005_quotas.sql says why the counters are safe).
--
-- First come, first served among the waiting calls of a user, over all processes. A call that does not wait never
-- queues: it takes what is free at the moment. Every look at the queue happens under the lock of the user's row.
--
-- A waiting call has a row here, and renews it whenever it asks again. A process that was killed does not: its row ends
-- 15 seconds after its last renewal, and then the calls behind it move up. The same is true of rows in a dump. A dead
-- row stands in nobody's way, and the user's next waiting call deletes it.
--
-- user_quotas.waiting_until is the latest end of these rows. Steps that give something back have locked that row
-- anyway. Only if somebody may wait do they send a notification. Its channel has the user's id in its name, which no
-- other tenant knows, and its payload is the id of the first call in the queue. So only one call asks again.

CREATE TABLE quota_waiters (
    user_id     uuid        NOT NULL,
    -- The id of the reservation that the call asks for.
    id          uuid        NOT NULL,
    -- The order of arrival.
    number      bigint      NOT NULL,
    waits_since timestamptz NOT NULL,
    alive_until timestamptz NOT NULL,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE quota_waiters IS 'Calls that wait for quota, in the order of their numbers.';

-- Notify the first waiting call of a user; p_until is user_quotas.waiting_until.
CREATE FUNCTION quota_wake(p_user uuid, p_until timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    first_id uuid;
BEGIN
    IF p_until > clock_timestamp() THEN
        SELECT w.id INTO first_id FROM quota_waiters AS w
        WHERE w.user_id = p_user AND w.alive_until > clock_timestamp() ORDER BY w.number LIMIT 1;
        IF FOUND THEN
            PERFORM pg_notify(p_user || ':atlas_quota', first_id::text);
        END IF;
    END IF;
END
$$;

-- A trigger, so that a limit that somebody changes in psql ends a wait too.
CREATE FUNCTION wake_quota_waiter() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM quota_wake(NEW.user_id, NEW.waiting_until);
    RETURN NULL;
END
$$;
CREATE TRIGGER wake_quota_waiter
AFTER UPDATE OF tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit ON user_quotas
FOR EACH ROW WHEN (NEW.waiting_until IS NOT NULL) EXECUTE FUNCTION wake_quota_waiter();

-- Leave the queue, and notify the call that is first now. False: the call did not wait.
CREATE FUNCTION quota_leave(p_user uuid, p_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    until timestamptz;
BEGIN
    PERFORM check_tenant(p_user);
    PERFORM FROM user_quotas AS u WHERE u.user_id = p_user FOR NO KEY UPDATE;
    DELETE FROM quota_waiters AS w WHERE w.user_id = p_user AND w.id = p_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT max(w.alive_until) INTO until FROM quota_waiters AS w WHERE w.user_id = p_user;
    UPDATE user_quotas AS u SET waiting_until = until WHERE u.user_id = p_user;
    PERFORM quota_wake(p_user, until);
    RETURN true;
END
$$;

-- Return the refusal that no wait of p_wait can change; NULL: there is none. No wait helps a call that is larger than a
-- whole limit. Builds come back at midnight, and requests when they leave the hour or when a lease ends. Anything else
-- may come back at any moment, tokens and cost by a top-up.
CREATE FUNCTION quota_final_refusal(
    q user_quotas, p_at timestamptz, p_tokens bigint, p_cost numeric, p_slots integer, p_requests integer,
    p_builds integer, p_wait interval
) RETURNS quota_decision
LANGUAGE plpgsql AS $$
DECLARE
    d quota_decision;
    ring quota_ring := quota_ring_take(
        q.request_cells, q.request_minute, p_at, p_requests, q.requests_limit - q.requests_held);
    idle quota_ring;
    today date := (p_at AT TIME ZONE q.time_zone)::date;
BEGIN
    idle.fits := true;
    IF q.build_day IS NULL OR q.build_day < today THEN
        q.build_day := today;
        q.builds_used := 0;
    END IF;
    FOREACH d IN ARRAY ARRAY[
        quota_decide(q, idle, p_at, p_tokens, 0, 0, 0, 0), quota_decide(q, idle, p_at, 0, p_cost, 0, 0, 0),
        quota_decide(q, idle, p_at, 0, 0, 0, 0, p_builds), quota_decide(q, idle, p_at, 0, 0, p_slots, 0, 0),
        quota_decide(q, ring, p_at, 0, 0, 0, p_requests, 0)
    ] LOOP
        IF NOT d.granted AND (
            CASE d.dimension WHEN 'tokens' THEN p_tokens WHEN 'cost' THEN p_cost WHEN 'builds' THEN p_builds
                             WHEN 'containers' THEN p_slots ELSE p_requests END > d.bound
            OR d.resets_at > p_at + p_wait
            AND (d.dimension = 'builds' OR d.dimension = 'requests' AND q.requests_held = 0)
        ) THEN
            RETURN d;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Reserve if it is the call's turn, else wait in the queue, for p_wait more at most. The call asks again when it is
-- notified, and at the latest when the time `lasts` of the answer is over: then something may be free, or the call
-- ahead counts as dead. State 'queued': the call waits; if no others are ahead, the answer has the refusal too. State
-- 'refused': it does not wait, because no wait can help, or because p_wait is 0. With that, a waiting call asks a last
-- time: it gives up its place, and gets what a call that does not wait would get.
CREATE FUNCTION quota_wait(
    p_user uuid, p_id uuid, p_tokens bigint, p_min_tokens bigint, p_cost numeric, p_slots integer,
    p_requests integer, p_builds integer, p_ttl interval, p_holder text, p_meta jsonb, p_wait interval
) RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    d quota_decision;
    final quota_decision;
    at timestamptz;
    until timestamptz;
    turn bigint;
    ahead timestamptz;
BEGIN
    PERFORM check_tenant(p_user);
    IF p_id IS NULL OR p_wait IS NULL OR NOT p_wait BETWEEN interval '0' AND interval '24 hours' THEN
        RAISE EXCEPTION 'wait must be from 0 to 24 hours, not %', p_wait USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Mostly nobody waits. If somebody begins to at this moment, either may be the first.
    IF p_wait > interval '0' AND NOT EXISTS (
        SELECT FROM user_quotas AS u WHERE u.user_id = p_user AND u.waiting_until > clock_timestamp()
    ) THEN
        d := quota_reserve(
            p_user, p_id, p_tokens, p_min_tokens, p_cost, p_slots, p_requests, p_builds, p_ttl, p_holder, p_meta);
        IF d.state <> 'refused' THEN
            RETURN d;
        END IF;
    END IF;

    q := quota_lock(p_user);
    at := clock_timestamp();
    d := NULL;
    DELETE FROM quota_waiters AS w WHERE w.user_id = p_user AND w.alive_until <= at;
    SELECT w.number INTO turn FROM quota_waiters AS w WHERE w.user_id = p_user AND w.id = p_id;
    -- The call just ahead: if all watched the first one, all would ask at once when its time is over.
    SELECT w.alive_until INTO ahead FROM quota_waiters AS w
    WHERE w.user_id = p_user AND w.id <> p_id AND (turn IS NULL OR w.number < turn) ORDER BY w.number DESC LIMIT 1;
    -- The id of an earlier call gets its answer at once.
    IF ahead IS NULL OR p_wait = interval '0'
        OR EXISTS (SELECT FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id)
        OR EXISTS (SELECT FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id) THEN
        d := quota_reserve(
            p_user, p_id, p_tokens, p_min_tokens, p_cost, p_slots, p_requests, p_builds, p_ttl, p_holder, p_meta);
        IF d.state <> 'refused' OR p_wait = interval '0' THEN
            PERFORM quota_leave(p_user, p_id);
            RETURN d;
        END IF;
        -- It may have ended expired reservations.
        SELECT * INTO q FROM user_quotas AS u WHERE u.user_id = p_user;
    END IF;
    final := quota_final_refusal(
        q, at, coalesce(p_min_tokens, p_tokens, 0), coalesce(p_cost, 0), coalesce(p_slots, 0), coalesce(p_requests, 0),
        coalesce(p_builds, 0), p_wait);
    IF final.state = 'refused' THEN
        PERFORM quota_leave(p_user, p_id);
        RETURN final;
    END IF;
    d.granted := false;
    d.state := 'queued';
    d.repeated := false;
    d.lasts := coalesce(ahead, d.resets_at) - at;
    until := at + least(p_wait, interval '15 s');
    INSERT INTO quota_waiters (user_id, id, number, waits_since, alive_until)
    SELECT p_user, p_id, coalesce(max(w.number), 0) + 1, at, until FROM quota_waiters AS w WHERE w.user_id = p_user
    -- Two calls with one idempotency key share a place: the longer wait counts.
    ON CONFLICT (user_id, id) DO UPDATE SET alive_until = greatest(quota_waiters.alive_until, excluded.alive_until);
    UPDATE user_quotas AS u SET waiting_until = greatest(u.waiting_until, until) WHERE u.user_id = p_user;
    -- Do not wait for the disk: after a crash of the server the call queues again at its next renewal.
    SET LOCAL synchronous_commit = off;
    RETURN d;
END
$$;

-- The memory limit. It is soft for almost everybody, so a put reads one flag of the user's row and goes on. If it is
-- hard, the puts of one user wait for each other: two contents that fit one by one might not fit together.

-- Lock the memory limit of a user, if it is hard, until the end of the transaction; return whether it is hard. Call the
-- function before any lock of a file, so that a put and a longer transaction cannot wait for each other. The function
-- locks the user's row. An advisory lock would not do, because any tenant can take one in another tenant's name.
CREATE FUNCTION memory_lock_limit(p_user uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard) THEN
        PERFORM FROM users AS u WHERE u.id = p_user FOR NO KEY UPDATE;
        RETURN true;
    END IF;
    RETURN false;
END
$$;

-- Return whether a content fits into the user's limit. NULL as data always fits, because then only the hash is kept.
-- The function is VOLATILE, because it must see the rows that were committed before it got the lock.
CREATE FUNCTION memory_fits(p_user uuid, p_sha256 bytea, p_data bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    room bigint;
BEGIN
    IF p_data IS NULL OR NOT memory_lock_limit(p_user) THEN
        RETURN true;
    END IF;
    -- NULL is unlimited.
    room := (SELECT q.memory_limit FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard)
            - (SELECT coalesce(sum(octet_length(b.data)), 0) FROM memory_blobs AS b WHERE b.user_id = p_user);
    RETURN room IS NULL OR room >= octet_length(p_data)
        -- A content that is stored already takes nothing.
        OR EXISTS (
            SELECT FROM memory_blobs AS b WHERE b.user_id = p_user AND b.sha256 = p_sha256 AND b.data IS NOT NULL
        );
END
$$;
