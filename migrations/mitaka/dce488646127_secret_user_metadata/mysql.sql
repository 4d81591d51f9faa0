-- The unique serves the reference too, so Barbican's own step makes no index for it, and neither does this
-- one. A fresh installation has one.
--: make table secret_user_metadata
CREATE TABLE secret_user_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_key_uc UNIQUE (secret_id, "key"),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;
