-- What no row of usage may be, whoever writes it. The text comes from closed sets and from the keys' ids.
ALTER TABLE usage_logs
    ADD CONSTRAINT usage_logs_status CHECK (status BETWEEN 100 AND 599),
    ADD CONSTRAINT usage_logs_lengths CHECK (
        octet_length(key_id) <= 200 AND octet_length(node) <= 255 AND octet_length(service) <= 200
        AND octet_length(protocol) <= 200 AND octet_length(asset) <= 200 AND octet_length(source) <= 200
        AND octet_length(cache_tier) <= 200
    );

-- Refused rows leave by their age, as the others do.
CREATE INDEX usage_refused_refused_at ON usage_refused (refused_at);
