-- Who may write to whom (xep-draft section 10).

-- +goose Up
CREATE TABLE grants (
    kind       text COLLATE "C" NOT NULL, -- given, asked, held, wanted
    recipient  text COLLATE "C" NOT NULL, -- mailbox, or @domain
    author     text COLLATE "C" NOT NULL, -- mailbox, or @domain
    peer       text COLLATE "C" NOT NULL, -- the domain of the other side
    state      text NOT NULL,
    origin     text NOT NULL,
    key        bytea NOT NULL,
    text       text NOT NULL,
    told       boolean NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL, -- infinity for never
    version    bigint NOT NULL,
    PRIMARY KEY (kind, recipient, author)
);

CREATE INDEX grants_author ON grants (kind, author);
CREATE INDEX grants_peer ON grants (kind, peer);
CREATE INDEX grants_untold ON grants (kind, recipient, author) WHERE NOT told;
CREATE INDEX grants_expires ON grants (expires_at);

-- +goose Down
DROP TABLE grants;
