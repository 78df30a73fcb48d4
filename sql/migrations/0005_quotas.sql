-- Quotas: hard limits on tokens, cost, containers, requests an hour and builds a day.
--
-- The functions quota_reserve, quota_settle, quota_release, quota_extend, quota_progress, quota_add and
-- quota_roll are the only door: nothing else writes these counters. What makes them safe:
--   * Each locks the user's row first, reads the clock after that, and decides on counters of the locked
--     row. now() is the start of the transaction, so a session that waited for the lock would see the
--     period that has ended meanwhile.
--   * Every statement in them must see what was committed before the lock was had: call them in
--     autocommit, READ COMMITTED. (At REPEATABLE READ a lost race is an error, never an oversale.)
--   * A NULL limit is unlimited: "x > NULL" is not true, so every test here asks "is it over?".
--   * used = SUM(ledger of the period), held = SUM(holds of the period), slots = SUM(slots of all holds).
--
-- Refused arguments raise SQLSTATE 22023, an unknown user 23503.

ALTER TABLE user_quotas
    -- Promised to reservations that are not settled yet; counts against the limit like what is used.
    ADD COLUMN tokens_held bigint NOT NULL DEFAULT 0,
    ADD COLUMN cost_held numeric(20, 9) NOT NULL DEFAULT 0,
    -- The highest of 0, 50, 80, 100 per cent that this period's events have told.
    ADD COLUMN tokens_level smallint NOT NULL DEFAULT 0,
    ADD COLUMN cost_level smallint NOT NULL DEFAULT 0,
    -- Requests by minute, the newest last. A window of 60 minutes touches at most 61 of them, so their sum
    -- is never less than what happened in the hour. requests_used is that sum at the last request.
    ADD COLUMN request_cells integer[] NOT NULL DEFAULT array_fill(0, ARRAY[61]),
    -- Minutes since 1970 of the newest cell.
    ADD COLUMN request_minute bigint NOT NULL DEFAULT 0,
    -- The day, in the user's zone, that builds_used counts.
    ADD COLUMN build_day date,
    -- Counts the grants: a later holder has a higher number, so a driver can fence an earlier one off.
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT user_quotas_tokens_held CHECK (tokens_held >= 0),
    ADD CONSTRAINT user_quotas_cost_held CHECK (cost_held >= 0 AND cost_held <> 'NaN'),
    ADD CONSTRAINT user_quotas_request_cells CHECK (array_length(request_cells, 1) = 61);

-- A hold: made by quota_reserve, removed by settling, releasing, or, after its expiry, by the next refusal.
-- On expiry tokens and cost are charged, because the provider may have billed them, and slots come free.
CREATE TABLE quota_reservations (
    user_id           uuid           NOT NULL,
    -- Made by the client: the idempotency key.
    id                uuid           NOT NULL,
    -- The period that pays, also when it has ended by the time of the settlement.
    period_start      timestamptz    NOT NULL,
    tokens            bigint         NOT NULL,
    cost              numeric(20, 9) NOT NULL,
    slots             integer        NOT NULL,
    -- Counted when granted and not given back: these limit attempts.
    requests          integer        NOT NULL,
    builds            integer        NOT NULL,
    -- What a stream has used so far: charged when it ends without a settlement of its own.
    tokens_progressed bigint         NOT NULL DEFAULT 0,
    cost_progressed   numeric(20, 9) NOT NULL DEFAULT 0,
    epoch             bigint         NOT NULL,
    expires_at        timestamptz    NOT NULL,
    created_at        timestamptz    NOT NULL,
    holder            text           NOT NULL DEFAULT '',
    meta              jsonb          NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, id),
    -- Not to users: the referential check then locks a row that the transaction has locked already.
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE,
    CONSTRAINT quota_reservations_amounts CHECK (
        tokens >= 0 AND cost >= 0 AND cost <> 'NaN' AND slots >= 0 AND requests >= 0 AND builds >= 0
        AND tokens_progressed >= 0 AND cost_progressed >= 0 AND cost_progressed <> 'NaN'
    ),
    CONSTRAINT quota_reservations_holder_length CHECK (char_length(holder) <= 200),
    CONSTRAINT quota_reservations_meta_object CHECK (jsonb_typeof(meta) = 'object')
);

-- One row a period that has ended. Late settlements still change what it used.
CREATE TABLE quota_history (
    user_id      uuid           NOT NULL,
    period_start timestamptz    NOT NULL,
    period_end   timestamptz    NOT NULL,
    tokens_used  bigint         NOT NULL,
    tokens_limit bigint,
    cost_used    numeric(20, 9) NOT NULL,
    cost_limit   numeric(20, 9),
    closed_at    timestamptz    NOT NULL,
    PRIMARY KEY (user_id, period_start),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT quota_history_used CHECK (tokens_used >= 0 AND cost_used >= 0 AND cost_used <> 'NaN')
);

ALTER TABLE usage_ledger
    -- NULL: recorded by the application itself, outside of the quota.
    ADD COLUMN period_start timestamptz,
    ADD COLUMN reservation_id uuid,
    -- What was promised to the reservation.
    ADD COLUMN granted_tokens bigint,
    ADD COLUMN granted_cost numeric(20, 9);

-- A reservation ends once as 'expired' or 'released' and is settled once, as 'tokens': a settlement after
-- an expiry is the difference to what the expiry charged.
CREATE UNIQUE INDEX idx_usage_ledger_reservation ON usage_ledger (user_id, reservation_id, kind)
WHERE reservation_id IS NOT NULL;

ALTER TABLE quota_reservations ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON quota_reservations
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE quota_history ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON quota_history
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

-- Arithmetic without tables or clocks.

CREATE TYPE quota_months AS (period_start timestamptz, period_end timestamptz);

-- The month, counted from the anchor, that holds a moment: [anchor + n months, anchor + n+1 months) in the
-- user's zone. Always from the anchor, so that the 31st comes back after February; one formula for both
-- ends, so that months neither overlap nor leave a gap where clocks change.
CREATE FUNCTION quota_month(p_anchor timestamptz, p_zone text, p_at timestamptz) RETURNS quota_months
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path FROM CURRENT AS $$
DECLARE
    -- interval '1 month' goes by the calendar of a local time, hence not on timestamptz: that would take
    -- the zone of the session.
    first_at timestamp := p_anchor AT TIME ZONE p_zone;
    local_at timestamp := p_at AT TIME ZONE p_zone;
    n integer := (EXTRACT(year FROM local_at) - EXTRACT(year FROM first_at)) * 12
               + EXTRACT(month FROM local_at) - EXTRACT(month FROM first_at);
BEGIN
    WHILE (first_at + make_interval(months => n)) AT TIME ZONE p_zone > p_at LOOP
        n := n - 1;
    END LOOP;
    WHILE (first_at + make_interval(months => n + 1)) AT TIME ZONE p_zone <= p_at LOOP
        n := n + 1;
    END LOOP;
    RETURN ((first_at + make_interval(months => n)) AT TIME ZONE p_zone,
            (first_at + make_interval(months => n + 1)) AT TIME ZONE p_zone);
END
$$;

CREATE TYPE quota_ring AS (
    fits boolean, cells integer[], newest bigint, used integer,
    -- When enough has left the hour; NULL: it fits, or it never will.
    frees_at timestamptz
);

-- Turn the cells of the last hour to a moment and take n more if the limit allows. When a clock goes
-- backwards the newest cell stays: then a request is forgotten later than it should be, never earlier.
CREATE FUNCTION quota_ring_take(p_cells integer[], p_newest bigint, p_at timestamptz, p_n integer, p_limit integer)
RETURNS quota_ring
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    ring quota_ring;
    -- Through UTC, because EXTRACT from a timestamptz may depend on the session.
    minute bigint := floor(EXTRACT(epoch FROM p_at AT TIME ZONE 'UTC') / 60);
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
                -- Cell i is of minute newest - 61 + i, and drops out 61 minutes after that.
                ring.frees_at := to_timestamp((ring.newest + i) * 60);
                EXIT;
            END IF;
        END LOOP;
    END IF;
    RETURN ring;
END
$$;

CREATE FUNCTION quota_level(p_used numeric, p_limit numeric) RETURNS smallint
LANGUAGE sql IMMUTABLE AS $$
    SELECT (CASE WHEN p_limit IS NULL OR p_limit <= 0 THEN 0 WHEN p_used >= p_limit THEN 100
                 WHEN p_used >= p_limit * 0.8 THEN 80 WHEN p_used >= p_limit * 0.5 THEN 50 ELSE 0 END)::smallint
$$;

-- Bounds of one call: a trillion tokens, a billion dollars, and 2^31 of them still fit the counters.
-- "Not between", because NaN is greater than any number.
CREATE FUNCTION quota_check_amounts(p_id uuid, p_tokens bigint, p_cost numeric, p_meta jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_id IS NULL THEN
        RAISE EXCEPTION 'a reservation needs an id' USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT p_tokens BETWEEN 0 AND 1000000000000 THEN
        RAISE EXCEPTION 'tokens must be from 0 to 1000000000000, not %', p_tokens
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT p_cost BETWEEN 0 AND 1000000000 THEN
        RAISE EXCEPTION 'cost must be from 0 to 1000000000 dollars, not %', p_cost
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF jsonb_typeof(p_meta) <> 'object' OR octet_length(p_meta::text) > 16384 THEN
        RAISE EXCEPTION 'meta must be a JSON object of at most 16384 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

-- Steps of the door. They are no door themselves: each but the first relies on the lock.

-- Lock the user's row and bring it into the present period. Forward only.
CREATE FUNCTION quota_lock(p_user uuid) RETURNS user_quotas
LANGUAGE plpgsql AS $$
DECLARE
    q user_quotas;
    at timestamptz;
    months quota_months;
BEGIN
    SELECT * INTO q FROM user_quotas WHERE user_id = p_user FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no user has the id %', p_user USING ERRCODE = 'foreign_key_violation';
    END IF;
    at := clock_timestamp();
    IF at >= q.period_end THEN
        INSERT INTO quota_history
            (user_id, period_start, period_end, tokens_used, tokens_limit, cost_used, cost_limit, closed_at)
        VALUES
            (p_user, q.period_start, q.period_end, q.tokens_used, q.tokens_limit, q.cost_used, q.cost_limit, at);
        months := quota_month(q.period_anchor, q.time_zone, at);
        UPDATE user_quotas
        SET tokens_used = 0, tokens_held = 0, tokens_level = 0, cost_used = 0, cost_held = 0, cost_level = 0,
            -- When the zone has changed, the months of the new one may begin inside the old period.
            period_start = greatest(months.period_start, q.period_end), period_end = months.period_end
        WHERE user_id = p_user
        RETURNING * INTO q;
    END IF;
    RETURN q;
END
$$;

-- Tell, once a period, that 50, 80 or 100 per cent of a month's limit are used.
CREATE FUNCTION quota_tell_levels(q user_quotas) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF quota_level(q.tokens_used, q.tokens_limit) <= q.tokens_level
        AND quota_level(q.cost_used, q.cost_limit) <= q.cost_level THEN
        RETURN;
    END IF;
    INSERT INTO events (user_id, type, meta)
    SELECT q.user_id, 'quota.threshold', jsonb_build_object(
        'dimension', d.dimension, 'percent', l.percent, 'used', d.used, 'limit', d.bound,
        'period_start', q.period_start, 'period_end', q.period_end)
    FROM (VALUES
        ('tokens', q.tokens_level, q.tokens_used::numeric, q.tokens_limit::numeric),
        ('cost', q.cost_level, q.cost_used, q.cost_limit)
    ) AS d (dimension, told, used, bound)
    CROSS JOIN (VALUES (50), (80), (100)) AS l (percent)
    WHERE l.percent > d.told AND l.percent <= quota_level(d.used, d.bound);
    UPDATE user_quotas
    SET tokens_level = greatest(tokens_level, quota_level(q.tokens_used, q.tokens_limit)),
        cost_level = greatest(cost_level, quota_level(q.cost_used, q.cost_limit))
    WHERE user_id = q.user_id;
END
$$;

-- End this user's expired holds: charge tokens and cost, free the slots.
CREATE FUNCTION quota_reclaim(q user_quotas, p_at timestamptz) RETURNS user_quotas
LANGUAGE plpgsql AS $$
DECLARE
    settled user_quotas;
BEGIN
    WITH gone AS (
        DELETE FROM quota_reservations AS r WHERE r.user_id = q.user_id AND r.expires_at <= p_at
        RETURNING r.id, r.period_start, r.tokens, r.cost, r.slots, r.holder, r.meta
    ), charged AS (
        INSERT INTO usage_ledger
            (user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost)
        SELECT q.user_id, 'expired', g.tokens, g.cost, g.meta || jsonb_build_object('holder', g.holder), p_at,
               g.period_start, g.id, g.tokens, g.cost
        FROM gone AS g
    ), earlier AS (
        UPDATE quota_history AS h SET tokens_used = h.tokens_used + s.tokens, cost_used = h.cost_used + s.cost
        FROM (SELECT period_start, sum(tokens) AS tokens, sum(cost) AS cost FROM gone GROUP BY period_start) AS s
        WHERE h.user_id = q.user_id AND h.period_start = s.period_start
    )
    UPDATE user_quotas AS u
    SET tokens_held = u.tokens_held - s.tokens, tokens_used = u.tokens_used + s.tokens,
        cost_held = u.cost_held - s.cost, cost_used = u.cost_used + s.cost,
        containers_used = u.containers_used - s.slots
    FROM (
        SELECT coalesce(sum(tokens) FILTER (WHERE period_start = q.period_start), 0) AS tokens,
               coalesce(sum(cost) FILTER (WHERE period_start = q.period_start), 0) AS cost,
               sum(slots) AS slots
        FROM gone
        HAVING count(*) > 0
    ) AS s
    WHERE u.user_id = q.user_id
    RETURNING u.* INTO settled;
    IF NOT FOUND THEN
        RETURN q;
    END IF;
    PERFORM quota_tell_levels(settled);
    RETURN settled;
END
$$;

-- Take a hold off the counters and put an amount on: on the row of its period, which may be history.
CREATE FUNCTION quota_book(q user_quotas, hold quota_reservations, p_tokens bigint, p_cost numeric) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF hold.period_start = q.period_start THEN
        -- hold.id is NULL when there is nothing to take off.
        UPDATE user_quotas AS u
        SET tokens_used = u.tokens_used + p_tokens, cost_used = u.cost_used + p_cost,
            tokens_held = u.tokens_held - CASE WHEN hold.id IS NULL THEN 0 ELSE hold.tokens END,
            cost_held = u.cost_held - CASE WHEN hold.id IS NULL THEN 0 ELSE hold.cost END,
            containers_used = u.containers_used - coalesce(hold.slots, 0)
        WHERE u.user_id = q.user_id
        RETURNING u.* INTO q;
        PERFORM quota_tell_levels(q);
        RETURN;
    END IF;
    UPDATE quota_history AS h SET tokens_used = h.tokens_used + p_tokens, cost_used = h.cost_used + p_cost
    WHERE h.user_id = q.user_id AND h.period_start = hold.period_start;
    IF hold.slots > 0 THEN
        UPDATE user_quotas AS u SET containers_used = u.containers_used - hold.slots WHERE u.user_id = q.user_id;
    END IF;
END
$$;

CREATE TYPE quota_decision AS (
    granted boolean,
    -- 'held', 'refused'; of a repeated call also what became of it: 'settled', 'expired', 'released'.
    state text,
    tokens bigint, cost numeric,
    -- Of a refusal: which limit, what is left of it, when trying again can help (NULL: never), when it starts anew.
    dimension text, remaining numeric, retry_after interval, resets_at timestamptz,
    expires_at timestamptz, epoch bigint, repeated boolean
);

-- Decide on all dimensions, of a row whose ring and day stand at p_at. What waits longest is told first:
-- whoever comes back in time then is not refused again for another reason.
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
        d.dimension := 'tokens';
        d.remaining := greatest(q.tokens_limit - q.tokens_used - q.tokens_held, 0);
        d.resets_at := q.period_end;
        possible := p_tokens <= q.tokens_limit;
    ELSIF p_cost > 0 AND p_cost > q.cost_limit - q.cost_used - q.cost_held THEN
        d.dimension := 'cost';
        d.remaining := greatest(q.cost_limit - q.cost_used - q.cost_held, 0);
        d.resets_at := q.period_end;
        possible := p_cost <= q.cost_limit;
    ELSIF p_builds > 0 AND p_builds > q.builds_limit::bigint - q.builds_used THEN
        d.dimension := 'builds';
        d.remaining := greatest(q.builds_limit - q.builds_used, 0);
        d.resets_at := (q.build_day + 1)::timestamp AT TIME ZONE q.time_zone;
        possible := p_builds <= q.builds_limit;
    ELSIF p_slots > 0 AND p_slots > q.containers_limit::bigint - q.containers_used THEN
        d.dimension := 'containers';
        d.remaining := greatest(q.containers_limit - q.containers_used, 0);
        possible := p_slots <= q.containers_limit;
        IF possible THEN
            -- When enough holds have expired, unless they are extended.
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
        d.remaining := greatest(q.requests_limit - ring.used, 0);
        d.resets_at := ring.frees_at;
        possible := ring.frees_at IS NOT NULL;
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

-- What an id that was used before got: a hold, or what the ledger says of it. NULL: a new id.
CREATE FUNCTION quota_recall(p_user uuid, p_id uuid) RETURNS quota_decision
LANGUAGE plpgsql AS $$
DECLARE
    d quota_decision;
BEGIN
    SELECT true, 'held', r.tokens, r.cost, NULL, NULL, NULL, NULL, r.expires_at, r.epoch, true INTO d
    FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF FOUND THEN
        RETURN d;
    END IF;
    -- 'tokens' is the last of the three in the order of the alphabet, and the last word on an id.
    SELECT l.kind = 'tokens', CASE l.kind WHEN 'tokens' THEN 'settled' ELSE l.kind END,
           l.granted_tokens, l.granted_cost, NULL, NULL, NULL, NULL, NULL, NULL, true INTO d
    FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id ORDER BY l.kind DESC LIMIT 1;
    IF FOUND THEN
        RETURN d;
    END IF;
    RETURN NULL;
END
$$;

-- The door.

-- Promise an amount, or refuse, in one step for all dimensions. Between p_min_tokens and p_tokens it grants
-- what is left. The first answer is repeated for an id that was granted before; a refused id may be tried again.
CREATE FUNCTION quota_reserve(
    p_user uuid, p_id uuid, p_tokens bigint, p_min_tokens bigint, p_cost numeric, p_slots integer,
    p_requests integer, p_builds integer, p_ttl interval, p_holder text, p_meta jsonb
) RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    q user_quotas;
    d quota_decision;
    ring quota_ring;
    at timestamptz;
    today date;
    tokens bigint := coalesce(p_tokens, 0);
    least_tokens bigint := coalesce(p_min_tokens, p_tokens, 0);
    -- A promise rounds up: what is used of it then never exceeds it by rounding.
    cost numeric := round(ceil(coalesce(p_cost, 0) * 1000000000) / 1000000000, 9);
    slots integer := coalesce(p_slots, 0);
    requests integer := coalesce(p_requests, 0);
    builds integer := coalesce(p_builds, 0);
BEGIN
    PERFORM quota_check_amounts(p_id, tokens, cost, p_meta);
    IF NOT least_tokens BETWEEN least(tokens, 1) AND tokens THEN
        RAISE EXCEPTION 'min_tokens must be from 1 to tokens (%), not %', tokens, least_tokens
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT (slots BETWEEN 0 AND 1000000 AND requests BETWEEN 0 AND 1000000 AND builds BETWEEN 0 AND 1000000) THEN
        RAISE EXCEPTION 'slots, requests and builds must be from 0 to 1000000, not %, %, %', slots, requests, builds
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF tokens = 0 AND cost = 0 AND slots = 0 AND requests = 0 AND builds = 0 THEN
        RAISE EXCEPTION 'nothing to reserve: every amount is 0' USING ERRCODE = 'invalid_parameter_value';
    ELSIF p_ttl IS NULL OR NOT (p_ttl > interval '0' AND p_ttl <= interval '24 hours') THEN
        RAISE EXCEPTION 'ttl must be more than 0 and at most 24 hours, not %', p_ttl
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF char_length(p_holder) > 200 THEN
        RAISE EXCEPTION 'holder must have at most 200 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    q := quota_lock(p_user);
    d := quota_recall(p_user, p_id);
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
        ring := quota_ring_take(q.request_cells, q.request_minute, at, requests, q.requests_limit);
        d := quota_decide(q, ring, at, least_tokens, cost, slots, requests, builds);
        EXIT WHEN d.granted OR attempt = 2;
        q := quota_reclaim(q, at);
    END LOOP;
    IF NOT d.granted THEN
        RETURN d;
    END IF;

    -- least() passes over NULL, which is an unlimited rest.
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
        (user_id, id, period_start, tokens, cost, slots, requests, builds, epoch, expires_at, created_at, holder, meta)
    VALUES
        (p_user, p_id, q.period_start, d.tokens, d.cost, slots, requests, builds, d.epoch, d.expires_at, at,
         coalesce(p_holder, ''), coalesce(p_meta, '{}'));
    RETURN d;
END
$$;

CREATE TYPE quota_settlement AS (
    -- 'settled'; 'corrected': after it had expired or been released; 'released'; 'repeated': an earlier call
    -- did it, nothing was changed; 'unknown': this id was never granted, nothing was changed.
    outcome text,
    tokens bigint, cost numeric,
    -- More was used than was promised. It is charged all the same, and the limit may be exceeded by it.
    overrun boolean
);

-- Charge what was used in place of what was promised. NULL is not 0: it is unknown, so what had progressed is
-- charged, and all that was promised when nothing was told.
CREATE FUNCTION quota_settle(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_meta jsonb)
RETURNS quota_settlement
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    q user_quotas;
    hold quota_reservations;
    done record;
    s quota_settlement;
    delta_tokens bigint;
    delta_cost numeric;
BEGIN
    PERFORM quota_check_amounts(p_id, p_tokens, p_cost, p_meta);
    q := quota_lock(p_user);
    DELETE FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id RETURNING * INTO hold;
    IF FOUND THEN
        s.outcome := 'settled';
        s.tokens := coalesce(p_tokens, nullif(hold.tokens_progressed, 0), hold.tokens);
        s.cost := round(coalesce(p_cost, nullif(hold.cost_progressed, 0), hold.cost), 9);
        s.overrun := s.tokens > hold.tokens OR s.cost > hold.cost;
        delta_tokens := s.tokens;
        delta_cost := s.cost;
    ELSE
        SELECT bool_or(l.kind = 'tokens') AS settled, sum(l.amount)::bigint AS tokens, sum(l.cost) AS cost,
               min(l.period_start) AS period_start, max(l.granted_tokens) AS granted_tokens,
               max(l.granted_cost) AS granted_cost, count(*) AS entries
        INTO done
        FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id;
        IF done.entries = 0 THEN
            RETURN ('unknown', 0, 0, false)::quota_settlement;
        END IF;
        -- Without amounts of its own a late settlement has nothing to correct.
        s.tokens := coalesce(p_tokens, done.tokens);
        s.cost := round(coalesce(p_cost, done.cost), 9);
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
    END IF;
    INSERT INTO usage_ledger
        (user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost)
    VALUES (p_user, 'tokens', delta_tokens, delta_cost,
            coalesce(hold.meta, '{}') || coalesce(p_meta, '{}')
            || CASE WHEN s.overrun THEN '{"overrun": true}'::jsonb ELSE '{}' END,
            clock_timestamp(), hold.period_start, p_id, hold.tokens, hold.cost);
    PERFORM quota_book(q, hold, delta_tokens, delta_cost);
    IF s.outcome = 'settled' AND NOT s.overrun THEN
        -- Nobody waits for the disk: a settlement that a crash of the server loses leaves the promise, which is
        -- no less, and which the expiry charges. ALTER FUNCTION … SET would end before the commit.
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN s;
END
$$;

-- Give a promise back: the call did not happen. What a stream had already used is charged.
CREATE FUNCTION quota_release(p_user uuid, p_id uuid) RETURNS quota_settlement
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    q user_quotas;
    hold quota_reservations;
    known quota_decision;
BEGIN
    PERFORM quota_check_amounts(p_id, 0, 0, NULL);
    q := quota_lock(p_user);
    SELECT * INTO hold FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF NOT FOUND THEN
        known := quota_recall(p_user, p_id);
        RETURN (CASE WHEN known.repeated THEN 'repeated' ELSE 'unknown' END, 0, 0, false)::quota_settlement;
    ELSIF hold.tokens_progressed > 0 OR hold.cost_progressed > 0 THEN
        RETURN quota_settle(p_user, p_id, hold.tokens_progressed, hold.cost_progressed, NULL);
    END IF;
    DELETE FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    -- An entry of nothing: it keeps the id from being granted a second time.
    INSERT INTO usage_ledger
        (user_id, kind, amount, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost)
    VALUES
        (p_user, 'released', 0, hold.meta, clock_timestamp(), hold.period_start, p_id, hold.tokens, hold.cost);
    PERFORM quota_book(q, hold, 0, 0);
    RETURN ('released', 0, 0, false)::quota_settlement;
END
$$;

-- Promise more to a reservation, or for longer: p_ttl from now on, never less than it had. All or nothing.
-- Not idempotent: a call that is repeated holds more than it needs until the settlement.
CREATE FUNCTION quota_extend(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_ttl interval)
RETURNS quota_decision
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    q user_quotas;
    hold quota_reservations;
    d quota_decision;
    idle quota_ring;
    at timestamptz;
    more_tokens bigint := coalesce(p_tokens, 0);
    more_cost numeric := round(ceil(coalesce(p_cost, 0) * 1000000000) / 1000000000, 9);
BEGIN
    PERFORM quota_check_amounts(p_id, more_tokens, more_cost, NULL);
    IF NOT (p_ttl > interval '0' AND p_ttl <= interval '24 hours') THEN
        RAISE EXCEPTION 'ttl must be more than 0 and at most 24 hours, not %', p_ttl
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    q := quota_lock(p_user);
    at := clock_timestamp();
    SELECT * INTO hold FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF NOT FOUND THEN
        d := quota_recall(p_user, p_id);
        d.granted := false;
        d.state := coalesce(d.state, 'unknown');
        d.repeated := false;
        RETURN d;
    END IF;
    idle.fits := true;
    -- It still has its place until somebody else needs it: then quota_reclaim would have ended it.
    d := quota_decide(q, idle, at, more_tokens, more_cost, 0, 0, 0);
    IF NOT d.granted THEN
        q := quota_reclaim(q, at);
        d := quota_decide(q, idle, at, more_tokens, more_cost, 0, 0, 0);
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
        RETURN d;
    END IF;
    IF more_tokens > 0 OR more_cost > 0 THEN
        UPDATE user_quotas AS u SET tokens_held = u.tokens_held + more_tokens, cost_held = u.cost_held + more_cost
        WHERE u.user_id = p_user;
    END IF;
    UPDATE quota_reservations AS r
    SET tokens = r.tokens + more_tokens, cost = r.cost + more_cost,
        expires_at = greatest(r.expires_at, at + p_ttl)
    WHERE r.user_id = p_user AND r.id = p_id
    RETURNING r.tokens, r.cost, r.expires_at, r.epoch INTO d.tokens, d.cost, d.expires_at, d.epoch;
    RETURN d;
END
$$;

-- Note how much of a promise is used so far, as totals, which never go down. False: there is no such hold.
CREATE FUNCTION quota_progress(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM quota_check_amounts(p_id, p_tokens, p_cost, NULL);
    -- Only the hold is locked, and nothing after it, so the order "user, then hold" is kept.
    UPDATE quota_reservations AS r
    SET tokens_progressed = greatest(r.tokens_progressed, p_tokens),
        cost_progressed = greatest(r.cost_progressed, round(p_cost, 9))
    WHERE r.user_id = p_user AND r.id = p_id;
    RETURN FOUND;
END
$$;

-- Charge what was used without a promise. It is the truth, so it is never refused; afterwards the limit is.
CREATE FUNCTION quota_add(p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_meta jsonb)
RETURNS quota_settlement
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    q user_quotas;
    hold quota_reservations;
    known quota_decision;
    tokens bigint := coalesce(p_tokens, 0);
    cost numeric := round(coalesce(p_cost, 0), 9);
BEGIN
    PERFORM quota_check_amounts(p_id, tokens, cost, p_meta);
    q := quota_lock(p_user);
    known := quota_recall(p_user, p_id);
    IF known.repeated THEN
        RETURN ('repeated', known.tokens, known.cost, false)::quota_settlement;
    END IF;
    INSERT INTO usage_ledger
        (user_id, kind, amount, cost, meta, created_at, period_start, reservation_id, granted_tokens, granted_cost)
    VALUES
        (p_user, 'tokens', tokens, cost, coalesce(p_meta, '{}'), clock_timestamp(), q.period_start, p_id, tokens, cost);
    hold.period_start := q.period_start;
    PERFORM quota_book(q, hold, tokens, cost);
    RETURN ('settled', tokens, cost, false)::quota_settlement;
END
$$;

-- Close the periods that have ended, of at most p_limit users; the number of them. Nothing depends on it:
-- every other call does the same for its own user.
CREATE FUNCTION quota_roll(p_limit integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    due uuid;
    rolled integer := 0;
BEGIN
    FOR due IN
        -- Who is locked is busy with a call that rolls. In the order of ids, so that two of us cannot deadlock.
        SELECT user_id FROM user_quotas WHERE period_end <= clock_timestamp()
        ORDER BY user_id LIMIT p_limit FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM quota_lock(due);
        rolled := rolled + 1;
    END LOOP;
    RETURN rolled;
END
$$;
