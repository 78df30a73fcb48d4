-- Quotas: reserve (0005_quotas.sql says why it is safe).

-- Reserve an amount, or refuse, in one step for all dimensions. It grants what is left between p_min_tokens and
-- p_tokens. An id that was granted before gets the first answer again; a refused id may be tried again.
CREATE FUNCTION quota_reserve(
    p_user uuid, p_id uuid, p_tokens bigint, p_min_tokens bigint, p_cost numeric, p_slots integer,
    p_requests integer, p_builds integer, p_ttl interval, p_holder text, p_meta jsonb
) RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    d quota_decision;
    ring quota_ring;
    fast record;
    at timestamptz := clock_timestamp();
    minute bigint;
    today date;
    tokens bigint := coalesce(p_tokens, 0);
    least_tokens bigint := coalesce(p_min_tokens, p_tokens, 0);
    -- A reservation rounds up: then what is used of it never exceeds it by rounding.
    cost numeric := round(ceil(coalesce(p_cost, 0) * 1000000000) / 1000000000, 9);
    slots integer := coalesce(p_slots, 0);
    requests integer := coalesce(p_requests, 0);
    builds integer := coalesce(p_builds, 0);
    asked text := concat_ws(' ', tokens, least_tokens, cost, slots, requests, builds);
BEGIN
    PERFORM check_tenant(p_user);
    -- One condition in the ordinary case.
    IF (p_id IS NOT NULL AND tokens BETWEEN 0 AND 1000000000000 AND least_tokens BETWEEN least(tokens, 1) AND tokens
        AND cost BETWEEN 0 AND 1000000000 AND slots BETWEEN 0 AND 1000000 AND requests BETWEEN 0 AND 1000000
        AND builds BETWEEN 0 AND 1000000 AND (tokens > 0 OR cost > 0 OR slots > 0 OR requests > 0 OR builds > 0)
        AND p_ttl > interval '0' AND p_ttl <= interval '24 hours' AND char_length(coalesce(p_holder, '')) <= 200
        AND p_meta IS NULL) IS NOT TRUE THEN
        PERFORM quota_check_amounts(p_id, tokens, cost, p_meta);
        IF NOT least_tokens BETWEEN least(tokens, 1) AND tokens THEN
            RAISE EXCEPTION 'min_tokens must be from 1 to tokens (%), not %', tokens, least_tokens
                USING ERRCODE = 'invalid_parameter_value';
        ELSIF NOT (slots BETWEEN 0 AND 1000000 AND requests BETWEEN 0 AND 1000000 AND builds BETWEEN 0 AND 1000000) THEN
            RAISE EXCEPTION 'slots, requests and builds must be from 0 to 1000000, not %, %, %', slots, requests, builds
                USING ERRCODE = 'invalid_parameter_value';
        ELSIF tokens = 0 AND cost = 0 AND slots = 0 AND requests = 0 AND builds = 0 THEN
            RAISE EXCEPTION 'nothing to reserve: every amount is 0' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM quota_check_ttl(p_ttl, p_holder);
    END IF;

    -- The short cut, when everything fits and nothing has to be brought up to date first: one statement locks the row,
    -- checks it and counts. If it had to wait for the row, PostgreSQL checks the newest version again.
    minute := quota_minute(at);
    UPDATE user_quotas AS u
    SET tokens_held = u.tokens_held + tokens, cost_held = u.cost_held + cost,
        containers_used = u.containers_used + slots,
        request_cells[61] = u.request_cells[61] + requests, requests_used = u.requests_used + requests,
        builds_used = u.builds_used + builds,
        epoch = u.epoch + 1, prior_at = u.updated_at
    WHERE u.user_id = p_user AND u.period_end > at
        AND (u.grants_expire_at > at OR u.grants_expire_at IS NULL)
        AND (tokens = 0 OR u.tokens_limit IS NULL OR u.tokens_used + u.tokens_held + tokens <= u.tokens_limit)
        AND (cost = 0 OR u.cost_limit IS NULL OR u.cost_used + u.cost_held + cost <= u.cost_limit)
        AND (slots = 0 OR u.containers_limit IS NULL OR u.containers_used::bigint + slots <= u.containers_limit)
        AND (requests = 0 OR u.request_minute = minute AND (
            u.requests_limit IS NULL OR u.requests_used::bigint + u.requests_held + requests <= u.requests_limit))
        AND (builds = 0 OR u.build_day = (at AT TIME ZONE u.time_zone)::date AND (
            u.builds_limit IS NULL OR u.builds_used::bigint + builds <= u.builds_limit))
    RETURNING u.period_start, u.period_end, u.grants_expire_at, u.time_zone, u.build_day, u.epoch, u.prior_at
    INTO fast;
    IF FOUND THEN
        at := clock_timestamp();
        -- While it waited for the lock, another period, minute or day may have begun.
        IF at < fast.period_end AND (fast.grants_expire_at > at OR fast.grants_expire_at IS NULL)
            AND (requests = 0 OR quota_minute(at) = minute)
            AND (builds = 0 OR (at AT TIME ZONE fast.time_zone)::date = fast.build_day) THEN
            INSERT INTO quota_reservations
                (user_id, id, period_start, tokens, cost, slots, requests, builds, epoch, expires_at, created_at,
                 holder, meta, asked)
            SELECT p_user, p_id, fast.period_start, tokens, cost, slots, requests, builds, fast.epoch, at + p_ttl, at,
                   coalesce(p_holder, ''), coalesce(p_meta, '{}'), asked
            -- The id of an earlier call is answered below.
            WHERE NOT EXISTS (SELECT FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id)
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                d.granted := true;
                d.state := 'held';
                d.tokens := tokens;
                d.cost := cost;
                d.expires_at := at + p_ttl;
                d.epoch := fast.epoch;
                d.repeated := false;
                d.busy := fast.prior_at > at - interval '20 ms';
                RETURN d;
            END IF;
        END IF;
        -- Take it back: the row is locked, so nobody has seen it.
        UPDATE user_quotas AS u
        SET tokens_held = u.tokens_held - tokens, cost_held = u.cost_held - cost,
            containers_used = u.containers_used - slots,
            request_cells[61] = u.request_cells[61] - requests, requests_used = u.requests_used - requests,
            builds_used = u.builds_used - builds
        WHERE u.user_id = p_user;
    END IF;

    q := quota_lock(p_user);
    d := quota_find(p_user, p_id, asked);
    IF d.repeated THEN
        RETURN d;
    END IF;
    at := clock_timestamp();
    today := (at AT TIME ZONE q.time_zone)::date;
    FOR attempt IN 1 .. 2 LOOP
        IF q.build_day IS NULL OR q.build_day < today THEN
            q.build_day := today;
            q.builds_used := 0;
        END IF;
        ring := quota_ring_take(q.request_cells, q.request_minute, at, requests, q.requests_limit - q.requests_held);
        d := quota_decide(q, ring, at, least_tokens, cost, slots, requests, builds);
        EXIT WHEN d.granted OR attempt = 2;
        q := quota_reclaim(q, at);
    END LOOP;
    IF NOT d.granted THEN
        RETURN d;
    END IF;

    -- least() ignores NULL, which is an unlimited rest.
    d.tokens := CASE WHEN tokens = 0 THEN 0 ELSE least(tokens, q.tokens_limit - q.tokens_used - q.tokens_held) END;
    d.cost := cost;
    d.expires_at := at + p_ttl;
    d.epoch := q.epoch + 1;
    UPDATE user_quotas
    SET tokens_held = q.tokens_held + d.tokens, cost_held = q.cost_held + d.cost,
        containers_used = q.containers_used + slots,
        request_cells = ring.cells, request_minute = ring.newest, requests_used = ring.used,
        build_day = q.build_day, builds_used = q.builds_used + builds,
        epoch = d.epoch
    WHERE user_id = p_user;
    INSERT INTO quota_reservations
        (user_id, id, period_start, tokens, cost, slots, requests, builds, epoch, expires_at, created_at, holder, meta,
         asked)
    VALUES (p_user, p_id, q.period_start, d.tokens, d.cost, slots, requests, builds, d.epoch, d.expires_at, at,
            coalesce(p_holder, ''), coalesce(p_meta, '{}'), asked);
    RETURN d;
END
$$;

-- Reserve a block that one process then spends by itself: at least the minima, at most what is asked, and near a limit
-- only a part of what is left, so that every process gets a block. The block ends with the period.
CREATE FUNCTION quota_lease(
    p_user uuid, p_id uuid, p_tokens bigint, p_min_tokens bigint, p_cost numeric, p_min_cost numeric,
    p_requests integer, p_min_requests integer, p_ttl interval, p_holder text, p_meta jsonb
) RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    d quota_decision;
    ring quota_ring;
    at timestamptz;
    holders integer;
    -- At least one of whatever is asked: a block of nothing would be no block.
    least_tokens bigint := greatest(p_min_tokens, least(p_tokens, 1));
    least_requests integer := greatest(p_min_requests, least(p_requests, 1));
    cost numeric := round(ceil(p_cost * 1000000000) / 1000000000, 9);
    least_cost numeric := round(ceil(greatest(p_min_cost, least(p_cost, 0.000000001)) * 1000000000) / 1000000000, 9);
    asked text := concat_ws(' ', 'lease', p_tokens, least_tokens, cost, least_cost, p_requests, least_requests);
BEGIN
    PERFORM check_tenant(p_user);
    PERFORM quota_check_amounts(p_id, p_tokens, cost, p_meta);
    IF num_nulls(p_tokens, p_min_tokens, p_cost, p_min_cost, p_requests, p_min_requests) > 0 THEN
        RAISE EXCEPTION 'a lease needs its amounts and their minima' USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT (p_min_tokens BETWEEN 0 AND p_tokens AND p_min_cost BETWEEN 0 AND p_cost
               AND p_min_requests BETWEEN 0 AND p_requests AND p_requests <= 1000000) THEN
        RAISE EXCEPTION 'a minimum must be from 0 to what is asked, and requests at most 1000000'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF p_tokens = 0 AND cost = 0 AND p_requests = 0 THEN
        RAISE EXCEPTION 'nothing to reserve: every amount is 0' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM quota_check_ttl(p_ttl, p_holder);

    q := quota_lock(p_user);
    d := quota_find(p_user, p_id, asked);
    IF d.repeated THEN
        RETURN d;
    END IF;
    at := clock_timestamp();
    FOR attempt IN 1 .. 2 LOOP
        ring := quota_ring_take(
            q.request_cells, q.request_minute, at, least_requests, q.requests_limit - q.requests_held);
        d := quota_decide(q, ring, at, least_tokens, least_cost, 0, least_requests, 0);
        EXIT WHEN d.granted OR attempt = 2;
        q := quota_reclaim(q, at);
    END LOOP;
    IF NOT d.granted THEN
        RETURN d;
    END IF;

    SELECT count(DISTINCT r.holder) + 1 INTO holders
    FROM quota_reservations AS r WHERE r.user_id = p_user AND r.leased AND r.holder <> coalesce(p_holder, '');
    ring := quota_ring_take(q.request_cells, q.request_minute, at, 0, NULL);
    -- div() and trunc() round down, greatest() keeps the minimum.
    d.tokens := CASE WHEN q.tokens_limit IS NULL THEN p_tokens ELSE least(p_tokens, greatest(
        least_tokens, div(q.tokens_limit - q.tokens_used - q.tokens_held, 2 * holders))) END;
    d.cost := CASE WHEN q.cost_limit IS NULL THEN cost ELSE least(cost, greatest(
        least_cost, trunc((q.cost_limit - q.cost_used - q.cost_held) / (2 * holders), 9))) END;
    d.requests := CASE WHEN q.requests_limit IS NULL THEN p_requests ELSE least(p_requests, greatest(
        least_requests, div(q.requests_limit - ring.used - q.requests_held, 2 * holders))) END;
    d.expires_at := least(at + p_ttl, q.period_end);
    d.lasts := d.expires_at - at;
    d.epoch := q.epoch + 1;
    UPDATE user_quotas
    SET tokens_held = q.tokens_held + d.tokens, cost_held = q.cost_held + d.cost,
        requests_held = q.requests_held + d.requests,
        request_cells = ring.cells, request_minute = ring.newest, requests_used = ring.used,
        epoch = d.epoch
    WHERE user_id = p_user;
    INSERT INTO quota_reservations
        (user_id, id, period_start, tokens, cost, slots, requests, builds, epoch, expires_at, created_at, leased,
         holder, meta, asked)
    VALUES (p_user, p_id, q.period_start, d.tokens, d.cost, 0, d.requests, 0, d.epoch, d.expires_at, at, true,
            coalesce(p_holder, ''), coalesce(p_meta, '{}'), asked);
    RETURN d;
END
$$;

-- Count requests in the sliding hour, and nothing else.
CREATE FUNCTION quota_hit(p_user uuid, p_requests integer) RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := quota_lock_timeout();
    q user_quotas;
    d quota_decision;
    ring quota_ring;
    at timestamptz := clock_timestamp();
    prior timestamptz;
    minute bigint := quota_minute(at);
BEGIN
    PERFORM check_tenant(p_user);
    IF p_requests IS NULL OR NOT p_requests BETWEEN 1 AND 1000000 THEN
        RAISE EXCEPTION 'requests must be from 1 to 1000000, not %', p_requests
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    d.granted := true;
    d.state := 'held';
    d.repeated := false;
    -- The same short cut as in quota_reserve.
    UPDATE user_quotas AS u
    SET request_cells[61] = u.request_cells[61] + p_requests, requests_used = u.requests_used + p_requests,
        prior_at = u.updated_at
    WHERE u.user_id = p_user AND u.request_minute = minute AND (
        u.requests_limit IS NULL OR u.requests_used::bigint + u.requests_held + p_requests <= u.requests_limit)
    RETURNING u.requests_limit, u.requests_limit - u.requests_used - u.requests_held, u.prior_at
    INTO d.bound, d.remaining, prior;
    IF FOUND THEN
        d.busy := prior > at - interval '20 ms';
        IF quota_minute(clock_timestamp()) = minute THEN
            RETURN d;
        END IF;
        UPDATE user_quotas AS u
        SET request_cells[61] = u.request_cells[61] - p_requests, requests_used = u.requests_used - p_requests
        WHERE u.user_id = p_user;
    END IF;

    q := quota_lock(p_user);
    at := clock_timestamp();
    FOR attempt IN 1 .. 2 LOOP
        ring := quota_ring_take(q.request_cells, q.request_minute, at, p_requests, q.requests_limit - q.requests_held);
        IF ring.fits THEN
            UPDATE user_quotas
            SET request_cells = ring.cells, request_minute = ring.newest, requests_used = ring.used
            WHERE user_id = p_user;
            d.bound := q.requests_limit;
            d.remaining := q.requests_limit - ring.used - q.requests_held;
            RETURN d;
        END IF;
        IF attempt = 1 THEN
            q := quota_reclaim(q, at);
        END IF;
    END LOOP;
    RETURN quota_decide(q, ring, at, 0, 0, 0, p_requests, 0);
END
$$;

-- Reserve and commit: what clients call. A commit that waits for the disk holds the locks meanwhile, so callers of one
-- user would queue for one flush each. While others use the row, the first commit does not wait for the disk, which
-- frees the row. Then an empty WAL message, committed synchronously, flushes the first commit too. So callers share the
-- flush, and none gets an answer before the reservation is durable. (A reservation that saw this one commits later, so
-- it is never durable without it.) Measured with 8 callers of one user, on a busy machine: 1.2 to 3.9 times as many
-- pairs. The second commit costs a tenth of a reservation, so a row that nobody else uses does without.
CREATE PROCEDURE quota_call_reserve(
    p_user uuid, p_id uuid, p_tokens bigint, p_min_tokens bigint, p_cost numeric, p_slots integer,
    p_requests integer, p_builds integer, p_ttl interval, p_holder text, p_meta jsonb,
    INOUT granted boolean, INOUT state text, INOUT tokens bigint, INOUT cost numeric, INOUT expires_at timestamptz,
    INOUT epoch bigint, INOUT repeated boolean, INOUT refusal text[]
)
LANGUAGE plpgsql AS $$
DECLARE
    -- A record, not the type: that would be looked up among temporary types, and a procedure that commits cannot have a
    -- search_path of its own.
    d record := quota_reserve(
        p_user, p_id, p_tokens, p_min_tokens, p_cost, p_slots, p_requests, p_builds, p_ttl, p_holder, p_meta);
BEGIN
    granted := d.granted;
    state := d.state;
    tokens := d.tokens;
    cost := d.cost;
    expires_at := d.expires_at;
    epoch := d.epoch;
    repeated := d.repeated;
    IF NOT granted THEN
        refusal := quota_refusal(d);
    END IF;
    IF granted AND NOT coalesce(d.busy, true) THEN
        COMMIT;
        RETURN;
    END IF;
    SET LOCAL synchronous_commit = off;
    COMMIT;
    IF granted THEN
        PERFORM pg_logical_emit_message(true, 'atlas', '');
    END IF;
END
$$;

-- Hit and commit. Not durable: a crash of the server may forget the counts of its last moments, and then allow them
-- again.
CREATE PROCEDURE quota_call_hit(
    p_user uuid, p_requests integer, p_durable boolean,
    INOUT granted boolean, INOUT remaining numeric, INOUT bound numeric, INOUT refusal text[]
)
LANGUAGE plpgsql AS $$
DECLARE
    d record := quota_hit(p_user, p_requests);
BEGIN
    granted := d.granted;
    remaining := d.remaining;
    bound := d.bound;
    IF NOT granted THEN
        refusal := quota_refusal(d);
    END IF;
    IF granted AND p_durable AND NOT coalesce(d.busy, true) THEN
        COMMIT;
        RETURN;
    END IF;
    SET LOCAL synchronous_commit = off;
    COMMIT;
    IF granted AND p_durable THEN
        PERFORM pg_logical_emit_message(true, 'atlas', '');
    END IF;
END
$$;
