-- Keys with which mail is signed, and reverse-paths too long to be rewritten.

-- +goose Up
CREATE TABLE signing_keys (
    domain     text COLLATE "C" NOT NULL,
    selector   text COLLATE "C" NOT NULL,
    private    bytea NOT NULL, -- PKCS #8
    forced     boolean NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (domain, selector)
);

CREATE TABLE return_paths (
    name       text PRIMARY KEY,
    address    text NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX return_paths_expires ON return_paths (expires_at);

-- +goose Down
DROP TABLE return_paths;
DROP TABLE signing_keys;
