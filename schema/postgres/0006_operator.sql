-- What an operator does to the queue: hold, redirect, drop and bring back; and
-- indexes with which choosing what to claim never walks over a dead domain's
-- backlog.

-- +goose Up
ALTER TABLE deliveries ADD COLUMN next text NOT NULL DEFAULT '', -- the next hop it was redirected to; '' as routed
    ADD COLUMN parked_at timestamptz,                            -- since when it is held or dropped
    ADD COLUMN settled_at timestamptz,
    ADD COLUMN created_at timestamptz;                           -- its message's
UPDATE deliveries d SET created_at = m.created_at FROM messages m WHERE m.id = d.message_id;
ALTER TABLE deliveries ALTER COLUMN created_at SET DEFAULT now(), ALTER COLUMN created_at SET NOT NULL;

-- Leased ones apart: what is born leased and succeeds enters one index only.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state IN ('due', 'deferred');
CREATE INDEX deliveries_leased ON deliveries (due_at) WHERE state = 'leased';
CREATE INDEX deliveries_redirected ON deliveries (next, due_at) WHERE state IN ('due', 'deferred') AND next <> '';
CREATE INDEX deliveries_held ON deliveries (domain) WHERE state = 'held';

-- The content of a dropped delivery outlives it for a while.
ALTER TABLE messages ADD COLUMN dropped_at timestamptz; -- the latest drop; NULL once the content may go
CREATE INDEX messages_dropped ON messages (dropped_at) WHERE dropped_at IS NOT NULL;

CREATE TABLE events (
    message_id text COLLATE "C" NOT NULL,
    seq        bigint GENERATED ALWAYS AS IDENTITY,
    n          integer     NOT NULL, -- of the delivery; -1: the whole message
    at         timestamptz NOT NULL,
    verb       text        NOT NULL,
    by         text        NOT NULL, -- who asked for it
    detail     text        NOT NULL,
    PRIMARY KEY (message_id, seq)
);

-- +goose Down
DROP TABLE events;
DROP INDEX messages_dropped, deliveries_held, deliveries_redirected, deliveries_leased, deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state IN ('due', 'deferred', 'leased');
ALTER TABLE messages DROP COLUMN dropped_at;
ALTER TABLE deliveries DROP COLUMN next, DROP COLUMN parked_at, DROP COLUMN settled_at, DROP COLUMN created_at;
