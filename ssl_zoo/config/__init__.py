"""The configuration: its schema, and how it is read, merged and written."""
