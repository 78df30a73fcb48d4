-- Quotas: what the contents of memory take in the database.
--
-- Soft for almost everybody, so a put asks for one flag of the user's row and goes on. Where the limit is hard, the puts
-- of one user take turns: two that fit each for itself would not fit together.

-- A row of the user's, and no advisory lock, which any tenant could take in another's name.
CREATE FUNCTION memory_lock_user(p_user uuid) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM users AS u WHERE u.id = p_user FOR NO KEY UPDATE;
END
$$;

-- Take the turn of a user whose limit is hard, until the end of the transaction. Always true. It comes before the lock
-- of any file, so that a put and a longer transaction cannot wait for each other.
--
-- STABLE, here and below, saves a snapshot a call; what must see the present asks through a VOLATILE function.
CREATE FUNCTION memory_turn(p_user uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard) THEN
        PERFORM memory_lock_user(p_user);
    END IF;
    RETURN true;
END
$$;

-- Bytes that the contents of a user take now: those of deltas and keyframes, as they are stored. Only their lengths are
-- read, 0.6 µs each (measured).
CREATE FUNCTION memory_bytes(p_user uuid) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT coalesce(sum(octet_length(b.data)), 0) FROM memory_blobs AS b WHERE b.user_id = p_user);
END
$$;

-- VOLATILE: it must see what was committed before the turn was had.
CREATE FUNCTION memory_fits_hard_limit(p_user uuid, p_sha256 bytea, p_data bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- NULL is unlimited.
    room bigint := (SELECT q.memory_limit FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard);
BEGIN
    RETURN room IS NULL OR room >= memory_bytes(p_user) + octet_length(p_data)
        -- What is stored already takes nothing.
        OR EXISTS (
            SELECT FROM memory_blobs AS b WHERE b.user_id = p_user AND b.sha256 = p_sha256 AND b.data IS NOT NULL
        );
END
$$;

-- Whether a user's limit lets a content in. NULL as data, of which only the hash is kept, always fits.
CREATE FUNCTION memory_fits(p_user uuid, p_sha256 bytea, p_data bytea) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard) AND p_data IS NOT NULL THEN
        RETURN memory_turn(p_user) AND memory_fits_hard_limit(p_user, p_sha256, p_data);
    END IF;
    RETURN true;
END
$$;
