-- The keys that our recipients know of people who write to them.

-- +goose Up
CREATE TABLE contacts (
    owner       TEXT NOT NULL, -- mailbox of ours
    address     TEXT NOT NULL, -- the contact's
    fingerprint TEXT NOT NULL,
    domain      TEXT NOT NULL, -- of owner
    kind        TEXT NOT NULL,
    origin      TEXT NOT NULL,
    name        TEXT NOT NULL,
    certificate BLOB NOT NULL,
    added       INTEGER NOT NULL, -- Unix milliseconds
    signed      INTEGER NOT NULL, -- 0: never
    expires     INTEGER NOT NULL, -- 0: never
    PRIMARY KEY (owner, address, fingerprint)
) STRICT;

CREATE INDEX contacts_domain ON contacts (domain);

-- +goose Down
DROP TABLE contacts;
