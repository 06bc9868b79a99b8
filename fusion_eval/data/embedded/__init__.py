"""Real image tasks built at run time from data that installed packages ship."""
