-- secrets.project_id says the same now, as a precondition has proved.
--: drop table project_secret
DROP TABLE project_secret;
