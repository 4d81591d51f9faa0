-- NULL for the authorities there are: they belong to everybody.
--: make column certificate_authorities.creator_id VARCHAR(255) NULL
ALTER TABLE certificate_authorities ADD COLUMN creator_id VARCHAR(255);
--: make column certificate_authorities.project_id VARCHAR(36) NULL
ALTER TABLE certificate_authorities ADD COLUMN project_id VARCHAR(36);
--: make reference cas_project_fk certificate_authorities(project_id) projects(id)
ALTER TABLE certificate_authorities ADD CONSTRAINT cas_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
