-- The tables that tbeast stands on. Times are timestamptz; ids that travel are text or uuid; NULL in a limit is "no limit".

CREATE TABLE users (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email           text UNIQUE,
    name            text,
    tier            text NOT NULL DEFAULT 'free',
    preferred_lang  text NOT NULL DEFAULT 'en',
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What a new key of each tier is given. Changing a row changes no key that exists.
CREATE TABLE rate_limit_template (
    tier                 text PRIMARY KEY,
    query_limit          bigint,
    rate_limit_qps       double precision CHECK (rate_limit_qps > 0),
    burst_limit          integer CHECK (burst_limit >= 1),
    minimum_wait_seconds double precision NOT NULL CHECK (minimum_wait_seconds >= 0),
    monthly_reports      integer,
    CHECK (query_limit >= 0),
    CHECK (monthly_reports >= 0),
    CHECK ((rate_limit_qps IS NULL) = (burst_limit IS NULL))
);

INSERT INTO rate_limit_template VALUES
    ('free',       1000,   1,    5,    1.0,  10),
    ('pro',        50000,  10,   20,   0.1,  10),
    ('enterprise', 500000, 50,   100,  0.02, 10),
    ('unlimited',  NULL,   100,  200,  0.01, NULL),
    ('lifetime',   NULL,   100,  200,  0.01, NULL),
    ('partner',    NULL,   NULL, NULL, 0.0,  NULL);

-- The key itself is stored nowhere; key_hash is its SHA-256.
CREATE TABLE api_keys (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    key_id               text NOT NULL UNIQUE CHECK (key_id <> ''),
    key_hash             bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    datagram_secret      bytea NOT NULL CHECK (octet_length(datagram_secret) = 32),
    user_id              uuid REFERENCES users (id) ON DELETE SET NULL,
    name                 text NOT NULL DEFAULT '',
    tier                 text NOT NULL DEFAULT 'free' REFERENCES rate_limit_template (tier),
    query_limit          bigint CHECK (query_limit >= 0),
    rate_limit_qps       double precision CHECK (rate_limit_qps > 0),
    burst_limit          integer CHECK (burst_limit >= 1),
    minimum_wait_seconds double precision NOT NULL CHECK (minimum_wait_seconds >= 0),
    monthly_reports      integer CHECK (monthly_reports >= 0),
    lrs_enabled          boolean NOT NULL DEFAULT false,
    response_format      text NOT NULL DEFAULT 'tbc',
    preferred_lang       text NOT NULL DEFAULT 'en',
    revoked              boolean NOT NULL DEFAULT false,
    revoked_at           timestamptz,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    current_usage        bigint NOT NULL DEFAULT 0,
    usage_month          date NOT NULL DEFAULT date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date,
    last_used            timestamptz,
    last_success         timestamptz,
    CHECK ((rate_limit_qps IS NULL) = (burst_limit IS NULL))
);
CREATE INDEX api_keys_changed_at ON api_keys (changed_at);
CREATE INDEX api_keys_user_id ON api_keys (user_id);

-- Nodes ask for what has changed since they last asked. Counting use is no change.
CREATE FUNCTION api_keys_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at := clock_timestamp();
    IF NEW.revoked AND NOT OLD.revoked THEN
        NEW.revoked_at := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER api_keys_touch BEFORE UPDATE OF
    key_id, key_hash, datagram_secret, user_id, name, tier, query_limit, rate_limit_qps, burst_limit,
    minimum_wait_seconds, monthly_reports, lrs_enabled, response_format, preferred_lang, revoked
    ON api_keys FOR EACH ROW EXECUTE FUNCTION api_keys_touch();

CREATE TABLE application_parameters (
    key         text PRIMARY KEY,
    value       text NOT NULL,
    description text NOT NULL DEFAULT '',
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A named set of parameter values that an operator can apply at once.
CREATE TABLE application_parameter_profiles (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_name text NOT NULL UNIQUE,
    description  text NOT NULL DEFAULT '',
    parameters   jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE exchange_feeds (
    exchange      text PRIMARY KEY,
    enabled       boolean NOT NULL DEFAULT true,
    position      integer NOT NULL
);

-- One row for each asset and exchange that lists it. home: the exchange that wins where only two sources are fresh.
CREATE TABLE exchange_asset_map (
    asset           text NOT NULL CHECK (asset ~ '^[A-Z0-9]+$'),
    exchange        text NOT NULL REFERENCES exchange_feeds (exchange),
    exchange_symbol text NOT NULL CHECK (exchange_symbol <> ''),
    name            text NOT NULL DEFAULT '',
    category        text NOT NULL DEFAULT '',
    home            boolean NOT NULL DEFAULT false,
    stablecoin      boolean NOT NULL DEFAULT false,
    enabled         boolean NOT NULL DEFAULT true,
    prewarm         boolean NOT NULL DEFAULT true,
    position        integer NOT NULL DEFAULT 0,
    PRIMARY KEY (asset, exchange),
    UNIQUE (exchange, exchange_symbol)
);
CREATE UNIQUE INDEX exchange_asset_map_one_home ON exchange_asset_map (asset) WHERE home;

-- One row: so many questions of one kind, answered by one node within one short window. key_id '' is nobody known.
-- The id is the batch's with the row's number in it, so a batch that is written twice counts once.
CREATE TABLE usage_logs (
    at              timestamptz NOT NULL,
    id              uuid NOT NULL,
    key_id          text NOT NULL,
    node            text NOT NULL,
    service         text NOT NULL,
    protocol        text NOT NULL,
    asset           text NOT NULL,
    source          text NOT NULL,
    cache_tier      text NOT NULL,
    status          smallint NOT NULL,
    admitted        boolean NOT NULL,
    request_count   bigint NOT NULL CHECK (request_count > 0),
    response_us_sum bigint NOT NULL CHECK (response_us_sum >= 0),
    response_us_max bigint NOT NULL CHECK (response_us_max >= 0),
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
CREATE INDEX usage_logs_key_id_at ON usage_logs (key_id, at);
CREATE INDEX usage_logs_written_at ON usage_logs USING brin (written_at);

-- Rows that the table above would not take, with the reason; to be looked at by a person.
CREATE TABLE usage_refused (
    id          uuid PRIMARY KEY,
    refused_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    node        text NOT NULL,
    reason      text NOT NULL,
    row         jsonb NOT NULL
);

CREATE TABLE report_usage_logs (
    id            uuid PRIMARY KEY,
    at            timestamptz NOT NULL,
    key_id        text NOT NULL,
    node          text NOT NULL,
    report        text NOT NULL,
    format        text NOT NULL,
    status        smallint NOT NULL,
    row_count     bigint NOT NULL DEFAULT 0,
    response_us   bigint NOT NULL DEFAULT 0,
    details       jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX report_usage_logs_key_id_at ON report_usage_logs (key_id, at);
CREATE INDEX report_usage_logs_at ON report_usage_logs (at);

CREATE TABLE monthly_report_counts (
    key_id       text NOT NULL,
    month        date NOT NULL,
    report_count integer NOT NULL DEFAULT 0 CHECK (report_count >= 0),
    PRIMARY KEY (key_id, month)
);
