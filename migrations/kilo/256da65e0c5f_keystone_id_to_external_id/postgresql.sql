-- The length stays 255, as on a fresh installation. (Barbican's own step shortens it to 36 and fails on an
-- id that is longer.)
--: rename column projects.keystone_id external_id
ALTER TABLE projects RENAME COLUMN keystone_id TO external_id;
