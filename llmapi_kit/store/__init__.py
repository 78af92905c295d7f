"""What outlives the server: sessions and usage, in SQLite or Postgres. Knows neither HTTP nor engines."""
