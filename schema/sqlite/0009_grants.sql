-- Who may write to whom (xep-draft section 10).

-- +goose Up
CREATE TABLE grants (
    kind      TEXT NOT NULL, -- given, asked, held, wanted
    recipient TEXT NOT NULL, -- mailbox, or @domain
    author    TEXT NOT NULL, -- mailbox, or @domain
    peer      TEXT NOT NULL, -- the domain of the other side
    state     TEXT NOT NULL,
    origin    TEXT NOT NULL,
    key       BLOB NOT NULL,
    text      TEXT NOT NULL,
    told      INTEGER NOT NULL,
    created   INTEGER NOT NULL, -- Unix milliseconds
    expires   INTEGER NOT NULL, -- Unix milliseconds; the end of time for never
    version   INTEGER NOT NULL,
    PRIMARY KEY (kind, recipient, author)
) STRICT, WITHOUT ROWID;

CREATE INDEX grants_author ON grants (kind, author);
CREATE INDEX grants_peer ON grants (kind, peer);
CREATE INDEX grants_untold ON grants (kind, recipient, author) WHERE told = 0;
CREATE INDEX grants_expires ON grants (expires);

-- +goose Down
DROP TABLE grants;
