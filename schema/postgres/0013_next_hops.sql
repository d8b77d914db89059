-- What was redirected is found by its next hop in either database; here the index
-- is in that order from 0006 on.

-- +goose Up
SELECT 1;

-- +goose Down
SELECT 1;
