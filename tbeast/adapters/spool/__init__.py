"""The journal on disk of usage that the database has not taken yet."""
