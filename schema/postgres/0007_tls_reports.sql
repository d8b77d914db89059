-- How TLS with the MX hosts of other domains fared, for daily reports (RFC 8460).

-- +goose Up
CREATE TABLE tls_reports (
    day       text COLLATE "C" NOT NULL, -- UTC, '2006-01-02'
    domain    text COLLATE "C" NOT NULL,
    first_due timestamptz NOT NULL,
    due_at    timestamptz,               -- NULL once it is over; in the future while a node has it
    token     bigint NOT NULL DEFAULT 0,
    id        text NOT NULL DEFAULT '',
    state     text NOT NULL DEFAULT 'waiting',
    said      text NOT NULL DEFAULT '',
    PRIMARY KEY (day, domain)
);

CREATE INDEX tls_reports_due ON tls_reports (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE tls_results (
    day      text COLLATE "C" NOT NULL,
    domain   text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL, -- hash of policy and result
    policy   text NOT NULL, -- JSON
    result   text NOT NULL, -- JSON
    sessions bigint NOT NULL,
    PRIMARY KEY (day, domain, key)
);

-- +goose Down
DROP TABLE tls_results;
DROP TABLE tls_reports;
