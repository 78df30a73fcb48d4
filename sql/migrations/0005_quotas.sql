-- Quotas: hard limits on tokens, cost, containers, requests an hour and builds a day.
--
-- The functions quota_reserve, quota_lease, quota_hit, quota_settle, quota_release, quota_extend,
-- quota_progress, quota_add, quota_grant and quota_apply_plan, and what maintenance does, are the only door: nothing
-- else writes these counters. What makes them safe:
--   * Each locks the user's row first, reads the clock after that, and decides on counters of the locked
--     row. (The short cuts of reserve and settle are one UPDATE that locks and decides at once, on columns
--     of that row alone; they look at the clock again afterwards, and take it back if that shows anything new.) now() is the start of the transaction, so a session that waited for the lock would see the
--     period that has ended meanwhile.
--   * Every statement in them must see what was committed before the lock was had: call them in
--     autocommit, READ COMMITTED. (At REPEATABLE READ a lost race is an error, never an oversale.)
--   * A NULL limit is unlimited: "x > NULL" is not true, so every test here asks "is it over?".
--   * used = SUM(ledger of the period), held = SUM(holds of the period), slots = SUM(slots of all holds).
--
-- Tables and arithmetic are here, the steps in 0006_quota_steps.sql, the door in 0007_quota_reserve.sql,
-- 0008_quota_settle.sql and 0009_quota_limits.sql.
-- Refused arguments raise SQLSTATE 22023, an unknown user 23503.

-- One a minute of an hour that begins and ends within one.
CREATE DOMAIN request_cells AS integer[] CHECK (array_length(VALUE, 1) = 61);

ALTER TABLE user_quotas
    -- Promised to reservations that are not settled yet; counts against the limit like what is used.
    ADD COLUMN tokens_held whole_big NOT NULL DEFAULT 0,
    ADD COLUMN cost_held dollars NOT NULL DEFAULT 0,
    -- The highest of 0, 50, 80, 100 per cent that this period's events have told.
    ADD COLUMN tokens_level smallint NOT NULL DEFAULT 0,
    ADD COLUMN cost_level smallint NOT NULL DEFAULT 0,
    -- Requests by minute, the newest last. A window of 60 minutes touches at most 61 of them, so their sum
    -- is never less than what happened in the hour. requests_used is that sum at the last request.
    ADD COLUMN request_cells request_cells NOT NULL DEFAULT array_fill(0, ARRAY[61]),
    -- Minutes since 1970 of the newest cell.
    ADD COLUMN request_minute bigint NOT NULL DEFAULT 0,
    -- The day, in the user's zone, that builds_used counts.
    ADD COLUMN build_day date,
    -- Requests promised to leases: booked into the cells when they are settled, which is no earlier than
    -- they were made, so that the hour holds.
    ADD COLUMN requests_held whole NOT NULL DEFAULT 0,
    -- The part of the limit that comes from quota_grants, and how much of that this period has used up for good.
    ADD COLUMN tokens_granted whole_big NOT NULL DEFAULT 0,
    ADD COLUMN tokens_burned whole_big NOT NULL DEFAULT 0,
    ADD COLUMN cost_granted dollars NOT NULL DEFAULT 0,
    ADD COLUMN cost_burned dollars NOT NULL DEFAULT 0,
    -- When the next of the open grants expires; NULL: none does.
    ADD COLUMN grants_expire_at timestamptz,
    ADD COLUMN memory_level smallint NOT NULL DEFAULT 0,
    -- When the row was changed before its last change by a short cut: calls that follow each other closely queue for it.
    ADD COLUMN prior_at timestamptz,
    -- Counts what was reserved: a later holder has a higher number, so a driver can fence an earlier one off.
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0;

CREATE DOMAIN holder_name AS text CHECK (char_length(VALUE) <= 200);

-- A hold: made by quota_reserve, removed by settling, releasing, or, after its expiry, by the user's next refusal, the end
-- of the period or the maintenance, whichever comes first. On expiry tokens and cost are charged, because the provider may
-- have billed them, and slots come free.
CREATE TABLE quota_reservations (
    user_id           uuid           NOT NULL,
    -- Made by the client: the idempotency key.
    id                uuid           NOT NULL,
    -- The period that pays, also when it has ended by the time of the settlement.
    period_start      timestamptz    NOT NULL,
    tokens            whole_big      NOT NULL,
    cost              dollars        NOT NULL,
    slots             whole          NOT NULL,
    -- Counted when granted and not given back, because these limit attempts; but see leased.
    requests          whole          NOT NULL,
    builds            whole          NOT NULL,
    -- What a stream has used so far: charged when it ends without a settlement of its own.
    tokens_progressed whole_big      NOT NULL DEFAULT 0,
    cost_progressed   dollars        NOT NULL DEFAULT 0,
    epoch             bigint         NOT NULL,
    expires_at        timestamptz    NOT NULL,
    created_at        timestamptz    NOT NULL,
    -- A block that a process spends from: its requests are promised, and counted when it is settled.
    leased            boolean        NOT NULL DEFAULT false,
    holder            holder_name    NOT NULL DEFAULT '',
    meta              json_map    NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, id),
    -- Not to users: the referential check then locks a row that the transaction has locked already.
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE
);

-- One row a period that has ended. Late settlements still change what it used.
CREATE TABLE quota_history (
    user_id      uuid           NOT NULL,
    period_start timestamptz    NOT NULL,
    period_end   timestamptz    NOT NULL,
    tokens_used  whole_big      NOT NULL,
    tokens_limit whole_big,
    cost_used    dollars        NOT NULL,
    cost_limit   dollars,
    closed_at    timestamptz    NOT NULL,
    -- What its end charged to top-ups that last longer, {id of the grant: [tokens, cost]}: a hold that then ends below its
    -- promise gives that back. First it pays what was over the limit with all top-ups.
    burned       json_map       NOT NULL DEFAULT '{}',
    tokens_unpaid whole_big     NOT NULL DEFAULT 0,
    cost_unpaid  dollars        NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, period_start),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);

-- Top-ups of the monthly limits. They are used after the plan's own allowance, the soonest to expire first,
-- and what is left of them goes over into the next period.
CREATE TABLE quota_grants (
    user_id       uuid           NOT NULL,
    -- Made by the client: the idempotency key.
    id            uuid           NOT NULL,
    tokens        whole_big      NOT NULL,
    cost          dollars        NOT NULL,
    -- Used up for good: reckoned at the end of a period and when a grant expires.
    tokens_burned whole_big      NOT NULL DEFAULT 0,
    cost_burned   dollars        NOT NULL DEFAULT 0,
    reason        text           NOT NULL DEFAULT '',
    created_at    timestamptz    NOT NULL,
    -- NULL: never.
    expires_at    timestamptz,
    -- Expired or used up.
    closed_at     timestamptz,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE,
    CONSTRAINT quota_grants_amounts CHECK (
        tokens_burned <= tokens AND cost_burned <= cost
    ),
    CONSTRAINT quota_grants_reason_length CHECK (char_length(reason) <= 500)
);

ALTER TABLE usage_ledger
    -- NULL: recorded by the application itself, outside of the quota.
    ADD COLUMN period_start timestamptz,
    ADD COLUMN reservation_id uuid,
    -- What was promised to the reservation.
    ADD COLUMN granted_tokens bigint,
    ADD COLUMN granted_cost numeric(20, 9),
    -- Of an entry 'expired' or 'released', what a late settlement corrects: what had progressed, and how many of a lease's
    -- requests were counted in which minute.
    ADD COLUMN progressed_tokens bigint,
    ADD COLUMN progressed_cost numeric(20, 9),
    ADD COLUMN counted_requests integer,
    ADD COLUMN counted_at timestamptz;

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

ALTER TABLE quota_grants ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON quota_grants
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

-- How long the door waits for a lock, if the session has no limit of its own: calls hold the user's row for milliseconds,
-- so whoever has it for seconds is a transaction that somebody left open. Then 55P03 is raised, and nothing was changed.
-- Not a SET of the functions: that would override a shorter limit of the session.
CREATE FUNCTION quota_patience() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN current_setting('lock_timeout') = '0' THEN set_config('lock_timeout', '8s', true) END
$$;

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

-- Minutes since 1970. Through UTC, because EXTRACT from a timestamptz may depend on the session.
CREATE FUNCTION quota_minute(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT floor(EXTRACT(epoch FROM p_at AT TIME ZONE 'UTC') / 60)::bigint
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
                -- Cell i is of minute newest - 61 + i, and drops out 61 minutes after that.
                ring.frees_at := to_timestamp((ring.newest + i) * 60);
                EXIT;
            END IF;
        END LOOP;
    END IF;
    RETURN ring;
END
$$;

-- Add to the cells of earlier moments, or take off what was added there. Of more than an hour ago nothing is left to count.
CREATE FUNCTION quota_ring_book(ring quota_ring, p_at timestamptz[], p_n integer[]) RETURNS quota_ring
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

CREATE FUNCTION quota_level(p_used numeric, p_limit numeric) RETURNS smallint
LANGUAGE sql IMMUTABLE AS $$
    SELECT (CASE WHEN p_limit IS NULL OR p_limit <= 0 THEN 0 WHEN p_used >= p_limit THEN 100
                 WHEN p_used >= p_limit * 0.8 THEN 80 WHEN p_used >= p_limit * 0.5 THEN 50 ELSE 0 END)::smallint
$$;

-- Bounds of one call: a trillion tokens, a billion dollars. Nine million calls with that many tokens fit the counters of a
-- period, and 99 with that many dollars; one that does not fit is refused (22003).
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
