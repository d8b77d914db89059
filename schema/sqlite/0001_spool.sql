-- Times are milliseconds since 1970. A delivery's key is its message's num
-- times 65536 plus its number, a piece's key its content's number times
-- 16777216 plus its place: so that each is found, and all of one message or
-- content are, through the table's own tree and no further index is written.

-- +goose Up
CREATE TABLE messages (
    num      INTEGER PRIMARY KEY, -- drawn in the order of storing, never again
    id       TEXT    NOT NULL UNIQUE,
    tid      TEXT    NOT NULL,
    envelope TEXT    NOT NULL, -- JSON of mail.Envelope
    origin   TEXT    NOT NULL, -- JSON of mail.Origin
    trace    BLOB,             -- NULL: none
    size     INTEGER NOT NULL,
    sha256   BLOB    NOT NULL,
    received INTEGER NOT NULL, -- Received fields
    flags    INTEGER NOT NULL, -- the yes or no parts of mail.Facts
    content  INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    expires  INTEGER NOT NULL
) STRICT;

CREATE TABLE content (
    key  INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- Content that no message refers to yet, or any more.
CREATE TABLE loose (
    content INTEGER PRIMARY KEY
) STRICT;

-- The columns from began on are those of the latest attempt. Earlier ones are
-- in attempts, which mail that is delivered at the first one never touches.
CREATE TABLE deliveries (
    key       INTEGER PRIMARY KEY,
    domain    TEXT    NOT NULL,
    rcpt      TEXT    NOT NULL,
    state     INTEGER NOT NULL,
    due       INTEGER,          -- when it may be claimed, so a lease's end too; NULL once settled
    token     INTEGER NOT NULL,
    attempt   INTEGER NOT NULL, -- begun so far
    cut       INTEGER NOT NULL, -- begun and not settled, in a row
    in_doubt  INTEGER NOT NULL,
    delayed   INTEGER NOT NULL,
    settled   INTEGER NOT NULL, -- 0: open
    began     INTEGER NOT NULL, -- 0: none
    ended     INTEGER NOT NULL, -- 0: running; -1: cut short
    result    INTEGER NOT NULL,
    status    TEXT    NOT NULL,
    text      TEXT    NOT NULL, -- kept while the next attempt runs
    remote    TEXT    NOT NULL,
    remote_id TEXT    NOT NULL,
    proof     TEXT    NOT NULL,
    tls       TEXT    NOT NULL
) STRICT;

-- Holds all that choosing what to claim looks at.
CREATE INDEX deliveries_due ON deliveries (due, domain, state) WHERE due IS NOT NULL;

CREATE TABLE attempts (
    delivery  INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    began     INTEGER NOT NULL,
    ended     INTEGER NOT NULL,
    result    INTEGER NOT NULL,
    status    TEXT    NOT NULL,
    text      TEXT    NOT NULL,
    remote    TEXT    NOT NULL,
    remote_id TEXT    NOT NULL,
    proof     TEXT    NOT NULL,
    tls       TEXT    NOT NULL,
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE transfers (
    domain  TEXT    NOT NULL,
    local   TEXT    NOT NULL,
    tid     TEXT    NOT NULL,
    size    INTEGER NOT NULL,
    sha256  BLOB    NOT NULL,
    content INTEGER NOT NULL,
    pieces  INTEGER NOT NULL,
    next    INTEGER NOT NULL,
    touched INTEGER NOT NULL,
    PRIMARY KEY (domain, local, tid)
) STRICT, WITHOUT ROWID;

-- The key is that of the delivery made at acceptance, hence in order of time.
CREATE TABLE acceptances (
    delivery INTEGER PRIMARY KEY,
    domain   TEXT    NOT NULL,
    local    TEXT    NOT NULL,
    tid      TEXT    NOT NULL,
    rcpt     TEXT    NOT NULL,
    size     INTEGER NOT NULL,
    sha256   BLOB    NOT NULL,
    id       TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    UNIQUE (domain, local, tid, rcpt)
) STRICT;

CREATE TABLE peers (
    domain TEXT    PRIMARY KEY,
    facts  BLOB,
    seen   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE peers;
DROP TABLE acceptances;
DROP TABLE transfers;
DROP TABLE attempts;
DROP TABLE deliveries;
DROP TABLE loose;
DROP TABLE content;
DROP TABLE messages;
