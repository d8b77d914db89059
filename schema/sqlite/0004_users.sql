-- Who may submit mail, and what other domains ask of TLS (MTA-STS).

-- +goose Up
CREATE TABLE users (
    name      TEXT PRIMARY KEY,
    verifier  TEXT NOT NULL, -- '' where another program checks the password
    addresses TEXT NOT NULL  -- JSON array
) STRICT, WITHOUT ROWID;

CREATE TABLE policies (
    domain  TEXT PRIMARY KEY,
    policy  BLOB NOT NULL,
    expires INTEGER NOT NULL -- Unix milliseconds
) STRICT, WITHOUT ROWID;

CREATE INDEX policies_expires ON policies (expires);

-- +goose Down
DROP TABLE policies;
DROP TABLE users;
