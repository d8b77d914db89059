-- Who has used what may be used so many times only.

-- +goose Up
CREATE TABLE uses (
    name       text COLLATE "C" NOT NULL,
    user_name  text COLLATE "C" NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (name, user_name)
);

CREATE INDEX uses_expires ON uses (expires_at);

-- +goose Down
DROP TABLE uses;
