-- The unique serves look-ups by secret_id too, so Barbican's own step makes no index for them, and neither
-- does this one. A fresh installation has one.
--: make table secret_user_metadata
CREATE TABLE secret_user_metadata (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    key VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_key_uc UNIQUE (secret_id, key),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
);
