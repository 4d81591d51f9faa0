-- secrets.project_id says the same now: proved by the precondition in the same transaction.
DROP TABLE project_secret;
