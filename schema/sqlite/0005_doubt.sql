-- By which way an attempt went, and by which one delivery came into doubt: mail
-- that a peer may have taken over XMPP must not go another way unasked.

-- +goose Up
ALTER TABLE deliveries ADD COLUMN way TEXT NOT NULL DEFAULT ''; -- of the latest attempt; '' unknown
ALTER TABLE deliveries ADD COLUMN doubt_way TEXT NOT NULL DEFAULT ''; -- of what in_doubt tells of
ALTER TABLE attempts ADD COLUMN way TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE attempts DROP COLUMN way;
ALTER TABLE deliveries DROP COLUMN doubt_way;
ALTER TABLE deliveries DROP COLUMN way;
