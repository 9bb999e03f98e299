-- Keys that take the place of others. A key with ends_at is as good as revoked from then on; replaces is the id of the
-- key whose place this one took.

ALTER TABLE api_keys ADD COLUMN ends_at timestamptz, ADD COLUMN replaces text;
CREATE INDEX api_keys_ends_at ON api_keys (ends_at) WHERE ends_at IS NOT NULL;
CREATE INDEX api_keys_replaces ON api_keys (replaces) WHERE replaces IS NOT NULL;
CREATE INDEX api_keys_created_at ON api_keys (created_at, key_id);

-- Nodes remember a revocation and believe nobody who says otherwise, so nobody shall be able to say otherwise.
CREATE OR REPLACE FUNCTION api_keys_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked AND NOT NEW.revoked THEN
        RAISE EXCEPTION 'the key % is revoked, and that is for good: make a new one', OLD.key_id
            USING ERRCODE = 'check_violation';
    END IF;
    NEW.changed_at := clock_timestamp();
    IF NEW.revoked AND NOT OLD.revoked THEN
        NEW.revoked_at := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER api_keys_touch ON api_keys;
CREATE TRIGGER api_keys_touch BEFORE UPDATE OF
    key_id, key_hash, datagram_secret, user_id, name, tier, query_limit, rate_limit_qps, burst_limit,
    minimum_wait_seconds, monthly_reports, lrs_enabled, response_format, preferred_lang, revoked, ends_at
    ON api_keys FOR EACH ROW EXECUTE FUNCTION api_keys_touch();
