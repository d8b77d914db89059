-- Secrets that all nodes share and that outlive a restart.

-- +goose Up
CREATE TABLE keys (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE keys;
