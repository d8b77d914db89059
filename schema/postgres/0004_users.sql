-- Who may submit mail, and what other domains ask of TLS (MTA-STS).

-- +goose Up
CREATE TABLE users (
    name      text COLLATE "C" PRIMARY KEY,
    verifier  text NOT NULL, -- '' where another program checks the password
    addresses text[] NOT NULL
);

CREATE TABLE policies (
    domain     text PRIMARY KEY,
    policy     bytea NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX policies_expires ON policies (expires_at);

-- +goose Down
DROP TABLE policies;
DROP TABLE users;
