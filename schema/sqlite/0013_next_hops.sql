-- What was redirected is found by its next hop, and what was not without passing it,
-- so that the backlog of a next hop is no obstacle for others.

-- +goose Up
DROP INDEX deliveries_redirected;
CREATE INDEX deliveries_redirected ON deliveries (next, due, domain) WHERE state < 2 AND next <> '';
DROP INDEX deliveries_waiting;
CREATE INDEX deliveries_waiting ON deliveries (domain, next, due) WHERE state < 2;

-- +goose Down
DROP INDEX deliveries_waiting;
CREATE INDEX deliveries_waiting ON deliveries (domain, due) WHERE state < 2;
DROP INDEX deliveries_redirected;
CREATE INDEX deliveries_redirected ON deliveries (due, domain, next) WHERE state < 2 AND next <> '';
