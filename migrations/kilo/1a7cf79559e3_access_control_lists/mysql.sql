-- creator_only: nobody of the project but the creator may read.
--: make table secret_acls
CREATE TABLE secret_acls (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    creator_only TINYINT(1) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_acl_operation_uc UNIQUE (secret_id, operation),
    KEY ix_secret_acls_secret_id (secret_id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;
--: make index ix_secret_acls_secret_id secret_acls(secret_id)
CREATE INDEX ix_secret_acls_secret_id ON secret_acls (secret_id);

--: make table container_acls
CREATE TABLE container_acls (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    container_id VARCHAR(36) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    creator_only TINYINT(1) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _container_acl_operation_uc UNIQUE (container_id, operation),
    KEY ix_container_acls_container_id (container_id),
    FOREIGN KEY (container_id) REFERENCES containers (id)
) ENGINE=InnoDB;
--: make index ix_container_acls_container_id container_acls(container_id)
CREATE INDEX ix_container_acls_container_id ON container_acls (container_id);

--: make table secret_acl_users
CREATE TABLE secret_acl_users (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    acl_id VARCHAR(36) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_acl_user_uc UNIQUE (acl_id, user_id),
    KEY ix_secret_acl_users_acl_id (acl_id),
    FOREIGN KEY (acl_id) REFERENCES secret_acls (id)
) ENGINE=InnoDB;
--: make index ix_secret_acl_users_acl_id secret_acl_users(acl_id)
CREATE INDEX ix_secret_acl_users_acl_id ON secret_acl_users (acl_id);

--: make table container_acl_users
CREATE TABLE container_acl_users (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    acl_id VARCHAR(36) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _container_acl_user_uc UNIQUE (acl_id, user_id),
    KEY ix_container_acl_users_acl_id (acl_id),
    FOREIGN KEY (acl_id) REFERENCES container_acls (id)
) ENGINE=InnoDB;
--: make index ix_container_acl_users_acl_id container_acl_users(acl_id)
CREATE INDEX ix_container_acl_users_acl_id ON container_acl_users (acl_id);

-- Unknown for what is there already.
--: make column containers.creator_id VARCHAR(255) NULL
ALTER TABLE containers ADD COLUMN creator_id VARCHAR(255);
--: make column orders.creator_id VARCHAR(255) NULL
ALTER TABLE orders ADD COLUMN creator_id VARCHAR(255);
--: make column secrets.creator_id VARCHAR(255) NULL
ALTER TABLE secrets ADD COLUMN creator_id VARCHAR(255);
