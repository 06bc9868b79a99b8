"""What a user chooses: found by fusion-eval through the entry point in pyproject.toml."""
