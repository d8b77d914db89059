-- What was redirected is found by its next hop, so that the backlog of one is no
-- obstacle for the others.

-- +goose Up
DROP INDEX deliveries_redirected;
CREATE INDEX deliveries_redirected ON deliveries (next, due, domain) WHERE state < 2 AND next <> '';

-- +goose Down
DROP INDEX deliveries_redirected;
CREATE INDEX deliveries_redirected ON deliveries (due, domain, next) WHERE state < 2 AND next <> '';
