-- Quotas: charge what was used, give back, extend (0005_quotas.sql says why it is safe).

CREATE TYPE quota_settlement AS (
    -- 'settled'; 'corrected': after it had expired or been released; 'released'. Nothing was changed: 'repeated', an
    -- earlier call did it; 'conflict', an earlier call used this id with other amounts; 'unknown', it was never granted.
    outcome text,
    tokens bigint, cost numeric,
    -- More was used than was reserved. It is charged all the same, and may exceed the limit.
    overrun boolean
);

CREATE FUNCTION quota_check_ttl(p_ttl interval, p_holder text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_ttl IS NULL OR NOT (p_ttl > interval '0' AND p_ttl <= interval '24 hours') THEN
        RAISE EXCEPTION 'ttl must be more than 0 and at most 24 hours, not %', p_ttl
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF char_length(p_holder) > 200 THEN
        RAISE EXCEPTION 'holder must have at most 200 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

-- Charge what was used in place of what was reserved. NULL is unknown, not 0: then the progress of a stream is charged,
-- and the whole reservation if there was none. p_requests: how many requests of a lease were used; NULL: all of them.
CREATE FUNCTION quota_settle(
    p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_requests integer, p_meta jsonb
) RETURNS quota_settlement
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    hold quota_reservations;
    done record;
    s quota_settlement;
    delta_tokens bigint;
    delta_cost numeric;
    delta_requests integer := 0;
    waiting_until timestamptz;
    at timestamptz := clock_timestamp();
BEGIN
    PERFORM check_tenant(p_user);
    IF p_id IS NULL OR p_meta IS NOT NULL OR NOT (p_tokens BETWEEN 0 AND 1000000000000)
        OR NOT (p_cost BETWEEN 0 AND 1000000000) THEN
        PERFORM quota_check_amounts(p_id, p_tokens, p_cost, p_meta);
    END IF;
    IF NOT p_requests BETWEEN 0 AND 1000000 THEN
        RAISE EXCEPTION 'requests must be from 0 to 1000000, not %', p_requests
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- The short cut: the reservation was enough, its period is the open one, no threshold is reached. The reservation
    -- is read before the lock, so it counts only if it is still the same under the lock.
    SELECT * INTO hold FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF FOUND AND NOT hold.leased THEN
        s.tokens := coalesce(p_tokens, nullif(hold.tokens_progressed, 0), hold.tokens);
        s.cost := round(coalesce(p_cost, nullif(hold.cost_progressed, 0), hold.cost), 9);
        UPDATE user_quotas AS u
        SET tokens_used = u.tokens_used + s.tokens, tokens_held = u.tokens_held - hold.tokens,
            cost_used = u.cost_used + s.cost, cost_held = u.cost_held - hold.cost,
            containers_used = u.containers_used - hold.slots
        WHERE s.tokens <= hold.tokens AND s.cost <= hold.cost
            AND u.user_id = p_user AND u.period_start = hold.period_start
            -- Another call may have ended the reservation in the meantime.
            AND u.tokens_held >= hold.tokens AND u.cost_held >= hold.cost AND u.containers_used >= hold.slots
            -- Certainly below the next threshold: the long way computes it exactly.
            AND (u.tokens_limit IS NULL OR u.tokens_level = 100 OR u.tokens_used + s.tokens
                 < u.tokens_limit / 100 * CASE WHEN u.tokens_level = 0 THEN 50 WHEN u.tokens_level = 50 THEN 80 ELSE 100 END)
            AND (u.cost_limit IS NULL OR u.cost_level = 100 OR u.cost_used + s.cost
                 < u.cost_limit * CASE WHEN u.cost_level = 0 THEN 0.5 WHEN u.cost_level = 50 THEN 0.8 ELSE 1 END)
        RETURNING u.waiting_until INTO waiting_until;
        IF FOUND THEN
            DELETE FROM quota_reservations AS r
            WHERE r.user_id = p_user AND r.id = p_id
                AND r.tokens = hold.tokens AND r.cost = hold.cost
                AND r.tokens_progressed = hold.tokens_progressed AND r.cost_progressed = hold.cost_progressed;
            IF FOUND THEN
                INSERT INTO usage_ledger
                    (id, user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens,
                     granted_cost, asked)
                VALUES
                    -- The id of a client is time-ordered, which a random one is not.
                    (p_id, p_user, 'tokens', s.tokens, s.cost, hold.meta || coalesce(p_meta, '{}'), at,
                     hold.period_start, p_id, hold.tokens, hold.cost, hold.asked);
                -- Do not wait for the disk: see below. An expression is faster than the statement.
                lock_timeout := set_config('synchronous_commit', 'off', true);
                IF waiting_until > at AND (s.tokens < hold.tokens OR s.cost < hold.cost OR hold.slots > 0) THEN
                    PERFORM quota_wake(p_user, waiting_until);
                END IF;
                s.outcome := 'settled';
                s.overrun := false;
                RETURN s;
            END IF;
            UPDATE user_quotas AS u
            SET tokens_used = u.tokens_used - s.tokens, tokens_held = u.tokens_held + hold.tokens,
                cost_used = u.cost_used - s.cost, cost_held = u.cost_held + hold.cost,
                containers_used = u.containers_used + hold.slots
            WHERE u.user_id = p_user;
        END IF;
    END IF;

    q := quota_lock(p_user);
    hold := NULL;
    DELETE FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id RETURNING * INTO hold;
    IF FOUND THEN
        s.outcome := 'settled';
        s.tokens := coalesce(p_tokens, nullif(hold.tokens_progressed, 0), hold.tokens);
        s.cost := round(coalesce(p_cost, nullif(hold.cost_progressed, 0), hold.cost), 9);
        s.overrun := s.tokens > hold.tokens OR s.cost > hold.cost
            OR hold.leased AND coalesce(p_requests > hold.requests, false);
        delta_tokens := s.tokens;
        delta_cost := s.cost;
    ELSE
        SELECT bool_or(l.kind = 'tokens') AS settled, sum(l.amount)::bigint AS tokens, sum(l.cost) AS cost,
               min(l.period_start) AS period_start, (array_agg(l.meta ORDER BY l.created_at))[1] AS meta,
               max(l.granted_tokens) AS granted_tokens, max(l.granted_cost) AS granted_cost, max(l.counted_requests) AS requests,
               max(l.counted_at) AS counted_at, max(l.asked) AS asked, count(*) AS entries
        INTO done
        FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id;
        IF done.entries = 0 THEN
            RETURN ('unknown', 0, 0, false)::quota_settlement;
        END IF;
        -- Without amounts of its own a late settlement has nothing to correct. What was refunded stays refunded: the
        -- charge does not fall below it.
        SELECT greatest(coalesce(p_tokens, done.tokens), -sum(l.amount)),
               greatest(round(coalesce(p_cost, done.cost), 9), -sum(l.cost)) INTO s.tokens, s.cost
        FROM usage_ledger AS l WHERE l.user_id = p_user AND l.corrects = p_id;
        IF done.settled THEN
            RETURN ('repeated', done.tokens, done.cost,
                    done.tokens > done.granted_tokens OR done.cost > done.granted_cost)::quota_settlement;
        END IF;
        s.outcome := 'corrected';
        s.overrun := s.tokens > done.granted_tokens OR s.cost > done.granted_cost;
        delta_tokens := s.tokens - done.tokens;
        delta_cost := s.cost - done.cost;
        hold.period_start := done.period_start;
        hold.tokens := done.granted_tokens;
        hold.cost := done.granted_cost;
        hold.meta := done.meta;
        hold.asked := done.asked;
        hold.requests := 0;
        hold.expires_at := done.counted_at;
        delta_requests := coalesce(p_requests - done.requests, 0);
    END IF;
    INSERT INTO usage_ledger
        (user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost,
         asked)
    VALUES (p_user, 'tokens', delta_tokens, delta_cost,
            coalesce(hold.meta, '{}') || coalesce(p_meta, '{}')
            || CASE WHEN s.overrun THEN '{"overrun": true}'::jsonb ELSE '{}' END,
            clock_timestamp(), hold.period_start, p_id, hold.tokens, hold.cost, hold.asked);
    PERFORM quota_post(
        q, hold, delta_tokens, delta_cost,
        CASE WHEN hold.leased THEN coalesce(p_requests, hold.requests) ELSE delta_requests END), quota_wake(p_user, q.waiting_until);
    IF s.outcome = 'settled' AND NOT s.overrun THEN
        -- Do not wait for the disk: if a crash of the server loses the settlement, the reservation is still there,
        -- which is no less, and its expiry charges it. A SET clause of the function would end before the commit.
        SET LOCAL synchronous_commit = off;
    END IF;
    RETURN s;
END
$$;

-- Give a reservation back: the call did not happen. What a stream had already used is charged. After the expiry it
-- corrects what that charged. A call that waits leaves the queue.
CREATE FUNCTION quota_release(p_user uuid, p_id uuid) RETURNS quota_settlement
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    hold quota_reservations;
    done record;
BEGIN
    PERFORM check_tenant(p_user);
    PERFORM quota_check_amounts(p_id, 0, 0, NULL);
    q := quota_lock(p_user);
    PERFORM quota_leave(p_user, p_id) WHERE q.waiting_until IS NOT NULL;
    -- quota_progress locks only the reservation: this lock waits for what it has just reported.
    SELECT * INTO hold FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        SELECT count(*) AS entries, bool_and(l.kind = 'released') AS released,
               coalesce(max(l.progressed_tokens), 0) AS tokens, coalesce(max(l.progressed_cost), 0) AS cost
        INTO done
        FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id;
        IF done.entries = 0 OR done.released THEN
            RETURN (CASE WHEN done.released THEN 'repeated' ELSE 'unknown' END, 0, 0, false)::quota_settlement;
        END IF;
        RETURN quota_settle(
            p_user, p_id, done.tokens, done.cost,
            CASE WHEN done.tokens = 0 AND done.cost = 0 THEN 0 END, NULL);
    ELSIF hold.tokens_progressed > 0 OR hold.cost_progressed > 0 THEN
        RETURN quota_settle(p_user, p_id, hold.tokens_progressed, hold.cost_progressed, NULL, NULL);
    END IF;
    DELETE FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    -- An entry of amount 0 keeps the id from being granted a second time.
    INSERT INTO usage_ledger
        (user_id, kind, amount, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost,
         counted_requests, asked)
    VALUES
        (p_user, 'released', 0, hold.meta, clock_timestamp(), hold.period_start, p_id, hold.tokens, hold.cost,
         CASE WHEN hold.leased THEN 0 END, hold.asked);
    PERFORM quota_post(q, hold, 0, 0, 0), quota_wake(p_user, q.waiting_until);
    RETURN ('released', 0, 0, false)::quota_settlement;
END
$$;

-- Return the counters for the decision on more for a reservation. A reservation cannot wait for itself, so count it as
-- used.
CREATE FUNCTION quota_excluding(q user_quotas, hold quota_reservations) RETURNS user_quotas
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF hold.period_start = q.period_start THEN
        q.tokens_used := q.tokens_used + least(hold.tokens, q.tokens_held);
        q.tokens_held := q.tokens_held - least(hold.tokens, q.tokens_held);
        q.cost_used := q.cost_used + least(hold.cost, q.cost_held);
        q.cost_held := q.cost_held - least(hold.cost, q.cost_held);
    END IF;
    RETURN q;
END
$$;

-- Reserve more for a reservation, or for longer: p_ttl from now on, never less than it had. All or nothing. Not
-- idempotent: a repeated call holds more than it needs until the settlement.
CREATE FUNCTION quota_extend(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_ttl interval)
RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    hold quota_reservations;
    d quota_decision;
    idle quota_ring;
    at timestamptz;
    until timestamptz;
    more_tokens bigint := coalesce(p_tokens, 0);
    more_cost numeric := round(ceil(coalesce(p_cost, 0) * 1000000000) / 1000000000, 9);
BEGIN
    PERFORM check_tenant(p_user);
    PERFORM quota_check_amounts(p_id, more_tokens, more_cost, NULL);
    IF p_ttl IS NOT NULL THEN
        PERFORM quota_check_ttl(p_ttl, NULL);
    END IF;
    q := quota_lock(p_user);
    at := clock_timestamp();
    SELECT * INTO hold FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF NOT FOUND THEN
        d := quota_find(p_user, p_id, NULL);
        d.granted := false;
        d.state := coalesce(d.state, 'unknown');
        d.repeated := false;
        RETURN d;
    END IF;
    idle.fits := true;
    -- An expired reservation stays until somebody else needs its place: then quota_reclaim ends it.
    d := quota_decide(q, idle, at, more_tokens, more_cost, 0, 0, 0);
    IF NOT d.granted THEN
        q := quota_reclaim(q, at);
        d := quota_decide(quota_excluding(q, hold), idle, at, more_tokens, more_cost, 0, 0, 0);
        SELECT * INTO hold FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
        IF NOT FOUND THEN
            d := NULL;
            d.granted := false;
            d.state := 'expired';
            d.repeated := false;
        END IF;
    END IF;
    IF d.granted AND hold.period_start <> q.period_start AND (more_tokens > 0 OR more_cost > 0) THEN
        -- The period that pays for it is over.
        d.granted := false;
        d.state := 'refused';
        d.dimension := CASE WHEN more_tokens > 0 THEN 'tokens' ELSE 'cost' END;
        d.remaining := 0;
    END IF;
    IF NOT d.granted THEN
        -- The next period does not pay for it.
        d.retry_after := NULL;
        RETURN d;
    END IF;
    IF more_tokens > 0 OR more_cost > 0 THEN
        UPDATE user_quotas AS u SET tokens_held = u.tokens_held + more_tokens, cost_held = u.cost_held + more_cost
        WHERE u.user_id = p_user;
    END IF;
    -- A lease ends with its period, as it was granted. greatest() ignores NULL, and so would least().
    until := CASE WHEN hold.leased AND at + p_ttl > q.period_end THEN q.period_end ELSE at + p_ttl END;
    UPDATE quota_reservations AS r
    SET tokens = r.tokens + more_tokens, cost = r.cost + more_cost, expires_at = greatest(r.expires_at, until)
    WHERE r.user_id = p_user AND r.id = p_id
    RETURNING r.tokens, r.cost, r.expires_at, r.epoch INTO d.tokens, d.cost, d.expires_at, d.epoch;
    d.over := hold.leased AND (
        hold.tokens > 0 AND q.tokens_used + q.tokens_held > q.tokens_limit
        OR hold.cost > 0 AND q.cost_used + q.cost_held > q.cost_limit
        OR hold.requests > 0 AND q.requests_used::bigint + q.requests_held > q.requests_limit) IS TRUE;
    RETURN d;
END
$$;

-- Note how much of a reservation is used so far, as totals, which never go down. False: there is no such reservation.
CREATE FUNCTION quota_progress(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
BEGIN
    PERFORM check_tenant(p_user);
    PERFORM quota_check_amounts(p_id, p_tokens, p_cost, NULL);
    -- It locks only the reservation, and nothing after it, so the order "user, then reservation" is kept.
    UPDATE quota_reservations AS r
    SET tokens_progressed = greatest(r.tokens_progressed, p_tokens),
        cost_progressed = greatest(r.cost_progressed, round(p_cost, 9))
    WHERE r.user_id = p_user AND r.id = p_id;
    RETURN FOUND;
END
$$;

-- Charge what was used without a reservation. It has happened, so it is never refused; the limit refuses afterwards.
CREATE FUNCTION quota_add(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_meta jsonb)
RETURNS quota_settlement
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    hold quota_reservations;
    known quota_decision;
    tokens bigint := coalesce(p_tokens, 0);
    cost numeric := round(coalesce(p_cost, 0), 9);
BEGIN
    PERFORM check_tenant(p_user);
    PERFORM quota_check_amounts(p_id, tokens, cost, p_meta);
    q := quota_lock(p_user);
    known := quota_find(p_user, p_id, NULL);
    IF known.state = 'held' THEN
        RAISE EXCEPTION 'reservation % is still held: settle it with what was used', p_id
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'reservation_id';
    ELSIF known.repeated THEN
        -- What a settlement with this id has charged is not charged again.
        SELECT sum(l.amount), sum(l.cost) INTO known.tokens, known.cost
        FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id;
        RETURN (CASE WHEN known.tokens = tokens AND known.cost = cost THEN 'repeated' ELSE 'conflict' END,
                known.tokens, known.cost, false)::quota_settlement;
    END IF;
    INSERT INTO usage_ledger
        (user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost,
         asked)
    VALUES
        (p_user, 'tokens', tokens, cost, coalesce(p_meta, '{}'), clock_timestamp(), q.period_start, p_id, tokens, cost,
         concat_ws(' ', 'add', tokens, cost));
    hold.period_start := q.period_start;
    PERFORM quota_post(q, hold, tokens, cost, 0);
    RETURN ('settled', tokens, cost, false)::quota_settlement;
END
$$;
