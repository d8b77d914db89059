-- What an operator does to the queue: hold, redirect, drop and bring back; and
-- indexes with which choosing what to claim never walks over a dead domain's
-- backlog. A held delivery (state 7) is open, and due at the end of time.

-- +goose Up
ALTER TABLE deliveries ADD COLUMN next TEXT NOT NULL DEFAULT ''; -- the next hop it was redirected to; '' as routed
ALTER TABLE deliveries ADD COLUMN parked INTEGER NOT NULL DEFAULT 0; -- since when it is held or dropped
ALTER TABLE deliveries ADD COLUMN extra INTEGER NOT NULL DEFAULT 0; -- added to its message's lifetime for having been parked

DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due, domain, next) WHERE state < 2; -- due and deferred ones
CREATE INDEX deliveries_waiting ON deliveries (domain, due) WHERE state < 2;
CREATE INDEX deliveries_leased ON deliveries (due, domain, next) WHERE state = 2;
CREATE INDEX deliveries_held ON deliveries (domain) WHERE state = 7;
CREATE INDEX deliveries_redirected ON deliveries (due, domain, next) WHERE state < 2 AND next <> '';

-- The content of a dropped delivery outlives it for a while.
ALTER TABLE messages ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0; -- the latest drop; 0 once the content may go
CREATE INDEX messages_dropped ON messages (dropped) WHERE dropped > 0;

CREATE TABLE events (
    num    INTEGER NOT NULL, -- of the message
    seq    INTEGER NOT NULL,
    n      INTEGER NOT NULL, -- of the delivery; -1: the whole message
    at     INTEGER NOT NULL,
    verb   TEXT    NOT NULL,
    by     TEXT    NOT NULL, -- who asked for it
    detail TEXT    NOT NULL,
    PRIMARY KEY (num, seq)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE events;
DROP INDEX messages_dropped;
ALTER TABLE messages DROP COLUMN dropped;
DROP INDEX deliveries_redirected;
DROP INDEX deliveries_held;
DROP INDEX deliveries_leased;
DROP INDEX deliveries_waiting;
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due, domain, state) WHERE due IS NOT NULL;
ALTER TABLE deliveries DROP COLUMN extra;
ALTER TABLE deliveries DROP COLUMN parked;
ALTER TABLE deliveries DROP COLUMN next;
