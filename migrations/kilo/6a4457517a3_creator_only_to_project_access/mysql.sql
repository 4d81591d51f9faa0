-- creator_only = 1 becomes project_access = 0. Inverted twice, it would publish private secrets. So a new
-- column is filled from the old one, and no statement reads what it writes; the old one goes last.
--
-- Barbican's own step renames the column and then inverts it in place: stopped between the two, it leaves a
-- column of which nobody can tell whether it was inverted. It is open to NULL then, by which it is known here.
--
-- MariaDB and MySQL drop a CHECK on creator_only alone (SQLAlchemy before 1.4 made one) with the column;
-- only MariaDB 10.11 was tried.
--: make column secret_acls.project_access BOOLEAN NULL
ALTER TABLE secret_acls ADD COLUMN project_access TINYINT(1);
--: fill secret_acls.project_access from creator_only
UPDATE secret_acls SET project_access = NOT creator_only;
--: alter column secret_acls.project_access BOOLEAN NOT NULL
ALTER TABLE secret_acls MODIFY project_access TINYINT(1) NOT NULL;
--: drop column secret_acls.creator_only
ALTER TABLE secret_acls DROP COLUMN creator_only;

--: make column container_acls.project_access BOOLEAN NULL
ALTER TABLE container_acls ADD COLUMN project_access TINYINT(1);
--: fill container_acls.project_access from creator_only
UPDATE container_acls SET project_access = NOT creator_only;
--: alter column container_acls.project_access BOOLEAN NOT NULL
ALTER TABLE container_acls MODIFY project_access TINYINT(1) NOT NULL;
--: drop column container_acls.creator_only
ALTER TABLE container_acls DROP COLUMN creator_only;
