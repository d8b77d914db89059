-- +goose Up

-- One row per message. Content of up to one piece is in body, longer content
-- in the table content under content_id; both go with the last delivery, the
-- rest of the row stays for the retention time of traces.
CREATE TABLE messages (
    id          text COLLATE "C" PRIMARY KEY,
    tid         text        NOT NULL,
    envelope    text        NOT NULL, -- JSON of mail.Envelope
    origin      text        NOT NULL, -- JSON of mail.Origin
    facts       text        NOT NULL, -- JSON of what the content is like
    trace       bytea       NOT NULL, -- header fields to prepend
    size        bigint      NOT NULL,
    sha256      bytea       NOT NULL,
    body        bytea,
    content_id  bigint,
    open        integer     NOT NULL, -- deliveries that are not settled yet
    created_at  timestamptz NOT NULL,
    finished_at timestamptz           -- when open became 0
);
-- Content is stored as it is: compressing mail costs more than it saves, and
-- hashes and dot-stuffing read it again and again.
ALTER TABLE messages ALTER COLUMN body SET STORAGE EXTERNAL;
-- The row is rewritten once, when the message is finished.
ALTER TABLE messages SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 1);
CREATE INDEX messages_finished ON messages (finished_at) WHERE finished_at IS NOT NULL;

-- Content in pieces, by the offset of their first octet.
CREATE SEQUENCE content_ids;
CREATE TABLE content (
    content_id bigint NOT NULL,
    start      bigint NOT NULL,
    data       bytea  NOT NULL,
    PRIMARY KEY (content_id, start)
);
ALTER TABLE content ALTER COLUMN data SET STORAGE EXTERNAL;

-- Content that no message refers to yet: its writer puts the message in and
-- takes the row out in one transaction, or dies and leaves it to Maintain.
CREATE TABLE uploads (
    content_id bigint PRIMARY KEY,
    touched_at timestamptz NOT NULL
);

-- One row per recipient. A lease is due_at moved into the future, the node
-- that holds it and a token that every claim raises; one that ran out is
-- simply due again. The latest attempt is kept in the row itself, earlier ones
-- move to attempts.
CREATE TABLE deliveries (
    message_id text COLLATE "C" NOT NULL,
    n          integer     NOT NULL,
    rcpt       text        NOT NULL,
    domain     text        NOT NULL,
    state      text        NOT NULL, -- store.State
    due_at     timestamptz NOT NULL, -- claimable from then on, while the state is an open one
    expires_at timestamptz NOT NULL,
    node       text        NOT NULL, -- holder of the lease; '' without one
    token      bigint      NOT NULL,
    attempt    integer     NOT NULL, -- attempts begun
    unsettled  integer     NOT NULL, -- attempts begun in a row without a settlement
    in_doubt   boolean     NOT NULL,
    delayed    boolean     NOT NULL, -- a delay DSN has been sent
    last_text  text        NOT NULL, -- words of the last outcome
    began_at   timestamptz,          -- of the latest attempt, as are the next two
    ended_at   timestamptz,
    outcome    text,                 -- JSON of how it ended
    PRIMARY KEY (message_id, n)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state IN ('due', 'deferred', 'leased');
-- For the release of a peer's queue; deliveries that are born leased and
-- succeed never enter it.
CREATE INDEX deliveries_waiting ON deliveries (domain, due_at) WHERE state IN ('due', 'deferred');

CREATE TABLE attempts (
    message_id text COLLATE "C" NOT NULL,
    n          integer     NOT NULL,
    number     integer     NOT NULL,
    began_at   timestamptz NOT NULL,
    ended_at   timestamptz,
    outcome    text,
    PRIMARY KEY (message_id, n, number)
);

-- Transfers from peers whose content is still coming in.
CREATE TABLE transfers (
    domain     text COLLATE "C" NOT NULL,
    local      text COLLATE "C" NOT NULL,
    tid        text COLLATE "C" NOT NULL,
    size       bigint      NOT NULL,
    sha256     bytea       NOT NULL,
    content_id bigint      NOT NULL,
    next       bigint      NOT NULL, -- octets held
    touched_at timestamptz NOT NULL,
    PRIMARY KEY (domain, local, tid)
);

-- What was accepted from peers, per recipient: the memory that makes a
-- repeated transfer harmless.
CREATE TABLE acceptances (
    domain      text COLLATE "C" NOT NULL,
    local       text COLLATE "C" NOT NULL,
    tid         text COLLATE "C" NOT NULL,
    rcpt        text COLLATE "C" NOT NULL,
    size        bigint      NOT NULL,
    sha256      bytea       NOT NULL,
    message_id  text        NOT NULL,
    accepted_at timestamptz NOT NULL,
    PRIMARY KEY (domain, local, tid, rcpt)
);
CREATE INDEX acceptances_age ON acceptances (accepted_at);

CREATE TABLE peers (
    domain  text PRIMARY KEY,
    facts   bytea       NOT NULL,
    seen_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE peers, acceptances, transfers, attempts, deliveries, uploads, content, messages;
DROP SEQUENCE content_ids;
