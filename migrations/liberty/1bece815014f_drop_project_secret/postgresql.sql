-- secrets.project_id says the same now: proved by the precondition in the same transaction.
--: drop table project_secret
DROP TABLE project_secret;
