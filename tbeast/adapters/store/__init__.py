"""PostgreSQL: connections, migrations, the embedded server, and the SQL of each area."""
