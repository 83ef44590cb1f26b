"""What is kept on disk in SQLite: the opening of databases, and the journal."""
