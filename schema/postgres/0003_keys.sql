-- Secrets that all nodes share and that outlive a restart.

-- +goose Up
CREATE TABLE keys (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);

-- +goose Down
DROP TABLE keys;
