-- An open transfer belongs to whoever began or took it up last: turn is that
-- one's fencing token.

-- +goose Up
ALTER TABLE transfers ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE transfers DROP COLUMN turn;
