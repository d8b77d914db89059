-- The keys that our recipients know of people who write to them.

-- +goose Up
CREATE TABLE contacts (
    owner       text COLLATE "C" NOT NULL, -- mailbox of ours
    address     text COLLATE "C" NOT NULL, -- the contact's
    fingerprint text COLLATE "C" NOT NULL,
    domain      text NOT NULL, -- of owner
    kind        text NOT NULL,
    origin      text NOT NULL,
    name        text NOT NULL,
    certificate bytea NOT NULL,
    added_at    timestamptz NOT NULL,
    signed_at   timestamptz, -- NULL: never
    expires_at  timestamptz, -- NULL: never
    PRIMARY KEY (owner, address, fingerprint)
);

CREATE INDEX contacts_domain ON contacts (domain);

-- +goose Down
DROP TABLE contacts;
