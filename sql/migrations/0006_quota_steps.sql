-- Quotas: arithmetic, and the internal steps of the SQL API. Each step but quota_lock relies on the lock of the user's
-- row.

-- Return minutes since 1970. Through UTC, because EXTRACT from a timestamptz may depend on the session.
CREATE FUNCTION quota_minute(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT floor(EXTRACT(epoch FROM p_at AT TIME ZONE 'UTC') / 60)::bigint
$$;

CREATE TYPE quota_ring AS (
    fits boolean, cells integer[], newest bigint, used integer,
    -- When enough has left the hour; NULL: it fits, or it never will.
    frees_at timestamptz
);

-- Turn the cells of the last hour to a moment, and take n more if the limit allows. When a clock goes backwards the
-- newest cell stays: then a request is forgotten later than it should be, never earlier.
CREATE FUNCTION quota_ring_take(p_cells integer[], p_newest bigint, p_at timestamptz, p_n integer, p_limit integer)
RETURNS quota_ring
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    ring quota_ring;
    minute bigint := quota_minute(p_at);
    turned integer := least(greatest(minute - p_newest, 0), 61);
    excess bigint;
BEGIN
    ring.newest := greatest(minute, p_newest);
    ring.cells := CASE WHEN turned = 0 THEN p_cells
                       ELSE p_cells[turned + 1 : 61] || array_fill(0, ARRAY[turned]) END;
    ring.used := (SELECT sum(c) FROM unnest(ring.cells) AS c);
    excess := ring.used::bigint + p_n - p_limit;
    ring.fits := p_n = 0 OR p_limit IS NULL OR excess <= 0;
    IF ring.fits THEN
        ring.cells[61] := ring.cells[61] + p_n;
        ring.used := ring.used + p_n;
    ELSIF p_n <= p_limit THEN
        FOR i IN 1 .. 61 LOOP
            excess := excess - ring.cells[i];
            IF excess <= 0 THEN
                -- Cell i is of minute newest - 61 + i, and leaves the hour 61 minutes after that.
                ring.frees_at := to_timestamp((ring.newest + i) * 60);
                EXIT;
            END IF;
        END LOOP;
    END IF;
    RETURN ring;
END
$$;

-- Add to the cells of earlier moments, or subtract what was added there. Moments of more than an hour ago have no cell.
CREATE FUNCTION quota_ring_add(ring quota_ring, p_at timestamptz[], p_n integer[]) RETURNS quota_ring
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    cell bigint;
BEGIN
    FOR i IN 1 .. coalesce(array_length(p_at, 1), 0) LOOP
        cell := 61 - greatest(ring.newest - quota_minute(p_at[i]), 0);
        IF cell > 0 THEN
            ring.cells[cell] := ring.cells[cell] + p_n[i];
            ring.used := ring.used + p_n[i];
        END IF;
    END LOOP;
    RETURN ring;
END
$$;

-- End this user's expired reservations: charge tokens and cost, free the slots. A lease made its requests before it
-- expired, so they count in that minute.
CREATE FUNCTION quota_reclaim(q user_quotas, p_at timestamptz) RETURNS user_quotas
LANGUAGE plpgsql AS $$
DECLARE
    hold quota_reservations;
    ring quota_ring := quota_ring_take(q.request_cells, q.request_minute, p_at, 0, NULL);
BEGIN
    FOR hold IN
        DELETE FROM quota_reservations AS r WHERE r.user_id = q.user_id AND r.expires_at <= p_at RETURNING r.*
    LOOP
        INSERT INTO usage_ledger
            (user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost,
             progressed_tokens, progressed_cost, counted_requests, counted_at)
        VALUES
            (q.user_id, 'expired', hold.tokens, hold.cost, hold.meta || jsonb_build_object('holder', hold.holder), p_at,
             hold.period_start, hold.id, hold.tokens, hold.cost, hold.tokens_progressed, hold.cost_progressed,
             CASE WHEN hold.leased THEN hold.requests END, CASE WHEN hold.leased THEN hold.expires_at END);
        IF hold.period_start = q.period_start THEN
            q.tokens_held := q.tokens_held - hold.tokens;
            q.tokens_used := q.tokens_used + hold.tokens;
            q.cost_held := q.cost_held - hold.cost;
            q.cost_used := q.cost_used + hold.cost;
        ELSE
            UPDATE quota_history AS h SET tokens_used = h.tokens_used + hold.tokens, cost_used = h.cost_used + hold.cost
            WHERE h.user_id = q.user_id AND h.period_start = hold.period_start;
        END IF;
        q.containers_used := q.containers_used - hold.slots;
        IF hold.leased THEN
            q.requests_held := q.requests_held - hold.requests;
            ring := quota_ring_add(ring, ARRAY[hold.expires_at], ARRAY[hold.requests]);
        END IF;
    END LOOP;
    IF NOT FOUND THEN
        RETURN q;
    END IF;
    UPDATE user_quotas AS u
    SET tokens_held = q.tokens_held, tokens_used = q.tokens_used, cost_held = q.cost_held, cost_used = q.cost_used,
        containers_used = q.containers_used, requests_held = q.requests_held,
        request_cells = ring.cells, request_minute = ring.newest, requests_used = ring.used
    WHERE u.user_id = q.user_id
    RETURNING u.* INTO q;
    PERFORM quota_emit_thresholds(q), quota_wake(q.user_id, q.waiting_until);
    RETURN q;
END
$$;

-- Lock the user's row and bring it into the present period. It only moves forward.
CREATE FUNCTION quota_lock(p_user uuid) RETURNS user_quotas
LANGUAGE plpgsql AS $$
DECLARE
    q user_quotas;
    at timestamptz;
    months quota_months;
BEGIN
    -- The lock of an UPDATE: referential checks of others do not wait for it.
    SELECT * INTO q FROM user_quotas WHERE user_id = p_user FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no user has the id %', p_user USING ERRCODE = 'foreign_key_violation';
    END IF;
    at := clock_timestamp();
    IF at >= q.period_end THEN
        -- The month that reserved pays, and is closed with these charges.
        q := quota_reclaim(q, at);
        INSERT INTO quota_history
            (user_id, period_start, period_end, tokens_used, tokens_limit, cost_used, cost_limit, closed_at)
        VALUES
            (p_user, q.period_start, q.period_end, q.tokens_used, q.tokens_limit, q.cost_used, q.cost_limit, at);
        months := quota_month(q.period_anchor, q.time_zone, at);
        IF q.tokens_granted > 0 OR q.cost_granted > 0 OR q.grants_expire_at IS NOT NULL THEN
            PERFORM quota_consume_grants(q, at, true);
        END IF;
        UPDATE user_quotas
        SET tokens_used = 0, tokens_held = 0, tokens_level = 0, cost_used = 0, cost_held = 0, cost_level = 0,
            -- When the zone has changed, the months of the new one may begin inside the old period.
            period_start = greatest(months.period_start, q.period_end), period_end = months.period_end
        WHERE user_id = p_user
        RETURNING * INTO q;
    ELSIF at >= q.grants_expire_at THEN
        q := quota_consume_grants(q, at, false);
    END IF;
    RETURN q;
END
$$;

-- Post the end of a reservation: subtract it from the counters of its period, which may be history, and add what was
-- used. p_requests: how many requests of a lease were used; those of other reservations were counted when they were
-- granted. Below 0: how many its expiry counted too many.
CREATE FUNCTION quota_post(q user_quotas, hold quota_reservations, p_tokens bigint, p_cost numeric, p_requests integer)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    ring quota_ring;
BEGIN
    IF hold.leased AND hold.requests > 0 OR p_requests <> 0 THEN
        ring := quota_ring_take(q.request_cells, q.request_minute, clock_timestamp(), greatest(p_requests, 0), NULL);
        IF p_requests < 0 THEN
            ring := quota_ring_add(ring, ARRAY[hold.expires_at], ARRAY[p_requests]);
        END IF;
        UPDATE user_quotas AS u
        SET requests_held = u.requests_held - hold.requests, request_cells = ring.cells, request_minute = ring.newest,
            requests_used = ring.used
        WHERE u.user_id = q.user_id;
    END IF;
    IF hold.period_start = q.period_start THEN
        -- hold.id is NULL when there is nothing to take off.
        UPDATE user_quotas AS u
        SET tokens_used = u.tokens_used + p_tokens, cost_used = u.cost_used + p_cost,
            tokens_held = u.tokens_held - CASE WHEN hold.id IS NULL THEN 0 ELSE hold.tokens END,
            cost_held = u.cost_held - CASE WHEN hold.id IS NULL THEN 0 ELSE hold.cost END,
            containers_used = u.containers_used - coalesce(hold.slots, 0)
        WHERE u.user_id = q.user_id
        RETURNING u.* INTO q;
        PERFORM quota_emit_thresholds(q);
        RETURN;
    END IF;
    UPDATE quota_history AS h SET tokens_used = h.tokens_used + p_tokens, cost_used = h.cost_used + p_cost
    WHERE h.user_id = q.user_id AND h.period_start = hold.period_start;
    IF hold.slots > 0 THEN
        UPDATE user_quotas AS u SET containers_used = u.containers_used - hold.slots WHERE u.user_id = q.user_id;
    END IF;
    PERFORM quota_give_back(
        q, hold.period_start, CASE WHEN hold.id IS NULL THEN 0 ELSE hold.tokens END - p_tokens,
        CASE WHEN hold.id IS NULL THEN 0 ELSE hold.cost END - p_cost);
END
$$;

CREATE TYPE quota_decision AS (
    granted boolean,
    -- 'held', 'refused'; of a repeated call also how the reservation ended: 'settled', 'expired', 'released'.
    state text,
    tokens bigint, cost numeric,
    -- Of a refusal: which limit, what is left of it, when trying again can help (NULL: never), when the limit starts
    -- again.
    dimension text, remaining numeric, retry_after interval, resets_at timestamptz,
    expires_at timestamptz, epoch bigint, repeated boolean,
    -- The limit that refused.
    bound numeric,
    -- Of a lease: how many requests it may make, and for how long it lasts, by this server's clock.
    requests integer, lasts interval,
    -- Whether others use this user's row at the same time; NULL: unknown.
    busy boolean,
    -- Of a refusal that is only due to open reservations: what they hold.
    held numeric
);

-- Return what a refusal says, as texts, which cost nothing when there is none: the dimension, what remains, the seconds
-- until trying again helps, when the limit starts again in seconds since 1970, the limit, and what is held.
CREATE FUNCTION quota_refusal(d record) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN ARRAY[d.dimension, d.remaining::text, EXTRACT(epoch FROM d.retry_after)::text,
                 EXTRACT(epoch FROM d.resets_at AT TIME ZONE 'UTC')::text, d.bound::text, d.held::text];
END
$$;

-- Return the refusal of tokens or cost, with p_bound as the limit and p_granted as its part from top-ups.
CREATE FUNCTION quota_refuse(
    q user_quotas, p_dimension text, p_at timestamptz, p_asked numeric, p_bound numeric, p_used numeric, p_held numeric,
    p_granted numeric
) RETURNS quota_decision
LANGUAGE plpgsql AS $$
DECLARE
    d quota_decision;
    open_amount constant numeric := p_bound - p_used - p_held;
BEGIN
    d.granted := false;
    d.state := 'refused';
    d.repeated := false;
    d.dimension := p_dimension;
    d.bound := p_bound;
    d.remaining := greatest(open_amount, 0);
    d.resets_at := q.period_end;
    IF p_asked <= p_bound - p_used THEN
        d.held := p_held;
        -- When enough reservations have certainly ended, unless they are extended; most end before.
        SELECT least(h.expires_at, q.period_end) INTO d.resets_at
        FROM (
            SELECT r.expires_at, sum(CASE WHEN p_dimension = 'tokens' THEN r.tokens ELSE r.cost END)
                   OVER (ORDER BY r.expires_at, r.id) AS freed
            FROM quota_reservations AS r
            WHERE r.user_id = q.user_id AND r.period_start = q.period_start
        ) AS h
        WHERE h.freed >= p_asked - open_amount
        ORDER BY h.expires_at LIMIT 1;
    END IF;
    -- The used part of the top-ups does not come back with the next period.
    IF p_asked <= p_bound - least(greatest(p_used - p_bound + p_granted, 0), p_granted) THEN
        d.retry_after := greatest(d.resets_at - p_at, interval '0');
    END IF;
    RETURN d;
END
$$;

-- Decide on all dimensions, for a row whose ring and day stand at p_at. The dimension that waits longest comes first:
-- then whoever comes back in time is not refused again for another reason.
CREATE FUNCTION quota_decide(
    q user_quotas, ring quota_ring, p_at timestamptz, p_tokens bigint, p_cost numeric, p_slots integer,
    p_requests integer, p_builds integer
) RETURNS quota_decision
LANGUAGE plpgsql AS $$
DECLARE
    d quota_decision;
    possible boolean := true;
BEGIN
    d.granted := false;
    d.state := 'refused';
    d.repeated := false;
    IF p_tokens > 0 AND p_tokens > q.tokens_limit - q.tokens_used - q.tokens_held THEN
        RETURN quota_refuse(
            q, 'tokens', p_at, p_tokens, q.tokens_limit, q.tokens_used, q.tokens_held, q.tokens_granted);
    ELSIF p_cost > 0 AND p_cost > q.cost_limit - q.cost_used - q.cost_held THEN
        RETURN quota_refuse(q, 'cost', p_at, p_cost, q.cost_limit, q.cost_used, q.cost_held, q.cost_granted);
    ELSIF p_builds > 0 AND p_builds > q.builds_limit::bigint - q.builds_used THEN
        d.dimension := 'builds';
        d.bound := q.builds_limit;
        d.remaining := greatest(q.builds_limit - q.builds_used, 0);
        d.resets_at := (q.build_day + 1)::timestamp AT TIME ZONE q.time_zone;
        possible := p_builds <= q.builds_limit;
    ELSIF p_slots > 0 AND p_slots > q.containers_limit::bigint - q.containers_used THEN
        d.dimension := 'containers';
        d.bound := q.containers_limit;
        d.remaining := greatest(q.containers_limit - q.containers_used, 0);
        possible := p_slots <= q.containers_limit;
        IF possible THEN
            -- When enough reservations have expired, unless they are extended.
            SELECT h.expires_at INTO d.resets_at
            FROM (
                SELECT r.expires_at, sum(r.slots) OVER (ORDER BY r.expires_at, r.id) AS freed
                FROM quota_reservations AS r
                WHERE r.user_id = q.user_id AND r.slots > 0
            ) AS h
            WHERE h.freed >= q.containers_used::bigint + p_slots - q.containers_limit
            ORDER BY h.expires_at LIMIT 1;
        END IF;
    ELSIF NOT ring.fits THEN
        d.dimension := 'requests';
        d.bound := q.requests_limit;
        d.remaining := greatest(q.requests_limit - ring.used - q.requests_held, 0);
        d.resets_at := ring.frees_at;
        possible := p_requests <= q.requests_limit;
        IF possible AND d.resets_at IS NULL THEN
            -- The requests that leases hold are in the way: the first lease to end frees some.
            SELECT min(r.expires_at) INTO d.resets_at FROM quota_reservations AS r
            WHERE r.user_id = q.user_id AND r.leased AND r.requests > 0;
        END IF;
    ELSE
        d.granted := true;
        d.state := 'held';
        RETURN d;
    END IF;
    IF possible THEN
        d.retry_after := greatest(d.resets_at - p_at, interval '0');
    END IF;
    RETURN d;
END
$$;

-- Return what an id that was used before got: an open reservation, or what the ledger says of it. NULL: a new id.
CREATE FUNCTION quota_find(p_user uuid, p_id uuid) RETURNS quota_decision
LANGUAGE plpgsql AS $$
DECLARE
    d quota_decision;
BEGIN
    SELECT true, 'held', r.tokens, r.cost, NULL, NULL, NULL, NULL, r.expires_at, r.epoch, true, NULL, r.requests,
           r.expires_at - clock_timestamp() INTO d
    FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF FOUND THEN
        RETURN d;
    END IF;
    -- 'tokens' is the last of the three kinds in the alphabet, and the final entry of an id.
    SELECT l.kind = 'tokens', CASE WHEN l.kind = 'tokens' THEN 'settled' ELSE l.kind END,
           l.granted_tokens, l.granted_cost, NULL, NULL, NULL, NULL, NULL, NULL, true, NULL, NULL, NULL INTO d
    FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id ORDER BY l.kind DESC LIMIT 1;
    IF FOUND THEN
        RETURN d;
    END IF;
    RETURN NULL;
END
$$;
