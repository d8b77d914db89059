-- By which way an attempt went, and by which one delivery came into doubt: mail
-- that a peer may have taken over XMPP must not go another way unasked.

-- +goose Up
ALTER TABLE deliveries ADD COLUMN way text NOT NULL DEFAULT '', -- of the latest attempt; '' unknown
    ADD COLUMN doubt_way text NOT NULL DEFAULT '';              -- of what in_doubt tells of
ALTER TABLE attempts ADD COLUMN way text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE attempts DROP COLUMN way;
ALTER TABLE deliveries DROP COLUMN way, DROP COLUMN doubt_way;
