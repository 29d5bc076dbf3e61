"""The store format, once: layout (names and metadata), shard (bytes), guards, writer, reader, verify."""
