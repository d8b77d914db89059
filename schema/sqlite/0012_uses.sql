-- Who has used what may be used so many times only.

-- +goose Up
CREATE TABLE uses (
    name      TEXT NOT NULL,
    user_name TEXT NOT NULL,
    expires   INTEGER NOT NULL, -- Unix milliseconds
    PRIMARY KEY (name, user_name)
) STRICT, WITHOUT ROWID;

CREATE INDEX uses_expires ON uses (expires);

-- +goose Down
DROP TABLE uses;
