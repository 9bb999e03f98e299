"""What is reached at AWS: the usage queue, the secret of the database."""
