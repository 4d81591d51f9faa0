-- creator_only = true becomes project_access = false. Inverted twice, it would publish private secrets. So the
-- new column is filled from the old one, which goes last, and no statement reads what it writes: whichever of
-- these is run again, the flags come out the same.
--: make column secret_acls.project_access BOOLEAN NULL
ALTER TABLE secret_acls ADD COLUMN project_access BOOLEAN;
--: fill secret_acls.project_access from secret_acls.creator_only
UPDATE secret_acls SET project_access = NOT creator_only;
--: alter column secret_acls.project_access BOOLEAN NOT NULL
ALTER TABLE secret_acls ALTER COLUMN project_access SET NOT NULL;
--: drop column secret_acls.creator_only
ALTER TABLE secret_acls DROP COLUMN creator_only;

--: make column container_acls.project_access BOOLEAN NULL
ALTER TABLE container_acls ADD COLUMN project_access BOOLEAN;
--: fill container_acls.project_access from container_acls.creator_only
UPDATE container_acls SET project_access = NOT creator_only;
--: alter column container_acls.project_access BOOLEAN NOT NULL
ALTER TABLE container_acls ALTER COLUMN project_access SET NOT NULL;
--: drop column container_acls.creator_only
ALTER TABLE container_acls DROP COLUMN creator_only;
