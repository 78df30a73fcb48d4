-- Quotas: ids of earlier calls, thresholds, top-ups, plans, and the jobs of maintenance (0005_quotas.sql says why they
-- are safe). The functions before quota_grant are internal steps: they rely on the lock of their callers.

-- Return what an id that was used before got: an open reservation, or what the ledger says of it. NULL: a new id. An id
-- that was used with other amounts than p_asked (NULL: any) is a conflict.
CREATE FUNCTION quota_find(p_user uuid, p_id uuid, p_asked text) RETURNS quota_decision
LANGUAGE plpgsql AS $$
DECLARE
    d quota_decision;
BEGIN
    SELECT (r.asked <> p_asked) IS NOT TRUE, CASE WHEN r.asked <> p_asked THEN 'conflict' ELSE 'held' END, r.tokens,
           r.cost, NULL, NULL, NULL, NULL, r.expires_at, r.epoch, true, NULL, r.requests,
           r.expires_at - clock_timestamp() INTO d
    FROM quota_reservations AS r WHERE r.user_id = p_user AND r.id = p_id;
    IF FOUND THEN
        RETURN d;
    END IF;
    -- 'tokens' is the last of the three kinds in the alphabet, and the final entry of an id.
    SELECT l.kind = 'tokens' AND (l.asked <> p_asked) IS NOT TRUE,
           CASE WHEN l.asked <> p_asked THEN 'conflict' WHEN l.kind = 'tokens' THEN 'settled' ELSE l.kind END,
           l.granted_tokens, l.granted_cost, NULL, NULL, NULL, NULL, NULL, NULL, true, NULL, NULL, NULL INTO d
    FROM usage_ledger AS l WHERE l.user_id = p_user AND l.reservation_id = p_id ORDER BY l.kind DESC LIMIT 1;
    IF FOUND THEN
        RETURN d;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION quota_level(p_used numeric, p_limit numeric) RETURNS smallint
LANGUAGE sql IMMUTABLE AS $$
    SELECT (CASE WHEN p_limit IS NULL OR p_limit <= 0 THEN 0 WHEN p_used >= p_limit THEN 100
                 WHEN p_used >= p_limit * 0.8 THEN 80 WHEN p_used >= p_limit * 0.5 THEN 50 ELSE 0 END)::smallint
$$;

-- Emit an event, once a period, when 50, 80 or 100 per cent of a month's limit are used.
CREATE FUNCTION quota_emit_thresholds(q user_quotas) RETURNS void
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

-- Charge to the open grants what is over the plan's own allowance, the soonest to expire first, and close those that
-- have expired. In the middle of a period it charges only the expired ones: reservations may still be given back, and
-- the other grants last until the end. At the end of the period (p_ends) it charges for good: the rest is the next
-- period's, and what was charged is noted in quota_history, because reservations outlive the period.
CREATE FUNCTION quota_consume_grants(q user_quotas, p_at timestamptz, p_ends boolean) RETURNS user_quotas
LANGUAGE plpgsql AS $$
DECLARE
    g quota_grants;
    -- NULL counts as 0 below: an unlimited dimension needs no grants.
    tokens_over bigint := q.tokens_used + q.tokens_held - (q.tokens_limit - q.tokens_granted) - q.tokens_burned;
    cost_over numeric := q.cost_used + q.cost_held - (q.cost_limit - q.cost_granted) - q.cost_burned;
    -- What the expired ones leave unused.
    tokens_lost bigint := 0;
    cost_lost numeric := 0;
    tokens_left bigint := 0;
    cost_left numeric := 0;
    noted jsonb := '{}';
    tokens bigint;
    cost numeric;
BEGIN
    FOR g IN
        SELECT * FROM quota_grants AS o
        WHERE o.user_id = q.user_id AND o.closed_at IS NULL AND (p_ends OR o.expires_at <= p_at)
        ORDER BY o.expires_at NULLS LAST, o.id
    LOOP
        tokens := least(greatest(coalesce(tokens_over, 0), 0), g.tokens - g.tokens_burned);
        cost := least(greatest(coalesce(cost_over, 0), 0), g.cost - g.cost_burned);
        tokens_over := tokens_over - tokens;
        cost_over := cost_over - cost;
        q.tokens_burned := q.tokens_burned + tokens;
        q.cost_burned := q.cost_burned + cost;
        g.tokens_burned := g.tokens_burned + tokens;
        g.cost_burned := g.cost_burned + cost;
        IF g.expires_at <= p_at THEN
            tokens_lost := tokens_lost + g.tokens - g.tokens_burned;
            cost_lost := cost_lost + g.cost - g.cost_burned;
        ELSE
            tokens_left := tokens_left + g.tokens - g.tokens_burned;
            cost_left := cost_left + g.cost - g.cost_burned;
            IF tokens > 0 OR cost > 0 THEN
                noted := noted || jsonb_build_object(g.id, jsonb_build_array(tokens, cost));
            END IF;
        END IF;
        UPDATE quota_grants AS o
        SET tokens_burned = g.tokens_burned, cost_burned = g.cost_burned,
            closed_at = CASE WHEN g.expires_at <= p_at
                               OR p_ends AND g.tokens_burned = g.tokens AND g.cost_burned = g.cost THEN p_at END
        WHERE o.user_id = q.user_id AND o.id = g.id;
    END LOOP;
    -- Somebody in psql may have set a limit below what is granted on top of it. greatest() alone would ignore the NULL
    -- of no limit, and make a limit of it.
    IF p_ends THEN
        q.tokens_limit := CASE WHEN q.tokens_limit IS NOT NULL
                               THEN greatest(q.tokens_limit - q.tokens_granted, 0) + tokens_left END;
        q.cost_limit := CASE WHEN q.cost_limit IS NOT NULL
                             THEN greatest(q.cost_limit - q.cost_granted, 0) + cost_left END;
        q.tokens_granted := tokens_left;
        q.cost_granted := cost_left;
        UPDATE quota_history AS h
        SET burned = noted, tokens_unpaid = greatest(tokens_over, 0), cost_unpaid = greatest(cost_over, 0)
        WHERE h.user_id = q.user_id AND h.period_start = q.period_start AND noted <> '{}';
        q.tokens_burned := 0;
        q.cost_burned := 0;
    ELSE
        q.tokens_limit := CASE WHEN q.tokens_limit IS NOT NULL THEN greatest(q.tokens_limit - tokens_lost, 0) END;
        q.cost_limit := CASE WHEN q.cost_limit IS NOT NULL THEN greatest(q.cost_limit - cost_lost, 0) END;
        q.tokens_granted := q.tokens_granted - tokens_lost;
        q.cost_granted := q.cost_granted - cost_lost;
    END IF;
    q.grants_expire_at := (
        SELECT min(o.expires_at) FROM quota_grants AS o WHERE o.user_id = q.user_id AND o.closed_at IS NULL
    );
    UPDATE user_quotas AS u
    SET tokens_limit = q.tokens_limit, cost_limit = q.cost_limit, tokens_granted = q.tokens_granted,
        cost_granted = q.cost_granted, tokens_burned = q.tokens_burned, cost_burned = q.cost_burned,
        grants_expire_at = q.grants_expire_at
    WHERE u.user_id = q.user_id;
    RETURN q;
END
$$;

-- Give back to the top-ups what the end of a period charged to them for a reservation that then cost less. The last to
-- expire comes first, because it was charged last. A grant that has expired meanwhile stays lost.
CREATE FUNCTION quota_give_back(q user_quotas, p_period timestamptz, p_tokens bigint, p_cost numeric) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    h quota_history;
    g quota_grants;
    at timestamptz := clock_timestamp();
    -- Below 0: it cost more than was reserved, and nothing was charged for that.
    tokens_back bigint;
    cost_back numeric;
    tokens bigint;
    cost numeric;
    tokens_open bigint := 0;
    cost_open numeric := 0;
    next_expiry timestamptz;
BEGIN
    SELECT * INTO h FROM quota_history AS o
    WHERE o.user_id = q.user_id AND o.period_start = p_period AND o.burned <> '{}';
    IF NOT FOUND OR p_tokens = 0 AND p_cost = 0 THEN
        RETURN;
    END IF;
    tokens_back := greatest(p_tokens - h.tokens_unpaid, 0);
    cost_back := greatest(p_cost - h.cost_unpaid, 0);
    FOR g IN
        SELECT * FROM quota_grants AS o WHERE o.user_id = q.user_id AND h.burned ? o.id::text
        ORDER BY o.expires_at DESC NULLS FIRST, o.id DESC
    LOOP
        tokens := least(tokens_back, (h.burned -> g.id::text ->> 0)::bigint);
        cost := least(cost_back, (h.burned -> g.id::text ->> 1)::numeric);
        tokens_back := tokens_back - tokens;
        cost_back := cost_back - cost;
        h.burned := jsonb_set(h.burned, ARRAY[g.id::text], jsonb_build_array(
            (h.burned -> g.id::text ->> 0)::bigint - tokens, (h.burned -> g.id::text ->> 1)::numeric - cost));
        g.tokens_burned := g.tokens_burned - tokens;
        g.cost_burned := g.cost_burned - cost;
        IF g.closed_at IS NULL OR g.expires_at IS NULL OR g.expires_at > at THEN
            tokens_open := tokens_open + tokens;
            cost_open := cost_open + cost;
            IF tokens > 0 OR cost > 0 THEN
                g.closed_at := NULL;
                next_expiry := least(next_expiry, g.expires_at);
            END IF;
        END IF;
        UPDATE quota_grants AS o
        SET tokens_burned = g.tokens_burned, cost_burned = g.cost_burned, closed_at = g.closed_at
        WHERE o.user_id = q.user_id AND o.id = g.id;
    END LOOP;
    UPDATE quota_history AS o
    SET burned = h.burned, tokens_unpaid = greatest(h.tokens_unpaid - p_tokens, 0),
        cost_unpaid = greatest(h.cost_unpaid - p_cost, 0)
    WHERE o.user_id = q.user_id AND o.period_start = p_period;
    UPDATE user_quotas AS u
    SET tokens_limit = u.tokens_limit + tokens_open, tokens_granted = u.tokens_granted + tokens_open,
        cost_limit = u.cost_limit + cost_open, cost_granted = u.cost_granted + cost_open,
        grants_expire_at = least(u.grants_expire_at, next_expiry)
    WHERE u.user_id = q.user_id;
END
$$;

-- Add to the monthly limits until p_expires_at (NULL: until it is used). False: this id was granted before.
CREATE FUNCTION quota_grant(
    p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_expires_at timestamptz, p_reason text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    at timestamptz;
BEGIN
    PERFORM quota_check_amounts(p_id, p_tokens, p_cost, NULL);
    IF num_nulls(p_tokens, p_cost) > 0 OR p_tokens = 0 AND round(p_cost, 9) = 0 THEN
        RAISE EXCEPTION 'nothing to grant: tokens and cost are 0' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM quota_lock(p_user);
    at := clock_timestamp();
    IF p_expires_at <= at THEN
        RAISE EXCEPTION 'a grant must expire in the future, not at %', p_expires_at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO quota_grants (user_id, id, tokens, cost, reason, created_at, expires_at)
    VALUES (p_user, p_id, p_tokens, round(p_cost, 9), coalesce(p_reason, ''), at, p_expires_at)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE user_quotas AS u
    SET tokens_limit = u.tokens_limit + p_tokens, tokens_granted = u.tokens_granted + p_tokens,
        cost_limit = u.cost_limit + round(p_cost, 9), cost_granted = u.cost_granted + round(p_cost, 9),
        -- least() ignores NULL, which is never.
        grants_expire_at = least(u.grants_expire_at, p_expires_at)
    WHERE u.user_id = p_user;
    RETURN true;
END
$$;

-- Set a user's limits to those of the plan, except the overridden ones; what is used and granted stays.
CREATE FUNCTION quota_apply_plan(p_user uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM quota_lock(p_user);
    UPDATE user_quotas AS u
    SET tokens_limit = CASE WHEN 'tokens' = ANY (u.overridden) THEN u.tokens_limit
                            ELSE p.tokens_limit + u.tokens_granted END,
        cost_limit = CASE WHEN 'cost' = ANY (u.overridden) THEN u.cost_limit ELSE p.cost_limit + u.cost_granted END,
        containers_limit = CASE WHEN 'containers' = ANY (u.overridden) THEN u.containers_limit
                                ELSE p.containers_limit END,
        requests_limit = CASE WHEN 'requests' = ANY (u.overridden) THEN u.requests_limit ELSE p.requests_limit END,
        builds_limit = CASE WHEN 'builds' = ANY (u.overridden) THEN u.builds_limit ELSE p.builds_limit END,
        memory_limit = CASE WHEN 'memory' = ANY (u.overridden) THEN u.memory_limit ELSE p.memory_limit END,
        memory_hard = CASE WHEN 'memory' = ANY (u.overridden) THEN u.memory_hard ELSE p.memory_hard END,
        projects_limit = CASE WHEN 'projects' = ANY (u.overridden) THEN u.projects_limit ELSE p.projects_limit END,
        sessions_limit = CASE WHEN 'sessions' = ANY (u.overridden) THEN u.sessions_limit ELSE p.sessions_limit END,
        previews_limit = CASE WHEN 'previews' = ANY (u.overridden) THEN u.previews_limit ELSE p.previews_limit END
    FROM users AS o
    JOIN plans AS p ON p.name = o.plan
    WHERE u.user_id = p_user AND o.id = p_user;
END
$$;

-- Do that for the users of a plan after p_after in the order of ids, so that two calls cannot deadlock; at most p_limit
-- of them. Returns the last one's id; NULL: there are no more.
CREATE FUNCTION quota_apply_plan_to_all(p_plan text, p_after uuid, p_limit integer) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    next_id uuid;
    last_id uuid;
BEGIN
    FOR next_id IN
        SELECT o.id FROM users AS o WHERE o.plan = p_plan AND o.id > p_after ORDER BY o.id LIMIT p_limit
    LOOP
        PERFORM quota_apply_plan(next_id);
        last_id := next_id;
    END LOOP;
    RETURN last_id;
END
$$;

-- Close the periods of these users, if they have ended. A locked row is in a call that does the same.
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

-- End the expired reservations of these users as their own next refusal would: charge tokens and cost, free the slots.
-- About p_limit of one user at most, the earliest first. Returns how many ended, and the users whose rows were locked;
-- with p_wait it waits for those.
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
