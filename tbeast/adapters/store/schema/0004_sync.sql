-- One row for each job that only one node may do at a time. origin, with the database's own
-- number, tells it from any other.
CREATE TABLE sync_runs (
    job         text PRIMARY KEY,
    origin      uuid NOT NULL DEFAULT gen_random_uuid(),
    node        text NOT NULL DEFAULT '',
    token       text NOT NULL DEFAULT '',
    held_until  timestamptz,
    finished_at timestamptz,
    summary     jsonb
);
