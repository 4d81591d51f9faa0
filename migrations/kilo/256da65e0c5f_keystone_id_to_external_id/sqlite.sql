-- The length stays 255: the services have always made the column so, and only Barbican's own migrations,
-- which cannot run on SQLite, shortened it to 36.
ALTER TABLE projects RENAME COLUMN keystone_id TO external_id;
