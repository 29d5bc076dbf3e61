"""What a user asks for: map parameters, class table, presets, and recipes as TOML files."""
