"""A live demo that lives ten minutes: made, tried, announced, and destroyed whatever happens."""
