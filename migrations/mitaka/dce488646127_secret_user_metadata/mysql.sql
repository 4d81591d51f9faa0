-- With the index on secret_id, as a fresh installation has it; Barbican's own step forgets it.
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
    KEY ix_secret_user_metadata_secret_id (secret_id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;
--: make index ix_secret_user_metadata_secret_id secret_user_metadata(secret_id)
CREATE INDEX ix_secret_user_metadata_secret_id ON secret_user_metadata (secret_id);
