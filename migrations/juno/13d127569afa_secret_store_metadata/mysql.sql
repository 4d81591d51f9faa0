-- For each secret, which store holds it (key plugin_name) and under what name.
--: make table secret_store_metadata
CREATE TABLE secret_store_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;
