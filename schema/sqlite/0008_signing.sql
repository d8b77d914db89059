-- Keys with which mail is signed, and reverse-paths too long to be rewritten.

-- +goose Up
CREATE TABLE signing_keys (
    domain   TEXT NOT NULL,
    selector TEXT NOT NULL,
    private  BLOB NOT NULL, -- PKCS #8
    forced   INTEGER NOT NULL,
    created  INTEGER NOT NULL, -- Unix milliseconds
    PRIMARY KEY (domain, selector)
) STRICT, WITHOUT ROWID;

CREATE TABLE return_paths (
    name    TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    expires INTEGER NOT NULL -- Unix milliseconds
) STRICT, WITHOUT ROWID;

CREATE INDEX return_paths_expires ON return_paths (expires);

-- +goose Down
DROP TABLE return_paths;
DROP TABLE signing_keys;
