-- How TLS with the MX hosts of other domains fared, for daily reports (RFC 8460).

-- +goose Up
CREATE TABLE tls_reports (
    day       TEXT    NOT NULL, -- UTC, '2006-01-02'
    domain    TEXT    NOT NULL,
    first_due INTEGER NOT NULL, -- Unix milliseconds
    due       INTEGER,          -- NULL once it is over; in the future while a node has it
    token     INTEGER NOT NULL DEFAULT 0,
    id        TEXT    NOT NULL DEFAULT '',
    state     TEXT    NOT NULL DEFAULT 'waiting',
    said      TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (day, domain)
) STRICT, WITHOUT ROWID;

CREATE INDEX tls_reports_due ON tls_reports (due) WHERE due IS NOT NULL;

CREATE TABLE tls_results (
    day      TEXT    NOT NULL,
    domain   TEXT    NOT NULL,
    key      TEXT    NOT NULL, -- hash of policy and result
    policy   TEXT    NOT NULL, -- JSON
    result   TEXT    NOT NULL, -- JSON
    sessions INTEGER NOT NULL,
    PRIMARY KEY (day, domain, key)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE tls_results;
DROP TABLE tls_reports;
